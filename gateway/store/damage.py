"""A database that cannot be read any more: set aside under a name with the date, and what can be read of it taken over.

Rows are read in the order of their numbers. Where a page between them is damaged SQLite stops; then the span is halved
until what can be read is read, so that rows on both sides of the damage are found.
"""

import json
import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from gateway.clock import Instant
from gateway.store.connection import connect, is_damage, suspected

log = logging.getLogger(__name__)

BESIDE = ("", "-wal", "-shm")
ROWS_A_READ = 256
PROBES_MAX = 200_000
"""Reads that fail before the rest of a table is given up: some minutes on a Raspberry Pi."""
ROW_NUMBERS_SKIPPED = 1_000_000
"""After a loss of the newest rows: they may have been given numbers that stand in the ids of published states."""

NUMBERED = {"boot": "boot", "journal": "row", "event": "seq", "acknowledged": "position", "logged": "position"}
"""Tables by their number, which is SQLite's rowid."""
NAMED = (
    "progress", "snapshot", "cursor", "checkpoint", "parked", "retaken", "connecting", "usage", "dropped", "daemon",
)  # fmt: skip
"""Small ones, read as a whole or row by row until it fails."""


def looks_whole(path: Path) -> bool:
    """Reads all of it (PRAGMA quick_check): some 10 s a GB on a card."""
    try:
        with closing(connect(path, read_only=False)) as connection:
            return bool(connection.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok")
    except sqlite3.DatabaseError as error:
        if is_damage(error):
            return False
        raise


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
        try:
            _take_over(source, into, found)
        except sqlite3.Error as error:  # of the new one, such as a full disk; the old one is kept
            log.warning("store: nothing is taken over from %s: %s", damaged, error)
            if into.in_transaction:
                into.execute("ROLLBACK")
            return Salvaged({}, {*NUMBERED, *NAMED})
    return found


def _take_over(source: sqlite3.Connection, into: sqlite3.Connection, found: Salvaged) -> None:
    into.execute("BEGIN IMMEDIATE")
    given = {table: _given(source, table) for table in ("journal", "event")}
    for table, key in NUMBERED.items():
        _take(into, table, _numbered(source, table, key, given.get(table), found), found)
    for table in NAMED:
        _take(into, table, _named(source, table, found), found)
    passed = {"journal": 0, "event": into.execute("SELECT coalesce(max(position), 0) FROM cursor").fetchone()[0]}
    for table in ("journal", "event"):
        there = into.execute(f"SELECT coalesce(max({NUMBERED[table]}), 0) FROM {table}").fetchone()[0]
        highest = max(given[table], passed[table], there)
        skipped = ROW_NUMBERS_SKIPPED if table == "journal" else 0
        into.execute("DELETE FROM sqlite_sequence WHERE name = ?", (table,))
        into.execute("INSERT INTO sqlite_sequence VALUES (?, ?)", (table, highest + skipped))
    # a boot that is lost still tells its rows apart from those of others
    into.execute(
        "INSERT OR IGNORE INTO boot SELECT DISTINCT boot, 'lost-' || boot FROM "
        "(SELECT boot FROM journal UNION SELECT boot FROM event)"
    )
    into.execute("UPDATE usage SET up_to = 0, bytes = 0")
    into.execute("COMMIT")


def _take(into: sqlite3.Connection, table: str, rows: Iterator[tuple[Any, ...]], found: Salvaged) -> None:
    columns = [(name, kind) for _, name, kind, *_ in into.execute(f"PRAGMA table_info({table})")]
    if table == "daemon":
        into.execute("DELETE FROM daemon")
    taken = 0
    for row in rows:
        try:
            _check(row, columns)
            if table == "event":
                _check_event(dict(zip((name for name, _ in columns), row, strict=True)))
            taken += into.execute(
                f"INSERT OR REPLACE INTO {table} VALUES ({', '.join('?' * len(columns))})", row
            ).rowcount
        except (sqlite3.IntegrityError, ValueError):  # what was read is not what was written
            found.incomplete.add(table)
    if table == "daemon" and not taken:
        into.execute("INSERT INTO daemon VALUES (0)")
    found.rows[table] = taken


def _check(row: tuple[Any, ...], columns: list[tuple[str, str]]) -> None:
    """SQLite has no checksums: a type that no writer of ours gave is damage. Raises ValueError."""
    kinds = {"INTEGER": int, "TEXT": str, "BLOB": bytes}
    if len(row) != len(columns) or not all(
        isinstance(value, kinds[kind]) or (value is None and name == "wearable")
        for value, (name, kind) in zip(row, columns, strict=True)
    ):
        raise ValueError


def _check_event(event: dict[str, Any]) -> None:
    """Whether its payload is a whole message, and that of this event. Raises ValueError."""
    said = json.loads(event["payload"])
    if not isinstance(said, dict) or said.get("id") != event["id"]:
        raise ValueError


def _given(source: sqlite3.Connection, table: str) -> int:
    """The highest number ever given, as far as that can be read."""
    with suppress(sqlite3.Error):
        row = source.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,)).fetchone()
        if row and isinstance(row[0], int):
            return int(row[0])
    return 0


def _ends(source: sqlite3.Connection, table: str, key: str, given: int | None) -> tuple[int, int]:
    """The lowest and the highest number to look for."""
    ends = []
    for order, unknown in (("ASC", 0), ("DESC", given or 0)):
        try:
            row = source.execute(f"SELECT {key} FROM {table} ORDER BY {key} {order} LIMIT 1").fetchone()
            ends.append(int(row[0]) if row else unknown)
        except (sqlite3.Error, TypeError, ValueError):
            ends.append(unknown)
    return ends[0], ends[1]


def _numbered(
    source: sqlite3.Connection, table: str, key: str, given: int | None, found: Salvaged
) -> Iterator[tuple[Any, ...]]:
    first, last = _ends(source, table, key, given)
    probes = 0
    spans = [(low, min(low + ROWS_A_READ - 1, last)) for low in range(first, last + 1, ROWS_A_READ)][::-1]
    while spans:
        low, high = spans.pop()
        try:
            rows = source.execute(
                f"SELECT * FROM {table} WHERE {key} BETWEEN ? AND ? ORDER BY {key}", (low, high)
            ).fetchall()
        except sqlite3.Error:
            found.incomplete.add(table)
            probes += 1
            if probes >= PROBES_MAX:
                return
            if low < high:
                middle = (low + high) // 2
                spans += [(middle + 1, high), (low, middle)]
            continue
        yield from rows


def _named(source: sqlite3.Connection, table: str, found: Salvaged) -> Iterator[tuple[Any, ...]]:
    try:
        yield from source.execute(f"SELECT * FROM {table}")
    except sqlite3.Error:
        found.incomplete.add(table)


def skip_row_numbers(connection: sqlite3.Connection) -> None:
    """After a loss of the newest rows."""
    connection.execute("UPDATE sqlite_sequence SET seq = seq + ? WHERE name = 'journal'", (ROW_NUMBERS_SKIPPED,))
