"""What the training pipeline wrote beside the model: scaler, labels, window and rate (JSON)."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from converter.channels import channel_names, channel_units
from converter.errors import ScalerRejected
from converter.layers import Affine
from gateway.motion.samples import CHANNELS, UNITS

Name = Annotated[str, Field(min_length=1, max_length=100)]


class _File(BaseModel):
    """The keys that are read; a pipeline may keep more in the same file."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    scaler_mean: tuple[FiniteFloat, ...]
    scaler_scale: tuple[FiniteFloat, ...]
    target_hz: float = Field(gt=0, le=10_000)
    step_size: int = Field(ge=1)
    window_size: int | None = None
    sensor_cols: tuple[Name, ...] | None = None
    label_to_activity: dict[int, Name] | None = None
    activity_to_label: dict[Name, int] | None = None


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """mean, scale: per channel, in the channels' units. labels: in the order of the outputs. hop: samples.

    channels, units: names and units, in the model's order.
    """

    mean: tuple[float, ...]
    scale: tuple[float, ...]
    labels: tuple[str, ...]
    hop: int
    rate_hz: float
    sha256: str
    channels: tuple[str, ...] = CHANNELS
    units: tuple[str, ...] = UNITS

    def scaler(self) -> Affine:
        """(x - mean) / scale"""
        scale = 1 / np.array(self.scale)
        return Affine(scale, -np.array(self.mean) * scale, ("scaler",))


def read_training_config(
    path: str | Path,
    *,
    window: int,
    channels: int,
    classes: int,
    labels: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    units: Sequence[str] = (),
) -> TrainingConfig:
    """window, channels, classes: of the model that it shall fit. labels: instead of the file's. names: of the channels,
    likewise; units: one a channel, or NAME=UNIT for some.

    Raises ScalerRejected.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ScalerRejected(f"{path}: {error.strerror}", hint="Give the training's JSON with --scaler.") from None
    try:
        file = _File.model_validate(json.loads(content))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = repr(".".join(map(str, first["loc"])) or "content")[1:-1]  # a key may hold a line break
        raise ScalerRejected(f"{path}: {field}: {first['msg']}", hint=_HINT) from None
    except (ValueError, RecursionError) as error:
        raise ScalerRejected(f"{path} is no JSON: {error}", hint=_HINT) from None
    found_names = channel_names(channels, given=names, columns=file.sensor_cols, path=path)
    found_units = channel_units(found_names, units)
    _check_scaler(path, file, found_names)
    if file.window_size not in (None, window):
        raise ScalerRejected(f"{path}: window_size is {file.window_size}, the model's window is {window}")
    found = tuple(labels) if labels is not None else _labels(path, file)
    if len(found) != classes:
        where = "--labels" if labels is not None else f"{path}"
        hint = "Name every output once, in the model's order."
        raise ScalerRejected(f"{where}: {len(found)} labels, the model has {classes} outputs", hint=hint)
    if len(set(found)) != len(found):
        raise ScalerRejected(f"labels stand twice: {', '.join(found)}", hint="Name every output once.")
    sha256 = hashlib.sha256(content).hexdigest()
    return TrainingConfig(
        file.scaler_mean,
        file.scaler_scale,
        found,
        file.step_size,
        file.target_hz,
        sha256,
        found_names,
        found_units,
    )


_HINT = (
    "Expected: scaler_mean and scaler_scale (one number a channel), target_hz, step_size, and label_to_activity or "
    "activity_to_label."
)


def _check_scaler(path: Path, file: _File, channels: Sequence[str]) -> None:
    for field, values in (("scaler_mean", file.scaler_mean), ("scaler_scale", file.scaler_scale)):
        if len(values) != len(channels):
            message = f"{path}: {field} has {len(values)} channels, the model takes {len(channels)}"
            raise ScalerRejected(message, hint=_HINT)
    for channel, value in zip(channels, file.scaler_scale, strict=True):
        if value <= 0:
            hint = "A channel that did not vary in training cannot be scaled; leave it out and train again."
            raise ScalerRejected(f"{path}: scaler_scale of {channel!r} is {value:g}, expected above 0", hint=hint)


def _labels(path: Path, file: _File) -> tuple[str, ...]:
    tables = []
    if file.label_to_activity is not None:
        tables.append(dict(file.label_to_activity))
    if file.activity_to_label is not None:
        tables.append({number: name for name, number in file.activity_to_label.items()})
    if not tables:
        raise ScalerRejected(f"{path} has no labels", hint="Add label_to_activity, or give --labels A,B,...")
    if tables[0] != tables[-1]:
        raise ScalerRejected(f"{path}: label_to_activity and activity_to_label contradict each other")
    if sorted(tables[0]) != list(range(len(tables[0]))):
        raise ScalerRejected(f"{path}: labels are numbered {sorted(tables[0])}, expected 0, 1, 2 ...")
    return tuple(tables[0][number] for number in range(len(tables[0])))
