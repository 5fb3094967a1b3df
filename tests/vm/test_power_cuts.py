"""Power that is cut at any moment, with the daemon's state on a disk that loses what was not flushed: what the
wearables may erase and what the broker has is still there after each cut, and in the end the account adds up."""

import asyncio
import random
import sqlite3
import subprocess
from collections.abc import AsyncIterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from gateway.cli.demo import demo_bundle
from gateway.demo.account import read_committed, read_evidence, read_journal, read_received, take
from gateway.demo.arrange import write_account
from tests.e2e.test_path import due_ids
from tests.vm.test_bluez import streaming
from tests.vm.test_short import all_arrives
from tests.vm.volatile_disk import DiskServer, VolatileDisk

DISK_BYTES = 64 << 20
FLUSH_S = 0.1
STATE = "/var/lib/fidget-gateway"
NEW_BOOT = "cat /proc/sys/kernel/random/uuid > /run/boot-id; mount --bind /run/boot-id /proc/sys/kernel/random/boot_id"
"""A machine that is resumed thinks that it is the boot before; the moment it was booted at counts for nothing else."""


class OnVolatileDisk:
    """The guest, with the daemon's state on such a disk."""

    def __init__(self, guest: Any, disk: VolatileDisk) -> None:
        self.guest, self.disk = guest, disk
        self.server = DiskServer(disk, FLUSH_S)
        self._copies = 0

    @property
    def _folder(self) -> Path:
        return Path(self.guest.path.files.folder)

    async def plug_in(self) -> None:
        await asyncio.to_thread(self.guest.machine.plug_in_disk, self._folder / "nbd")
        await self.guest.until("test -b /dev/vdb", "the disk is there")
        await self.guest.shell(f"mount /dev/vdb {STATE}")
        # what is left in the guest's cache, for half a minute else, would all be lost: a cut shall have a choice
        await self.guest.shell("echo 100 > /proc/sys/vm/dirty_writeback_centisecs")

    async def begin(self) -> None:
        """A life of the machine, on what the last one left."""
        await asyncio.to_thread(self.guest.machine.resume)
        await self.guest.shell(NEW_BOOT)
        await self.plug_in()
        await self.guest.plug_in()
        await self.guest.configure()
        await self.guest.shell("systemctl start --no-block fidget-gateway")

    async def cut(self, chance: random.Random) -> None:
        self.guest.machine.cut_power()
        await self.server.hang_up()
        self.disk.cut(chance)

    def database(self) -> Path:
        """Of a copy of the disk, after the file system's own recovery, as a mount does it."""
        self._copies += 1
        copy = self._folder / f"disk-{self._copies}.img"
        copy.write_bytes(self.disk.medium)
        checked = subprocess.run(["e2fsck", "-fy", copy], capture_output=True, text=True)
        assert checked.returncode in {0, 1}, checked.stdout + checked.stderr
        there = copy.with_suffix("")
        there.mkdir()
        for name in ("gateway.db", "gateway.db-wal"):
            subprocess.run(["debugfs", "-R", f"dump {name} {there / name}", copy], check=True, capture_output=True)
        copy.unlink()
        return there / "gateway.db"

    async def kept(self) -> tuple[list[str], list[str]]:
        """What was acknowledged and is not there: to the wearables, and what the subscriber has."""
        made = await self.guest.path.made()
        received = read_received(self.guest.path.files.received.read_text().splitlines(keepends=True))
        try:
            with closing(sqlite3.connect(self.database())) as database:
                assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
                sessions = {(w.name, int(w.session, 16) & 0xFFFF): w.session for w in made}
                journal = read_journal(database, sessions)
                committed = {row.event for row in read_committed(database)}
        except sqlite3.OperationalError as error:
            if "no such table" not in str(error):
                raise
            journal, committed = {}, set()
        samples = [
            f"{w.name}: {w.acknowledged} samples acknowledged, {journal.get((w.name, w.session), 0)} there"
            for w in made
            if w.acknowledged > journal.get((w.name, w.session), 0)
        ]
        events = [f"event {m.event.id}" for m in received if m.kind != "state" and m.event not in committed]
        return samples, events


