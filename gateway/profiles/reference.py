"""The reference profile: a wrist IMU with a flash ring. Layouts, limits and units: docs/reference-profile.md.

Bytes of its GATT characteristics come in; journal observations, control writes and, from the decoder, samples in m/s²
and deg/s go out. All integers are little-endian.
"""

import struct
from collections import deque
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from typing import NamedTuple, Self, cast

import numpy as np

from gateway.motion.samples import Block, Coverage, DeviceStatus, Lost, Piece, SessionHeld, TimeRead
from gateway.profiles.conversation import (
    Command,
    Connected,
    Disconnected,
    Durable,
    Event,
    Fault,
    Kind,
    Notified,
    Observe,
    Read,
    ReadDone,
    Retention,
    Room,
    Subscribe,
    Tick,
    WakeAt,
    Write,
    WriteDone,
)
from gateway.profiles.errors import FrameError


def _uuid(number: int) -> str:
    return f"f1d9{number:04x}-6a3b-4d6e-8f52-0c1b7a9d4e21"


SERVICE, INFO, CONFIG, LIVE, BACKLOG, CONTROL, TIME = (_uuid(0xE700 + i) for i in range(7))

NAME = "reference"
RATE_HZ = 50.0
VERSION = 1
SAMPLE_BYTES = 12
_HEADER = struct.Struct("<BBBBHHII")
_GAP = struct.Struct("<I")
_INFO = struct.Struct("<BBBBIIQ3bBBBH")
_SESSION = struct.Struct("<QIIII")
_CONFIG = struct.Struct("<BBHIHHff")
_TIME = struct.Struct("<IHI")
_STARTED = struct.Struct("<Q")
_COUNT_LIMIT = (-32768, 32767)

ACC_SCALE_MAX_M_S2, GYRO_SCALE_MAX_DEG_S = 1.0, 1.0
"""A count. 16 bits then reach 3,341 g and 32,768 deg/s, far beyond any wrist and any sensor for it."""

CREDIT_FRAMES = 64
"""Backlog frames under way at once: 16 kB, many round trips of 50 ms at the rate of a good link."""
FRAME_BYTES_MAX = 16 + 19 * SAMPLE_BYTES
TIME_READS = 8
"""Readings of the clock in a row; the one with the lowest round trip counts."""
TIME_EVERY_S = 300.0
"""Between two such rows: 50 ppm drift by 15 ms."""
ANSWER_S = 120.0
"""A control request whose answer has not come by then never will; the link is dropped. Above every radio time-out."""
STALL_S = 30.0
"""A request of which nothing comes for so long has lost its last frame: it is ended and what is missing asked again."""
FRUITLESS_MAX = 3
"""So many requests in a row that bring nothing new, and the next waits RETRY_S."""
RETRY_S = 60.0


class FrameType(IntEnum):
    LIVE = 0
    BACKLOG = 1
    GAP = 2


class Flag(IntFlag):
    ACC = 1
    GYRO = 2
    SATURATED = 8
    LOST_BEFORE = 16
    CLOCK_STEPPED = 32
    LAST = 64


class Op(IntEnum):
    START_LIVE = 1
    STOP_LIVE = 2
    REQUEST = 3
    CREDIT = 4
    ACK = 5
    ABORT = 6


class Header(NamedTuple):
    """The 16 bytes before the samples; first is an index in the session, tick a count of tick_hz."""

    type: FrameType
    flags: Flag
    n: int
    cfg_id: int
    seq: int
    session16: int
    first: int
    tick: int


@dataclass(frozen=True, slots=True)
class SessionEntry:
    """One session in the ring: samples first to end (exclusive) are held, all below watermark is acknowledged."""

    session: int
    first: int
    end: int
    watermark: int
    overwritten: int


