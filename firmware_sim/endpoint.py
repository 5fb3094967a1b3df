"""Where a socket is: HOST:PORT or unix:PATH."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from gateway.errors import GatewayError, InputRejected


class CannotListen(GatewayError):
    hint = "Another process may hold it. Port 0 picks a free one."


@dataclass(frozen=True, slots=True)
class Endpoint:
    """path: of a unix socket; where it is empty, host and port hold."""

    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises InputRejected."""
        if text.startswith("unix:") and len(text) > len("unix:"):
            return cls(path=text.removeprefix("unix:"))
        host, separator, port = text.rpartition(":")
        if not (separator and host and port.isdecimal() and int(port) < 65536):
            raise InputRejected(f"address {text!r}: expected HOST:PORT or unix:PATH")
        return cls(host=host.strip("[]"), port=int(port))

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    async def listen(self, protocol: Callable[[], asyncio.BaseProtocol]) -> tuple[asyncio.AbstractServer, Self]:
        """The server, and the endpoint with the port that it has. Raises CannotListen."""
        loop = asyncio.get_running_loop()
        try:
            if self.path:
                return await loop.create_unix_server(protocol, self.path), self
            server = await loop.create_server(protocol, self.host, self.port)
        except OSError as error:
            raise CannotListen(f"cannot listen on {self}: {error.strerror or error}") from None
        return server, replace(self, port=server.sockets[0].getsockname()[1])

    def remove(self) -> None:
        """The socket file of a server that has ended."""
        if self.path:
            Path(self.path).unlink(missing_ok=True)
