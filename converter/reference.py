"""What drift is to be measured against, from files: a recording, windows, or the training pipeline's statistics.

All of it in m/s² and deg/s (other channels in their own unit), in the model's frame.
"""

import csv
import hashlib
import json
import math
import re
from base64 import b64encode
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from converter.channels import shown
from converter.training_config import TrainingConfig
from gateway.bundle.manifest import Distribution, FeatureReference, ReferenceData
from gateway.bundle.writing import member
from gateway.errors import InputRejected
from gateway.monitoring.features import FEATURES
from gateway.monitoring.reference import DriftReference, shares
from gateway.motion.channels import columns_of, six_wide
from gateway.motion.samples import CHANNELS, Float32
from gateway.motion.units import STANDARD_GRAVITY_M_S2, check_gravity
from gateway.recording import read_recording

SKETCHES_FILE = "drift_sketches.json"
LABEL_COLUMN = "label"
"""Of a CSV or Parquet recording."""
WINDOWS_MIN = 50
"""Fewer say nothing of the tails of a distribution."""
_GRAVITY_RATIO = (0.7, 2.5)
"""Root mean square of |a| against gravity: at rest 1; a wrist at work comes to 1.1 or so. g would be 0.1, mg 100."""
_PERCENTILE = re.compile(r"^p(\d{1,2})$")


class ReferenceRejected(InputRejected):
    """What was given with --reference says nothing that drift can be measured against."""

    hint = (
        "Give a recording (.csv, .parquet, or two .xlsx), windows (.npy, shape (n, window, channels), those of the "
        "model; .npz with windows and labels), or the training's statistics (.json with per_channel)."
    )


def read_reference(paths: Sequence[str | Path], *, window: int, config: TrainingConfig) -> DriftReference:
    """paths: one file, or the two Excel files of a recording. window: samples.

    The features are those of a wearable's six channels that the recording's channels are enough for; from other files,
    that the model's are. Raises ReferenceRejected, RecordingRejected, ChannelsRejected.
    """
    files = [Path(path) for path in paths]
    match [file.suffix.lower() for file in files]:
        case [".json"]:
            known = _of_statistics(files[0], config)
        case [".npy" | ".npz"]:
            known = _of_arrays(files[0], window, config)
        case _:
            known = _of_recording(files, window, config)
    return replace(known, source_sha256=tuple(map(_sha256, files)))


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _of_recording(files: Sequence[Path], window: int, config: TrainingConfig) -> DriftReference:
    named = ", ".join(map(str, files))
    columns = columns_of(config.channels, config.units, where=named)
    recording = read_recording(files, needed=config.channels)
    grid = recording.on_grid(config.rate_hz)
    whole = grid.whole(window, config.hop)
    if not whole.any():
        raise ReferenceRejected(f"{named}: no window of {window} samples at {config.rate_hz:g} Hz without a gap in it")
    wide = np.asarray(grid.windows(window, config.hop)[whole], np.float32)
    _check_windows(named, wide[..., [CHANNELS.index(name) for name in recording.channels]], recording.channels)
    labels = _column(files[0], LABEL_COLUMN)
    counts = None if labels is None else _counted(f"{files[0]}: {LABEL_COLUMN}", labels, config.labels)
    taken = wide[..., columns]
    known = DriftReference.of_windows(
        taken, config.channels, wide=wide, wide_channels=recording.channels, label_counts=counts
    )
    return replace(known, source="recording")


def _of_arrays(file: Path, window: int, config: TrainingConfig) -> DriftReference:
    """.npy: windows, (n, window, channels). .npz: `windows` and, for each of them, `labels`."""
    arrays = _arrays(file)
    windows = _finite_windows(file, arrays["windows"], window, config)
    _check_windows(str(file), windows, config.channels)
    counts = None
    if (labels := arrays.get("labels")) is not None:
        if labels.shape != (len(windows),):
            raise ReferenceRejected(f"{file}: labels of shape {labels.shape}, expected ({len(windows)},) as of windows")
        if labels.dtype.kind not in "iuUS":
            raise ReferenceRejected(f"{file}: labels hold {labels.dtype}, expected names or whole numbers")
        texts = np.char.decode(labels, "utf-8", "replace") if labels.dtype.kind == "S" else labels
        counts = _counted(f"{file}: labels", map(str, texts.tolist()), config.labels)
    return DriftReference.of_windows(windows, config.channels, label_counts=counts)


