"""Observations as they are stored: those of one wearable and one commit share a row, which is smaller and goes at once.

A block is a zlib stream (RFC 1950), whose Adler-32 finds what has been damaged, of: the number of different kinds
(uint8), these (uint8 length, UTF-8), a head for each observation, then the payloads. Little endian; a head is

    number of the row, up from the one before (uint32; of the first: down from the block's, which is that of the last)
    monotonic time, up from the one before (int64, ns; of the first: from the block's)
    UTC less monotonic time, up from the one before (int64, ns; of the first: from the block's)
    kind (uint8, its place among the kinds)
    length of the payload (uint32)
"""

import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from gateway.clock import Instant
from gateway.store.rows import JournalRow

BLOCK = ""
"""In place of the kind, where a row is a block; those of older stores hold one observation, and have its kind."""
ROWS_MAX, BYTES_MAX = 255, 16 * 1024
"""A block ends here: it is read as a whole."""
CLOCK_STEP_NS = 500_000_000
"""UTC that has moved so far against monotonic time was set."""
_HEAD = struct.Struct("<IqqBI")
_LEVEL = 6


@dataclass(frozen=True, slots=True)
class Block:
    """A row of the journal. row: of its last observation; at: of its first."""

    row: int
    wearable: str
    kind: str
    payload: bytes
    at: Instant
    count: int


def blocks(rows: Iterable[JournalRow]) -> list[Block]:
    """In the order of their numbers. Within one the clock was not set, nor its synchronization won or lost."""
    open_: dict[str, list[JournalRow]] = {}
    bytes_: dict[str, int] = {}
    done: list[Block] = []
    for row in rows:
        pending = open_.get(row.wearable)
        if pending and not _joins(pending[-1], row, len(pending), bytes_[row.wearable]):
            done.append(_block(open_.pop(row.wearable)))
        open_.setdefault(row.wearable, []).append(row)
        bytes_[row.wearable] = len(row.payload) + (bytes_[row.wearable] if len(open_[row.wearable]) > 1 else 0)
    done += [_block(pending) for pending in open_.values()]
    return sorted(done, key=lambda block: block.row)


def observations(block: Block) -> list[JournalRow]:
    """In their order. Raises ValueError where it is no whole block."""
    if block.kind != BLOCK:
        return [JournalRow(block.row, block.wearable, block.kind, block.payload, block.at)]
    try:
        found = list(_unpacked(block))
    except (zlib.error, struct.error, IndexError, ValueError) as error:
        raise ValueError(f"block {block.row} of the journal: {error}") from error
    if len(found) != block.count or not found or found[-1].row != block.row:
        raise ValueError(f"block {block.row} of the journal: another number of observations than it says")
    return found


def _joins(last: JournalRow, row: JournalRow, count: int, size: int) -> bool:
    return (
        count < ROWS_MAX
        and size + len(row.payload) <= BYTES_MAX
        and row.at.boot_id == last.at.boot_id
        and row.at.utc_synced == last.at.utc_synced
        and abs(_offset_ns(row.at) - _offset_ns(last.at)) < CLOCK_STEP_NS
    )


def _offset_ns(at: Instant) -> int:
    return at.utc_ns - at.mono_ns


def _block(rows: Sequence[JournalRow]) -> Block:
    first, last = rows[0], rows[-1]
    kinds = list(dict.fromkeys(row.kind for row in rows))
    parts = [bytes((len(kinds),))]
    for kind in kinds:
        name = kind.encode()
        parts += [bytes((len(name),)), name]
    before, number = first.at, 0
    for row in rows:
        up = last.row - row.row if row is first else row.row - number
        offset_ns = _offset_ns(row.at) - _offset_ns(before)
        parts.append(
            _HEAD.pack(up, row.at.mono_ns - before.mono_ns, offset_ns, kinds.index(row.kind), len(row.payload))
        )
        before, number = row.at, row.row
    parts += [row.payload for row in rows]
    return Block(last.row, last.wearable, BLOCK, zlib.compress(b"".join(parts), _LEVEL), first.at, len(rows))


def _unpacked(block: Block) -> Iterator[JournalRow]:
    text = memoryview(zlib.decompress(block.payload))
    kinds, at = [], 1
    for _ in range(text[0]):
        end = at + 1 + text[at]
        kinds.append(str(text[at + 1 : end], "utf-8"))
        at = end
    heads_end = at + _HEAD.size * block.count
    number, mono_ns, offset_ns, payload_at = block.row, block.at.mono_ns, _offset_ns(block.at), heads_end
    for n, (up, mono_up_ns, offset_up_ns, kind, size) in enumerate(_HEAD.iter_unpack(text[at:heads_end])):
        number += up if n else -up
        mono_ns, offset_ns = mono_ns + mono_up_ns, offset_ns + offset_up_ns
        payload = bytes(text[payload_at : payload_at + size])
        payload_at += size
        moment = Instant(block.at.boot_id, mono_ns, mono_ns + offset_ns, block.at.utc_synced)
        yield JournalRow(number, block.wearable, kinds[kind], payload, moment)
    if payload_at != len(text):
        raise ValueError("its payloads do not fill it")
