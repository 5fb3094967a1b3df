"""Polar Verity Sense: the Polar Measurement Data service (PMD), accelerometer and gyroscope as streams of their own.

Control point (written, answered by an indication):

| request | answer |
|---|---|
| `01 type`: get settings | `F0 01 type status more settings` |
| `02 type settings`: start | `F0 02 type status more settings` |
| `03 type`: stop | `F0 03 type status more` |

type is 2 (accelerometer) or 5 (gyroscope). Settings are a list of `id u8, count u8, values`: 0 rate in Hz, 1 resolution
in bits, 2 range in g or deg/s (u16 each), 3 range in thousandths (u32), 4 channels (u8), 5 factor (f32), 6 security (16
bytes). An answer with `more` goes on in the next indication, after one byte that says the same of itself.

A frame of the data characteristic, little-endian:

| offset | field |
|---|---|
| 0 | u8 type in bits 0-5 |
| 1 | u64 time of the last sample, ns since 2000-01-01 by the device's clock |
| 9 | u8 bits 0-6 encoding, bit 7 delta-compressed |
| 10 | samples |

| type, encoding | samples |
|---|---|
| 2, 0x01 | 3 x i16, mg |
| 2, 0x80 | delta over i16, counts x factor = g |
| 2, 0x81 | delta over i16, mg x factor |
| 5, 0x80 | delta over i16, counts x factor = deg/s |
| 5, 0x81 | delta over the bit patterns of f32 (32-bit addition), deg/s x factor |

Delta: one reference sample, then blocks: `width u8, count u8`, and count samples of three differences to the sample
before, width bits each, two's complement, least significant bit first, padded to a byte.
Source: the vendor's polar-ble-sdk and its unit tests. Retention: none on this path. Sensor frame: as the vendor draws
it for the case (unverified). The Verity Sense may ask to be paired before it streams.
"""

import math
import struct
from collections import deque
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple, Self, cast

import numpy as np
from numpy.typing import NDArray

from gateway.motion.samples import Burst, Float32, Int64, Lost, Piece, Sensor
from gateway.motion.units import m_s2_from
from gateway.profiles.conversation import Command, Fault, Kind, Observe, Received, Write
from gateway.profiles.errors import FrameError
from gateway.profiles.streaming import GRID_HZ, StreamingConversation, StreamingDecoder, StreamingProfile


def _uuid(number: int) -> str:
    return f"fb005c{number:02x}-02e7-f387-1cad-8acd2d8df0c8"


SERVICE, CONTROL, DATA = _uuid(0x80), _uuid(0x81), _uuid(0x82)

NAME = "polar-verity-sense"
RATE_HZ = 52.0
GET_SETTINGS, START, STOP, RESPONSE = 1, 2, 3, 0xF0
ACC, GYRO = 2, 5
SENSORS = {ACC: Sensor.ACC, GYRO: Sensor.GYRO}
RATE, RESOLUTION, RANGE, CHANNELS, FACTOR = 0, 1, 2, 4, 5
_FORMATS = {RATE: "H", RESOLUTION: "H", RANGE: "H", 3: "I", CHANNELS: "B", FACTOR: "f", 6: "16s"}
WANTED_RANGE = {ACC: 8, GYRO: 2000}
"""g and deg/s: a hand that strikes something passes 4 g, a turn of the wrist 1,000 deg/s."""
RESOLUTION_BITS = 16
DEFAULT_SETTINGS = {
    kind: {RATE: 52, RESOLUTION: RESOLUTION_BITS, RANGE: WANTED_RANGE[kind], CHANNELS: 3} for kind in SENSORS
}
"""Of the Verity Sense, where it does not answer the question for them."""
STATUS_WORDS = (
    "done", "it does not know the request", "it does not know the sensor", "it does not support that",
    "wrong length", "wrong parameter", "it streams already", "wrong resolution", "wrong rate", "wrong range",
    "the MTU is too small", "wrong number of channels", "not in this state", "it sits in its charger",
)  # fmt: skip
STATUS_NO_SENSOR, STATUS_NOT_SUPPORTED, STATUS_CHARGING = 2, 3, 13
FACTOR_MAX = 1.0
"""g, mg or deg/s a count."""
ANSWER_BYTES_MAX = 512

