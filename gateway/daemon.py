"""The composition root: the only place that constructs rooms and joins them.

Each wearable has a pipeline (journal, stream, inference, events) and a link runner; all share one writer thread, one
interpreter thread, one radio and one publisher. A broker or a radio that is away stops none of the others.
"""

import asyncio
import functools
import json
import logging
import os
import signal
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gateway.ble import open_keys, open_radios
from gateway.ble.bonds import Admission, Records
from gateway.ble.radio import Radio
from gateway.ble.radios import Radios
from gateway.ble.runner import LinkRunner
from gateway.bundle import Bundle, load_bundle
from gateway.clock import Clock, Instant
from gateway.commands import LINKED, Commands, is_forgotten, listed_of
from gateway.config import BundleSettings, Config, WearableSettings
from gateway.control.rescored import Rescored, acceptable
from gateway.errors import GatewayError, InputRejected
from gateway.events import GatewayState
from gateway.health import Facts, LinkFacts, ServiceManager, Verdict, judge, watchdog_interval_s
from gateway.inference import Predictor, load_predictor, self_test
from gateway.link.bonds import FORGOTTEN, may_pair_by_itself
from gateway.link.rules import State
from gateway.link.trouble import WHY_MAX, Obstacle, Patience, Trouble
from gateway.local import LocalServer, SocketRefused
from gateway.monitoring.drift import Reference
from gateway.monitoring.gravity import GravityReference
from gateway.motion.axes import parse_axes
from gateway.motion.channels import columns_of
from gateway.motion.samples import Float32
from gateway.motion.windows import WindowShape
from gateway.pipeline import Infer, Pipeline
from gateway.profiles import details, profile_of, speaks
from gateway.profiles.conversation import Kind, TellsWithoutService, held_of
from gateway.store import Committed, Committer, Store, Writer
from gateway.store.batch import ROW_OVERHEAD_BYTES
from gateway.store.errors import StoreFull
from gateway.store.rows import Derived, StreamRecord
from gateway.store.telling import Telling, report_of
from gateway.stream.arrival import ArrivalRate
from gateway.stream.coalescing import span_of
from gateway.stream.outcome import EventMaker, Model, clock_event, derivation_digest, store_event
from gateway.stream.progress import Progress
from gateway.stream.stream import SNAPSHOT_VERSION, Stream, decoder_state
from gateway.sync import publisher_of

log = logging.getLogger(__name__)

ANSWER_ALIKE = {"snapshot_rows", "coalesce_s", "coalesce_wait_s"}
"""Settings of a stream with which windows have the same answers, so that their derivation is the same."""
TICK_S = 1.0
"""Status, health, the clock and the watchdog are looked at so often."""
FULL_ROOM_BYTES = 1 << 15
"""A wearable that was left alone because the store was full is taken up again once there is so much room."""
TRIM_EVERY_NS = 60 * 10**9
"""Rows that nobody needs any more are deleted so often, a bounded number each time."""
UNREADABLE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What comes of a snapshot or progress that is not what was written."""
MEND_S = 3600
"""A damaged database is read as a whole, and what can be read is written anew: 3 GB, on a slow card."""
STOP_LINKS_S = 5.0
"""A clean disconnect on BlueZ takes 2 s."""
STOP_COMMIT_S = 5.0
"""For a slow card. Where it does not go through, wearables still hold what was not acknowledged to them."""
STOP_PUBLISH_S = 3.0
"""For the farewell and what is in flight; what is left is sent at the next start."""
TELLS_WHY = ("closing", "backing off", "quarantined")
"""States of a link that something has led to."""
UNHEARD_S = 60.0
"""A wearable that advertises is heard within seconds; one that is configured and not heard for so long is told."""
CLOCK_STEP_NS = 500_000_000
"""UTC that has moved so far against monotonic time is told anew."""
CLOCK_UNCERTAINTY_NS = 100_000_000
"""Of a clock that the kernel calls synchronized: NTP over the Internet is within tens of ms (RFC 5905, 1)."""


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """A bundle's variant, ready to answer. columns: of the stream's six, those that its model takes, in its order."""

    bundle: Bundle
    predictor: Predictor
    model: Model
    columns: list[int]
    reference: Mapping[str, Reference]
    gravity: GravityReference | None

    def answer(self, windows: Float32) -> Float32:
        """(n, length, 6), of which the model gets its own channels."""
        return self.predictor.predict(windows[..., self.columns])


def load_bundles(config: Config) -> dict[BundleSettings, Loaded]:
    """What the wearables ask for; the same variant of the same bundle, whoever names it, is loaded and tested once.

    Raises GatewayError.
    """
    found: dict[BundleSettings, Loaded] = {}
    known: dict[tuple[str, str], Loaded] = {}
    for settings in config.bundles():
        bundle = load_bundle(settings.path)
        name, _ = bundle.variant(settings.variant)
        if (bundle.digest, name) not in known:
            known[bundle.digest, name] = load_variant(bundle, name)
        found[settings] = known[bundle.digest, name]
    return found


def load_variant(bundle: Bundle, name: str) -> Loaded:
    """Its interpreter, whose answers the bundle's self-test has found right. Raises GatewayError."""
    manifest = bundle.manifest
    columns = columns_of(manifest.channels, manifest.units, where=f"bundle {bundle.path}")
    predictor = load_predictor(bundle, name)
    self_test(predictor, bundle, name)
    features = manifest.drift_reference or {}
    reference = {name: Reference.of(feature.model_dump()) for name, feature in features.items()}
    return Loaded(bundle, predictor, model_of(bundle, name), columns, reference, GravityReference.of(features))


