"""A store in a temporary folder, and submissions that tell where they stand in the order."""

import asyncio
import random
import sqlite3
from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path

import pytest

from gateway.clock import Instant
from gateway.store import Committed, Store, StoreSettings, Writer
from gateway.store.archive import Archive
from gateway.store.batch import Batch, Packed, write
from gateway.store.blocks import blocks
from gateway.store.messages import Packer
from gateway.store.rows import JournalRow, LoggedEvent

BOOT = "11111111-2222-3333-4444-555555555555"


def at(seconds: float, boot_id: str = BOOT, *, synced: bool = True, utc_s: float | None = None) -> Instant:
    utc_ns = int((1_800_000_000 + seconds if utc_s is None else utc_s) * 1e9)
    return Instant(boot_id, int(seconds * 1e9), utc_ns, synced)


def event(number: int, *, wearable: str = "left", created_s: float = 0.0, payload: bytes | None = None) -> LoggedEvent:
    return LoggedEvent(
        kind="prediction",
        wearable=wearable,
        source=f"urn:fidget:wearable:{wearable}",
        id=f"event-{number}",
        topic=f"fidget/v1/home/{wearable}/prediction",
        payload=payload if payload is not None else b"event %d" % number,
        created_ns=int(created_s * 1e9),
        boot_id=BOOT,
    )


def noise(number: int, count: int = 10_000) -> bytes:
    """That no compression makes smaller."""
    return random.Random(number).randbytes(count)


def write_alone(connection: sqlite3.Connection, batch: Batch, last_seq: int) -> None:
    """As a commit, but each observation has a row of its own, as if it had been committed alone."""
    alone = [block for row in batch.journal for block in blocks([row])]
    batch.packed = Packed(alone, *Packer.of(connection).pack(batch.events))
    write(connection, batch, last_seq)


def journalled(path: Path) -> list[JournalRow]:
    """Of all wearables, in the order of their numbers."""
    with Archive(path, following=True) as archive:
        rows = [row for stored in archive.wearables() for row in archive.journal(stored.wearable)]
    return sorted(rows, key=lambda row: row.row)


def logged(path: Path) -> list[LoggedEvent]:
    with Archive(path, following=True) as archive:
        return list(archive.events())


class Opened:
    """A store with its writer, and all that the writer has told."""

    def __init__(self, settings: StoreSettings, destinations: Collection[str] | None = None) -> None:
        self.store = Store.open(settings, destinations)
        self.commits: list[Committed] = []
        self.troubles: list[str | None] = []
        self.told = asyncio.Event()
        self.writer = Writer(self.store, asyncio.get_running_loop(), self._committed, self._said)

    def _committed(self, committed: Committed) -> None:
        self.commits.append(committed)
        self.told.set()

    def _said(self, trouble: str | None) -> None:
        self.troubles.append(trouble)
        self.told.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds():
                self.told.clear()
                await self.told.wait()

    async def close(self) -> None:
        await self.writer.close()
        self.store.close()


@pytest.fixture
def settings(tmp_path: Path) -> StoreSettings:
    """Commits only when asked to, unless a test says otherwise."""
    return StoreSettings(path=tmp_path / "state" / "gateway.db", commit_interval_s=60)


@pytest.fixture
async def opened(settings: StoreSettings) -> AsyncIterator[Opened]:
    made = Opened(settings)
    yield made
    await made.close()