_HEAD = struct.Struct("<BQB")
_REFERENCE_BYTES = {RESOLUTION_BITS: 6, 32: 12}
SAMPLES_MAX = 1024
"""In one frame; at MTU 512 with differences of one bit there are 1,200, in a real frame about 70."""
WIDTH_MAX = 32
STEP_S = 60.0
APART_S = 10.0
"""Between the first frame of one sensor and the last of the other, whose clock is the same: a frame holds up to 2.5 s,
and one that was half full may come late."""
LOSS_SAMPLES, LOSS_SHARE = 0.5, 0.05
"""A frame later than its samples explain by half a sample and a twentieth of its own number tells of lost ones: whole
frames are lost, and the sensor's rate differs from its nominal one by less than that. One as much too early is a step
of the clock."""
PERIOD_TOLERANCE = 0.1
PERIOD_GAPS = 8
"""The period is the mean of about so many gaps. Where a loss hides a step back, one gap may be short by as much as is
no step; were the period that gap's, every frame after it would seem to follow a loss."""
HELD_SAMPLES = 256
"""Of the gyroscope, 5 s, kept back for the accelerometer's first frame: frames come at most 2.5 s apart, one may be
lost."""
_LIMITS = {ACC: 17.0, GYRO: 2100.0}
"""g and deg/s: beyond the widest range (16, 2,000) and its calibration."""


def decode_settings(payload: bytes) -> dict[int, tuple[float, ...]]:
    """The settings of an answer or a request, by id. Raises FrameError."""
    settings: dict[int, tuple[float, ...]] = {}
    offset = 0
    while offset < len(payload):
        head = payload[offset : offset + 2]
        form = _FORMATS.get(head[0])
        if form is None or len(head) < 2:
            raise FrameError(NAME, f"settings: id {head[0]} at byte {offset}", payload)
        size = struct.calcsize(f"<{head[1]}{form}") if form != "16s" else 16 * head[1]
        values = payload[offset + 2 : offset + 2 + size]
        if len(values) != size:
            raise FrameError(NAME, f"settings: {len(values)} bytes for id {head[0]}, expected {size}", payload)
        if form != "16s" and head[1]:
            settings[head[0]] = struct.unpack(f"<{head[1]}{form}", values)
        offset += 2 + size
    return settings


def encode_settings(settings: dict[int, int]) -> bytes:
    """One value each."""
    return b"".join(struct.pack(f"<BB{_FORMATS[i]}", i, 1, value) for i, value in settings.items())


def too_slow(offered: dict[int, tuple[float, ...]]) -> bool:
    """Whether none of the rates that are offered reaches the grid's."""
    return bool(offered.get(RATE)) and max(offered[RATE]) < GRID_HZ


def choose(kind: int, offered: dict[int, tuple[float, ...]]) -> dict[int, int]:
    """What is asked for: the nearest rate not below the grid's, the nearest range not below the wanted one, 16 bits.
    offered: not too slow."""
    wanted = {RATE: int(GRID_HZ), RESOLUTION: RESOLUTION_BITS, RANGE: WANTED_RANGE[kind], CHANNELS: 3}
    return {i: int(_nearest_above(offered[i], floor)) for i, floor in wanted.items() if offered.get(i)}


def _nearest_above(values: tuple[float, ...], floor: float) -> float:
    return min((v for v in values if v >= floor), default=max(values))


class Frame(NamedTuple):
    """values: (n, 3) float64, g or deg/s. stamp_ns: of the last sample. unit: what one count is, 0 for floats.
    peak: the largest value without its sign."""

    kind: int
    stamp_ns: int
    values: NDArray[np.float64]
    unit: float
    peak: float


