import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converter.layers import Dense, Flatten
from converter.lowering import lower
from converter.quantize import dynamic_range
from gateway.bundle import BundleRejected
from gateway.errors import GatewayError
from gateway.inference import Predictor, WindowsRejected, load_predictor
from gateway.inference.interpreter import LiteRtInterpreter
from gateway.motion.samples import CHANNELS

VARIANTS = ["float32", "dynamic"]


@pytest.fixture(scope="module")
def predictors(small_bundle) -> dict[str, Predictor]:
    return {name: load_predictor(small_bundle, name) for name in VARIANTS}


def varied_windows() -> np.ndarray:
    """Rest, walks, one that drives every gate into saturation either way, silence: (12, 40, 6), float32."""
    rng = np.random.default_rng(5)
    walks = np.cumsum(rng.normal(size=(8, 40, 6)), axis=1) * np.geomspace(0.01, 30, 8)[:, None, None]
    extremes = [np.full((40, 6), value) for value in (0.0, 9.81, 1e6, -1e6)]
    return np.concatenate([walks, extremes]).astype(np.float32)


@pytest.fixture(scope="module")
def alone(small_bundle) -> dict[str, np.ndarray]:
    """What each window gets from an interpreter that has never seen another."""
    return {
        name: np.concatenate([load_predictor(small_bundle, name).predict(window[None]) for window in varied_windows()])
        for name in VARIANTS
    }


@pytest.mark.parametrize("variant", VARIANTS)
@settings(max_examples=50, deadline=None)
@given(order=st.lists(st.integers(0, 11), min_size=1, max_size=12))
def test_a_window_s_answer_never_depends_on_those_before_it(variant, order, predictors, alone):
    """Any order, repetitions, after saturating windows: the same bits as from a fresh interpreter."""
    answers = predictors[variant].predict(varied_windows()[order])
    np.testing.assert_array_equal(answers, alone[variant][order])


def test_windows_of_several_threads_do_not_mix(predictors, alone):
    windows, predictor = varied_windows(), predictors["float32"]
    wrong: list[int] = []

    def ask(seed: int) -> None:
        for i in np.random.default_rng(seed).integers(0, 12, 200):
            if not np.array_equal(predictor.predict(windows[i : i + 1])[0], alone["float32"][i]):
                wrong.append(int(i))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_window_gets_a_distribution(variant, predictors):
    outputs = predictors[variant].outputs(varied_windows())
    assert outputs.probabilities.dtype == outputs.logits.dtype == np.float32
    assert outputs.probabilities.shape == outputs.logits.shape == (12, 3)
    np.testing.assert_allclose(outputs.probabilities.sum(axis=1), 1, atol=1e-6)
    assert (outputs.probabilities >= 0).all()
    assert predictors[variant].predict(np.empty((0, 40, 6))).shape == (0, 3)


def test_windows_may_come_in_any_layout_and_number_type(predictors):
    windows = np.round(varied_windows()[:4])
    expected = predictors["float32"].predict(windows)
    strided = np.asfortranarray(windows.repeat(2, axis=1))[:, ::2]
    for same in (windows.astype(np.float64), windows.astype(np.int16), windows.tolist(), strided):
        np.testing.assert_array_equal(predictors["float32"].predict(same), expected)


def changed(at: tuple[int, int, int], value: float) -> np.ndarray:
    windows = varied_windows().astype(np.float64)
    windows[at] = value
    return windows


REFUSED = [  # what it shows, windows, the message
    ("one window", varied_windows()[0], "windows have the shape (40, 6), expected (n, 40, 6)"),
    ("too few channels", varied_windows()[:, :, :5], "windows have the shape (12, 40, 5), expected (n, 40, 6)"),
    ("too short", varied_windows()[:, 1:], "windows have the shape (12, 39, 6), expected (n, 40, 6)"),
    ("nothing", [], "windows have the shape (0,), expected (n, 40, 6)"),
    ("text", np.full((1, 40, 6), "9.81"), "windows hold <U4, expected float32"),
    ("complex", np.zeros((1, 40, 6), complex), "windows hold complex128, expected float32"),
    ("NaN", changed((3, 17, 3), np.nan), "window 3, sample 17: Gx is nan, which is no finite float32"),
    ("infinity", changed((0, 0, 2), -np.inf), "window 0, sample 0: Az is -inf, which is no finite float32"),
    ("beyond float32", changed((11, 39, 5), 1e39), "window 11, sample 39: Gz is 1e+39, which is no finite float32"),
]


