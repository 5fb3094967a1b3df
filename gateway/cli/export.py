"""`gateway export`: predictions or raw samples of a range of time, as CSV or Parquet.

Raw samples are in the order in which they came, which for what a wearable had kept is later than for what was live.
"""

import argparse
import csv
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from gateway.cli.arguments import add_config
from gateway.cli.stored import Line, Range, add_range, check_wearable, clocks_of, lines_of, opened, times
from gateway.client.clocks import Clocks, When
from gateway.errors import InputRejected
from gateway.events import Prediction, rfc3339
from gateway.motion.samples import CHANNELS
from gateway.profiles import profile_of
from gateway.store.archive import Archive
from gateway.stream.raw import Raw, RawReader

if TYPE_CHECKING:
    from gateway.config import Config

ROWS_A_GROUP = 10_000
"""Rows that are held before they are written: some 50 MB as Python has them."""
_TIMES = {"time": "utc", "uncertainty_s": "float", "earliest": "utc", "latest": "utc"}
_WINDOW = {
    "wearable": "text", "wearer": "text", "gateway": "text", "session": "text", "window": "int", "start_s": "float",
    "length_s": "float", "activity": "text", "confidence": "float", "decision": "text", "reasons": "text",
    "interpolated": "float", "saturated": "bool", "uncounted": "bool", "bundle": "text", "variant": "text",
    "derivation": "text", "id": "text", "boot_id": "text",
}  # fmt: skip
_SAMPLE = {
    "wearable": "text", "session": "text", "sensor": "text", "sample": "int", "device_s": "float",
    **dict.fromkeys(CHANNELS, "float32"), "saturated": "bool", "boot_id": "text",
}  # fmt: skip

Row = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Writes predictions, a row for each window, or raw samples, in m/s² and deg/s and in the sensor's own axes, as "
        "CSV or Parquet. Times are UTC as they are known by now: `time` give or take `uncertainty_s`, or where only "
        "the order of boots tells, `earliest` and `latest`. Raw samples are kept for [store] journal_retention_s after "
        "their use. Exit codes: 0 also where there is nothing; 1 the database cannot be read; 2 something is wrong "
        "with the input."
    )
    parser.add_argument("what", choices=("predictions", "samples"), help="what to write")
    add_config(parser)
    add_range(parser)
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        default=argparse.SUPPRESS,
        help="ends in .csv or .parquet; replaced once all is done",
    )


def run(args: argparse.Namespace) -> int:
    from gateway.clock import Clock
    from gateway.config import load_config

    config = load_config(args.config)
    wanted = Range.of(args, Clock().now().utc_ns)
    table = _table_of(args.out)
    with opened(config.store.path) as archive:
        check_wearable(archive, args.wearable, [wearable.id for wearable in config.wearables])
        clocks = clocks_of(archive)
        if args.what == "predictions":
            columns, rows = _predictions(archive, clocks, wanted, args.wearable)
            notes: list[str] = []
        else:
            notes = []
            columns, rows = _SAMPLE, _samples(archive, clocks, wanted, config, args.wearable, notes)
        with _replacing(args.out) as part:
            written = table(part, _TIMES | columns, rows)
    for note in notes:
        print(note, file=sys.stderr)
    print(f"{written} {'windows' if args.what == 'predictions' else 'rows of samples'} in {args.out}")
    return 0


# Rows.


def _predictions(
    archive: Archive, clocks: Clocks, wanted: Range, wearable: str | None
) -> tuple[dict[str, str], Iterator[Row]]:
    """Columns have the labels of every bundle that answered, so all are looked through first."""

    def lines() -> Iterator[Line]:
        for logged in archive.events(kind="prediction", wearable=wearable):
            yield from (line for line in lines_of(logged, clocks) if line.record and wanted.may_have(line.when))

    labels = dict.fromkeys(label for line in lines() if line.record for label in line.record.probabilities)
    return _WINDOW | {f"p_{label}": "float" for label in labels}, map(_window, lines())


def _window(line: Line) -> Row:
    event, record = line.event, line.record
    assert isinstance(event, Prediction)
    assert record is not None
    data, quality = event.data, record.quality
    return {
        **times(line.when),
        "wearable": line.logged.wearable,
        "wearer": event.subject,
        "gateway": event.gateway,
        "session": data.session,
        "window": record.number,
        "start_s": record.start_s,
        "length_s": data.window / data.rate_hz,
        "activity": record.activity,
        "confidence": record.confidence,
        "decision": record.decision,
        "reasons": " ".join(record.reasons),
        "interpolated": quality.interpolated,
        "saturated": quality.saturated,
        "uncounted": quality.uncounted is True,
        "bundle": data.bundle,
        "variant": data.variant,
        "derivation": data.derivation,
        "id": event.id,
        "boot_id": event.bootid,
        **{f"p_{label}": probability for label, probability in record.probabilities.items()},
    }