def formatted(image: Path) -> bytes:
    subprocess.run(["mke2fs", "-q", "-t", "ext4", image, f"{DISK_BYTES >> 10}k"], check=True, capture_output=True)
    return image.read_bytes()


@pytest.fixture
async def on_disk(guest: Any, request: pytest.FixtureRequest) -> AsyncIterator[OnVolatileDisk]:
    """Streams. The parameter: whether the disk obeys flushes."""
    medium = formatted(guest.path.files.folder / "ext4.img")
    disk = OnVolatileDisk(guest, VolatileDisk(medium, obeys=getattr(request, "param", True)))
    await disk.server.listen(guest.path.files.folder / "nbd")
    try:
        await guest.shell(NEW_BOOT)
        await disk.plug_in()
        await guest.configure()
        await guest.start()
        await streaming(guest, 2)
        yield disk
    finally:
        await disk.server.close()


async def adds_up(on: OnVolatileDisk) -> None:
    """Every sample made is in the journal, every window due is answered once and has arrived."""
    guest = on.guest
    await all_arrives(guest)
    position = "SELECT min(CAST(value AS INTEGER)) FROM latest WHERE kind = 'cursor'"
    count = f'sqlite3 -readonly {STATE}/gateway.db "SELECT count(*) FROM event WHERE seq > ({position})"'
    await guest.until(f'test "$({count})" = 0', "the broker has acknowledged every event")
    await guest.shell(f"systemctl stop fidget-gateway && umount {STATE}")
    files = guest.path.files
    on.database().parent.rename(files.folder / "database")
    files.state.rmdir()
    (files.folder / "database").rename(files.state)
    write_account(files, demo_bundle(), await guest.path.made())
    account = take(read_evidence(files.account))
    assert account.adds_up, "\n".join(account.lines())
    whole = [w["quality"]["interpolated"] for e in guest.path.predictions() for w in e["data"]["windows"]]
    assert set(whole) == {0}, "no sample had to be made up"


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(1, 11))])
async def test_ten_cuts_lose_nothing_that_was_acknowledged_and_repeat_nothing(on_disk: Any, seed: int) -> None:
    chance = random.Random(seed)
    unflushed = []
    for cut in range(10):
        if cut:
            await on_disk.begin()
        if cut % 3 == 0:  # while all stream; else wherever the daemon, BlueZ and the kernel are in coming up
            await streaming(on_disk.guest, 1)
        await asyncio.sleep(chance.uniform(0, 5) if cut % 3 == 0 else chance.uniform(2, 20))
        with suppress(TimeoutError):
            async with asyncio.timeout(3):
                await on_disk.server.unsettled.wait()
                await asyncio.sleep(chance.uniform(0, FLUSH_S))
        unflushed.append(on_disk.disk.unflushed)
        await on_disk.cut(chance)
        assert await on_disk.kept() == ([], []), f"cut {cut}"
    print(f"{on_disk.disk.flushes} flushes; unflushed blocks at the cuts: {unflushed}")
    assert sum(map(bool, unflushed)) >= 3, "cuts had something to take"
    await on_disk.begin()
    await adds_up(on_disk)


@pytest.mark.parametrize("on_disk", [False], indirect=True, ids=["flushes are ignored"])
async def test_a_card_that_ignores_flushes_loses_what_it_promised_and_the_gateway_goes_on(on_disk: Any) -> None:
    """The control of the test above; and all that can be asked with such a card."""
    chance = random.Random(1)
    for _ in range(3):
        await streaming(on_disk.guest, 2)
        await on_disk.cut(chance)
        samples, events = await on_disk.kept()
        assert samples
        assert events
        await on_disk.begin()
    await streaming(on_disk.guest, 2)
    received = on_disk.guest.path.prediction_ids()
    assert received <= due_ids(await on_disk.guest.path.made())