def decode_frame(payload: bytes, factors: dict[int, float]) -> Frame:
    """factors: by type, from the answer to the start. Raises FrameError."""
    if len(payload) < _HEAD.size:
        raise FrameError(NAME, f"frame: {len(payload)} bytes, expected at least {_HEAD.size}", payload)
    kind, stamp_ns, encoding = _HEAD.unpack_from(payload)
    kind &= 0x3F
    body, factor = payload[_HEAD.size :], factors.get(kind)
    match kind, encoding:
        case (2, 0x01):
            if not body or len(body) % 6 or len(body) > 6 * SAMPLES_MAX:
                raise FrameError(NAME, f"frame: {len(body)} bytes of samples, expected 6 for each", payload)
            counts, unit = np.frombuffer(body, "<i2").reshape(-1, 3), 1e-3
        case (2 | 5, 0x80):
            if factor is None:
                raise FrameError(NAME, "frame: no start has told its factor", payload)
            counts, unit = _delta(body, 16, payload), factor
        case (2, 0x81):
            counts, unit = _delta(body, 16, payload), 1e-3 * (factor or 1.0)
        case (5, 0x81):
            patterns = _delta(body, 32, payload).astype(np.uint32).view(np.float32)
            with np.errstate(invalid="ignore"):
                values = patterns.astype(np.float64) * (factor or 1.0)
                peak = float(np.abs(values).max())
            return Frame(kind, stamp_ns, values, 0.0, _measured(kind, peak, payload))
        case _:
            raise FrameError(NAME, f"frame: type {kind} in encoding {encoding:#04x}", payload)
    low, high = int(counts.min()), int(counts.max())
    if low < -32768 or high > 32767:
        raise FrameError(NAME, "frame: its differences leave 16 bits", payload)
    return Frame(kind, stamp_ns, counts * unit, unit, _measured(kind, max(-low, high) * unit, payload))


def _measured(kind: int, peak: float, payload: bytes) -> float:
    if not peak <= _LIMITS[kind]:  # a NaN is not either
        raise FrameError(NAME, "frame: a value that no sensor measures", payload)
    return peak


def _weights(width: int) -> NDArray[np.int64]:
    """Of the bits of a number in two's complement, the least significant first."""
    weights = 1 << np.arange(width, dtype=np.int64)
    weights[-1:] *= -1
    return weights


_WEIGHTS = [_weights(width) for width in range(WIDTH_MAX + 1)]


def _delta(body: bytes, bits: int, payload: bytes) -> NDArray[np.int64]:
    """The reference sample and the sums of all differences after it, (n, 3)."""
    size = _REFERENCE_BYTES[bits]
    if len(body) < size:
        raise FrameError(NAME, f"frame: {len(body)} bytes of samples, expected at least {size}", payload)
    parts = [np.frombuffer(body, f"<i{bits // 8}", 3).astype(np.int64).reshape(1, 3)]
    offset, total = size, 1
    while offset < len(body):
        width, n = body[offset], body[offset + 1] if offset + 1 < len(body) else 0
        packed = body[offset + 2 : offset + 2 + math.ceil(3 * width * n / 8)]
        total += n
        if not n or width > WIDTH_MAX or 8 * len(packed) < 3 * width * n or total > SAMPLES_MAX:
            raise FrameError(NAME, f"frame: a block of {n} samples of {width} bits at {offset}", payload)
        unpacked = np.unpackbits(np.frombuffer(packed, np.uint8), count=3 * width * n, bitorder="little")
        parts.append((unpacked.reshape(3 * n, width) @ _WEIGHTS[width]).reshape(n, 3))
        offset += 2 + len(packed)
    return np.cumsum(np.concatenate(parts), axis=0)


@dataclass(slots=True)
class Track:
    """Where one of the two streams stands: by stamps of last samples, and the period over so many gaps."""

    nominal_ns: float
    stamp_ns: int | None = None
    period_ns: float = 0.0
    gaps: int = 0
    next_index: int = 0

    def stepped(self, stamp_ns: int, n: int) -> bool:
        if self.stamp_ns is None:
            return False
        gap_ns = stamp_ns - self.stamp_ns
        excess = gap_ns / self.period_ns - n
        return not 0 <= gap_ns <= STEP_S * 1e9 or excess < -(LOSS_SAMPLES + LOSS_SHARE * n)

    def take(self, stamp_ns: int, n: int) -> tuple[int, Int64]:
        """How many samples were lost before these, and the time of each against the stamp, ns: none is later."""
        lost, period_ns = 0, self.nominal_ns
        if self.stamp_ns is None:
            self.period_ns, self.gaps = self.nominal_ns, 0
        else:
            gap_ns = stamp_ns - self.stamp_ns
            excess = gap_ns / self.period_ns - n
            lost = round(excess) if excess > LOSS_SAMPLES + LOSS_SHARE * n else 0
            period_ns = gap_ns / (n + lost)
            low_ns, high_ns = (self.nominal_ns * (1 + sign * PERIOD_TOLERANCE) for sign in (-1, 1))
            self.gaps = min(self.gaps + 1, PERIOD_GAPS)
            self.period_ns += (min(high_ns, max(low_ns, period_ns)) - self.period_ns) / self.gaps
        self.stamp_ns, self.next_index = stamp_ns, self.next_index + lost + n
        return lost, np.rint(-period_ns * np.arange(n - 1, -1, -1)).astype(np.int64)


