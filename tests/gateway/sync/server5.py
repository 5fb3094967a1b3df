"""An MQTT 5 server of hand-written packets, as good or as bad as a test wants it. It judges what the client sends.

https://docs.oasis-open.org/mqtt/mqtt/v5.0/os/mqtt-v5.0-os.html; sections stand beside what they demand.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

USER_PROPERTY = 0x26
PUBLISH_PROPERTIES = {0x01: 1, 0x02: 4, 0x03: None, USER_PROPERTY: None}
"""Those that a client without topic aliases may send (3.3.2.3) and this one does: bytes of the value, None for text."""


def variable(value: int) -> bytes:
    """2.1.4"""
    out = bytearray()
    while True:
        value, low = divmod(value, 128)
        out.append(low | (0x80 if value else 0))
        if not value:
            return bytes(out)


def packet(first: int, body: bytes) -> bytes:
    return bytes([first]) + variable(len(body)) + body


def text(value: str) -> bytes:
    return len(value.encode()).to_bytes(2, "big") + value.encode()


def reason_string(value: str) -> bytes:
    return b"\x1f" + text(value)


def server_reference(value: str) -> bytes:
    return b"\x1c" + text(value)


def connack(code: int = 0, *, session_present: bool = False, properties: bytes = b"") -> bytes:
    return packet(0x20, bytes([session_present, code]) + variable(len(properties)) + properties)


def puback(packet_id: int, code: int = 0, properties: bytes = b"") -> bytes:
    body = packet_id.to_bytes(2, "big")
    if code or properties:
        body += bytes([code])
    if properties:
        body += variable(len(properties)) + properties
    return packet(0x40, body)


def disconnect(code: int = 0, properties: bytes = b"") -> bytes:
    return packet(0xE0, bytes([code]) + variable(len(properties)) + properties)


class ClientViolation(AssertionError):
    """The client has sent what MQTT 5 forbids."""


def demand(holds: object, what: str) -> None:
    if not holds:
        raise ClientViolation(what)


class Body:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        demand(self.at + count <= len(self.data), "a packet ends too early")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "big")

    def binary(self) -> bytes:
        return self.take(self.number(2))

    def text(self) -> str:
        found = self.binary().decode()
        demand("\0" not in found, "text with U+0000 (1.5.4)")
        return found

    def length(self) -> int:
        value = 0
        for shift in (0, 7, 14, 21):
            byte = self.number(1)
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise ClientViolation("a length of five bytes (1.5.5)")

    def properties(self, widths: Mapping[int, int | None]) -> dict[int, int | str]:
        end = self.length()
        end += self.at
        found: dict[int, int | str] = {}
        while self.at < end:
            kind = self.length()
            demand(kind in widths, f"property 0x{kind:02x} does not belong here")
            demand(kind not in found, f"property 0x{kind:02x} twice")
            width = widths[kind]
            found[kind] = self.text() if width is None else self.number(width)
            if kind == USER_PROPERTY:
                found[kind] = f"{found[kind]}={self.text()}"
        demand(self.at == end, "properties do not end where they say")
        return found

    @property
    def rest(self) -> bytes:
        return self.take(len(self.data) - self.at)


@dataclass(frozen=True)
class Connect:
    """3.1"""

    client_id: str
    clean: bool
    keepalive_s: int
    properties: dict[int, int | str]
    will: tuple[str, bytes, bool] | None
    username: str | None
    password: bytes | None

    @classmethod
    def read(cls, body: Body) -> "Connect":
        demand(body.text() == "MQTT", "protocol name (3.1.2.1)")
        demand(body.number(1) == 5, "protocol version (3.1.2.2)")
        flags = body.number(1)
        demand(not flags & 1, "reserved flag of CONNECT (3.1.2.3)")
        keepalive_s = body.number(2)
        properties = body.properties({0x11: 4, 0x21: 2, 0x27: 4, 0x22: 2, 0x19: 1, 0x17: 1})
        client_id = body.text()
        will = None
        if flags & 4:
            body.properties({0x18: 4, 0x01: 1, 0x02: 4, 0x03: None})
            will = (body.text(), body.binary(), bool(flags & 0x20))
        else:
            demand(not flags & 0x38, "QoS or retain of a will that is none (3.1.2.6)")
        username = body.text() if flags & 0x80 else None
        password = body.binary() if flags & 0x40 else None
        demand(not body.rest, "bytes behind CONNECT")
        return cls(client_id, bool(flags & 2), keepalive_s, properties, will, username, password)


@dataclass(frozen=True)
class Publish:
    """3.3"""

    topic: str
    packet_id: int
    payload: bytes
    retain: bool
    properties: dict[int, int | str]
    size: int
    """Of the whole packet."""

    @classmethod
    def read(cls, first: int, body: Body, size: int) -> "Publish":
        demand(first & 0x06 == 0x02, "this client publishes with QoS 1")
        topic = body.text()
        demand(topic and not set("+#") & set(topic), "topic (3.3.2.1)")
        packet_id = body.number(2)
        demand(packet_id, "packet identifier 0 (2.2.1)")
        properties = body.properties(PUBLISH_PROPERTIES)
        payload = body.rest
        if properties.get(0x01):
            payload.decode()  # 3.3.2.3.2
        return cls(topic, packet_id, payload, bool(first & 1), properties, size)


@dataclass
class Client:
    """A connection, from the server's side."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    packet_bytes_max: int = 1 << 28
    connect: Connect | None = None
    pings: int = 0
    said_bye: int | None = None
    """Reason of its DISCONNECT."""

    async def read(self) -> Connect | Publish | None:
        """The next one; None at the end. PINGREQ is answered."""
        while True:
            try:
                first = (await self.reader.readexactly(1))[0]
                length, head = 0, 1
                for shift in (0, 7, 14, 21):
                    byte = (await self.reader.readexactly(1))[0]
                    length |= (byte & 0x7F) << shift
                    head += 1
                    if byte < 0x80:
                        break
                body = Body(await self.reader.readexactly(length))
            except (asyncio.IncompleteReadError, OSError):
                return None
            demand(head + length <= self.packet_bytes_max, "a packet that is too large (3.2.2.3.6)")
            match first >> 4:
                case 1:
                    demand(first == 0x10 and self.connect is None, "CONNECT (3.1)")
                    self.connect = Connect.read(body)
                    return self.connect
                case 3:
                    return Publish.read(first, body, head + length)
                case 12:
                    demand(first == 0xC0 and length == 0, "PINGREQ (3.12)")
                    self.pings += 1
                    self.send(b"\xd0\x00")
                case 14:
                    demand(first == 0xE0, "DISCONNECT (3.14)")
                    self.said_bye = body.number(1) if length else 0
                    return None
                case kind:
                    raise ClientViolation(f"packet type {kind}, for which there is no reason")

    def send(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            self.writer.write(data)


Act = Callable[["Server5", Client], Awaitable[None]]


@dataclass
class Server5:
    """Plays one act a connection, and the last one again and again."""

    acts: Sequence[Act]
    port: int = 0
    clients: list[Client] = field(default_factory=list)
    taken: list[Publish] = field(default_factory=list)
    """What was answered with success."""
    seen: list[Publish] = field(default_factory=list)
    faults: list[BaseException] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = Client(reader, writer)
        self.clients.append(client)
        try:
            await self.acts[min(len(self.clients), len(self.acts)) - 1](self, client)
        except (ClientViolation, UnicodeDecodeError) as fault:
            self.faults.append(fault)
        finally:
            writer.close()

    @property
    def payloads(self) -> list[bytes]:
        """Taken, without the gateway's own states."""
        return [publish.payload for publish in self.taken if publish.topic.startswith("t/")]

    def kick(self) -> None:
        for client in self.clients:
            client.writer.transport.abort()


@contextlib.asynccontextmanager
async def server5(*acts: Act, **options: object) -> AsyncIterator[Server5]:
    """options: of asyncio.start_server. What the client did against MQTT 5 fails the test at the end."""
    server = Server5(acts)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, **options)  # type: ignore[arg-type]
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        server.kick()
    assert server.faults == []


