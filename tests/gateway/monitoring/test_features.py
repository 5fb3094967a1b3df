"""Features of a window against textbook cases."""

import numpy as np
import pytest

from gateway.monitoring.features import FEATURES, features_of, window_features
from gateway.motion.samples import CHANNELS


def of(window):
    return dict(zip(FEATURES, window_features(window.astype(np.float32)), strict=True))


def test_a_wearable_at_rest_shows_gravity_and_nothing_else():
    window = np.tile([0, 0, 9.80665, 0, 0, 0], (200, 1))
    features = of(window)
    assert features.pop("Az_mean_m_s2") == pytest.approx(9.80665)
    assert features.pop("acc_norm_mean_m_s2") == pytest.approx(9.80665)
    assert all(value == pytest.approx(0, abs=1e-6) for value in features.values())


def test_a_sine_has_its_known_deviation_and_step():
    t = np.arange(200) / 50
    window = np.zeros((200, 6))
    window[:, 0] = 2 * np.sin(2 * np.pi * 5 * t)
    window[:, 5] = -30
    features = of(window)
    assert features["Ax_std_m_s2"] == pytest.approx(np.sqrt(2), rel=1e-3)
    # the difference of a sine of amplitude 2 over one sample has amplitude 2 * 2 sin(pi f / rate)
    assert features["acc_step_rms_m_s2"] == pytest.approx(4 * np.sin(np.pi * 5 / 50) / np.sqrt(2), rel=5e-3)
    assert features["gyro_norm_mean_deg_s"] == pytest.approx(30)
    assert features["gyro_norm_max_deg_s"] == pytest.approx(30)
    assert features["Gz_mean_deg_s"] == pytest.approx(-30)


def test_a_feature_is_told_where_all_its_channels_are_known():
    """Brute force: what a feature does not change with, it does not need."""
    rng = np.random.default_rng(2)
    window = rng.normal(size=(50, 6)).astype(np.float32)
    for channels in (CHANNELS, CHANNELS[:3], CHANNELS[3:], ("Gz", "Ax"), ("Mx",), ()):
        other = rng.normal(size=(50, 6)).astype(np.float32)
        known = [CHANNELS.index(name) for name in channels if name in CHANNELS]
        other[:, known] = window[:, known]
        same = window_features(other) == window_features(window)
        assert features_of(channels) == tuple(name for name, kept in zip(FEATURES, same, strict=True) if kept)
