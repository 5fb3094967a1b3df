"""Wearables that cost little: few samples a second, frames of hundreds of them, and a radio that moves when it must.

The bytes, the ring, the links' rules and what goes wrong are those of the other simulations (tests/sim/world.py).
"""

import random
from collections.abc import Iterable

import numpy as np

from firmware_sim.device import Settings
from firmware_sim.encoding import Config
from firmware_sim.faults import Fault, RadioFaults
from gateway.link import rules
from gateway.pipeline import Pipeline
from tests.sim.families import RecordedDevice, Reference, motion_of
from tests.sim.world import INTERVAL_NS, NOTIFICATIONS_A_INTERVAL, SECOND, Air, Central, Clockwork

RATE_MHZ = 10_000
RATE_HZ = 10.0
MTU = 4096
"""What a frame of 255 samples needs; no radio has it, and nothing behind the radio minds."""
SILENCE_S = 600.0
ADVERTISED_NS = 4 * SECOND
MOTION = motion_of(0)


class Sparse(Reference):
    """first: into the motion, so that no two wearables make the same."""

    rate_hz = RATE_HZ

    def __init__(self, name: str, seed: int, samples_a_frame: int, capacity: int) -> None:
        self.name = name
        config = Config(samples_a_frame=samples_a_frame, rate_mhz=RATE_MHZ)
        self.device = RecordedDevice(Settings(seed, capacity=capacity, config=config), random.Random(f"{seed}/{name}"))
        self.samples_a_frame = samples_a_frame
        self._first = random.Random(f"{name}/{seed}/motion").randrange(len(MOTION))
        self._uptime_ns = 0
        self._mtu = 0

    def motion(self, first: int, n: int) -> np.ndarray:
        return MOTION[np.arange(self._first + first, self._first + first + n) % len(MOTION)]


class LargeFrames(RadioFaults):
    def mtu(self, now_ns: int, otherwise: int) -> int:
        return MTU


class _Nothing(set):
    """What is not asked for is not kept."""

    def add(self, _: object) -> None:
        pass


class SparseAir(Air):
    """Several gateways may hear it; `reach` names those that do now, and at most one holds it."""

    def __init__(self, clock: Clockwork, worn: Sparse, faults: tuple[Fault, ...], seed: str) -> None:
        self.SAMPLED_NS = int(worn.samples_a_frame * SECOND / RATE_HZ)
        self.ADVERTISED_NS = ADVERTISED_NS
        super().__init__(clock, worn, faults, seed)
        self.radio = LargeFrames(faults, seed)
        self.heard = self.observed = _Nothing()
        self.centrals: dict[str, Central] = {}
        self.reach: set[str] = set()
        self._pumping = False

    def heal(self) -> None:
        super().heal()
        self.radio = LargeFrames((), "")
        if self.link:
            self.radio.link_up(self.clock.now_ns)
            self.pump_soon()

    def listening(self) -> Iterable[Central]:
        return [central for name, central in self.centrals.items() if name in self.reach]

    def connect(self, central: Central) -> bool:
        if self.link or central not in self.listening():
            return False
        self.central = central
        return super().connect(central)

    def walk(self, reach: set[str]) -> None:
        self.reach = reach
        if self.link and self.central not in self.listening():
            self.lose()

    def _sample(self) -> None:
        super()._sample()
        if self.link:
            if self.radio.ends(self.clock.now_ns):
                self.lose()
            else:
                self.pump_soon()

    def pump_soon(self) -> None:
        if self.link and not self._pumping:
            self._pumping = True
            self.clock.after(INTERVAL_NS, lambda link=self.link: self._pump(link))

    def _pump(self, link: int) -> None:
        """A connection event in which something may go; the next one only where something went."""
        self._pumping = False
        if self.link != link:
            self.pump_soon()
            return
        now_ns = self.clock.now_ns
        if self.radio.ends(now_ns):
            self.lose()
            return
        indication = self.worn.next_indication()
        if indication is not None:
            self._deliver(link, now_ns + self.radio.delay_ns(now_ns), *indication)
        carried = 0
        while carried < NOTIFICATIONS_A_INTERVAL and (notification := self.worn.next_notification()) is not None:
            carried += 1
            for at_ns, uuid, arrived in self.radio.pass_(now_ns, *notification):
                self._deliver(link, at_ns, uuid, arrived)
            if self.radio.dead:
                self.lose()
                return
        if carried or indication is not None:
            self.pump_soon()


class SparseCentral(Central):
    """gateway: a tests.sim.whole.gateway.Life."""

    def __init__(self, gateway: object, air: SparseAir, pipeline: Pipeline, name: str) -> None:
        holding = air.central
        super().__init__(gateway, air, pipeline)  # type: ignore[arg-type]
        air.central = holding
        air.centrals[name] = self
        self.link = rules.Link(SILENCE_S)
