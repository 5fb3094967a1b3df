"""Which runtimes a variant says that it runs in, held against the older runtime itself, operator by operator."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.folding import fold_affines
from converter.gate import LITERT, TFLITE_RUNTIME, runtimes_of
from converter.keras_file import read_keras_file
from converter.lowering import lower
from converter.quantize import Storage, dynamic_range, weights_of, with_storage
from gateway.inference.interpreter import LiteRtInterpreter

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

REPOSITORY = Path(__file__).resolve().parents[2]
WINDOW, CHANNELS = 32, 6

ASK = """
import json, sys
from pathlib import Path
import numpy as np
from gateway.inference.interpreter import LiteRtInterpreter
folder, refused, answers = Path(sys.argv[1]), {}, {}
windows = np.load(folder / "windows.npy")
for file in sorted(folder.glob("*.tflite")):
    try:
        interpreter = LiteRtInterpreter(file.read_bytes())
        answers[file.stem] = np.stack([interpreter.run(window[None])[0] for window in windows])
    except (ValueError, RuntimeError) as error:
        refused[file.stem] = str(error)
np.savez(folder / "answers.npz", **answers)
assert "tflite_runtime.interpreter" in sys.modules
print(json.dumps(refused))
"""


def _recurrent() -> list[Any]:
    from keras import layers

    return [
        layers.Conv1D(16, 3, activation="relu"),
        layers.BatchNormalization(),
        layers.Bidirectional(layers.LSTM(24, return_sequences=True)),
        layers.LSTM(24, go_backwards=True),
        layers.Dense(32, activation="tanh"),
    ]


def _gated() -> list[Any]:
    from keras import layers

    return [
        layers.GRU(24, return_sequences=True),
        layers.LayerNormalization(),
        layers.SimpleRNN(24, return_sequences=True),
        layers.TimeDistributed(layers.Dense(32, activation="gelu")),
        layers.GlobalMaxPooling1D(),
    ]


def _separable() -> list[Any]:
    from keras import layers

    return [
        layers.SeparableConv1D(32, 5, dilation_rate=2, activation="silu"),
        layers.DepthwiseConv1D(3, strides=2, activation="elu"),
        layers.BatchNormalization(),
        layers.AveragePooling1D(2),
        layers.Flatten(),
        layers.Dense(24, activation="leaky_relu"),
    ]


def _pooled() -> list[Any]:
    from keras import layers

    return [
        layers.Conv1D(24, 5, padding="causal", dilation_rate=3, activation="selu"),
        layers.MaxPooling1D(3, padding="same"),
        layers.Conv1D(24, 3, strides=2, padding="same", activation="hard_sigmoid"),
        layers.ZeroPadding1D(2),
        layers.UpSampling1D(2),
        layers.Cropping1D(1),
        layers.GlobalAveragePooling1D(),
        layers.Dense(32, activation="softplus"),
    ]


def _attention() -> list[Any]:
    import keras
    from keras import layers

    sequence = keras.Input((WINDOW, 24))
    attended = layers.MultiHeadAttention(3, 8)(sequence, sequence, use_causal_mask=True)
    attended = layers.LayerNormalization()(sequence + attended)
    looked_up = layers.Attention()([attended, sequence])
    return [
        layers.Conv1D(24, 3, padding="same", activation="relu"),
        keras.Model(sequence, layers.Concatenate()([attended, looked_up])),
        layers.GlobalAveragePooling1D(),
    ]


def _images() -> list[Any]:
    from keras import layers

    return [
        layers.Reshape((WINDOW, CHANNELS, 1)),
        layers.Conv2D(24, (5, 3), padding="same", activation="relu"),
        layers.BatchNormalization(),
        layers.MaxPooling2D((2, 1)),
        layers.DepthwiseConv2D((3, 3), depth_multiplier=2),
        layers.SeparableConv2D(32, (3, 2), strides=2, activation="relu6"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(32, activation="relu"),
    ]


STACKS = [_recurrent, _gated, _separable, _pooled, _attention, _images]


@pytest.mark.parametrize("layers", STACKS, ids=lambda layers: layers.__name__[1:])
def test_a_variant_runs_where_it_says_and_nowhere_else(
    layers: Callable[[], list[Any]], save: Callable[..., Path], tflite_runtime_python: Path, tmp_path: Path
) -> None:
    from keras.layers import Dense

    network = read_keras_file(save([*layers(), Dense(5, activation="softmax")], shape=(WINDOW, CHANNELS))).network
    exact = lower(fold_affines(network.layers), window=WINDOW, channels=CHANNELS)
    weights = weights_of(exact)
    models = {"float32": exact, "dynamic": dynamic_range(exact)}
    for storage in (Storage.FLOAT16, Storage.INT8, Storage.HYBRID):
        plan = {weight.name: storage for weight in weights if storage in weight.choices}
        assert plan, f"no weight can be {storage}"
        models[str(storage)] = with_storage(exact, plan)
    for name, content in models.items():
        (tmp_path / f"{name}.tflite").write_bytes(content)
    windows = np.random.default_rng(3).normal(0, 2, (6, WINDOW, CHANNELS)).astype(np.float32)
    np.save(tmp_path / "windows.npy", windows)
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([tflite_runtime_python, "-c", ASK, tmp_path], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    refused = json.loads(done.stdout)
    claimed = {name for name, content in models.items() if TFLITE_RUNTIME in runtimes_of(content)}
    assert claimed == set(models) - set(refused), refused
    assert "float32" in claimed
    assert all(LITERT in runtimes_of(content) for content in models.values())
    with np.load(tmp_path / "answers.npz") as answers:
        for name in claimed:
            interpreter = LiteRtInterpreter(models[name])
            expected = np.stack([interpreter.run(window[np.newaxis])[0] for window in windows])
            assert np.abs(answers[name] - expected).max() <= (0.05 if name in ("dynamic", "hybrid") else 1e-4), name