@dataclass(frozen=True, slots=True)
class Info:
    ring_survives_reboot: bool
    firmware: tuple[int, int]
    tick_hz: int
    capacity: int
    serial: int
    sensor_frame: tuple[int, int, int]
    battery_percent: int | None
    rates_mhz: tuple[int, ...]
    sessions: tuple[SessionEntry, ...]

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        """Raises FrameError for a length or layout version that does not fit."""
        if len(payload) < _INFO.size:
            raise FrameError(NAME, f"Info: {len(payload)} bytes, expected at least {_INFO.size}", payload)
        version, flags, major, minor, tick_hz, capacity, serial, *frame, battery, r, s, _ = _INFO.unpack_from(payload)
        size = _INFO.size + 4 * r + _SESSION.size * s
        if version != VERSION:
            raise FrameError(NAME, f"Info: layout version {version}, expected {VERSION}", payload)
        if len(payload) != size or not s or not tick_hz:
            found = f"{len(payload)} bytes for {r} rates and {s} sessions, expected {size}"
            raise FrameError(NAME, f"Info: {found}", payload)
        if sorted(map(abs, frame)) != [1, 2, 3]:
            raise FrameError(NAME, f"Info: sensor frame {tuple(frame)}, expected ±1, ±2 and ±3", payload)
        sessions = _SESSION.iter_unpack(payload[_INFO.size + 4 * r :])
        return cls(
            ring_survives_reboot=bool(flags & 1),
            firmware=(major, minor),
            tick_hz=tick_hz,
            capacity=capacity,
            serial=serial,
            sensor_frame=(frame[0], frame[1], frame[2]),
            battery_percent=None if battery == 255 else battery,
            rates_mhz=struct.unpack_from(f"<{r}I", payload, _INFO.size),
            sessions=tuple(SessionEntry(*entry) for entry in sessions),
        )


@dataclass(frozen=True, slots=True)
class Config:
    """What the counts of a frame mean: rate in mHz, m/s² and deg/s a count."""

    cfg_id: int
    n: int
    rate_mhz: int
    acc_scale_m_s2: float
    gyro_scale_deg_s: float

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        if len(payload) != _CONFIG.size:
            raise FrameError(NAME, f"Config: {len(payload)} bytes, expected {_CONFIG.size}", payload)
        cfg_id, n, _, rate_mhz, _, _, acc, gyro = _CONFIG.unpack(payload)
        # a NaN fails both comparisons
        if not (0 < acc <= ACC_SCALE_MAX_M_S2 and 0 < gyro <= GYRO_SCALE_MAX_DEG_S and rate_mhz):
            found = f"scales {acc:g} m/s² and {gyro:g} deg/s a count, rate {rate_mhz} mHz"
            limits = f"at most {ACC_SCALE_MAX_M_S2:g} and {GYRO_SCALE_MAX_DEG_S:g}"
            raise FrameError(NAME, f"Config: {found}; all must be above 0, the scales {limits}", payload)
        return cls(cfg_id, n, rate_mhz, acc, gyro)


def decode_header(payload: bytes) -> Header:
    """Raises FrameError unless version, type and length agree."""
    if len(payload) < _HEADER.size:
        raise FrameError(NAME, f"frame: {len(payload)} bytes, expected at least {_HEADER.size}", payload)
    head, flags, n, cfg_id, seq, session16, first, tick = _HEADER.unpack_from(payload)
    if head >> 4 != VERSION:
        raise FrameError(NAME, f"frame: version {head >> 4}, expected {VERSION}", payload)
    if head & 15 > FrameType.GAP:
        raise FrameError(NAME, f"frame: type {head & 15}, expected 0 to 2", payload)
    kind = FrameType(head & 15)
    size = _HEADER.size + (_GAP.size if kind is FrameType.GAP else SAMPLE_BYTES * n)
    if len(payload) != size or (n == 0) != (kind is FrameType.GAP):
        raise FrameError(NAME, f"frame: {len(payload)} bytes with n = {n}, expected {size}", payload)
    header = Header(kind, Flag(flags), n, cfg_id, seq, session16, first, tick)
    if first + extent(header, payload) > 0xFFFFFFFF:
        raise FrameError(NAME, f"frame: index {first} is past the end of 32 bits", payload)
    return header


def extent(header: Header, payload: bytes) -> int:
    """How many samples the frame speaks of: those in it, or those that a gap frame declares missing."""
    if header.type is FrameType.GAP:
        return int(_GAP.unpack_from(payload, _HEADER.size)[0])
    return header.n


