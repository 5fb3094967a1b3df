"""What a broker sends to a client that only publishes, held against the standards before anything acts on it. Pure.

MQTT 5.0 (https://docs.oasis-open.org/mqtt/mqtt/v5.0/os/mqtt-v5.0-os.html, whose sections are named here) and 3.1.1
(beside it). A client library that meets what these forbid may stop without a word, take more memory than there is, or
believe an answer that is none.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

INCOMING_BYTES_MAX = 65536
"""Of one packet; MQTT 5 brokers are told so. What answers a publisher takes some hundred bytes."""
REASON_CHARS_MAX = 200
"""Of what a broker says in its own words; it goes to logs and health."""

CONNACK, PUBLISH, PUBACK, PINGRESP, DISCONNECT = 2, 3, 4, 13, 14
_NAMES = ["reserved packet 0", "CONNECT", "CONNACK", "PUBLISH", "PUBACK", "PUBREC", "PUBREL", "PUBCOMP", "SUBSCRIBE",
          "SUBACK", "UNSUBSCRIBE", "UNSUBACK", "PINGREQ", "PINGRESP", "DISCONNECT", "AUTH"]  # fmt: skip

SUCCESS, FAILURES = 0x00, 0x80
"""Reason codes from FAILURES on are such."""
REASONS = {  # 2.4
    0x00: "Success",
    0x10: "No matching subscribers",
    0x80: "Unspecified error",
    0x81: "Malformed packet",
    0x82: "Protocol error",
    0x83: "Implementation specific error",
    0x84: "Unsupported protocol version",
    0x85: "Client identifier not valid",
    0x86: "Bad user name or password",
    0x87: "Not authorized",
    0x88: "Server unavailable",
    0x89: "Server busy",
    0x8A: "Banned",
    0x8B: "Server shutting down",
    0x8C: "Bad authentication method",
    0x8D: "Keep alive timeout",
    0x8E: "Session taken over",
    0x8F: "Topic filter invalid",
    0x90: "Topic name invalid",
    0x91: "Packet identifier in use",
    0x93: "Receive maximum exceeded",
    0x94: "Topic alias invalid",
    0x95: "Packet too large",
    0x96: "Message rate too high",
    0x97: "Quota exceeded",
    0x98: "Administrative action",
    0x99: "Payload format invalid",
    0x9A: "Retain not supported",
    0x9B: "QoS not supported",
    0x9C: "Use another server",
    0x9D: "Server moved",
    0x9E: "Shared subscriptions not supported",
    0x9F: "Connection rate exceeded",
    0xA0: "Maximum connect time",
    0xA1: "Subscription identifiers not supported",
    0xA2: "Wildcard subscriptions not supported",
}
_CONNACK_CODES = {0, *range(0x80, 0x8B), 0x8C, 0x90, 0x95, 0x97, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F}  # 3.2.2.2
_DISCONNECT_CODES = {0, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, *range(0x8D, 0x91), *range(0x93, 0xA3)}  # 3.14.2.1
_CODES_3 = {  # 3.1.1, 3.2.2.3: what MQTT 5 calls it
    0: SUCCESS,
    1: 0x84,
    2: 0x85,
    3: 0x88,
    4: 0x86,
    5: 0x87,
}

SESSION_EXPIRY, SERVER_KEEP_ALIVE, SERVER_REFERENCE, REASON = 0x11, 0x13, 0x1C, 0x1F
RECEIVE_MAXIMUM, MAXIMUM_QOS, RETAIN_AVAILABLE, MAXIMUM_PACKET_SIZE = 0x21, 0x24, 0x25, 0x27
USER_PROPERTY = 0x26
_WIDTHS = {  # 2.2.2.2: the properties that are numbers, and their bytes
    SESSION_EXPIRY: 4,
    SERVER_KEEP_ALIVE: 2,
    RECEIVE_MAXIMUM: 2,
    0x22: 2,
    MAXIMUM_QOS: 1,
    RETAIN_AVAILABLE: 1,
    MAXIMUM_PACKET_SIZE: 4,
    0x28: 1,
    0x29: 1,
    0x2A: 1,
}
_NOT_ZERO = {RECEIVE_MAXIMUM, MAXIMUM_PACKET_SIZE}
_TEXTS = {0x12, 0x15, 0x1A, SERVER_REFERENCE, REASON}
_BINARY = {0x16}
_CONNACK_PROPERTIES = {*_WIDTHS, *_TEXTS, *_BINARY, USER_PROPERTY}  # 3.2.2.3
_PUBACK_PROPERTIES = {REASON, USER_PROPERTY}  # 3.4.2.2
_DISCONNECT_PROPERTIES = {REASON, USER_PROPERTY, SERVER_REFERENCE}  # 3.14.2.2; its session expiry is the client's alone


class BrokerViolation(Exception):
    """What came is not MQTT, or not what may come here; in words."""


Properties = dict[int, int | str]
"""By identifier; those that are neither numbers nor text are checked and left out."""


@dataclass(frozen=True, slots=True)
class Connack:
    """code: MQTT 5's, also under 3.1.1."""

    code: int
    session_present: bool = False
    properties: Properties = field(default_factory=dict)

    @property
    def words(self) -> str:
        return in_words(self.code, self.properties)


