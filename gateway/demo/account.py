"""The account: what the wearables made against what arrived. Imports nothing of the gateway, on purpose.

    python -m gateway.demo.account DIR

What comes in are files that others wrote: the simulator's truth (samples as the wearables quantized them) and its
last status, the gateway's database (read with plain SQL) and the lines of the independent subscriber. The windows due
follow from the number of samples made, by arithmetic: window k of a session covers its samples
hop x k to hop x k + window (exclusive).

DIR holds account.json: {"window", "hop", "database", "received", "wearables": [{"id", "session", "truth", "made",
"acknowledged"}]}, paths relative to DIR; "made" and "acknowledged" are the simulator's own counts.
"""

import argparse
import json
import sqlite3
import struct
import sys
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

_FRAME_HEAD = struct.Struct("<BxBxxxHI")  # docs/reference-profile.md, "Frame": type, n, session, first index
_GAP_FRAME = 2
_BLOCK_HEAD = struct.Struct("<20xBI")  # of an observation: its kind and the length of its payload

Window = tuple[str, str, int]
"""Wearable, 64-bit session as 16 hex digits, number."""


class EventId(NamedTuple):
    source: str
    id: str


@dataclass(frozen=True, slots=True)
class Made:
    """What one wearable made in one session, as the simulator tells it.

    truth_samples: rows of its truth file; counted_samples and acknowledged_samples: its own counters.
    """

    wearable: str
    session: str
    truth_samples: int
    counted_samples: int
    acknowledged_samples: int


@dataclass(frozen=True, slots=True)
class Committed:
    """One event of the gateway's log. windows: those that a prediction answers."""

    event: EventId
    kind: str
    acknowledged: bool
    windows: tuple[Window, ...] = ()