def taking(
    answer: Callable[[Publish], int | bytes | None] = lambda publish: 0,
    *,
    properties: bytes = b"",
    receive_maximum: int = 65535,
    packet_bytes_max: int = 1 << 28,
    session_present: bool = True,
) -> Act:
    """A server that takes the connection. answer: a reason code, bytes to send in place of PUBACK, or None for nothing;
    b"" ends the connection. After bytes that begin with DISCONNECT the connection ends too."""
    if receive_maximum < 65535:
        properties += b"\x21" + receive_maximum.to_bytes(2, "big")
    if packet_bytes_max < 1 << 28:
        properties += b"\x27" + packet_bytes_max.to_bytes(4, "big")

    async def act(server: Server5, client: Client) -> None:
        if await client.read() is None:
            return
        client.packet_bytes_max = packet_bytes_max
        client.send(connack(session_present=session_present and len(server.clients) > 1, properties=properties))
        unanswered: set[int] = set()
        while isinstance(publish := await client.read(), Publish):
            demand(publish.packet_id not in unanswered, "a packet identifier that is in use (2.2.1)")
            unanswered.add(publish.packet_id)
            demand(len(unanswered) <= receive_maximum, "more than the receive maximum (3.3.4)")
            server.seen.append(publish)
            said = answer(publish) if publish.topic.startswith("t/") else 0
            if said is None:
                continue
            unanswered.discard(publish.packet_id)
            if isinstance(said, bytes):
                client.send(said)
                if not said or said[0] == 0xE0:
                    return
            else:
                if said < 0x80:
                    server.taken.append(publish)
                client.send(puback(publish.packet_id, said))

    return act


def saying(*data: bytes, after_connack: bool = True, then_close: bool = False) -> Act:
    """A server that says this instead of anything sensible, and then nothing more."""

    async def act(server: Server5, client: Client) -> None:
        if await client.read() is None:
            return
        if after_connack:
            client.send(connack(session_present=len(server.clients) > 1))
        for part in data:
            client.send(part)
            await asyncio.sleep(0)
        while not then_close and await client.read() is not None:
            pass

    return act
