"""The bytes of the reference profile, as the wearable writes and reads them. Source: docs/reference-profile.md.

Written from that page and from nothing else: the gateway's decoder shares no line with it, so that an error of layout
shows. All integers are little-endian; acceleration is in m/s², rate of turn in deg/s.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int16]

PROFILE_VERSION = 1
NEWEST = 0xFFFFFFFF
"""As the count of a REQUEST: to the newest closed frame."""


def uuid_of(number: int) -> str:
    return f"f1d9{number:04x}-6a3b-4d6e-8f52-0c1b7a9d4e21"


SERVICE_UUID = uuid_of(0xE700)
INFO_UUID = uuid_of(0xE701)
CONFIG_UUID = uuid_of(0xE702)
LIVE_UUID = uuid_of(0xE703)
BACKLOG_UUID = uuid_of(0xE704)
CONTROL_UUID = uuid_of(0xE705)
TIME_UUID = uuid_of(0xE706)


class FrameType(IntEnum):
    LIVE = 0
    BACKLOG = 1
    GAP = 2


class Flag(IntFlag):
    ACCELEROMETER = 1 << 0
    GYROSCOPE = 1 << 1
    SATURATED = 1 << 3
    LOST_BEFORE = 1 << 4
    CLOCK_STEPPED = 1 << 5
    LAST_OF_REQUEST = 1 << 6


class Op(IntEnum):
    START_LIVE = 1
    STOP_LIVE = 2
    REQUEST = 3
    CREDIT = 4
    ACK = 5
    ABORT = 6


class Status(IntEnum):
    DONE = 0
    UNKNOWN_OP = 1
    WRONG_LENGTH = 2
    NO_SUCH_SESSION = 3
    NOTHING_HELD = 4
    BUSY = 5


@dataclass(frozen=True, slots=True)
class Config:
    """What a count means: rate in mHz, ranges in g and deg/s, scales in m/s² and deg/s a count."""

    cfg_id: int = 1
    samples_a_frame: int = 19
    rate_mhz: int = 50_000
    acc_range_g: int = 8
    gyro_range_deg_s: int = 2000
    acc_scale_m_s2: float = 8 * 9.80665 / 32768
    gyro_scale_deg_s: float = 2000 / 32768

    @property
    def rate_hz(self) -> float:
        return self.rate_mhz / 1000

    def scales(self) -> NDArray[np.float32]:
        """(6,), float32: as they go over the wire."""
        return np.array([self.acc_scale_m_s2] * 3 + [self.gyro_scale_deg_s] * 3, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class SessionEntry:
    """A session in Info: samples first to end (exclusive) are held, all below watermark is acknowledged."""

    session: int
    first: int
    end: int
    watermark: int
    overwritten: int


def quantize(values: NDArray[np.float32], config: Config) -> tuple[Counts, NDArray[np.bool_]]:
    """(n, 6) in m/s² and deg/s to the nearest counts, and which samples (n,) stood beyond the sensor's range."""
    counts = np.rint(np.asarray(values, dtype=np.float64) / config.scales())
    clipped = np.clip(counts, -32768, 32767)
    return clipped.astype(np.int16), (counts != clipped).any(axis=1)


def encode_frame(
    counts: Counts,
    *,
    cfg_id: int,
    session: int,
    first: int,
    tick: int,
    saturated: bool,
    clock_stepped: bool = False,
    lost_before: bool = False,
) -> bytearray:
    """A frame as the ring stores it: type, request flag and seq are set when it is sent (address_frame)."""
    flags = Flag.ACCELEROMETER | Flag.GYROSCOPE | (Flag.SATURATED if saturated else Flag(0))
    flags |= Flag.CLOCK_STEPPED if clock_stepped else Flag(0)
    flags |= Flag.LOST_BEFORE if lost_before else Flag(0)
    head = struct.pack(
        "<BBBBHHII", PROFILE_VERSION << 4, flags, len(counts), cfg_id, 0, session & 0xFFFF, first, tick & 0xFFFFFFFF
    )
    return bytearray(head + counts.astype("<i2").tobytes())


