"""Reads of the journal and of what was derived from it, on a connection of their own, also from another process."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from gateway.clock import Instant
from gateway.store.connection import connect, errors_in_words
from gateway.store.rows import JournalRow, StreamRecord

_ROWS_A_READ = 500


class Journal:
    """Raises StoreUnavailable or StoreCorrupt, as each of its methods does."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with errors_in_words(path):
            self.connection = connect(path, read_only=True)

    def stream(self, wearable: str) -> StreamRecord | None:
        """None before anything of this wearable was derived. Without a snapshot yet its row and version are 0."""
        with errors_in_words(self._path):
            return read_stream(self.connection, wearable)

    def after(self, wearable: str, row: int) -> Iterator[JournalRow]:
        """This wearable's rows behind `row`, in order; read piece by piece, so that a long journal needs no memory."""
        while True:
            with errors_in_words(self._path):
                rows = self.connection.execute(
                    "SELECT j.row, j.kind, j.payload, b.id, j.mono_ns, j.utc_ns, j.utc_synced "
                    "FROM journal j JOIN boot b USING (boot) "
                    "WHERE j.row > ? AND j.wearable = ? ORDER BY j.row LIMIT ?",
                    (row, wearable, _ROWS_A_READ),
                ).fetchall()
            for row, kind, payload, boot_id, mono_ns, utc_ns, synced in rows:
                yield JournalRow(row, wearable, kind, payload, Instant(boot_id, mono_ns, utc_ns, bool(synced)))
            if len(rows) < _ROWS_A_READ:
                return

    def last(self, table: str) -> int:
        """The highest number ever given in a table that numbers its rows; 0 before the first."""
        found = self._one("SELECT seq FROM sqlite_sequence WHERE name = ?", table)
        return int(found[0]) if found else 0

    def close(self) -> None:
        self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _one(self, sql: str, value: str) -> Any:
        with errors_in_words(self._path):
            return self.connection.execute(sql, (value,)).fetchone()


def read_stream(connection: sqlite3.Connection, wearable: str) -> StreamRecord | None:
    """As Journal.stream tells it. Raises sqlite3.Error."""
    progress = connection.execute("SELECT progress FROM progress WHERE wearable = ?", (wearable,)).fetchone()
    snapshot = connection.execute("SELECT row, version, state FROM snapshot WHERE wearable = ?", (wearable,)).fetchone()
    if progress is None and snapshot is None:
        return None
    row, version, state = snapshot or (0, 0, b"")
    return StreamRecord(wearable, row, version, state, progress[0] if progress else b"")
