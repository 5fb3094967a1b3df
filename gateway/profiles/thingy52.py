"""Nordic Thingy:52: raw counts of its motion service, 50 samples a second, without time or number.

Raw data, one sample a notification:

| offset | field |
|---|---|
| 0 | acceleration (3 x i16), 1/1024 g a count; the sensor reaches ±2 g |
| 6 | rate of turn (3 x i16), 1/32 deg/s a count; 16 bits reach ±1,024 deg/s |
| 12 | magnetic field (3 x i16), unused |

Configuration, read and written: u16 ms between step counts, u16 ms between temperature compensations, u16 ms between
magnetometer compensations, u16 motion rate in Hz (5 to 200), u8 wake on motion. The vendor's
firmware stores each one that is written in its flash, and keeps it.
Source: the vendor's firmware documentation. A hand that moves fast passes 2 g: such samples are flagged as saturated.
How lost samples are told is in arrivals.py. Retention: none. Sensor frame: as the vendor draws it on the case; whether
an acceleration is signed as gravity or against it is unverified.
"""

import struct
from collections.abc import Sequence
from typing import Self, cast

import numpy as np
from numpy.typing import NDArray

from gateway.motion.samples import Float32, Piece
from gateway.motion.units import m_s2_from
from gateway.profiles.arrivals import Arrivals
from gateway.profiles.conversation import Command, Read, Received, Subscribe, Write
from gateway.profiles.errors import FrameError
from gateway.profiles.streaming import StreamingConversation, StreamingDecoder, StreamingProfile


def _uuid(number: int) -> str:
    return f"ef68{number:04x}-9b35-4933-9b10-52ffa9740042"


SERVICE, CONFIGURATION, RAW = _uuid(0x0400), _uuid(0x0401), _uuid(0x0406)

NAME = "thingy52"
RATE_HZ = 50.0
AT_50_HZ = struct.pack("<HHHHB", 1000, 500, 500, 50, 0)
"""The slow intervals as the vendor's app has them; no wake on motion, so that rest is recorded too."""
_RAW = struct.Struct("<9h")
_SCALE = np.array([m_s2_from(1 / 1024, "g")] * 3 + [1 / 32] * 3)
_LOW = np.array([-2048] * 3 + [-32768] * 3)
_HIGH = np.array([2047] * 3 + [32767] * 3)


def decode_raw(payloads: bytes) -> tuple[Float32, NDArray[np.bool_]]:
    """Whole payloads, one after the other: (n, 6) in m/s² and deg/s, and (n,) whether the sensor or its 16 bits stood
    at their limit."""
    counts = np.frombuffer(payloads, "<i2").reshape(-1, 9)[:, :6]
    return (counts * _SCALE).astype(np.float32), np.asarray(((counts <= _LOW) | (counts >= _HIGH)).any(axis=1))


class ThingyDecoder(StreamingDecoder):
    """Journal rows to bursts of one sample."""

    def __init__(self) -> None:
        super().__init__()
        self.arrivals = Arrivals(RATE_HZ)

    def samples_max(self, _payload: bytes) -> int:
        return 1

    def _ordinary(self, payloads: Sequence[bytes], mono_ns: Sequence[int]) -> list[Piece] | None:
        if self.session is None or any(len(payload) != _RAW.size for payload in payloads):
            return None
        values, saturated = decode_raw(b"".join(payloads))
        return self.arrivals.take_each(values, saturated, mono_ns, self.session)

    def _frame(self, payload: bytes, at: Received) -> list[Piece]:
        if len(payload) != _RAW.size:
            raise FrameError(NAME, f"raw: {len(payload)} bytes, expected {_RAW.size}", payload)
        values, saturated = decode_raw(payload)
        return self.arrivals.take(values, bool(saturated[0]), at.mono_ns, self.begin(at))

    def _forget(self) -> list[Piece]:
        pieces = [] if self.session is None else self.arrivals.flush(self.session)
        self.arrivals.clear()
        return pieces

    def state(self) -> dict[str, object]:
        return {"session": self.session, "arrivals": self.arrivals.state()}

    @classmethod
    def restore(cls, state: dict[str, object]) -> Self:
        made = cls()
        made.session = cast(int | None, state["session"])
        made.arrivals.restore(state["arrivals"])
        return made


class ThingyConversation(StreamingConversation):
    """Writes the configuration where it is another, so as not to wear the flash, then subscribes to raw data, which
    starts it: in the other order the first samples come at the rate that it had before, and would be counted as if at
    50 Hz."""

    name = NAME
    stamped = False
    frames_uuid = RAW
    subscriptions = (RAW,)

    def _reset(self, now_ns: int) -> None:
        super()._reset(now_ns)
        self._subscribed = False

    def _opening(self) -> list[Command]:
        return self._starts()

    def _starts(self) -> list[Command]:
        return [Read(CONFIGURATION)]

    def _told(self, uuid: str, payload: bytes, _now_ns: int) -> list[Command]:
        if uuid != CONFIGURATION:
            return []
        writes = [] if payload == AT_50_HZ else [Write(CONFIGURATION, AT_50_HZ)]
        subscribes = [] if self._subscribed else [Subscribe(uuid) for uuid in self.subscriptions]
        self._subscribed = True
        return [*writes, *subscribes]

    def _frame(self, payload: bytes) -> str | None:
        return None if len(payload) == _RAW.size else f"raw: {len(payload)} bytes, expected {_RAW.size}"


class ThingyProfile(StreamingProfile):
    """Registered under `thingy52`."""

    name = NAME
    service_uuid = SERVICE
    rate_hz = RATE_HZ
    advertised_names = ("Thingy",)
    converses, decodes = ThingyConversation, ThingyDecoder