class PolarDecoder(StreamingDecoder):
    """Journal rows to bursts of each sensor. Both count their time from the accelerometer's first sample, as recordings
    do (motion.grid), whichever frame comes first; a gyroscope without accelerometer from its own."""

    def __init__(self) -> None:
        super().__init__()
        self.factors: dict[int, float] = {}
        self.ranges: dict[int, float] = {kind: float(WANTED_RANGE[kind]) for kind in SENSORS}
        self.tracks = {kind: Track(1e9 / RATE_HZ) for kind in SENSORS}
        self.origin_ns = 0
        """Of the session's time, a stamp: of its first frame until it is known."""
        self.origin_known = False
        self.held: list[Burst | Lost] = []
        """The gyroscope's meanwhile."""
        self.stepped_from: dict[int, int] = {}
        """The last stamps before the clock stepped in this link."""

    def _config(self, payload: bytes) -> None:
        """A start as it was written, or its answer."""
        kind = payload[1] & 0x3F if len(payload) > 1 else 0
        if payload[:1] == bytes([START]) and kind in SENSORS:
            settings = decode_settings(payload[2:])
            rate_hz = settings.get(RATE, (0.0,))[0]
            if rate_hz:
                self.tracks[kind].nominal_ns = 1e9 / rate_hz
            self.ranges[kind] = settings.get(RANGE, (self.ranges[kind],))[0]
        else:
            op, kind, status, params = decode_answer(payload)
            factors = decode_settings(params).get(FACTOR, ()) if status == 0 else ()
            if op == START and kind in SENSORS and factors:
                if not 0 < factors[0] <= FACTOR_MAX:  # a NaN fails it
                    raise FrameError(NAME, f"start: factor {factors[0]:g}, expected up to {FACTOR_MAX:g}", payload)
                self.factors[kind] = factors[0]

    def _frame(self, payload: bytes, at: Received) -> list[Piece]:
        frame = decode_frame(payload, self.factors)
        track, n = self.tracks[frame.kind], len(frame.values)
        if track.stamp_ns == frame.stamp_ns:
            return []
        ended = self._step(frame, track, n, payload)
        if self.session is None:
            self.origin_ns, self.origin_known = frame.stamp_ns, False
        session, first, sensor = self.begin(at), track.next_index, SENSORS[frame.kind]
        lost, before_stamp_ns = track.take(frame.stamp_ns, n)
        gone = [Lost(session, first, first + lost, "radio", sensor)] if lost else []
        saturated = frame.peak >= self.ranges[frame.kind] - 1.5 * frame.unit  # its last count
        taken_ns = before_stamp_ns + (frame.stamp_ns - self.origin_ns)
        burst = Burst(session, sensor, first + lost, taken_ns, _si(frame), saturated)
        if self.origin_known:
            return [*ended, *gone, burst]
        if frame.kind == GYRO:
            burst = replace(burst, came_ns=np.full(n, at.mono_ns, np.int64))
        self.held += [*gone, burst]
        if frame.kind == ACC:
            return [*ended, *self._release(int(taken_ns[0]))]
        return [*ended, *(self._release() if track.next_index > HELD_SAMPLES else [])]

    def _release(self, origin_ns: int | None = None) -> list[Piece]:
        """What was held, with its time since this; where that is not known since its own first sample."""
        held, self.held = self.held, []
        if not held:
            return []
        if origin_ns is None:
            origin_ns = next(int(piece.taken_ns[0]) for piece in held if isinstance(piece, Burst))
        self.origin_ns, self.origin_known = self.origin_ns + origin_ns, True
        return [replace(p, taken_ns=p.taken_ns - origin_ns) if isinstance(p, Burst) else p for p in held]

    def _step(self, frame: Frame, track: Track, n: int, payload: bytes) -> list[Piece]:
        """The end of the session where the clock has stepped. A frame of the other sensor may still carry the clock of
        before: its samples have no partner any more. Raises FrameError for it."""
        if track.stamp_ns is not None and not track.stepped(frame.stamp_ns, n):
            return []
        stamps = {kind: t.stamp_ns for kind, t in self.tracks.items() if t.stamp_ns is not None}
        apart = track.stamp_ns is None and any(abs(frame.stamp_ns - s) > APART_S * 1e9 for s in stamps.values())
        late_ns = frame.stamp_ns - self.stepped_from.get(frame.kind, frame.stamp_ns)
        if apart and 0 < late_ns <= APART_S * 1e9:
            raise FrameError(NAME, "frame: of the time before its clock stepped", payload)
        if not apart and not track.stepped(frame.stamp_ns, n):
            return []
        pieces = self.end()
        self.stepped_from = stamps
        return pieces

    def _forget(self) -> list[Piece]:
        self.stepped_from = {}
        for track in self.tracks.values():
            track.stamp_ns, track.next_index = None, 0
        return self._release()

    def state(self) -> dict[str, object]:
        return {
            "session": self.session,
            "origin_ns": self.origin_ns,
            "origin_known": self.origin_known,
            "held": [_held_state(piece) for piece in self.held],
            "stepped_from": list(self.stepped_from.items()),
            "streams": [
                [kind, self.factors.get(kind), self.ranges[kind], asdict(track)] for kind, track in self.tracks.items()
            ],
        }

    @classmethod
    def restore(cls, state: dict[str, object]) -> Self:
        made = cls()
        made.session, made.origin_ns = cast(int | None, state["session"]), cast(int, state["origin_ns"])
        made.origin_known = cast(bool, state.get("origin_known", True))
        made.held = [_held(one) for one in cast(list[dict[str, Any]], state.get("held", []))]
        made.stepped_from = dict(cast(list[tuple[int, int]], state["stepped_from"]))
        streams = cast(list[tuple[int, float | None, float, dict[str, int]]], state["streams"])
        for kind, factor, range_, track in streams:
            if factor is not None:
                made.factors[kind] = factor
            made.ranges[kind], made.tracks[kind] = range_, Track(**track)
        return made