def model_of(bundle: Bundle, name: str) -> Model:
    """name: of its variant."""
    manifest = bundle.manifest
    return Model(
        bundle=bundle.digest,
        variant=name,
        labels=manifest.labels,
        window=manifest.window,
        hop=manifest.hop,
        rate_hz=manifest.rate_hz,
        wrist=manifest.wrist,
    )


class Wearable:
    """One wearable's pipeline and link, for the daemon's whole life."""

    def __init__(
        self,
        settings: WearableSettings,
        model: Model,
        pipeline: Pipeline,
        writer: Writer,
        clock: Clock,
        records: Records,
    ) -> None:
        self.settings = settings
        self.model = model
        self.pipeline = pipeline
        self.runner: LinkRunner | None = None
        self._rate = ArrivalRate()
        self._writer, self._clock = writer, clock
        self._profile = profile_of(settings.profile)
        self.refusal: str | None = None
        """Why it is not connected for what is known of its bond."""
        self._records = records
        self._patience = Patience()
        self._full = asyncio.Event()
        self._pauses: set[object] = set()
        self._paused, self._going, self._idle = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._going.set()
        self.bond_changed()

    @property
    def link(self) -> str:
        return self.runner.state if self.runner else "stopped"

    def pause(self, why: object) -> None:
        """Its link is ended, and none begun until every reason is gone (`resume`)."""
        self._pauses.add(why)
        self._paused.set()
        self._going.clear()

    def resume(self, why: object) -> None:
        self._pauses.discard(why)
        if not self._pauses:
            self._paused.clear()
            self._going.set()

    def retry(self) -> bool:
        """Tries it at once; whether it waited for its next attempt."""
        if self.runner is None or self.runner.state not in ("quarantined", "backing off"):
            return False
        self.runner.release()
        return True

    @asynccontextmanager
    async def aside(self) -> AsyncIterator[None]:
        why = object()  # each command's own: two may hold it at a time
        self.pause(why)
        try:
            await self._idle.wait()
            yield
        finally:
            self.resume(why)

    def bond_changed(self) -> None:
        if is_forgotten(self._records, self.settings):
            self.refusal = FORGOTTEN.format(name=self.settings.id)
            self.pause("forgotten")
        else:
            self.refusal = None
            self.resume("forgotten")

    def link_up(self, radio: Radio | Radios, speed: float) -> None:
        """A runner with a conversation that knows what the journal holds."""
        self._full.clear()
        self.runner = LinkRunner(
            self.settings.address,
            details.with_details(self._profile.conversation(self.pipeline.stream.coverage())),
            radio,
            services=[self._profile.service_uuid, *details.SERVICES],
            silence_s=self._profile.silence_s,
            now_ns=self._clock.mono_ns,
            real_delay_s=lambda span_ns: span_ns / 1e9 / speed,
            observe=self._observe,
            on_state=self._state,
            on_fault=self._fault,
            held=functools.partial(held_of, self._profile),
            shared=self.settings.shared,
            admission=Admission(self._records, listed_of(self.settings)),
        )
        self.pipeline.attach(self.runner.deliver)

    def _observe(self, kind: Kind, payload: bytes) -> None:
        if self._full.is_set():
            return
        now = self._clock.now()
        try:
            self.pipeline.observe(kind, payload, now)
        except StoreFull as full:
            log.warning("%s: %s; its samples stay on it", self.settings.id, full)
            self._full.set()
            self.pause("full")
        else:
            self._rate.observe(now.mono_ns, self.pipeline.stream.moments)

    def pass_time(self, now: Instant) -> None:
        with suppress(StoreFull):  # it is told where samples come
            self.pipeline.pass_time(now)

    def _state(self, state: str) -> None:
        why = f" ({self.runner.why})" if self.runner is not None and state in TELLS_WHY else ""
        log.info("%s: %s%s", self.settings.id, state, why)
        if state == State.CONFIGURING:
            self.refusal = None

    def _fault(self, name: str, detail: str) -> None:
        faults = self.pipeline.shown.faults
        faults[name] = faults.get(name, 0) + 1
        match name:
            case "other_profile":
                asked = f"is profile {self.settings.profile!r} the right one for it?"
                needs = isinstance(self._profile, TellsWithoutService) and self._profile.without_service
                hint = f"{asked} If so: {needs}" if needs else asked
                log.warning("%s (%s): %s; %s", self.settings.id, self.settings.address, detail, hint)
            case "bond_refused":
                if detail != self.refusal:
                    log.warning("%s (%s): %s", self.settings.id, self.settings.address, detail)
                self.refusal = detail
            case "duplicate":
                log.debug("%s: %s: %s", self.settings.id, name, detail)
            case _:
                log.info("%s: %s: %s", self.settings.id, name, detail)

    async def run(self, radio: Radio | Radios, speed: float) -> None:
        """The link until cancelled. When the store is full the wearable keeps its samples, and is asked again later."""
        while True:
            assert self.runner is not None
            if not self._pauses:
                running = asyncio.create_task(self.runner.run())
                try:
                    await self._paused.wait()
                    await self.runner.stop()
                finally:
                    running.cancel()
            self._idle.set()
            await self._going.wait()
            self._idle.clear()
            self.link_up(radio, speed)

    def committed(self, row: int) -> None:
        self.pipeline.committed(row)
        if "full" in self._pauses and self._writer.room() >= FULL_ROOM_BYTES:
            self.resume("full")

    @property
    def obstacle(self) -> str:
        """What keeps it from being connected, and until when; empty where nothing does."""
        if self.runner is None:
            return self.refusal or ""
        waits = self.runner.retry_s is not None
        return self.runner.obstacle if waits or self.refusal is None else self.refusal

    def doubt(self) -> str | None:
        """Why its answers should not be relied on, as far as time has shown it."""
        fits = self.pipeline.stream.mounting_fits
        if fits is None:
            return None
        return f"gravity contradicts its mounting {self.settings.mounting}; {fits} would fit better"

    def tell_trouble(self, now_s: float) -> None:
        """Publishes what keeps it from being connected, once that has lasted. now_s: of the loop."""
        trouble, detail = self._trouble(), self.pipeline.stream.detail
        told = Trouble(Obstacle(detail.trouble), detail.trouble_why or "") if detail.trouble else None
        if self._patience.is_due(trouble, told, now_s):
            row = details.trouble(trouble.obstacle, trouble.why) if trouble is not None else details.trouble("", "")
            self._observe(Kind.DETAIL, row)

    def _trouble(self) -> Trouble | None:
        """The wearable's address, by which people could be followed, stays here."""
        if self.runner is None or self.link in LINKED:
            return None
        found = Trouble(Obstacle.REFUSED, self.refusal) if self.refusal is not None else self.runner.trouble
        if found is None:
            return None
        why, address = found.why, self.settings.address
        for written in (address, address.replace(":", "_")):
            why = why.replace(written, self.settings.id)
        return Trouble(found.obstacle, " ".join(why.split())[:WHY_MAX])

    def status(self) -> dict[str, Any]:
        stream, shown, runner = self.pipeline.stream, self.pipeline.shown, self.runner
        return {
            "link": self.link,
            "refused": self.refusal,
            "why": runner.why if runner else "",
            "adapter": runner.adapter if runner else None,
            "retry_s": round(retry_s) if runner and (retry_s := runner.retry_s) is not None else None,
            "rssi_dbm": runner.rssi_dbm if runner else None,
            "rate_hz": round(self._rate.hz(self._clock.mono_ns()), 1),
            "bundle": {"digest": self.model.bundle, "variant": self.model.variant},
            "activity": shown.answer.activity if shown.answer else None,
            "probability": shown.answer.confidence if shown.answer else None,
            "uncertain": list(shown.answer.reasons) if shown.answer else [],
            "windows": stream.counters.windows,
            "windows_broken": stream.counters.broken,
            "samples_lost": stream.counters.lost_samples,
            "lost_by_reason": dict(stream.counters.lost_by_reason),
            "lost_estimated": stream.counters.lost_estimated,
            "samples_elsewhere": stream.counters.elsewhere_samples,
            "frames_malformed": stream.counters.malformed,
            "ring_held": stream.device.ring_held if stream.device else None,
            "ring_capacity": stream.device.ring_capacity if stream.device else None,
            "worn": stream.worn,
            "mounting": stream.mounting_verdict.verdict if stream.mounting_verdict else None,
            "battery_percent": stream.device.battery_percent if stream.device else None,
            "faults": dict(shown.faults),
        }


