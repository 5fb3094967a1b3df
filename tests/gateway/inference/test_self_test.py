import json
from dataclasses import replace

import numpy as np
import pytest

from converter.self_test import (
    FLOAT_TOLERANCE,
    HYBRID_TOLERANCE,
    SELF_TEST_FILE,
    self_test_answers,
    self_test_file,
    self_test_windows,
)
from converter.training_config import TrainingConfig
from gateway.bundle import BundleRejected, Manifest, load_bundle, write_bundle
from gateway.bundle.writing import member
from gateway.inference import Predictor, SelfTestFailed, load_predictor, self_test
from gateway.inference.interpreter import LiteRtInterpreter

CONFIG = TrainingConfig((0,) * 6, (1,) * 6, ("sitting", "smoking", "nail_biting"), 20, 50.0, "0" * 64)


@pytest.fixture(scope="module")
def random_windows():
    rng = np.random.default_rng(9)
    return (np.cumsum(rng.normal(size=(200, 40, 6)), axis=1) * 0.5).astype(np.float32)


@pytest.fixture(scope="module")
def chosen(random_windows, models):
    reference = np.array([LiteRtInterpreter(models["float32"]).run(w[None])[0] for w in random_windows])
    return self_test_windows(random_windows, reference, CONFIG)


@pytest.fixture
def tested_bundle(tmp_path, small_bundle, models, chosen):
    """tested_bundle(content=...): the small bundle with a self-test, or with other bytes for one."""

    def make(content=None):
        content = self_test_file(chosen) if content is None else content
        answers, tolerance = self_test_answers(chosen, models)
        test = {**member(SELF_TEST_FILE, content).model_dump(), "probabilities": answers, "tolerance": tolerance}
        manifest = Manifest.model_validate(small_bundle.manifest.model_dump() | {"self_test": test})
        files = {
            item.file: (small_bundle.path / item.file).read_bytes() for item in small_bundle.manifest.members().values()
        }
        return write_bundle(tmp_path / "tested", manifest, files | {SELF_TEST_FILE: content})

    return make


def test_every_variant_answers_as_where_it_was_made(tested_bundle):
    bundle = tested_bundle()
    for variant, tolerance in (("float32", FLOAT_TOLERANCE), ("dynamic", HYBRID_TOLERANCE)):
        done = self_test(load_predictor(bundle, variant), bundle, variant)
        assert (done.windows, done.tolerance) == (12, tolerance)
        assert done.dp_max < 1e-5
    assert self_test(load_predictor(bundle), bundle) == self_test(load_predictor(bundle, "float32"), bundle, "float32")


def test_a_bundle_without_one_says_so(small_bundle):
    assert self_test(load_predictor(small_bundle), small_bundle) is None
    with pytest.raises(BundleRejected, match="self_test: found none"):
        small_bundle.self_test_windows()


class _KeepsItsState(LiteRtInterpreter):
    def run(self, window):
        self._litert.reset_all_variables = lambda: None
        return super().run(window)


def test_a_runtime_that_keeps_its_state_between_windows_fails(tested_bundle, models):
    bundle = tested_bundle()
    for variant in ("float32", "dynamic"):
        shape = {"window": 40, "channels": bundle.manifest.channels, "labels": bundle.manifest.labels}
        keeps = Predictor(_KeepsItsState(models[variant]), **shape)
        with pytest.raises(SelfTestFailed, match=rf"variant {variant}: self-test window \d+: a probability is off"):
            self_test(keeps, bundle, variant)


def test_another_model_fails(tested_bundle, models):
    bundle = tested_bundle()
    with pytest.raises(SelfTestFailed) as caught:
        self_test(load_predictor(bundle, "dynamic"), bundle, "float32")
    assert (caught.value.exit_code, "cannot be trusted here" in caught.value.hint) == (1, True)


def test_the_choice_holds_each_class_that_is_clear_and_both_ends_of_the_range(chosen, models, random_windows):
    answers = np.array([LiteRtInterpreter(models["float32"]).run(w[None])[0] for w in random_windows])
    best = np.sort(answers, axis=1)
    clear = set(answers[best[:, -1] - best[:, -2] >= 0.2].argmax(axis=1))
    of_chosen = np.array([LiteRtInterpreter(models["float32"]).run(w[None])[0] for w in chosen]).argmax(axis=1)
    assert clear <= set(of_chosen)
    assert (chosen.max(), chosen.min()) == (2000, -2000)
    assert len(np.unique(chosen.reshape(len(chosen), -1), axis=0)) == len(chosen)


def test_the_ends_of_the_range_are_those_of_each_channel(random_windows):
    """In another order and with a sensor that nobody knows: about its mean, 32 of its standard deviations."""
    config = replace(
        CONFIG,
        mean=(0.0, 0.0, 0.0, 0.0, 0.0, 1013.0),
        scale=(1, 1, 1, 1, 1, 4),
        channels=("Gx", "Az", "Ay", "Gy", "Ax", "p"),
    )
    reference = np.full((len(random_windows), 2), 0.5)  # nothing is clear: the extremes alone
    high, rest, low, silence = self_test_windows(random_windows, reference, config)[:, 0]
    g = 9.80665
    np.testing.assert_allclose(high, [2000, 16 * g, 16 * g, 2000, 16 * g, 1013 + 128], rtol=1e-6)
    np.testing.assert_allclose(low, [-2000, -16 * g, -16 * g, -2000, -16 * g, 1013 - 128], rtol=1e-6)
    np.testing.assert_allclose(rest, [0, g, 0, 0, 0, 1013], rtol=1e-6)
    assert not silence.any()


BROKEN = [b"", b"no array", b"\x93NUMPY\x01\x00", np.lib.format.MAGIC_PREFIX + bytes(200)]


@pytest.mark.parametrize("content", BROKEN)
def test_what_is_no_array_is_refused(content, tested_bundle):
    bundle = tested_bundle(content)
    with pytest.raises(BundleRejected, match="self_test: found no"):
        self_test(load_predictor(bundle), bundle)


@pytest.mark.parametrize("change", [lambda w: w[:-1], lambda w: w.astype(np.float64), lambda w: w * np.float32("nan")])
def test_an_array_of_another_kind_is_refused(change, tested_bundle, chosen, tmp_path):
    np.save(tmp_path / "x.npy", change(chosen))
    bundle = tested_bundle((tmp_path / "x.npy").read_bytes())
    with pytest.raises(BundleRejected, match=r"self_test: found float.*expected finite float32 \(12, 40, 6\)"):
        self_test(load_predictor(bundle), bundle)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda test: test["probabilities"].pop("dynamic"), "for every variant"),
        (lambda test: test["tolerance"].pop("dynamic"), "for every variant"),
        (lambda test: test["probabilities"]["dynamic"].pop(), "the same number of windows"),
        (lambda test: test["probabilities"]["dynamic"][0].pop(), "one probability for each of the 3 labels"),
        (lambda test: test["tolerance"].update(dynamic=0), "greater than 0"),
    ],
)
def test_a_self_test_that_does_not_fit_its_bundle_is_refused(change, words, tested_bundle):
    content = json.loads(tested_bundle().manifest.model_dump_json())
    change(content["self_test"])
    with pytest.raises(ValueError, match=words):
        Manifest.model_validate_json(json.dumps(content))


def test_a_changed_self_test_is_seen(tested_bundle):
    bundle = tested_bundle()
    file = bundle.path / SELF_TEST_FILE
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(BundleRejected, match=r"self_test\.sha256"):
        load_bundle(bundle.path)