def address_frame(stored: bytes | bytearray, kind: FrameType, seq: int, *, last: bool = False) -> bytes:
    """The stored frame with the three fields that differ from sending to sending: type, flag b6 and seq."""
    frame = bytearray(stored)
    frame[0] = PROFILE_VERSION << 4 | kind
    frame[1] |= Flag.LAST_OF_REQUEST if last else 0
    struct.pack_into("<H", frame, 4, seq)
    return bytes(frame)


def encode_gap(*, cfg_id: int, seq: int, session: int, first: int, tick: int, missing: int, last: bool) -> bytes:
    """Samples first to first + missing are gone for good."""
    flags = Flag.LAST_OF_REQUEST if last else Flag(0)
    kind = PROFILE_VERSION << 4 | FrameType.GAP
    return struct.pack("<BBBBHHIII", kind, flags, 0, cfg_id, seq, session & 0xFFFF, first, tick & 0xFFFFFFFF, missing)


def encode_info(
    *,
    firmware: tuple[int, int],
    tick_hz: int,
    capacity: int,
    serial: int,
    sensor_frame: tuple[int, int, int],
    battery_percent: int | None,
    rates_mhz: Sequence[int],
    sessions: Sequence[SessionEntry],
) -> bytes:
    """sessions: the running one last."""
    keeps_ring_over_reboot = 1
    battery = 255 if battery_percent is None else battery_percent
    head = struct.pack(
        "<BBBBIIQ3bBBBH",
        PROFILE_VERSION,
        keeps_ring_over_reboot,
        *firmware,
        tick_hz,
        capacity,
        serial,
        *sensor_frame,
        battery,
        len(rates_mhz),
        len(sessions),
        0,
    )
    rates = struct.pack(f"<{len(rates_mhz)}I", *rates_mhz)
    return (
        head
        + rates
        + b"".join(struct.pack("<QIIII", s.session, s.first, s.end, s.watermark, s.overwritten) for s in sessions)
    )


def encode_config(config: Config) -> bytes:
    return struct.pack(
        "<BBHIHHff",
        config.cfg_id,
        config.samples_a_frame,
        0,
        config.rate_mhz,
        config.acc_range_g,
        config.gyro_range_deg_s,
        config.acc_scale_m_s2,
        config.gyro_scale_deg_s,
    )


def encode_time(*, tick: int, session: int, next_index: int) -> bytes:
    return struct.pack("<IHI", tick & 0xFFFFFFFF, session & 0xFFFF, next_index)


def encode_advertised(*, held_by_central: bool, fill: float) -> bytes:
    """Manufacturer data after the company number. fill: 0 to 1."""
    return bytes([PROFILE_VERSION, held_by_central << 7 | round(min(max(fill, 0.0), 1.0) * 127)])


PARAMETERS = {
    Op.START_LIVE: struct.Struct("<"),
    Op.STOP_LIVE: struct.Struct("<"),
    Op.REQUEST: struct.Struct("<HII"),
    Op.CREDIT: struct.Struct("<H"),
    Op.ACK: struct.Struct("<HI"),
    Op.ABORT: struct.Struct("<"),
}


def decode_control(payload: bytes) -> tuple[Op, tuple[int, ...]] | Status:
    """A control write as (op, parameters), or why it cannot be one."""
    if not payload:
        return Status.WRONG_LENGTH
    try:
        op = Op(payload[0])
    except ValueError:
        return Status.UNKNOWN_OP
    if len(payload) != 1 + PARAMETERS[op].size:
        return Status.WRONG_LENGTH
    return op, PARAMETERS[op].unpack_from(payload, 1)


def encode_answer(op: int, status: Status, parameters: bytes = b"") -> bytes:
    return bytes([op | 0x80, status]) + parameters


# The other direction, for the conformance check (firmware_sim/conformance.py)


