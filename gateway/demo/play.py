"""The demo itself: starts the processes, breaks the path on schedule, lets it drain, and takes the account."""

import asyncio
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from gateway.bundle import load_bundle
from gateway.demo import arrange
from gateway.demo.account import Account, read_evidence, take
from gateway.demo.announce import PASSWORD_VARIABLE, announced
from gateway.demo.faults import Fault, Outage, schedule
from gateway.demo.processes import Child, ChildFailed, Children
from gateway.demo.proxy import CuttingProxy
from gateway.demo.show import Screen, View, WearableView, screen
from gateway.demo.simulator import SimulatorControl, WearableTruth
from gateway.demo.status import DaemonStatus, SubscriberTail, read_status, topics_in
from gateway.demo.tidy import forget
from gateway.errors import GatewayError, InputRejected

_Start = Callable[[str, tuple[str, ...], str], Awaitable[Child]]

READY_WITHIN_S = 60.0
"""For a process to start: imports dominate, a second each on an idle machine; a busy Raspberry Pi is far slower."""
DRIFT_PERIOD_S = 60.0
"""Of device time; the default of 15 minutes would show no drift event within a demo."""
BACKOFF_S_MAX = 2.0
"""Between the daemon's attempts at the broker; the default of a minute is longer than a demo has."""
DRAIN_WITHIN_S = 15.0
REFRESH_S = 0.25


@dataclass(frozen=True, slots=True)
class Plan:
    """What was asked for. recording: an Excel pair or a CSV; empty for synthetic motion. broker: None for its own."""

    wearables: int
    duration_s: float
    speed: float
    faults: tuple[Fault, ...]
    recording: tuple[Path, ...]
    bundle: Path
    broker: tuple[str, int] | None
    username: str
    password: str
    keep: Path | None
    plain: bool


class BrokerRefused(InputRejected):
    hint = "Check --broker, --username and --password-file."


class BrokerUnreachable(GatewayError):
    hint = "Is a broker listening there?"


class RecordingTooShort(InputRejected):
    hint = "Give a longer recording, or none for synthetic motion."


def perform(plan: Plan) -> int:
    """Runs the demo; 0 where every number adds up, 1 where not, 130 where it was aborted."""
    folder = Path(tempfile.mkdtemp(prefix="fidget-demo-")) if plan.keep is None else plan.keep
    ours = plan.keep is None or not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    kept = True
    try:
        account = asyncio.run(_with_signals(plan, arrange.Files(folder)))
        kept = plan.keep is not None or (account is not None and not account.adds_up)
    except (InputRejected, BrokerUnreachable):  # nothing was played
        kept = False
        raise
    finally:
        if kept:
            print(f"Logs, database and truth: {folder}", file=sys.stderr, flush=True)
        else:
            _remove(folder, ours)
    if account is None:
        print("aborted", file=sys.stderr)
        return 130
    return 0 if account.adds_up else 1


def _remove(folder: Path, ours: bool) -> None:
    """All that is in it, and itself where we made it."""
    if ours:
        shutil.rmtree(folder, ignore_errors=True)
        return
    for entry in folder.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


async def _with_signals(plan: Plan, files: arrange.Files) -> Account | None:
    """The first SIGINT ends the sampling; a second one, SIGTERM or SIGHUP end everything at once (None)."""
    loop, enough = asyncio.get_running_loop(), asyncio.Event()
    playing = asyncio.create_task(_play(plan, files, enough))

    def interrupted() -> None:
        if enough.is_set():
            playing.cancel()
        enough.set()

    loop.add_signal_handler(signal.SIGINT, interrupted)
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, playing.cancel)
    try:
        return await playing
    except asyncio.CancelledError:
        return None


async def _play(plan: Plan, files: arrange.Files, enough: asyncio.Event) -> Account:
    gateway_id = f"demo-{secrets.token_hex(4)}"  # two demos may share a broker
    async with AsyncExitStack() as stack:
        shown = stack.enter_context(screen(plan.plain))
        performance = await _set_up(plan, files, gateway_id, stack, shown)
        await performance.run(enough)
        account = await performance.settle()
    if plan.broker is not None:
        broker = arrange.Broker(*plan.broker, plan.username, plan.password)
        topics = {topic for topic in topics_in(files.received) if topic.endswith("/state")}
        await asyncio.to_thread(forget, broker, topics, arrange.client_ids(gateway_id))
    print("\n".join(account.lines()), flush=True)
    return account


