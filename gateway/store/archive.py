"""What the database holds, for whoever looks into it from outside: read only, beside a daemon or without one."""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

from gateway.clock import Instant
from gateway.store.blocks import CLOCK_STEP_NS, observations
from gateway.store.bounds import Content
from gateway.store.connection import connect, errors_in_words
from gateway.store.journal import BLOCKS, block_of, read_observations, read_stream
from gateway.store.latest import cursors, given
from gateway.store.messages import COLUMNS, Messages
from gateway.store.rows import Cursor, Dropped, JournalRow, LoggedEvent, StreamRecord
from gateway.store.store import check_readable
from gateway.store.trimming import read_dropped

_ROWS_A_READ = 500


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
    """Raises StoreUnavailable, StoreForeign, StoreTooNew, StoreTooOld or StoreCorrupt, as each of its methods does the
    first or the last of them. following: a daemon that begins meanwhile is to be seen too."""

    def __init__(self, path: Path, *, following: bool = False) -> None:
        check_readable(path)
        self._path = path
        with errors_in_words(path):
            self._connection = _connected(path, following)
        self._messages = Messages(self._connection)

    def events(self, *, kind: str | None = None, wearable: str | None = None, after: int = 0) -> Iterator[LoggedEvent]:
        """Those behind this number, in order; read piece by piece."""
        wanted, values = _wanted(kind, wearable)
        while True:
            events = self._events(
                f"SELECT {COLUMNS} WHERE e.seq > ?{wanted} ORDER BY e.seq LIMIT ?", after, *values, _ROWS_A_READ
            )
            yield from events
            if len(events) < _ROWS_A_READ:
                return
            after = events[-1].seq

    def newest_events(self, count: int, *, kind: str | None = None, wearable: str | None = None) -> list[LoggedEvent]:
        """In order."""
        wanted, values = _wanted(kind, wearable)
        newest = f"SELECT {COLUMNS} WHERE e.seq > 0{wanted} ORDER BY e.seq DESC LIMIT ?"
        return self._events(newest, *values, count)[::-1]

    def prediction_ids(self, wearable: str, derivation: str) -> set[str]:
        """Of the log's predictions of this wearable by this derivation."""
        events = self.events(kind="prediction", wearable=wearable)
        return {event.id for event in events if event.id.endswith(f"-{derivation}")}

    def journal(self, wearable: str) -> Iterator[JournalRow]:
        """All that is kept of it, in order; read piece by piece."""
        return read_observations(self._connection, self._path, wearable, 0)

    def stream(self, wearable: str) -> StreamRecord | None:
        """Its newest snapshot and progress."""
        with errors_in_words(self._path):
            return read_stream(self._connection, wearable)

    def boots(self) -> list[Boot]:
        """In their order."""
        last = {at.boot_id: at.mono_ns for at in self._last_observed("boot").values()}
        boots = self._all("SELECT boot, id FROM boot ORDER BY boot")
        return [Boot(number, boot_id, last.get(boot_id)) for number, boot_id in boots]

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
        last = self._last_observed("wearable")
        counts = self._all("SELECT wearable, sum(count) FROM journal GROUP BY wearable")
        found: dict[str, list[Any]] = {name: [count, last[name], 0, 0] for name, count in counts}
        for name, events, predictions in self._all(
            "SELECT wearable, count(*), sum(kind = 'prediction') FROM event "
            "WHERE wearable IS NOT NULL GROUP BY wearable"
        ):
            found.setdefault(name, [0, None, 0, 0])[2:] = [events, predictions]
        return [Stored(name, *found[name]) for name in sorted(found)]

    def destinations(self) -> dict[str, Cursor]:
        """How far each has acknowledged."""
        with errors_in_words(self._path):
            return cursors(self._connection)

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
            return read_dropped(self._connection)

    def last_seq(self) -> int:
        with errors_in_words(self._path):
            return given(self._connection, "event")

    def count(self, content: Content) -> int:
        """Observations, or events."""
        what = "coalesce(sum(count), 0)" if content == "journal" else "count(*)"
        return int(self._all(f"SELECT {what} FROM {content}")[0][0])

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

    def _events(self, sql: str, *values: Any) -> list[LoggedEvent]:
        with errors_in_words(self._path):
            return self._messages.read(sql, *values)

    def _last_observed(self, column: Literal["boot", "wearable"]) -> dict[Any, Instant]:
        """The moment of the newest observation of each."""
        # grouped by numbers alone: SQLite would sort a copy of all payloads
        newest = f"SELECT max(row) FROM journal GROUP BY {column}"
        with errors_in_words(self._path):
            rows = self._connection.execute(f"SELECT j.{column}, {BLOCKS} WHERE j.row IN ({newest})").fetchall()
            return {name: observations(block_of(row))[-1].at for name, *row in rows}


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
