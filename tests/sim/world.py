"""The whole path on one virtual clock and one seed: wearables with faults, their links, the gateway, its medium.

Nothing waits and nothing reads a clock: `Clockwork` calls what is due. The gateway's own code runs unchanged between
the links' bytes and what the medium holds: link rules, conversations, pipelines, streams. Only three shells are played:
the radio stack (`Central`, as gateway/ble/runner.py drives it), the writer (`Medium`) and the process (`Gateway`, which
may be killed at any moment and goes on from what is on the medium).
"""

import heapq
import itertools
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from firmware_sim.faults import REORDER_S, Fault, FirmwareFaults, RadioFaults, SensorFaults
from firmware_sim.protocol import WriteRefused
from gateway.clock import Instant
from gateway.link import rules
from gateway.monitoring.drift import DriftSettings
from gateway.motion.windows import WindowShape
from gateway.pipeline import Pipeline
from gateway.profiles import profile_of
from gateway.profiles.conversation import (
    Connected,
    Disconnected,
    Notified,
    Observe,
    Read,
    ReadDone,
    Subscribe,
    Tick,
    WakeAt,
    Write,
    WriteDone,
)
from gateway.profiles.conversation import (
    Fault as ConversationFault,
)
from gateway.store.rows import Derived, JournalRow, LoggedEvent
from gateway.stream.outcome import Answer
from gateway.stream.progress import Progress
from gateway.stream.stream import Stream, StreamSettings, decoder_state
from tests.sim.families import Worn

SECOND = 10**9
INTERVAL_NS = 50 * 10**6
"""Between two connection events of a link; a GATT operation takes two."""
NOTIFICATIONS_A_INTERVAL = 12
"""What one connection event carries: 240 a second, 58 kB/s."""
SHAPE = WindowShape(200, 100)
INTERPOLATE_MAX = 5


class Clockwork:
    """Calls what is due, in order of time and then of asking."""

    def __init__(self) -> None:
        self.now_ns = 0
        self._due: list[tuple[int, int, Callable[[], None]]] = []
        self._number = itertools.count()

    def at(self, when_ns: int, do: Callable[[], None]) -> None:
        heapq.heappush(self._due, (max(when_ns, self.now_ns), next(self._number), do))

    def after(self, span_ns: float, do: Callable[[], None]) -> None:
        self.at(self.now_ns + int(span_ns), do)

    def every(self, span_ns: int, do: Callable[[], None]) -> None:
        def again() -> None:
            do()
            self.after(span_ns, again)

        self.after(span_ns, again)

    def run(self, until_ns: int) -> None:
        while self._due and self._due[0][0] <= until_ns:
            self.now_ns, _, do = heapq.heappop(self._due)
            do()
        self.now_ns = until_ns


