"""The windows on which a converted model is held against Keras: sets that fail in different ways."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from converter.parity import random_windows
from converter.sensors import at_rest, full_scale
from converter.training_config import TrainingConfig
from gateway.errors import InputRejected
from gateway.motion.channels import columns_of
from gateway.motion.samples import CHANNELS, Float32
from gateway.motion.units import STANDARD_GRAVITY_M_S2
from gateway.recording import read_recording

WALKS, EXTREMES, RECORDING = "walks", "extremes", "recording"
EXTREMES_SHARE = 3
"""One extreme window for as many walks."""
RECORDED_WINDOWS_MAX = 3000
_ACC_FULL_SCALES_M_S2 = tuple(g * STANDARD_GRAVITY_M_S2 for g in (2, 4, 8, 16))
_GYRO_FULL_SCALES_DEG_S = (250, 500, 1000, 2000)
"""What IMUs of wearables can be set to."""
_SPREADS = (4, 8, 16, 32)
"""Half the range of a channel of another kind, in the training's standard deviations; those of IMUs come to as many."""


def probe_sets(
    count: int, *, window: int, config: TrainingConfig, seed: int, recording: Sequence[Path] = ()
) -> dict[str, Float32]:
    """By name, the walks first; each (n, window, channels), raw units. recording: its files, whose windows join.

    Raises InputRejected for a recording that gives no window.
    """
    sets = {
        WALKS: random_windows(count, window=window, config=config, seed=seed),
        EXTREMES: extreme_windows(count // EXTREMES_SHARE, window=window, config=config, seed=seed),
    }
    if recording:
        sets[RECORDING] = recorded_windows(recording, window=window, config=config)
    return sets


def extreme_windows(count: int, *, window: int, config: TrainingConfig, seed: int) -> Float32:
    """(count, window, channels), raw units: of sensors that do not move, hang, or are driven beyond their range.

    In turn: a constant near the training's mean; gravity alone, in any direction; constants anywhere in the range, some
    channels at its end; motion clipped at the range; a square wave from end to end. All with a range that wearables
    have; a channel that is no wearable's has one of some of the training's standard deviations, and rests at its mean.
    """
    rng = np.random.default_rng((seed, 1))
    channels, mean, scale = len(config.mean), np.array(config.mean), np.array(config.scale)
    known = set(config.channels) <= set(CHANNELS)
    made = np.empty((count, window, channels))
    for number in range(count):
        middle, full = full_scale(
            config,
            acc_m_s2=rng.choice(_ACC_FULL_SCALES_M_S2),
            gyro_deg_s=rng.choice(_GYRO_FULL_SCALES_DEG_S),
            spreads=0 if known else rng.choice(_SPREADS),
        )
        match number % 5:
            case 0:
                made[number] = mean + rng.normal(0, 1, channels) * scale
            case 1:
                direction = rng.normal(size=3)
                gravity = STANDARD_GRAVITY_M_S2 * direction / np.linalg.norm(direction)
                made[number] = at_rest(config, gravity)
            case 2:
                part = np.where(rng.random(channels) < 0.3, rng.choice((-1, 1), channels), 0)
                made[number] = middle + (part + (part == 0) * rng.uniform(-1, 1, channels)) * full
            case 3:
                walk = np.cumsum(rng.normal(size=(window, channels)), axis=0) * np.exp(rng.uniform(-3, 1))
                made[number] = middle + np.clip(walk * scale, -full, full)
            case _:
                period = int(rng.integers(2, window + 1))
                phase = (np.arange(window)[:, np.newaxis] + rng.integers(0, period, channels)) % period
                made[number] = middle + np.where(phase < period / 2, full, -full)
    return made.astype(np.float32)


def recorded_windows(files: Sequence[Path], *, window: int, config: TrainingConfig) -> Float32:
    """The model's channels of the recording's whole windows, at most RECORDED_WINDOWS_MAX of them, evenly spread.

    Raises InputRejected.
    """
    named = ", ".join(map(str, files))
    columns = columns_of(config.channels, config.units, where=named)
    grid = read_recording(files, needed=config.channels).on_grid(config.rate_hz)
    whole = grid.windows(window, config.hop)[grid.whole(window, config.hop)]
    if not len(whole):
        raise InputRejected(f"{named}: no whole window of {window} samples at {config.rate_hz:g} Hz without a gap")
    chosen = np.linspace(0, len(whole) - 1, min(len(whole), RECORDED_WINDOWS_MAX)).round().astype(int)
    return np.ascontiguousarray(whole[chosen][..., columns], np.float32)
