"""A database that cannot be read any more: set aside under a name with the date, and what can be read of it taken over.

Rows are read in the order of their numbers. Where a page between them is damaged SQLite stops; then the span is halved
until what can be read is read, so that rows on both sides of the damage are found.
"""

import json
import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from gateway.clock import Instant
from gateway.store.blocks import Block, observations
from gateway.store.bounds import CONTENTS, Content
from gateway.store.connection import connect, is_damage, suspected
from gateway.store.latest import NUMBER_MAX, checked, given, highest_named, put
from gateway.store.messages import Messages, dictionary_id

log = logging.getLogger(__name__)

BESIDE = ("", "-wal", "-shm")
PACKED_SINCE = 4
"""Version of the schema."""
ROWS_A_READ = 256
PROBES_MAX = 200_000
"""Reads that fail before the rest of a table is given up: some minutes on a Raspberry Pi."""
ROW_NUMBERS_SKIPPED = 1_000_000
"""After a loss of the newest rows: they may have been given numbers that stand in the ids of published states."""

NUMBERED = {
    "boot": "boot",
    "dictionary": "since",  # before the events that need it
    "journal": "row",
    "event": "seq",
    "acknowledged": "position",
    "logged": "position",
}
"""Tables by their number, which is SQLite's rowid."""
COPIES = {"dictionary": ("dictionary", "dictionary_copy")}
"""Tables of which there is more than one."""
NAMED = ("latest", "snapshot", "checkpoint", "parked", "retaken", "connecting", "usage", "dropped", "daemon")
"""Small ones, read as a whole or row by row until it fails."""
UNREADABLE = (sqlite3.Error, ValueError)
"""A name in a damaged schema may be no text, which Python tells apart from what SQLite finds."""
_ALWAYS_THERE = {"daemon": 1, "usage": len(CONTENTS)}
"""Rows that are never deleted."""
_BEFORE_4 = (
    "SELECT 'progress', wearable, progress FROM progress",
    "SELECT 'cursor', destination, trim(position || ' ' || beyond) FROM cursor",
)
"""What `latest` was before version 4."""


def looks_whole(path: Path) -> bool:
    """Reads all of it (PRAGMA integrity_check; there are few indexes), and whether each row is what was written, as far
    as can be told."""
    try:
        with closing(connect(path, read_only=False)) as connection:
            if connection.execute("PRAGMA integrity_check(1)").fetchone()[0] != "ok":
                return False
            if connection.execute("PRAGMA user_version").fetchone()[0] >= PACKED_SINCE:
                _read_all(connection)
            return True
    except (KeyError, ValueError):  # a column is not there any more, or what was read is not what was written
        return False
    except sqlite3.DatabaseError as error:
        if is_damage(error) or error.sqlite_errorcode == sqlite3.SQLITE_ERROR:  # a table is not there any more
            return False
        raise


def _read_all(connection: sqlite3.Connection) -> None:
    """Raises ValueError at the first that is damaged."""
    messages = Messages(connection)
    for table in (*NAMED, *NUMBERED, "dictionary_copy"):
        columns = _columns(connection, table)
        rows = 0
        for row in connection.execute(f"SELECT * FROM {table}"):
            rows += 1
            _check(table, row, columns, messages)
        if rows < _ALWAYS_THERE.get(table, 0):
            raise ValueError(f"{rows} rows of {table}")


def is_cut_off(path: Path) -> bool:
    """Whether the file is shorter than its own header says, with no log beside it that may have the rest."""
    with path.open("rb") as file:
        header = file.read(100)
    if len(header) < 100 or logged(path):
        return False
    page_bytes = int.from_bytes(header[16:18], "big")
    pages = int.from_bytes(header[28:32], "big")
    return path.stat().st_size < pages * (65536 if page_bytes == 1 else page_bytes)


def logged(path: Path) -> bool:
    """Whether a write-ahead log with something in it lies beside it."""
    beside = path.with_name(path.name + "-wal")
    return beside.exists() and beside.stat().st_size > 0


def set_aside(path: Path, now: Instant) -> Path:
    """Renames it and what belongs to it; the date is what the clock says. Raises OSError."""
    date = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=now.utc_ns // 1000)
    base = name = f"{path.name}.damaged-{date:%Y%m%dT%H%M%SZ}"
    number = 1
    while path.with_name(name).exists():
        number += 1
        name = f"{base}-{number}"
    for beside in BESIDE:
        part = path.with_name(path.name + beside)
        if part.exists():
            part.rename(path.with_name(name + beside))
    with suppress(OSError):
        suspected(path).unlink()
    return path.with_name(name)