class Air:
    """One wearable's radio: at most one link, which its faults act on."""

    SAMPLED_NS, ADVERTISED_NS = 2 * SECOND // 5, SECOND

    def __init__(self, clock: Clockwork, worn: Worn, faults: tuple[Fault, ...], seed: str) -> None:
        self.clock, self.worn = clock, worn
        self.radio = RadioFaults(faults, seed)
        self.sensor, self.firmware = SensorFaults(faults, seed), FirmwareFaults(faults, seed)
        self.rng = random.Random(f"{seed}/air")
        self.central: Central | None = None
        self.link = 0
        """The number of the link that is up; 0 where none is."""
        self.links = itertools.count(1)
        self.mtu = 247
        self.garbage: set[bytes] = set()
        """Payloads that did not arrive as they were sent, and in `altered` as what they were sent."""
        self.altered: set[bytes] = set()
        self.heard: set[bytes] = set()
        """What a conversation was told of, and in `observed` what of it went to the journal."""
        self.observed: set[bytes] = set()
        self.carried = self.duplicated = 0
        self.jitter_s = sum(float(fault.value[0]) for fault in faults if fault.name == "jitter")
        """How much longer one notification may take than another."""
        if any(fault.name == "reorder" for fault in faults):
            self.jitter_s += REORDER_S
        self._arrived_ns: dict[str, int] = {}
        self._passed_ns = clock.now_ns
        self._played = 0
        self.stopped = False
        clock.every(self.SAMPLED_NS, self._sample)
        clock.after(self.rng.random() * SECOND, self._advertise)

    def heal(self) -> None:
        """No more samples, no more faults: what is left must come through."""
        self._sample()
        self.stopped = True
        self.worn.finish()
        self.radio = RadioFaults((), "")
        if self.link:
            self.radio.link_up(self.clock.now_ns)

    def _advertise(self) -> None:
        if not self.link and self.radio.reachable(self.clock.now_ns):
            for central in self.listening():
                central.heard()
        self.clock.after(self.ADVERTISED_NS, self._advertise)

    def listening(self) -> Iterable["Central"]:
        """Who hears it advertise."""
        return [] if self.central is None else [self.central]

    def _sample(self) -> None:
        if self.stopped:
            return
        now_ns = self.clock.now_ns
        for happened in self.firmware.due(now_ns):
            if happened.name == "reboot":
                self.lose()
            self.worn.play(happened)
        self.pass_time()
        due = self.worn.due()
        if due > 0:
            at_ns = now_ns - (np.arange(due)[::-1] * (SECOND / self.worn.rate_hz)).astype(np.int64)
            self.worn.sample(self.sensor.apply(self.worn.motion(self._played, due), at_ns))
            self._played += due

    def pass_time(self) -> None:
        """The wearable's own clock counts up to now."""
        passed_ns, self._passed_ns = self._passed_ns, self.clock.now_ns
        if not self.stopped:
            self.worn.pass_time(self.firmware.device_ns(passed_ns, self._passed_ns))

    def connect(self, central: "Central") -> bool:
        now_ns = self.clock.now_ns
        if self.link or not self.radio.reachable(now_ns):
            return False
        self.link = next(self.links)
        self.radio.link_up(now_ns)
        self.mtu = self.radio.mtu(now_ns, 247)
        self.worn.link_up(self.mtu)
        self._arrived_ns = {}
        self.clock.after(INTERVAL_NS, lambda link=self.link: self._pump(link))
        return True

    def lose(self) -> None:
        """The wearable's end of the link is gone; the central finds out by its supervision timeout."""
        if self.link:
            self.worn.disconnected()
            link, self.link = self.link, 0
            if self.central is not None:
                self.clock.after(self.rng.random() * 4 * SECOND, lambda c=self.central: c.lost(link))

    def _pump(self, link: int) -> None:
        if self.link != link:
            return
        now_ns = self.clock.now_ns
        if self.radio.ends(now_ns):
            self.lose()
            return
        indication = self.worn.next_indication()
        if indication is not None:
            self._deliver(link, now_ns + self.radio.delay_ns(now_ns), *indication)
        for _ in range(NOTIFICATIONS_A_INTERVAL):
            notification = self.worn.next_notification()
            if notification is None:
                break
            self.carried += 1
            uuid, payload = notification
            deliveries = self.radio.pass_(now_ns, uuid, payload)
            self.duplicated += len(deliveries) > 1
            for at_ns, _, arrived in deliveries:
                if arrived != payload:
                    self.garbage.add(arrived)
                    self.altered.add(payload)
                self._deliver(link, at_ns, uuid, arrived)
            if self.radio.dead:
                self.lose()
                return
        self.clock.after(INTERVAL_NS, lambda: self._pump(link))

    def _deliver(self, link: int, at_ns: int, uuid: str, payload: bytes) -> None:
        central = self.central
        if central is not None:  # in order on each characteristic, also where its faults have ended meanwhile
            at_ns = self._arrived_ns[uuid] = max(at_ns, self._arrived_ns.get(uuid, 0))
            self.clock.at(at_ns, lambda: central.notified(link, uuid, payload) if self.link == link else None)