@dataclass(frozen=True, slots=True)
class Received:
    """One message at the subscriber. kind is the last level of its topic."""

    event: EventId
    kind: str
    windows: tuple[Window, ...] = ()


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that the account is taken from. journal: samples that the gateway holds, by wearable and session."""

    window: int
    hop: int
    made: tuple[Made, ...]
    journal: dict[tuple[str, str], int]
    committed: tuple[Committed, ...]
    received: tuple[Received, ...]


@dataclass(frozen=True, slots=True)
class Account:
    samples_made: int
    samples_received: int
    samples_lost: int
    windows_due: int
    windows_inferred: int
    windows_received: int
    events_committed: int
    events_acknowledged: int
    events_received: int
    events_missing: int
    repeated_on_the_wire: int
    wrong: tuple[str, ...]
    """Each way in which the numbers do not add up, as a sentence."""

    @property
    def adds_up(self) -> bool:
        return not self.wrong

    def lines(self) -> list[str]:
        """The account for a person."""
        rows = [
            ("samples", "made by the wearables", self.samples_made),
            ("", "received by the gateway", self.samples_received),
            ("", "lost", self.samples_lost),
            ("windows", "due, from the samples made", self.windows_due),
            ("", "inferred", self.windows_inferred),
            ("", "received by the subscriber", self.windows_received),
            ("events", "committed", self.events_committed),
            ("", "acknowledged by the broker", self.events_acknowledged),
            ("", "received by the subscriber", self.events_received),
            ("", "missing", self.events_missing),
            ("", "repeated on the wire (dropped by source and id)", self.repeated_on_the_wire),
        ]
        verdict = (
            ["Every number adds up."] if self.adds_up else ["It does not add up:", *(f"  {w}" for w in self.wrong)]
        )
        return [*(f"{area:8} {what:48} {count:>9,}" for area, what, count in rows), *verdict]


def windows_due(samples: int, window: int, hop: int) -> int:
    """How many whole windows of `window` samples start at a multiple of `hop`, from sample 0 on."""
    return 0 if samples < window else (samples - window) // hop + 1


def take(evidence: Evidence) -> Account:
    due = {
        (m.wearable, m.session, number)
        for m in evidence.made
        for number in range(windows_due(m.truth_samples, evidence.window, evidence.hop))
    }
    committed = Counter(row.event for row in evidence.committed)
    inferred = Counter(window for row in evidence.committed for window in row.windows)
    received = {message.event: message for message in evidence.received}
    arrived = Counter(window for message in received.values() for window in message.windows)
    samples_made = sum(m.truth_samples for m in evidence.made)
    samples_received = sum(evidence.journal.get((m.wearable, m.session), 0) for m in evidence.made)
    acknowledged = {row.event for row in evidence.committed if row.acknowledged}
    both, missing = committed.keys() & received.keys(), committed.keys() - received.keys()
    wrong = [
        *_samples_wrong(evidence),
        *(() if due else ("no window was due at all",)),
        *_windows_wrong("inferred", due, inferred),
        *_windows_wrong("received", due, arrived),
        *_told("committed more than once", (f"event {e.id}" for e, times in committed.items() if times > 1)),
        *_told("not acknowledged by the broker", (f"event {e.id}" for e in committed.keys() - acknowledged)),
        *_told("committed but never received", (f"event {e.id}" for e in missing)),
        *_told(
            "received but never committed",
            (f"event {e.id}" for e, m in received.items() if m.kind != "state" and e not in committed),
        ),
    ]
    return Account(
        samples_made=samples_made,
        samples_received=samples_received,
        samples_lost=samples_made - samples_received,
        windows_due=len(due),
        windows_inferred=len(inferred),
        windows_received=len(arrived),
        events_committed=len(committed),
        events_acknowledged=len(acknowledged),
        events_received=len(both),
        events_missing=len(missing),
        repeated_on_the_wire=sum(m.event in committed for m in evidence.received) - len(both),
        wrong=tuple(wrong),
    )


def _samples_wrong(evidence: Evidence) -> Iterable[str]:
    known = {(m.wearable, m.session) for m in evidence.made}
    for m in evidence.made:
        held = evidence.journal.get((m.wearable, m.session), 0)
        if m.truth_samples != m.counted_samples:
            yield f"{m.wearable}: {m.counted_samples} samples counted, {m.truth_samples} in its truth file"
        if held != m.truth_samples:
            yield f"{m.wearable}: {m.truth_samples} samples made, {held} in the gateway's journal"
        if m.acknowledged_samples > held:
            yield f"{m.wearable}: {m.acknowledged_samples} samples acknowledged, {held} in the gateway's journal"
    for wearable, session in sorted(evidence.journal.keys() - known):
        yield f"{wearable}: session {session} is in the gateway's journal, but no wearable had it"
    if not evidence.made or not sum(m.truth_samples for m in evidence.made):
        yield "no samples were made at all"


def _windows_wrong(what: str, due: set[Window], found: Counter[Window]) -> Iterable[str]:
    name = "window {0[2]} of {0[0]}".format
    yield from _told(f"due but not {what}", map(name, due - found.keys()))
    yield from _told(f"{what} but not due", map(name, found.keys() - due))
    yield from _told(f"{what} in more than one event", (name(w) for w, times in found.items() if times > 1))


def _told(what: str, things: Iterable[str]) -> Iterable[str]:
    listed = sorted(things)
    if listed:
        more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
        yield f"{what}: {', '.join(listed[:3])}{more}"


# Reading the files.


def truth_rows(path: Path) -> int:
    """Samples in a truth CSV: its lines without the heading; where there were none there is no file."""
    if not path.exists():
        return 0
    with path.open("rb") as lines:
        return max(0, sum(1 for line in lines if line.strip()) - 1)


def frame_span(payload: bytes) -> tuple[int, int, int] | None:
    """Session (low 16 bits), first and end index of a journalled frame's samples; None for a gap frame."""
    head, n, session16, first = _FRAME_HEAD.unpack_from(payload)
    return None if head & 15 == _GAP_FRAME else (session16, first, first + n)


def samples_covered(spans: Iterable[tuple[int, int]]) -> int:
    """How many different indices the half-open spans cover."""
    covered, reached = 0, 0
    for first, end in sorted(spans):
        covered += max(0, end - max(first, reached))
        reached = max(reached, end)
    return covered


def windows_of(event: dict[str, Any], wearable: str) -> tuple[Window, ...]:
    """The windows that a prediction event answers."""
    data = event.get("data") or {}
    return tuple((wearable, str(data["session"]), int(w["number"])) for w in data.get("windows", ()))


def read_received(lines: Iterable[str]) -> tuple[Received, ...]:
    """From the subscriber's lines; the last may be half-written and is then left out."""
    messages = []
    for line in lines:
        if not line.endswith("\n"):
            break
        record = json.loads(line)
        event, (wearable, kind) = record["event"], record["topic"].split("/")[-2:]
        if not event:  # an empty retained message is how a retained one is taken back
            continue
        windows = windows_of(event, wearable) if kind == "prediction" else ()
        messages.append(Received(EventId(event["source"], event["id"]), kind, windows))
    return tuple(messages)


def read_journal(database: sqlite3.Connection, sessions: dict[tuple[str, int], str]) -> dict[tuple[str, str], int]:
    """Samples that the gateway holds. sessions: the 64-bit session for a wearable and its low 16 bits."""
    spans: defaultdict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for wearable, kind, payload in read_observations(database):
        span = frame_span(payload) if kind == "frame" else None
        if span is not None:
            session16, first, end = span
            spans[wearable, sessions.get((wearable, session16), f"{session16:04x}")].append((first, end))
    return {key: samples_covered(parts) for key, parts in spans.items()}