def unheard_lines(unheard: Sequence[WearableSettings], radio: Radio | Radios) -> list[str]:
    """A sentence for each of these wearables, with those near it that speak its profile and are configured nowhere."""
    lines = []
    for settings in unheard:
        profile = profile_of(settings.profile)
        near = [one for one in radio.strangers() if speaks(profile, one.name, one.services)]
        others = ", ".join(f"{one.address} ({one.name})" if one.name else one.address for one in near)
        lines.append(
            f"{settings.id} ({settings.address}): not heard for {UNHEARD_S:g} s; is it switched on, near, connected to "
            f"nothing else, and the address right?" + (f" Of its profile there is {others}." if others else "")
        )
    return lines


def make_room(writer: Committer, pipelines: Iterable[Pipeline], now: Instant) -> None:
    """Trims. Where no backlog is taken, snapshots go before: what none covers is not deleted, and as long as nothing
    comes none would be due."""
    if not writer.fill.fetches:
        for pipeline in pipelines:
            pipeline.take_snapshot()
    writer.trim(now)


def open_pipeline(
    config: Config, settings: WearableSettings, loaded: Loaded, store: Store, writer: Committer, infer: Infer
) -> Pipeline:
    """From its snapshot and the journal since; what was committed since the snapshot is known and not repeated.

    Raises SnapshotTooNew.
    """
    record = store.stream(settings.id) or StreamRecord(settings.id, 0, 0, b"", b"")
    if record.snapshot and record.snapshot_version > SNAPSHOT_VERSION:
        raise SnapshotTooNew(settings.id, record.snapshot_version)
    try:
        progress = Progress.decode(record.progress)
    except UNREADABLE as error:  # the medium: a restart would read the same
        log.warning("%s: what had been committed of it cannot be read, and may be repeated: %r", settings.id, error)
        progress = Progress()
    try:
        pipeline = _restored(config, settings, loaded, writer, infer, record, progress)
    except UNREADABLE as error:
        log.warning(
            "%s: its snapshot cannot be read; the journal is derived from its beginning: %r", settings.id, error
        )
        record = replace(record, snapshot=b"", snapshot_row=0)
        pipeline = _restored(config, settings, loaded, writer, infer, record, progress)
    pipeline.replay(store.journal_after(settings.id, pipeline.stream.row))
    return pipeline


