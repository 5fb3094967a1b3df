"""Samples of a wrist IMU in SI units, and which of them one has.

Accelerations are m/s², rates of turn deg/s, always in the order Ax, Ay, Az, Gx, Gy, Gz.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

CHANNELS = ("Ax", "Ay", "Az", "Gx", "Gy", "Gz")
UNITS = ("m/s^2",) * 3 + ("deg/s",) * 3
"""One a channel, as a bundle's manifest writes them."""

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]


class Sensor(StrEnum):
    """One stream of samples. Most wearables send both sensors in one; some send each by itself."""

    IMU = "imu"
    ACC = "acc"
    GYRO = "gyro"

    @property
    def columns(self) -> slice:
        """Where its values stand among CHANNELS."""
        return {Sensor.IMU: slice(0, 6), Sensor.ACC: slice(0, 3), Sensor.GYRO: slice(3, 6)}[self]


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Consecutive samples of one session.

    session: 64 bits. first: index of the first sample. values: (n, 6), float32, m/s² and deg/s, sensor frame.
    tick: the device's clock at the first sample, in counts of the session's tick_hz. saturated: some count stood at
    its limit. rate_hz: nominal; where it is the grid's, the index is the grid.
    """

    session: int
    first: int
    tick: int
    values: Float32
    saturated: bool = False
    rate_hz: float = 50.0


@dataclass(frozen=True, slots=True, eq=False)
class Burst:
    """Consecutive samples of one sensor, each with its time on the device's clock; what is not on the grid comes so.

    first: index in the sensor's own stream, in which losses count as far as they can be told. taken_ns: (n,) int64,
    ascending, since the session's origin, by the device's clock (by the count of samples where it has none). values:
    (n, 6) or (n, 3) float32, as sensor says, m/s² and deg/s, sensor frame.
    """

    session: int
    sensor: Sensor
    first: int
    taken_ns: Int64
    values: Float32
    saturated: bool = False
    came_ns: Int64 | None = None
    """(n,), when each sample came, monotonic; None: with the row that is decoded."""


@dataclass(frozen=True, slots=True)
class Lost:
    """Samples first to end (exclusive) of this session will never come. estimated: nothing in the frames counts them,
    so how many they were is told from time alone."""

    session: int
    first: int
    end: int
    reason: str
    sensor: Sensor = Sensor.IMU
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class SessionEnded:
    """No more samples of this session will come: the stream of a wearable that keeps none has been cut off."""

    session: int


@dataclass(frozen=True, slots=True)
class SessionHeld:
    """What the wearable says of one session: the samples first to end (exclusive) that it still holds.

    acknowledged: all below it, some gateway has on its medium; 0 where that is not known of each.
    """

    session: int
    first: int
    end: int
    running: bool
    acknowledged: int = 0


@dataclass(frozen=True, slots=True)
class TimeRead:
    """The device's clock, read between two monotonic times of the host. next_index: of the sample it takes next."""

    session: int
    tick: int
    tick_hz: int
    next_index: int
    started_ns: int
    ended_ns: int


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """What the wearable says of itself; ring figures in samples, 0 where it has none.

    sensor_frame: for the sensor's x, y, z the axis of the case that it points along (motion.axes).
    """

    firmware: str
    battery_percent: int | None
    ring_capacity: int
    ring_held: int
    overwritten: int
    """Samples that its ring has overwritten before anyone acknowledged them."""
    sensor_frame: tuple[int, int, int] = (1, 2, 3)


@dataclass(frozen=True, slots=True)
class DeviceDetail:
    """What one row of the standard services tells; the rest is None, which means that it tells nothing of that.

    trouble: by one word, what keeps the wearable from being connected, empty where nothing does; trouble_why: in words.
    """

    manufacturer: str | None = None
    model: str | None = None
    serial: str | None = None
    firmware: str | None = None
    battery_percent: int | None = None
    rssi_dbm: int | None = None
    trouble: str | None = None
    trouble_why: str | None = None


Piece = Block | Burst | Lost | SessionHeld | SessionEnded | TimeRead | DeviceStatus


@dataclass(slots=True)
class Coverage:
    """A set of sample indices as sorted, disjoint, non-touching half-open ranges."""

    ranges: list[tuple[int, int]] = field(default_factory=list)

    def add(self, first: int, end: int) -> None:
        if end <= first:
            return
        if self.ranges and self.ranges[-1][0] <= first <= self.ranges[-1][1]:  # what streams do nearly always
            low, high = self.ranges[-1]
            self.ranges[-1] = (low, max(high, end))
            return
        before = [r for r in self.ranges if r[1] < first]
        after = [r for r in self.ranges if r[0] > end]
        touching = self.ranges[len(before) : len(self.ranges) - len(after)]
        if touching:
            first, end = min(first, touching[0][0]), max(end, touching[-1][1])
        self.ranges = [*before, (first, end), *after]

    def remove(self, first: int, end: int) -> None:
        if end <= first:
            return
        kept = [(low, min(high, first)) for low, high in self.ranges] + [
            (max(low, end), high) for low, high in self.ranges
        ]
        self.ranges = sorted(r for r in kept if r[0] < r[1])

    def missing(self, first: int, end: int) -> list[tuple[int, int]]:
        """The parts of first to end (exclusive) that are not in the set, in order."""
        holes = []
        for low, high in self.ranges:
            if high <= first:
                continue
            if low >= end:
                break
            if low > first:
                holes.append((first, low))
            first = high
        if first < end:
            holes.append((first, end))
        return holes

    def contiguous_end(self, first: int) -> int:
        """One past the last index of the unbroken run that starts at first; first itself where that is missing."""
        for low, high in self.ranges:
            if low <= first < high:
                return high
        return first

    def copy(self) -> "Coverage":
        return Coverage(list(self.ranges))

    @classmethod
    def of(cls, ranges: Iterable[Iterable[int]]) -> "Coverage":
        made = cls()
        for first, end in ranges:
            made.add(first, end)
        return made
