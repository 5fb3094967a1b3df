"""Reads of the event log, on a connection of their own: they never wait for the writer, nor it for them."""

import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gateway.clock import Instant
from gateway.store.connection import connect, errors_in_words
from gateway.store.latest import cursors, given
from gateway.store.messages import COLUMNS, Messages
from gateway.store.rows import Checkpoint, Cursor, LoggedEvent


class EventLog:
    """Blocking; meant for an executor. Safe to call from any thread, one call at a time goes on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        with errors_in_words(path):
            self._connection = connect(path, read_only=True)
        self._messages = Messages(self._connection)

    def after(self, seq: int, limit: int) -> list[LoggedEvent]:
        """The events that follow seq, in their order, at most `limit`."""
        return self._events(f"SELECT {COLUMNS} WHERE e.seq > ? ORDER BY e.seq LIMIT ?", seq, limit)

    def of(self, seqs: Sequence[int]) -> list[LoggedEvent]:
        """The events with these numbers, as far as they are still there, in their order."""
        found: list[LoggedEvent] = []
        for seq in sorted(seqs):
            found += self._events(f"SELECT {COLUMNS} WHERE e.seq = ?", seq)
        return found

    def between(
        self, seq: int, rows: int, since_ns: int, until_ns: int, wearable: str | None = None
    ) -> tuple[list[LoggedEvent], int]:
        """Of the next `rows` numbers behind seq the events that were made from since_ns to until_ns (exclusive; UTC as
        the clock said then), of this wearable or of all; and how far that has gone."""
        found = self._events(
            f"SELECT {COLUMNS} WHERE e.seq > ?1 AND e.seq <= ?1 + ?2 AND e.created_ns >= ?3 AND e.created_ns < ?4 "
            "AND (?5 IS NULL OR e.wearable = ?5) ORDER BY e.seq",
            *(seq, rows, since_ns, until_ns, wearable),
        )
        return found, seq + rows

    def first_seq(self) -> int:
        """Of what is still there; one past the highest ever given where nothing is."""
        return int(self._all("SELECT coalesce(min(seq), ?) FROM event", self.last_seq() + 1)[0][0])

    def latest_retained(self, seq: int) -> dict[str, int]:
        """By topic the highest number behind seq of a retained event. Reads all of them."""
        return dict(self._all("SELECT topic, max(seq) FROM event WHERE seq > ? AND retain GROUP BY topic", seq))

    def last_seq(self) -> int:
        """The highest number ever given; 0 before the first."""
        with self._lock, errors_in_words(self._path):
            return given(self._connection, "event")

    def checkpoints(self, destination: str) -> list[Checkpoint]:
        """The oldest first."""
        rows = self._all(
            "SELECT c.position, b.id, c.mono_ns, c.utc_ns, c.utc_synced FROM checkpoint c JOIN boot b USING (boot) "
            "WHERE c.destination = ? ORDER BY c.position",
            destination,
        )
        return [Checkpoint(row[0], Instant(row[1], row[2], row[3], bool(row[4]))) for row in rows]

    def cursor(self, destination: str) -> Cursor | None:
        return read_cursor(self._connection, self._path, destination)

    def latest_under(self, topic: str, seq: int) -> bool:
        """Whether no later retained event was ever logged under this topic, as far as the log can still tell."""
        rows = self._all("SELECT count(*), coalesce(max(retain AND topic = ?), 0) FROM event WHERE seq > ?", topic, seq)
        later, retained = rows[0]
        return not retained and later == self.last_seq() - seq

    def parked(self, destination: str, limit: int = -1) -> list[int]:
        """Events that this destination has refused, lowest numbers first; all of them without a limit."""
        rows = self._all("SELECT seq FROM parked WHERE destination = ? ORDER BY seq LIMIT ?", destination, limit)
        return [int(row[0]) for row in rows]

    def retaken(self, destination: str) -> dict[int, int]:
        """Events that this destination had refused and took later, and where its cursor stood then, as far as its
        checkpoints have not passed that."""
        return dict(self._all("SELECT seq, position FROM retaken WHERE destination = ?", destination))

    def connecting(self, destination: str) -> bool:
        """Whether a connection to it was being made and nobody has acted on what it said of the session."""
        return bool(self._all("SELECT 1 FROM connecting WHERE destination = ?", destination))

    def refusal(self, destination: str) -> str:
        """Why it has refused the latest of them; empty where there is none."""
        rows = self._all("SELECT reason FROM parked WHERE destination = ? ORDER BY seq DESC LIMIT 1", destination)
        return str(rows[0][0]) if rows else ""

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def _all(self, sql: str, *values: Any) -> list[Any]:
        with self._lock, errors_in_words(self._path):
            return self._connection.execute(sql, values).fetchall()

    def _events(self, sql: str, *values: Any) -> list[LoggedEvent]:
        with self._lock, errors_in_words(self._path):
            return self._messages.read(sql, *values)


def read_cursor(connection: sqlite3.Connection, path: Path, destination: str) -> Cursor | None:
    with errors_in_words(path):
        return cursors(connection).get(destination)
