"""A gateway's clock without a battery: right, wrong or stepped, trusted or not, while monotonic time goes its way."""

from gateway.clock import Clock, Instant
from tests.sim.world import Clockwork

YEAR_NS = 365 * 86_400 * 10**9
EPOCH_NS = 1_790_000_000 * 10**9
"""UTC at the start: September 2026."""


class SimulatedClock(Clock):
    def __init__(self, clockwork: Clockwork, gateway: str) -> None:
        self._clockwork, self._gateway = clockwork, gateway
        self._boot, self._booted_ns = 1, -(10**9)
        self.off_ns, self.synced = 0, True

    @property
    def speed(self) -> float:
        return 1.0

    def now(self) -> Instant:
        utc_ns = EPOCH_NS + self._clockwork.now_ns + self.off_ns
        return Instant(f"{self._gateway}-boot-{self._boot}", self.mono_ns(), utc_ns, self.synced)

    def mono_ns(self) -> int:
        return self._clockwork.now_ns - self._booted_ns

    def reboot(self, off_ns: int, synced: bool) -> None:
        self._boot += 1
        self._booted_ns = self._clockwork.now_ns - 10**9
        self.off_ns, self.synced = off_ns, synced

    def step(self, off_ns: int, synced: bool) -> None:
        self.off_ns, self.synced = off_ns, synced
