"""A gateway over its lives: the daemon's rooms, joined as the daemon joins them, on the virtual clock and real SQLite.

Played are only the shells: the radio's (`SparseCentral`), the writer's thread (`InlineWriter`), the interpreter, the
MQTT session, and the process itself, which a crash ends at any event of the virtual clock.
"""

import asyncio
import random
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gateway.clock import Instant
from gateway.config import Config
from gateway.daemon import (
    CLOCK_STEP_NS,
    CLOCK_UNCERTAINTY_NS,
    FULL_ROOM_BYTES,
    STOP_COMMIT_S,
    STOP_PUBLISH_S,
    Loaded,
    make_room,
    open_pipeline,
)
from gateway.pipeline import Pipeline
from gateway.profiles.conversation import Kind
from gateway.store import Committed, Store
from gateway.store.batch import Batch
from gateway.store.errors import StoreFull
from gateway.store.rows import Checkpoint, Cursor, Derived, JournalRow, Parked
from gateway.store.trimming import read_dropped
from gateway.stream.outcome import Model, clock_event
from gateway.sync import Publisher
from gateway.sync.lanes import RANGES_MAX
from tests.sim.whole.broker import BrokerEnd
from tests.sim.whole.clock import SimulatedClock
from tests.sim.whole.disk import InlineWriter, crash, events_after, journal_after
from tests.sim.whole.loop import VirtualLoop
from tests.sim.whole.model import LABELS, answer
from tests.sim.whole.oracle import Ledger
from tests.sim.whole.wearables import RATE_HZ, SparseCentral
from tests.sim.world import SECOND

WINDOW_MAX = 1000
TICK_S, TRIM_EVERY_S = 15.0, 600.0
"""The daemon looks around every second and trims every minute; without bounds nothing here depends on how often."""


@dataclass(frozen=True)
class Terms:
    """What of a gateway's configuration differs from seed to seed."""

    store: dict[str, Any]
    stream: dict[str, Any]
    sync: dict[str, Any]
    window: int
    hop: int
    shared: bool
    in_flight_max: int
    bounds: dict[str, Any] = field(default_factory=dict)
    """Of the store."""


class Witness:
    """What a gateway has on its medium, has sent and has had answered: kept beside it, over its lives."""

    def __init__(self) -> None:
        self.ledgers: dict[str, Ledger] = {}
        self.row = 0
        self.seqs: dict[bytes, int] = {}
        """Of the events on the medium, by payload."""
        self.kinds: dict[int, str] = {}
        self.sent: set[int] = set()
        self.answered: set[int] = set()
        self.counts: Counter[str] = Counter()

    def row_landed(self, row: JournalRow) -> None:
        assert row.row > self.row
        self.row = row.row
        self.ledgers.setdefault(row.wearable, Ledger()).land(row)

    def event_landed(self, payload: bytes) -> None:
        assert payload not in self.seqs, "an event was committed twice"
        self.seqs[payload] = len(self.seqs) + 1

    def sending(self, payload: bytes, lane: dict[str, int], replayed: bool, state: bool) -> None:
        """lane: of this connection, the newest event that has left for the first time, live and replayed. state: the
        latest of a topic goes before the others, in no order."""
        assert payload in self.seqs, "sent before it was on the medium"
        seq = self.seqs[payload]
        if seq in self.sent:
            self.counts["sent again"] += 1
        else:
            self.sent.add(seq)
            which = "replayed" if replayed else "live"
            if not state:
                assert seq > lane.get(which, 0), f"event {seq} leaves for the first time after {lane[which]}, {which}"
                lane[which] = seq
        self.counts["replayed" if replayed else "live"] += 1

    def answer(self, payload: bytes) -> None:
        self.answered.add(self.seqs[payload])


class Watched(InlineWriter):
    """The writer, and what must hold of all that is submitted to it."""

    witness: Witness

    def cursor(self, cursor: Cursor, checkpoints: Sequence[Checkpoint] | None = None) -> None:
        assert len(cursor.beyond) <= RANGES_MAX + WINDOW_MAX
        super().cursor(cursor, checkpoints)

    def journal(self, wearable: str, kind: str, payload: bytes, at: Instant) -> int:
        row = super().journal(wearable, kind, payload, at)
        assert self._batch.bytes + self._committing_bytes <= 3 * self._settings.queue_bytes_max
        return row

    def park(self, parked: Parked) -> None:
        self.witness.counts["refused" if parked.reason else "taken after all"] += 1
        super().park(parked)


@dataclass
class Parts:
    """Which classes a gateway is made of: a test may give one that is broken."""

    writer: type[Watched] = Watched
    publisher: type[Publisher] = Publisher
    open_pipeline: Callable[..., Pipeline] = open_pipeline


