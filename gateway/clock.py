"""The only module that reads a clock. Everything else is told the time.

A Raspberry Pi has no clock battery: order and age come from the boot id and monotonic time; UTC is attached and
may be wrong until something disciplines it (adjtimex(2): STA_UNSYNC is clear).
"""

import ctypes
import ctypes.util
import functools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from gateway.errors import InputRejected

PLAUSIBLE_SINCE_NS = 1_750_000_000 * 10**9
"""No release of this program is older: an earlier UTC is wrong whatever the kernel says of it (June 2025)."""

_STA_UNSYNC = 0x0040
_ADJTIMEX_STATUS_OFFSET, _ADJTIMEX_SIZE = 40, 208  # struct timex, 64-bit Linux ABI (linux/timex.h)


@dataclass(frozen=True, slots=True)
class Instant:
    """One moment: monotonic ns since some start of this boot, and what the UTC clock said then."""

    boot_id: str
    mono_ns: int
    utc_ns: int
    utc_synced: bool


@dataclass(frozen=True, slots=True)
class SimulatedTime:
    """Time that runs `speed` times as fast as CLOCK_MONOTONIC and stood at epoch_ns when that read t0_ns."""

    epoch_ns: int
    speed: float
    t0_ns: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """From EPOCH_NS:SPEED:T0_NS, as the processes of one simulation hand it to each other.

        Raises InputRejected.
        """
        try:
            epoch, speed, t0 = text.split(":")
            value = cls(int(epoch), float(speed), int(t0))
        except ValueError:
            raise InputRejected(f"simulated time {text!r}: expected EPOCH_NS:SPEED:T0_NS") from None
        if not value.speed > 0:
            raise InputRejected(f"simulated time {text!r}: the speed must be above 0")
        return value

    def __str__(self) -> str:
        return f"{self.epoch_ns}:{self.speed}:{self.t0_ns}"


class Clock:
    """Reads the host's clocks, or a simulated time laid over CLOCK_MONOTONIC."""

    def __init__(self, simulated: SimulatedTime | None = None) -> None:
        self._simulated = simulated
        self._boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()

    @property
    def speed(self) -> float:
        """How many seconds of its time pass in one."""
        return 1.0 if self._simulated is None else self._simulated.speed

    def now(self) -> Instant:
        if self._simulated is None:
            utc_ns = time.time_ns()
            synced = utc_ns >= PLAUSIBLE_SINCE_NS and kernel_clock_synchronized()
            return Instant(self._boot_id, time.monotonic_ns(), utc_ns, synced)
        mono_ns = self.mono_ns()
        return Instant(self._boot_id, mono_ns, self._simulated.epoch_ns + mono_ns, True)

    def mono_ns(self) -> int:
        """Monotonic ns, of the simulation where there is one."""
        if self._simulated is None:
            return time.monotonic_ns()
        return int((time.monotonic_ns() - self._simulated.t0_ns) * self._simulated.speed)


def kernel_clock_synchronized() -> bool:
    """Whether the kernel holds UTC for disciplined (adjtimex(2) without STA_UNSYNC); False where it cannot be asked."""
    buffer = (ctypes.c_ubyte * _ADJTIMEX_SIZE)()
    if _libc().adjtimex(ctypes.byref(buffer)) < 0:
        return False
    status = ctypes.c_int32.from_buffer(buffer, _ADJTIMEX_STATUS_OFFSET).value
    return not status & _STA_UNSYNC


@functools.cache
def _libc() -> ctypes.CDLL:
    """Found once: it takes a process (ldconfig), and every observation asks for the time."""
    return ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)
