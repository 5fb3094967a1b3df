"""What the shell (simulation, peripheral) asks of a simulated wearable, whatever its family.

A device is pure: samples in m/s² and deg/s, GATT writes, reads and subscriptions and its own uptime come in;
notifications, indications, read values and the samples as it quantized them go out.
UUIDs are lower-case strings of 36 characters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]


class Property(IntFlag):
    """Of a characteristic; Bluetooth Core Specification 5.4, vol. 3, part G, 3.3.1.1."""

    READ = 0x02
    WRITE_WITHOUT_RESPONSE = 0x04
    WRITE = 0x08
    NOTIFY = 0x10
    INDICATE = 0x20


class AttError(IntEnum):
    """Bluetooth Core Specification 5.4, vol. 3, part F, 3.4.1.1, and its Supplement, part B, 1.2."""

    REQUEST_NOT_SUPPORTED = 0x06
    INVALID_ATTRIBUTE_LENGTH = 0x0D
    VALUE_NOT_ALLOWED = 0x13
    CCCD_IMPROPERLY_CONFIGURED = 0xFD
    PROCEDURE_ALREADY_IN_PROGRESS = 0xFE


class WriteRefused(Exception):
    """A write that is answered with an ATT error instead of an indication."""

    def __init__(self, att_error: int) -> None:
        super().__init__(f"ATT error 0x{att_error:02x}")
        self.att_error = att_error


@dataclass(frozen=True, slots=True)
class Service:
    uuid: str
    characteristics: Mapping[str, Property]


@dataclass(frozen=True, slots=True, eq=False)
class Taken:
    """Samples as the device quantized them.

    columns: which of Ax, Ay, Az, Gx, Gy, Gz. taken_ns: (n,), by the device's clock, since the session's first sample.
    values: (n, columns), m/s² and deg/s.
    """

    columns: slice
    taken_ns: Int64
    values: Float32


class SimulatedDevice(Protocol):
    @property
    def services(self) -> tuple[Service, ...]:
        """The first is advertised."""

    @property
    def mtu_min(self) -> int:
        """Below this ATT MTU it notifies nothing."""

    @property
    def rate_hz(self) -> float:
        """At which it is given the motion; what it sends may be a part of it."""

    @property
    def sensors(self) -> tuple[slice, ...]:
        """The columns of each stream of samples: one, or acceleration and rate of turn apart."""

    @property
    def session(self) -> int:
        """Changes where the samples that follow cannot be counted on from those before."""

    @property
    def made(self) -> int:
        """Samples taken since its boot, whether or not anyone listened."""

    @property
    def finished(self) -> bool: ...

    @property
    def connected(self) -> bool: ...

    def samples_due(self, uptime_ns: int) -> int:
        """How many samples there are once it has run so long; the first is taken at 0."""

    def measure(self, values: Float32) -> Sequence[Taken]:
        """Takes the next samples, (n, 6) in m/s² and deg/s; returns those that it keeps or sends, as quantized."""

    def finish(self) -> None:
        """There are no more samples; what is half full is sent. The wearable stays up."""

    def status(self) -> dict[str, object]:
        """made (in the session), closed, acked, ring_held, ring_fill, overwritten."""

    # The link

    def link_up(self) -> None: ...

    def disconnected(self) -> None: ...

    def advertised(self) -> bytes:
        """Manufacturer data without the company's number; none where it is empty."""

    def subscribed(self, uuid: str, on: bool) -> None:
        """The central has written the client characteristic configuration."""

    def read(self, uuid: str, uptime_ns: int) -> bytes: ...

    def written(self, uuid: str, payload: bytes) -> None:
        """Raises WriteRefused."""

    def next_indication(self) -> tuple[str, bytes] | None: ...

    def next_notification(self) -> tuple[str, bytes] | None: ...

    # What goes wrong with it

    def restart(self) -> None:
        """An orderly reboot."""

    def crash(self, *, flash_kept: bool) -> None:
        """A reboot without warning."""

    def step_clock(self, seconds: float) -> None: ...

    def overrun(self, samples: int) -> None:
        """So many samples are lost before it has read them from its sensor."""

    def shrink(self, capacity: int) -> None:
        """Its flash has room for so many samples from now on."""

    def set_battery(self, percent: int) -> None: ...
