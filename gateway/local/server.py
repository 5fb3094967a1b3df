"""The daemon's end of the local socket. No client can hold up the daemon or another client: each wait has a bound, what
is not read is dropped or ends the connection, and there are never more than CLIENTS_MAX of them.
"""

import asyncio
import errno
import grp
import logging
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from gateway.errors import GatewayError, InputRejected
from gateway.local import protocol

log = logging.getLogger(__name__)

CLIENTS_MAX = 16
REQUEST_S = 10.0
"""Until a client that has connected has said what it wants."""
WRITE_S = 10.0
"""Until a client has read what it was told."""
UNREAD_BYTES_MAX = 1 << 18
"""Of one client; what is merely told beyond it is dropped."""
PATH_BYTES_MAX = 107
"""sockaddr_un has room for no more (unix(7))."""


class SocketTaken(GatewayError):
    """Another gateway of this state directory runs."""

    hint = "`gateway status` says what it does."


class SocketRefused(GatewayError):
    """The socket cannot be made here."""

    hint = "[local] socket names another place."


class Talk:
    """With one client, while its request is obeyed."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._asked: asyncio.Future[Any] | None = None

    def tell(self, what: Mapping[str, Any]) -> None:
        """Dropped where the client does not read."""
        if self._writer.transport.get_write_buffer_size() < UNREAD_BYTES_MAX:
            self._writer.write(protocol.encode({"told": what}))

    async def ask(self, question: Mapping[str, Any]) -> Any:
        """What the client answers; bounded by whoever asks, one question at a time."""
        self._asked = asyncio.get_running_loop().create_future()
        self._writer.write(protocol.encode({"ask": question}))
        return await self._asked

    def answered(self, answer: Any) -> None:
        """Raises Malformed where nothing was asked."""
        if self._asked is None or self._asked.done():
            raise protocol.Malformed("an answer, and nothing was asked")
        self._asked.set_result(answer)


Operation = Callable[[Mapping[str, Any], Talk], Awaitable[Mapping[str, Any]]]
"""Obeys a request; what it returns is the answer, a GatewayError that it raises is told."""


class LocalServer:
    """operations: by name. group: whose members may use the socket too."""

    def __init__(self, path: Path, operations: Mapping[str, Operation], group: str | None = None) -> None:
        self.path = path
        self._operations = operations
        self._group = group
        self._server: asyncio.AbstractServer | None = None
        self._clients: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Raises SocketTaken, SocketRefused, and InputRejected for a group that is none."""
        listening = _bound(self.path, self._group)
        limit = protocol.LINE_BYTES_MAX
        self._server = await asyncio.start_unix_server(self._accept, sock=listening, limit=limit)

    async def stop(self) -> None:
        """Ends every request, and takes the socket away."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        for client in self._clients:
            client.cancel()
        if self._clients:
            await asyncio.wait(self._clients, timeout=WRITE_S)
        with suppress(OSError):
            self.path.unlink()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._clients) >= CLIENTS_MAX:
            writer.write(protocol.encode(protocol.error(f"{CLIENTS_MAX} commands are at work", "Try again.", 1)))
            writer.close()
            return
        client = asyncio.current_task()
        assert client is not None
        self._clients.add(client)
        try:
            with suppress(asyncio.CancelledError):  # by stop, and then this is its end
                await self._serve(reader, writer)
        finally:
            self._clients.discard(client)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answer = await self._answer(reader, writer)
        except (OSError, EOFError):  # it has gone
            return
        except GatewayError as error:
            answer = protocol.error(str(error), error.hint, error.exit_code)
        except Exception:  # a fault of ours with one request shall not end the daemon
            log.exception("local socket")
            answer = protocol.error("the daemon has failed at this; its log says how", "", 1)
        with suppress(OSError, TimeoutError):
            writer.write(protocol.encode(answer))
            async with asyncio.timeout(WRITE_S):
                await writer.drain()
                writer.write_eof()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Mapping[str, Any]:
        try:
            async with asyncio.timeout(REQUEST_S):
                line = await _line(reader)
        except TimeoutError:
            raise protocol.Malformed(f"no request within {REQUEST_S:g} s") from None
        request = protocol.decode(line)
        op = protocol.operation_of(request)
        operation = self._operations.get(op)
        if operation is None:
            raise protocol.Malformed(f"op is {op!r}, there are {', '.join(self._operations)}")
        talk = Talk(writer)
        obeying = asyncio.ensure_future(operation(request, talk))
        listening = asyncio.ensure_future(_listen(reader, talk))
        try:
            await asyncio.wait({obeying, listening}, return_when=asyncio.FIRST_COMPLETED)
            if not obeying.done():
                listening.result()  # raises: it has gone, or speaks something else
            return {"done": await obeying}
        finally:
            for task in (obeying, listening):
                if not task.done():
                    task.cancel()
            await asyncio.wait({obeying, listening})
            for task in (obeying, listening):
                _ = task.cancelled() or task.exception()


async def _line(reader: asyncio.StreamReader) -> bytes:
    """Raises EOFError, and Malformed for a line that is too long."""
    try:
        line = await reader.readline()
    except ValueError:
        raise protocol.Malformed(f"a line of more than {protocol.LINE_BYTES_MAX} bytes") from None
    if not line.endswith(b"\n"):
        raise EOFError
    return line


async def _listen(reader: asyncio.StreamReader, talk: Talk) -> None:
    """Hands on the answers, until the client has gone: raises EOFError then, or Malformed."""
    while True:
        said = protocol.decode(await _line(reader))
        if set(said) != {"answer"}:
            raise protocol.Malformed("expected an answer and nothing else")
        talk.answered(said["answer"])


def _bound(path: Path, group: str | None) -> socket.socket:
    """For this user alone, or a group too, from the first moment on.

    Raises SocketTaken, SocketRefused and InputRejected.
    """
    if len(os.fsencode(path)) > PATH_BYTES_MAX:
        raise SocketRefused(f"{path}: longer than the {PATH_BYTES_MAX} bytes that a socket's path may have")
    try:
        gid = grp.getgrnam(group).gr_gid if group is not None else None
    except KeyError:
        raise InputRejected(f"local.group {group!r}: no such group on this machine") from None
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _clear(path)
        os.fchmod(made.fileno(), 0o600)  # what bind gives the file (Linux), so that it is never open to others
        made.bind(str(path))
        if gid is not None:
            if path.stat().st_gid != gid:  # the unit of systemd lets nobody change it
                os.chown(path, -1, gid)
            path.chmod(0o660)
    except OSError as error:
        made.close()
        raise SocketRefused(f"{path}: {error.strerror}") from None
    except BaseException:
        made.close()
        raise
    return made


def _clear(path: Path) -> None:
    """Takes away a socket that a gateway left when it was killed.

    Raises SocketTaken where one still answers, SocketRefused where it is no socket.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise SocketRefused(f"{path}: is there, and no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        code = probe.connect_ex(str(path))
    if code in (0, errno.EAGAIN, errno.EINPROGRESS):
        raise SocketTaken(f"{path}: another gateway answers there")
    path.unlink()
