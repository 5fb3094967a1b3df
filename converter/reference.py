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

from gateway.bundle import FeatureReference
from gateway.errors import InputRejected
from gateway.monitoring.features import FEATURES
from gateway.monitoring.reference import drift_reference
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
        "Give a recording (.csv, .parquet, or two .xlsx), windows (.npy, shape (n, window, 6)), or the training's "
        "statistics (.json with per_channel)."
    )


def read_reference(
    paths: Sequence[str | Path], *, window: int, hop: int, rate_hz: float
) -> dict[str, FeatureReference]:
    """paths: one file, or the two Excel files of a recording. window, hop: samples, at rate_hz.

    Raises ReferenceRejected, RecordingRejected.
    """
    files = [Path(path) for path in paths]
    suffixes = [file.suffix.lower() for file in files]
    if suffixes == [".json"]:
        return _of_statistics(files[0])
    named = ", ".join(map(str, files))
    windows = npy_windows(files[0], window) if suffixes == [".npy"] else _recorded(files, named, window, hop, rate_hz)
    if len(windows) < WINDOWS_MIN:
        raise ReferenceRejected(f"{named}: {len(windows)} windows without a gap, expected {WINDOWS_MIN} or more")
    check = check_gravity(np.asarray(windows[:, :, :3], np.float64).reshape(-1, 3), "m_s2")
    if not check.plausible:
        found = f"{named}: at rest the acceleration is {check.quiet_m_s2:.3g} m/s²"
        raise ReferenceRejected(f"{found}, expected about {STANDARD_GRAVITY_M_S2:.2f}", hint="Give it in m/s².")
    return drift_reference(windows)


def _recorded(files: Sequence[Path], named: str, window: int, hop: int, rate_hz: float) -> Float32:
    grid = read_recording(files).on_grid(rate_hz)
    whole = grid.whole(window, hop)
    if not whole.any():
        raise ReferenceRejected(f"{named}: no window of {window} samples at {rate_hz:g} Hz without a gap in it")
    return np.asarray(grid.windows(window, hop)[whole], np.float32)


def npy_windows(file: Path, window: int) -> Float32:
    """The windows (n, window, channels) that an .npy file holds. Raises ReferenceRejected."""
    try:
        windows: Any = np.load(file, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise ReferenceRejected(f"{file}: {error.strerror or 'not an .npy file'}") from None
    except (ValueError, EOFError):
        raise ReferenceRejected(f"{file}: not an .npy file of numbers") from None
    expected = (window, len(CHANNELS))
    if not isinstance(windows, np.ndarray) or windows.shape[1:] != expected or windows.dtype.kind not in "fiu":
        found = f"{getattr(windows, 'dtype', 'several arrays')} {getattr(windows, 'shape', '')}"
        raise ReferenceRejected(f"{file}: holds {found}, expected windows (n, {expected[0]}, {expected[1]})")
    made = np.asarray(windows, np.float32)
    if not np.isfinite(made).all():
        raise ReferenceRejected(f"{file}: a value that is no finite number", hint="Leave such windows out.")
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


def _of_statistics(file: Path) -> dict[str, FeatureReference]:
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
    if missing := [name for name in CHANNELS if name not in channels]:
        raise ReferenceRejected(f"{file}: per_channel lacks {', '.join(missing)}")
    squares = sum(channels[name].mean ** 2 + channels[name].std ** 2 for name in CHANNELS[:3])
    ratio = math.sqrt(squares) / STANDARD_GRAVITY_M_S2
    if not _GRAVITY_RATIO[0] <= ratio <= _GRAVITY_RATIO[1]:
        found = f"{file}: the accelerations' root mean square is {ratio * STANDARD_GRAVITY_M_S2:.3g} m/s²"
        raise ReferenceRejected(f"{found}, expected near {STANDARD_GRAVITY_M_S2:.2f}", hint="Give it in m/s².")
    count = statistics.metadata.n_windows * statistics.metadata.window_size
    means = [name for name in FEATURES if any(name.startswith(f"{channel}_mean_") for channel in CHANNELS)]
    try:
        return {
            feature: _of_samples(channels[channel], count) for feature, channel in zip(means, CHANNELS, strict=True)
        }
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
