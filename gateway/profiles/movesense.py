"""Movesense sensors with the GATT SensorData service: acceleration and rate of turn as floats, 52 samples a second.

A subscription is written, `01 ref path`, and DATA comes:

| offset | field |
|---|---|
| 0 | u8 2: DATA |
| 1 | u8 reference of the subscription |
| 2 | u32 time of the first sample, ms since the sensor's start |
| 6 | n x acceleration (3 x f32, m/s²) |
| 6 + 12 n | n x rate of turn (3 x f32, deg/s) |

What does not fit into one notification goes on in a second: u8 3, u8 reference, the rest. The answer to a write is
`01 ref status_u16`; old firmware gives none of this form, so the first DATA says as much. `02 ref` ends a subscription.
Source: the vendor's gatt_sensordata_app, and a capture in sensein/movesense-py. A first part whose length happens to be
that of whole samples (an ATT MTU of 33 + 24 k) could not be told from a whole frame; its continuation is then refused.
Nor does a continuation say what it continues: where all between a first part and another frame's second part is lost,
the two are joined.
Retention: none, what is not sent at once is gone. Sensor frame: the axes printed on the case; which way they lie at
the wrist is the mounting's to say (unverified).
"""

import struct
from collections.abc import Sequence
from typing import Self, cast

import numpy as np

from gateway.motion.samples import Float32, Piece
from gateway.motion.units import STANDARD_GRAVITY_M_S2
from gateway.profiles.conversation import Command, Received, Write
from gateway.profiles.errors import FrameError
from gateway.profiles.stamps import StampedDecoder
from gateway.profiles.streaming import LIMITS, StreamingConversation, StreamingProfile, measurable


def _uuid(head: str) -> str:
    return f"{head}-7185-4d5d-b431-630e7050e8f0"


SERVICE, COMMAND, NOTIFY = _uuid("34802252"), _uuid("34800001"), _uuid("34800002")

NAME = "movesense"
RATE_HZ = 52.0
"""Of 13, 26, 52, 104, 208 and 416 the nearest that is not below the models' 50."""
PATH = b"/Meas/IMU6/52"
SUBSCRIBE, UNSUBSCRIBE = 1, 2
ANSWER, DATA, CONTINUED = 1, 2, 3
STATUS_REFUSED = range(300, 600)
"""The sensor's API answers with HTTP's numbers, 200 for done."""
_ANSWER = struct.Struct("<BBH")
_HEAD_BYTES = 2
_STAMP = struct.Struct("<I")
_IMU_BYTES = 24
SAMPLES_MAX = 64
"""In one frame: at 416 Hz there are 32."""

ACC_RANGE_M_S2, GYRO_RANGE_DEG_S = 8 * STANDARD_GRAVITY_M_S2, 2000.0
"""What the sensor starts with (GRange 8, DPSRange 2000); a value at it, less one count of 16 bits, is saturated."""
_RANGES = np.array([ACC_RANGE_M_S2] * 3 + [GYRO_RANGE_DEG_S] * 3, np.float32) * np.float32(1 - 2**-15)


def decode_measurement(body: bytes, sensors: int = 2) -> tuple[int, Float32]:
    """A frame without its first two bytes: the stamp in ms and (n, 3 x sensors) values, m/s² and deg/s.

    Raises FrameError.
    """
    size = 12 * sensors
    n, rest = divmod(len(body) - _STAMP.size, size)
    if rest or not 1 <= n <= SAMPLES_MAX:
        expected = f"expected 4 and {size} for each of 1 to {SAMPLES_MAX} samples"
        raise FrameError(NAME, f"frame: {len(body)} bytes, {expected}", body)
    blocks = np.frombuffer(body, "<f4", offset=_STAMP.size).reshape(sensors, n, 3)
    values = np.ascontiguousarray(blocks.transpose(1, 0, 2).reshape(n, 3 * sensors), np.float32)
    if not measurable(values, LIMITS[: 3 * sensors]):
        raise FrameError(NAME, "frame: a value that no sensor measures", body)
    return _STAMP.unpack_from(body)[0], values


