"""What the sensors behind a model's channels give at rest and at the ends of their range: (channels,), in raw units."""

import numpy as np
from numpy.typing import NDArray

from converter.training_config import TrainingConfig
from gateway.motion.samples import CHANNELS
from gateway.motion.units import STANDARD_GRAVITY_M_S2

Float64 = NDArray[np.float64]

GRAVITY_DOWN_Z: Float64 = np.array([0, 0, STANDARD_GRAVITY_M_S2])


def at_rest(config: TrainingConfig, gravity_m_s2: Float64 = GRAVITY_DOWN_Z) -> Float64:
    """Of a sensor that does not move: gravity_m_s2, (3,); no turning; a channel that is no wearable's at its mean."""
    still = dict(zip(CHANNELS, (*gravity_m_s2, 0, 0, 0), strict=True))
    return np.array([still.get(name, mean) for name, mean in zip(config.channels, config.mean, strict=True)])


def full_scale(
    config: TrainingConfig, *, acc_m_s2: float, gyro_deg_s: float, spreads: float
) -> tuple[Float64, Float64]:
    """Middle and half width of each range. Of accelerometer and gyroscope the one that is given, about 0; of others,
    whose sensor nobody knows, so many of the training's standard deviations about its mean."""
    ranges = dict(zip(CHANNELS, (acc_m_s2,) * 3 + (gyro_deg_s,) * 3, strict=True))
    middle = [0.0 if name in ranges else mean for name, mean in zip(config.channels, config.mean, strict=True)]
    half = [ranges.get(name, spreads * scale) for name, scale in zip(config.channels, config.scale, strict=True)]
    return np.array(middle), np.array(half)
