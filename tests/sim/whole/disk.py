"""The store's medium: real SQLite files, commits at virtual times, a disk that fills, and what a crash leaves of it.

A commit is begun, and some time later it is on the medium as a whole: the write-ahead log has been synchronized up to
it. At a power cut while one is under way anything may be left of what that commit has written, sector by sector: the
old content, the new, or garbage. Before a checkpoint writes to the database the log is on the medium
(https://www.sqlite.org/wal.html, "Checkpointing"), so where the database has changed, it is the one that is torn.
"""

import asyncio
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from gateway.store import Committed, Committer, Store
from gateway.store.batch import Batch, write
from gateway.store.blocks import observations
from gateway.store.journal import BLOCKS, block_of
from gateway.store.messages import COLUMNS, Messages
from gateway.store.writer import RETRY_MAX_S, RETRY_MIN_S
from tests.sim.world import SECOND, Clockwork

SECTOR_BYTES = 512
COMMIT_S = (0.002, 0.06)
SLOW_COMMIT_S = (0.5, 8.0)
"""A card that collects its garbage."""
SLOW_SHARE = 0.02


class InlineWriter(Committer):
    """landed: told what is on the medium now, before anybody else is."""

    def __init__(
        self,
        store: Store,
        clock: Clockwork,
        rng: random.Random,
        on_commit: Callable[[Committed], None],
        on_error: Callable[[str | None], None],
        landed: Callable[[Batch], None],
    ) -> None:
        super().__init__(store, on_commit, on_error)
        self.clock, self.rng, self.landed = clock, rng, landed
        self.path = store.settings.path
        self.dead = False
        self.begun = self.ended = 0
        self.under_way: Batch | None = None
        self._due_ns: int | None = None
        self._retry_s = RETRY_MIN_S
        self._flushes: list[tuple[int, asyncio.Future[None]]] = []
        """Which commit each waits for."""

    def _submitted(self) -> None:
        super()._submitted()
        self.look()

    def look(self) -> None:
        """A dead one is still called, at any time, where Python clears away what a crash has left."""
        if self.dead or self.under_way is not None or not self._batch:
            return
        due_ns = self.clock.now_ns + (0 if self._urgent else int(self._settings.commit_interval_s * SECOND))
        if self._due_ns is None or due_ns < self._due_ns:
            self._due_ns = due_ns
            self.clock.at(due_ns, lambda: self._begin(due_ns))

    def hurry(self) -> None:
        self._urgent = True
        self.look()

    async def flush(self) -> None:
        last = self.begun + bool(self._batch)
        if self.ended < last:
            self.hurry()
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._flushes.append((last, done))
            await done

    def _begin(self, due_ns: int) -> None:
        if self.dead or self._due_ns != due_ns:
            return
        self._due_ns = None
        if self.under_way is None and self._batch:
            self.under_way = self.take()
            self.begun += 1
            span = SLOW_COMMIT_S if self.rng.random() < SLOW_SHARE else COMMIT_S
            self.clock.after(self.rng.uniform(*span) * SECOND, self._end)

    def _end(self) -> None:
        if self.dead:
            return
        assert self.under_way is not None
        if not self.attempt(self.under_way):
            self.clock.after(self._retry_s * SECOND, self._end)
            self._retry_s = min(2 * self._retry_s, RETRY_MAX_S)
            return
        self.under_way, self._retry_s = None, RETRY_MIN_S
        self.ended += 1
        for last, done in self._flushes:
            if last <= self.ended and not done.done():
                done.set_result(None)
        self._flushes = [(last, done) for last, done in self._flushes if not done.done()]
        self.look()

    def _went_through(self, batch: Batch, last_seq: int) -> None:
        self.landed(batch)
        super()._went_through(batch, last_seq)

    def fill_disk(self, full: bool) -> None:
        """SQLite's own bound stands for the file system's: what needs a new page fails with SQLITE_FULL."""
        pages = self._connection.execute("PRAGMA page_count").fetchone()[0] if full else 2**31 - 2
        self._connection.execute(f"PRAGMA max_page_count = {pages}").fetchall()


def crash(writer: InlineWriter, target: Path, *, power_cut: bool) -> str:
    """Copies to the path `target` what a crash leaves, and says what became of the commit that was under way."""
    writer.dead = True
    rng, path = writer.rng, writer.path
    what = "none"
    db, wal = _read(path), _read(_wal(path))
    if writer.under_way is not None and rng.random() < 0.7:
        with suppress(sqlite3.Error):  # a disk that is full: nothing of it is there
            write(writer._connection, writer.under_way, writer._seq)
        new_db, new_wal = _read(path), _read(_wal(path))
        what = "whole"
        if not power_cut or rng.random() < 0.4:
            db, wal = new_db, new_wal
        elif new_db == db:
            what, wal = "torn log", torn(rng, wal, new_wal)
        else:
            what, db, wal = "torn checkpoint", torn(rng, db, new_db), new_wal
    target.parent.mkdir()
    target.write_bytes(db)
    _wal(target).write_bytes(wal)
    return what


def _wal(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def torn(rng: random.Random, old: bytes, new: bytes) -> bytes:
    """Of each sector that differs: the old content, the new, or garbage; and what is appended ends anywhere."""
    result = bytearray(new)
    result[len(old) :] = result[len(old) : rng.randint(len(old), max(len(old), len(new)))]
    fates = rng.choice([("old",), ("old", "new"), ("new", "garbage"), ("old", "new", "garbage")])
    for at in range(0, len(result), SECTOR_BYTES):
        sector = slice(at, min(at + SECTOR_BYTES, len(result)))
        before = old[sector].ljust(sector.stop - at, b"\0")
        if before == result[sector]:
            continue
        match rng.choice(fates):
            case "old":
                result[sector] = before
            case "garbage":  # but for what was there before: SQLite counts on it ("powersafe overwrite")
                same = next(
                    i for i, (one, other) in enumerate(zip(before, result[sector], strict=True)) if one != other
                )
                result[at + same : sector.stop] = rng.randbytes(sector.stop - at - same)
    return bytes(result)


def events_after(path: Path, seq: int) -> list[tuple[int, str, str, bytes]]:
    """(seq, source, id, payload)."""
    with closing(sqlite3.connect(path)) as connection:
        messages = Messages(connection)
        rows = connection.execute(f"SELECT {COLUMNS} WHERE e.seq > ? ORDER BY e.seq", (seq,)).fetchall()
        return [(e.seq, e.source, e.id, e.payload) for e in map(messages.event, rows)]


def journal_after(path: Path, row: int) -> list[tuple[int, str, str, bytes, str, int, int, int]]:
    """(row, wearable, kind, payload, boot id, mono_ns, utc_ns, utc_synced)."""
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(f"SELECT {BLOCKS} WHERE j.row > ?", (row,)).fetchall()
    found = [one for block in rows for one in observations(block_of(block)) if one.row > row]
    return [
        (r.row, r.wearable, r.kind, r.payload, r.at.boot_id, r.at.mono_ns, r.at.utc_ns, int(r.at.utc_synced))
        for r in sorted(found, key=lambda one: one.row)
    ]