@pytest.mark.parametrize(("shows", "windows", "message"), REFUSED, ids=[row[0] for row in REFUSED])
def test_what_the_model_cannot_be_asked_about_is_refused(shows, windows, message, predictors, alone):
    with pytest.raises(WindowsRejected) as caught:
        predictors["float32"].predict(windows)
    assert str(caught.value) == message
    assert caught.value.exit_code == 2
    np.testing.assert_array_equal(predictors["float32"].predict(varied_windows()), alone["float32"])


def test_an_answer_that_overflows_is_no_answer():
    """Finite values whose sum is not: a dense layer alone has no gate that would saturate."""
    layers = [Flatten(40), Dense(np.ones((240, 2)), np.zeros(2), "softmax")]
    model = lower(layers, window=40, channels=6)
    predictor = Predictor(LiteRtInterpreter(model), window=40, channels=CHANNELS, labels=("a", "b"))
    windows = np.stack([np.ones((40, 6)), np.tile([3e38, -3e38], (40, 3))])
    message = r"window 1 is beyond what float32 can compute: values up to 3e\+38"
    with pytest.raises(WindowsRejected, match=message):
        predictor.predict(windows)


def test_the_bundle_s_default_is_taken_unless_another_is_named(write_small, models):
    bundle = write_small(default_variant="dynamic")
    default, named = load_predictor(bundle), load_predictor(bundle, "dynamic")
    windows = varied_windows()
    np.testing.assert_array_equal(default.predict(windows), named.predict(windows))
    assert not np.array_equal(default.predict(windows), load_predictor(bundle, "float32").predict(windows))
    with pytest.raises(BundleRejected, match="variant: found int4, expected one of"):
        load_predictor(bundle, "int4")


def test_a_bundle_whose_model_does_not_fit_its_manifest_is_refused(write_small):
    with pytest.raises(BundleRejected, match=r"variants\.float32: input: found \(1, 40, 6\), expected \(1, 41, 6\)"):
        load_predictor(write_small(window=41))


def test_a_bundle_with_a_label_too_many_is_refused(write_small):
    with pytest.raises(BundleRejected, match=r"variants\.float32: number of outputs: found 3, expected 4"):
        load_predictor(write_small(labels=["a", "b", "c", "d"]))


def test_a_file_that_is_no_model_is_refused(write_small, models):
    with pytest.raises(BundleRejected, match="expected a model that LiteRT runs"):
        load_predictor(write_small(models=models | {"float32": b"no flatbuffer at all"}))


def test_without_the_runtime_the_way_to_get_it_is_said(small_bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(GatewayError, match="LiteRT cannot be loaded") as caught:
        load_predictor(small_bundle)
    assert "64-bit" in caught.value.hint


@pytest.mark.real_data
def test_the_real_model_s_answers_do_not_depend_on_the_windows_before(real_data, tmp_path):
    """Windows far beyond the training's range, in three orders and each alone in a fresh interpreter."""
    from converter.folding import fold_affines
    from converter.keras_file import read_keras_file
    from converter.parity import random_windows
    from converter.training_config import read_training_config

    network = read_keras_file(real_data / "model" / "pretrained_1dcnn_bilstm.keras").network
    config = read_training_config(real_data / "model" / "config.json", window=200, channels=6, classes=11)
    folded = fold_affines([config.scaler(), *network.layers])
    windows = random_windows(60, window=200, config=config, seed=11)
    windows[:3] = [[[0.0]], [[1e5]], [[-1e5]]]
    rng = np.random.default_rng(12)
    exact = lower(folded, window=200, channels=6)
    for model in (exact, dynamic_range(exact)):

        def fresh(model: bytes = model) -> Predictor:
            return Predictor(
                LiteRtInterpreter(model),
                window=200,
                channels=("Ax", "Ay", "Az", "Gx", "Gy", "Gz"),
                labels=config.labels,
            )

        expected = np.concatenate([fresh().predict(window[None]) for window in windows])
        shared = fresh()
        for order in (np.arange(60), np.arange(60)[::-1], rng.integers(0, 60, 100)):
            np.testing.assert_array_equal(shared.predict(windows[order]), expected[order])
