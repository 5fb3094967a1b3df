"""The wearables of the simulation, a class a family: one face to the world, and each sample's fate for the account."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from firmware_sim import families
from firmware_sim.device import Device, Session, Settings, StoredFrame
from firmware_sim.families.streaming import Settings as StreamingSettings
from firmware_sim.faults import Happened
from firmware_sim.simulation import play


class Worn(Protocol):
    """A wearable as the world sees it. GATT payloads go in and out; samples are (n, 6), m/s² and deg/s."""

    name: str
    profile: str
    rate_hz: float

    @property
    def truth(self) -> dict[int, "Truth"]: ...
    def motion(self, first: int, n: int) -> np.ndarray: ...
    def pass_time(self, span_ns: int) -> None: ...
    def due(self) -> int: ...
    def sample(self, values: np.ndarray) -> None: ...
    def finish(self) -> None: ...
    def play(self, happened: Happened) -> None: ...
    def link_up(self, mtu: int) -> None: ...
    def disconnected(self) -> None: ...
    def subscribed(self, uuid: str) -> None: ...
    def read(self, uuid: str) -> bytes: ...
    def written(self, uuid: str, payload: bytes) -> None: ...
    def next_indication(self) -> tuple[str, bytes] | None: ...
    def next_notification(self) -> tuple[str, bytes] | None: ...
    def drained(self) -> bool: ...


def motion_of(seed: int) -> np.ndarray:
    """(45,000, 6): noise in which every sample differs from every other, so that whatever is misplaced shows.
    12 minutes at 60 Hz."""
    return np.random.default_rng(seed).uniform(-40, 40, (45_000, 6)).astype(np.float32)


@dataclass
class Truth:
    """One session as the device made it. gone: samples that it does not hold any more, and why. displaced: those of
    them that somebody had acknowledged, where a full ring took the place that they kept for the next gateway."""

    scales: np.ndarray
    counts: list[np.ndarray] = field(default_factory=list)
    gone: list[tuple[int, int, str]] = field(default_factory=list)
    displaced: list[tuple[int, int]] = field(default_factory=list)

    @property
    def made(self) -> int:
        return sum(map(len, self.counts))

    def values(self) -> np.ndarray:
        """(made, 6) float32, m/s² and deg/s: as the device measured them."""
        counts = np.concatenate([*self.counts, np.zeros((0, 6), np.int16)])
        return counts.astype(np.float32) * self.scales


class RecordedDevice(Device):
    """The firmware, with a note of every sample that leaves its memory, and why."""

    def __init__(self, settings: Settings, rng: random.Random) -> None:
        self.truth: dict[int, Truth] = {}
        super().__init__(settings, rng)

    def _begin_session(self) -> None:
        super()._begin_session()
        self.truth[self.running.number] = Truth(self.settings.config.scales())

    def _sample(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        first = self.running.made
        counts, kept = super()._sample(values)
        truth = self.truth[self.running.number]
        truth.counts.append(counts)
        truth.gone += [(int(i), int(i) + 1, "overrun") for i in first + np.flatnonzero(~kept)]
        return counts, kept

    def crash(self, *, flash_kept: bool) -> None:
        running = self.running
        self.truth[running.number].gone.append((running.closed, running.made, "in RAM at a reboot"))
        if not flash_kept:
            for session in self.sessions:
                held = [(frame.first, frame.end, "flash lost") for frame in session.frames]
                self.truth[session.number].gone += held
        super().crash(flash_kept=flash_kept)

    def _overwrite_oldest(self, session: Session) -> None:
        first, watermark = session.frames[0].first, session.watermark
        super()._overwrite_oldest(session)
        if first < watermark:
            self.truth[session.number].displaced.append((first, watermark))

    def _erase_oldest(self, session: Session) -> StoredFrame:
        frame = super()._erase_oldest(session)
        low = max(frame.first, min(frame.end, session.watermark))
        self.truth[session.number].gone.append((frame.first, low, "acknowledged"))
        self.truth[session.number].gone.append((low, frame.end, "overwritten"))
        return frame


class Reference:
    """The reference profile."""

    profile = "reference"
    rate_hz = 50.0
    FRAME_MTU = 247

    def __init__(self, name: str, seed: int, capacity: int = 500_000) -> None:
        self.name = name
        self.device = RecordedDevice(Settings(seed, capacity=capacity), random.Random(f"{seed}/{name}"))
        self._motion = motion_of(seed)
        self._uptime_ns = 0
        self._mtu = 0

    @property
    def truth(self) -> dict[int, Truth]:
        return self.device.truth

    def motion(self, first: int, n: int) -> np.ndarray:
        return self._motion[np.arange(first, first + n) % len(self._motion)]

    def pass_time(self, span_ns: int) -> None:
        self._uptime_ns += span_ns

    def due(self) -> int:
        return 0 if self.device.finished else self.device.samples_due(self._uptime_ns) - self.device.running.made

    def sample(self, values: np.ndarray) -> None:
        self.device.sample(values)

    def finish(self) -> None:
        self.device.finish()

    def play(self, happened: Happened) -> None:
        play(self.device, happened)
        if happened.name == "reboot":
            self._uptime_ns = 0

    def link_up(self, mtu: int) -> None:
        self._mtu = mtu
        self.device.link_up()

    def disconnected(self) -> None:
        self.device.disconnected()

    def subscribed(self, uuid: str) -> None:
        pass

    def read(self, uuid: str) -> bytes:
        return self.device.read(uuid, self._uptime_ns)

    def written(self, uuid: str, payload: bytes) -> None:
        self.device.written(uuid, payload)

    def next_indication(self) -> tuple[str, bytes] | None:
        return self.device.next_indication()

    def next_notification(self) -> tuple[str, bytes] | None:
        """No frame is sent before the MTU allows for a whole one (docs/reference-profile.md)."""
        return self.device.next_notification() if self._mtu >= self.FRAME_MTU else None

    def drained(self) -> bool:
        return all(session.watermark >= session.closed for session in self.device.sessions)


@dataclass
class LinkTruth:
    """What a wearable that keeps nothing did on one link. streamed: by first column, its samples in their order.
    sent: the notifications of its stream as they went out. steps: of its clock, in seconds, each with how many samples
    of each sensor stood before it. pauses: likewise what its clock counted while a sensor was stopped."""

    streamed: dict[int, list[np.ndarray]] = field(default_factory=dict)
    sent: list[bytes] = field(default_factory=list)
    steps: list[tuple[float, dict[int, int]]] = field(default_factory=list)
    pauses: list[tuple[float, dict[int, int]]] = field(default_factory=list)

    def samples(self, column: int) -> np.ndarray:
        return np.concatenate(self.streamed[column])

    def before(self) -> dict[int, int]:
        return {column: sum(map(len, parts)) for column, parts in self.streamed.items()}


class Streaming:
    """A wearable of another maker, which keeps nothing: truth is what it streamed, link by link."""

    def __init__(self, profile: str, name: str, seed: int) -> None:
        self.name, self.profile = name, profile
        self.device = families.FAMILIES[profile](StreamingSettings(seed, clock_ns=seed % 997 * 10**9))
        self.rate_hz = self.device.rate_hz
        self.links = [LinkTruth()]
        self._own = {uuid for service in self.device.own_services for uuid in service.characteristics}
        self._motion = motion_of(seed)
        self._uptime_ns = 0
        self._mtu = 0

    @property
    def truth(self) -> dict[int, Truth]:
        return {}

    def motion(self, first: int, n: int) -> np.ndarray:
        return self._motion[np.arange(first, first + n) % len(self._motion)]

    def pass_time(self, span_ns: int) -> None:
        self._uptime_ns += span_ns

    def due(self) -> int:
        return 0 if self.device.finished else self.device.samples_due(self._uptime_ns) - self.device.made

    def sample(self, values: np.ndarray) -> None:
        link, before = self.links[-1], self.links[-1].before()
        for taken in self.device.measure(values):
            link.streamed.setdefault(taken.columns.start, []).append(taken.values)
            before.pop(taken.columns.start, None)
        if before and self.device.connected:
            link.pauses.append((len(values) / self.rate_hz, before))

    def finish(self) -> None:
        self.device.finish()

    def play(self, happened: Happened) -> None:
        play(self.device, happened)
        if happened.name == "reboot":
            self._uptime_ns = 0
        elif happened.name == "step":
            self.links[-1].steps.append((float(happened.value[0]), self.links[-1].before()))

    def link_up(self, mtu: int) -> None:
        self._mtu = mtu
        self.links.append(LinkTruth())
        self.device.link_up()

    def disconnected(self) -> None:
        self.device.disconnected()

    def subscribed(self, uuid: str) -> None:
        self.device.subscribed(uuid, True)

    def read(self, uuid: str) -> bytes:
        return self.device.read(uuid, self._uptime_ns)

    def written(self, uuid: str, payload: bytes) -> None:
        self.device.written(uuid, payload)

    def next_indication(self) -> tuple[str, bytes] | None:
        return self.device.next_indication()

    def next_notification(self) -> tuple[str, bytes] | None:
        notification = self.device.next_notification() if self._mtu >= self.device.mtu_min else None
        if notification is not None and notification[0] in self._own:
            self.links[-1].sent.append(notification[1])
        return notification

    def drained(self) -> bool:
        return True


def _streaming(profile: str) -> Callable[[str, int, int], Worn]:
    return lambda name, seed, _capacity: Streaming(profile, name, seed)


FAMILIES: dict[str, Callable[[str, int, int], Worn]] = {
    "reference": Reference,
    **{
        profile: _streaming(profile)
        for profile in ("movesense", "polar-verity-sense", "witmotion-bwt901ble", "thingy52", "xsens-dot")
    },
}
"""By profile: from name, seed and the capacity of what it keeps. Its ledger: account.LEDGERS."""
