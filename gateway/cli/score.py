"""`gateway score`: a recording, or an array of windows, through the same grid, windows and model as a live wearable.

Standard output carries the summary, standard error the progress (on a terminal only). The output file appears whole or
not at all.
"""

import argparse
import csv
import io
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.bundle import Bundle, load_bundle
from gateway.cli.output import Progress, write_whole
from gateway.console import take_axes
from gateway.errors import InputRejected
from gateway.inference import Predictor, load_predictor
from gateway.motion.axes import parse_axes
from gateway.motion.channels import columns_of, six_wide
from gateway.motion.samples import CHANNELS, Float32
from gateway.motion.units import (
    ACC_UNITS,
    GYRO_UNITS,
    STANDARD_GRAVITY_M_S2,
    AccUnit,
    GyroUnit,
    check_gravity,
    deg_s_from,
    m_s2_from,
)
from gateway.recording import COLUMNS, read_recording

BATCH_WINDOWS = 64
"""Windows between two steps of the progress bar; an eighth of a second or so."""
_GRAVITY_WINDOWS_MAX = 2000
"""Windows of an array whose gravity is looked at; of 200 samples each, 10 MB."""
_ACC = {0, 1, 2}
"""Columns of the accelerometer."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "inputs",
        metavar="INPUT",
        nargs="+",
        type=Path,
        help=f"a recording: .csv or .parquet with the columns {', '.join(COLUMNS)} (those of a sensor that the model "
        "does not take may be missing), two of them with the columns of one sensor each, or two .xlsx files "
        "(accelerometer and gyroscope, as Garmin's export writes them); or windows: .npy, shape (n, window, channels), "
        "in the bundle's order of channels",
    )
    add("--bundle", metavar="B", type=Path, required=True, default=argparse.SUPPRESS, help="the model bundle's folder")
    add(
        "--out",
        metavar="FILE",
        type=Path,
        required=True,
        default=argparse.SUPPRESS,
        help="predictions as .csv (start_s, end_s, activity, confidence, one p_LABEL each; seconds on the recording's "
        "own clock), or for windows their probabilities as .npy; an existing file is replaced once all is done",
    )
    add("--variant", metavar="NAME", default=argparse.SUPPRESS, help="of the bundle's model (default: the bundle says)")
    add(
        "--acc-unit",
        choices=ACC_UNITS,
        default=argparse.SUPPRESS,
        help="of the accelerations in the input (default: mg for .xlsx, else m_s2)",
    )
    add("--gyro-unit", choices=GYRO_UNITS, default="deg_s", help="of the rates of turn in the input")
    add(
        "--frame",
        metavar="AXES",
        default="x,y,z",
        help="which axis of the input is the model's x, y and z, such as -y,x,z: its x is the input's -y, its y the "
        "input's x",
    )
    take_axes(parser)
    add(
        "--any-gravity",
        action="store_true",
        help="take input that shows no gravity of 9.81 m/s² at rest, such as noise",
    )


def run(args: argparse.Namespace) -> int:
    axes = parse_axes(args.frame)
    acc_unit: AccUnit | None = getattr(args, "acc_unit", None)
    windows_given = [path.suffix.lower() for path in args.inputs] == [".npy"]
    _check_out(args.out, ".npy" if windows_given else ".csv", args.inputs)
    bundle = load_bundle(args.bundle)
    columns = columns_of(bundle.manifest.channels, bundle.manifest.units, where=f"bundle {args.bundle}")
    predictor = load_predictor(bundle, getattr(args, "variant", None))
    with Progress(sys.stderr) as progress:
        if windows_given:
            scored = _score_array(args, bundle, predictor, columns, acc_unit or "m_s2", axes, progress)
        else:
            scored = _score_recording(args, bundle, predictor, columns, acc_unit, axes, progress)
    name, _ = bundle.variant(getattr(args, "variant", None))
    for key, text in [*scored, ("model", f"{bundle.manifest.model.name} {bundle.digest[:12]}, variant {name}")]:
        print(f"{key:<17} {text}")
    print(f"{'wrote':<17} {args.out}")
    return 0


Summary = list[tuple[str, str]]


def _score_recording(
    args: argparse.Namespace,
    bundle: Bundle,
    predictor: Predictor,
    columns: list[int],
    acc_unit: AccUnit | None,
    axes: Float32,
    progress: Progress,
) -> Summary:
    manifest = bundle.manifest
    progress.say("reading " + ", ".join(path.name for path in args.inputs))
    recording = read_recording(
        args.inputs, acc_unit=acc_unit, gyro_unit=args.gyro_unit, axes=axes, needed=manifest.channels
    )
    named = ", ".join(str(path) for path in args.inputs)
    if not args.any_gravity and _ACC & set(columns):
        require_gravity(named, recording.acc.values, recording.acc_unit)
    grid = recording.on_grid(manifest.rate_hz)
    windows, whole = grid.windows(manifest.window, manifest.hop), grid.whole(manifest.window, manifest.hop)
    if not whole.any():
        length = f"one window is {manifest.window} samples, {manifest.window / manifest.rate_hz:g} s"
        found = f"{len(grid.values)} rows on the grid, {len(grid.values) / manifest.rate_hz:g} s"
        if len(windows):
            raise InputRejected(f"{named}: every window has a gap in it ({len(grid.gaps)} gaps in {found}; {length})")
        raise InputRejected(f"{named}: shorter than one window ({found}; {length})")
    numbers = np.flatnonzero(whole)
    probabilities = _predict(predictor, len(numbers), lambda part: windows[numbers[part]][..., columns], progress)
    starts_s = grid.start_s + numbers * manifest.hop / manifest.rate_hz
    table = _predictions(starts_s, manifest.window / manifest.rate_hz, probabilities, manifest.labels)
    write_whole(args.out, table.encode(), named="--out")
    rows = f"{len(grid.values)} at {manifest.rate_hz:g} Hz ({len(grid.values) / manifest.rate_hz:.1f} s)"
    gaps = f"{len(grid.gaps)}, {len(windows) - len(numbers)} windows left out for them"
    return [
        ("rows on the grid", rows),
        ("windows", f"{len(numbers)} of {manifest.window} samples, one every {manifest.hop}"),
        ("gaps", gaps),
        ("repeated samples", f"{recording.repeated} left out"),
        *_answers(probabilities, manifest.labels),
    ]


def _score_array(
    args: argparse.Namespace,
    bundle: Bundle,
    predictor: Predictor,
    columns: list[int],
    acc_unit: AccUnit,
    axes: Float32,
    progress: Progress,
) -> Summary:
    path, channels = args.inputs[0], bundle.manifest.channels
    _check_axes(args.frame, axes, columns)
    windows = _read_windows(path, (bundle.manifest.window, len(columns)))
    if not args.any_gravity and set(columns) >= _ACC:
        some = six_wide(windows[:: -(-len(windows) // _GRAVITY_WINDOWS_MAX)], channels)[..., :3].reshape(-1, 3)
        require_gravity(str(path), m_s2_from(some.astype(np.float64), acc_unit), acc_unit)

    def batch(part: slice) -> Float32:
        return _in_model_units(six_wide(windows[part], channels), acc_unit, args.gyro_unit, axes)[..., columns]

    probabilities = _predict(predictor, len(windows), batch, progress)
    content = io.BytesIO()
    np.save(content, probabilities)
    write_whole(args.out, content.getvalue(), named="--out")
    return [("windows", str(len(windows))), *_answers(probabilities, bundle.manifest.labels)]


def require_gravity(source: str, acc_m_s2: NDArray[np.floating], taken_for: AccUnit) -> None:
    """Raises InputRejected where (n, 3) accelerations at rest are not near gravity: the model would answer all the
    same, and confidently."""
    check = check_gravity(acc_m_s2, taken_for)
    if check.plausible:
        return
    found = f"{source}: at rest the acceleration is {check.quiet_m_s2:.3g} m/s² when taken for {taken_for}"
    if check.likely is not None:
        hint = f"It looks like {check.likely}: give --acc-unit {check.likely}."
    else:
        hint = (
            "No unit explains it: was gravity taken out? The model needs it. (--any-gravity scores such input anyway.)"
        )
    raise InputRejected(f"{found}, expected about {STANDARD_GRAVITY_M_S2:.2f}", hint=hint)


def _read_windows(path: Path, shape: tuple[int, int]) -> NDArray[Any]:
    try:
        windows: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise InputRejected(f"{path}: {error.strerror or 'not an .npy file'}") from None
    except (ValueError, EOFError):
        raise InputRejected(f"{path}: not an .npy file of numbers") from None
    if windows.ndim != 3 or windows.shape[1:] != shape or windows.dtype.kind not in "fiu":
        found = f"{windows.dtype} of shape {windows.shape}"
        raise InputRejected(f"{path}: holds {found}, expected float32 of shape (n, {shape[0]}, {shape[1]})")
    if not len(windows):
        raise InputRejected(f"{path}: no windows in it")
    for first in range(0, len(windows), BATCH_WINDOWS):
        with np.errstate(over="ignore"):
            finite = np.isfinite(windows[first : first + BATCH_WINDOWS].astype(np.float32)).all(axis=(1, 2))
        if not finite.all():
            raise InputRejected(f"{path}, window {first + int(np.argmin(finite))}: a value that is no finite float32")
    return windows


def _check_axes(frame: str, axes: Float32, columns: list[int]) -> None:
    """Raises InputRejected where a channel of the model lies along one that its windows do not have."""
    for column in columns:
        source = column - column % 3 + int(np.abs(axes[column % 3]).argmax())
        if source not in columns:
            found = f"the model's {CHANNELS[column]} is the input's {CHANNELS[source]}"
            raise InputRejected(f"--frame {frame}: {found}, which windows for this bundle do not have")


def _in_model_units(windows: NDArray[Any], acc_unit: AccUnit, gyro_unit: GyroUnit, axes: Float32) -> Float32:
    acc = m_s2_from(windows[..., :3].astype(np.float64), acc_unit) @ axes.T
    gyro = deg_s_from(windows[..., 3:].astype(np.float64), gyro_unit) @ axes.T
    return np.concatenate([acc, gyro], axis=-1).astype(np.float32)


def _predict(predictor: Predictor, count: int, batch: Callable[[slice], Float32], progress: Progress) -> Float32:
    parts = []
    for first in range(0, count, BATCH_WINDOWS):
        progress.show(first, count, f"{first} of {count} windows")
        parts.append(predictor.predict(batch(slice(first, first + BATCH_WINDOWS))))
    progress.show(count, count, f"{count} of {count} windows")
    return np.concatenate(parts)


def _answers(probabilities: Float32, labels: Sequence[str]) -> Summary:
    top = Counter(labels[index] for index in probabilities.argmax(axis=1)).most_common()
    classes = ", ".join(f"{label} {count} ({count / len(probabilities):.1%})" for label, count in top)
    return [("classes", classes), ("mean confidence", f"{probabilities.max(axis=1).mean():.3f}")]


def _predictions(starts_s: NDArray[np.float64], length_s: float, probabilities: Float32, labels: Sequence[str]) -> str:
    """CSV. Numbers are the shortest that give the same float32 again; seconds to the microsecond."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["start_s", "end_s", "activity", "confidence", *(f"p_{label}" for label in labels)])
    for start_s, row in zip(starts_s.tolist(), probabilities, strict=True):
        top = int(row.argmax())
        times = (round(start_s, 6), round(start_s + length_s, 6))
        table.writerow([*times, labels[top], str(row[top]), *map(str, row)])
    return text.getvalue()


def _check_out(out: Path, suffix: str, inputs: Sequence[Path]) -> None:
    """Before the work, not after it."""
    if out.suffix.lower() != suffix:
        kind = "windows (.npy) give probabilities" if suffix == ".npy" else "a recording gives predictions"
        raise InputRejected(f"--out {out}: {kind}, expected a name that ends in {suffix}")
    if any(out.resolve() == path.resolve() for path in inputs):
        raise InputRejected(f"--out {out}: that is the input", hint="Name another file.")
    if out.is_dir() or not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
        raise InputRejected(
            f"--out {out}: cannot be written there", hint="Name a file in a folder that can be written."
        )
