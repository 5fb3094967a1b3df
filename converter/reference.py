"""What drift is to be measured against, from files: a recording, windows, or the training pipeline's statistics.

All of it in m/s² and deg/s, in the model's frame.
"""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from converter.channels import shown
from converter.training_config import TrainingConfig
from gateway.bundle import FeatureReference
from gateway.errors import InputRejected
from gateway.monitoring.features import FEATURES
from gateway.monitoring.reference import drift_reference
from gateway.motion.channels import columns_of
from gateway.motion.samples import CHANNELS, Float32
from gateway.motion.units import STANDARD_GRAVITY_M_S2, check_gravity
from gateway.recording import read_recording

WINDOWS_MIN = 50
"""Fewer say nothing of the tails of a distribution."""
_GRAVITY_RATIO = (0.7, 2.5)
"""Root mean square of |a| against gravity: at rest 1; a wrist at work comes to 1.1 or so. g would be 0.1, mg 100."""
_PERCENTILE = re.compile(r"^p(\d{1,2})$")


class ReferenceRejected(InputRejected):
    """What was given with --reference says nothing that drift can be measured against."""

    hint = (
        "Give a recording (.csv, .parquet, or two .xlsx), windows (.npy, shape (n, window, channels), those of "
        "the model), or the training's statistics (.json with per_channel)."
    )


def read_reference(paths: Sequence[str | Path], *, window: int, config: TrainingConfig) -> dict[str, FeatureReference]:
    """paths: one file, or the two Excel files of a recording. window: samples.

    The features are those of a wearable's six channels: all from a recording, from other files those that the model's
    channels are enough for. Raises ReferenceRejected, RecordingRejected, ChannelsRejected.
    """
    files = [Path(path) for path in paths]
    suffixes = [file.suffix.lower() for file in files]
    if suffixes == [".json"]:
        return _of_statistics(files[0], config)
    named = ", ".join(map(str, files))
    if suffixes == [".npy"]:
        known, windows = config.channels, _array(files[0], window, config.channels)
    else:
        columns_of(config.channels, config.units, where=named)
        known, windows = CHANNELS, _recorded(files, named, window, config)
    if len(windows) < WINDOWS_MIN:
        raise ReferenceRejected(f"{named}: {len(windows)} windows without a gap, expected {WINDOWS_MIN} or more")
    if set(CHANNELS[:3]) <= set(known):
        check = check_gravity(np.asarray(windows[:, :, :3], np.float64).reshape(-1, 3), "m_s2")
        if not check.plausible:
            found = f"{named}: at rest the acceleration is {check.quiet_m_s2:.3g} m/s²"
            raise ReferenceRejected(f"{found}, expected about {STANDARD_GRAVITY_M_S2:.2f}", hint="Give it in m/s².")
    return drift_reference(windows, known)


def _recorded(files: Sequence[Path], named: str, window: int, config: TrainingConfig) -> Float32:
    """(n, window, 6)"""
    grid = read_recording(files).on_grid(config.rate_hz)
    whole = grid.whole(window, config.hop)
    if not whole.any():
        raise ReferenceRejected(f"{named}: no window of {window} samples at {config.rate_hz:g} Hz without a gap in it")
    return np.asarray(grid.windows(window, config.hop)[whole], np.float32)


def _array(file: Path, window: int, channels: Sequence[str]) -> Float32:
    """(n, window, 6) of (n, window, channels): zeros where the model takes nothing."""
    try:
        windows: Any = np.load(file, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise ReferenceRejected(f"{file}: {error.strerror or 'not an .npy file'}") from None
    except (ValueError, EOFError):
        raise ReferenceRejected(f"{file}: not an .npy file of numbers") from None
    expected = (window, len(channels))
    if not isinstance(windows, np.ndarray) or windows.shape[1:] != expected or windows.dtype.kind not in "fiu":
        found = f"{getattr(windows, 'dtype', 'several arrays')} {getattr(windows, 'shape', '')}"
        raise ReferenceRejected(f"{file}: holds {found}, expected windows (n, {expected[0]}, {expected[1]})")
    with np.errstate(over="ignore"):
        values = np.asarray(windows, np.float32)
    if not np.isfinite(values).all():
        raise ReferenceRejected(f"{file}: a value that is no finite number", hint="Leave such windows out.")
    made = np.zeros((len(values), window, len(CHANNELS)), np.float32)
    for place, name in enumerate(channels):
        if name in CHANNELS:
            made[:, :, CHANNELS.index(name)] = values[:, :, place]
    return made


class _Channel(BaseModel):
    """Further keys p5, p25 ... are percentiles."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, Any] = Field(init=False)

    mean: FiniteFloat
    std: Annotated[FiniteFloat, Field(ge=0)]
    min: FiniteFloat
    max: FiniteFloat


class _Metadata(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    n_windows: Annotated[int, Field(ge=1)]
    window_size: Annotated[int, Field(ge=1)]


class _Statistics(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    per_channel: dict[str, _Channel]
    metadata: _Metadata


def _of_statistics(file: Path, config: TrainingConfig) -> dict[str, FeatureReference]:
    """A channel's samples stand for the mean of its windows, marked as such; the other features stay unknown."""
    try:
        statistics = _Statistics.model_validate(json.loads(file.read_bytes()))
    except OSError as error:
        raise ReferenceRejected(f"{file}: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = repr(".".join(map(str, first["loc"])) or "content")[1:-1]  # a key may hold a line break
        raise ReferenceRejected(f"{file}: {field}: {first['msg']}") from None
    except (ValueError, RecursionError) as error:
        raise ReferenceRejected(f"{file} is no JSON: {error}") from None
    channels = statistics.per_channel
    if missing := [name for name in config.channels if name not in channels]:
        raise ReferenceRejected(f"{file}: per_channel lacks {shown(missing)}")
    known = {name: channels[name] for name in CHANNELS if name in config.channels}
    squares = sum(known[name].mean ** 2 + known[name].std ** 2 for name in CHANNELS[:3] if name in known)
    ratio = math.sqrt(squares) / STANDARD_GRAVITY_M_S2
    if set(CHANNELS[:3]) <= set(known) and not _GRAVITY_RATIO[0] <= ratio <= _GRAVITY_RATIO[1]:
        found = f"{file}: the accelerations' root mean square is {ratio * STANDARD_GRAVITY_M_S2:.3g} m/s²"
        raise ReferenceRejected(f"{found}, expected near {STANDARD_GRAVITY_M_S2:.2f}", hint="Give it in m/s².")
    count = statistics.metadata.n_windows * statistics.metadata.window_size
    means = dict(zip(CHANNELS, FEATURES, strict=False))  # each channel's mean stands first among them
    try:
        return {means[name]: _of_samples(channel, count) for name, channel in known.items()}
    except (ValidationError, ValueError, TypeError) as error:
        reason = error.errors(include_url=False)[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise ReferenceRejected(f"{file}: per_channel: {reason}") from None


def _of_samples(channel: _Channel, count: int) -> FeatureReference:
    percentiles = {
        int(match[1]): value for key, value in channel.__pydantic_extra__.items() if (match := _PERCENTILE.match(key))
    }
    ends = ((0.0, channel.min), (1.0, channel.max))
    return FeatureReference(
        of="samples",
        count=count,
        mean=channel.mean,
        std=channel.std,
        min=channel.min,
        max=channel.max,
        quantiles=tuple((percent / 100, value) for percent, value in sorted(percentiles.items())) or ends,
    )
