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
    acc_norm = np.linalg.norm(values[:, :3], axis=1)
    gyro_norm = np.linalg.norm(values[:, 3:], axis=1)
    steps = np.diff(values[:, :3], axis=0)
    return np.concatenate(
        [
            values.mean(axis=0),
            values.std(axis=0),
            [
                acc_norm.mean(),
                acc_norm.std(),
                np.sqrt((steps**2).sum(axis=1).mean()),
                gyro_norm.mean(),
                gyro_norm.max(),
            ],
        ]
    )
