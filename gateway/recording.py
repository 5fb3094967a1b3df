"""Recordings from files to samples in SI units.

Four forms are read, each with the units that its writers use unless others are given:

- a pair of Excel files (.xlsx), accelerometer and gyroscope, as Garmin's research export writes them: one row for each
  burst, with `timestamp` (local wall clock as text, to the second), `timestamp_ms` (0-999), `sample_time_offset` (JSON
  list of ms after that) and three columns of JSON lists, named calibrated_accel_x and so on; mg and deg/s
- CSV with the columns timestamp_s, Ax, Ay, Az, Gx, Gy, Gz, in any order, others ignored; m/s² and deg/s
- Parquet with the same columns
- two CSV or two Parquet files, one of each sensor, for sensors that have times of their own

CSV and Parquet may lack the three columns of a sensor that the caller does not need.
"""

import csv
import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.errors import InputRejected
from gateway.motion.channels import six_wide
from gateway.motion.grid import Float64, Grid, RecordingRejected, SensorSeries, in_order, on_grid
from gateway.motion.samples import CHANNELS, Float32
from gateway.motion.units import AccUnit, GyroUnit, deg_s_from, m_s2_from

TIME_COLUMN = "timestamp_s"
COLUMNS = (TIME_COLUMN, *CHANNELS)
_SENSORS = (CHANNELS[:3], CHANNELS[3:])
BACKWARDS_MAX_S = 1.0
"""Bursts overlap by some milliseconds and are put in order; a larger step back is another recording or clock."""

_EXCEL_TIME_COLUMNS = ("timestamp", "timestamp_ms", "sample_time_offset")
_EXCEL_VALUE_COLUMN = re.compile(r"(accel|gyro)\w*_([xyz])$")
_EXCEL_CLOCK = "%m/%d/%Y, %I:%M:%S %p"


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """acc in m/s², gyro in deg/s, in the frame asked for; timestamps in s, for Excel since the first acceleration.

    acc_unit: what the accelerations were taken for. repeated: samples left out because another has their time.
    channels: what was in the files; those of a sensor that was not are zeros, at the times of the other one.
    """

    acc: SensorSeries
    gyro: SensorSeries
    acc_unit: AccUnit
    repeated: int
    channels: tuple[str, ...] = CHANNELS

    def on_grid(self, rate_hz: float) -> Grid:
        """Raises RecordingRejected."""
        return on_grid(self.acc, self.gyro, rate_hz)


def read_recording(
    paths: Sequence[Path],
    *,
    acc_unit: AccUnit | None = None,
    gyro_unit: GyroUnit | None = None,
    axes: Float32 | None = None,
    needed: Sequence[str] = CHANNELS,
) -> Recording:
    """Reads one file, or the two of a pair in either order.

    acc_unit, gyro_unit: of the files' values; None is what the form usually has. axes: (3, 3) from the recording's
    frame to the one wanted (gateway.motion.axes), None leaves it. needed: some of CHANNELS; a sensor with none of them
    may be missing, of another one all three columns must be there. Raises RecordingRejected, with file and row where
    one is at fault.
    """
    channels: tuple[str, ...] = CHANNELS
    match [path.suffix.lower() for path in paths]:
        case [".xlsx", ".xlsx"]:
            acc, gyro = _read_excel_pair(paths)
            acc_unit = acc_unit or "mg"
        case [".csv"]:
            acc, gyro, channels = _read_csv(paths[0], needed)
        case [".parquet"]:
            acc, gyro, channels = _read_parquet(paths[0], needed)
        case [".csv", ".csv"]:
            acc, gyro = _pair([_read_csv(path, ()) for path in paths])
        case [".parquet", ".parquet"]:
            acc, gyro = _pair([_read_parquet(path, ()) for path in paths])
        case _:
            raise RecordingRejected(
                f"{', '.join(path.name for path in paths)}: not a recording that can be read",
                hint="Give one .csv or .parquet, or two .xlsx, .csv or .parquet files (accelerometer and gyroscope).",
            )
    acc_unit, gyro_unit = acc_unit or "m_s2", gyro_unit or "deg_s"
    acc_series, acc_repeated = acc.ordered(m_s2_from(acc.values, acc_unit), axes)
    gyro_series, gyro_repeated = gyro.ordered(deg_s_from(gyro.values, gyro_unit), axes)
    repeated = max(acc_repeated, gyro_repeated) if acc.path == gyro.path else acc_repeated + gyro_repeated
    return Recording(acc_series, gyro_series, acc_unit, repeated, channels)


