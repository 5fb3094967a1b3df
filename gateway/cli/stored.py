"""What commands read of the database: events and windows with their times, amended by all that is known by now."""

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from gateway.client.clocks import TIME_UNCERTAINTY_US, Clocks, When
from gateway.errors import InputRejected
from gateway.events import Event, EventRejected, Prediction, WindowRecord, decode
from gateway.store.archive import Archive
from gateway.store.rows import LoggedEvent

_SPAN = re.compile(r"(\d+(?:\.\d+)?)(s|min|m|h|d|w)")
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def add_range(parser: argparse.ArgumentParser) -> None:
    """--from, --to and --wearable."""
    when = "UTC such as 2026-03-01, 2026-03-01T12:00 or with +01:00 behind it, or how long ago: 90s, 30min, 2h, 1d"
    parser.add_argument("--from", dest="since", metavar="TIME", help=f"what was not before it: {when}")
    parser.add_argument("--to", dest="until", metavar="TIME", help="what was before it")
    parser.add_argument("--wearable", metavar="WEARABLE", help="its id; all of them without it")


@dataclass(frozen=True, slots=True)
class Range:
    """UTC in microseconds; what is only known within bounds is in it unless these rule it out."""

    since_us: int | None
    until_us: int | None

    @classmethod
    def of(cls, args: argparse.Namespace, now_utc_ns: int) -> "Range":
        """Raises InputRejected."""
        given = [("--from", args.since), ("--to", args.until)]
        made = cls(*(None if text is None else moment_us(text, name, now_utc_ns) for name, text in given))
        if made.since_us is not None and made.until_us is not None and made.since_us >= made.until_us:
            raise InputRejected(f"--from {args.since} --to {args.until}: nothing lies between them")
        return made

    def may_have(self, when: When) -> bool:
        early = self.since_us is not None and when.latest_us is not None and _sure(when, when.latest_us) < self.since_us
        late = self.until_us is not None and when.earliest_us is not None
        return not early and not (late and _sure(when, when.earliest_us or 0) >= (self.until_us or 0))


def _sure(when: When, bound_us: int) -> int:
    """A time that is known counts as it is told, or neighbours in one list would come apart."""
    return bound_us if when.utc_us is None else when.utc_us


def moment_us(text: str, named: str, now_utc_ns: int) -> int:
    """Raises InputRejected."""
    span = _SPAN.fullmatch(text)
    try:
        if span is not None:
            return now_utc_ns // 1000 - round(float(span[1]) * _SECONDS[span[2]] * 1e6)
        moment = datetime.fromisoformat(text)
        return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) // timedelta(microseconds=1)
    except (ValueError, OverflowError):
        raise InputRejected(
            f"{named} {text!r}: no time",
            hint="UTC such as 2026-03-01 or 2026-03-01T12:00, or how long ago, such as 30min, 2h or 1d.",
        ) from None


def opened(path: Path, *, following: bool = False) -> Archive:
    """Raises GatewayError; where there is no database yet with what to do."""
    if not path.exists():
        raise InputRejected(f"store {path}: not there", hint="It is made when the daemon first runs: gateway run.")
    return Archive(path, following=following)


def check_wearable(archive: Archive, wearable: str | None, configured: list[str]) -> None:
    """Raises InputRejected where nobody knows it."""
    known = sorted({*configured, *(one.wearable for one in archive.wearables())})
    if wearable is not None and wearable not in known:
        raise InputRejected(
            f"no wearable {wearable!r}, neither configured nor stored", hint=f"There are: {', '.join(known)}."
        )


def clocks_of(archive: Archive) -> Clocks:
    """All that the database knows of time."""
    clocks = Clocks()
    for boot in archive.boots():
        clocks.rank("", boot.number, boot.id)
        if boot.last_mono_ns is not None:
            clocks.saw(boot.id, boot.last_mono_ns // 1000)
    for event in archive.events(kind="clock"):
        clocks.heed(decode(event.payload))
    for at in archive.synchronized():
        clocks.tell(at.boot_id, at.mono_ns // 1000, (at.utc_ns - at.mono_ns) // 1000, TIME_UNCERTAINTY_US)
    return clocks


@dataclass(frozen=True, slots=True)
class Line:
    """A window of a prediction, or another event. event: None where it cannot be read."""

    logged: LoggedEvent
    event: Event | None
    record: WindowRecord | None
    when: When


def lines_of(logged: LoggedEvent, clocks: Clocks) -> Iterator[Line]:
    """Of a prediction one for each window, with the time at which it was taken; of others when they were made."""
    try:
        event = decode(logged.payload)
    except EventRejected:
        yield Line(logged, None, None, clocks.at(logged.boot_id, 0))
        return
    if not isinstance(event, Prediction):
        yield Line(logged, event, None, clocks.made(event))
        return
    for record in event.data.windows:
        yield Line(logged, event, record, clocks.taken(event, record))


def times(when: When) -> dict[str, Any]:
    """The columns that tell a time: time and uncertainty_s where it is known, earliest and latest where it is not."""
    known = when.utc_us is not None
    return {
        "time": when.utc_us,
        "uncertainty_s": (when.uncertainty_us or 0) / 1e6 if known else None,
        "earliest": None if known else when.earliest_us,
        "latest": None if known else when.latest_us,
    }