async def _set_up(
    plan: Plan, files: arrange.Files, gateway_id: str, stack: AsyncExitStack, shown: Screen
) -> "Performance":
    """Everything is running when this returns, in the order of the data path backwards."""
    from firmware_sim.synthesis import ACTIVITIES

    children = await stack.enter_async_context(Children(files.folder))
    must_live: list[Child] = []

    async def start(name: str, argv: tuple[str, ...], password: str = "") -> Child:
        child = await children.start(name, argv, {PASSWORD_VARIABLE: password} if password else None)
        must_live.append(child)
        return child

    at = plan.broker
    if at is None:
        shown.tell("starting an embedded MQTT broker")
        at = await (await start("broker", ("-m", "gateway.demo.broker"))).says(announced, READY_WITHIN_S)
    broker = arrange.Broker(*at, plan.username, plan.password)
    shown.tell(f"subscriber: {await _subscribe(start, files, gateway_id, broker)}, at {broker.host}:{broker.port}")
    proxy = await stack.enter_async_context(CuttingProxy(broker.host, broker.port))
    simulated_time = arrange.simulated_time(plan.speed)
    names = arrange.wearable_names(plan.wearables)
    arrange.write_scenario(files, names, ACTIVITIES, (plan.duration_s + READY_WITHIN_S) * plan.speed, plan.recording)
    simulator = await start("simulator", arrange.simulator_argv(files, simulated_time))
    try:
        control_at = await simulator.says(lambda line: announced(line, "control"), READY_WITHIN_S)
    except ChildFailed as failed:
        if failed.exit_code == InputRejected.exit_code:  # a recording that cannot be played
            raise InputRejected(simulator.last_words()) from None
        raise
    radio = await simulator.says(announced, READY_WITHIN_S)
    control = await stack.enter_async_context(SimulatorControl(*control_at))
    wearables = await control.status()
    _long_enough(plan, min(wearable.to_make for wearable in wearables))
    behind_proxy = replace(broker, host=proxy.address[0], port=proxy.address[1])
    arrange.write_configuration(
        files,
        gateway_id=gateway_id,
        bundle=plan.bundle,
        radio=radio,
        broker=behind_proxy,
        wearables=wearables,
        settings={"drift": {"period_s": DRIFT_PERIOD_S}, "sync": {"backoff_max_s": BACKOFF_S_MAX}},
    )
    daemon_argv = arrange.daemon_argv(files, simulated_time)
    performance = Performance(plan, files, children, must_live, shown, proxy, control, daemon_argv)
    await performance.start_daemon()
    shown.tell(
        f"{len(names)} simulated wearables ({', '.join(names)}) at {plan.speed:g} times real time; daemon started"
    )
    return performance


def _long_enough(plan: Plan, samples: int) -> None:
    """Raises RecordingTooShort where not one window is due of so many samples."""
    manifest = load_bundle(plan.bundle).manifest
    if samples < manifest.window:
        files = ", ".join(map(str, plan.recording))
        at = f"{samples} samples at {manifest.rate_hz:g} Hz"
        raise RecordingTooShort(f"{files}: {at}; one window of the model is {manifest.window} samples")


async def _subscribe(start: _Start, files: arrange.Files, gateway_id: str, broker: arrange.Broker) -> str:
    """What the subscriber says once it has its subscription. Raises BrokerRefused, BrokerUnreachable."""
    subscriber = await start("subscriber", arrange.subscriber_argv(files, gateway_id, broker), broker.password)
    try:
        return await subscriber.says(lambda line: line if line.startswith("subscribed") else None, READY_WITHIN_S)
    except ChildFailed as failed:
        if failed.exit_code == InputRejected.exit_code:
            raise BrokerRefused(subscriber.last_words()) from None
        raise BrokerUnreachable(subscriber.last_words()) from None


@dataclass(frozen=True, slots=True)
class Seen:
    """One look at everything. status: None before the daemon has written one since its start."""

    truth: tuple[WearableTruth, ...]
    status: DaemonStatus | None

    def truth_of(self, name: str) -> WearableTruth:
        return next(wearable for wearable in self.truth if wearable.name == name)


