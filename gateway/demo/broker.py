"""The demo's embedded MQTT broker: amqtt (MQTT 3.1.1 only), in memory, on the loopback, in a process of its own.

    python -m gateway.demo.broker [--port PORT] [--username NAME]

Prints `listening HOST:PORT`. With --username only that user gets in, with the password in FIDGET_BROKER_PASSWORD
(an environment variable, so that the list of processes does not show it). SIGTERM and Ctrl-C end it.
"""

import argparse
import asyncio
import hmac
import logging
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from amqtt.adapters import StreamReaderAdapter, StreamWriterAdapter
from amqtt.broker import Broker
from amqtt.plugins.base import BaseAuthPlugin
from amqtt.session import Session

from gateway.demo.announce import PASSWORD_VARIABLE, announce

_LISTENER = "default"
_CONNECT, _CONNECT_BYTES_MAX = 0x10, 64 * 1024
_LEVEL_3_1_1 = 4
_UNSUPPORTED_VERSION = bytes([0x20, 2, 0, 1])
"""CONNACK, return code 1 (MQTT 3.1.1, 3.2.2.3)."""


class OneUser(BaseAuthPlugin):  # type: ignore[misc]
    """Lets everyone in, or one user with one password.

    amqtt's own anonymous plugin marks sessions as anonymous, and those lose what is queued for them at a disconnect.
    """

    @dataclass
    class Config:
        username: str = ""
        password: str = ""

    async def authenticate(self, *, session: Session) -> bool:
        if not self.config.username:
            return True
        given = f"{session.username}:{session.password}".encode()
        return hmac.compare_digest(given, f"{self.config.username}:{self.config.password}".encode())


class _Replayed(StreamReaderAdapter):  # type: ignore[misc]
    """A reader that gives the bytes of a packet once more, then what follows it."""

    def __init__(self, packet: bytes, reader: asyncio.StreamReader) -> None:
        super().__init__(reader)
        self._packet = BytesIO(packet)

    async def read(self, n: int = -1) -> bytes:
        again = self._packet.read(n)
        return again if again else bytes(await super().read(n))


async def first_packet(reader: asyncio.StreamReader) -> tuple[bytes, int]:
    """A client's first packet, and the protocol level that it asks for (MQTT 3.1.1, 3.1.2).

    Raises asyncio.IncompleteReadError, or ValueError for what is no CONNECT.
    """
    packet = await reader.readexactly(2)
    while packet[-1] & 0x80:
        packet += await reader.readexactly(1)
        if len(packet) > 1 + 4:
            raise ValueError("remaining length of more than four bytes")
    length = sum((byte & 0x7F) << 7 * place for place, byte in enumerate(packet[1:]))
    if packet[0] != _CONNECT or length > _CONNECT_BYTES_MAX:
        raise ValueError("no CONNECT")
    body = await reader.readexactly(length)
    name, level = body[2 : 2 + int.from_bytes(body[:2])], body[2 + int.from_bytes(body[:2]) :][:1]
    if name != b"MQTT" or not level:
        raise ValueError(f"protocol {name!r}")
    return packet + body, level[0]


async def serve(host: str, port: int, username: str, password: str) -> None:
    """Until SIGTERM or SIGINT."""
    plugins: dict[str, Any] = {f"{OneUser.__module__}.OneUser": {"username": username, "password": password}}
    # an `external` listener leaves the socket to us: amqtt does not tell which port it was given for port 0
    broker = Broker({"listeners": {_LISTENER: {"type": "external"}}, "plugins": plugins})
    await broker.start()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            packet, level = await first_packet(reader)
        except (ValueError, OSError, asyncio.IncompleteReadError):
            writer.close()
            return
        if level != _LEVEL_3_1_1:  # amqtt takes the properties of a CONNECT of MQTT 5 for a client id, and waits
            writer.write(_UNSUPPORTED_VERSION)
            writer.close()
            return
        with suppress(OSError):  # of a client that has gone while amqtt closes
            await broker.external_connected(_Replayed(packet, reader), StreamWriterAdapter(writer), _LISTENER)

    server = await asyncio.start_server(connected, host, port)
    announce(*server.sockets[0].getsockname()[:2])
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    server.close()
    await broker.shutdown()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m gateway.demo.broker", description="An in-memory MQTT broker.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--username", default="", help=f"let only this user in; password in ${PASSWORD_VARIABLE}")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.ERROR)
    asyncio.run(serve(args.host, args.port, args.username, os.environ.get(PASSWORD_VARIABLE, "")))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
