"""A TCP proxy whose way can be cut and healed: what a gateway sees when its uplink is away."""

import asyncio
import socket
import struct
from contextlib import suppress
from types import TracebackType
from typing import Self

_CHUNK_BYTES = 64 * 1024
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger, socket(7): close() sends RST


class CuttingProxy:
    """Passes bytes both ways between its own port and (host, port).

    cut() resets every connection and each new one at once, as a router does whose uplink is gone; the port stays
    bound, so that no other process gets it meanwhile. heal() lets new connections through. swallow() is what comes
    before a cut in life: what is sent from now on is taken and never arrives.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()
        self.is_cut = False
        self._swallows = False

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        if self._open:
            await asyncio.wait(self._open)

    @property
    def address(self) -> tuple[str, int]:
        assert self._server is not None, "not started"
        host, port = self._server.sockets[0].getsockname()[:2]
        return host, port

    def cut(self) -> None:
        self.is_cut = True
        for task in self._open:
            task.cancel()

    def swallow(self) -> None:
        self._swallows = True

    def heal(self) -> None:
        self.is_cut = self._swallows = False

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_cut:
            _reset(writer)
            return
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        onward: asyncio.StreamWriter | None = None
        try:
            back, onward = await asyncio.open_connection(*self._target)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass_on(reader, onward))
                both.create_task(self._pass_on(back, writer))
        except (OSError, ExceptionGroup):
            pass  # one end is gone; the other learns it below
        except asyncio.CancelledError:
            for end in (writer, onward):
                if end is not None:
                    _reset(end)
        finally:
            self._open.discard(task)
            for end in (writer, onward):
                if end is not None:
                    end.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(_CHUNK_BYTES):
            if not self._swallows:
                writer.write(chunk)
                await writer.drain()
        with suppress(OSError):
            writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    plain = writer.get_extra_info("socket")
    if plain is not None:
        with suppress(OSError):
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    writer.transport.abort()
