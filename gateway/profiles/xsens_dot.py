"""Xsens DOT, since 2023 Movella DOT: acceleration and rate of turn as floats, one sample a notification, 60 a second.

Measurement starts with `01 01 mode` written to the control characteristic and stops with `01 00 mode`; the payload's
characteristic must be subscribed before. Mode 21, rate quantities:

| offset | field |
|---|---|
| 0 | u32 sample time, µs, which wraps after 71.6 minutes |
| 4 | acceleration (3 x f32, m/s²) |
| 16 | rate of turn (3 x f32, deg/s) |
| 28 | zeros, as many as there are |

Source: the vendor's BLE services specification for the layout, third parties for mode 21. Unverified: the unit of the
rate of turn. It is taken as deg/s, as the vendor's documents give it; were it rad/s, turns would read 57 times too
small. The output rate is 60 Hz unless the vendor's app has set another, which the conversation refuses. Retention: none
on this path. Sensor frame: as the vendor draws it on the case (unverified at the wrist).
"""

import struct
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from gateway.motion.samples import Float32, Piece
from gateway.motion.units import STANDARD_GRAVITY_M_S2
from gateway.profiles.conversation import Command, Fault, Received, Write
from gateway.profiles.errors import FrameError
from gateway.profiles.stamps import StampedDecoder
from gateway.profiles.streaming import LIMITS, StreamingConversation, StreamingProfile, measurable


def _uuid(number: int) -> str:
    return f"1517{number:04x}-4947-11e9-8646-d663bd873d93"


SERVICE, CONTROL, MEDIUM = _uuid(0x2000), _uuid(0x2001), _uuid(0x2003)

NAME = "xsens-dot"
RATES_HZ = (1, 4, 10, 12, 15, 20, 30, 60, 120)
RATE_HZ = 60.0
"""As delivered, and of RATES_HZ the nearest that is not below the models' 50."""
MODE_RATE_QUANTITIES = 21
START, STOP = bytes([1, 1, MODE_RATE_QUANTITIES]), bytes([1, 0, MODE_RATE_QUANTITIES])
_SAMPLE = struct.Struct("<I")
SAMPLE_BYTES = 28
PAYLOAD_MAX = 63
"""The longest payload that the service specifies."""
ACC_RANGE_M_S2, GYRO_RANGE_DEG_S = 16 * STANDARD_GRAVITY_M_S2, 2000.0
"""By the vendor's data sheet."""
_RANGES = np.array([ACC_RANGE_M_S2] * 3 + [GYRO_RANGE_DEG_S] * 3, np.float32) * np.float32(1 - 2**-15)

RATE_FRAMES = 16
RATE_TOLERANCE, RATE_SHARE = 0.2, 13 / 15
"""The rate is the slowest of which the times between the first RATE_FRAMES are multiples to within this, in periods:
losses make them longer, and one garbage stamp spoils two."""
RATE_OFF = 0.015
"""Of a sensor's rate, so that a long gap fits every rate."""
RATE_PERIODS = 3.5
"""Where most gaps are longer than this the rate is not told: those of any rate are near to multiples by chance."""


def decode_sample(payload: bytes) -> tuple[int, Float32]:
    """The stamp in µs and (1, 6) values, m/s² and deg/s. Raises FrameError."""
    if not SAMPLE_BYTES <= len(payload) <= PAYLOAD_MAX or any(payload[SAMPLE_BYTES:]):
        expected = f"expected {SAMPLE_BYTES} and zeros up to {PAYLOAD_MAX}"
        raise FrameError(NAME, f"sample: {len(payload)} bytes, {expected}", payload)
    values = np.frombuffer(payload, "<f4", 6, offset=_SAMPLE.size).astype(np.float32).reshape(1, 6)
    if not measurable(values, LIMITS):
        raise FrameError(NAME, "sample: a value that no sensor measures", payload)
    return _SAMPLE.unpack_from(payload)[0], values


