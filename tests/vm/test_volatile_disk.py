"""The disk under the power cuts: what it may lose, and what not, against all that was ever asked of it."""

import asyncio
import random
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vm.volatile_disk import BLOCK, DiskServer, VolatileDisk

BLOCKS = 8
requests = st.one_of(
    st.tuples(st.just("write"), st.integers(0, BLOCKS - 1), st.integers(1, 3)),
    st.tuples(st.just("write, FUA"), st.integers(0, BLOCKS - 1), st.integers(1, 3)),
    st.tuples(st.just("flush"), st.just(0), st.just(0)),
)


def of(value: int) -> bytes:
    return value.to_bytes(2, "big") * (BLOCK // 2)


def played(disk: VolatileDisk, asked: list[tuple[str, int, int]]) -> list[tuple[int, bytes, bool]]:
    """Each write of a block, and whether it was flushed. What each write brings is its own."""
    writes: list[tuple[int, bytes, bool]] = []
    for number, (what, first, count) in enumerate(asked, 1):
        if what == "flush":
            disk.flush()
            writes = [(block, data, True) for block, data, _ in writes]
            continue
        count = min(count, BLOCKS - first)
        lasting = what != "write"
        disk.write(first * BLOCK, of(number) * count, lasting=lasting)
        touched = range(first, first + count)
        writes = [(block, data, flushed or (lasting and block in touched)) for block, data, flushed in writes]
        writes += [(block, of(number), lasting) for block in touched]
    return writes


def blocks(disk: VolatileDisk) -> list[bytes]:
    return [bytes(disk.medium[at : at + BLOCK]) for at in range(0, BLOCKS * BLOCK, BLOCK)]


@given(st.lists(requests, max_size=30), st.integers(0, 2**32))
def test_a_cut_takes_nothing_that_was_flushed_and_leaves_nothing_that_was_not_written(asked, seed):
    disk = VolatileDisk(bytes(BLOCKS * BLOCK))
    writes = played(disk, asked)
    for block in range(BLOCKS):
        newest = next((data for at, data, _ in reversed(writes) if at == block), bytes(BLOCK))
        assert disk.read(block * BLOCK, BLOCK) == newest
    disk.cut(random.Random(seed))
    for block, found in enumerate(blocks(disk)):
        possible = [bytes(BLOCK)]
        for at, data, flushed in writes:
            if at == block:
                possible = [data] if flushed else [*possible, data]
        assert found in possible
    assert disk.read(0, BLOCKS * BLOCK) == bytes(disk.medium)


@given(st.lists(requests, max_size=30), st.integers(0, 2**32))
def test_a_disk_that_ignores_flushes_falls_back_to_an_earlier_moment(asked, seed):
    disk = VolatileDisk(bytes(BLOCKS * BLOCK), obeys=False)
    writes = played(disk, asked)
    disk.cut(random.Random(seed))
    moments = [[bytes(BLOCK)] * BLOCKS]
    for block, data, _ in writes:
        moments.append([*moments[-1][:block], data, *moments[-1][block + 1 :]])
    assert blocks(disk) in moments


def test_a_cut_takes_about_half_of_what_was_not_flushed_by_the_seed():
    def left(seed: int) -> list[int]:
        disk = VolatileDisk(bytes(1000 * BLOCK))
        disk.write(0, of(1) * 1000)
        assert disk.unflushed == 1000
        disk.cut(random.Random(seed))
        return [block for block in range(1000) if disk.medium[block * BLOCK + 1]]

    assert 400 < len(left(1)) < 600
    assert left(1) == left(1) != left(2)


def test_flushes_are_counted_whether_they_are_obeyed_or_not():
    for obeys in (True, False):
        disk = VolatileDisk(bytes(BLOCK), obeys=obeys)
        disk.write(0, of(1))
        disk.flush()
        disk.write(0, of(2), lasting=True)
        assert disk.flushes == 2
        assert (disk.unflushed == 0) == obeys


@pytest.mark.parametrize(("offset", "length"), [(1, BLOCK), (0, 100), (BLOCK, BLOCK), (-BLOCK, BLOCK)])
def test_what_is_not_whole_blocks_of_the_disk_is_refused(offset, length):
    disk = VolatileDisk(bytes(BLOCK))
    with pytest.raises(ValueError, match="not whole blocks of this disk"):
        disk.read(offset, length)
    with pytest.raises(ValueError, match="not whole blocks of this disk"):
        disk.write(offset, bytes(length))


@pytest.mark.skipif(shutil.which("qemu-io") is None, reason="needs qemu-io (qemu-utils)")
async def test_qemu_reads_writes_and_flushes_it(tmp_path: Path) -> None:
    disk = VolatileDisk(bytes(1 << 20))
    server = DiskServer(disk)
    await server.listen(tmp_path / "nbd")
    url = f"nbd+unix:///?socket={tmp_path / 'nbd'}"

    async def asks(*commands: str) -> str:
        words = [word for command in commands for word in ("-c", command)]
        said = asyncio.subprocess.PIPE
        child = await asyncio.create_subprocess_exec("qemu-io", "-f", "raw", url, *words, stdout=said, stderr=said)
        out, errors = await child.communicate()
        return (out + errors).decode()

    try:
        said = await asks("write -P 7 4096 8192", "read -P 7 4096 8192", "read -P 0 12288 512", "flush")
        assert "Pattern verification failed" not in said, said
        assert bytes(disk.medium[4096:12288]) == b"\7" * 8192
        assert disk.flushes >= 1
        await asks("write -f -P 9 0 512")
        assert disk.medium[:512] == b"\11" * 512
        assert "Pattern verification failed" in await asks("read -P 1 0 512")
    finally:
        await server.close()