def _arrays(file: Path) -> dict[str, NDArray[Any]]:
    try:
        loaded: Any = np.load(file, mmap_mode="r", allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"windows": loaded}
        with loaded:
            names = loaded.files
            arrays = {name: loaded[name] for name in ("windows", "labels") if name in names}
    except OSError as error:
        raise ReferenceRejected(f"{file}: {error.strerror or f'not an {file.suffix} file'}") from None
    except Exception:  # a damaged file makes numpy and zlib raise whatever they stumble over
        raise ReferenceRejected(f"{file}: not an {file.suffix} file of numbers") from None
    if len(arrays) < 2:
        raise ReferenceRejected(f"{file}: holds {shown(names) or 'nothing'}, expected windows and labels")
    if not all(isinstance(array, np.ndarray) for array in arrays.values()):  # numpy gives other members as bytes
        raise ReferenceRejected(f"{file}: not an {file.suffix} file of numbers")
    return arrays


def npy_windows(file: Path, window: int, config: TrainingConfig) -> Float32:
    """The windows (n, window, channels) that an .npy file holds. Raises ReferenceRejected."""
    return _finite_windows(file, _arrays(file)["windows"], window, config)


def _finite_windows(file: Path, windows: Any, window: int, config: TrainingConfig) -> Float32:
    expected = (window, len(config.channels))
    if windows.shape[1:] != expected or windows.dtype.kind not in "fiu":
        found = f"{windows.dtype} {windows.shape}"
        raise ReferenceRejected(f"{file}: holds {found}, expected windows (n, {expected[0]}, {expected[1]})")
    with np.errstate(over="ignore"):
        made = np.asarray(windows, np.float32)
    if not np.isfinite(made).all():
        raise ReferenceRejected(f"{file}: a value that is no finite number", hint="Leave such windows out.")
    return made


def _check_windows(named: str, windows: Float32, channels: Sequence[str]) -> None:
    """Raises ReferenceRejected for too few, and where accelerations are not in m/s²."""
    if len(windows) < WINDOWS_MIN:
        raise ReferenceRejected(f"{named}: {len(windows)} windows without a gap, expected {WINDOWS_MIN} or more")
    if not set(CHANNELS[:3]) <= set(channels):
        return
    check = check_gravity(six_wide(windows, channels)[..., :3].reshape(-1, 3).astype(np.float64), "m_s2")
    if not check.plausible:
        found = f"{named}: at rest the acceleration is {check.quiet_m_s2:.3g} m/s²"
        raise ReferenceRejected(f"{found}, expected about {STANDARD_GRAVITY_M_S2:.2f}", hint="Give it in m/s².")


def _counted(where: str, found: Iterable[str], labels: Sequence[str]) -> dict[str, int]:
    """How often each label stands there, by its name or its number. Raises ReferenceRejected for what is none."""
    counts = Counter(found)
    numbers = {str(number): label for number, label in enumerate(labels)}
    if unknown := [text for text in counts if text not in labels and text not in numbers]:
        raise ReferenceRejected(
            f"{where}: {shown(unknown)}: none of the model's {len(labels)} labels",
            hint="Give the labels' names, or their numbers from 0, as the model has them.",
        )
    total = Counter(dict.fromkeys(labels, 0))
    for text, count in counts.items():
        total[text if text in labels else numbers[text]] += count
    return dict(total)


def _column(file: Path, name: str) -> list[str] | None:
    """The texts in a column of a recording that was read before, empty ones left out; None where it has no such."""
    match file.suffix.lower():
        case ".csv":
            return _csv_column(file, name)
        case ".parquet":
            return _parquet_column(file, name)
    return None


def _parquet_column(file: Path, name: str) -> list[str] | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with file.open("rb") as stream:
            if name not in pq.read_schema(stream).names:
                return None
            values = pq.read_table(stream, columns=[name])[name].to_pylist()
    except (pa.ArrowException, ValueError) as error:  # the latter for bytes that are no UTF-8
        raise ReferenceRejected(f"{file}: {name}: {error}".splitlines()[0]) from None
    # whole numbers with nulls among them come as floats out of a data frame
    told = (int(value) if isinstance(value, float) and value.is_integer() else value for value in values)
    return [text for value in told if value is not None and value == value and (text := str(value).strip())] or None


def _csv_column(file: Path, name: str) -> list[str] | None:
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.reader(stream, skipinitialspace=True)
            header = [text.strip() for text in next(rows, [])]
            if name not in header:
                return None
            place = header.index(name)
            return [text for row in rows if len(row) > place and (text := row[place].strip())] or None
    except csv.Error as error:
        raise ReferenceRejected(f"{file}: {name}: {error}") from None


# Statistics


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


