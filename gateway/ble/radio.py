"""One adapter shared by all wearables: one scan, one attempt to connect at a time, a bounded number of links, attached
again after it was away.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Literal

from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData
from bleak.exc import BleakBluetoothNotAvailableError, BleakBluetoothNotAvailableReason, BleakError

from gateway.ble.adapter import Adapter
from gateway.ble.errors import RadioAway, RadioRejected
from gateway.link import rules
from gateway.link.rules import backoff_s
from gateway.link.seats import FULL_S, WEARABLES_MAX, Seats, Sighting
from gateway.link.turns import Turns

log = logging.getLogger(__name__)

COMMAND_S = 10.0
"""Starting or stopping a scan. BlueZ answers in tens of ms, and never when it has hung."""
RESCAN_S = 30.0
"""A scan is begun afresh after this: one that ran while the adapter was switched off and on hears nothing more and says
nothing (BlueZ 5.66 and 5.82)."""
RESCAN_SHARED_S = 3.0
"""The same while a wearable is listened for that gateways share, or an operator looks who is there: BlueZ has the
controller tell of each device once a scan, and how strongly it is heard must be known all the time."""
SCAN_FAILURES_MAX = 3
"""In a row; then the adapter is attached afresh, which on a Bumble host ends every link."""
READY_S = 5.0
"""So long whoever asks something of the radio waits for its adapter."""
RETRY_MAX_S = 5.0
"""Between attempts at an adapter that is away; looking for it costs little."""

_WORDS = {
    BleakBluetoothNotAvailableReason.NO_BLUETOOTH: "no Bluetooth adapter",
    BleakBluetoothNotAvailableReason.POWERED_OFF: "the adapter is switched off",
}

UNPAIRED_S = rules.UNPAIRED_S
"""A wearable that was not let pair is left alone so long: it would want the same, and whoever pairs with it meanwhile
must not find it connected to the daemon."""
STRANGERS_MAX = 64
"""Remembered, the latest heard. Phones change their address every quarter of an hour."""

Heard = Callable[[BLEDevice, AdvertisementData], None]
Noticed = Callable[[rules.Event], None]


def ignore(_: rules.Event) -> None: ...


def why(adapter: str, error: Exception) -> str:
    """What keeps an adapter from serving, in words."""
    match error:
        case RadioAway():
            return str(error)
        case BleakBluetoothNotAvailableError():
            words = _WORDS.get(error.reason, str(error.args[0]))
        case TimeoutError():
            words = f"no answer within {COMMAND_S:g} s"
        case _:
            words = str(error) or type(error).__name__
    return f"{adapter}: {words}"


@dataclass(frozen=True, slots=True)
class Stranger:
    """An advertisement of a device that nobody has registered."""

    address: str
    name: str | None
    services: frozenset[str]


class Radio:
    """Wearables register and say when they want to be listened for; `run` serves them until it is cancelled.

    on_status is called in the loop with each change of `status`. wearables_max: links that the adapter holds.
    """

    def __init__(
        self,
        adapter: Adapter,
        on_status: Callable[[str], None] = lambda _status: None,
        wearables_max: int = WEARABLES_MAX,
    ) -> None:
        self.adapter = adapter
        self.status = "not started"
        """For people: `scanning`, `ready`, or what is wrong."""
        self._on_status = on_status
        self._failures = 0
        self._heard: dict[str, Heard] = {}
        self._noticed: dict[str, Noticed] = {}
        self._sighted: dict[str, tuple[BLEDevice, Sighting]] = {}
        self._seats = Seats(wearables_max)
        self._turns = Turns()
        self._askers: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {}
        self._strangers: dict[str, Stranger] = {}
        self._overhearing: list[Heard] = []
        self._up = asyncio.Event()
        self._listening: set[str] = set()
        self._watched: set[str] = set()
        self._shared: set[str] = set()
        self._alone: dict[str, asyncio.TimerHandle] = {}
        self._engaged: set[str] = set()
        self._wanted = asyncio.Event()
        self._unwanted = asyncio.Event()
        self._afresh = asyncio.Event()

    @property
    def available(self) -> bool:
        return self.status in ("ready", "scanning")

    def away(self, _address: str) -> str | None:
        """In words, where the adapter does not serve."""
        return None if self.available else self.status

    @property
    def trouble(self) -> str | None:
        """What is wrong, where it collects all the same."""
        return None

    def register(self, address: str, heard: Heard, noticed: Noticed = ignore) -> None:
        """heard is given each advertisement of this address, while it is listened for or watched; noticed what else of
        its link the adapter tells (Asked, Refused, Release)."""
        self._heard[address.upper()] = heard
        self._noticed[address.upper()] = noticed

    def notice(self, address: str, event: rules.Event) -> None:
        """Hands on what was learnt of a wearable; one that nobody has registered is left out."""
        self._noticed.get(address.upper(), ignore)(event)

    # Seats: who waits, connects or is connected here.

    def place(self, address: str) -> "Radio | None":
        """Where a wearable that was heard finds room: here, or nowhere."""
        return self if self.room > 0 or address in self._seats.held else None

    @property
    def room(self) -> int:
        """Wearables that it could still take."""
        return self._seats.room(asyncio.get_running_loop().time())

    def full(self, _address: str) -> str | None:
        """In words, where there is no room."""
        if self.room:
            return None
        held, limit = len(self._seats.held), self._seats.limit
        says = f"{limit} is its limit (radio.wearables_max)" if held >= limit else "its controller takes no more"
        return f"{self.adapter.name} holds {held} {'wearable' if held == 1 else 'wearables'}, {says}"

    def sit(self, address: str) -> None:
        self._seats.held.add(address)
        self._look_out()

    def leave(self, address: str) -> None:
        self._seats.held.discard(address)
        self._look_out()

    def refused(self, address: str) -> None:
        """The controller did not take a link to this one because of how many it has."""
        loop = asyncio.get_running_loop()
        self._seats.refused(address, loop.time())
        loop.call_later(FULL_S, self._look_out)
        self._look_out()
        log.warning("radio: %s; this one waits", self.full(address) or f"{self.adapter.name} takes no link now")

    def sighted(self, address: str) -> tuple[BLEDevice, Sighting] | None:
        """When it was last heard here, and how well."""
        return self._sighted.get(address)

    # The turn to connect.

    def take_turn(self, address: str, failures: int, granted: Callable[[], None], crowded: Callable[[], None]) -> None:
        """granted is called once it may connect; crowded where others wait while it does. failures: in a row."""
        self._askers[address] = (granted, crowded)
        self._turns.enter(address, failures)
        if self._turns.holder is not None:
            asyncio.get_running_loop().call_soon(self._tell_crowded)
        self._grant()

    def release_turn(self, address: str) -> None:
        """It has connected or given up, or waits no longer."""
        self._turns.leave(address)
        self._grant()

    def _grant(self) -> None:
        name = self._turns.grant()
        if name is not None:
            asyncio.get_running_loop().call_soon(self._tell_granted, name)

    def _tell_granted(self, name: str) -> None:
        if self._turns.holder == name:  # else it has given it back meanwhile
            self._askers[name][0]()
            self._tell_crowded()

    def _tell_crowded(self) -> None:
        if self._turns.holder is not None and self._turns.crowded:
            self._askers[self._turns.holder][1]()

    @contextlib.asynccontextmanager
    async def turn(self, name: str) -> AsyncIterator[None]:
        """Nobody else connects while it lasts. name: unlike any address."""
        granted = asyncio.Event()
        self.take_turn(name, 0, granted.set, lambda: None)
        try:
            await granted.wait()
            yield
        finally:
            self.release_turn(name)

    async def ready(self) -> None:
        """Once its adapter serves, as it does soon after the start. Raises RadioAway."""
        try:
            async with asyncio.timeout(READY_S):
                await self._up.wait()
        except TimeoutError:
            raise RadioAway(self.status) from None

    @contextlib.asynccontextmanager
    async def overhear(self, heard: Heard) -> AsyncIterator[None]:
        """While it lasts it scans, and heard is given every advertisement of anybody. Raises RadioAway."""
        await self.ready()
        self._overhearing.append(heard)
        self._afresh.set()  # a scan that runs has told of who is there, and would not again
        self._look_out()
        try:
            yield
        finally:
            self._overhearing.remove(heard)
            self._look_out()

    def strangers(self) -> list[Stranger]:
        """Who else advertises, while somebody is listened for; the latest heard last."""
        return list(self._strangers.values())

    def listen(self, address: str, wanted: bool) -> None:
        address = address.upper()
        entered, left = (self._listening, self._engaged) if wanted else (self._engaged, self._listening)
        entered.add(address)
        left.discard(address)
        self._look_out()

    def share(self, address: str) -> None:
        """Each advertisement of this wearable is wanted, also one that says nothing new."""
        self._shared.add(address.upper())

    def watch(self, address: str, wanted: bool) -> None:
        """Its advertisements are wanted although it is connected: how strongly it is heard shows in nothing else."""
        if wanted:
            self._watched.add(address.upper())
        else:
            self._watched.discard(address.upper())
        self._look_out()

    def _look_out(self) -> None:
        """Scanning takes air time from the links: where there is no room it would be for nothing."""
        useful = (
            self._overhearing or self._watched or self._listening & self._seats.held or (self._listening and self.room)
        )
        on, off = (self._wanted, self._unwanted) if useful else (self._unwanted, self._wanted)
        on.set()
        off.clear()

    def leave_alone(self, address: str) -> None:
        """What is heard of this one goes unsaid for UNPAIRED_S, and its link is told so."""
        address = address.upper()
        if address in self._alone:
            self._alone[address].cancel()
        over = asyncio.get_running_loop().call_later(UNPAIRED_S, lambda: self._alone.pop(address, None))
        self._alone[address] = over
        self.notice(address, rules.Refused())

    def heed(self, address: str) -> None:
        """It is left alone no longer."""
        over = self._alone.pop(address.upper(), None)
        if over is not None:
            over.cancel()

    async def run(self) -> None:
        """Raises RadioRejected where no waiting can help."""
        again = False
        try:
            while True:
                try:
                    await self.adapter.attach(self._heard.keys() - self._engaged)
                    log.info("radio %s: ready", self.adapter.name)
                    self._show("ready")
                    if again:  # what failed may have failed through the adapter
                        for noticed in self._noticed.values():
                            noticed(rules.Release())
                    again = True
                    await self._serve()
                    why = f"{self.adapter.name}: lost"
                except RadioRejected:
                    raise
                except (RadioAway, BleakError, TimeoutError, OSError, EOFError) as error:
                    why = self._why(error)
                await asyncio.sleep(self._retry_s(why))
        finally:
            self._show("stopped")
            await self.adapter.detach()

    def _retry_s(self, why: str) -> float:
        self._show(why)
        self._failures += 1
        return min(RETRY_MAX_S, backoff_s(self._failures, random.random()))

    def _show(self, status: str) -> None:
        if status != self.status:
            self.status = status
            if self.available:
                self._up.set()
            else:
                self._up.clear()
            if not self.available and status != "stopped":
                log.warning("radio: %s; trying again", status)
            self._on_status(status)

    def _why(self, error: Exception) -> str:
        return why(self.adapter.name, error)

    async def _serve(self) -> None:
        """Scans whenever someone listens, until the adapter is lost."""
        lost = asyncio.create_task(self.adapter.wait_lost())
        try:
            while not lost.done():
                await _first(lost, asyncio.create_task(self._wanted.wait()))
                if lost.done():
                    break
                try:
                    await self._scan(lost)
                except BleakError as error:
                    if self._failures >= SCAN_FAILURES_MAX:
                        raise
                    await asyncio.wait({lost}, timeout=self._retry_s(self._why(error)))
        finally:
            lost.cancel()

    async def _scan(self, lost: asyncio.Task[None]) -> None:
        self._afresh.clear()
        each = bool(self._overhearing) or not self._shared.isdisjoint(self._listening | self._watched)
        scanner = self.adapter.scanner(self._advertised, each=each)
        async with asyncio.timeout(COMMAND_S):
            await scanner.start()
        self._show("scanning")
        self._failures = 0
        try:
            timeout_s = RESCAN_SHARED_S if each else RESCAN_S
            over = [asyncio.create_task(event.wait()) for event in (self._unwanted, self._afresh)]
            await _first(lost, *over, timeout_s=timeout_s)
        finally:
            # A scan that died with its adapter cannot be stopped: "No discovery started".
            with contextlib.suppress(BleakError, TimeoutError, OSError, EOFError):
                async with asyncio.timeout(COMMAND_S):
                    await scanner.stop()
        self._show("ready")

    def _advertised(self, device: BLEDevice, data: AdvertisementData) -> None:
        for overheard in tuple(self._overhearing):
            overheard(device, data)
        address = device.address.upper()
        if address in self._heard:
            now_s = asyncio.get_running_loop().time()
            self._sighted[address] = (device, Sighting(self.adapter.name, data.rssi, now_s))
        if address in self._listening or address in self._watched:
            if address not in self._alone:
                self._heard[address](device, data)
        elif address not in self._heard:
            self._strangers.pop(address, None)
            services = frozenset(map(str.lower, data.service_uuids))
            self._strangers[address] = Stranger(address, _printable(data.local_name), services)
            if len(self._strangers) > STRANGERS_MAX:
                del self._strangers[next(iter(self._strangers))]


def _printable(name: str | None) -> str | None:
    """Anyone may advertise any name; it must not write lines of its own to the log."""
    return name and "".join(letter if letter.isprintable() else "?" for letter in name)


async def _first(
    lost: asyncio.Task[None], *others: asyncio.Task[Literal[True]], timeout_s: float | None = None
) -> None:
    """Until one of them is done, or the time is over; the others are ended."""
    try:
        await asyncio.wait({lost, *others}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for other in others:
            other.cancel()
