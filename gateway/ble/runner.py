"""The shell of one wearable: obeys its link's rules and its conversation through bleak, and tells them what came of it.

Runs in the daemon's loop for the daemon's whole life. Radio time-outs use the loop's clock; the conversation is told
the monotonic ns that it is given, which in a simulation runs faster.
"""

import asyncio
import functools
import logging
import math
import random
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from bleak import BleakClient
from bleak.backends.characteristic import BleakGATTCharacteristic
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData

from gateway.ble.bonds import Admission
from gateway.ble.errors import BondRefused
from gateway.ble.radio import Radio
from gateway.ble.radios import Radios
from gateway.link import rules, sharing
from gateway.link.rules import COLLECTING, LISTENING, LIVE, Link, State, advance
from gateway.link.sharing import Share, Verdict
from gateway.link.trouble import LASTING_S, Obstacle, Trouble
from gateway.profiles.conversation import (
    Command,
    Connected,
    Conversation,
    Disconnected,
    Event,
    Fault,
    Kind,
    Leaving,
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

log = logging.getLogger(__name__)

OPERATIONS_MAX = 256
"""GATT operations waiting on one link. A conversation keeps a handful; more means that it asks faster than the link
answers, and the link starts afresh."""
LACKING_MAX = 3
"""Links in a row on which the profile's service is not there, until the wearable is held to speak another profile: on
a busy machine BlueZ says that services are resolved before it has shown them all (seen with 5.82)."""
WAKE_MIN_S = 0.001
"""Between two Ticks, whatever the conversation asks for."""
LEAVE_S = 1.5
"""For what a wearable is told before its link ends; a write or two take a few connection intervals."""
STOP_S = 2 * rules.CLOSE_S + LEAVE_S + 1.0
"""Two closings that hang, by the rules."""

SEATED = frozenset(State) - {State.ABSENT, State.BACKING_OFF, State.QUARANTINED, State.STOPPED}
"""In these it takes one of an adapter's links, or is about to."""

ADAPTER_FULL, HELD = Obstacle.ADAPTER_FULL, Obstacle.HELD

Operation = Subscribe | Read | Write


@dataclass(slots=True)
class Counters:
    """Since the start. faults: by name."""

    connects: int = 0
    losses: int = 0
    notifications: int = 0
    notified_bytes: int = 0
    faults: Counter[str] = field(default_factory=Counter)


class LinkRunner:
    """Make it before `Radio.run` starts, so that a link which an earlier process left to this wearable is ended.

    address: of the wearable, matched exactly. services: only these are discovered, and one that lacks the first speaks
    another profile; None for all, and no such test. now_ns: the conversation's time; real_delay_s: how long a span of
    it, in ns, lasts for the loop. observe, on_state and on_fault are called in the loop and must not block; on_fault is
    given what the conversation reports and what went wrong on the link (`connect_failed`, `other_profile`,
    `bond_refused`, `gatt_failed`, `link_lost`, `timed_out`, `internal`). held: whether the manufacturer data of an
    advertisement (by company) says that a central holds the wearable, None where it tells nothing; one that is held is
    not connected.
    shared: other gateways may have it by the rules of gateway/link/sharing.py. admission: whether its bond lets it be
    connected; None: no bond is asked for.
    """

    def __init__(
        self,
        address: str,
        conversation: Conversation,
        radio: Radio | Radios,
        *,
        services: Sequence[str] | None,
        silence_s: float,
        now_ns: Callable[[], int],
        real_delay_s: Callable[[int], float],
        observe: Callable[[Kind, bytes], None],
        on_state: Callable[[str], None],
        on_fault: Callable[[str, str], None],
        held: Callable[[Mapping[int, bytes]], bool | None] = lambda _: None,
        shared: bool = False,
        admission: Admission | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.address = address.upper()
        self.rssi_dbm: int | None = None
        self.counters = Counters()
        self._conversation = conversation
        self._radio = radio
        self._services = services
        self._now_ns = now_ns
        self._real_delay_s = real_delay_s
        self._observe = observe
        self._on_state = on_state
        self._on_fault = on_fault
        self._jitter = jitter
        self._link = Link(silence_s)
        self._held = held
        self._admission = admission
        self._noting: asyncio.Task[None] | None = None
        self._share = Share() if shared else None
        self._looking: asyncio.Task[None] | None = None
        self._lets_go = False
        self._taking: asyncio.TimerHandle | None = None
        if shared:
            radio.share(self.address)
        self._heard_s = self._listening_s = -math.inf
        """When it was heard last, and since when it has been listened for."""
        self._elsewhere = False
        """By another central, as its last advertisement says."""
        self._device: BLEDevice | None = None
        self._client: BleakClient | None = None
        self._talking = False
        self._lacking = 0
        self._inbox: deque[Event] = deque()
        self._handling = False
        self._operations: deque[Operation] = deque()
        self._operating: asyncio.Task[None] | None = None
        self._opening: asyncio.Task[None] | None = None
        self._seat: Radio | None = None
        self._due: asyncio.TimerHandle | None = None
        self._wake: asyncio.TimerHandle | None = None
        self._stopped = asyncio.Event()
        radio.register(self.address, self._heard, self._feed)

    @property
    def state(self) -> str:
        """One of gateway.link.rules.State, in words."""
        return self._link.state

    @property
    def collecting(self) -> bool:
        """Whether samples come."""
        return self._link.state in COLLECTING

    @property
    def adapter(self) -> str | None:
        """Which one it is connected through, or is to be."""
        return self._seat.adapter.name if self._seat is not None else None

    @property
    def retry_s(self) -> float | None:
        """Until it is tried again, where it is quarantined."""
        if self._link.state is not State.QUARANTINED:
            return None
        return max(0.0, self._link.deadline_s - asyncio.get_running_loop().time())

    @property
    def obstacle(self) -> str:
        """What keeps it from being connected, as far as waiting will not do; empty where nothing does."""
        if (retry_s := self.retry_s) is not None:
            return f"{self.why}; tried again in {math.ceil(retry_s / 60)} min"
        trouble = self.trouble
        if trouble is not None and trouble.obstacle is Obstacle.UNHEARD:
            unheard_s = asyncio.get_running_loop().time() - max(self._heard_s, self._listening_s)
            return f"not heard for {unheard_s / 60:.0f} min" if unheard_s >= LASTING_S else ""
        return trouble.why if trouble is not None and trouble.obstacle in (ADAPTER_FULL, HELD) else ""

    @property
    def trouble(self) -> Trouble | None:
        """What keeps it from being connected now, be it for a moment."""
        if self._link.state is State.QUARANTINED:
            wants = self.why == rules.WANTS_PAIRING
            return Trouble(Obstacle.UNPAIRED if wants else Obstacle.QUARANTINED, self.why)
        if self._link.state not in LISTENING:
            return None
        if (away := self._radio.away(self.address)) is not None:
            return Trouble(Obstacle.ADAPTER_AWAY, away)
        if self._link.state is not State.ABSENT:
            return None
        if (full := self._radio.full(self.address)) is not None:  # then nobody scans
            return Trouble(ADAPTER_FULL, full)
        if asyncio.get_running_loop().time() - self._heard_s > rules.FRESH_S:
            return Trouble(Obstacle.UNHEARD, "not heard: away, switched off, or connected to something else")
        held = self._elsewhere and self._share is None  # gateways that share it know of each other
        return Trouble(HELD, "heard, and connected to something else, as it says") if held else None

    @property
    def why(self) -> str:
        """What ended the link last; empty if nothing has."""
        return self._link.why

    async def run(self) -> None:
        """Until `stop`. Cancelling it drops the link without a word to the wearable."""
        self._on_state(self.state)
        self._listening_s = asyncio.get_running_loop().time()
        self._radio.listen(self.address, self._link.state in LISTENING)
        try:
            await self._stopped.wait()
        finally:
            self._radio.listen(self.address, False)
            self._leave()
            for timer in (self._due, self._wake, self._taking):
                if timer is not None:
                    timer.cancel()
            for task in (self._opening, self._operating, self._noting):
                if task is not None:
                    task.cancel()
            self._look(False)

    async def stop(self) -> None:
        """Disconnects and ends `run`; takes at most STOP_S."""
        if self._link.state in LIVE:
            self._tell(Leaving())
            if self._operating is not None:
                await asyncio.wait({self._operating}, timeout=LEAVE_S)
        self._feed(rules.Stop())
        try:
            async with asyncio.timeout(STOP_S):
                await self._stopped.wait()
        except TimeoutError:
            log.warning("%s: could not be disconnected", self.address)
            self._stopped.set()

    def release(self) -> None:
        """Tries it at once where it is quarantined or backing off; from the loop's thread."""
        self._feed(rules.Release())

    def deliver(self, event: Event) -> None:
        """Hands the conversation what the radio does not know of (Durable, Room); from the loop's thread."""
        self._tell(event)

    # The link

    def _feed(self, event: rules.Event) -> None:
        was = self._link.state
        loop = asyncio.get_running_loop()
        self._link, commands = advance(self._link, event, loop.time(), self._jitter())
        if self._link.state is not was:
            self._entered(was, event)
        for command in commands:
            match command:
                case rules.TakeTurn(failures):
                    assert self._seat is not None  # it has been heard
                    self._seat.take_turn(self.address, failures, self._turn_granted, self._crowded)
                case rules.ReleaseTurn():
                    assert self._seat is not None
                    self._seat.release_turn(self.address)
                case rules.Connect():
                    self._opening = asyncio.create_task(self._connect())
                case rules.Disconnect(forget):
                    self._opening = asyncio.create_task(self._close(self._opening, forget))
        if self._link.state not in SEATED:
            self._leave()
        if self._due is None and self._link.deadline_s != float("inf"):
            self._due = loop.call_at(self._link.deadline_s, self._deadline)
        elif self._due is not None and self._due.when() > self._link.deadline_s:
            self._due.cancel()
            self._due = loop.call_at(self._link.deadline_s, self._deadline)

    def _deadline(self) -> None:
        """A deadline that has moved on meanwhile, as each notification moves it, is waited for again."""
        self._due = None
        self._feed(rules.Due())

    def _entered(self, was: State, event: rules.Event) -> None:
        state = self._link.state
        log.debug("%s: %s%s", self.address, state, f" ({self._link.why})" if state is State.CLOSING else "")
        self._radio.listen(self.address, state in LISTENING)
        if state is State.ABSENT:
            self._listening_s = asyncio.get_running_loop().time()
        if state is State.CLOSING:
            match event:
                case rules.Lost():
                    self.counters.losses += 1
                    self._report("link_lost", self._link.why)
                case rules.Due():
                    self._report("timed_out", self._link.why)
                    self._note_unanswered(was)
                case rules.Refused():
                    self._report("unpaired", self._link.why)
        self._on_state(state)
        if state is State.STREAMING and was is not State.DRAINING and self._admission is not None and self._seat:
            self._noting = asyncio.create_task(self._admission.streaming(self._seat.adapter))
        if self._share is not None:
            self._share = self._shared(self._share, was, event)
        if isinstance(event, rules.Opened):
            self._talking = True
            self._tell(Connected(self.rssi_dbm))
        elif self._talking and state not in LIVE:
            self._talking = False
            self._operations.clear()
            _cancel(self._operating)
            self._operating = None
            self._tell(Disconnected())
        if was is State.CLOSING:
            _cancel(self._opening)
            self._client = None
        if state is State.STOPPED:
            self._stopped.set()

    def _note_unanswered(self, was: State) -> None:
        """Of one that is bonded it may mean that its bond is gone."""
        if (
            was is State.CONNECTING
            and self._admission is not None
            and (why := self._admission.unanswered()) is not None
        ):
            self._report("bond_refused", why)

    def _heard(self, device: BLEDevice, data: AdvertisementData) -> None:
        if self._seat is not None and self._sighted(self._seat) is not device:
            return  # heard by another adapter than the one that has it
        self.rssi_dbm = data.rssi
        self._heard_s = asyncio.get_running_loop().time()
        self._elsewhere = bool(self._held(data.manufacturer_data))
        if self._calls(data):
            self._answer()

    def _answer(self) -> None:
        """With a connection, where an adapter has room."""
        if self._seat is None:
            self._seat = self._radio.place(self.address)
            if self._seat is None:
                return
            self._seat.sit(self.address)
        self._device = self._sighted(self._seat)
        self._feed(rules.Heard())

    def _sighted(self, seat: Radio) -> BLEDevice | None:
        sighted = seat.sighted(self.address)
        return sighted[0] if sighted is not None else None

    def _calls(self, data: AdvertisementData) -> bool:
        """Whether an advertisement is to be answered with a connection. A wearable that is held takes none."""
        listening, held = self._link.state in LISTENING, self._elsewhere
        if self._share is None:
            return listening and not held
        now_s = asyncio.get_running_loop().time()
        self._share, verdict = sharing.hear(self._share, data.rssi, held, now_s)
        if verdict is Verdict.LET_GO:
            strength_dbm = self._share.strength_dbm(now_s)
            self._feed(rules.LetGo(f"let go: heard at {strength_dbm:.0f} dBm, another gateway may be nearer"))
        _cancel(self._taking)
        at_s = sharing.take_at_s(self._share, now_s)
        if listening and verdict is Verdict.LEAVE and at_s is not None:
            self._taking = asyncio.get_running_loop().call_at(at_s, self._take)
        return listening and verdict is Verdict.TAKE

    def _take(self) -> None:
        """What was heard free may be taken now, though it has not been heard once more."""
        share, now_s = self._share, asyncio.get_running_loop().time()
        if share is not None and self._link.state in LISTENING and sharing.due(share, now_s):
            self._answer()

    def _shared(self, share: Share, was: State, event: rules.Event) -> Share:
        """What other gateways may make of this link's new state."""
        state, now_s = self._link.state, asyncio.get_running_loop().time()
        if state is State.STREAMING and self._looking is None:
            self._look(True)
        elif state not in LIVE and self._looking is not None:
            self._look(False)
        if isinstance(event, rules.Opened):
            return sharing.taken(share, now_s)
        if state is State.CLOSING:
            self._lets_go = isinstance(event, rules.LetGo)
        elif was is State.CLOSING:
            return sharing.parted(share, now_s, let_go=self._lets_go)
        return share

    def _look(self, on: bool) -> None:
        if on:
            self._looking = asyncio.create_task(self._look_around())
        else:
            _cancel(self._looking)
            self._looking = None
            self._radio.watch(self.address, False)

    async def _look_around(self) -> None:
        """Listens now and then how strongly it is heard, and goes on where that is weakly."""
        while self._share is not None:
            self._radio.watch(self.address, True)
            await asyncio.sleep(sharing.LISTEN_S)
            if not self._share.weak:
                self._radio.watch(self.address, False)
                await asyncio.sleep(sharing.LISTEN_EVERY_S - sharing.LISTEN_S)

    def _turn_granted(self) -> None:
        self._feed(rules.Turn())

    def _crowded(self) -> None:
        self._feed(rules.Crowded())

    def _leave(self) -> None:
        seat, self._seat = self._seat, None
        if seat is not None:
            seat.release_turn(self.address)
            seat.leave(self.address)

    async def _connect(self) -> None:
        assert self._device is not None  # it has been heard
        assert self._seat is not None
        seat, adapter = self._seat, self._seat.adapter
        timeout_s = rules.CONNECT_S + rules.DISCOVER_S + rules.PAIR_S  # the rules end it sooner
        told = functools.partial(self._told, device := self._device)
        client = self._client = adapter.client(device, self._lost, self._services, timeout_s, told)
        try:
            if self._admission is None:
                await client.connect()
            else:
                async with self._admission.connecting(adapter):
                    await client.connect()
        except Exception as error:  # a stack's own kinds come through bleak too
            full = adapter.is_full(error)
            if full:
                seat.refused(self.address)
            half_open = adapter.left_half_open(error)
            lasting = isinstance(error, BondRefused)
            self._failed(
                "bond_refused" if lasting else "connect_failed",
                _words(error),
                half_open=half_open,
                lasting=lasting,
                full=full,
            )
        else:
            self.counters.connects += 1
            if self._services is not None and client.services.get_service(self._services[0]) is None:
                self._lacking += 1
                lasting = self._lacking >= LACKING_MAX
                self._failed("other_profile", f"it has no service {self._services[0]}", lasting=lasting)
            else:
                self._lacking = 0
                self._feed(rules.Opened())

    async def _close(self, before: asyncio.Task[None] | None, forget: bool) -> None:
        if before is not None and not before.done():
            before.cancel()
            await asyncio.wait({before})
        try:
            if self._client is not None:
                await self._client.disconnect()
            if forget and self._device is not None and self._seat is not None:
                await self._seat.adapter.forget(self._device)
        except Exception as error:
            log.warning("%s: disconnecting: %s", self.address, _words(error))
        self._feed(rules.Closed())

    def _lost(self, client: BleakClient) -> None:
        if client is self._client:
            if self._admission is not None and not self._talking and (why := self._admission.cut_off()) is not None:
                self._report("bond_refused", why)
            self._feed(rules.Lost())

    def _told(self, device: BLEDevice, event: rules.Event) -> None:
        """Of a link to this device, as its stack has it."""
        if device is self._device:
            self._feed(event)

    def _failed(
        self, name: str, detail: str, *, half_open: bool = False, lasting: bool = False, full: bool = False
    ) -> None:
        self._report(name, detail)
        self._feed(rules.Failed(detail, half_open, lasting, full))

    def _report(self, name: str, detail: str) -> None:
        self.counters.faults[name] += 1
        self._on_fault(name, detail)

    # The conversation

    def _tell(self, event: Event) -> None:
        """Events are handled one after the other in the order they come, also those that handling one brings about."""
        self._inbox.append(event)
        if self._handling:
            return
        self._handling = True
        try:
            while self._inbox:
                told = self._inbox.popleft()
                try:
                    self._obey(self._conversation.handle(told, self._now_ns()))
                except Exception as error:  # a fault of ours with one wearable shall not end the others
                    log.exception("%s: handling %s", self.address, type(told).__name__)
                    self._failed("internal", _words(error))
        finally:
            self._handling = False
        self._follow_backlog()

    def _follow_backlog(self) -> None:
        draining = getattr(self._conversation, "draining", False)  # a family that keeps nothing has no such thing
        match self._link.state:
            case State.STREAMING if draining:
                self._feed(rules.FellBehind())
            case State.DRAINING if not draining:
                self._feed(rules.CaughtUp())

    def _obey(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case Observe(kind, payload):
                    self._observe(kind, payload)
                case Fault(name, detail, fatal):
                    self._report(name, detail)
                    if fatal:
                        self._feed(rules.Failed(detail))
                case WakeAt(mono_ns):
                    self._wake_at(mono_ns)
                case Subscribe() | Read() | Write():
                    self._enqueue(command)

    def _enqueue(self, operation: Operation) -> None:
        if self._link.state not in LIVE:
            return
        if isinstance(operation, Read) and operation in self._operations:
            return  # the answer to the one that waits serves both
        if len(self._operations) >= OPERATIONS_MAX:
            self._failed("gatt_failed", f"{OPERATIONS_MAX} operations are waiting")
            return
        self._operations.append(operation)
        if self._operating is None and self._client is not None:
            self._operating = asyncio.create_task(self._operate(self._client))

    async def _operate(self, client: BleakClient) -> None:
        while self._operations:
            operation = self._operations.popleft()
            try:
                async with asyncio.timeout(rules.OPERATION_S):
                    done = await self._perform(client, operation)
            except Exception as error:
                name = f"{type(operation).__name__.lower()} of {operation.uuid}"
                if not isinstance(operation, Write) and operation.optional:
                    log.debug("%s: %s: %s", self.address, name, _words(error))
                    continue
                if client is self._client and self._link.state in LIVE:
                    self._failed("gatt_failed", f"{name}: {_words(error)}")
                return
            self._feed(rules.Bonded())  # where it paired, it has let us: only then this says anything
            if done is not None:
                self._tell(done)
        self._operating = None

    async def _perform(self, client: BleakClient, operation: Operation) -> Event | None:
        match operation:
            case Subscribe(uuid, optional):
                notified = functools.partial(self._notified, client, uuid, not optional)
                # AcquireNotify: with StartNotify a notification is delivered once more after each lost link.
                await client.start_notify(uuid, notified, bluez={"use_start_notify": False})
                return None
            case Read(uuid):
                started_ns = self._now_ns()
                return ReadDone(uuid, bytes(await client.read_gatt_char(uuid)), started_ns)
            case Write(uuid, payload):
                await client.write_gatt_char(uuid, payload, response=True)
                return WriteDone(uuid)

    def _notified(
        self, client: BleakClient, uuid: str, streams: bool, _: BleakGATTCharacteristic, payload: bytearray
    ) -> None:
        """streams: it shows that the wearable does what it was asked for; a battery's level does not."""
        if client is not self._client or self._link.state not in LIVE:
            return
        self.counters.notifications += 1
        self.counters.notified_bytes += len(payload)
        if streams:
            self._feed(rules.Notified())
        self._tell(Notified(uuid, bytes(payload)))

    def _wake_at(self, mono_ns: int) -> None:
        _cancel(self._wake)
        delay_s = max(WAKE_MIN_S, self._real_delay_s(mono_ns - self._now_ns()))
        self._wake = asyncio.get_running_loop().call_later(delay_s, self._woken, mono_ns)

    def _woken(self, mono_ns: int) -> None:
        if self._now_ns() < mono_ns:  # rounding
            self._wake_at(mono_ns)
        else:
            self._tell(Tick())


def _cancel(pending: asyncio.Task[None] | asyncio.TimerHandle | None) -> None:
    """Ends what is under way, but for the task that asks for it."""
    if pending is not None and pending is not asyncio.current_task():
        pending.cancel()


def _words(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "timed out"
    return str(error) or type(error).__name__
