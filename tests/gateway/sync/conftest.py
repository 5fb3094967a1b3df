"""Brokers to publish to: a real mosquitto, the embedded one, and a server whose every answer a test decides."""

import asyncio
import contextlib
import getpass
import random
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.clock import Clock
from gateway.demo.announce import announced
from gateway.demo.processes import Children
from gateway.store import Committed, Store, StoreSettings, Writer
from gateway.store.rows import Derived, LoggedEvent
from gateway.sync import Publisher, SyncSettings
from gateway.sync.session import Broker

WITHIN_S = 20.0


async def until(holds: Callable[[], bool], within_s: float = WITHIN_S) -> None:
    """Looks again after everything else that is due in the loop has run."""
    for _ in range(int(within_s / 0.005)):
        if holds():
            return
        await asyncio.sleep(0.005)
    pytest.fail(f"not so within {within_s:g} s")


class Mosquitto:
    """A mosquitto on a port of its own that keeps its sessions over a clean stop."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self, more: str = "allow_anonymous true\n") -> None:
        file = self.folder / "mosquitto.conf"
        file.write_text(
            f"listener {self.port} 127.0.0.1\n{more}persistence true\npersistence_location {self.folder}/\n"
            f"max_queued_messages 0\nuser {getpass.getuser()}\n"
        )
        self._launch(file)
        async with asyncio.timeout(WITHIN_S):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    writer.close()
                    return
                await asyncio.sleep(0.02)

    def _launch(self, file: Path) -> None:
        with (self.folder / "mosquitto.log").open("ab") as log:
            binary = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
            self._process = subprocess.Popen([binary, "-c", str(file)], stdout=log, stderr=log)

    def stop(self) -> None:
        """SIGTERM: its sessions are on disk."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)

    def kill(self) -> None:
        """SIGKILL: whatever it has acknowledged since its last snapshot is gone."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)
        self._process = None


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    if not (shutil.which("mosquitto") or Path("/usr/sbin/mosquitto").is_file()):
        pytest.skip("mosquitto is not installed: apt-get install mosquitto")
    folder = tmp_path / "mosquitto"
    folder.mkdir()
    broker = Mosquitto(folder)
    yield broker
    broker.stop()


@pytest.fixture
async def children(tmp_path: Path) -> AsyncIterator[Children]:
    async with Children(tmp_path) as started:
        yield started


@pytest.fixture
async def embedded(children: Children) -> int:
    """The port of the demonstration's broker (amqtt): MQTT 3.1.1 only."""
    child = await children.start("broker", ("-m", "gateway.demo.broker"), {})
    return (await child.says(announced, WITHIN_S))[1]


# CONNACKs, without properties: packet type, remaining length, flags, code and (MQTT 5) the properties' length.


def connack5(code: int, *, session_present: bool = False, properties: bytes = b"") -> bytes:
    return bytes([0x20, 3 + len(properties), session_present, code, len(properties)]) + properties


def connack3(code: int) -> bytes:
    return bytes([0x20, 2, 0, code])


class Server:
    """Answers CONNECT with connack(protocol level), None for silence, b"" to close; PUBLISH with puback's code.

    It reads just enough of MQTT for that: MQTT 5, 2.1 (packets), 3.1 (CONNECT), 3.3 (PUBLISH), 3.4 (PUBACK).
    """

    def __init__(self, connack: Callable[[int], bytes | None], puback: Callable[[bytes], int | None]) -> None:
        self._connack, self._puback = connack, puback
        self.levels: list[int] = []
        self.connects: list[bytes] = []
        self.published: list[bytes] = []
        self.ended = 0
        """Connections that are over."""
        self.port = 0
        self._writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        level = 0
        self._writers.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                kind, body = await self._packet(reader)
                if kind >> 4 == 1:
                    level = body[6]
                    self.levels.append(level)
                    self.connects.append(body)
                    answer = self._connack(level)
                    if answer is None:
                        continue
                    writer.write(answer)
                    refused = len(answer) < 4 or answer[3] != 0
                    if refused:
                        break
                elif kind >> 4 == 3:
                    topic_end = 2 + int.from_bytes(body[:2], "big")
                    rest = body[topic_end + 2 :]
                    payload = rest[1 + rest[0] :] if level == 5 else rest
                    self.published.append(payload)
                    code = self._puback(payload)
                    if code is not None:
                        packet_id = body[topic_end : topic_end + 2]
                        writer.write(
                            b"\x40" + (b"\x03" + packet_id + bytes([code]) if level == 5 else b"\x02" + packet_id)
                        )
                elif kind >> 4 == 12:
                    writer.write(b"\xd0\x00")
                elif kind >> 4 == 14:
                    break
        self.ended += 1
        writer.close()

    def kick(self) -> None:
        """Ends every connection."""
        for writer in self._writers:
            writer.transport.abort()

    async def _packet(self, reader: asyncio.StreamReader) -> tuple[int, bytes]:
        kind, length, shift = (await reader.readexactly(1))[0], 0, 0
        while True:
            byte = (await reader.readexactly(1))[0]
            length |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return kind, await reader.readexactly(length)


@contextlib.asynccontextmanager
async def serving(
    connack: Callable[[int], bytes | None], puback: Callable[[bytes], int | None] = lambda payload: 0, **options: object
) -> AsyncIterator[Server]:
    """options: of asyncio.start_server, such as ssl."""
    server = Server(connack, puback)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, **options)  # type: ignore[arg-type]
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        server.kick()


class House:
    """Store, writer and publisher as the daemon joins them."""

    def __init__(
        self,
        path: Path,
        broker: Broker | None = None,
        *,
        clock: Clock | None = None,
        commit_interval_s: float = 0.005,
        **settings: Any,
    ) -> None:
        self.store = Store.open(StoreSettings(path=path, commit_interval_s=commit_interval_s))
        self.writer = Writer(self.store, asyncio.get_running_loop(), self._committed)
        self.publisher = Publisher(
            SyncSettings.model_validate(settings),
            "home",
            self.store,
            self.writer,
            clock or Clock(),
            broker=broker,
            rng=random.Random(1),
        )
        self.running = asyncio.create_task(self.publisher.run())

    def _committed(self, committed: Committed) -> None:
        self.publisher.committed(committed.event_seq)

    def log(self, numbers: range, size: int = 0, created_every_s: float = 1.0) -> None:
        for number in numbers:
            payload = b"%d" % number + bytes(size)
            name = f"event-{number}"
            created_ns = int(number * created_every_s * 1e9)
            made = LoggedEvent("prediction", "left", "urn:left", name, "t/left/prediction", payload, created_ns, "boot")
            self.writer.derived(Derived(None, (made,)))

    async def sent(self) -> None:
        """Everything in the log is acknowledged or set aside."""
        await self.writer.flush()
        await until(lambda: self.publisher.connected and self.publisher.waiting == 0)

    async def stop(self, timeout_s: float = 5.0) -> None:
        await self.publisher.stop(timeout_s)
        await self.writer.close()
        self.store.close()

    async def die(self) -> None:
        """What is left after kill -9: nothing that was not committed yet, no farewell."""
        await self.writer.flush()
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)
        await self.writer.close()
        self.store.close()
