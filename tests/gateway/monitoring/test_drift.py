"""Drift periods: what others can read from the sketches, and distances against known distributions."""

import base64
import json

import numpy as np
import pytest
from datasketches import kll_floats_sketch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gateway.monitoring.drift import KLL_K, DriftPeriod, DriftSettings, Reference, kolmogorov_distance
from gateway.monitoring.features import FEATURES

SETTINGS = DriftSettings(period_s=900)
RANKS = [k / 100 for k in range(1, 100)]


def reference(mean, std):
    return Reference(mean, std, tuple((q, float(stats.norm.ppf(q, mean, std))) for q in RANKS))


def period(rng, n, mean=0.0, std=1.0):
    made = DriftPeriod(SETTINGS)
    for _ in range(n):
        made.add(rng.normal(mean, std, len(FEATURES)))
    return made


def test_windows_like_the_reference_are_near_it_and_shifted_ones_as_far_as_theory_says():
    known = {name: reference(0, 1) for name in FEATURES}
    rng = np.random.default_rng(1)
    same = period(rng, 2000).summary(0, known)
    moved = period(rng, 2000, mean=1.0).summary(0, known)
    for name in FEATURES:
        assert same.features[name].distance < 0.06  # 1.36 / sqrt(2000) at 5 %, and the sketch's own error
        assert moved.features[name].distance == pytest.approx(2 * stats.norm.cdf(0.5) - 1, abs=0.06)
        assert moved.features[name].shift == pytest.approx(1.0, abs=0.1)


def test_the_sketches_are_datasketches_own_and_merge_elsewhere():
    rng = np.random.default_rng(2)
    merged = kll_floats_sketch(200)
    for _ in range(5):
        summary = period(rng, 300).summary(0)
        merged.merge(kll_floats_sketch.deserialize(base64.b64decode(summary.features["Ax_mean_m_s2"].sketch)))
    assert merged.n == 1500
    assert merged.get_quantile(0.5) == pytest.approx(0, abs=0.15)


def test_a_period_goes_on_after_a_restart():
    rng = np.random.default_rng(3)
    before = period(rng, 50)
    after = DriftPeriod.restore(SETTINGS, json.loads(json.dumps(before.state())))
    extra = rng.normal(size=len(FEATURES))
    before.add(extra)
    after.add(extra)
    assert after.summary(900) == before.summary(900)
    assert (after.summary(900).start_s, after.summary(900).end_s, after.summary(900).windows) == (900, 1800, 51)


def test_a_constant_feature_is_compared_without_dividing_by_zero():
    known = {name: Reference(2.0, 0.0, tuple((q, 2.0) for q in RANKS)) for name in FEATURES}
    made = DriftPeriod(SETTINGS)
    made.add(np.full(len(FEATURES), 2.0))
    summary = made.summary(0, known)
    assert summary.features["Ax_mean_m_s2"].shift == 0
    assert summary.features["Ax_mean_m_s2"].distance == pytest.approx(0.01)


@given(
    st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=KLL_K // 2),
    st.lists(st.floats(-100, 100), min_size=1, max_size=20),
)
def test_the_distance_is_that_of_the_distribution_functions(sample, training):
    """Below k values a sketch is exact, so counting is the oracle."""
    training = np.float32(sorted(training))
    quantiles = [((i + 1) / len(training), float(value)) for i, value in enumerate(training)]
    sketch = kll_floats_sketch(KLL_K)
    sketch.update(np.float32(sample))
    expected = max(abs(np.mean(np.float32(sample) <= v) - np.mean(training <= v)) for v in training)
    assert kolmogorov_distance(sketch, quantiles) == pytest.approx(expected, abs=1e-9)


def test_values_that_are_one_in_single_precision_are_not_apart():
    sketch = kll_floats_sketch(KLL_K)
    sketch.update(0.1)
    assert kolmogorov_distance(sketch, [(0.0, 0.1 - 1e-12), (0.5, 0.1), (1.0, 0.1 + 1e-12)]) == 0


def test_without_a_reference_there_is_no_distance():
    assert period(np.random.default_rng(4), 3).summary(0).features["Ax_mean_m_s2"].distance is None
