from pathlib import Path

import numpy as np
import pytest

from firmware_sim.synthesis import ACTIVITIES
from gateway.bundle import Bundle, load_bundle
from gateway.inference import load_predictor
from gateway.monitoring.features import FEATURES
from gateway.monitoring.reference import DriftReference
from models.make_demo import BUNDLE, HELD_OUT_SEED, HELD_OUT_WEARERS, SEGMENTS, TRAINING_SEED, TRAINING_WEARERS
from models.model_card import FIRST_LINE, accuracy_of
from models.training_data import labelled_windows


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle(BUNDLE)


def test_it_speaks_of_the_activities_that_the_simulator_plays(bundle):
    manifest = bundle.manifest
    assert manifest.labels == ACTIVITIES
    assert (manifest.window, manifest.hop, manifest.rate_hz) == (200, 100, 50.0)
    assert manifest.frame == "x,y,z"
    assert set(manifest.variants) == {"float32", "dynamic"}
    assert manifest.variants["float32"].parity.top1_agreement == 1
    assert manifest.variants["float32"].parity.dp_max <= 1e-4


def test_its_card_says_first_what_it_is_not(bundle):
    assert (BUNDLE / bundle.manifest.model_card.file).read_text().splitlines()[0] == FIRST_LINE


def test_it_is_small(bundle):
    assert sum(path.stat().st_size for path in Path(bundle.path).iterdir()) < 4_000_000


def test_no_wearer_is_on_both_sides():
    assert not set(TRAINING_WEARERS) & set(HELD_OUT_WEARERS)
    assert not set(range(TRAINING_SEED, TRAINING_SEED + SEGMENTS)) & set(range(HELD_OUT_SEED, HELD_OUT_SEED + SEGMENTS))


def test_it_recognises_held_out_wearers_as_its_card_says(bundle):
    held_out = labelled_windows(HELD_OUT_WEARERS, seed=HELD_OUT_SEED, segments=SEGMENTS)
    some = np.arange(0, len(held_out.labels), 4)  # 594 windows: standard error of the share 1 %
    answers = load_predictor(bundle).predict(held_out.windows[some]).argmax(axis=1)
    stated = accuracy_of(BUNDLE / "model_card.md")
    assert (answers == held_out.labels[some]).mean() == pytest.approx(stated, abs=0.03)
    assert stated > 0.85


def test_its_drift_reference_is_that_of_its_training_windows(bundle):
    """Of the first wearers: the whole would take longer, and a reference of other data would be off by far more."""
    reference = bundle.manifest.drift_reference
    assert tuple(reference) == FEATURES
    windows = labelled_windows(TRAINING_WEARERS[:8], seed=TRAINING_SEED, segments=SEGMENTS).windows
    some = DriftReference.of_windows(windows).features
    for name, whole in reference.items():
        assert some[name].min >= whole.min - 1e-9
        assert some[name].max <= whole.max + 1e-9
        assert some[name].mean == pytest.approx(whole.mean, abs=whole.std / 3)