class Life:
    """One process, from its start to its end. `gateway` in the sense of SparseCentral."""

    def __init__(self, gateway: "Gateway", path: Path) -> None:
        self.gateway, self.world, self.clock = gateway, gateway.world, gateway.clock
        self.rng = random.Random(f"{gateway.seed}/life/{gateway.lives}")
        self.loop = VirtualLoop(self.world.clock, self.rng)
        self.config = gateway.config(path)
        self.store = Store.open(self.config.store, destinations=[self.config.sync.destination])
        self.writer = gateway.parts.writer(
            self.store, self.world.clock, self.rng, self._committed, self._said, self._landed
        )
        self.writer.witness = gateway.witness
        if gateway.disk_full:
            self.writer.fill_disk(True)
        self.pipelines: dict[str, Pipeline] = {}
        self.centrals: dict[str, SparseCentral] = {}
        self.full: set[str] = set()
        self._offset_ns: int | None = None
        self._trimmed_ns = self.clock.mono_ns()
        self.stopping = False
        asyncio._set_running_loop(self.loop)
        try:
            for settings in self.config.wearables:
                self.pipelines[settings.id] = gateway.parts.open_pipeline(
                    self.config, settings, gateway.loaded, self.store, self.writer, self._infer
                )
            witness = gateway.witness
            end = BrokerEnd(
                self.world.broker,
                gateway.name,
                self.loop,
                gateway.terms.in_flight_max,
                witness.sending,
                witness.answer,
            )
            self.publisher = gateway.parts.publisher(
                self.config.sync, gateway.name, self.store, self.writer, self.clock, broker=end, rng=self.rng
            )
            for name in self.pipelines:
                self._listen(name)
            works = (self.publisher.run(), *(p.run() for p in self.pipelines.values()), self._watch())
            self.tasks = [self.loop.create_task(work) for work in works]
        finally:
            asyncio._set_running_loop(None)

    def mono_ns(self) -> int:
        return self.clock.mono_ns()

    def _listen(self, name: str) -> None:
        central = SparseCentral(self, self.world.airs[name], self.pipelines[name], self.gateway.name)
        self.centrals[name] = central
        self.pipelines[name].attach(central.tell)

    async def _infer(self, windows: np.ndarray) -> np.ndarray:
        return await self.loop.run_in_executor(None, lambda: np.stack([answer(window) for window in windows]))

    def observe(self, central: SparseCentral, kind: Kind, payload: bytes) -> None:
        name = central.pipeline.wearable
        if name in self.full or self.stopping:
            return
        try:
            central.pipeline.observe(kind, payload, self.clock.now())
        except StoreFull:
            self.gateway.witness.counts["store full"] += 1
            self.full.add(name)
            central.kill()

    def _committed(self, committed: Committed) -> None:
        for pipeline in self.pipelines.values():
            pipeline.committed(committed.journal_row)
        if self.full and self.writer.room() >= FULL_ROOM_BYTES and not self.stopping:
            for name in sorted(self.full):
                self.full.discard(name)
                self._listen(name)
        self.publisher.committed(committed.event_seq)

    def _said(self, trouble: str | None) -> None:
        if trouble:
            self.gateway.witness.counts["commits failed"] += 1

    def _landed(self, batch: Batch) -> None:
        witness = self.gateway.witness
        for row in batch.journal:
            witness.row_landed(row)
        for event in batch.events:
            witness.event_landed(event.payload)
        self.world.trace("commit", self.gateway.name, len(batch.journal), len(batch.events))

    async def _watch(self) -> None:
        while True:
            now = self.clock.now()
            self._tell_clock(now)
            for name, pipeline in self.pipelines.items():
                if name not in self.full and not self.stopping:
                    with suppress(StoreFull):
                        pipeline.pass_time(now)
            every_s = TRIM_EVERY_S / 10 if self.gateway.terms.bounds else TRIM_EVERY_S
            if now.mono_ns - self._trimmed_ns >= every_s * SECOND:
                self._trimmed_ns = now.mono_ns
                make_room(self.writer, self.pipelines.values(), now)
            await asyncio.sleep(TICK_S)

    def _tell_clock(self, now: Instant) -> None:
        offset_ns = now.utc_ns - now.mono_ns
        known_ns = self._offset_ns
        if now.utc_synced and (known_ns is None or abs(offset_ns - known_ns) >= CLOCK_STEP_NS):
            self._offset_ns = offset_ns
            event = clock_event(self.gateway.name, now, CLOCK_UNCERTAINTY_NS)
            self.writer.derived(Derived(None, events=(event,)))

    async def stop(self) -> None:
        """As the daemon does at SIGTERM."""
        for central in self.centrals.values():
            central.kill()
        self.stopping = True
        for pipeline in self.pipelines.values():
            await pipeline.drain()
            pipeline.take_snapshot()
            await pipeline.drain()
        await self._flushed()
        await self.publisher.stop(STOP_PUBLISH_S)
        await self._flushed()

    async def _flushed(self) -> None:
        until_s = self.loop.time() + STOP_COMMIT_S
        while (self.writer.under_way is not None or self.writer._batch) and self.loop.time() < until_s:
            self.writer.hurry()
            await asyncio.sleep(0.05)

    def abandon(self) -> None:
        self.loop.abandoned = self.writer.dead = True
        for central in self.centrals.values():
            central.kill()
            central.air.centrals.pop(self.gateway.name, None)

    def check(self) -> None:
        for task in self.tasks:
            if task.done() and not task.cancelled():
                task.result()
        assert not self.loop.unhandled, self.loop.unhandled
        faults = [p.shown.faults for p in self.pipelines.values() if p.shown.faults.get("underivable")]
        assert not faults, faults