@dataclass(frozen=True, slots=True, eq=False)
class _Raw:
    """One sensor's samples as the file has them. lines: of the file, one a sample, 1 is its first."""

    path: Path
    timestamps_s: Float64
    values: Float64
    lines: NDArray[np.int64]

    def ordered(self, values: Float64, axes: Float32 | None) -> tuple[SensorSeries, int]:
        if len(values) == 0:
            raise RecordingRejected(f"{self.path}: no samples in it")
        bad = ~(np.isfinite(values).all(axis=1) & np.isfinite(self.timestamps_s))
        if bad.any():
            raise RecordingRejected(
                f"{self.path}, row {self.lines[np.argmax(bad)]}: a value that is no finite number",
                hint="Leave such rows out; a gap is dealt with, an invented number is not.",
            )
        back_s = np.maximum.accumulate(self.timestamps_s) - self.timestamps_s
        if back_s.max() > BACKWARDS_MAX_S:
            row = self.lines[np.argmax(back_s > BACKWARDS_MAX_S)]
            raise RecordingRejected(
                f"{self.path}, row {row}: time goes back by {back_s.max():.6g} s",
                hint="One recording a file, in the order of time, with timestamps in seconds.",
            )
        return in_order(self.timestamps_s, values if axes is None else values @ axes.T.astype(np.float64))


def _missing_columns(path: Path, missing: Sequence[str], found: Sequence[object]) -> RecordingRejected:
    named = ", ".join(str(name) for name in found if name is not None) or "none"
    return RecordingRejected(
        f"{path}: no column {', '.join(missing)}",
        hint=f"The columns found are: {named[:300]}. See gateway score --help.",
    )


def _unreadable(path: Path, what: str, error: Exception) -> RecordingRejected:
    if isinstance(error, OSError) and error.strerror:
        return RecordingRejected(f"{path}: {error.strerror}")
    return RecordingRejected(f"{path}: not {what}")


# CSV and Parquet


def _channels(path: Path, found: Sequence[str], needed: Sequence[str]) -> tuple[str, ...]:
    """Those of the sensors that are whole. Raises RecordingRejected where a needed one is not."""
    asked = [name for sensor in _SENSORS if set(sensor) & set(needed) for name in sensor]
    if missing := [name for name in (TIME_COLUMN, *asked) if name not in found]:
        raise _missing_columns(path, missing, found)
    return tuple(name for sensor in _SENSORS if set(sensor) <= set(found) for name in sensor)


_Both = tuple[_Raw, _Raw, tuple[str, ...]]


def _read_csv(path: Path, needed: Sequence[str]) -> _Both:
    columns: tuple[str, ...] = ()
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = [name.strip() for name in next(csv.reader(file), [])]
            columns = (TIME_COLUMN, *_channels(path, header, needed))
            places = [header.index(name) for name in columns]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # "input contained no data": said in our own words
                table = np.loadtxt(file, delimiter=",", comments=None, quotechar='"', usecols=places, ndmin=2)
    except ValueError as error:
        raise _first_bad_row(path, columns) or _unreadable(path, "a CSV file", error) from None
    except (OSError, csv.Error) as error:
        raise _unreadable(path, "a CSV file", error) from None
    table = table.reshape(-1, len(columns))
    if not np.isfinite(table).all() and (bad := _first_bad_row(path, columns)):
        raise bad
    return _both(path, table, columns[1:], first_line=2)


