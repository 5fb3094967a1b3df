import numpy as np
import pytest

from converter.errors import ConversionFailed
from converter.parity import (
    compare,
    keras_probabilities,
    random_windows,
    require_float_parity,
    require_isolation,
    variant_probabilities,
)
from converter.training_config import TrainingConfig
from gateway.inference.interpreter import LiteRtInterpreter

CONFIG = TrainingConfig(
    mean=(3.2, 1.3, -3.5, 0.6, 0.2, 0.1),
    scale=(6.6, 4.4, 3.2, 49.9, 14.8, 14.2),
    labels=("a", "b"),
    hop=100,
    rate_hz=50.0,
    sha256="0" * 64,
)


def test_random_windows_range_far_beyond_the_training_s_and_also_rest():
    windows = random_windows(1000, window=200, config=CONFIG, seed=1)
    assert (windows.shape, windows.dtype) == ((1000, 200, 6), np.float32)
    scaled = (windows - np.array(CONFIG.mean)) / np.array(CONFIG.scale)
    farthest = np.abs(scaled).max(axis=(1, 2))
    assert np.quantile(farthest, 0.1) > 1.5
    assert (farthest > 10).mean() > 0.1
    assert farthest.max() > 30
    still = scaled.std(axis=1).min(axis=1)
    assert (still < 0.1).mean() > 0.1
    assert (np.abs(np.median(scaled, axis=(0, 1))) < 0.3).all()


def test_random_windows_are_those_of_their_seed():
    first, again, other = (random_windows(3, window=20, config=CONFIG, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_keras_answers_whatever_its_layers_are_called(tmp_path):
    import keras
    from keras import layers

    window = keras.Input((8, 6), name="Fenster (roh)")
    recurrent = layers.Bidirectional(layers.LSTM(2, name="_l s"), name="hin & zurück")(window)
    model = keras.Model(window, layers.Dense(2, activation="softmax", name="p: %")(recurrent), name="_Größe 2")
    model.save(tmp_path / "m.keras")
    windows = random_windows(3, window=8, config=CONFIG, seed=1)
    scaled = ((windows - np.array(CONFIG.mean)) / np.array(CONFIG.scale)).astype(np.float32)
    eager = model(scaled).numpy()
    np.testing.assert_allclose(keras_probabilities(tmp_path / "m.keras", windows, CONFIG), eager, atol=1e-5)


def test_parity_figures():
    reference = np.array([[0.6, 0.4], [0.6, 0.4], [0.1, 0.9], [0.5, 0.5]], np.float32)
    ours = np.array([[0.6, 0.4], [0.4, 0.6], [0.1, 0.9], [0.52, 0.48]], np.float32)
    figures = compare(ours, reference, seed=7)
    assert (figures.windows, figures.seed, figures.top1_agreement) == (4, 7, 0.75)
    assert figures.dp_max == pytest.approx(0.2, rel=1e-2)
    assert figures.dp_mean == pytest.approx((0.2 + 0.02) / 4, rel=1e-2)
    assert 0.19 < figures.dp_p99 <= 0.2


def test_a_float_model_that_differs_fails():
    reference = np.array([[0.6, 0.4], [0.50002, 0.49998]], np.float32)
    require_float_parity(reference + np.array([9e-5, -9e-5], np.float32), reference)
    near_tie = np.array([[0.6, 0.4], [0.49999, 0.50001]], np.float32)
    require_float_parity(near_tie, reference)
    with pytest.raises(ConversionFailed, match=r"on 0 of 2 windows \(extremes\), max \|dp\| 0.0002 \(at") as caught:
        require_float_parity(reference + np.array([2e-4, -2e-4], np.float32), reference, where="extremes")
    assert caught.value.exit_code == 1
    with pytest.raises(ConversionFailed, match="another top class on 1 of 2 windows"):
        require_float_parity(near_tie, reference, tolerance=2e-5)
    with pytest.raises(ConversionFailed):
        require_float_parity(np.full((2, 2), np.nan, np.float32), reference)


def test_near_ties_and_the_worst_class_are_told_apart():
    """300 windows of each class; of the second one 30 get another top class, 10 of them near ties."""
    reference = np.tile(np.array([[0.9, 0.1], [0.1, 0.9]], np.float32), (300, 1))
    reference[1:20:2] = [0.48, 0.52]
    ours = reference.copy()
    ours[1:60:2] = [0.6, 0.4]
    figures = compare(ours, reference, seed=1, labels=["a", "b"])
    assert figures.top1_agreement == pytest.approx(570 / 600)
    assert (figures.clear_windows, figures.clear_agreement) == (590, pytest.approx(570 / 590))
    assert (figures.worst_class, figures.worst_class_windows, figures.worst_class_agreement) == ("b", 300, 0.9)


def test_a_class_that_keras_seldom_names_is_not_judged():
    reference = np.tile(np.array([[0.9, 0.1]], np.float32), (300, 1))
    reference[:199] = [0.1, 0.9]
    assert compare(reference, reference, seed=1, labels=["a", "b"]).worst_class is None
    reference[199] = [0.1, 0.9]
    assert compare(reference, reference, seed=1, labels=["a", "b"]).worst_class == "b"


def test_a_variant_answers_on_all_cores_as_window_by_window(small_float):
    windows = random_windows(120, window=24, config=CONFIG, seed=1)
    told: list[tuple[int, int]] = []
    answers = variant_probabilities(small_float, windows, advanced=lambda done, total: told.append((done, total)))
    interpreter = LiteRtInterpreter(small_float)
    np.testing.assert_array_equal(answers, [interpreter.run(window[None])[0] for window in windows])
    assert told == [(50, 120), (100, 120), (120, 120)]


def test_answers_that_hold_something_of_the_window_before_are_refused(small_float):
    """As a runtime gives them that does not reset the LSTMs' state between windows."""
    windows = random_windows(40, window=24, config=CONFIG, seed=2)
    apart = variant_probabilities(small_float, windows)
    require_isolation("float32", lambda some: variant_probabilities(small_float, some), windows, apart)
    leaking = LiteRtInterpreter(small_float)
    leaking._litert.reset_all_variables()
    answers = []
    for window in windows:
        leaking._litert.set_tensor(leaking._input, window[None])
        leaking._litert.invoke()
        answers.append(leaking._litert.get_tensor(leaking._probabilities)[0])
    with pytest.raises(
        ConversionFailed, match="the float32 variant answers 39 of 40 windows otherwise after other"
    ) as it:
        require_isolation("float32", lambda some: variant_probabilities(small_float, some), windows, np.array(answers))
    assert it.value.exit_code == 1