class Central:
    """The gateway's end of one wearable's links: as LinkRunner, but on the virtual clock and without waiting."""

    def __init__(self, gateway: "Gateway", air: Air, pipeline: Pipeline) -> None:
        self.gateway, self.air, self.pipeline = gateway, air, pipeline
        self.clock = air.clock
        profile = profile_of(air.worn.profile)
        self.conversation = profile.conversation(pipeline.stream.coverage())
        self.link = rules.Link(profile.silence_s)
        self.on = 0
        """The number of the link that it talks on."""
        self.talking = self.operating = self.dead = self.handling = False
        self.inbox: deque[object] = deque()
        self.operations: deque[Subscribe | Read | Write] = deque()
        self.faults: Counter[str] = Counter()
        self._wake = 0
        air.central = self

    # The link's rules

    def feed(self, event: rules.Event) -> None:
        if self.dead:
            return
        was = self.link.state
        now_s = self.clock.now_ns / 1e9
        self.link, commands = rules.advance(self.link, event, now_s, self.air.rng.random())
        if self.link.state is not was:
            self._entered()
        for command in commands:
            match command:
                case rules.TakeTurn():
                    self.clock.after(0, lambda: self.feed(rules.Turn()))
                case rules.Connect():
                    self.clock.after(self.air.rng.uniform(0.2, 1.5) * SECOND, self._connect)
                case rules.Disconnect():
                    self._end()
                    self.clock.after(0.1 * SECOND, lambda: self.feed(rules.Closed()))
        if self.link.deadline_s != float("inf"):
            deadline_ns = int(self.link.deadline_s * 1e9) + 1
            if deadline_ns < getattr(self, "_due_ns", 1 << 62) or self._due_ns <= self.clock.now_ns:
                self._due_ns = deadline_ns
                self.clock.at(deadline_ns, self._deadline)

    def _deadline(self) -> None:
        self._due_ns = 1 << 62
        self.feed(rules.Due())

    def _entered(self) -> None:
        if self.link.state is rules.State.CONFIGURING:
            self.talking = True
            self.tell(Connected())
        elif self.talking and self.link.state not in rules.LIVE:
            self.talking = False
            self.operations.clear()
            self.operating = False
            self.tell(Disconnected())

    def heard(self) -> None:
        if self.link.state in rules.LISTENING:
            self.feed(rules.Heard())

    def _connect(self) -> None:
        if self.dead or self.link.state is not rules.State.CONNECTING:
            return
        if self.air.connect(self):
            self.on = self.air.link
            self.feed(rules.Opened())
        else:
            self.clock.after(5 * SECOND, lambda: self.feed(rules.Failed("not there")))

    def _end(self) -> None:
        if self.on and self.air.link == self.on:
            self.air.worn.disconnected()
            self.air.link = 0
        self.on = 0

    def lost(self, link: int) -> None:
        if link == self.on:
            self.on = 0
            self.feed(rules.Lost())

    def kill(self) -> None:
        self.dead = True
        self._end()

    # The conversation

    def notified(self, link: int, uuid: str, payload: bytes) -> None:
        if self.dead or link != self.on or self.link.state not in rules.LIVE:
            return
        self.feed(rules.Notified())
        self.air.heard.add(payload)
        self.tell(Notified(uuid, payload))

    def tell(self, event: object) -> None:
        if self.dead:
            return
        self.inbox.append(event)
        if self.handling:
            return
        self.handling = True
        while self.inbox:
            for command in self.conversation.handle(self.inbox.popleft(), self.gateway.mono_ns()):
                self._obey(command)
        self.handling = False

    def _obey(self, command: object) -> None:
        match command:
            case Observe(kind, payload):
                self.air.observed.add(payload)
                self.gateway.observe(self, kind, payload)
            case ConversationFault(name, detail, fatal):
                self.faults[name] += 1
                if fatal:
                    self.feed(rules.Failed(detail))
            case WakeAt(mono_ns):
                self._wake += 1
                mine = self._wake
                at_ns = max(self.clock.now_ns + 10**6, mono_ns - self.gateway.mono_ns() + self.clock.now_ns)
                self.clock.at(at_ns, lambda: self.tell(Tick()) if mine == self._wake else None)
            case Subscribe() | Read() | Write():
                if self.link.state in rules.LIVE and not (isinstance(command, Read) and command in self.operations):
                    self.operations.append(command)
                    assert len(self.operations) < 256
                    if not self.operating:
                        self._operate()

    def _operate(self) -> None:
        if not self.operations:
            self.operating = False
            return
        self.operating = True
        operation, link, started_ns = self.operations.popleft(), self.on, self.gateway.mono_ns()
        answer: list[object] = []

        def there() -> None:
            if self.dead or link != self.on or self.air.link != link:
                return
            match operation:
                case Read(uuid):
                    self.air.pass_time()
                    answer.append(ReadDone(uuid, self.air.worn.read(uuid), started_ns))
                case Write(uuid, payload):
                    self.gateway.world.written(self.air, uuid, payload)
                    try:
                        self.air.worn.written(uuid, payload)
                    except WriteRefused as refused:
                        self.feed(rules.Failed(str(refused)))
                        return
                    answer.append(WriteDone(uuid))
                case Subscribe(uuid):
                    self.air.worn.subscribed(uuid)
                    answer.append(None)
            self.clock.after(INTERVAL_NS + self.air.radio.delay_ns(self.clock.now_ns), back)

        def back() -> None:
            if self.dead or link != self.on or self.air.link != link:
                return
            if answer[0] is not None:
                self.tell(answer[0])
            self._operate()

        self.clock.after(INTERVAL_NS + self.air.radio.delay_ns(self.clock.now_ns), there)