def _held_state(piece: Burst | Lost) -> dict[str, object]:
    """JSON values."""
    if isinstance(piece, Lost):
        return {"session": piece.session, "first": piece.first, "end": piece.end}
    assert piece.came_ns is not None
    return {
        "session": piece.session,
        "first": piece.first,
        "taken_ns": piece.taken_ns.tolist(),
        "values": piece.values.tolist(),
        "saturated": piece.saturated,
        "came_ns": piece.came_ns.tolist(),
    }


def _held(state: dict[str, Any]) -> Burst | Lost:
    session, first, sensor = state["session"], state["first"], SENSORS[GYRO]
    if (end := state.get("end")) is not None:
        return Lost(session, first, end, "radio", sensor)
    taken_ns, came_ns = (np.array(state[name], np.int64) for name in ("taken_ns", "came_ns"))
    return Burst(session, sensor, first, taken_ns, np.array(state["values"], np.float32), state["saturated"], came_ns)


def _si(frame: Frame) -> Float32:
    if frame.kind == ACC:
        return m_s2_from(frame.values, "g").astype(np.float32)
    return frame.values.astype(np.float32)


def decode_answer(payload: bytes) -> tuple[int, int, int, bytes]:
    """Request, type, status, settings. Raises FrameError."""
    if len(payload) < 4 or payload[0] != RESPONSE:
        raise FrameError(NAME, "control: expected F0, request, type, status", payload)
    return payload[1], payload[2] & 0x3F, payload[3], payload[5:]


