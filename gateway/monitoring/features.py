"""What drift is judged by: a few numbers for each window.

Raw 50 Hz samples are so autocorrelated that a test on them alarms falsely about a third of the time; one vector a
window is near enough to independent. Units stand in the names.
"""

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from gateway.motion.samples import CHANNELS, Float32

_UNITS = ("m_s2",) * 3 + ("deg_s",) * 3

FEATURES: tuple[str, ...] = (
    *(f"{channel}_mean_{unit}" for channel, unit in zip(CHANNELS, _UNITS, strict=True)),
    *(f"{channel}_std_{unit}" for channel, unit in zip(CHANNELS, _UNITS, strict=True)),
    "acc_norm_mean_m_s2",
    "acc_norm_std_m_s2",
    "acc_step_rms_m_s2",
    "gyro_norm_mean_deg_s",
    "gyro_norm_max_deg_s",
)
"""Of a window: mean and standard deviation of each channel; of the norms; acc_step is the difference of neighbours."""


def features_of(channels: Collection[str]) -> tuple[str, ...]:
    """Those of FEATURES that these channels are enough for, in order."""
    sensors = {"acc": CHANNELS[:3], "gyro": CHANNELS[3:]}
    return tuple(name for name in FEATURES if set(sensors.get(first := name.split("_")[0], (first,))) <= set(channels))


def window_features(window: Float32) -> NDArray[np.float64]:
    """window: (n, 6), m/s² and deg/s. Returns (len(FEATURES),), in their order."""
    values = window.astype(np.float64)
    squares = values**2
    acc_norm = np.sqrt(np.add.reduce(squares[:, :3], axis=1))
    gyro_norm = np.sqrt(np.add.reduce(squares[:, 3:], axis=1))
    series = np.column_stack([values, acc_norm, gyro_norm])
    mean = np.add.reduce(series) / len(series)
    std = np.sqrt(np.add.reduce((series - mean) ** 2) / len(series))
    steps = values[1:, :3] - values[:-1, :3]
    step_rms = np.sqrt(np.add.reduce(steps**2, axis=None) / max(1, len(steps)))
    return np.concatenate([mean[:6], std[:6], [mean[6], std[6], step_rms, mean[7], gyro_norm.max()]])