def _samples(
    archive: Archive, clocks: Clocks, wanted: Range, config: "Config", wearable: str | None, notes: list[str]
) -> Iterator[Row]:
    known = {one.id: one for one in config.wearables}
    for name in [wearable] if wearable is not None else [one.wearable for one in archive.wearables()]:
        if name not in known:
            notes.append(f"{name}: left out, since the configuration does not say of which profile it is")
            continue
        record = archive.stream(name)
        reader = RawReader(profile_of(known[name].profile), record.snapshot if record else b"")
        for row in archive.journal(name):
            for raw in reader.advance(row):
                yield from _sample_rows(name, raw, clocks, wanted)
        for raw in reader.finish():
            yield from _sample_rows(name, raw, clocks, wanted)
        if reader.frames_left_out:
            notes.append(
                f"{name}: {reader.frames_left_out} frames left out: malformed, or the beginning of their link is kept "
                "no more"
            )


def _sample_rows(name: str, raw: Raw, clocks: Clocks, wanted: Range) -> Iterator[Row]:
    """One for each sample. A boot's clock is taken for one line over this second or so."""
    columns = CHANNELS[raw.sensor.columns]
    taken_us = None if raw.taken_mono_ns is None else raw.taken_mono_ns // 1000
    first = None if taken_us is None else clocks.at(raw.boot_id, int(taken_us[0])).widened(raw.uncertainty_ns // 1000)
    for index, values in enumerate(raw.values.tolist()):
        when = When(None, None, False)
        if first is not None and taken_us is not None:
            ahead_us = int(taken_us[index] - taken_us[0])
            when = When(
                None if first.earliest_us is None else first.earliest_us + ahead_us,
                None if first.latest_us is None else first.latest_us + ahead_us,
                first.exact,
            )
        if wanted.may_have(when):
            yield {
                **times(when),
                "wearable": name,
                "session": f"{raw.session:016x}",
                "sensor": str(raw.sensor),
                "sample": raw.first + index,
                "device_s": int(raw.device_ns[index]) / 1e9,
                **dict(zip(columns, values, strict=True)),
                "saturated": raw.saturated,
                "boot_id": raw.boot_id,
            }


# Files.


class _Table(Protocol):
    def __call__(self, part: Path, columns: dict[str, str], rows: Iterator[Row], /) -> int: ...


def _table_of(out: Path) -> _Table:
    """Raises InputRejected."""
    suffix = out.suffix.lower()
    if suffix not in (".csv", ".parquet"):
        raise InputRejected(f"--out {out}: expected a name that ends in .csv or .parquet")
    if out.is_dir() or not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
        raise InputRejected(
            f"--out {out}: cannot be written there", hint="Name a file in a folder that can be written."
        )
    if suffix == ".csv":
        return _write_csv
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise InputRejected(
            f"--out {out}: Parquet needs the package pyarrow, which is not installed",
            hint='Install it with pip install "fidget-gateway[parquet]", or name a .csv file.',
        ) from None
    return _write_parquet


@contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    """A file beside it, which takes its place once the block is done. Raises InputRejected."""
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, out)
    except OSError as error:
        raise InputRejected(f"--out {out}: {error.strerror or error}") from None
    finally:
        part.unlink(missing_ok=True)


def _write_csv(part: Path, columns: dict[str, str], rows: Iterator[Row]) -> int:
    """Numbers are the shortest that give the same again."""
    written = 0
    text = {name: _TEXTS[kind] for name, kind in columns.items() if kind in _TEXTS}
    with part.open("x", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(columns)
        for row in rows:
            cells = [row.get(name) for name in columns]
            table.writerow(
                cell if cell is None or name not in text else text[name](cell)
                for name, cell in zip(columns, cells, strict=True)
            )
            written += 1
    return written


_TEXTS: dict[str, Callable[[Any], str]] = {
    "utc": lambda us: rfc3339(us * 1000),
    "float32": lambda value: str(np.float32(value)),
    "bool": lambda value: "true" if value else "false",
}


def _write_parquet(part: Path, columns: dict[str, str], rows: Iterator[Row]) -> int:
    import pyarrow as pa
    from pyarrow import parquet

    types = {
        "utc": pa.timestamp("us", tz="UTC"), "float": pa.float64(), "float32": pa.float32(), "int": pa.int64(),
        "bool": pa.bool_(), "text": pa.string(),
    }  # fmt: skip
    schema = pa.schema([(name, types[kind]) for name, kind in columns.items()])
    written = 0
    with parquet.ParquetWriter(part, schema) as table:
        for group in _grouped(rows):
            table.write_table(pa.Table.from_pylist(group, schema))
            written += len(group)
    return written


def _grouped(rows: Iterator[Row]) -> Iterator[Sequence[Row]]:
    group: list[Row] = []
    for row in rows:
        group.append(row)
        if len(group) == ROWS_A_GROUP:
            yield group
            group = []
    if group:
        yield group