class PolarConversation(StreamingConversation):
    """Asks for the settings of both sensors, starts both, and watches both. One request is under way at a time."""

    name = NAME
    frames_uuid = DATA
    subscriptions = (CONTROL, DATA)

    def _reset(self, now_ns: int) -> None:
        super()._reset(now_ns)
        self._requests: deque[bytes] = deque()
        self._asked: bytes | None = None
        self._answer = b""
        """What has come of an answer in parts."""
        self._last_ns: dict[int, int] = {}

    def _starts(self) -> list[Command]:
        self._requests.extend(bytes([GET_SETTINGS, kind]) for kind in SENSORS)
        return self._next()

    def _stops(self) -> list[Command]:
        self._requests = deque(bytes([STOP, kind]) for kind in SENSORS)
        self._asked = None
        self._last_ns.clear()
        return []

    def _farewell(self) -> list[Command]:
        return [Write(CONTROL, bytes([STOP, kind])) for kind in SENSORS]

    def _next(self) -> list[Command]:
        if self._asked is not None or not self._requests:
            return []
        self._asked, self._answer = self._requests.popleft(), b""
        return [Write(CONTROL, self._asked)]

    def _frame(self, payload: bytes) -> str | None:
        if len(payload) <= _HEAD.size:
            return f"frame: {len(payload)} bytes, expected more than {_HEAD.size}"
        kind = payload[0] & 0x3F
        return None if kind in SENSORS else f"frame: type {kind}, expected {ACC} or {GYRO}"

    def _seen(self, payload: bytes, now_ns: int) -> None:
        self._last_ns[payload[0] & 0x3F] = now_ns
        if len(self._last_ns) == len(SENSORS):
            self._streaming, self._since_ns = True, min(self._last_ns.values())

    def _told(self, uuid: str, payload: bytes, now_ns: int) -> list[Command]:
        if uuid != CONTROL:
            return []
        whole = self._answer + (payload[1:] if self._answer else payload)
        asked, more = self._asked, len(payload) > 4 and payload[4] != 0
        if self._answer:
            more = payload[:1] not in (b"", b"\0")
        if asked is None or whole[:3] != bytes([RESPONSE]) + asked[:2] or len(whole) > ANSWER_BYTES_MAX:
            self._answer = b""
            return [Fault("odd_answer", f"{NAME}: {payload[:16].hex()} answers nothing that was asked")]
        if more and whole[3:4] == b"\0":
            self._answer = whole
            return []
        try:
            op, kind, status, params = decode_answer(whole)
            settings = decode_settings(params) if status == 0 else {}
        except FrameError as error:
            return self._again("malformed", str(error), now_ns)
        self._asked, self._answer = None, b""
        return self._answered(asked, whole, op, kind, status, settings, now_ns)

    def _answered(
        self,
        asked: bytes,
        whole: bytes,
        op: int,
        kind: int,
        status: int,
        offered: dict[int, tuple[float, ...]],
        now_ns: int,
    ) -> list[Command]:
        words = STATUS_WORDS[status] if status < len(STATUS_WORDS) else "for a reason that is not documented"
        sensor = "the accelerometer" if kind == ACC else "the gyroscope"
        what = f"{sensor}'s"
        why = f"{words} (status {status})"
        if op == GET_SETTINGS and status in (STATUS_NO_SENSOR, STATUS_NOT_SUPPORTED):
            return [Fault("refused", f"{what} settings are refused: {why}", fatal=True)]
        if op == GET_SETTINGS and too_slow(offered):
            sends = f"{sensor} sends at most {max(offered[RATE]):g} samples a second"
            return [Fault("too_slow", f"{sends}, which is too slow for the model: it needs {GRID_HZ:g}", fatal=True)]
        if op == GET_SETTINGS:
            chosen = choose(kind, offered) or DEFAULT_SETTINGS[kind]
            self._requests.append(bytes([START, kind]) + encode_settings(chosen))
        elif op == START and status == STATUS_CHARGING:
            return [Fault("refused", f"{what} start is refused: {why}", fatal=True)]
        elif op == START and status:
            return self._again("refused", f"{what} start is refused: {why}", now_ns)
        elif op == START:
            return [Observe(Kind.CONFIG, asked), Observe(Kind.CONFIG, whole), *self._next()]
        return self._next()


class PolarProfile(StreamingProfile):
    """Registered under `polar-verity-sense`."""

    name = NAME
    service_uuid = SERVICE
    rate_hz = RATE_HZ
    advertised_names = ("Polar Sense",)
    silence_s = 10.0
    converses, decodes = PolarConversation, PolarDecoder
