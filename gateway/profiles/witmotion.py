"""WitMotion BWT901BLE: 16-bit counts, 50 samples a second, without time, number or checksum.

It streams as soon as it is subscribed to, as a string of bytes that a notification may cut anywhere. A frame:

| offset | field |
|---|---|
| 0 | 55 61 |
| 2 | acceleration (3 x i16), 16 / 32768 g a count |
| 8 | rate of turn (3 x i16), 2000 / 32768 deg/s a count |
| 14 | angles (3 x i16), unused |

A frame that begins 55 71 answers a register read and is as long. Writes: FF AA register value_u16; `FF AA 69 88 B5`
unlocks, register 3 is the rate (6: 10 Hz as delivered, 7: 20, 8: 50), which then holds until the sensor is switched
off, as the vendor's SDK sets it. Register 0 would save it to flash: that is the owner's, and is never written.
Source: the vendor's protocol document. Nothing but its first two bytes tells a frame, and other bytes may look like
them. So one that begins neither a notification nor where such a frame has ended is taken only if the next begins where
it ends, or nothing more has come. Where all between the first part of one frame and the rest of another is lost, no
byte tells that they do not belong together; after REST_S they are not joined. How lost samples are told is in
arrivals.py. Retention: none. Sensor frame: as printed on the case (unverified at the wrist).
"""

from collections.abc import Sequence
from typing import Self, cast

import numpy as np
from numpy.typing import NDArray

from gateway.motion.samples import Float32, Piece
from gateway.motion.units import m_s2_from
from gateway.profiles.arrivals import Arrivals
from gateway.profiles.conversation import Command, Received, Subscribe, Write
from gateway.profiles.errors import FrameError
from gateway.profiles.streaming import StreamingConversation, StreamingDecoder, StreamingProfile


def _uuid(number: int) -> str:
    return f"0000{number:04x}-0000-1000-8000-00805f9a34fb"


SERVICE, NOTIFY, WRITE = _uuid(0xFFE5), _uuid(0xFFE4), _uuid(0xFFE9)
"""Their tail is the vendor's: 9a34fb where Bluetooth's own base has 9b34fb."""

NAME = "witmotion-bwt901ble"
RATE_HZ = 50.0
UNLOCK, RATE_50_HZ = bytes.fromhex("ffaa6988b5"), bytes.fromhex("ffaa030800")
FRAME_BYTES = 20
MOTION, REGISTER = b"\x55\x61", b"\x55\x71"
_HEADS = (MOTION, REGISTER)
_SCALE = np.array([m_s2_from(16 / 32768, "g")] * 3 + [2000 / 32768] * 3)
_COUNT_LIMITS = (-32768, 32767)
RATE_CHECK_S = 5.0
RATE_SHARE_MIN = 0.6
"""So many of the samples come at least over the first RATE_CHECK_S; as delivered there are a fifth."""
NOTIFICATION_MAX = 512
"""The longest value of an attribute (Bluetooth Core 5.4, Vol 3, Part F, 3.2.9)."""
REST_S = 2.0
"""So long after the last notification part of a frame waits for the rest, which is sent 20 ms later; a radio that holds
notifications back for longer costs one sample, and one that loses as many would make one of two."""