def _first_bad_row(path: Path, columns: Sequence[str]) -> RecordingRejected | None:
    """Names the first row of a CSV file that is not made of finite numbers."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
            for row in reader:
                for name in columns:
                    if not _is_finite(text := row[name]):
                        raise RecordingRejected(
                            f"{path}, row {reader.line_num}: {name} is {(text or '')[:40]!r}, expected a finite number",
                            hint="Leave such rows out; a gap is dealt with, an invented number is not.",
                        )
    except RecordingRejected as error:
        return error
    except (ValueError, csv.Error):
        return None
    return None


def _is_finite(text: str | None) -> bool:
    try:
        return bool(np.isfinite(float(text or "")))
    except ValueError:
        return False


def _read_parquet(path: Path, needed: Sequence[str]) -> _Both:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise InputRejected(
            f"{path}: reading Parquet needs pyarrow", hint="pip install 'fidget-gateway[parquet]'"
        ) from None
    try:
        with path.open("rb") as file:
            channels = _channels(path, pq.read_schema(file).names, needed)
            table = pq.read_table(file, columns=[TIME_COLUMN, *channels])
        columns = [table[name].cast(pa.float64()).to_numpy() for name in (TIME_COLUMN, *channels)]
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _unreadable(path, "a Parquet file with a number in each of its columns", error) from None
    return _both(path, np.stack(columns, axis=1), channels, first_line=1)


def _both(path: Path, table: Float64, channels: tuple[str, ...], *, first_line: int) -> _Both:
    """table: the times and these channels."""
    lines, times_s = np.arange(first_line, first_line + len(table)), table[:, 0]
    values = six_wide(table[:, 1:], channels)
    return _Raw(path, times_s, values[:, :3], lines), _Raw(path, times_s, values[:, 3:], lines), channels


def _pair(files: Sequence[_Both]) -> tuple[_Raw, _Raw]:
    """The accelerometer's file and the gyroscope's, in either order."""
    by_sensor = {channels: (acc, gyro) for acc, gyro, channels in files}
    if set(by_sensor) != set(_SENSORS):
        (first, _, _), (second, _, _) = files
        one, other = (", ".join(channels) or "no sensor" for _, _, channels in files)
        raise RecordingRejected(
            f"{first.path} and {second.path}: they hold {one} and {other}",
            hint="Of two files one holds Ax, Ay, Az and the other Gx, Gy, Gz.",
        )
    return by_sensor[_SENSORS[0]][0], by_sensor[_SENSORS[1]][1]


# Excel


def _read_excel_pair(paths: Sequence[Path]) -> tuple[_Raw, _Raw]:
    sensors = dict(_read_excel(path) for path in paths)
    if set(sensors) != {"accel", "gyro"}:
        raise RecordingRejected(
            f"{paths[0]} and {paths[1]}: both hold the columns of the {next(iter(sensors))} sensor",
            hint="Give one file of the accelerometer and one of the gyroscope.",
        )
    start_s = sensors["accel"].timestamps_s[:1].sum()  # 0 where there are no samples, which is said later
    acc, gyro = (
        _Raw(raw.path, np.round(raw.timestamps_s - start_s, 6), raw.values, raw.lines)
        for raw in (sensors["accel"], sensors["gyro"])
    )
    return acc, gyro


def _read_excel(path: Path) -> tuple[str, _Raw]:
    """("accel" or "gyro", its samples, with timestamps in s of the wall clock)."""
    try:
        from openpyxl import load_workbook
    except ImportError:
        raise InputRejected(
            f"{path}: reading Excel needs openpyxl", hint="pip install 'fidget-gateway[excel]'"
        ) from None
    try:
        book = load_workbook(path, read_only=True, data_only=True)
        try:
            rows = list(book.worksheets[0].iter_rows(values_only=True))
        finally:
            book.close()
    except OSError as error:
        raise _unreadable(path, "an Excel file (.xlsx)", error) from None
    except Exception as error:  # a damaged workbook makes openpyxl raise whatever its parser stumbles over
        raise _unreadable(path, "an Excel file (.xlsx)", error) from None
    header, *bursts = rows or [()]
    sensor, columns = _excel_columns(path, header)
    times: list[Float64] = []
    values: list[NDArray[Any]] = []
    lines: list[int] = []
    seconds: dict[object, float] = {}
    for line, burst in enumerate(bursts, 2):
        if all(cell is None for cell in burst):
            continue
        try:
            clock, ms, offsets, *axes = (burst[column] for column in columns)
            if clock not in seconds:
                seconds[clock] = _wall_clock_s(clock)
            lists = np.array([_numbers(cell) for cell in (offsets, *axes)], np.float64)
            times.append(seconds[clock] + (float(ms) + lists[0]) / 1000)  # type: ignore[arg-type]
        except (ValueError, TypeError, IndexError) as error:
            detail = "its lists differ in length" if "inhomogeneous" in str(error) else str(error)
            raise RecordingRejected(
                f"{path}, row {line}: {detail}",
                hint=f"Each row has a time and four JSON lists of equal length: {', '.join(map(str, header))[:300]}.",
            ) from None
        values.append(lists[1:].T)
        lines += [line] * len(values[-1])
    if not values:
        raise RecordingRejected(f"{path}: no samples in it")
    return sensor, _Raw(path, np.concatenate(times), np.concatenate(values), np.array(lines))


def _excel_columns(path: Path, header: Sequence[object]) -> tuple[str, list[int]]:
    """Which sensor, and where its columns stand: the three of time, then x, y and z."""
    names = [str(name).strip() if name is not None else "" for name in header]
    axes: dict[str, dict[str, int]] = {"accel": {}, "gyro": {}}
    for index, name in enumerate(names):
        if match := _EXCEL_VALUE_COLUMN.search(name):
            axes[match[1]].setdefault(match[2], index)
    sensor = max(axes, key=lambda name: len(axes[name]))
    missing = [name for name in _EXCEL_TIME_COLUMNS if name not in names]
    missing += [f"calibrated_{sensor}_{axis}" for axis in "xyz" if axis not in axes[sensor]]
    if missing:
        raise _missing_columns(path, missing, header)
    return sensor, [*(names.index(name) for name in _EXCEL_TIME_COLUMNS), *(axes[sensor][axis] for axis in "xyz")]


def _wall_clock_s(clock: object) -> float:
    """Of a wall clock without a zone; only differences of it are used."""
    if not isinstance(clock, datetime):
        try:
            clock = datetime.strptime(str(clock), _EXCEL_CLOCK)  # noqa: DTZ007
        except ValueError:
            raise ValueError(f"timestamp is {clock!r}, expected such as '03/24/2025, 07:52:19 AM'") from None
    return clock.replace(tzinfo=UTC).timestamp()


def _numbers(cell: object) -> list[float]:
    numbers = json.loads(str(cell))
    if not isinstance(numbers, list):
        raise ValueError(f"{str(cell)[:40]!r} is no JSON list")
    return numbers