@dataclass(slots=True)
class ReferenceDecoder:
    """Journal rows of one wearable to samples. tick_hz and sessions come from Info, scales from Config rows."""

    tick_hz: int = 0
    sessions: dict[int, int] = field(default_factory=dict)
    configs: dict[int, Config] = field(default_factory=dict)

    def decode(self, kind: Kind, payload: bytes) -> list[Piece]:
        if kind is Kind.INFO:
            return self._info(Info.decode(payload))
        if kind is Kind.CONFIG:
            config = Config.decode(payload)
            self.configs[config.cfg_id] = config
        elif kind is Kind.TIME:
            return self._time(payload)
        elif kind is Kind.FRAME:
            return [self._frame(payload)]
        return []

    def _info(self, info: Info) -> list[Piece]:
        self.tick_hz = info.tick_hz
        self.sessions = {entry.session & 0xFFFF: entry.session for entry in info.sessions}
        running = info.sessions[-1].session
        status = DeviceStatus(
            firmware=".".join(map(str, info.firmware)),
            battery_percent=info.battery_percent,
            ring_capacity=info.capacity,
            ring_held=sum(e.end - e.first for e in info.sessions),
            overwritten=sum(e.overwritten for e in info.sessions),
            sensor_frame=info.sensor_frame,
        )
        return [status, *(SessionHeld(e.session, e.first, e.end, e.session == running) for e in info.sessions)]

    def _time(self, payload: bytes) -> list[Piece]:
        if len(payload) != 2 * _STARTED.size + _TIME.size:
            raise FrameError(NAME, f"Time: {len(payload)} bytes, expected {2 * _STARTED.size + _TIME.size}", payload)
        started_ns, ended_ns = (_STARTED.unpack_from(payload, offset)[0] for offset in (0, _STARTED.size))
        tick, session16, next_index = _TIME.unpack_from(payload, 2 * _STARTED.size)
        session = self.sessions.get(session16)
        return [] if session is None else [TimeRead(session, tick, self.tick_hz, next_index, started_ns, ended_ns)]

    def _frame(self, payload: bytes) -> Piece:
        header = decode_header(payload)
        session = self.sessions.get(header.session16)
        if session is None:
            raise FrameError(NAME, f"frame: no session {header.session16:04x} in Info", payload)
        if header.type is FrameType.GAP:
            return Lost(session, header.first, header.first + extent(header, payload), "overwritten")
        config = self.configs.get(header.cfg_id)
        if config is None:
            raise FrameError(NAME, f"frame: no Config {header.cfg_id}", payload)
        counts = np.frombuffer(payload, dtype="<i2", offset=_HEADER.size).reshape(header.n, 6)
        scale = np.array([config.acc_scale_m_s2] * 3 + [config.gyro_scale_deg_s] * 3, dtype=np.float32)
        saturated = bool(header.flags & Flag.SATURATED) or bool(np.isin(counts, _COUNT_LIMIT).any())
        return Block(session, header.first, header.tick, counts.astype(np.float32) * scale, saturated)

    def state(self) -> dict[str, object]:
        return {
            "tick_hz": self.tick_hz,
            "sessions": list(self.sessions.values()),
            "configs": [
                [c.cfg_id, c.n, c.rate_mhz, c.acc_scale_m_s2, c.gyro_scale_deg_s] for c in self.configs.values()
            ],
        }

    @classmethod
    def restore(cls, state: dict[str, object]) -> Self:
        sessions = cast(list[int], state["sessions"])
        configs = [Config(*c) for c in cast(list[tuple[int, int, int, float, float]], state["configs"])]
        return cls(cast(int, state["tick_hz"]), {s & 0xFFFF: s for s in sessions}, {c.cfg_id: c for c in configs})


@dataclass(slots=True)
class _Request:
    session: int
    first: int
    end: int
    new: int = 0
    """Samples that it has brought and that were not held before."""