def _restored(
    config: Config,
    settings: WearableSettings,
    loaded: Loaded,
    writer: Committer,
    infer: Infer,
    record: StreamRecord,
    progress: Progress,
) -> Pipeline:
    """As of the record's snapshot."""
    model, snapshot = loaded.model, record.snapshot
    stream = new_stream(config, settings, loaded, decoder_state(snapshot) if snapshot else None, progress)
    if snapshot:
        stream.restore(record.snapshot_row, snapshot)
    pipeline = Pipeline(
        wearable=settings.id,
        stream=stream,
        progress=progress,
        events=event_maker(config, settings, model),
        writer=writer,
        infer=infer,
        snapshot_rows=config.stream.snapshot_rows,
        span=span_of(config.stream.coalesce_s, model.hop / model.rate_hz),
    )
    if snapshot:
        pipeline.restore(snapshot)
    return pipeline


def new_stream(
    config: Config,
    settings: WearableSettings,
    loaded: Loaded,
    decoder: dict[str, object] | None,
    progress: Progress,
) -> Stream:
    """At its beginning. decoder: the state of its decoder, None at the beginning too."""
    profile, model = profile_of(settings.profile), loaded.model
    return Stream(
        decoder=profile.decoder(decoder),
        rate_hz=model.rate_hz,
        native_rate_hz=profile.rate_hz,
        sensor_frame=profile.sensor_frame,
        shape=WindowShape(model.window, model.hop),
        settings=config.stream,
        drift=config.drift,
        reference=loaded.reference,
        mounting=parse_axes(settings.mounting) if settings.mounting else None,
        gravity=loaded.gravity,
        progress=progress,
    )


