"""Reading, folding and lowering together, held against Keras itself: a case for each kind of layer and setting."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.folding import fold_affines
from converter.keras_file import read_keras_file
from converter.layers import Activate, Dense, Flatten, GlobalPool, Reduce, Reshape
from converter.lowering import lower
from converter.quantize import dynamic_range
from converter.tflite import checked_operators
from gateway.inference.interpreter import LiteRtInterpreter


def conv(**settings: Any) -> list[Any]:
    from keras import layers

    return [layers.Conv1D(5, 3, **settings), layers.BatchNormalization(), layers.Flatten()]


def lstm(**settings: Any) -> list[Any]:
    from keras import layers

    return [layers.LSTM(5, **settings), layers.BatchNormalization(), layers.Flatten()]


def both_ways(**settings: Any) -> list[Any]:
    from keras import layers

    inner = layers.LSTM(5, **settings)
    return [layers.BatchNormalization(), layers.Bidirectional(inner), layers.BatchNormalization(), layers.Flatten()]


def normalized(**settings: Any) -> list[Any]:
    from keras import layers

    return [layers.BatchNormalization(**settings), layers.Flatten(), layers.BatchNormalization(**settings)]


def dense(**settings: Any) -> list[Any]:
    from keras import layers

    return [layers.Flatten(), layers.Dense(5, **settings), layers.BatchNormalization()]


def two_in_a_row() -> list[Any]:
    from keras import layers

    inner = [layers.LSTM(4, return_sequences=True), layers.LSTM(3, return_sequences=True, use_bias=False)]
    return [*map(layers.Bidirectional, inner), layers.LSTM(6)]


CASES: dict[str, Callable[[], list[Any]]] = {
    "convolution": conv,
    "convolution with stride": lambda: conv(strides=2),
    "convolution with dilation": lambda: conv(dilation_rate=4),
    "convolution without bias": lambda: conv(use_bias=False, activation="relu"),
    "convolution with tanh": lambda: conv(activation="tanh"),
    "convolution with sigmoid": lambda: conv(activation="sigmoid"),
    "LSTM, last output": lstm,
    "LSTM, sequences": lambda: lstm(return_sequences=True),
    "LSTM without bias": lambda: lstm(use_bias=False),
    "bidirectional, last outputs": both_ways,
    "bidirectional, sequences": lambda: both_ways(return_sequences=True),
    "LSTMs in a row": two_in_a_row,
    "normalization first, and of a flat vector": normalized,
    "normalization without scale": lambda: normalized(scale=False),
    "normalization without center": lambda: normalized(center=False, epsilon=0.1),
    "dense with relu": lambda: dense(activation="relu"),
    "dense with tanh": lambda: dense(activation="tanh"),
    "dense with softmax inside": lambda: dense(activation="softmax"),
    "dense without bias": lambda: dense(use_bias=False),
}


def converted(path: Path) -> bytes:
    network = read_keras_file(path).network
    return lower(fold_affines(network.layers), window=network.window, channels=network.channels)


def answers(model: bytes, windows: np.ndarray) -> np.ndarray:
    interpreter = LiteRtInterpreter(model)
    return np.stack([interpreter.run(window[None])[0] for window in windows])


def keras_answers(path: Path, windows: np.ndarray) -> np.ndarray:
    import keras

    return np.asarray(keras.saving.load_model(path, compile=False)(windows, training=False))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_what_keras_says_litert_says(case, save):
    from keras import layers

    path = save([*CASES[case](), layers.Dense(3, activation="softmax")], seed=list(CASES).index(case))
    windows = np.random.default_rng(4).normal(0, 2, (24, 24, 6)).astype(np.float32)
    expected = keras_answers(path, windows)
    assert expected.std(axis=0).max() > 0.003, "the model answers all windows alike: the case shows nothing"
    np.testing.assert_allclose(answers(converted(path), windows), expected, atol=1e-5)
    dynamic = answers(dynamic_range(converted(path)), windows)
    assert np.abs(dynamic - expected).max() < 0.25


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_cell_state_beyond_ten_is_not_clipped(save):
    """TensorFlow's own converter clips every fused cell state at 10, which Keras does not."""
    import keras
    from keras import layers

    path = save([layers.LSTM(4), layers.Dense(3, activation="softmax")], shape=(200, 6))
    model = keras.saving.load_model(path, compile=False)
    kernel, recurrent, bias = model.layers[0].get_weights()
    kernel[:], recurrent[:] = 0, 0
    kernel[0, 8:12] = [0.3, -0.3, 0.4, -0.4]  # the cell adds up the first channel
    bias[:] = [9.0] * 8 + [0.0] * 4 + [3.0] * 4  # with its gates open and nothing forgotten
    model.layers[0].set_weights([kernel, recurrent, bias])
    model.save(path)
    windows = np.zeros((8, 200, 6), np.float32)
    windows[:, :100, 0] = 1  # up, beyond ten, and then down again to where the output is not saturated
    windows[:, 100:, 0] = -np.linspace(0.9, 1.1, 8)[:, np.newaxis]
    cell = layers.LSTMCell(4)
    cell.build((None, 6))
    cell.set_weights(model.layers[0].get_weights())
    *_, state = layers.RNN(cell, return_state=True)(windows[:, :100])
    assert np.abs(np.asarray(state)).min() > 20
    np.testing.assert_allclose(answers(converted(path), windows), keras_answers(path, windows), atol=1e-5)