def decode_frames(counts: bytes) -> tuple[Float32, NDArray[np.bool_]]:
    """Whole frames of motion, one after the other: (n, 6) in m/s² and deg/s, and (n,) whether a count stood at its
    limit."""
    words = np.frombuffer(counts, "<i2").reshape(-1, FRAME_BYTES // 2)[:, 1:7]
    saturated = np.asarray(((words <= _COUNT_LIMITS[0]) | (words >= _COUNT_LIMITS[1])).any(axis=1))
    return (words * _SCALE).astype(np.float32), saturated


def _begins(stream: bytes) -> bool:
    """Whether a frame may begin here, as far as can be seen."""
    return any(stream[:2] == head[: len(stream)] for head in _HEADS)


class WitMotionDecoder(StreamingDecoder):
    """Journal rows to bursts; a frame may begin in one and end in another."""

    def __init__(self) -> None:
        super().__init__()
        self.arrivals = Arrivals(RATE_HZ)
        self.rest = b""
        """What has come of the next frame, the last of it at rest_ns."""
        self.rest_ns = 0

    def samples_max(self, payload: bytes) -> int:
        return -(-len(payload) // FRAME_BYTES)

    def _ordinary(self, payloads: Sequence[bytes], mono_ns: Sequence[int]) -> list[Piece] | None:
        """Where each notification is one frame of motion."""
        if self.session is None or self.rest:
            return None
        if any(len(payload) != FRAME_BYTES or not payload.startswith(MOTION) for payload in payloads):
            return None
        values, saturated = decode_frames(b"".join(payloads))
        return self.arrivals.take_each(values, saturated, mono_ns, self.session)

    def _frame(self, payload: bytes, at: Received) -> list[Piece]:
        if not 0 < len(payload) <= NOTIFICATION_MAX:
            raise FrameError(NAME, f"{len(payload)} bytes, expected 1 to {NOTIFICATION_MAX}", payload)
        if at.mono_ns - self.rest_ns > REST_S * 1e9:
            self.rest = b""
        self.rest_ns = at.mono_ns
        found, skipped = self._cut(self.rest + payload)
        if not found:
            if skipped:
                raise FrameError(NAME, f"{skipped} bytes that belong to no frame", payload)
            return []
        values, saturated = decode_frames(found)
        return self.arrivals.take(values, bool(saturated.any()), at.mono_ns, self.begin(at))

    def _cut(self, stream: bytes) -> tuple[bytes, int]:
        """The frames of motion in what has come, and how many bytes were skipped; keeps the rest."""
        found, skipped, at, sure_at = [], 0, 0, len(self.rest)
        while at < len(stream):
            frame, after = stream[at : at + FRAME_BYTES], stream[at + FRAME_BYTES : at + FRAME_BYTES + 2]
            if not _begins(frame) or (at != sure_at and not _begins(after)):
                at, skipped = at + 1, skipped + 1
                continue
            if len(frame) < FRAME_BYTES:
                break
            if at == sure_at:
                sure_at += FRAME_BYTES
            at += FRAME_BYTES
            if frame.startswith(MOTION):
                found.append(frame)
        self.rest = stream[at:]
        return b"".join(found), skipped

    def _forget(self) -> list[Piece]:
        pieces = [] if self.session is None else self.arrivals.flush(self.session)
        self.arrivals.clear()
        self.rest = b""
        return pieces

    def state(self) -> dict[str, object]:
        return {
            "session": self.session,
            "arrivals": self.arrivals.state(),
            "rest": self.rest.hex(),
            "rest_ns": self.rest_ns,
        }

    @classmethod
    def restore(cls, state: dict[str, object]) -> Self:
        made = cls()
        made.session = cast(int | None, state["session"])
        made.arrivals.restore(state["arrivals"])
        made.rest, made.rest_ns = bytes.fromhex(cast(str, state["rest"])), cast(int, state["rest_ns"])
        return made


class WitMotionConversation(StreamingConversation):
    """Sets 50 Hz on each link, subscribes, and sees whether so many come."""

    name = NAME
    stamped = False
    frames_uuid = NOTIFY
    subscriptions = (NOTIFY,)

    def _opening(self) -> list[Command]:
        """The rate first: it streams with the subscription, and what came at another rate would be taken for loss."""
        return [*self._starts(), *(Subscribe(uuid) for uuid in self.subscriptions)]

    def _starts(self) -> list[Command]:
        self._began_ns: int | None = None
        self._bytes: int | None = 0
        """Of the stream since then; None once the rate is known to be right."""
        return [Write(WRITE, payload) for payload in (UNLOCK, RATE_50_HZ)]

    def _frame(self, payload: bytes) -> str | None:
        return None if 0 < len(payload) <= NOTIFICATION_MAX else f"{len(payload)} bytes, expected 1 or more"

    def _frame_came(self, payload: bytes, now_ns: int) -> list[Command]:
        commands = super()._frame_came(payload, now_ns)
        if self._bytes is None or not payload:
            return commands
        if self._began_ns is None:
            self._began_ns = now_ns
            return commands
        self._bytes += len(payload)
        elapsed_s = (now_ns - self._began_ns) / 1e9
        if elapsed_s < RATE_CHECK_S:
            return commands
        rate_hz, self._bytes = self._bytes / FRAME_BYTES / elapsed_s, None
        if rate_hz >= RATE_SHARE_MIN * RATE_HZ:
            return commands
        why = f"it sends {rate_hz:.0f} samples a second and was set to {RATE_HZ:g}"
        return [*commands, *self._again("rate", why, now_ns)]


class WitMotionProfile(StreamingProfile):
    """Registered under `witmotion-bwt901ble`."""

    name = NAME
    service_uuid = SERVICE
    rate_hz = RATE_HZ
    advertised_names = ("WT901",)
    converses, decodes = WitMotionConversation, WitMotionDecoder