def read_observations(database: sqlite3.Connection) -> Iterator[tuple[str, str, bytes]]:
    """(wearable, kind, payload) of each, out of blocks or rows (docs/storage.md, "How rows are stored")."""
    for wearable, row_kind, payload, count in database.execute("SELECT wearable, kind, payload, count FROM journal"):
        if row_kind:
            yield wearable, row_kind, payload
            continue
        text = zlib.decompress(payload)
        kinds, at = [], 1
        for _ in range(text[0]):
            kinds.append(text[at + 1 : at + 1 + text[at]].decode())
            at += 1 + text[at]
        heads = [_BLOCK_HEAD.unpack_from(text, at + n * _BLOCK_HEAD.size) for n in range(count)]
        at += count * _BLOCK_HEAD.size
        for kind, size in heads:
            yield wearable, kinds[kind], text[at : at + size]
            at += size


def read_messages(database: sqlite3.Connection) -> Iterator[tuple[int, str, str, EventId, bytes]]:
    """(number, kind, wearable, id, payload) of each event, in order (docs/storage.md, "How rows are stored")."""
    dictionaries = {0: b"", **dict(database.execute("SELECT id, content FROM dictionary"))}
    for seq, kind, wearable, source, name, topic, payload in database.execute(
        "SELECT seq, kind, wearable, source, id, topic, payload FROM event ORDER BY seq"
    ):
        if not topic:
            number = int.from_bytes(payload[2:6], "big") if payload[1] & 0x20 else 0  # FDICT of RFC 1950
            inflation = zlib.decompressobj(zdict=dictionaries[number])
            _, *names, payload = inflation.decompress(payload).split(b"\n", 3)
            source, name = (text.decode() for text in names)
        yield seq, kind, wearable, EventId(source, name), payload


def _numbers_of(beyond: Iterable[str]) -> set[int]:
    """Of events: 5, 8-12."""
    ranges = [part.split("-") for part in beyond]
    return {seq for ends in ranges for seq in range(int(ends[0]), int(ends[-1]) + 1)}


def read_committed(database: sqlite3.Connection) -> tuple[Committed, ...]:
    """The event log; acknowledged is what every destination's cursor has passed, but for what it refused."""
    cursors = [text.split() for (text,) in database.execute("SELECT value FROM latest WHERE kind = 'cursor'")]
    passed = [(int(position), _numbers_of(beyond)) for position, *beyond in cursors]
    refused = {seq for (seq,) in database.execute("SELECT seq FROM parked")}
    rows = []
    for seq, kind, wearable, event_id, payload in read_messages(database):
        windows = windows_of(json.loads(payload), wearable) if kind == "prediction" else ()
        acknowledged = bool(passed) and all(seq <= position or seq in beyond for position, beyond in passed)
        rows.append(Committed(event_id, kind, acknowledged and seq not in refused, windows))
    return tuple(rows)


def read_evidence(file: Path) -> Evidence:
    """From account.json and the files that it names. Raises OSError, ValueError, TypeError, KeyError or
    sqlite3.Error where they are not that.
    """
    listed, folder = json.loads(file.read_text()), file.parent
    made = tuple(
        Made(w["id"], w["session"], truth_rows(folder / w["truth"]), w["made"], w["acknowledged"])
        for w in listed["wearables"]
    )
    sessions = {(m.wearable, int(m.session, 16) & 0xFFFF): m.session for m in made}
    journal: dict[tuple[str, str], int] = {}
    committed: tuple[Committed, ...] = ()
    path = folder / listed["database"]
    if path.exists():
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            journal, committed = read_journal(database, sessions), read_committed(database)
    received = folder / listed["received"]
    lines = received.read_text().splitlines(keepends=True) if received.exists() else []
    return Evidence(listed["window"], listed["hop"], made, journal, committed, read_received(lines))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m gateway.demo.account", description="Take a kept demo's account.")
    parser.add_argument("folder", type=Path, metavar="DIR", help="what `gateway demo --keep DIR` left")
    folder = parser.parse_args(argv).folder
    try:
        account = take(read_evidence(folder / "account.json"))
    except (OSError, ValueError, TypeError, KeyError, sqlite3.Error) as error:
        print(f"error: {folder}: {error}", file=sys.stderr)
        return 2
    print("\n".join(account.lines()))
    return 0 if account.adds_up else 1


if __name__ == "__main__":
    raise SystemExit(main())
