import numpy as np
import pytest
from datasketches import kll_floats_sketch

from gateway.bundle.manifest import FeatureReference
from gateway.monitoring.drift import DriftPeriod, DriftSettings, Reference
from gateway.monitoring.features import FEATURES, window_features
from gateway.monitoring.reference import DriftReference


def walks(count, offset=0.0):
    rng = np.random.default_rng(4)
    return (offset + np.cumsum(rng.normal(size=(count, 50, 6)), axis=1)).astype(np.float32)


def test_each_feature_is_summarised_over_all_windows():
    windows = walks(300)
    reference = DriftReference.of_windows(windows).features
    assert tuple(reference) == FEATURES
    ax = windows[:, :, 0].astype(np.float64).mean(axis=1)
    entry = reference["Ax_mean_m_s2"]
    assert (entry.count, entry.of) == (300, "windows")
    assert (entry.min, entry.max, entry.mean, entry.std) == pytest.approx((ax.min(), ax.max(), ax.mean(), ax.std()))
    for q, value in entry.quantiles:
        assert np.mean(ax <= value) == pytest.approx(q, abs=0.005)


def test_each_channel_s_samples_are_summarised_on_their_own():
    windows = walks(60, offset=3.0)
    known = DriftReference.of_windows(windows[:, :, [5, 0]], ("Mx", "Gz"))
    assert list(known.channels) == ["Mx", "Gz"]
    samples = windows[:, :, 0].astype(np.float64).ravel()
    entry = known.channels["Gz"]
    assert entry.count == 60 * 50
    assert (entry.min, entry.max, entry.mean, entry.std) == pytest.approx(
        (samples.min(), samples.max(), samples.mean(), samples.std())
    )
    for q, value in entry.quantiles:
        assert np.mean(samples <= value) == pytest.approx(q, abs=0.001)
    assert list(known.features) == ["Gz_mean_deg_s", "Gz_std_deg_s"]


def test_a_sketch_is_that_of_its_feature():
    windows = walks(150)  # below k = 200 values a sketch is exact, so sorting is the oracle
    known = DriftReference.of_windows(windows)
    assert tuple(known.sketches) == FEATURES
    features = np.array([window_features(window) for window in windows], np.float32)
    for column, content in zip(features.T, known.sketches.values(), strict=True):
        sketch = kll_floats_sketch.deserialize(content)
        ranks = np.arange(1, 151) / 150
        assert sketch.get_quantiles(ranks - 1e-9, True) == np.sort(column).tolist()


def test_the_labels_shares_add_up_to_the_whole():
    known = DriftReference.of_windows(walks(4), label_counts={"a": 3, "b": 1, "c": 0})
    assert known.label_shares == {"a": 0.75, "b": 0.25, "c": 0.0}
    assert DriftReference.of_windows(walks(4)).label_shares is None


def period(windows):
    made = DriftPeriod(DriftSettings())
    for window in windows:
        made.add(window_features(window))
    return made


def test_the_windows_themselves_have_not_drifted_and_others_have():
    windows = walks(300)
    reference = {
        name: Reference.of(entry.model_dump()) for name, entry in DriftReference.of_windows(windows).features.items()
    }
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