@dataclass(frozen=True, slots=True)
class Puback:
    """code: as it came; one that MQTT 5 does not know here is also a violation, told after it."""

    packet_id: int
    code: int = SUCCESS
    properties: Properties = field(default_factory=dict)

    @property
    def words(self) -> str:
        return in_words(self.code, self.properties)


@dataclass(frozen=True, slots=True)
class Disconnect:
    code: int = SUCCESS
    properties: Properties = field(default_factory=dict)

    @property
    def words(self) -> str:
        return in_words(self.code, self.properties)


@dataclass(frozen=True, slots=True)
class Other:
    """PINGRESP, or a PUBLISH that somebody subscribed to under our client id once."""

    name: str


Packet = Connack | Puback | Disconnect | Other


def in_words(code: int, properties: Properties | None = None) -> str:
    """The standard's name of a reason, and what the broker adds to it; fit for a line of a log."""
    name = REASONS.get(code, f"reason code 0x{code:02x}")
    if not properties:
        return name
    said = str(properties.get(REASON, ""))[:REASON_CHARS_MAX]
    added = "".join(char if char.isprintable() else " " for char in said).strip()
    return f"{name} ({added})" if added else name


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A server that is to be used instead (4.13)."""

    host: str
    port: int
    for_good: bool

    def __str__(self) -> str:
        lasts = "has moved for good: set host and port" if self.for_good else "sends us on, for this time,"
        return f"it {lasts} to {self.host}:{self.port}"


USE_ANOTHER, MOVED = 0x9C, 0x9D
_PLACE = re.compile(r"(?:([A-Za-z0-9._-]{1,253})|\[([0-9A-Fa-f:.]{2,45})\])(?::([0-9]{1,5}))?")


def elsewhere(code: int, properties: Properties, port: int) -> Elsewhere | None:
    """The first usable one of a server reference (4.13.2); port: where it names none."""
    if code not in (USE_ANOTHER, MOVED):
        return None
    for part in str(properties.get(SERVER_REFERENCE, "")).split():
        found = _PLACE.fullmatch(part)
        if found and 0 < int(found[3] or port) < 65536:
            return Elsewhere(found[1] or found[2], int(found[3] or port), code == MOVED)
    return None


class Incoming:
    """The bytes of one connection, in the order in which they come, however they are cut."""

    def __init__(self, version: str, bytes_max: int = INCOMING_BYTES_MAX) -> None:
        self._five, self._bytes_max = version == "5", bytes_max
        self._waiting = bytearray()
        self._connected = False
        self._over = False
        self._known = {CONNACK, PUBLISH, PUBACK, PINGRESP} | ({DISCONNECT} if self._five else set())

    def feed(self, data: bytes) -> Iterator[Packet]:
        """The packets that are whole with these bytes. Raises BrokerViolation; nothing may be fed after that."""
        waiting = self._waiting
        waiting += data
        if self._connected and len(waiting) == 4 and waiting[0] == 0x40 and waiting[1] == 2 and not self._over:
            packet_id = waiting[2] << 8 | waiting[3]
            if packet_id:  # most of all that ever comes
                waiting.clear()
                yield Puback(packet_id)
                return
        while (end := self._end_of_first()) is not None:
            head, body = self._waiting[0], bytes(self._waiting[end[0] : end[1]])
            del self._waiting[: end[1]]
            yield from self._packet(head, body)

    def _end_of_first(self) -> tuple[int, int] | None:
        """Where its body begins and ends; None while that is not all there. 1.5.5, 2.1.4."""
        waiting = self._waiting
        if not waiting:
            return None
        if not (self._connected and waiting[0] == PUBACK << 4) or self._over:
            self._may_come(waiting[0])
        length = 0
        for at in range(1, len(waiting)):
            length |= (waiting[at] & 0x7F) << 7 * (at - 1)
            if waiting[at] & 0x80:
                if at == 4:
                    raise BrokerViolation("it sent a packet whose length never ends")
            else:
                if at + 1 + length > self._bytes_max:
                    raise BrokerViolation(
                        f"it sent a {_NAMES[waiting[0] >> 4]} of {at + 1 + length} bytes; {self._bytes_max} is the most"
                    )
                return None if len(waiting) < at + 1 + length else (at + 1, at + 1 + length)
        return None

    def _may_come(self, head: int) -> None:
        kind, flags = head >> 4, head & 0x0F
        name = _NAMES[kind]
        if self._over:
            raise BrokerViolation(f"it sent {name} after its own end")
        if not self._connected and kind != CONNACK:
            raise BrokerViolation("it did not begin with CONNACK: is it an MQTT broker, with TLS as configured?")
        if kind not in self._known:
            raise BrokerViolation(f"it sent {name}, for which nothing was asked")
        if self._connected and kind == CONNACK:
            raise BrokerViolation("it sent a second CONNACK")
        if kind == PUBLISH:
            if flags & 0x06 > 0x02:
                raise BrokerViolation("it sent a PUBLISH of QoS 2 or more, to which nothing here has subscribed")
        elif flags:
            raise BrokerViolation(f"it sent {name} with flags 0x{flags:x}, which are reserved")

    def _packet(self, head: int, body: bytes) -> Iterator[Packet]:
        match head >> 4:
            case 2:
                yield self._connack(body)
            case 4:
                answer = self._puback(body)
                yield answer
                if answer.code not in _PUBACK_CODES:
                    raise BrokerViolation(f"it answered with a reason that MQTT 5 has not for PUBACK: {answer.words}")
            case 14:
                yield self._disconnect(body)
            case 13 if body:
                raise BrokerViolation("it sent PINGRESP with a body")
            case kind:
                yield Other(_NAMES[kind])

    def _connack(self, body: bytes) -> Connack:
        reader = _Reader("CONNACK", body)
        flags, code = reader.number(1), reader.number(1)
        if flags > 1:
            raise BrokerViolation(f"it sent CONNACK with flags 0x{flags:02x}, which are reserved")
        properties: Properties = {}
        if self._five and not (len(body) == 2 and code == 1):  # how a broker of 3.1.1 says that it is one
            if code not in _CONNACK_CODES:
                raise BrokerViolation(f"it sent CONNACK with the unknown reason 0x{code:02x}")
            properties = reader.properties(_CONNACK_PROPERTIES)
        elif code not in _CODES_3:
            raise BrokerViolation(f"it sent CONNACK with the unknown return code {code}")
        else:
            code = _CODES_3[code]
        reader.finish()
        if flags and code != SUCCESS:
            raise BrokerViolation("it refused the connection and said that it has our session")
        self._connected, self._over = code == SUCCESS, code != SUCCESS
        return Connack(code, bool(flags), properties)

    def _puback(self, body: bytes) -> Puback:
        reader = _Reader("PUBACK", body)
        packet_id = reader.number(2)
        if packet_id == 0:
            raise BrokerViolation("it sent PUBACK for packet 0, which cannot be")
        code, properties = SUCCESS, Properties()
        if self._five and reader.left:  # 3.4.2.1: both may be left out
            code = reader.number(1)
            properties = reader.properties(_PUBACK_PROPERTIES) if reader.left else properties
        reader.finish()
        return Puback(packet_id, code, properties)

    def _disconnect(self, body: bytes) -> Disconnect:
        reader = _Reader("DISCONNECT", body)
        code, properties = SUCCESS, Properties()
        if reader.left:  # 3.14.2.1: both may be left out
            code = reader.number(1)
            properties = reader.properties(_DISCONNECT_PROPERTIES) if reader.left else properties
        reader.finish()
        if code not in _DISCONNECT_CODES:
            raise BrokerViolation(f"it sent DISCONNECT with the unknown reason 0x{code:02x}")
        self._over = True
        return Disconnect(code, properties)


_PUBACK_CODES = {0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99}  # 3.4.2.1


class _Reader:
    """A packet's body."""

    def __init__(self, name: str, body: bytes) -> None:
        self._name, self._body, self._at = name, body, 0

    @property
    def left(self) -> int:
        return len(self._body) - self._at

    def _take(self, count: int) -> bytes:
        if count > self.left:
            raise BrokerViolation(f"it sent {self._name} that ends too early")
        self._at += count
        return self._body[self._at - count : self._at]

    def number(self, width: int) -> int:
        return int.from_bytes(self._take(width), "big")

    def text(self) -> str:
        """1.5.4."""
        try:
            text = self._take(self.number(2)).decode()
        except UnicodeDecodeError:
            text = "\0"
        if "\0" in text:
            raise BrokerViolation(f"it sent {self._name} with text that is none")
        return text

    def properties(self, allowed: set[int]) -> Properties:
        """2.2.2."""
        end = self._variable()
        end += self._at
        found: Properties = {}
        seen: set[int] = set()
        if end > len(self._body):
            raise BrokerViolation(f"it sent {self._name} that ends too early")
        while self._at < end:
            kind = self._variable()
            if kind not in allowed:
                raise BrokerViolation(f"it sent {self._name} with property 0x{kind:02x}, which does not belong there")
            if kind in seen and kind != USER_PROPERTY:
                raise BrokerViolation(f"it sent {self._name} with property 0x{kind:02x} twice")
            seen.add(kind)
            if kind in _WIDTHS:
                width = _WIDTHS[kind]
                value = self.number(width)
                if (width == 1 and value > 1) or (kind in _NOT_ZERO and value == 0):
                    raise BrokerViolation(f"it sent {self._name} with property 0x{kind:02x} of {value}")
                found[kind] = value
            elif kind in _TEXTS:
                found[kind] = self.text()
            elif kind in _BINARY:
                self._take(self.number(2))
            else:
                self.text(), self.text()
        if self._at != end:
            raise BrokerViolation(f"it sent {self._name} whose properties do not end where they say")
        return found

    def finish(self) -> None:
        if self.left:
            raise BrokerViolation(f"it sent {self._name} with {self.left} bytes too many")

    def _variable(self) -> int:
        value = 0
        for shift in (0, 7, 14, 21):
            byte = self.number(1)
            value |= (byte & 0x7F) << shift
            if not byte & 0x80:
                return value
        raise BrokerViolation(f"it sent {self._name} with a number that never ends")