def rate_of(stamps: Sequence[int]) -> float | None:
    """The output rate, of RATES_HZ or beyond; None where losses hide it. stamps: of samples in order, µs."""
    gaps_us = sorted((later - earlier) % 2**32 for earlier, later in pairwise(stamps))
    for rate_hz in RATES_HZ:
        periods = [gap_us * rate_hz / 1e6 for gap_us in gaps_us]
        fit = sum(round(n) > 0 and abs(n - round(n)) <= max(RATE_TOLERANCE, RATE_OFF * n) for n in periods)
        if fit >= RATE_SHARE * len(gaps_us):
            return float(rate_hz) if periods[len(periods) // 2] < RATE_PERIODS else None
    faster_hz = 1e6 / max(1, gaps_us[len(gaps_us) // 4])
    return faster_hz if faster_hz > RATE_HZ * (1 + RATE_TOLERANCE) else None


class XsensDotDecoder(StampedDecoder):
    """Journal rows to bursts of one sample."""

    rate_hz, unit_ns = RATE_HZ, 1_000

    def samples_max(self, _payload: bytes) -> int:
        return 1

    def _ordinary(self, payloads: Sequence[bytes], mono_ns: Sequence[int]) -> list[Piece] | None:
        size = len(payloads[0])
        if not SAMPLE_BYTES <= size <= PAYLOAD_MAX or any(len(payload) != size for payload in payloads):
            return None
        rows = np.frombuffer(b"".join(payloads), np.uint8).reshape(-1, size)
        values = rows[:, _SAMPLE.size : SAMPLE_BYTES].copy().view("<f4").astype(np.float32)
        if rows[:, SAMPLE_BYTES:].any() or not measurable(values, LIMITS):
            return None
        stamps = rows[:, : _SAMPLE.size].copy().view("<u4")[:, 0].tolist()
        saturated = np.asarray((np.abs(values) >= _RANGES).any(axis=1))
        return self._take_each(stamps, 1, values, saturated, mono_ns)

    def _frame(self, payload: bytes, at: Received) -> list[Piece]:
        stamp, values = decode_sample(payload)
        return self._take(stamp, values, bool((np.abs(values) >= _RANGES).any()), at)


class XsensDotConversation(StreamingConversation):
    """Subscribes, starts mode 21, and refuses another output rate than the one it counts on."""

    name = NAME
    frames_uuid = MEDIUM
    subscriptions = (MEDIUM,)

    def _reset(self, now_ns: int) -> None:
        super()._reset(now_ns)
        self._stamps: list[int] = []
        """Of the first frames."""

    def _starts(self) -> list[Command]:
        return [Write(CONTROL, START)]

    def _stops(self) -> list[Command]:
        return [Write(CONTROL, STOP)]

    def _frame(self, payload: bytes) -> str | None:
        if SAMPLE_BYTES <= len(payload) <= PAYLOAD_MAX:
            return None
        return f"sample: {len(payload)} bytes, expected {SAMPLE_BYTES} to {PAYLOAD_MAX}"

    def _frame_came(self, payload: bytes, now_ns: int) -> list[Command]:
        commands = super()._frame_came(payload, now_ns)
        if len(self._stamps) >= RATE_FRAMES or any(isinstance(command, Fault) for command in commands):
            return commands
        self._stamps.append(_SAMPLE.unpack_from(payload)[0])
        if len(self._stamps) < RATE_FRAMES:
            return commands
        rate_hz = rate_of(self._stamps)
        if rate_hz in (RATE_HZ, None):
            return commands
        words = f"it samples at {rate_hz:.0f} Hz; set its output rate to {RATE_HZ:g} Hz in the vendor's app"
        return [*commands, Fault("rate", words, fatal=True)]


class XsensDotProfile(StreamingProfile):
    """Registered under `xsens-dot`."""

    name = NAME
    service_uuid = SERVICE
    rate_hz = RATE_HZ
    advertised_names = ("Xsens DOT", "Movella DOT")
    converses, decodes = XsensDotConversation, XsensDotDecoder
