"""A disk with a volatile write cache, as an NBD server: what is written lasts only once it is flushed, or written with
"force unit access" (FUA). When the power is cut, each unflushed write of a block reaches the medium or not, by chance.

Such is every consumer's SSD, eMMC and SD card; a killed QEMU alone loses nothing that the guest has handed over, since
the host's cache lives on. A block is a sector of 512 bytes: what a disk promises to write whole.

The protocol: fixed newstyle negotiation and simple replies, as in the NBD specification
(https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md).
"""

import asyncio
import random
import struct
from contextlib import suppress
from pathlib import Path

BLOCK = 512
READ, WRITE, DISCONNECT, FLUSH = range(4)
FUA = 1
_FEATURES = 1 << 0 | 1 << 2 | 1 << 3
"""The field is in use; flush; FUA."""
_GREETING = struct.pack(">8s8sH", b"NBDMAGIC", b"IHAVEOPT", 0b11)
_OPTION, _OPTION_REPLY = struct.Struct(">8sII"), struct.Struct(">QIII")
_REQUEST, _REPLY = struct.Struct(">IHHQQI"), struct.Struct(">IIQ")
_OPTION_MAGIC, _REQUEST_MAGIC, _REPLY_MAGIC = 0x0003E889045565A9, 0x25609513, 0x67446698
_EXPORT_NAME, _ABORT, _INFO, _GO = 1, 2, 6, 7
_ACK, _INFORMATION, _UNSUPPORTED = 1, 3, (1 << 31) + 1
_INVALID = 22


class VolatileDisk:
    """medium: what lasts. obeys: else it answers flushes without doing them, as bad SD cards do.

    flushes: how often it was asked to, FUA included.
    """

    def __init__(self, medium: bytes, *, obeys: bool = True) -> None:
        if len(medium) % BLOCK:
            raise ValueError(f"{len(medium)} bytes are no multiple of {BLOCK}")
        self.medium = bytearray(medium)
        self.obeys = obeys
        self.flushes = 0
        self._writes: list[tuple[int, bytes]] = []
        self._newest: dict[int, bytes] = {}

    @property
    def unflushed(self) -> int:
        """Writes of blocks."""
        return len(self._writes)

    def read(self, offset: int, length: int) -> bytes:
        first, end = self._blocks(offset, length)
        found = bytearray(self.medium[offset : offset + length])
        for block in range(first, end) if end - first < len(self._newest) else self._newest:
            if first <= block < end and (data := self._newest.get(block)) is not None:
                found[(block - first) * BLOCK : (block - first + 1) * BLOCK] = data
        return bytes(found)

    def write(self, offset: int, data: bytes, *, lasting: bool = False) -> None:
        first, end = self._blocks(offset, len(data))
        for block in range(first, end):
            part = data[(block - first) * BLOCK : (block - first + 1) * BLOCK]
            self._writes.append((block, part))
            self._newest[block] = part
        if lasting:
            self.flushes += 1
            if self.obeys:
                self._settle(set(range(first, end)))

    def flush(self) -> None:
        self.flushes += 1
        if self.obeys:
            self._settle(set(self._newest))

    def cut(self, chance: random.Random) -> None:
        """Each unflushed write lasts or not. A disk that does not obey loses the last ones, however many: one that also
        wrote them in any order would leave nothing that a file system could stand on."""
        if self.obeys:
            lasting = [write for write in self._writes if chance.random() < 0.5]
        else:
            lasting = self._writes[: chance.randrange(len(self._writes) + 1)]
        for block, data in lasting:
            self._put(block, data)
        self._writes, self._newest = [], {}

    def _settle(self, blocks: set[int]) -> None:
        for block in blocks:
            self._put(block, self._newest.pop(block))
        self._writes = [write for write in self._writes if write[0] not in blocks] if self._newest else []

    def _put(self, block: int, data: bytes) -> None:
        self.medium[block * BLOCK : (block + 1) * BLOCK] = data

    def _blocks(self, offset: int, length: int) -> tuple[int, int]:
        """First and end. Raises ValueError where they are not whole ones of this disk."""
        if offset % BLOCK or length % BLOCK or not 0 <= offset <= offset + length <= len(self.medium):
            raise ValueError(f"{length} bytes from {offset}: not whole blocks of this disk")
        return offset // BLOCK, (offset + length) // BLOCK


class DiskServer:
    """Serves a disk to one client after the other, over a unix socket. flush_s: how long it takes to flush, in which it
    does nothing else; an SD card's is 0.01 to 0.5. unsettled: set while there is something to lose."""

    def __init__(self, disk: VolatileDisk, flush_s: float = 0.0) -> None:
        self.disk, self._flush_s = disk, flush_s
        self.unsettled = asyncio.Event()
        self._serving: asyncio.Task[None] | None = None
        self._server: asyncio.Server | None = None

    async def listen(self, path: Path) -> None:
        self._server = await asyncio.start_unix_server(self._serve, path)

    async def hang_up(self) -> None:
        """Nothing that is on its way arrives any more."""
        serving, self._serving = self._serving, None
        if serving is not None:
            serving.cancel()
            await asyncio.wait({serving})

    async def close(self) -> None:
        await self.hang_up()
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving = asyncio.current_task()
        with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            if await self._negotiate(reader, writer):
                await self._obey(reader, writer)
        writer.close()

    async def _negotiate(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the client goes on to requests."""
        writer.write(_GREETING)
        await reader.readexactly(4)
        export = struct.pack(">QH", len(self.disk.medium), _FEATURES)
        while True:
            _, option, length = _OPTION.unpack(await reader.readexactly(_OPTION.size))
            await reader.readexactly(length)
            if option == _EXPORT_NAME:
                writer.write(export)
                return True
            if option in {_INFO, _GO}:
                writer.write(_OPTION_REPLY.pack(_OPTION_MAGIC, option, _INFORMATION, 12) + b"\0\0" + export)
            known = option in {_INFO, _GO, _ABORT}
            writer.write(_OPTION_REPLY.pack(_OPTION_MAGIC, option, _ACK if known else _UNSUPPORTED, 0))
            if option in {_GO, _ABORT}:
                return option == _GO

    async def _obey(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            magic, flags, kind, cookie, offset, length = _REQUEST.unpack(await reader.readexactly(_REQUEST.size))
            if magic != _REQUEST_MAGIC or kind == DISCONNECT:
                return
            given = await reader.readexactly(length) if kind == WRITE else b""
            if kind == FLUSH or (kind == WRITE and flags & FUA):
                await asyncio.sleep(self._flush_s)
            try:
                error, found = 0, self._done(kind, flags, offset, length, given)
            except ValueError:
                error, found = _INVALID, b""
            (self.unsettled.set if self.disk.unflushed else self.unsettled.clear)()
            writer.write(_REPLY.pack(_REPLY_MAGIC, error, cookie) + found)
            await writer.drain()

    def _done(self, kind: int, flags: int, offset: int, length: int, given: bytes) -> bytes:
        """What the answer carries. Raises ValueError for what was not offered."""
        if kind == READ:
            return self.disk.read(offset, length)
        if kind == WRITE:
            self.disk.write(offset, given, lasting=bool(flags & FUA))
        elif kind == FLUSH:
            self.disk.flush()
        else:
            raise ValueError(f"request {kind}")
        return b""