class Events:
    """Makes events whose payload is the window itself, so that it can be looked into."""

    def __init__(self, wearable: str) -> None:
        self.wearable = wearable

    def answer(self, probabilities):
        return Answer("resting", 1.0, {"resting": 1.0}, ())

    def _event(self, kind, id, payload=b""):
        return LoggedEvent(kind, self.wearable, f"urn:{self.wearable}", id, "topic", payload, 0, "boot")

    def prediction(self, window, answer):
        payload = bytes([window.interpolated, window.saturated]) + window.values.tobytes()
        return self._event("prediction", f"{window.session:016x}-{window.number}", payload)

    def drift(self, ready):
        return self._event("drift", f"{ready.session:016x}-{ready.number}")

    def state(self, ready, counters):
        return self._event("state", f"row-{ready.row}")


@dataclass
class Medium:
    """What the writer has been given and what of it would survive. on_commit: told each item as it becomes durable."""

    commit_interval_s: float
    queue_bytes_max: int = 2_000_000
    durable: list[JournalRow | Derived] = field(default_factory=list)
    pending: list[JournalRow | Derived] = field(default_factory=list)
    committing: list[JournalRow | Derived] = field(default_factory=list)
    waiting_bytes: int = 0
    row: int = 0

    def journal(self, wearable, kind, payload, at):
        self.row += 1
        self.waiting_bytes += len(payload) + 100
        assert self.waiting_bytes <= self.queue_bytes_max, "more was asked for than there is room"
        self.pending.append(JournalRow(self.row, wearable, kind, payload, at))
        return self.row

    def derived(self, derived):
        self.pending.append(derived)

    def room(self):
        return max(0, self.queue_bytes_max - self.waiting_bytes)


class Gateway:
    """The process: dies and comes back. After a power cut with another boot id and monotonic time from 0."""

    COMMIT_NS = 15 * 10**6

    def __init__(self, world: "World", medium: Medium, snapshot_rows: int, settings: StreamSettings) -> None:
        self.world, self.medium, self.clock = world, medium, world.clock
        self.snapshot_rows, self.settings = snapshot_rows, settings
        self.boot, self.booted_ns = 1, 0
        self.centrals: list[Central] = []
        self.life = 0
        self.deaths = 0

    def mono_ns(self) -> int:
        return self.clock.now_ns - self.booted_ns

    def start(self) -> None:
        self.life += 1
        self.centrals = []
        for air in self.world.airs:
            central = Central(self, air, self._pipeline(air))
            central.pipeline.attach(central.tell)
            self.centrals.append(central)
        self._commit_later(self.life)

    def _pipeline(self, air: Air) -> Pipeline:
        """As the daemon builds it: snapshot, progress, then the journal since."""
        name = air.worn.name
        progress, snapshot = Progress(), None
        mine = [item for item in self.medium.durable if item.wearable == name]
        for item in mine:
            if isinstance(item, Derived):
                progress = Progress.decode(item.progress) if item.progress is not None else progress
                snapshot = item.snapshot or snapshot
        stream = new_stream(air.worn.profile, self.settings, snapshot[2] if snapshot else None, progress)
        if snapshot:
            stream.restore(snapshot[0], snapshot[2])

        async def infer(windows):
            return np.zeros((len(windows), 1), np.float32)

        pipeline = Pipeline(
            wearable=name,
            stream=stream,
            progress=progress,
            events=Events(name),
            writer=self.medium,
            infer=infer,
            snapshot_rows=self.snapshot_rows,
        )
        pipeline.replay([item for item in mine if isinstance(item, JournalRow) and item.row > stream.row])
        _inline(pipeline.drain())
        return pipeline

    def observe(self, central: Central, kind, payload: bytes) -> None:
        at = Instant(f"boot-{self.boot}", self.mono_ns(), self.clock.now_ns, True)
        central.pipeline.observe(kind, payload, at)
        _inline(central.pipeline.drain())
        if self.medium.waiting_bytes > self.medium.queue_bytes_max // 4:
            self._commit_now()

    def _commit_later(self, life: int) -> None:
        def due() -> None:
            if self.life == life:
                self._commit_now()
                self._commit_later(life)

        self.clock.after(self.medium.commit_interval_s * SECOND, due)

    def _commit_now(self) -> None:
        medium, life = self.medium, self.life
        if not medium.committing and medium.pending:
            medium.committing, medium.pending = medium.pending, []
            self.clock.after(self.COMMIT_NS, lambda: self._committed(life))

    def _committed(self, life: int) -> None:
        if self.life != life:
            return
        medium = self.medium
        self._land()
        medium.waiting_bytes = sum(len(i.payload) + 100 for i in medium.pending if isinstance(i, JournalRow))
        row = min((i.row for i in medium.pending if isinstance(i, JournalRow)), default=medium.row + 1) - 1
        for central in self.centrals:
            central.pipeline.committed(row)
        if medium.waiting_bytes > medium.queue_bytes_max // 4:
            self._commit_now()

    def _land(self) -> None:
        medium = self.medium
        for item in medium.committing:
            medium.durable.append(item)
            if isinstance(item, JournalRow):
                self.world.landed(item)
        medium.committing = []

    def die(self, rng: random.Random, power_cut: bool) -> None:
        """A commit that is under way is on the medium as a whole or not at all."""
        self.life += 1
        self.deaths += 1
        for central in self.centrals:
            central.kill()
        if rng.random() < 0.5:
            self._land()
        medium = self.medium
        medium.committing, medium.pending, medium.waiting_bytes = [], [], 0
        medium.row = max((i.row for i in medium.durable if isinstance(i, JournalRow)), default=0)
        if power_cut:
            self.boot += 1
            self.booted_ns = self.clock.now_ns
        self.clock.after(rng.uniform(0.5, 20) * SECOND, self.start)


