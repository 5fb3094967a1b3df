"""The reference profile: a wrist IMU with a flash ring. Layouts, limits and units: docs/reference-profile.md.

Bytes of its GATT characteristics come in; journal observations, control writes and, from the decoder, samples in m/s²
and deg/s go out. All integers are little-endian.
"""

import struct
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from typing import NamedTuple, Self, cast

import numpy as np

from gateway.motion.axes import AxesRejected, axes_from_directions
from gateway.motion.samples import Block, Coverage, DeviceStatus, Lost, Piece, SessionHeld, TimeRead
from gateway.profiles.conversation import (
    Command,
    Connected,
    Disconnected,
    Durable,
    Event,
    Fault,
    Kind,
    Leaving,
    Notified,
    Observe,
    Read,
    ReadDone,
    Received,
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
"""Where its Config says no other."""
RATE_MIN_HZ, RATE_MAX_HZ = 10.0, 1000.0
"""Below, a movement of the hand is not seen; above, no wearable's link carries it."""
VERSION = 1
COMPANY = 0xFFFF
HELD = 0x80
"""In the advertisement's state byte."""
SAMPLE_BYTES = 12
SESSIONS_MAX = 8
"""In the ring, by the profile."""
_HEADER = struct.Struct("<BBBBHHII")
_GAP = struct.Struct("<I")
_INFO = struct.Struct("<BBBBIIQ3bBBBH")
_SESSION = struct.Struct("<QIIII")
_CONFIG = struct.Struct("<BBHIHHff")
_TIME = struct.Struct("<IHI")
_STARTED = struct.Struct("<Q")
_REQUEST = struct.Struct("<BHII")
_COUNT_MIN, _COUNT_MAX = -32768, 32767

ACC_SCALE_MAX_M_S2, GYRO_SCALE_MAX_DEG_S = 1.0, 1.0
"""A count. 16 bits then reach 3,341 g and 32,768 deg/s, far beyond any wrist and any sensor for it."""

CREDIT_FRAMES = 256
"""Backlog frames under way at once: 62 kB. A grant goes out at half of it and may have to wait for the answer to an
acknowledgement: at 240 frames a second the other half lasts half a second, both round trips of a slow link."""
FRAME_SAMPLES_MAX = 255
FRAME_BYTES_MAX = 16 + 19 * SAMPLE_BYTES
TIME_READS_FIRST, TIME_READS = 96, 48
"""Readings of the clock in a row, at a session's start and later: each way, the soonest bounds its offset. Where the
radio takes up to 100 ms, 96 bound it within 3 ms (motion.clockfit)."""
TIME_READS_STEADY, TIME_STEADY_NS = 4, 5_000_000
"""So many round trips within so much of the shortest tell the offset as well as it need be known."""
TIME_READS_DRAINING = 8
"""As long as a backlog is fetched: each reading keeps a grant of credit waiting for a round trip."""
TIME_EVERY_MIN_S, TIME_EVERY_MAX_S, TIME_SHARE = 20.0, 300.0, 16
"""Between two such rows: at first the skew is not known, and 200 ppm drift by 4 ms in 20 s; later a sixteenth of what
has been seen of the session."""
ANSWER_S = 120.0
"""A control request whose answer has not come by then never will; the link is dropped. Above every radio time-out."""
STALL_S = 8.0
"""A request of which nothing comes for so long has lost its last frame: it is ended and what is missing asked again.
Above the supervision timeout of 6 s, which would have ended a link on which something is still under way."""
STALL_LIVE_S, STALL_LIVE_FRAMES = 2.0, 6
"""Sooner, where so many live frames have come meanwhile and the wearable has credit: one link carries both in order."""
FRUITLESS_MAX = 3
"""So many requests in a row that bring nothing new, and the next waits RETRY_S."""
RETRY_S = 60.0
DRAINING_SAMPLES = 500
"""Ten seconds at 50 Hz: a wearable of which more is missing is told as draining until nothing is; less is a few frames
that the radio lost."""
DOUBT_S = 10.0
"""After so long a frame whose Config was not known here is durable, or the decoder did not know it either."""
DOUBTS_MAX = 4096
"""Frames of unknown Configs under watch; what comes beyond is not asked for again before the next start."""
AHEAD_RATE = 1.5
"""No sensor samples at more than this many times its nominal rate."""


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


class Status(IntEnum):
    DONE = 0
    NOTHING_HELD = 4
    BUSY = 5


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

    def held(self, running: bool) -> SessionHeld:
        """Where samples were overwritten before anybody had them, which these were is not known."""
        return SessionHeld(self.session, self.first, self.end, running, 0 if self.overwritten else self.watermark)


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
        """Raises FrameError for what RP-INFO-1 to RP-INFO-3 do not allow, but for two things: what is reserved is
        ignored, for a later firmware may use it, and more samples than the ring's capacity harm nobody here."""
        if len(payload) < _INFO.size:
            raise FrameError(NAME, f"Info: {len(payload)} bytes, expected at least {_INFO.size}", payload)
        version, flags, major, minor, tick_hz, capacity, serial, *frame, battery, r, s, _ = _INFO.unpack_from(payload)
        size = _INFO.size + 4 * r + _SESSION.size * s
        if version != VERSION:
            raise FrameError(NAME, f"Info: layout version {version}, expected {VERSION}", payload)
        if len(payload) != size:
            found = f"{len(payload)} bytes for {r} rates and {s} sessions, expected {size}"
            raise FrameError(NAME, f"Info: {found}", payload)
        if not r or not 1 <= s <= SESSIONS_MAX:
            found = f"{r} rates and {s} sessions, expected a rate and 1 to {SESSIONS_MAX} sessions"
            raise FrameError(NAME, f"Info: {found}", payload)
        if not tick_hz:
            raise FrameError(NAME, "Info: tick_hz 0, expected more", payload)
        try:
            axes_from_directions(frame)
        except AxesRejected:
            expected = "expected ±1, ±2 and ±3, right-handed"
            raise FrameError(NAME, f"Info: sensor frame {tuple(frame)}, {expected}", payload) from None
        if battery > 100 and battery != 255:
            raise FrameError(NAME, f"Info: battery {battery} %, expected 0 to 100, or 255 for unknown", payload)
        sessions = tuple(SessionEntry(*entry) for entry in _SESSION.iter_unpack(payload[_INFO.size + 4 * r :]))
        for entry in sessions:
            if not (entry.first <= entry.end and entry.watermark <= entry.end):
                found = f"samples {entry.first} to {entry.end}, watermark {entry.watermark}"
                raise FrameError(NAME, f"Info: session {entry.session:016x} with {found}", payload)
        if len({entry.session & 0xFFFF for entry in sessions}) != s:
            raise FrameError(NAME, "Info: two sessions share their low 16 bits", payload)
        return cls(
            ring_survives_reboot=bool(flags & 1),
            firmware=(major, minor),
            tick_hz=tick_hz,
            capacity=capacity,
            serial=serial,
            sensor_frame=(frame[0], frame[1], frame[2]),
            battery_percent=None if battery == 255 else battery,
            rates_mhz=struct.unpack_from(f"<{r}I", payload, _INFO.size),
            sessions=sessions,
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


class Heard(NamedTuple):
    """A Live frame; lost_before: its b4."""

    session16: int
    seq: int
    first: int
    end: int
    lost_before: bool

    def follows(self, before: "Heard") -> bool:
        """Whether the wearable sent nothing in between."""
        same = self.session16 == before.session16 and self.first >= before.end
        return same and self.seq == (before.seq + 1) & 0xFFFF

    def continues(self, before: "Heard") -> bool:
        """And its index is what it must then be."""
        return self.follows(before) and (self.first == before.end or self.lost_before)


@dataclass(slots=True)
class LiveRun:
    """Tells what the sensor has lost: a jump of index without one of seq. A frame has no checksum, so the index of the
    frames on either side counts only where the frame before and the one after go on alike."""

    heard: list[Heard] = field(default_factory=list)
    """The last three Live frames of this link."""

    def take(self, header: Header) -> tuple[int, int] | None:
        """The samples, first to end (exclusive), that are now known to be lost by an overrun."""
        if header.type is not FrameType.LIVE:
            return None
        lost_before = bool(header.flags & Flag.LOST_BEFORE)
        frames = [*self.heard, Heard(header.session16, header.seq, header.first, header.first + header.n, lost_before)]
        self.heard = frames[-3:]
        if len(frames) < 4:
            return None
        one, low, high, other = frames
        if high.first == low.end or not (low.continues(one) and high.follows(low) and other.continues(high)):
            return None
        return low.end, high.first


@dataclass(slots=True)
class ReferenceDecoder:
    """Journal rows of one wearable to samples. tick_hz and sessions come from Info, scales from Config rows."""

    tick_hz: int = 0
    sessions: dict[int, int] = field(default_factory=dict)
    configs: dict[int, Config] = field(default_factory=dict)
    live: LiveRun = field(default_factory=LiveRun)

    def decode(self, kind: Kind, payload: bytes, _at: Received | None = None) -> list[Piece]:
        """_at: not needed; a frame says itself what it is."""
        if kind is Kind.INFO:
            return self._info(Info.decode(payload))
        if kind is Kind.CONFIG:
            config = Config.decode(payload)
            self.configs[config.cfg_id] = config
        elif kind is Kind.TIME:
            return self._time(payload)
        elif kind is Kind.FRAME:
            return self._frame(payload)
        elif kind is Kind.ABSENT:
            return self._absent(payload)
        elif kind in (Kind.CONNECTED, Kind.DISCONNECTED):
            self.live = LiveRun()
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
        return [status, *(e.held(e.session == running) for e in info.sessions)]

    def _time(self, payload: bytes) -> list[Piece]:
        if len(payload) != 2 * _STARTED.size + _TIME.size:
            raise FrameError(NAME, f"Time: {len(payload)} bytes, expected {2 * _STARTED.size + _TIME.size}", payload)
        started_ns, ended_ns = (_STARTED.unpack_from(payload, offset)[0] for offset in (0, _STARTED.size))
        tick, session16, next_index = _TIME.unpack_from(payload, 2 * _STARTED.size)
        session = self.sessions.get(session16)
        return [] if session is None else [TimeRead(session, tick, self.tick_hz, next_index, started_ns, ended_ns)]

    def _absent(self, payload: bytes) -> list[Piece]:
        """Below the newest closed frame, and not below the oldest, the ring has all that the sensor gave."""
        if len(payload) != _REQUEST.size + 2 or payload[0] != Op.REQUEST:
            raise FrameError(NAME, f"refused request: {len(payload)} bytes, expected {_REQUEST.size + 2}", payload)
        _, session16, first, n = _REQUEST.unpack_from(payload)
        session = self.sessions.get(session16)
        return [] if session is None else [Lost(session, first, first + n, "overrun")]

    def _frame(self, payload: bytes) -> list[Piece]:
        header = decode_header(payload)
        session = self.sessions.get(header.session16)
        if session is None:
            raise FrameError(NAME, f"frame: no session {header.session16:04x} in Info", payload)
        if header.type is FrameType.GAP:
            return [Lost(session, header.first, header.first + extent(header, payload), "overwritten")]
        config = self.configs.get(header.cfg_id)
        if config is None:
            raise FrameError(NAME, f"frame: no Config {header.cfg_id}", payload)
        overrun = self.live.take(header)
        counts = np.frombuffer(payload, dtype="<i2", offset=_HEADER.size).reshape(header.n, 6)
        scale = np.array([config.acc_scale_m_s2] * 3 + [config.gyro_scale_deg_s] * 3, dtype=np.float32)
        at_limit = counts.min() == _COUNT_MIN or counts.max() == _COUNT_MAX
        saturated = bool(header.flags & Flag.SATURATED) or bool(at_limit)
        values = counts.astype(np.float32) * scale
        block = Block(session, header.first, header.tick, values, saturated, config.rate_mhz / 1000)
        return [block] if overrun is None else [Lost(session, *overrun, "overrun"), block]

    def state(self) -> dict[str, object]:
        return {
            "tick_hz": self.tick_hz,
            "sessions": list(self.sessions.values()),
            "configs": [
                [c.cfg_id, c.n, c.rate_mhz, c.acc_scale_m_s2, c.gyro_scale_deg_s] for c in self.configs.values()
            ],
            "live": [list(heard) for heard in self.live.heard],
        }

    @classmethod
    def restore(cls, state: dict[str, object]) -> Self:
        sessions = cast(list[int], state["sessions"])
        configs = [Config(*c) for c in cast(list[tuple[int, int, int, float, float]], state["configs"])]
        live = LiveRun([Heard(*h) for h in cast(list[tuple[int, int, int, int, bool]], state.get("live", []))])
        known = {s & 0xFFFF: s for s in sessions}
        return cls(cast(int, state["tick_hz"]), known, {c.cfg_id: c for c in configs}, live)


@dataclass(frozen=True, slots=True)
class _Doubt:
    """A frame that was journalled, though its Config is not known here."""

    cfg_id: int
    session: int
    first: int
    end: int
    since_ns: int


@dataclass(slots=True)
class _Request:
    session: int
    first: int
    end: int
    closed: bool
    """Info had said before that the wearable has closed all frames of it."""
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
        self._doubts: list[_Doubt] = []
        self._doubted: set[tuple[int, int]] = set()
        """Session and first index of frames that were asked for again: once is enough."""
        self._timed: tuple[int | None, int] = -1, 0
        """The session whose clock is being asked, and since when."""
        self._time_due_ns = 0
        self._reset()

    def _reset(self) -> None:
        self._info: Info | None = None
        self._sessions: dict[int, int] = {}
        self._rate_hz = RATE_MAX_HZ
        self._told: tuple[int, int] = (0, 0)
        """An index that the running session had not passed, and when it was asked for."""
        self._configured = False
        self._live = False
        self._live_run = LiveRun()
        self._controls: deque[bytes] = deque()
        self._asked: bytes | None = None
        self._asked_ns = 0
        self._acknowledged: dict[int, int] = {}
        self._holes: list[tuple[int, int, int]] = []
        self._request: _Request | None = None
        self._credit = 0
        self._backlog_seq: int | None = None
        self._suspect_seq: int | None = None
        self._backlog_ns = 0
        self._live_since = 0
        self._fruitless = 0
        self._retry_ns = 0
        self._time_trips: list[int] = []
        """Of this row of readings, ns."""
        self._time_reads_due = 0
        self.draining = False

    def handle(self, event: Event, now_ns: int) -> list[Command]:
        commands = self._handle(event, now_ns)
        if self._request is not None or self._holes or self.draining:
            self.draining = self._behind(now_ns) > (0 if self.draining else DRAINING_SAMPLES)
        return commands

    def _behind(self, now_ns: int) -> int:
        """Samples that are being fetched, or will be as soon as the request that is under way is over."""
        request = self._request
        if request is None and now_ns < self._retry_ns:
            return 0
        asked = request.end - request.first - request.new if request is not None else 0
        return max(0, asked) + sum(end - first for _, first, end in self._holes)

    def _handle(self, event: Event, now_ns: int) -> list[Command]:
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
                self._resolve_doubts(now_ns)
            case Room(bytes_free):
                self._room_bytes = bytes_free
                self._resolve_doubts(now_ns)
            case Tick():
                return self._tick(now_ns)
            case WriteDone() | Leaving():  # a link that ends ends Live
                pass
        return self._next(now_ns)

    def _tick(self, now_ns: int) -> list[Command]:
        if self._asked is not None and now_ns - self._asked_ns >= ANSWER_S * 1e9:
            return [Fault("no_answer", f"control {Op(self._asked[0]).name}: no answer in {ANSWER_S:g} s", fatal=True)]
        commands: list[Command] = []
        if self._request is not None and now_ns - self._backlog_ns >= STALL_S * 1e9:
            commands += self._stalled(self._request, now_ns)
        if self._live and now_ns >= self._time_due_ns:
            commands += self._ask_time(now_ns)
        return [*commands, *self._next(now_ns), *self._wake(now_ns)]

    def _stalled(self, request: _Request, now_ns: int) -> list[Command]:
        self._controls.append(bytes([Op.ABORT]))
        self._credit = 0  # frames that were lost at the end have cost theirs, and no later seq tells
        self._finish(request, now_ns)
        return [Fault("stalled", f"backlog: nothing came for {(now_ns - self._backlog_ns) / 1e9:.0f} s")]

    def _ask_time(self, now_ns: int) -> list[Command]:
        session = self._info.sessions[-1].session if self._info is not None else None
        if session != self._timed[0]:
            self._timed = session, now_ns
            self._time_due_ns = now_ns
        if now_ns < self._time_due_ns:
            return []
        since_s = (now_ns - self._timed[1]) / 1e9
        self._time_trips, self._time_reads_due = [], TIME_READS if since_s else TIME_READS_FIRST
        every_s = min(TIME_EVERY_MAX_S, max(TIME_EVERY_MIN_S, since_s / TIME_SHARE))
        self._time_due_ns = now_ns + int(every_s * 1e9)
        return [Read(TIME)]

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
                return self._info_read(Info.decode(payload), payload, started_ns, now_ns)
            if uuid == CONFIG:
                return self._config_read(payload, now_ns)
        except FrameError as error:
            return [Fault("malformed", str(error), fatal=True)]
        if uuid == TIME:
            self._time_trips.append(now_ns - started_ns)
            fetching = self._request is not None or bool(self._holes)
            steady_ns = min(self._time_trips) + TIME_STEADY_NS
            steady = sum(trip_ns <= steady_ns for trip_ns in self._time_trips) >= TIME_READS_STEADY
            wanted = TIME_READS_DRAINING if fetching or steady else self._time_reads_due
            trip = _STARTED.pack(started_ns) + _STARTED.pack(now_ns) + payload
            again: list[Command] = [Read(TIME)] if len(self._time_trips) < wanted else []
            return [Observe(Kind.TIME, trip), *again]
        return []

    def _info_read(self, info: Info, payload: bytes, started_ns: int, now_ns: int) -> list[Command]:
        self._info = info
        self._told = (info.sessions[-1].end + FRAME_SAMPLES_MAX, started_ns)
        self._sessions = {entry.session & 0xFFFF: entry.session for entry in info.sessions}
        held = {entry.session: entry for entry in info.sessions}
        self._have = {s: c for s, c in self._have.items() if s in held}
        if self._request is not None and self._request.session not in held:
            self._request = None  # it gave that session up
        for entry in info.sessions:
            self._have.setdefault(entry.session, Coverage()).add(0, entry.first)
        if self._live:
            self._holes = self._missing()
        return [Observe(Kind.INFO, payload), *self._next(now_ns)]

    def _config_read(self, payload: bytes, now_ns: int) -> list[Command]:
        config = Config.decode(payload)
        if not RATE_MIN_HZ <= config.rate_mhz / 1000 <= RATE_MAX_HZ:
            limits = f"{RATE_MIN_HZ:g} to {RATE_MAX_HZ:g} Hz can be resampled"
            return [Fault("rate", f"the wearable samples at {config.rate_mhz / 1000:g} Hz; {limits}", fatal=True)]
        self._cfg_ids.add(config.cfg_id)
        self._rate_hz = config.rate_mhz / 1000
        if not self._configured:
            self._configured = True
            self._controls.append(bytes([Op.START_LIVE]))
            return [Observe(Kind.CONFIG, payload), *self._ask_time(now_ns), *self._next(now_ns)]
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
        if header.type is not FrameType.LIVE and header.seq == self._backlog_seq:
            return [Fault("duplicate", f"backlog frame {header.seq} came again")]  # its `last` is not another request's
        if header.type is not FrameType.LIVE:
            self._spend(header.seq)
            self._backlog_ns, self._live_since = now_ns, 0
        session = self._sessions.get(header.session16)
        if session is None:
            return [Fault("unknown_session", f"frame of session {header.session16:04x}, not in Info"), Read(INFO)]
        first, end = header.first, header.first + extent(header, payload)
        possible = self._possible_end(session, now_ns)
        if end > possible:
            return [
                Fault("impossible", f"samples {first} to {end} of a session that has {possible} at most"),
                Read(INFO),
            ]
        commands: list[Command] = []
        if header.type is not FrameType.GAP and header.cfg_id not in self._cfg_ids:
            # Journalled all the same: the decoder may know this Config from before this start.
            commands.append(Fault("unknown_config", f"frame with cfg_id {header.cfg_id}"))
            if len(self._doubted) < DOUBTS_MAX and (session, first) not in self._doubted:
                self._doubted.add((session, first))
                self._doubts.append(_Doubt(header.cfg_id, session, first, end, now_ns))
        have = self._have[session]
        known_end = have.ranges[-1][1] if have.ranges else 0
        new = sum(high - low for low, high in have.missing(first, end))
        if new:
            have.add(first, end)
            commands.append(Observe(Kind.FRAME, payload))
            if header.cfg_id in self._cfg_ids:  # of what the decoder takes, it must not conclude more than that one
                overrun = self._live_run.take(header)
                have.add(*(overrun or (0, 0)))
        else:
            commands.append(Fault("duplicate", f"samples {first} to {end} came again"))
        if header.type is FrameType.LIVE and first > known_end:
            self._holes.append((session, known_end, first))
        request = self._request
        if header.type is not FrameType.LIVE and request is not None:
            request.new += new
            if header.flags & Flag.LAST:
                self._finish(request, now_ns)
        elif request is not None and self._asked is None and self._credit:
            self._live_since += 1
            if self._live_since >= STALL_LIVE_FRAMES and now_ns - self._backlog_ns >= STALL_LIVE_S * 1e9:
                commands += self._stalled(request, now_ns)
        return [*commands, *self._next(now_ns)]

    def _spend(self, seq: int) -> None:
        """A frame that the radio lost has cost its credit as well. Garbage in seq would look like many lost ones: a
        jump that the credit cannot explain counts only once the next frame goes on from it."""
        if self._backlog_seq is None or self._suspect_seq == seq:
            spent = 1
        else:
            spent = (seq - self._backlog_seq) & 0xFFFF
            if spent > max(1, self._credit):
                self._suspect_seq = (seq + 1) & 0xFFFF
                seq, spent = (self._backlog_seq + 1) & 0xFFFF, 1
        self._credit = max(0, self._credit - spent)
        self._backlog_seq = seq

    def _resolve_doubts(self, now_ns: int) -> None:
        """Where such a frame has become durable the decoder knows its Config; where it has not, it is asked for again:
        it may have been garbage."""
        for doubt in self._doubts:
            if self._durable.get(doubt.session, 0) >= doubt.end:
                self._cfg_ids.add(doubt.cfg_id)
        self._doubts = [doubt for doubt in self._doubts if doubt.cfg_id not in self._cfg_ids]
        over_ns = now_ns - int(DOUBT_S * 1e9)
        for doubt in [doubt for doubt in self._doubts if doubt.since_ns <= over_ns]:
            self._doubts.remove(doubt)
            if doubt.session in self._have:
                self._have[doubt.session].remove(doubt.first, doubt.end)
                self._holes.append((doubt.session, doubt.first, doubt.end))

    def _possible_end(self, session: int, now_ns: int) -> int:
        """One past the newest sample that the session can have by now. A frame has no checksum of its own: garbage in
        its index, or in the extent of a gap, shows only here."""
        assert self._info is not None  # sessions are known from it
        if session != self._info.sessions[-1].session:
            return next(entry.end for entry in self._info.sessions if entry.session == session)
        index, asked_ns = self._told
        return index + int((now_ns - asked_ns) / 1e9 * self._rate_hz * AHEAD_RATE)

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
        asked, op, status = self._asked, Op(self._asked[0]), payload[1]
        self._asked = None
        commands: list[Command] = []
        if status:
            commands.append(Fault("refused", f"control {op.name}: status {status}"))
        if op is Op.START_LIVE:
            if status or len(payload) != 8:
                return [Fault("refused", f"control START_LIVE: status {status}, {len(payload)} bytes", fatal=True)]
            session16, live_first = struct.unpack_from("<HI", payload, 2)
            commands += self._live_started(session16, live_first, now_ns)
        elif op is Op.REQUEST and status == Status.NOTHING_HELD and self._request is not None and self._request.closed:
            commands.append(Observe(Kind.ABSENT, asked + payload[:2]))
            self._have[self._request.session].add(self._request.first, self._request.end)
            self._request = None
            self._count(True, now_ns)
        elif op is Op.REQUEST and (status or len(payload) != 10):
            self._request = None
            self._count(False, now_ns)
            if status == Status.BUSY:  # it goes on with one that seemed over
                self._controls.append(bytes([Op.ABORT]))
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
        """The next control write, if none is under way: credit first, for the link must not run dry while commits
        come fast; it is due but seldom, so acknowledgements get their turn. Then a hole."""
        if self._info is None or self._asked is not None:  # Config may be notified before Info is read
            return []
        if not self._live and not self._controls:
            return []
        if not self._controls:
            self._controls.extend(self._wanted(now_ns))
        if not self._controls:
            return []
        self._asked, self._asked_ns = self._controls.popleft(), now_ns
        return [Write(CONTROL, self._asked), *self._wake(now_ns)]

    def _wanted(self, now_ns: int) -> list[bytes]:
        assert self._info is not None
        if self._request is not None:
            room = CREDIT_FRAMES if self._room_bytes is None else self._room_bytes // FRAME_BYTES_MAX
            grant = min(CREDIT_FRAMES, room) - self._credit
            if grant >= CREDIT_FRAMES // 2 or (grant > 0 and self._credit == 0):
                self._credit += grant
                return [struct.pack("<BH", Op.CREDIT, grant)]
        held = {entry.session: entry.watermark for entry in self._info.sessions}
        for session, index in self._durable.items():
            if session in held and index > max(held[session], self._acknowledged.get(session, 0)):
                self._acknowledged[session] = index
                return [struct.pack("<BHI", Op.ACK, session & 0xFFFF, index)]
        return self._request_next(now_ns) if self._request is None else []

    def _request_next(self, now_ns: int) -> list[bytes]:
        assert self._info is not None  # Live has started
        while self._holes and now_ns >= self._retry_ns:
            session, first, end = self._holes.pop(0)
            missing = self._have[session].missing(first, end) if session in self._have else []
            if not missing:
                continue
            (first, end), rest = missing[0], missing[1:]
            self._holes = [(session, low, high) for low, high in rest] + self._holes
            closed = any(e.session == session and e.first <= first and end <= e.end for e in self._info.sessions)
            self._request, self._backlog_ns = _Request(session, first, end, closed), now_ns
            self._live_since = 0
            return [_REQUEST.pack(Op.REQUEST, session & 0xFFFF, first, end - first)]
        return []


class ReferenceProfile:
    """Registered under `reference`."""

    name = NAME
    service_uuid = SERVICE
    retention = Retention.RING
    rate_hz = RATE_HZ
    sensor_frame: tuple[int, int, int] | None = None
    silence_s = 10.0

    def conversation(self, have: dict[int, Coverage]) -> ReferenceConversation:
        return ReferenceConversation(have)

    def decoder(self, state: dict[str, object] | None = None) -> ReferenceDecoder:
        return ReferenceDecoder() if state is None else ReferenceDecoder.restore(state)

    def held(self, manufacturer_data: Mapping[int, bytes], /) -> bool | None:
        """By bit 7 of its state. None where that is not there, or of a version that this one does not know."""
        data = manufacturer_data.get(COMPANY, b"")
        return bool(data[1] & HELD) if len(data) >= 2 and data[0] == VERSION else None
