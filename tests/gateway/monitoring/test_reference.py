import numpy as np
import pytest

from gateway.bundle.manifest import FeatureReference
from gateway.monitoring.drift import DriftPeriod, DriftSettings, Reference
from gateway.monitoring.features import FEATURES, window_features
from gateway.monitoring.reference import drift_reference


def walks(count, offset=0.0):
    rng = np.random.default_rng(4)
    return (offset + np.cumsum(rng.normal(size=(count, 50, 6)), axis=1)).astype(np.float32)


def test_each_feature_is_summarised_over_all_windows():
    windows = walks(300)
    reference = drift_reference(windows)
    assert tuple(reference) == FEATURES
    ax = windows[:, :, 0].astype(np.float64).mean(axis=1)
    entry = reference["Ax_mean_m_s2"]
    assert (entry.count, entry.of) == (300, "windows")
    assert (entry.min, entry.max, entry.mean, entry.std) == pytest.approx((ax.min(), ax.max(), ax.mean(), ax.std()))
    for q, value in entry.quantiles:
        assert np.mean(ax <= value) == pytest.approx(q, abs=0.005)


def period(windows):
    made = DriftPeriod(DriftSettings())
    for window in windows:
        made.add(window_features(window))
    return made


def test_the_windows_themselves_have_not_drifted_and_others_have():
    windows = walks(300)
    reference = {name: Reference.of(entry.model_dump()) for name, entry in drift_reference(windows).items()}
    same = period(windows).summary(0.0, reference).features["Ax_mean_m_s2"]
    assert same.shift == pytest.approx(0, abs=1e-6)
    assert same.distance < 0.02
    moved = period(walks(300, offset=30)).summary(0.0, reference).features["Ax_mean_m_s2"]
    assert moved.shift > 4
    assert moved.distance > 0.9


def test_of_samples_only_the_shift_of_the_mean_is_told():
    entry = FeatureReference(of="samples", count=9, mean=1, std=2, min=-5, max=7, quantiles=((0.5, 1.0),))
    reference = {"Ax_mean_m_s2": Reference.of(entry.model_dump())}
    summary = period(walks(3)).summary(0.0, reference).features["Ax_mean_m_s2"]
    assert summary.distance is None
    assert summary.shift == pytest.approx((summary.mean - 1) / 2)
