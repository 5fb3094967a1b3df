"""What is deleted, and when: observations and events that nobody needs any more, in bulk, a bounded pass at a time."""

import sqlite3
from collections.abc import Collection
from dataclasses import dataclass

from gateway.clock import Instant
from gateway.store.age import age_s
from gateway.store.batch import boot_number
from gateway.store.settings import StoreSettings

ROWS_A_PASS = 5000
"""Rows that a pass looks at in each table: some 100 ms on a Raspberry Pi, during which nothing is committed."""
MARKS = 24
"""Times of acknowledgement remembered for each retention: what is deleted is late by at most this part of it."""
PAGES_A_PASS = 500
"""Free pages given back to the file system in a pass: 2 MB."""


@dataclass(slots=True)
class Trimmer:
    """Remembers where its last pass over the journal ended, so that rows still needed are not looked at each time."""

    settings: StoreSettings
    destinations: Collection[str] | None = None
    """For whom events are kept: one that has acknowledged nothing yet needs them all, one that is no longer served
    none. None: for all that ever acknowledged or refused one."""
    looked_at: int = 0

    def trim(self, connection: sqlite3.Connection, now: Instant) -> int:
        """Deletes what is due and returns how many rows went. Raises sqlite3.Error; then nothing was deleted."""
        crowded = used_bytes(connection) > self.settings.bytes_max
        connection.execute("BEGIN IMMEDIATE")
        try:
            deleted = self._journal(connection, now, crowded) + self._events(connection, now, crowded)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            self.looked_at = 0
            raise
        if deleted:
            # a page a step, without a row: execute() would take one step only
            connection.executescript(f"PRAGMA incremental_vacuum({PAGES_A_PASS})")
        return deleted

    def _journal(self, connection: sqlite3.Connection, now: Instant, crowded: bool) -> int:
        """Rows that a snapshot covers, once they are old; rows come in the order of time, so a young one ends it."""
        covered = dict(connection.execute("SELECT wearable, row FROM snapshot").fetchall())
        rows = connection.execute(
            "SELECT j.row, j.wearable, b.id, j.mono_ns, j.utc_ns, j.utc_synced FROM journal j JOIN boot b USING (boot) "
            "WHERE j.row > ? ORDER BY j.row LIMIT ?",
            (self.looked_at, ROWS_A_PASS),
        ).fetchall()
        due: list[tuple[int]] = []
        ended = len(rows) < ROWS_A_PASS
        for row, wearable, boot_id, mono_ns, utc_ns, synced in rows:
            young = age_s(Instant(boot_id, mono_ns, utc_ns, bool(synced)), now) < self.settings.journal_retention_s
            if young and not crowded:
                ended = True
                break
            if row <= covered.get(wearable, 0):
                due.append((row,))
        self.looked_at = 0 if ended else rows[-1][0]
        connection.executemany("DELETE FROM journal WHERE row = ?", due)
        return len(due)

    def _events(self, connection: sqlite3.Connection, now: Instant, crowded: bool) -> int:
        """Events that every destination acknowledged event_retention_s ago; those that one has refused stay."""
        acknowledged = acknowledged_by_all(connection, self.destinations)
        # a cursor that went back has not acknowledged what lies before it any more
        connection.execute("UPDATE OR REPLACE acknowledged SET position = ?1 WHERE position > ?1", (acknowledged,))
        marks = [
            (position, age_s(Instant(boot_id, mono_ns, utc_ns, bool(synced)), now))
            for position, boot_id, mono_ns, utc_ns, synced in connection.execute(
                "SELECT a.position, b.id, a.mono_ns, a.utc_ns, a.utc_synced "
                "FROM acknowledged a JOIN boot b USING (boot) ORDER BY a.position"
            ).fetchall()
        ]
        due = [position for position, age in marks if age >= self.settings.event_retention_s]
        newest = marks[-1] if marks else (0, self.settings.event_retention_s)
        if newest[0] < acknowledged and newest[1] * MARKS >= self.settings.event_retention_s:
            connection.execute(
                "INSERT OR REPLACE INTO acknowledged VALUES (?, ?, ?, ?, ?)",
                (acknowledged, boot_number(connection, now.boot_id), now.mono_ns, now.utc_ns, now.utc_synced),
            )
        bound = acknowledged if crowded else max(due, default=0)
        names = self.destinations
        served = "" if names is None else f" WHERE destination IN ({', '.join('?' * len(names))})"
        idle = f"seq NOT IN (SELECT seq FROM parked{served})"
        names = names or ()
        first = connection.execute(f"SELECT min(seq) FROM event WHERE {idle}", (*names,)).fetchone()[0] or 0
        last = min(bound, first + ROWS_A_PASS)
        deleted = connection.execute(
            f"DELETE FROM event WHERE seq BETWEEN ? AND ? AND {idle}", (first, last, *names)
        ).rowcount
        if last == bound:
            connection.execute("DELETE FROM acknowledged WHERE position < ?", (bound,))
        return deleted


def acknowledged_by_all(connection: sqlite3.Connection, destinations: Collection[str] | None) -> int:
    """Up to which event; destinations as for Trimmer."""
    cursors = dict(connection.execute("SELECT destination, position FROM cursor").fetchall())
    served = cursors if destinations is None else destinations
    return min((cursors.get(destination, 0) for destination in served), default=0)


def used_bytes(connection: sqlite3.Connection) -> int:
    """Of the database's pages, those in use."""

    def pragma(name: str) -> int:
        return int(connection.execute(f"PRAGMA {name}").fetchone()[0])

    return (pragma("page_count") - pragma("freelist_count")) * pragma("page_size")