def new_stream(name: str, settings: StreamSettings, snapshot: bytes | None, progress: Progress) -> Stream:
    profile = profile_of(name)
    return Stream(
        decoder=profile.decoder(decoder_state(snapshot) if snapshot else None),
        rate_hz=50.0,
        native_rate_hz=profile.rate_hz,
        shape=SHAPE,
        settings=settings,
        drift=DriftSettings(period_s=120),
        reference={},
        mounting=None,
        progress=progress,
    )


def _inline(coroutine) -> None:
    """Runs what never has to wait."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError("it waits for something")


class World:
    """worns: what is worn and what goes wrong with each. landed and written: hooks for who takes the account."""

    def __init__(
        self,
        worns: list[tuple[Worn, tuple[Fault, ...]]],
        seed: int,
        *,
        commit_interval_s: float = 0.25,
        snapshot_rows: int = 200,
        settings: StreamSettings | None = None,
        landed: Callable[[JournalRow], None] = lambda _: None,
        written: Callable[[Air, str, bytes], None] = lambda *_: None,
    ) -> None:
        self.clock = Clockwork()
        self.rng = random.Random(f"{seed}/world")
        self.landed, self.written = landed, written
        self.airs = [Air(self.clock, worn, faults, f"{seed}/{worn.name}") for worn, faults in worns]
        self.medium = Medium(commit_interval_s)
        settings = settings or StreamSettings(interpolate_samples_max=INTERPOLATE_MAX)
        self.gateway = Gateway(self, self.medium, snapshot_rows, settings)
        self.gateway.start()

    def crash_now_and_then(self, mean_s: float, until_s: float) -> None:
        at_s = self.rng.expovariate(1 / mean_s)
        while at_s < until_s:
            power_cut = self.rng.random() < 0.3
            self.clock.at(int(at_s * SECOND), lambda cut=power_cut: self._crash(cut))
            at_s += 25 + self.rng.expovariate(1 / mean_s)

    def _crash(self, power_cut: bool) -> None:
        self.gateway.die(self.rng, power_cut)

    def run(self, until_s: float) -> None:
        self.clock.run(int(until_s * SECOND))

    def settle(self, within_s: float) -> None:
        """Faults end, and all that the wearables still hold comes in."""
        for air in self.airs:
            air.heal()
        until_ns = self.clock.now_ns + int(within_s * SECOND)
        while self.clock.now_ns < until_ns and not all(air.worn.drained() for air in self.airs):
            self.clock.run(self.clock.now_ns + 5 * SECOND)
        self.clock.run(self.clock.now_ns + 30 * SECOND)