def test_the_reference_architecture_takes_builtins_only(reference_keras):
    """Four fused LSTMs, two of them between reversals, and nothing that an edge runtime would not carry."""
    expected = {
        "CONCATENATION": 2,
        "CONV_2D": 2,
        "FULLY_CONNECTED": 2,
        "RESHAPE": 5,
        "REVERSE_V2": 4,
        "SOFTMAX": 1,
        "UNIDIRECTIONAL_SEQUENCE_LSTM": 4,
    }
    exact = converted(reference_keras)
    dynamic = dynamic_range(exact)
    assert checked_operators(exact) == checked_operators(dynamic) == expected
    assert len(exact) < 2_010_000
    assert len(dynamic) < 520_000


@pytest.mark.parametrize(
    ("steps", "pool"), [(1000, GlobalPool("average")), (500, Reduce("sum", (0,))), (37, Reduce("mean", (0, 1)))]
)
def test_a_long_mean_is_as_near_as_float32_can_tell(steps, pool):
    """Of sequences that stand still, where adding up one after the other rounds to the same side each time."""
    windows = np.random.default_rng(6).uniform(5, 10, (20, 1, 6)).astype(np.float32) * np.ones(
        (1, steps, 1), np.float32
    )
    width = 1 if pool == Reduce("mean", (0, 1)) else 6
    head = [Reshape((width,)), Dense(np.eye(width), np.zeros(width), "linear"), Activate("softmax")]
    model = LiteRtInterpreter(lower([pool, *head], window=steps, channels=6))
    found = np.stack([model.run(window[None])[1] for window in windows])
    exact = windows.astype(np.float64).mean(axis=(1, 2) if width == 1 else 1).reshape(20, width)
    exact = exact * steps if pool == Reduce("sum", (0,)) else exact
    np.testing.assert_allclose(found, exact, rtol=1e-6)


def test_the_same_layers_make_the_same_bytes(small_keras):
    exact = converted(small_keras)
    assert exact == converted(small_keras)
    assert dynamic_range(exact) == dynamic_range(exact)


def test_a_network_without_softmax_at_the_end_is_a_mistake_of_the_caller():
    with pytest.raises(ValueError, match="last layer must be softmax"):
        lower([Flatten(2)], window=2, channels=1)
    head = Dense(np.ones((2, 2)), np.zeros(2), "relu")
    with pytest.raises(ValueError, match="last layer must be softmax"):
        lower([Flatten(2), head], window=2, channels=1)