class MovesenseDecoder(StampedDecoder):
    """Journal rows to bursts. A frame in two notifications is joined; what lacks its end is dropped, and its samples
    are missed by the next stamp."""

    rate_hz, unit_ns = RATE_HZ, 1_000_000

    def __init__(self) -> None:
        super().__init__()
        self.open = b""
        """The first part of a frame that goes on, with its head."""

    def samples_max(self, payload: bytes) -> int:
        return -(-(len(payload) - _HEAD_BYTES - _STAMP.size) // _IMU_BYTES)

    def _ordinary(self, payloads: Sequence[bytes], mono_ns: Sequence[int]) -> list[Piece] | None:
        n, rest = divmod(len(payloads[0]) - _HEAD_BYTES - _STAMP.size, _IMU_BYTES)
        if self.open or rest or not 1 <= n <= SAMPLES_MAX:
            return None
        if any(len(payload) != len(payloads[0]) or payload[0] != DATA for payload in payloads):
            return None
        rows = np.frombuffer(b"".join(payloads), np.uint8).reshape(len(payloads), -1)[:, _HEAD_BYTES:]
        blocks = rows[:, _STAMP.size :].copy().view("<f4").reshape(-1, 2, n, 3)
        values = np.ascontiguousarray(blocks.transpose(0, 2, 1, 3).reshape(-1, 6), np.float32)
        if not measurable(values, LIMITS):
            return None
        stamps = rows[:, : _STAMP.size].copy().view("<u4")[:, 0].tolist()
        saturated = (np.abs(values) >= _RANGES).any(axis=1).reshape(-1, n).any(axis=1).repeat(n)  # frame by frame
        return self._take_each(stamps, n, values, saturated, mono_ns)

    def _frame(self, payload: bytes, at: Received) -> list[Piece]:
        if len(payload) < _HEAD_BYTES or payload[0] not in (DATA, CONTINUED):
            raise FrameError(NAME, "frame: expected DATA (2) or its continuation (3)", payload)
        before, self.open = self.open, b""
        if payload[0] == CONTINUED:
            if before[1:2] != payload[1:2]:
                raise FrameError(NAME, "frame: a continuation of nothing", payload)
            payload = before + payload[_HEAD_BYTES:]
        elif (len(payload) - _HEAD_BYTES - _STAMP.size) % _IMU_BYTES or len(payload) == _HEAD_BYTES + _STAMP.size:
            if len(payload) > _HEAD_BYTES + _STAMP.size + SAMPLES_MAX * _IMU_BYTES:
                raise FrameError(NAME, f"frame: {len(payload)} bytes, more than any", payload)
            self.open = payload
            return []
        return self._whole(payload[_HEAD_BYTES:], at)

    def _whole(self, body: bytes, at: Received) -> list[Piece]:
        stamp, values = decode_measurement(body)
        return self._take(stamp, values, bool((np.abs(values) >= _RANGES).any()), at)

    def _forget(self) -> list[Piece]:
        self.open = b""
        return super()._forget()

    def state(self) -> dict[str, object]:
        return {**super().state(), "open": self.open.hex()}

    @classmethod
    def restore(cls, state: dict[str, object]) -> Self:
        made = super().restore(state)
        made.open = bytes.fromhex(cast(str, state["open"]))
        return made


class MovesenseConversation(StreamingConversation):
    """Subscribes to the six channels; asks again, under the next reference, where that is refused or nothing comes."""

    name = NAME
    frames_uuid = NOTIFY
    subscriptions = (NOTIFY,)

    def _starts(self) -> list[Command]:
        return [Write(COMMAND, bytes([SUBSCRIBE, self._tries]) + PATH)]

    def _stops(self) -> list[Command]:
        return [Write(COMMAND, bytes([UNSUBSCRIBE, self._tries]))]

    def _frame(self, payload: bytes) -> str | None:
        if len(payload) <= _HEAD_BYTES or payload[0] not in (DATA, CONTINUED):
            return f"{len(payload)} bytes, expected DATA (2) or its continuation (3)"
        ref = self._tries
        return None if payload[1] == ref else f"data of subscription {payload[1]}, asked for {ref}"

    def _is_stamped(self, payload: bytes) -> bool:
        """A continuation has no stamp: two may be equal at rest. One that comes twice continues nothing."""
        return payload[0] == DATA

    def _frame_came(self, payload: bytes, now_ns: int) -> list[Command]:
        if payload[:1] != bytes([ANSWER]):
            return super()._frame_came(payload, now_ns)
        if len(payload) != _ANSWER.size or payload[1] != self._tries or self._streaming:
            return []  # of an earlier try, or old firmware's own words: the data says whether it streams
        status = _ANSWER.unpack(payload)[2]
        if status not in STATUS_REFUSED:
            return []
        return self._again("refused", f"{PATH.decode()} is refused with status {status}", now_ns)


class MovesenseProfile(StreamingProfile):
    """Registered under `movesense`."""

    name = NAME
    service_uuid = SERVICE
    rate_hz = RATE_HZ
    advertised_names = ("Movesense",)
    without_service = (
        "a Movesense needs a firmware with the GATT SensorData service (the vendor's gatt_sensordata_app); "
        "put one on it"
    )
    converses, decodes = MovesenseConversation, MovesenseDecoder