def cut_to_pages(path: Path) -> None:
    """SQLite would take the rest of a page that is there in part for zeros."""
    with path.open("rb") as file:
        header = file.read(18)
    page_bytes = int.from_bytes(header[16:18], "big")
    page_bytes = 65536 if page_bytes == 1 else page_bytes
    if header.startswith(b"SQLite format 3\0") and page_bytes in {1 << n for n in range(9, 17)}:
        os.truncate(path, path.stat().st_size // page_bytes * page_bytes)


@dataclass(slots=True)
class Salvaged:
    """Rows by table. incomplete: tables of which something could not be read."""

    rows: dict[str, int] = field(default_factory=dict)
    incomplete: set[str] = field(default_factory=set)

    def __str__(self) -> str:
        told = ", ".join(f"{self.rows.get(table, 0)} {what}" for table, what in _TOLD.items())
        return f"{told} were saved" + (
            f"; parts of {', '.join(sorted(self.incomplete))} were not" if self.incomplete else ""
        )


_TOLD = {"journal": "observations", "event": "events", "snapshot": "snapshots"}


def mending(path: Path) -> Path:
    """Where the new one is made: a start that is killed meanwhile leaves the damaged one where it is."""
    return path.with_name(path.name + ".mending")


def mended(path: Path) -> Path:
    """The new one once it is whole, until it has taken the other's place."""
    return path.with_name(path.name + ".mended")


def clear(path: Path) -> None:
    """Raises OSError."""
    for beside in BESIDE:
        path.with_name(path.name + beside).unlink(missing_ok=True)


def salvage(damaged: Path, into: sqlite3.Connection) -> Salvaged:
    """Takes over what can be read of it. `into`: a new database of this version's schema."""
    found = Salvaged()
    try:
        cut_to_pages(damaged)
        source = connect(damaged, read_only=True)  # its log is taken into account, and stays as it is
        source.execute("PRAGMA writable_schema = ON")  # else SQLite reads nothing of a file that was cut off
    except (sqlite3.Error, OSError) as error:
        log.warning("store: nothing can be read of %s: %s", damaged, error)
        found.incomplete.update((*NUMBERED, *NAMED))
        return found
    with closing(source):
        numbers = {content: _given(source, content) for content in CONTENTS}
        try:
            # what goes on is small, and has room where the rest has none
            _take_over(source, into, (*NAMED, "boot"), numbers, found)
            into.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            _take_over(source, into, [table for table in NUMBERED if table != "boot"], numbers, found)
        except sqlite3.Error as error:  # of the new one, such as a full disk; the old one is kept
            log.warning("store: not all is taken over from %s: %s", damaged, error)
            if into.in_transaction:
                into.execute("ROLLBACK")
            return Salvaged({}, {*NUMBERED, *NAMED})
    return found


def _take_over(
    source: sqlite3.Connection,
    into: sqlite3.Connection,
    tables: Iterable[str],
    numbers: dict[Content, int],
    found: Salvaged,
) -> None:
    """One transaction. numbers: the highest given."""
    into.execute("BEGIN IMMEDIATE")
    for table in tables:
        if table in NAMED:
            _take(into, table, _named(source, table, into, found), found)
            continue
        for one in filter(partial(_is_there, source), COPIES.get(table, (table,))):
            _take(into, table, _numbered(source, one, NUMBERED[table], into, numbers, found), found)
    for content in CONTENTS:
        skipped = ROW_NUMBERS_SKIPPED if content == "journal" else 0
        highest = max(numbers[content], highest_named(into, content))
        put(into, "given", [(content, highest + skipped)])
    # a boot that is lost still tells its rows apart from those of others
    into.execute(
        "INSERT OR IGNORE INTO boot SELECT DISTINCT boot, 'lost-' || boot FROM "
        "(SELECT boot FROM journal UNION SELECT boot FROM event)"
    )
    into.execute("UPDATE usage SET up_to = 0, bytes = 0")
    into.execute("COMMIT")


def _take(into: sqlite3.Connection, table: str, rows: Iterator[tuple[Any, ...]], found: Salvaged) -> None:
    columns = _columns(into, table)
    if table == "daemon":
        into.execute("DELETE FROM daemon")
    taken = 0
    messages = Messages(into)
    for row in rows:
        try:
            checked_row = _check(table, row, columns, messages)
            if table == "event":
                _check_message(checked_row, messages)
            into.execute(f"INSERT OR REPLACE INTO {table} VALUES ({', '.join('?' * len(columns))})", row)
            taken += checked_row.get("count", 1) if table == "journal" else 1
        except (sqlite3.IntegrityError, ValueError):  # what was read is not what was written
            found.incomplete.add(table)
    if table == "daemon" and not taken:
        into.execute("INSERT INTO daemon VALUES (0)")
    found.rows[table] = taken


def _columns(connection: sqlite3.Connection, table: str) -> list[tuple[str, str]]:
    """Name and type of each."""
    return [(name, kind) for _, name, kind, *_ in connection.execute(f"PRAGMA table_info({table})")]


def _check(table: str, values: tuple[Any, ...], columns: list[tuple[str, str]], messages: Messages) -> dict[str, Any]:
    """The row by its columns. SQLite has no checksums: a type or a content that no writer of ours gave is damage, which
    raises ValueError."""
    kinds: dict[str, Any] = {"INTEGER": int, "TEXT": str, "BLOB": bytes, "": (int, str, bytes)}
    if len(values) != len(columns) or not all(
        isinstance(value, kinds.get(kind, ())) or (value is None and name == "wearable")
        for value, (name, kind) in zip(values, columns, strict=True)
    ):
        raise ValueError(f"a row of {table}")
    row = dict(zip((name for name, _ in columns), values, strict=True))
    if table == "journal":
        nowhen = Instant("", row["mono_ns"], row["utc_ns"], False)
        observations(Block(row["row"], row["wearable"], row["kind"], row["payload"], nowhen, row["count"]))
    elif table == "event" and not row["topic"]:
        messages.unpacked(row["payload"])
    elif table.startswith("dictionary") and dictionary_id(row["content"]) != row["id"]:
        raise ValueError(f"dictionary {row['since']}")
    elif table == "latest":
        checked(row["kind"], row["name"], row["value"])
    return row


def _check_message(event: dict[str, Any], messages: Messages) -> None:
    """Whether its payload is a whole message, and that of this event. Raises ValueError."""
    identity, payload = event["id"], event["payload"]
    if not event["topic"]:
        *_, identity, payload = messages.unpacked(payload)
    said = json.loads(payload)
    if not isinstance(said, dict) or said.get("id") != identity:
        raise ValueError(f"event {event['seq']}")


def _given(source: sqlite3.Connection, content: Content) -> int:
    """The highest number ever given, as far as that can be read."""
    for known in (
        "SELECT value FROM latest WHERE kind = 'given' AND name = ?",
        "SELECT seq FROM sqlite_sequence WHERE name = ?",  # before version 4
    ):
        with suppress(*UNREADABLE):
            row = source.execute(known, (content,)).fetchone()
            if row and isinstance(row[0], int) and row[0] < NUMBER_MAX:
                return int(row[0])
    return 0


def _is_there(source: sqlite3.Connection, table: str) -> bool:
    """Not in an older one, perhaps."""
    with suppress(*UNREADABLE):
        return source.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone() is not None
    return True


def _selected(source: sqlite3.Connection, table: str, into: sqlite3.Connection, key: str = "") -> str:
    """Columns of the new table, by their place: an older one has fewer, and in a damaged schema names and types are
    others."""
    with suppress(*UNREADABLE):
        there = [name.replace('"', '""') for name, _ in _columns(source, table)]
        columns = into.execute(f"PRAGMA table_info({table})").fetchall()
        if there:
            return ", ".join(
                "rowid" if name == key else f'"{there[place]}"' if place < len(there) else str(default)
                for place, name, _, _, default, _ in columns
            )
    return "*"


def _ends(source: sqlite3.Connection, table: str, key: str, given: int | None) -> tuple[int, int]:
    """The lowest and the highest number to look for."""
    ends = []
    for order, unknown in (("ASC", 0), ("DESC", given or 0)):
        try:
            row = source.execute(f"SELECT {key} FROM {table} ORDER BY {key} {order} LIMIT 1").fetchone()
            ends.append(int(row[0]) if row else unknown)
        except (*UNREADABLE, TypeError):
            ends.append(unknown)
    return ends[0], ends[1]


def _numbered(
    source: sqlite3.Connection,
    table: str,
    key: str,
    into: sqlite3.Connection,
    numbers: dict[Content, int],
    found: Salvaged,
) -> Iterator[tuple[Any, ...]]:
    columns = _selected(source, table, into, key)
    key = "rowid"
    first, last = _ends(source, table, key, numbers["journal" if table == "journal" else "event"])
    probes = 0
    low = first
    while low <= last:
        spans, any_ = [(low, min(low + ROWS_A_READ - 1, last))], False
        while spans:
            low, high = spans.pop()
            try:
                rows = source.execute(
                    f"SELECT {columns} FROM {table} WHERE {key} BETWEEN ? AND ? ORDER BY {key}", (low, high)
                ).fetchall()
            except UNREADABLE:
                found.incomplete.add(table)
                probes += 1
                if probes >= PROBES_MAX:
                    return
                if low < high:
                    middle = (low + high) // 2
                    spans += [(middle + 1, high), (low, middle)]
                continue
            any_ |= bool(rows)
            yield from rows
        low = high + 1 if any_ else _next(source, table, key, high + 1, last)


def _next(source: sqlite3.Connection, table: str, key: str, low: int, last: int) -> int:
    """The next number that there is, from low on; a damaged one may lie far away."""
    try:
        row = source.execute(f"SELECT {key} FROM {table} WHERE {key} >= ? ORDER BY {key} LIMIT 1", (low,)).fetchone()
    except UNREADABLE:
        return low
    return int(row[0]) if row else last + 1


def _named(
    source: sqlite3.Connection, table: str, into: sqlite3.Connection, found: Salvaged
) -> Iterator[tuple[Any, ...]]:
    try:
        if _is_there(source, table):
            yield from source.execute(f"SELECT {_selected(source, table, into)} FROM {table}")
        elif table == "latest":
            for older in _BEFORE_4:
                yield from source.execute(older)
    except UNREADABLE:
        found.incomplete.add(table)


def skip_row_numbers(connection: sqlite3.Connection) -> None:
    """After a loss of the newest rows."""
    put(connection, "given", [("journal", given(connection, "journal") + ROW_NUMBERS_SKIPPED)])