class Malformed(ValueError):
    """Bytes that are no frame or value of this profile; the message says where."""


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """A frame as it came. counts: (n, 6); missing: of a gap frame, else 0."""

    data: bytes
    version: int
    kind: int
    flags: int
    cfg_id: int
    seq: int
    session: int
    first: int
    tick: int
    counts: Counts
    missing: int

    @property
    def end(self) -> int:
        return self.first + len(self.counts) + self.missing

    @property
    def last(self) -> bool:
        return bool(self.flags & Flag.LAST_OF_REQUEST)


@dataclass(frozen=True, slots=True)
class Info:
    version: int
    flags: int
    tick_hz: int
    capacity: int
    serial: int
    sensor_frame: tuple[int, int, int]
    battery: int
    reserved: int
    rates_mhz: tuple[int, ...]
    sessions: tuple[SessionEntry, ...]

    @property
    def running(self) -> SessionEntry:
        return self.sessions[-1]


@dataclass(frozen=True, slots=True)
class TimeRead:
    tick: int
    session: int
    next_index: int


_HEADER = struct.Struct("<BBBBHHII")
_INFO = struct.Struct("<BBBBIIQ3bBBBH")
_SESSION = struct.Struct("<QIIII")
_CONFIG = struct.Struct("<BBHIHHff")
_TIME = struct.Struct("<IHI")


def decode_frame(data: bytes) -> Frame:
    """Raises Malformed where the length is not what type and n ask for."""
    if len(data) < _HEADER.size:
        raise Malformed(f"a frame of {len(data)} bytes; the header alone has {_HEADER.size}")
    first_byte, flags, n, cfg_id, seq, session, first, tick = _HEADER.unpack_from(data)
    gap = first_byte & 0xF == FrameType.GAP
    expected = _HEADER.size + (4 if gap else 12 * n)
    if len(data) != expected or (gap and n):
        what = f"gap with n = {n}" if gap else f"n = {n}"
        raise Malformed(
            f"a frame of {len(data)} bytes with {what}; expected {expected}" + (" and n = 0" if gap else "")
        )
    missing = struct.unpack_from("<I", data, _HEADER.size)[0] if gap else 0
    counts = np.frombuffer(data, "<i2", 6 * n, _HEADER.size).reshape(n, 6).astype(np.int16)
    return Frame(data, first_byte >> 4, first_byte & 0xF, flags, cfg_id, seq, session, first, tick, counts, missing)


def decode_info(data: bytes) -> Info:
    """Raises Malformed."""
    if len(data) < _INFO.size:
        raise Malformed(f"Info has {len(data)} bytes; its fixed part alone has {_INFO.size}")
    version, flags, _, _, tick_hz, capacity, serial, x, y, z, battery, r, s, reserved = _INFO.unpack_from(data)
    expected = _INFO.size + 4 * r + _SESSION.size * s
    if len(data) != expected:
        raise Malformed(f"Info has {len(data)} bytes; {r} rates and {s} sessions make {expected}")
    rates = struct.unpack_from(f"<{r}I", data, _INFO.size)
    sessions = tuple(SessionEntry(*fields) for fields in _SESSION.iter_unpack(data[_INFO.size + 4 * r :]))
    return Info(version, flags, tick_hz, capacity, serial, (x, y, z), battery, reserved, rates, sessions)


def decode_config(data: bytes) -> tuple[Config, int]:
    """The Config and its reserved field. Raises Malformed."""
    if len(data) != _CONFIG.size:
        raise Malformed(f"Config has {len(data)} bytes; expected {_CONFIG.size}")
    cfg_id, n, reserved, rate, acc_range, gyro_range, acc_scale, gyro_scale = _CONFIG.unpack(data)
    return Config(cfg_id, n, rate, acc_range, gyro_range, acc_scale, gyro_scale), reserved


def decode_time(data: bytes) -> TimeRead:
    """Raises Malformed."""
    if len(data) != _TIME.size:
        raise Malformed(f"Time has {len(data)} bytes; expected {_TIME.size}")
    return TimeRead(*_TIME.unpack(data))


def encode_request(op: Op, *parameters: int) -> bytes:
    """A control write, as a central makes it."""
    return bytes([op]) + PARAMETERS[op].pack(*parameters)
