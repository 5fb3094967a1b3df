"""What a wearable feels at a given time, from its journal rows while they come; pure, as the stream is.

A wearable may send what it kept while it is live, so that a sample's arrival tells little of when it was taken. Of its
running session the samples that came with the least delay, by the device's own count of time, are the live ones; they
tie the count to the host's clock, late by that least delay (tenths of a second), and the others fall where they belong.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np

from gateway.motion.axes import axes_from_directions
from gateway.motion.samples import Block, Burst, DeviceStatus, Float32, Lost, Sensor, SessionEnded, SessionHeld
from gateway.profiles.conversation import Kind, Profile, Received
from gateway.profiles.errors import FrameError
from gateway.store.rows import JournalRow
from gateway.stream.stream import aside_in, decoder_state, ended_in, sensor_frame_in

PIECES_MAX = 4096
"""Blocks and bursts that are remembered: minutes of what is live, also while a backlog comes."""
STEADY_S = 0.5
"""Samples that come so much earlier, by the device's count, at one end of a span than at the other are not yet live."""


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    session: int
    sensor: Sensor
    arrived_ns: int
    taken_ns: np.ndarray
    values: Float32


@dataclass(frozen=True, slots=True, eq=False)
class Felt:
    """acc: (n, 3) m/s², gyro: (m, 3) deg/s, in the frame of the case, in the order in which they were taken.

    gyro_s: (m,) float64, when the latter were, since the span began. hole_s: the longest stretch of the span without an
    acceleration. steady: whether samples came as they were taken.
    """

    acc: Float32
    gyro: Float32
    gyro_s: np.ndarray
    hole_s: float
    steady: bool


class Latest:
    """snapshot: the stream's, after this row; empty where there is none yet. The rows behind it are to follow."""

    def __init__(self, profile: Profile, snapshot: bytes = b"", row: int = 0) -> None:
        self._decoder = profile.decoder(decoder_state(snapshot) if snapshot else None)
        told = sensor_frame_in(snapshot) if snapshot else None
        self._constant_frame, self._told_frame = profile.sensor_frame, told or (1, 2, 3)
        self._ended = ended_in(snapshot) if snapshot else set()
        self._parts: deque[_Part] = deque(maxlen=PIECES_MAX)
        self.boot_id = ""
        """Whose monotonic clock the newest row was stamped by."""
        self.connected: bool | None = None
        """As far as the rows tell; None before one does."""
        for waiting in aside_in(snapshot) if snapshot else []:
            self.advance(waiting)
        self.row = row

    def advance(self, row: JournalRow) -> None:
        """Takes the next row. One that its profile refuses is passed over, as the stream does."""
        self.row = row.row
        if row.at.boot_id != self.boot_id:
            self._parts.clear()
            self.boot_id = row.at.boot_id
        kind = Kind(row.kind)
        if kind in (Kind.DETAIL, Kind.PASSED):
            return
        self.connected = kind is not Kind.DISCONNECTED
        try:
            pieces = self._decoder.decode(kind, row.payload, Received(row.row, row.at.boot_id, row.at.mono_ns))
        except FrameError:
            return
        for piece in pieces:
            match piece:
                case DeviceStatus():
                    self._told_frame = piece.sensor_frame
                case SessionEnded(session):
                    self._ended.add(session)
                case SessionHeld(session, running=running):
                    self._ended.discard(session) if running else self._ended.add(session)
                case Block():
                    count = np.arange(piece.first, piece.first + len(piece.values))
                    taken_ns = np.rint(count * 1e9 / piece.rate_hz).astype(np.int64)
                    self._take(_Part(piece.session, Sensor.IMU, row.at.mono_ns, taken_ns, piece.values))
                case Burst():
                    self._take(_Part(piece.session, piece.sensor, row.at.mono_ns, piece.taken_ns, piece.values))
                case Lost():
                    pass

    def _take(self, part: _Part) -> None:
        if len(part.values):
            self._parts.append(part)

    def newest_ns(self) -> int | None:
        """The host's monotonic time of the newest sample of the running session; None before there is one."""
        parts = self._accelerations()
        if not parts:
            return None
        return int(max(part.taken_ns[-1] for part in parts) + _offset_ns(parts))

    def felt(self, since_ns: int, until_ns: int) -> Felt:
        """The samples taken between two times of the host's monotonic clock."""
        parts = self._accelerations()
        offset_ns = _offset_ns(parts) if parts else 0
        acc_ns, acc = _taken(parts, offset_ns, since_ns, until_ns)
        turning = [p for p in self._running() if p.sensor is Sensor.GYRO] or [
            p for p in parts if p.values.shape[1] == 6
        ]
        gyro_ns, gyro = _taken(turning, offset_ns, since_ns, until_ns)
        edges = np.concatenate([[since_ns], acc_ns, [until_ns]])
        middle_ns = (since_ns + until_ns) // 2
        halves = [
            [p for p in parts if since_ns <= p.arrived_ns <= middle_ns],
            [p for p in parts if middle_ns < p.arrived_ns],
        ]
        delays = [_offset_ns(half) for half in halves if half]
        turned = axes_from_directions(self._constant_frame or self._told_frame).T
        return Felt(
            acc=(acc[:, :3] @ turned).astype(np.float32),
            gyro=(gyro[:, -3:] @ turned).astype(np.float32),
            gyro_s=(gyro_ns - since_ns) / 1e9,
            hole_s=float(np.diff(edges).max() / 1e9),
            steady=max(delays, default=0) - min(delays, default=0) <= STEADY_S * 1e9,
        )

    def _running(self) -> list[_Part]:
        """Of the session that goes on; of several the one that was seen to begin last."""
        order = dict.fromkeys(p.session for p in self._parts if p.session not in self._ended)
        return [p for p in self._parts if order and p.session == next(reversed(order))]

    def _accelerations(self) -> list[_Part]:
        return [p for p in self._running() if p.sensor is not Sensor.GYRO]


def _offset_ns(parts: list[_Part]) -> int:
    """From device time to the host's: the least of what each part's last sample came late."""
    return min(int(part.arrived_ns - part.taken_ns[-1]) for part in parts)


def _taken(parts: list[_Part], offset_ns: int, since_ns: int, until_ns: int) -> tuple[np.ndarray, Float32]:
    """Host times and values, in order, each sample once."""
    if not parts:
        return np.empty(0, np.int64), np.empty((0, 6), np.float32)
    taken_ns = np.concatenate([part.taken_ns for part in parts]) + offset_ns
    values = np.concatenate([part.values for part in parts])
    taken_ns, index = np.unique(taken_ns, return_index=True)
    chosen = (taken_ns >= since_ns) & (taken_ns <= until_ns)
    return taken_ns[chosen], values[index[chosen]]