class Performance:
    """What is running, and what is done to it."""

    def __init__(
        self,
        plan: Plan,
        files: arrange.Files,
        children: Children,
        must_live: list[Child],
        shown: Screen,
        proxy: CuttingProxy,
        simulator: SimulatorControl,
        daemon_argv: tuple[str, ...],
    ) -> None:
        self._plan, self._files, self._children, self._must_live = plan, files, children, must_live
        self._screen, self._proxy, self._simulator = shown, proxy, simulator
        self._daemon_argv = daemon_argv
        self._daemon: Child | None = None
        self._tail = SubscriberTail(files.received)
        self._awaited: list[tuple[str, Callable[[Seen], bool], float]] = []
        self._told_ns: int | None = None
        self._began_s = asyncio.get_running_loop().time()

    def _elapsed_s(self) -> float:
        return asyncio.get_running_loop().time() - self._began_s

    async def start_daemon(self) -> None:
        self._daemon = await self._children.start("daemon", self._daemon_argv)

    async def run(self, enough: asyncio.Event) -> None:
        """Until the duration is over or enough is set, with the outages of the plan."""
        steps = sorted(
            (at_s, place, outage)
            for outage in schedule(self._plan.faults, self._plan.duration_s)
            for place, at_s in enumerate((outage.begin_s, outage.end_s))
        )
        while not enough.is_set() and self._elapsed_s() < self._plan.duration_s:
            while steps and steps[0][0] <= self._elapsed_s():
                _, place, outage = steps.pop(0)
                await (self._end if place else self._begin)(outage)
            await self._look()
            await _sleep_unless(enough, REFRESH_S)
        for _, place, outage in steps:
            if place and outage.begin_s <= self._elapsed_s():  # Ctrl-C in the middle of it
                await self._end(outage)

    async def _begin(self, outage: Outage) -> None:
        match outage.fault:
            case Fault.RANGE:
                name = await self._leaver()
                self._screen.tell(f"FAULT: {name} goes out of range")
                await self._simulator.out_of_range(name, on=True)
            case Fault.BROKER:
                self._screen.tell("FAULT: the way to the broker is cut")
                self._proxy.cut()
            case Fault.KILL:
                assert self._daemon is not None
                self._screen.tell(f"FAULT: kill -9 of the daemon (process {self._daemon.pid})")
                await self._daemon.kill()
                self._daemon = None
                self._files.status.unlink(missing_ok=True)

    async def _end(self, outage: Outage) -> None:
        match outage.fault:
            case Fault.RANGE:
                name = await self._leaver()
                await self._simulator.out_of_range(name, on=False)
                made = (await self._simulator.status())[-1].made
                self._screen.tell(f"{name} is in range again, with {made:,} samples made")
                self._await(f"{name}: all of these are in the gateway", lambda s: s.truth_of(name).acknowledged >= made)
            case Fault.BROKER:
                self._proxy.heal()
                self._screen.tell("the way to the broker is open again")
                self._await("connected again, no event waits for the broker any more", _nothing_waits)
            case Fault.KILL:
                await self.start_daemon()
                made_by = {wearable.name: wearable.made for wearable in await self._simulator.status()}
                self._screen.tell("the daemon is started again")
                self._await(
                    "all that was made while it was down is in the gateway",
                    lambda s: all(w.acknowledged >= made_by[w.name] for w in s.truth),
                )

    async def _leaver(self) -> str:
        """The wearable that goes out of range: the last."""
        return (await self._simulator.status())[-1].name

    def _await(self, text: str, so: Callable[[Seen], bool]) -> None:
        self._awaited.append((text, so, self._elapsed_s()))

    async def _look(self) -> Seen:
        """Looks at everything once, shows it, and tells what has come true."""
        for child in [*self._must_live, *([self._daemon] if self._daemon else [])]:
            child.must_live()
        seen = Seen(await self._simulator.status(), read_status(self._files.status) if self._daemon else None)
        told_ns = seen.status.time_utc_ns if seen.status else None
        if told_ns is None or told_ns != self._told_ns:  # what is received is shown beside what was acknowledged then
            self._tail.read()
        self._told_ns = told_ns
        self._screen.show(self._view(seen))
        for text, so, since_s in [awaited for awaited in self._awaited if awaited[1](seen)]:
            self._awaited.remove((text, so, since_s))
            self._screen.tell(f"recovered: {text}, {self._elapsed_s() - since_s:.1f} s after")
        return seen

    def _view(self, seen: Seen) -> View:
        status = seen.status
        rows = []
        for truth in seen.truth:
            told = status.wearables.get(truth.name) if status else None
            rows.append(
                WearableView(
                    name=truth.name,
                    link=told.link if told else None,
                    rate_hz=told.rate_hz if told else None,
                    activity=told.activity if told else None,
                    probability=told.probability if told else None,
                    windows=told.windows if told else None,
                    unacknowledged=truth.made - truth.acknowledged,
                    received=self._tail.windows[truth.name],
                )
            )
        return View(
            elapsed_s=self._elapsed_s(),
            duration_s=self._plan.duration_s,
            daemon="running" if self._daemon else "killed",
            broker=status.broker if status else "-",
            wearables=tuple(rows),
            events_waiting=status.events_waiting if status else None,
            events_acknowledged=status.events_acknowledged if status else None,
            events_received=len(self._tail.events),
            repeated=self._tail.repeated,
        )

    async def settle(self) -> Account:
        """Ends the sampling, lets backlog and event log drain, stops the daemon, and takes the account."""
        self._screen.tell("sampling stops; what is under way drains")
        await self._simulator.stop_sampling()
        arrange.write_account(self._files, self._plan.bundle, await self._simulator.status())
        deadline_s = self._elapsed_s() + DRAIN_WITHIN_S
        account = self._account()
        while not account.adds_up and self._elapsed_s() < deadline_s:
            await self._look()
            await asyncio.sleep(REFRESH_S)
            arrange.write_account(self._files, self._plan.bundle, await self._simulator.status())
            account = self._account()
        if self._daemon is not None:
            await self._daemon.stop()
            self._daemon = None
        while not (account := self._account()).adds_up and self._elapsed_s() < deadline_s:
            await self._look()  # what the daemon committed on its way out may still be under way to the subscriber
            await asyncio.sleep(REFRESH_S)
        return account

    def _account(self) -> Account:
        return take(read_evidence(self._files.account))


def _nothing_waits(seen: Seen) -> bool:
    return seen.status is not None and seen.status.broker_connected and not seen.status.events_waiting


async def _sleep_unless(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