class _Class(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    n_windows: Annotated[int, Field(ge=0)] | None = None


class _Statistics(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    per_channel: dict[str, _Channel]
    metadata: _Metadata
    per_class: dict[str, _Class] = {}


def _of_statistics(file: Path, config: TrainingConfig) -> DriftReference:
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
    if missing := [name for name in config.channels if name not in statistics.per_channel]:
        raise ReferenceRejected(f"{file}: per_channel lacks {shown(missing)}")
    _check_root_mean_square(file, {name: statistics.per_channel[name] for name in config.channels})
    count = statistics.metadata.n_windows * statistics.metadata.window_size
    try:
        channels = {name: _distribution(statistics.per_channel[name], count) for name in config.channels}
    except (ValidationError, ValueError, TypeError) as error:
        reason = error.errors(include_url=False)[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise ReferenceRejected(f"{file}: per_channel: {reason}") from None
    means = dict(zip(CHANNELS, FEATURES, strict=False))  # each channel's mean stands first among them
    features = {
        feature: FeatureReference(of="samples", **channels[name].model_dump())
        for name, feature in means.items()
        if name in channels
    }
    label_shares = _label_shares(file, statistics.per_class, config.labels)
    return DriftReference(statistics.metadata.n_windows, channels, features, {}, label_shares, "statistics")


def _check_root_mean_square(file: Path, channels: Mapping[str, _Channel]) -> None:
    if not set(CHANNELS[:3]) <= set(channels):
        return
    squares = sum(channels[name].mean ** 2 + channels[name].std ** 2 for name in CHANNELS[:3])
    ratio = math.sqrt(squares) / STANDARD_GRAVITY_M_S2
    if not _GRAVITY_RATIO[0] <= ratio <= _GRAVITY_RATIO[1]:
        found = f"{file}: the accelerations' root mean square is {ratio * STANDARD_GRAVITY_M_S2:.3g} m/s²"
        raise ReferenceRejected(f"{found}, expected near {STANDARD_GRAVITY_M_S2:.2f}", hint="Give it in m/s².")


def _distribution(channel: _Channel, count: int) -> Distribution:
    percentiles = {
        int(match[1]): value for key, value in channel.__pydantic_extra__.items() if (match := _PERCENTILE.match(key))
    }
    ends = ((0.0, channel.min), (1.0, channel.max))
    return Distribution(
        count=count,
        mean=channel.mean,
        std=channel.std,
        min=channel.min,
        max=channel.max,
        quantiles=tuple((percent / 100, value) for percent, value in sorted(percentiles.items())) or ends,
    )


def _label_shares(file: Path, classes: Mapping[str, _Class], labels: Sequence[str]) -> dict[str, float] | None:
    """None where the statistics do not count the windows of each class."""
    counts = {name: entry.n_windows for name, entry in classes.items() if entry.n_windows is not None}
    if len(counts) < len(classes) or not sum(counts.values()):
        return None
    if unknown := [name for name in counts if name not in labels]:
        found = f"{file}: per_class: {shown(unknown)}: none of the model's {len(labels)} labels"
        raise ReferenceRejected(found, hint="Name them as the model's labels, or leave per_class out.")
    return shares({label: counts.get(label, 0) for label in labels})


# In a bundle


def reference_entries(
    known: DriftReference | None,
) -> tuple[dict[str, FeatureReference] | None, ReferenceData | None, dict[str, bytes]]:
    """drift_reference and reference_data of a bundle's manifest, and the files that belong to them, by name."""
    if known is None:
        return None, None, {}
    files = {SKETCHES_FILE: sketches_file(known.sketches)} if known.sketches else {}
    data = ReferenceData(
        source=known.source,
        source_sha256=known.source_sha256,
        windows=known.windows,
        channels=dict(known.channels),
        label_shares=None if known.label_shares is None else dict(known.label_shares),
        sketches=member(SKETCHES_FILE, files[SKETCHES_FILE]) if files else None,
    )
    return dict(known.features), data, files


def sketches_file(sketches: Mapping[str, bytes]) -> bytes:
    """JSON, as drift events have them: {feature: base64}."""
    texts = {name: b64encode(content).decode() for name, content in sketches.items()}
    return (json.dumps(texts, indent=1) + "\n").encode()


def reference_in_words(features: Mapping[str, FeatureReference] | None, data: ReferenceData | None) -> str:
    """What a manifest's drift_reference and reference_data are, for a line of a report."""
    if features is None:
        return "none"
    parts = []
    if features:
        first = next(iter(features.values()))
        parts.append(f"{len(features)} window features of {first.count:,} {first.of}")
    if data is not None:
        first_channel = next(iter(data.channels.values()))
        plural = "s" if len(data.channels) > 1 else ""
        parts.append(f"{len(data.channels)} channel{plural} of {first_channel.count:,} samples")
        parts += ["KLL sketches"] if data.sketches is not None else []
        parts += [f"shares of {len(data.label_shares)} labels"] if data.label_shares is not None else []
        files = "".join(f", sha256 {sha256[:12]}" for sha256 in data.source_sha256)
        origin = {"recording": "a recording", "windows": "windows", "statistics": "statistics"}[data.source]
        parts.append(f"from {origin}{files}")
    return "; ".join(parts) or "none"
