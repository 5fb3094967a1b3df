"""What the database holds, for whoever looks into it from outside: read only, beside a daemon or without one."""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

from gateway.clock import Instant
from gateway.store.connection import connect, errors_in_words
from gateway.store.eventlog import COLUMNS, event_of
from gateway.store.journal import read_stream
from gateway.store.rows import Cursor, Dropped, JournalRow, LoggedEvent, StreamRecord
from gateway.store.store import check_database
from gateway.store.trimming import read_dropped

_ROWS_A_READ = 500
CLOCK_STEP_NS = 500_000_000
"""UTC that has moved so far against monotonic time was set."""
_JOURNAL = "j.row, j.wearable, j.kind, j.payload, b.id, j.mono_ns, j.utc_ns, j.utc_synced FROM journal j JOIN boot b "


class Boot(NamedTuple):
    """number: boots come in the order of it. last_mono_ns: of the journal's; None where it holds nothing of it."""

    number: int
    id: str
    last_mono_ns: int | None


@dataclass(frozen=True, slots=True)
class Stored:
    """Of one wearable: how many observations and events there are, the newest of each, and which are of whom."""

    wearable: str
    observations: int
    last_observed: Instant | None
    events: int
    predictions: int


class Archive:
    """Raises StoreUnavailable, StoreForeign, StoreTooNew or StoreCorrupt, as each of its methods does the first or the
    last of them. following: a daemon that begins meanwhile is to be seen too."""

    def __init__(self, path: Path, *, following: bool = False) -> None:
        check_database(path)
        self._path = path
        with errors_in_words(path):
            self._connection = _connected(path, following)

    def events(self, *, kind: str | None = None, wearable: str | None = None, after: int = 0) -> Iterator[LoggedEvent]:
        """Those behind this number, in order; read piece by piece."""
        wanted, values = _wanted(kind, wearable)
        while True:
            rows = self._all(
                f"SELECT {COLUMNS} WHERE e.seq > ?{wanted} ORDER BY e.seq LIMIT ?", after, *values, _ROWS_A_READ
            )
            for row in rows:
                yield event_of(row)
                after = row[-1]
            if len(rows) < _ROWS_A_READ:
                return

    def newest_events(self, count: int, *, kind: str | None = None, wearable: str | None = None) -> list[LoggedEvent]:
        """In order."""
        wanted, values = _wanted(kind, wearable)
        rows = self._all(f"SELECT {COLUMNS} WHERE e.seq > 0{wanted} ORDER BY e.seq DESC LIMIT ?", *values, count)
        return [event_of(row) for row in reversed(rows)]

    def prediction_ids(self, wearable: str, derivation: str) -> set[str]:
        """Of the log's predictions of this wearable by this derivation."""
        ending = f"%-{derivation}"
        rows = self._all(
            "SELECT id FROM event WHERE kind = 'prediction' AND wearable = ? AND id LIKE ?", wearable, ending
        )
        return {str(row[0]) for row in rows}

    def journal(self, wearable: str) -> Iterator[JournalRow]:
        """All that is kept of it, in order; read piece by piece."""
        after = 0
        while True:
            rows = self._all(
                f"SELECT {_JOURNAL} USING (boot) WHERE j.row > ? AND j.wearable = ? ORDER BY j.row LIMIT ?",
                after, wearable, _ROWS_A_READ,
            )  # fmt: skip
            for row, name, kind, payload, boot_id, mono_ns, utc_ns, synced in rows:
                yield JournalRow(row, name, kind, payload, Instant(boot_id, mono_ns, utc_ns, bool(synced)))
                after = row
            if len(rows) < _ROWS_A_READ:
                return

    def stream(self, wearable: str) -> StreamRecord | None:
        """Its newest snapshot and progress."""
        with errors_in_words(self._path):
            return read_stream(self._connection, wearable)

    def boots(self) -> list[Boot]:
        """In their order."""
        return [
            Boot(*row)
            for row in self._all(
                "SELECT b.boot, b.id, max(j.mono_ns) FROM boot b LEFT JOIN journal j USING (boot) "
                "GROUP BY b.boot ORDER BY b.boot"
            )
        ]

    def synchronized(self) -> list[Instant]:
        """Of the journal's moments at which UTC was synchronized the first of each boot, and those at which it had
        been set since the one before."""
        rows = self._all(
            "SELECT id, mono_ns, utc_ns FROM (SELECT b.id, j.row, j.mono_ns, j.utc_ns, j.utc_ns - j.mono_ns AS off, "
            "lag(j.utc_ns - j.mono_ns) OVER (PARTITION BY j.boot ORDER BY j.row) AS before "
            "FROM journal j JOIN boot b USING (boot) WHERE j.utc_synced) "
            f"WHERE before IS NULL OR abs(off - before) >= {CLOCK_STEP_NS} ORDER BY row"
        )
        return [Instant(boot_id, mono_ns, utc_ns, True) for boot_id, mono_ns, utc_ns in rows]

    def wearables(self) -> list[Stored]:
        """Those of which there is anything, by name."""
        found = {
            name: [count, Instant(boot_id, mono_ns, utc_ns, bool(synced)), 0, 0]
            for name, count, _, boot_id, mono_ns, utc_ns, synced in self._all(
                # beside max() the others are of the row that has it (sqlite.org/lang_select.html, "bare columns")
                "SELECT j.wearable, count(*), max(j.row), b.id, j.mono_ns, j.utc_ns, j.utc_synced "
                "FROM journal j JOIN boot b USING (boot) GROUP BY j.wearable"
            )
        }
        for name, events, predictions in self._all(
            "SELECT wearable, count(*), sum(kind = 'prediction') FROM event "
            "WHERE wearable IS NOT NULL GROUP BY wearable"
        ):
            found.setdefault(name, [0, None, 0, 0])[2:] = [events, predictions]
        return [Stored(name, *found[name]) for name in sorted(found)]

    def destinations(self) -> dict[str, Cursor]:
        """How far each has acknowledged."""
        rows = self._all("SELECT destination, position, beyond FROM cursor ORDER BY destination")
        return {name: Cursor.of(name, position, beyond) for name, position, beyond in rows}

    def waiting(self, destination: str) -> tuple[int, int]:
        """Events that it has not acknowledged, and of them those that it has refused."""
        cursor = self.destinations().get(destination, Cursor(destination, 0))
        ((behind,),) = self._all("SELECT count(*) FROM event WHERE seq > ?", cursor.position)
        ((refused,),) = self._all(
            "SELECT count(*) FROM parked JOIN event USING (seq) WHERE destination = ?", destination
        )
        return behind - cursor.beyond_count + refused, refused

    def dropped(self) -> tuple[Dropped, ...]:
        """What had to go although it was still needed, since the store began."""
        with errors_in_words(self._path):
            told = self._connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'dropped'").fetchone()
            return read_dropped(self._connection) if told else ()  # version 1 had no such table

    def last_seq(self) -> int:
        rows = self._all("SELECT seq FROM sqlite_sequence WHERE name = 'event'")
        return int(rows[0][0]) if rows else 0

    def count(self, table: Literal["event", "journal"]) -> int:
        """Its rows."""
        return int(self._all(f"SELECT count(*) FROM {table}")[0][0])

    def starts(self) -> int:
        """How often a daemon was started on it."""
        return int(self._all("SELECT starts FROM daemon")[0][0])

    def bytes(self) -> int:
        """Of the database and its write-ahead log, as files."""
        files = [self._path, self._path.with_name(self._path.name + "-wal")]
        return sum(file.stat().st_size for file in files if file.exists())

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _all(self, sql: str, *values: Any) -> list[Any]:
        with errors_in_words(self._path):
            return self._connection.execute(sql, values).fetchall()


def _connected(path: Path, following: bool) -> sqlite3.Connection:
    """A database that nobody writes is read as it lies there, so that SQLite makes no files beside it; so is one beside
    which this user may make none."""
    log = path.with_name(path.name + "-wal")
    if not following and not log.exists():
        return connect(path, read_only=True, immutable=True)
    connection = connect(path, read_only=True)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
    except sqlite3.OperationalError:
        connection.close()
        if log.exists() and log.stat().st_size:
            raise
        connection = connect(path, read_only=True, immutable=True)
    return connection


def _wanted(kind: str | None, wearable: str | None) -> tuple[str, list[str]]:
    parts = [(name, value) for name, value in (("kind", kind), ("wearable", wearable)) if value is not None]
    return "".join(f" AND e.{name} = ?" for name, _ in parts), [value for _, value in parts]