class Gateway:
    def __init__(self, world: Any, name: str, terms: Terms, folder: Path, seed: str, parts: Parts) -> None:
        self.world, self.name, self.terms, self.parts = world, name, terms, parts
        self.folder, self.seed = folder, f"{seed}/{name}"
        self.rng = random.Random(f"{self.seed}/gateway")
        self.clock = SimulatedClock(world.clock, name)
        self.witness = Witness()
        self.lives = 0
        self.disk_full = False
        self.life: Life | None = None
        model = Model("ab" * 32, "float32", LABELS, terms.window, terms.hop, RATE_HZ)
        self.loaded = Loaded(None, None, model, list(range(6)), {}, None)  # type: ignore[arg-type]
        self.path = folder / "0" / "gateway.db"
        self.path.parent.mkdir(parents=True)

    def config(self, path: Path) -> Config:
        terms = self.terms
        config = Config.model_validate(
            {
                "gateway": {"id": self.name, "state_dir": path.parent},
                "bundle": {"path": self.folder},
                "stream": terms.stream,
                "drift": {"period_s": 3600},
                "store": {**terms.store, "path": path},
                "sync": {**terms.sync, "host": "broker"},
                "wearable": [
                    {
                        "id": name,
                        "address": f"C0:FF:EE:00:00:{number + 1:02X}",
                        "mounting": "x,y,z",
                        "wearer": f"wearer-{name}",
                        "shared": terms.shared,
                    }
                    for number, name in enumerate(self.world.airs)
                ],
            }
        )
        # far below what may be configured: an hour of play makes little
        return config.model_copy(update={"store": config.store.model_copy(update=terms.bounds)})

    def dropped(self, wearable: str) -> int:
        """Predictions that its store says it had to drop, though the broker had not acknowledged them."""
        assert self.life is not None
        found = read_dropped(self.life.store.connection)
        return sum(one.count for one in found if (one.kind, one.wearable) == ("prediction", wearable))

    def start(self) -> None:
        if self.life is None:
            self.lives += 1
            self.life = Life(self, self.path)
            self.world.trace("start", self.name, self.lives)

    def crash(self, power_cut: bool) -> None:
        """At this very event; what is on the medium then is what the next life finds."""
        life = self.life
        if life is None:
            return
        self.life = None
        life.abandon()
        life.check()
        old, self.path = self.path, self.folder / str(self.lives) / "gateway.db"
        what = crash(life.writer, self.path, power_cut=power_cut)
        life.store.close()
        shutil.rmtree(old.parent)
        self._recover()
        self.witness.counts["power cuts" if power_cut else "kills"] += 1
        self.witness.counts[f"commit under way: {what}"] += 1
        self.world.trace("crash", self.name, power_cut, what)
        self.end_of_life(power_cut)

    def _recover(self) -> None:
        """What the medium holds that nobody was told of."""
        witness = self.witness
        for row, wearable, kind, payload, boot_id, mono_ns, utc_ns, synced in journal_after(self.path, witness.row):
            witness.row_landed(
                JournalRow(row, wearable, kind, payload, Instant(boot_id, mono_ns, utc_ns, bool(synced)))
            )
        for _, _, _, payload in events_after(self.path, len(witness.seqs)):
            witness.event_landed(payload)

    def end_of_life(self, power_cut: bool) -> None:
        if power_cut:  # no battery: the clock goes on from anywhere, until something sets it
            wrong = self.rng.choice([0, -50, 50]) * 365 * 86_400 * SECOND
            self.clock.reboot(wrong + int(self.rng.uniform(-3600, 0) * SECOND), False)
            boot = self.clock._boot
            self.world.clock.after(
                self.rng.uniform(1, 900) * SECOND,
                lambda: self.clock.step(0, True) if boot == self.clock._boot else None,
            )
        self.world.clock.after(self.rng.uniform(0.5, 60) * SECOND, self.start)

    def stop(self) -> None:
        """An orderly end, and a start some time later."""
        life = self.life
        if life is None or life.stopping:
            return

        async def stop() -> None:
            await life.stop()
            self._stopped(life)

        life.loop.call_soon(lambda: life.loop.create_task(stop()))

    def _stopped(self, life: Life) -> None:
        if self.life is not life:  # it crashed meanwhile
            return
        self.life = None
        life.abandon()
        life.check()
        life.store.close()
        self._recover()
        self.witness.counts["orderly stops"] += 1
        self.world.clock.after(self.rng.uniform(0.5, 60) * SECOND, self.start)

    def fill_disk(self, full: bool) -> None:
        self.disk_full = full
        if self.life is not None:
            self.life.writer.fill_disk(full)

    def idle(self) -> bool:
        life = self.life
        return life is not None and not life.stopping and life.publisher.waiting == 0 and life.publisher.refused == 0
