"""Reads of the journal and of what was derived from it, on a connection of their own, also from another process."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from gateway.clock import Instant
from gateway.store.blocks import Block, observations
from gateway.store.bounds import Content
from gateway.store.connection import connect, errors_in_words
from gateway.store.latest import given, latest
from gateway.store.rows import JournalRow, StreamRecord

_BLOCKS_A_READ = 100


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
        return read_observations(self.connection, self._path, wearable, row)

    def last(self, content: Content) -> int:
        """The highest number ever given in it; 0 before the first."""
        with errors_in_words(self._path):
            return given(self.connection, content)

    def close(self) -> None:
        self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


BLOCKS = (
    "j.row, j.wearable, j.kind, j.payload, b.id, j.mono_ns, j.utc_ns, j.utc_synced, j.count "
    "FROM journal j JOIN boot b USING (boot)"
)


def block_of(row: Any) -> Block:
    """Of a row of BLOCKS."""
    number, wearable, kind, payload, boot_id, mono_ns, utc_ns, synced, count = row
    return Block(number, wearable, kind, payload, Instant(boot_id, mono_ns, utc_ns, bool(synced)), count)


def read_observations(connection: sqlite3.Connection, path: Path, wearable: str, after: int) -> Iterator[JournalRow]:
    """As Journal.after tells them."""
    block = after
    while True:
        with errors_in_words(path):
            rows = connection.execute(
                f"SELECT {BLOCKS} WHERE j.row > ? AND j.wearable = ? ORDER BY j.row LIMIT ?",
                (block, wearable, _BLOCKS_A_READ),
            ).fetchall()
            found = [observation for row in rows for observation in observations(block_of(row))]
        yield from (observation for observation in found if observation.row > after)
        if len(rows) < _BLOCKS_A_READ:
            return
        block = rows[-1][0]


def read_stream(connection: sqlite3.Connection, wearable: str) -> StreamRecord | None:
    """As Journal.stream tells it. Raises sqlite3.Error."""
    progress = latest(connection, "progress").get(wearable)
    snapshot = connection.execute("SELECT row, version, state FROM snapshot WHERE wearable = ?", (wearable,)).fetchone()
    if progress is None and snapshot is None:
        return None
    row, version, state = snapshot or (0, 0, b"")
    return StreamRecord(wearable, row, version, state, progress or b"")