class ReferenceConversation:
    """Reads Info, Config and Time, starts Live, asks for every hole in what the ring still holds, grants credit and
    acknowledges what is durable. One control request is under way at a time.
    """

    def __init__(self, have: dict[int, Coverage]) -> None:
        self._have = {session: coverage.copy() for session, coverage in have.items()}
        self._durable: dict[int, int] = {}
        self._room_bytes: int | None = None
        self._cfg_ids: set[int] = set()
        """Of all links: the ring may hold frames of an earlier Config, and the decoder remembers that too."""
        self._reset()

    def _reset(self) -> None:
        self._info: Info | None = None
        self._sessions: dict[int, int] = {}
        self._configured = False
        self._live = False
        self._controls: deque[bytes] = deque()
        self._asked: bytes | None = None
        self._asked_ns = 0
        self._acknowledged: dict[int, int] = {}
        self._holes: list[tuple[int, int, int]] = []
        self._request: _Request | None = None
        self._credit = 0
        self._backlog_seq: int | None = None
        self._backlog_ns = 0
        self._fruitless = 0
        self._retry_ns = 0
        self._time_reads_left = 0
        self._time_due_ns = 0

    def handle(self, event: Event, now_ns: int) -> list[Command]:
        match event:
            case Connected():
                self._reset()
                first = [Subscribe(CONTROL), Subscribe(CONFIG), Subscribe(LIVE), Subscribe(BACKLOG)]
                return [Observe(Kind.CONNECTED, b""), *first, Read(INFO), Read(CONFIG)]
            case Disconnected():
                self._reset()
                return [Observe(Kind.DISCONNECTED, b"")]
            case ReadDone(uuid, payload, started_ns):
                return self._read(uuid, payload, started_ns, now_ns)
            case Notified(uuid, payload):
                return self._notified(uuid, payload, now_ns)
            case Durable(session, index):
                self._durable[session] = max(index, self._durable.get(session, 0))
            case Room(bytes_free):
                self._room_bytes = bytes_free
            case Tick():
                return self._tick(now_ns)
            case WriteDone():
                pass
        return self._next(now_ns)

    def _tick(self, now_ns: int) -> list[Command]:
        if self._asked is not None and now_ns - self._asked_ns >= ANSWER_S * 1e9:
            return [Fault("no_answer", f"control {Op(self._asked[0]).name}: no answer in {ANSWER_S:g} s", fatal=True)]
        commands: list[Command] = []
        if self._request is not None and now_ns - self._backlog_ns >= STALL_S * 1e9:
            commands.append(Fault("stalled", f"backlog: nothing came for {STALL_S:g} s"))
            self._controls.append(bytes([Op.ABORT]))
            self._credit = 0  # frames that were lost at the end have cost theirs, and no later seq tells
            self._finish(self._request, now_ns)
        if self._live and now_ns >= self._time_due_ns:
            self._time_reads_left = TIME_READS
            self._time_due_ns = now_ns + int(TIME_EVERY_S * 1e9)
            commands.append(Read(TIME))
        return [*commands, *self._next(now_ns), *self._wake(now_ns)]

    def _wake(self, now_ns: int) -> list[Command]:
        due = [self._time_due_ns] if self._live else []
        if self._asked is not None:
            due.append(self._asked_ns + int(ANSWER_S * 1e9))
        if self._request is not None:
            due.append(self._backlog_ns + int(STALL_S * 1e9))
        elif self._holes and self._retry_ns > now_ns:
            due.append(self._retry_ns)
        return [WakeAt(max(now_ns, min(due)))] if due else []

    def _read(self, uuid: str, payload: bytes, started_ns: int, now_ns: int) -> list[Command]:
        try:
            if uuid == INFO:
                return self._info_read(Info.decode(payload), payload, now_ns)
            if uuid == CONFIG:
                return self._config_read(payload, now_ns)
        except FrameError as error:
            return [Fault("malformed", str(error), fatal=True)]
        if uuid == TIME:
            self._time_reads_left -= 1
            trip = _STARTED.pack(started_ns) + _STARTED.pack(now_ns) + payload
            again: list[Command] = [Read(TIME)] if self._time_reads_left > 0 else []
            return [Observe(Kind.TIME, trip), *again]
        return []

    def _info_read(self, info: Info, payload: bytes, now_ns: int) -> list[Command]:
        self._info = info
        self._sessions = {entry.session & 0xFFFF: entry.session for entry in info.sessions}
        held = {entry.session: entry for entry in info.sessions}
        self._have = {s: c for s, c in self._have.items() if s in held}
        for entry in info.sessions:
            self._have.setdefault(entry.session, Coverage()).add(0, entry.first)
        if self._live:
            self._holes = self._missing()
        return [Observe(Kind.INFO, payload), *self._next(now_ns)]

    def _config_read(self, payload: bytes, now_ns: int) -> list[Command]:
        config = Config.decode(payload)
        if config.rate_mhz != round(RATE_HZ * 1000):
            rate = f"the wearable samples at {config.rate_mhz / 1000:g} Hz, the model's grid is {RATE_HZ:g} Hz"
            return [Fault("rate", rate, fatal=True)]
        self._cfg_ids.add(config.cfg_id)
        if not self._configured:
            self._configured = True
            self._time_reads_left = TIME_READS
            self._time_due_ns = now_ns + int(TIME_EVERY_S * 1e9)
            self._controls.append(bytes([Op.START_LIVE]))
            return [Observe(Kind.CONFIG, payload), Read(TIME), *self._next(now_ns)]
        return [Observe(Kind.CONFIG, payload)]

    def _notified(self, uuid: str, payload: bytes, now_ns: int) -> list[Command]:
        try:
            if uuid in (LIVE, BACKLOG):
                return self._frame(payload, now_ns)
            if uuid == CONFIG:
                return self._config_read(payload, now_ns)
        except FrameError as error:
            return [Fault("malformed", str(error))]
        if uuid == CONTROL:
            return self._answer(payload, now_ns)
        return []

    def _frame(self, payload: bytes, now_ns: int) -> list[Command]:
        header = decode_header(payload)
        if header.type is not FrameType.LIVE:
            spent = 1 if self._backlog_seq is None else (header.seq - self._backlog_seq) & 0xFFFF
            self._credit = max(0, self._credit - spent)  # a frame that the radio lost has cost its credit as well
            self._backlog_seq, self._backlog_ns = header.seq, now_ns
        session = self._sessions.get(header.session16)
        if session is None:
            return [Fault("unknown_session", f"frame of session {header.session16:04x}, not in Info"), Read(INFO)]
        commands: list[Command] = []
        if header.type is not FrameType.GAP and header.cfg_id not in self._cfg_ids:
            # Journalled all the same: the decoder may know this Config from before this start.
            commands.append(Fault("unknown_config", f"frame with cfg_id {header.cfg_id}"))
            self._cfg_ids.add(header.cfg_id)
        first, end = header.first, header.first + extent(header, payload)
        have = self._have[session]
        known_end = have.ranges[-1][1] if have.ranges else 0
        new = sum(high - low for low, high in have.missing(first, end))
        if new:
            have.add(first, end)
            commands.append(Observe(Kind.FRAME, payload))
        else:
            commands.append(Fault("duplicate", f"samples {first} to {end} came again"))
        if header.type is FrameType.LIVE and first > known_end:
            self._holes.append((session, known_end, first))
        request = self._request
        if header.type is not FrameType.LIVE and request is not None:
            request.new += new
            if header.flags & Flag.LAST:
                self._finish(request, now_ns)
        return [*commands, *self._next(now_ns)]

    def _finish(self, request: _Request, now_ns: int) -> None:
        """A request has ended; what the radio lost of it is asked for again."""
        self._request = None
        self._count(bool(request.new), now_ns)
        left = self._have[request.session].missing(request.first, request.end)
        self._holes = [(request.session, low, high) for low, high in left] + self._holes

    def _count(self, fruitful: bool, now_ns: int) -> None:
        self._fruitless = 0 if fruitful else self._fruitless + 1
        if self._fruitless > FRUITLESS_MAX:
            self._retry_ns = now_ns + int(RETRY_S * 1e9)

    def _answer(self, payload: bytes, now_ns: int) -> list[Command]:
        if len(payload) < 2 or self._asked is None or payload[0] != self._asked[0] | 0x80:
            return [Fault("malformed", f"control: answer {payload[:8].hex()} to nothing that was asked")]
        op, status = Op(self._asked[0]), payload[1]
        self._asked = None
        commands: list[Command] = []
        if status:
            commands.append(Fault("refused", f"control {op.name}: status {status}"))
        if op is Op.START_LIVE:
            if status or len(payload) != 8:
                return [Fault("refused", f"control START_LIVE: status {status}, {len(payload)} bytes", fatal=True)]
            session16, live_first = struct.unpack_from("<HI", payload, 2)
            commands += self._live_started(session16, live_first, now_ns)
        elif op is Op.REQUEST and (status or len(payload) != 10):
            self._request = None
            self._count(False, now_ns)
            commands.append(Read(INFO))  # what it holds has changed; the holes follow from it
        return [*commands, *self._next(now_ns)]

    def _live_started(self, session16: int, live_first: int, now_ns: int) -> list[Command]:
        assert self._info is not None  # START_LIVE goes out after Info has been read
        running = self._info.sessions[-1].session
        if running & 0xFFFF != session16:  # it restarted between Info and START_LIVE
            return [Fault("session_changed", f"Live carries session {session16:04x}", fatal=True)]
        self._live = True
        self._holes = self._missing()
        known_end = max(self._info.sessions[-1].end, self._known_end(running))
        if live_first > known_end:
            self._holes.append((running, known_end, live_first))
        return self._wake(now_ns)

    def _known_end(self, session: int) -> int:
        ranges = self._have[session].ranges
        return ranges[-1][1] if ranges else 0

    def _missing(self) -> list[tuple[int, int, int]]:
        assert self._info is not None
        holes = []
        for entry in self._info.sessions:
            end = max(entry.end, self._known_end(entry.session))
            holes += [(entry.session, *hole) for hole in self._have[entry.session].missing(entry.first, end)]
        return holes

    def _next(self, now_ns: int) -> list[Command]:
        """The next control write, if none is under way: acknowledgements first, then credit, then a hole."""
        if not self._live and not self._controls:
            return []
        if self._asked is not None:
            return []
        if not self._controls:
            self._controls.extend(self._wanted(now_ns))
        if not self._controls:
            return []
        self._asked, self._asked_ns = self._controls.popleft(), now_ns
        return [Write(CONTROL, self._asked), *self._wake(now_ns)]

    def _wanted(self, now_ns: int) -> list[bytes]:
        assert self._info is not None
        held = {entry.session: entry.watermark for entry in self._info.sessions}
        for session, index in self._durable.items():
            if session in held and index > max(held[session], self._acknowledged.get(session, 0)):
                self._acknowledged[session] = index
                return [struct.pack("<BHI", Op.ACK, session & 0xFFFF, index)]
        if self._request is None:
            return self._request_next(now_ns)
        room = CREDIT_FRAMES if self._room_bytes is None else self._room_bytes // FRAME_BYTES_MAX
        grant = min(CREDIT_FRAMES, room) - self._credit
        if grant >= CREDIT_FRAMES // 2 or (grant > 0 and self._credit == 0):
            self._credit += grant
            return [struct.pack("<BH", Op.CREDIT, grant)]
        return []

    def _request_next(self, now_ns: int) -> list[bytes]:
        while self._holes and now_ns >= self._retry_ns:
            session, first, end = self._holes.pop(0)
            missing = self._have[session].missing(first, end) if session in self._have else []
            if not missing:
                continue
            (first, end), rest = missing[0], missing[1:]
            self._holes = [(session, low, high) for low, high in rest] + self._holes
            self._request, self._backlog_ns = _Request(session, first, end), now_ns
            return [struct.pack("<BHII", Op.REQUEST, session & 0xFFFF, first, end - first)]
        return []


class ReferenceProfile:
    """Registered under `reference`."""

    name = NAME
    service_uuid = SERVICE
    retention = Retention.RING
    rate_hz = RATE_HZ
    silence_s = 10.0

    def conversation(self, have: dict[int, Coverage]) -> ReferenceConversation:
        return ReferenceConversation(have)

    def decoder(self, state: dict[str, object] | None = None) -> ReferenceDecoder:
        return ReferenceDecoder() if state is None else ReferenceDecoder.restore(state)
