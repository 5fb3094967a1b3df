"""`gateway events`: what the event log holds, beside a running daemon or without one."""

import argparse
import csv
import json
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from gateway.cli.arguments import add_config
from gateway.cli.stored import Line, Range, add_range, check_wearable, clocks_of, lines_of, opened, times

if TYPE_CHECKING:
    from gateway.client import Clocks
    from gateway.store.rows import LoggedEvent

KINDS = ("prediction", "drift", "state", "clock")
LAST = 20
FOLLOW_S = 0.5
COLUMNS = (
    "seq", "time", "uncertainty_s", "earliest", "latest", "kind", "wearable", "wearer", "gateway", "session", "window",
    "activity", "decision", "reasons", "confidence", "text",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Lists what the event log holds, whether a daemon runs or not: by default the newest events, with --from or "
        "--to all of that time. A prediction is as old as its window, every other event as itself; times that were not "
        "known when an event was made are those that are known now, and where only the order of boots tells, two "
        "bounds. Exit codes: 0 also where there is nothing; 1 the database cannot be read; 2 something is wrong with "
        "the input."
    )
    add_config(parser)
    add_range(parser)
    parser.add_argument("--kind", choices=KINDS, help="events of one kind; all of them without it")
    parser.add_argument("--last", type=int, metavar="N", default=LAST, help="so many, where no time is asked for")
    parser.add_argument("--all", action="store_true", help="all of them")
    parser.add_argument("--follow", action="store_true", help="and those that come, until Ctrl-C")
    parser.add_argument(
        "--format",
        choices=("table", "jsonl", "csv"),
        default="table",
        help="table for people; jsonl: an object a line with `event` as it is published; csv: a row for each window",
    )


def run(args: argparse.Namespace) -> int:
    from gateway.clock import Clock
    from gateway.config import load_config
    from gateway.errors import InputRejected

    if args.last < 1:
        raise InputRejected(f"--last {args.last}: expected 1 or more")
    config = load_config(args.config)
    wanted = Range.of(args, Clock().now().utc_ns)
    with opened(config.store.path, following=args.follow) as archive:
        check_wearable(archive, args.wearable, [wearable.id for wearable in config.wearables])
        chosen = {"kind": args.kind, "wearable": args.wearable}
        write = _writer(args.format, max((len(one.wearable) for one in archive.wearables()), default=0))
        clocks = clocks_of(archive)
        after = archive.last_seq()
        timed = wanted != Range(None, None)
        for logged in archive.events(**chosen) if timed or args.all else archive.newest_events(args.last, **chosen):
            after = max(after, logged.seq)
            _tell(logged, clocks, wanted, write)
        sys.stdout.flush()
        pause = threading.Event()
        while args.follow:
            pause.wait(FOLLOW_S)
            for logged in archive.events(after=after):
                after = logged.seq
                _heed(logged, clocks)
                if args.kind in (None, logged.kind) and args.wearable in (None, logged.wearable):
                    _tell(logged, clocks, wanted, write)
            sys.stdout.flush()
    return 0


def _heed(logged: "LoggedEvent", clocks: "Clocks") -> None:
    for line in lines_of(logged, clocks):
        if line.event is not None:
            clocks.heed(line.event)


def _tell(logged: "LoggedEvent", clocks: "Clocks", wanted: Range, write: Callable[[list[Line]], None]) -> None:
    lines = [line for line in lines_of(logged, clocks) if wanted.may_have(line.when)]
    if lines:
        write(lines)


def _writer(form: str, width: int) -> Callable[[list[Line]], None]:
    if form == "jsonl":
        return lambda lines: print(_object(lines[0]))
    if form == "csv":
        table = csv.writer(sys.stdout, lineterminator="\n")
        table.writerow(COLUMNS)
        return lambda lines: table.writerows(map(_cells, lines))

    def write(lines: list[Line]) -> None:
        for line in lines:
            logged = line.logged
            print(f"{line.when!s:<27}  {logged.wearable or '-':<{width}}  {logged.kind:<10}  {text_of(line)}")

    return write


def _texts(line: Line) -> dict[str, Any]:
    from gateway.events import rfc3339

    told = times(line.when)
    for name in ("time", "earliest", "latest"):
        told[name] = None if told[name] is None else rfc3339(told[name] * 1000)
    return told


def _object(line: Line) -> str:
    head = {"seq": line.logged.seq, **_texts(line), "topic": line.logged.topic}
    told = json.dumps({name: value for name, value in head.items() if value is not None}, separators=(",", ":"))
    return f'{told[:-1]},"event":{line.logged.payload.decode(errors="replace")}}}'


def _cells(line: Line) -> list[Any]:
    event, record, logged = line.event, line.record, line.logged
    cells: dict[str, Any] = {"seq": logged.seq, **_texts(line), "kind": logged.kind, "wearable": logged.wearable}
    if event is not None:
        cells |= {"wearer": event.subject, "gateway": event.gateway, "session": getattr(event.data, "session", None)}
    if record is not None:
        cells |= {
            "window": record.number,
            "activity": record.activity,
            "decision": record.decision,
            "reasons": " ".join(record.reasons),
            "confidence": record.confidence,
        }
    else:
        cells["text"] = text_of(line)
    return [cells.get(name) for name in COLUMNS]


def text_of(line: Line) -> str:
    """What it says, in a line for people."""
    from gateway import events

    event, record = line.event, line.record
    if record is not None:
        told = f"{record.activity} {record.confidence:.2f}, window {record.number}"
        return told if record.decision == "activity" else f"uncertain ({', '.join(record.reasons)}): {told}"
    match event:
        case events.Clock(data=data):
            return f"boot {data.boot[:8]} knows the time, give or take {data.uncertainty_us / 1e6:g} s"
        case events.Drift(data=data):
            spans = f"{data.windows} windows from {data.start_s:g} s to {data.end_s:g} s of its session"
            far = max((f.distance or 0, name) for name, f in data.features.items()) if data.features else (0, "")
            return spans + (f", farthest from the training data: {far[1]} ({far[0]:.2f})" if far[0] else "")
        case events.State(data=events.WearableState() as data):
            return ", ".join(_state(data))
        case events.State(data=events.GatewayState() as data):
            dropped = sum(one.count for one in data.store.dropped) if data.store else 0
            store = f", store {data.store.status}, {dropped} rows dropped in all" if data.store else ""
            return f"gateway {data.status}, start {data.start}{store}"
    return "cannot be read by this version"


def _state(data: Any) -> Iterator[str]:
    yield str(data.link)
    if data.battery_percent is not None:
        yield f"battery {data.battery_percent} %"
    if data.ring_held is not None:
        yield f"ring holds {data.ring_held} samples"
    if data.worn is not None:
        yield "worn" if data.worn else "not worn"
    if data.mounting == "contradicted":
        yield f"mounting contradicted, {data.mounting_fits} would fit"
    yield f"{data.windows} windows, {data.samples_lost} samples lost"
