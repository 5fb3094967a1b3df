"""What wearables share that keep nothing: they sample all the time, and what nobody has asked for is gone.

Such a device streams from a start until the link ends; each link over which samples went is a session of its own.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from firmware_sim.details import BATTERY, DEVICE_INFORMATION, Details
from firmware_sim.protocol import Float32, Int64, Service, Taken

WAITING_MAX = 8192
"""Notifications that wait for the radio; beyond it the oldest is lost. More than the samples that the simulation makes
in one go, so that catching up is not taken for a radio that stands still."""
IMU, ACC, GYRO = slice(0, 6), slice(0, 3), slice(3, 6)


@dataclass(frozen=True, slots=True)
class Settings:
    """clock_ns: what the device's clock shows at its boot."""

    serial: int
    clock_ns: int = 0
    battery_percent: int = 100


def counts_of(values: Float32, lsb: float | NDArray[np.float64]) -> NDArray[np.int64]:
    """The nearest count of 16 bits, at the limit where the sensor saturates."""
    return np.clip(np.rint(values.astype(np.float64) / lsb), -32768, 32767).astype(np.int64)


def at_rate(index: Int64, rate_hz: float, part_hz: float) -> NDArray[np.bool_]:
    """Which samples of a stream at rate_hz make one at part_hz, the first among them."""
    kept: NDArray[np.bool_] = np.floor(index * part_hz / rate_hz) > np.floor((index - 1) * part_hz / rate_hz)
    return kept


class StreamingDevice:
    """A family says what is served, read and written, whether it streams, and how samples become notifications."""

    manufacturer: ClassVar[str]
    model: ClassVar[str]
    firmware: ClassVar[str]
    own_services: ClassVar[tuple[Service, ...]]
    rate: ClassVar[int]
    """Samples a second."""
    mtu_min: ClassVar[int] = 23
    sensors: ClassVar[tuple[slice, ...]] = (IMU,)
    has_clock: ClassVar[bool] = True
    """What it sends tells when it was taken."""

    @classmethod
    def cannot(cls) -> dict[str, str]:
        """Faults of the firmware that it cannot have, and why."""
        why = {"overrun": "it does not number its samples", "full": "it keeps no samples"}
        return why if cls.has_clock else {**why, "step": "it sends no time"}

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.services = (*self.own_services, DEVICE_INFORMATION, BATTERY)
        self.session = 1
        self.made = 0
        self.finished = False
        self.connected = False
        self.dropped = 0
        """Notifications lost for want of room."""
        self._streamed = 0
        self._origin_ns = 0
        self._clock_ns = settings.clock_ns
        self._subscribed: set[str] = set()
        self._indications: deque[tuple[str, bytes]] = deque()
        self._notifications: deque[tuple[str, bytes]] = deque()
        self._details = Details(
            manufacturer=self.manufacturer,
            model=self.model,
            firmware=self.firmware,
            serial=f"{settings.serial:016X}",
            battery_percent=settings.battery_percent,
        )

    @property
    def rate_hz(self) -> float:
        return float(self.rate)

    # A family's own

    @property
    def streaming(self) -> bool:
        raise NotImplementedError

    def _stream(self, index: Int64, values: Float32) -> Sequence[Taken]:
        """Sends the samples of these indices since boot."""
        raise NotImplementedError

    def _stop(self) -> None:
        """The link has ended: nothing of the stream stays."""
        raise NotImplementedError

    def _flush(self) -> None:
        """Sends what is half full."""

    def _read(self, uuid: str) -> bytes:
        raise KeyError(uuid)

    # Samples

    def samples_due(self, uptime_ns: int) -> int:
        return uptime_ns * self.rate // 10**9 + 1 if uptime_ns >= 0 else 0

    def measure(self, values: Float32) -> Sequence[Taken]:
        index = np.arange(self.made, self.made + len(values), dtype=np.int64)
        self.made += len(values)
        return self._stream(index, values) if self.streaming and len(values) else ()

    def finish(self) -> None:
        self._flush()
        self.finished = True

    def clock_at_ns(self, index: Int64) -> Int64:
        """What the device's clock shows when it takes these samples."""
        return index * 10**9 // self.rate + self._clock_ns

    def _taken(self, columns: slice, clock_ns: Int64, values: Float32) -> Taken:
        """Counts them as the session's. values: of these columns."""
        if not self._streamed:
            self._origin_ns = int(clock_ns[0])
        self._streamed += len(values)
        return Taken(columns, clock_ns - self._origin_ns, values)

    def status(self) -> dict[str, object]:
        made = self._streamed // len(self.sensors)
        nothing_kept = {"acked": 0, "ring_held": 0, "ring_fill": 0.0, "overwritten": 0}
        return {"made": made, "closed": made, "dropped": self.dropped, **nothing_kept}

    # The link

    def link_up(self) -> None:
        self.disconnected()
        self.connected = True

    def disconnected(self) -> None:
        self.connected = False
        self._subscribed.clear()
        self._indications.clear()
        self._notifications.clear()
        self._stop()
        self._end_session()

    def _end_session(self) -> None:
        if self._streamed:
            self.session += 1
            self._streamed = 0

    def advertised(self) -> bytes:
        return b""

    def subscribed(self, uuid: str, on: bool) -> None:
        (self._subscribed.add if on else self._subscribed.discard)(uuid)

    def read(self, uuid: str, uptime_ns: int) -> bytes:  # noqa: ARG002
        value = self._details.read(uuid)
        return self._read(uuid) if value is None else value

    def written(self, uuid: str, payload: bytes) -> None:  # noqa: ARG002
        """Raises WriteRefused."""
        raise KeyError(uuid)

    def _notify(self, uuid: str, payload: bytes) -> None:
        if len(self._notifications) == WAITING_MAX:
            self._notifications.popleft()
            self.dropped += 1
        self._notifications.append((uuid, payload))

    def next_indication(self) -> tuple[str, bytes] | None:
        return self._indications.popleft() if self._indications else None

    def next_notification(self) -> tuple[str, bytes] | None:
        return self._notifications.popleft() if self._notifications else self._details.next_notification()

    # What goes wrong with it

    def restart(self) -> None:
        self.disconnected()
        self.made, self.finished, self._clock_ns = 0, False, self.settings.clock_ns

    def crash(self, *, flash_kept: bool) -> None:  # noqa: ARG002
        self.restart()

    def step_clock(self, seconds: float) -> None:
        """A truth file's times must ascend, so a step back begins a session."""
        self._clock_ns += round(seconds * 1e9)
        if seconds < 0:
            self._flush()
            self._end_session()

    def overrun(self, samples: int) -> None:
        """Its stream counts no samples, so that it could not tell."""

    def shrink(self, capacity: int) -> None:
        """It has no flash for samples."""

    def set_battery(self, percent: int) -> None:
        self._details.set_battery(percent)