def event_maker(config: Config, settings: WearableSettings, model: Model) -> EventMaker:
    """Of what this model says of this wearable."""
    matters = {**config.stream.model_dump(exclude=ANSWER_ALIKE), "mounting": settings.mounting}
    if model.learnt_elsewhere(settings.wrist):
        matters["other_wrist"] = True
    return EventMaker(
        gateway=config.gateway.id,
        wearable=settings.id,
        wearer=settings.wearer,
        model=model,
        derivation=derivation_digest(model, matters),
        frame_known=settings.mounting is not None,
        wrist=settings.wrist,
        counted=getattr(profile_of(settings.profile), "counts_samples", True),
        shared=settings.shared,
    )


class Daemon:
    """Everything of one run. Made by run_daemon; `run` returns after SIGTERM or SIGINT."""

    def __init__(self, config: Config, clock: Clock, bundles: Mapping[BundleSettings, Loaded], store: Store) -> None:
        """bundles: as load_bundles gives them for this configuration."""
        self.config, self.clock, self.store = config, clock, store
        self.loop = asyncio.get_running_loop()
        self.interpreter = ThreadPoolExecutor(1, "interpreter")
        self.store_fault: str | None = None
        self.writer = Writer(store, self.loop, self._committed, self._store_said)
        self._telling = Telling(store.findings, self.writer.fill.dropped)
        for found in store.findings:
            log.warning("store: %s", found)
        self.records = Records(config.bonds_file)
        self.wearables = [
            self._wearable(settings, bundles[config.bundle_of(settings)]) for settings in config.wearables
        ]
        self.radio = open_radios(
            config.radio.backend,
            config.radio.names,
            wearables_max=config.radio.wearables_max,
            just_works=[
                wearable.address
                for wearable in config.wearables
                if may_pair_by_itself(self.records.of(wearable.id, wearable.address), wearable.allow_just_works)
            ],
            keys=open_keys(config.radio.backend, config.keys_file),
            legacy=config.radio.secure_connections != "only",
            only={wearable.address: wearable.adapter for wearable in config.wearables if wearable.adapter},
        )
        self.publisher = publisher_of(config.sync, config.gateway.id, store, self.writer, clock)
        self._clock_offset_ns: int | None = None
        self._trimmed_ns = clock.mono_ns()
        self._listening_since_s: float | None = None
        self._unheard_told = False
        self._status_failing = False
        self._manager = ServiceManager()
        commands = Commands(
            config, self.radio, self.records, self.wearables, self._status, self._append, self.publisher
        )
        self.local = LocalServer(config.socket, commands.operations(), config.local.group)

    def _wearable(self, settings: WearableSettings, loaded: Loaded) -> Wearable:
        pipeline = open_pipeline(self.config, settings, loaded, self.store, self.writer, self._infer_with(loaded))
        return Wearable(settings, loaded.model, pipeline, self.writer, self.clock, self.records)

    def _infer_with(self, loaded: Loaded) -> Infer:
        async def infer(windows: Float32) -> Float32:
            return await self.loop.run_in_executor(self.interpreter, loaded.answer, windows)

        return infer

    def _committed(self, committed: Committed) -> None:
        for wearable in self.wearables:
            wearable.committed(committed.journal_row)
        self.publisher.committed(committed.event_seq)

    async def _append(self, rescored: Sequence[Rescored]) -> int:
        """Predictions by another model, to the log. Raises InputRejected, StoreFull."""
        live = {w.settings.id: event_maker(self.config, w.settings, w.model).derivation for w in self.wearables}
        taken = acceptable(rescored, self.config.gateway.id, live)
        free, needed = self.writer.room(), sum(len(event.payload) + ROW_OVERHEAD_BYTES for event in taken)
        if needed > free:
            raise StoreFull(self.config.store.queue_bytes_max - free, self.config.store.queue_bytes_max)
        self.writer.derived(Derived(None, events=tuple(taken)))
        await self.writer.flush()
        return len(taken)

    def _store_said(self, trouble: str | None) -> None:
        self.store_fault = trouble
        log.log(logging.WARNING if trouble else logging.INFO, "store: %s", trouble or "writes again")

    async def run(self, status_file: Path | None) -> None:
        """Until SIGTERM or SIGINT; then stops collecting, commits, and says farewell to the broker."""
        stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            self.loop.add_signal_handler(number, stopping.set)
        self.loop.add_signal_handler(signal.SIGUSR1, self._release)
        try:
            await self.local.start()
        except SocketRefused as refused:  # all else works without it
            log.warning("no command reaches this daemon: %s", refused)
        speed = self.clock.speed
        for wearable in self.wearables:
            wearable.link_up(self.radio, speed)
        publishing = asyncio.create_task(self.publisher.run())
        publishing.add_done_callback(lambda _: stopping.set())  # it ends by itself only through a fault of its own
        async with asyncio.TaskGroup() as tasks:
            working = [
                tasks.create_task(work)
                for work in (
                    self.radio.run(),
                    self._watch(status_file),
                    *(w.run(self.radio, speed) for w in self.wearables),
                    *(w.pipeline.run() for w in self.wearables),
                )
            ]
            self._manager.ready()
            log.info("collecting from %d wearables", len(self.wearables))
            await stopping.wait()
            self._manager.stopping()
            await self.local.stop()
            await self._stop_links()
            for task in working:
                task.cancel()
        for wearable in self.wearables:
            await wearable.pipeline.drain()
            wearable.pipeline.take_snapshot()
            await wearable.pipeline.drain()
        try:
            async with asyncio.timeout(STOP_COMMIT_S):
                await self.writer.flush()
        except TimeoutError:
            log.warning("the last commit does not go through: %s", self.store_fault)
        await self.publisher.stop(STOP_PUBLISH_S)
        publishing.cancel()
        (ended,) = await asyncio.gather(publishing, return_exceptions=True)
        await self.writer.close()
        if status_file is not None:
            self._write_status(status_file)
        log.info("stopped; everything collected is committed")
        if isinstance(ended, Exception):
            raise ended

    def _release(self) -> None:
        """What waits is tried now: the operator has mended something."""
        log.info("SIGUSR1: trying every wearable that is quarantined or backing off")
        for wearable in self.wearables:
            wearable.retry()

    async def _stop_links(self) -> None:
        stops = [asyncio.create_task(w.runner.stop()) for w in self.wearables if w.runner is not None]
        if stops:
            _, late = await asyncio.wait(stops, timeout=STOP_LINKS_S)
            for stop in late:
                stop.cancel()

    async def _watch(self, status_file: Path | None) -> None:
        """Once a second: clock, health, watchdog, status."""
        watchdog_s = watchdog_interval_s()
        while True:
            now = self.clock.now()
            self.writer.check_open()  # a writer that has ended by a fault of its own ends the daemon too
            self.store.check_whole()  # and damage that a reader has found, which the next start mends
            self._tell_clock(now)
            self._tell_store(now)
            for wearable in self.wearables:
                wearable.pass_time(now)
            if now.mono_ns - self._trimmed_ns >= TRIM_EVERY_NS:
                self._trimmed_ns = now.mono_ns
                make_room(self.writer, [wearable.pipeline for wearable in self.wearables], now)
            verdict = self._verdict()
            self._tell_unheard()
            for wearable in self.wearables:
                wearable.tell_trouble(self.loop.time())
            self._manager.status(str(verdict))
            if watchdog_s is not None:
                self._manager.watchdog()
            if status_file is not None:
                self._write_status(status_file)
            await asyncio.sleep(min(TICK_S, watchdog_s or TICK_S))

    def _tell_unheard(self) -> None:
        """Once, after the radio has listened for long enough."""
        if self._unheard_told or not self.radio.available:
            return
        if self._listening_since_s is None:
            self._listening_since_s = self.loop.time()
        elif self.loop.time() - self._listening_since_s >= UNHEARD_S:
            self._unheard_told = True
            unheard = [
                w.settings
                for w in self.wearables
                if w.runner is not None and w.runner.rssi_dbm is None and not w.runner.obstacle
            ]
            for line in unheard_lines(unheard, self.radio):
                log.warning("%s", line)

    def _tell_clock(self, now: Instant) -> None:
        """A clock event for a boot once UTC is trusted, and again when it was set."""
        offset_ns = now.utc_ns - now.mono_ns
        known_ns = self._clock_offset_ns
        if not now.utc_synced or (known_ns is not None and abs(offset_ns - known_ns) < CLOCK_STEP_NS):
            return
        self._clock_offset_ns = offset_ns
        event = clock_event(self.config.gateway.id, now, CLOCK_UNCERTAINTY_NS)
        self.writer.derived(Derived(None, events=(event,)))

    def _tell_store(self, now: Instant) -> None:
        """Its state as an event: once something had to be dropped, once it is full and once it is so no longer."""
        report = self._telling.due(self.writer.fill, now)
        if report is None:
            return
        for line in self._telling.sentences(now):
            log.warning("store: %s", line)
        state = GatewayState(
            status="online",
            start=self.store.start,
            connection=self.publisher.connection,
            version=version("fidget-gateway"),
            store=report,
        )
        event = store_event(self.config.gateway.id, now, state)
        self.writer.derived(Derived(None, events=(event,)))

    def _verdict(self) -> Verdict:
        links = {
            w.settings.id: LinkFacts(w.runner.state, w.runner.collecting, w.obstacle)
            for w in self.wearables
            if w.runner
        }
        doubts = {w.settings.id: doubt for w in self.wearables if (doubt := w.doubt()) is not None}
        return judge(
            Facts(
                radio_fault=None if self.radio.available else self.radio.status,
                radio_trouble=self.radio.trouble,
                store_fault=self.store_fault,
                store_full=not self.writer.fill.takes,
                store_told=tuple(self._telling.sentences(self.clock.now())),
                broker_connected=self.publisher.connected,
                broker=self.publisher.state,
                events_waiting=self.publisher.waiting,
                events_dropped=self.publisher.counters.dropped,
                events_refused=self.publisher.refused,
                refusal=self.publisher.refusal,
                wearables=links,
                doubts=doubts,
            )
        )

    def _status(self) -> dict[str, Any]:
        verdict, now = self._verdict(), self.clock.now()
        return {
            "pid": os.getpid(),
            "gateway": self.config.gateway.id,
            "time_utc_ns": now.utc_ns,
            "time_trusted": now.utc_synced,
            "health": {"level": verdict.level, "reasons": list(verdict.reasons)},
            "radio": self.radio.status,
            "store": self.store_fault or "ok",
            "stored": report_of(self.writer.fill, self.store.findings).model_dump(exclude_none=True),
            "broker": {
                "state": self.publisher.state,
                "connected": self.publisher.connected,
                "protocol": self.publisher.protocol,
            },
            "events": {
                "waiting": self.publisher.waiting,
                "acknowledged": self.publisher.acknowledged,
                "refused": self.publisher.refused,
            },
            "wearables": {w.settings.id: w.status() for w in self.wearables},
        }

    def _write_status(self, file: Path) -> None:
        """Replaced as a whole, so that no reader sees half of it."""
        status = self._status()
        partial = file.with_name(file.name + ".partial")
        try:
            partial.write_text(json.dumps(status, indent=1) + "\n")
            partial.replace(file)
        except OSError as error:  # a full disk must not end the collecting
            if not self._status_failing:
                log.warning("status file %s: %s", file, error.strerror)
            self._status_failing = True
        else:
            self._status_failing = False


class SnapshotTooNew(InputRejected):
    hint = "Run the version that wrote it, or a newer one."

    def __init__(self, wearable: str, version: int) -> None:
        found = f"snapshot version {version}, this program knows up to {SNAPSHOT_VERSION}"
        super().__init__(f"store: {wearable}: {found}")


def _mending() -> None:
    ServiceManager().takes(MEND_S)


async def run_daemon(config: Config, *, clock: Clock, status_file: Path | None = None) -> None:
    """Runs until SIGTERM or SIGINT. Raises GatewayError where it cannot start."""
    bundles = load_bundles(config)
    with Store.open(
        config.store,
        destinations=[config.sync.destination],
        mend=clock.now(),
        on_mending=_mending,
    ) as store:
        daemon = Daemon(config, clock, bundles, store)
        try:
            await daemon.run(status_file)
        except ExceptionGroup as group:  # of the task group; what is ours is told as such
            raise next((e for e in group.exceptions if isinstance(e, GatewayError)), group) from None
        finally:
            await daemon.local.stop()
