"""bleak's own backend on BlueZ, and over D-Bus the little that bleak does not do: to end links and attempts to connect
that an earlier process left, which BlueZ keeps for ever and which no scan shows (BlueZ 5.66 and 5.82); to pair, and to
answer for whoever pairs; and to notice that bluetoothd has gone, and the agent with it.

Interfaces: org.bluez.Adapter1 and Device1 as in BlueZ's doc/org.bluez.Adapter.rst and org.bluez.Device.rst.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from typing import Any, Self

from bleak import BleakClient, BleakScanner
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData
from bleak.exc import BleakDBusError, BleakError
from dbus_fast import BusType, Message, MessageFlag, MessageType, Variant
from dbus_fast.aio import MessageBus
from dbus_fast.errors import DBusFastError

from gateway.ble.adapter import Heard, Listening, Lost, Told, untold
from gateway.ble.bluez_agent import AGENT_PATH, CAPABILITY, Agent, Answers, Refusals
from gateway.ble.errors import PairingFailed, RadioAway
from gateway.ble.radio import COMMAND_S, why
from gateway.link import rules
from gateway.link.bonds import Held

log = logging.getLogger(__name__)

CALL_S = 10.0
"""One D-Bus call. Device1.Disconnect takes 2 to 2.6 s."""
PAIR_TRIES, PAIR_AGAIN_S = 3, 3.0
"""Where the daemon was connecting at that moment; then it leaves the wearable alone (gateway.ble.radio.UNPAIRED_S)."""
FIND_S = 30.0
"""To hear a wearable that is to be paired."""
PAIR_S = 75.0
"""Device1.Pair: to connect, and the 30 s that a person has for each of two steps (Core 5.4, Vol 3, Part H, 3.4)."""

_PROPERTIES = "org.freedesktop.DBus.Properties"
_DBUS = "org.freedesktop.DBus"
_AGENTS = "org.bluez.AgentManager1"
_ADAPTER, _DEVICE = "org.bluez.Adapter1", "org.bluez.Device1"
_BLUEZ_OWNER = f"type='signal',sender='{_DBUS}',member='NameOwnerChanged',arg0='org.bluez'"
_DISTURBED = {
    *(f"org.bluez.Error.{name}" for name in ("InProgress", "ConnectionAttemptFailed", "AuthenticationCanceled")),
    *(f"org.freedesktop.DBus.Error.{name}" for name in ("UnknownObject", "UnknownMethod")),
}
"""What comes of two that connect at once, or where the other one has removed the device."""
_PAIRING_WORDS = {
    "org.bluez.Error.AuthenticationFailed": "pairing failed: another passkey, or a number that was not confirmed",
    "org.bluez.Error.AuthenticationCanceled": "pairing was cancelled",
    "org.bluez.Error.AuthenticationRejected": "the wearable refused to pair",
    "org.bluez.Error.AuthenticationTimeout": "pairing took too long",
    "org.bluez.Error.ConnectionAttemptFailed": "no connection: it is away, or connected to another host",
}

Objects = Mapping[str, Mapping[str, Mapping[str, Any]]]


class BluezAdapter:
    """name: the adapter's, such as hci0. answers: for whoever pairs while this is attached."""

    def __init__(self, name: str = "hci0", answers: Answers | None = None) -> None:
        self.name = name
        self._path = f"/org/bluez/{name}"
        self._answers = answers or Refusals()
        self._agent = Agent(self._answers)
        self._bus: _Bus | None = None
        """The agent's: it lives as long as this connection."""

    async def attach(self, addresses: Collection[str]) -> None:
        """Raises RadioAway."""
        bus = self._bus = self._bus if self._bus is not None and self._bus.alive else await _Bus.connected()
        bus.gone.clear()
        objects = await bus.objects()
        if not self._present(objects)["Powered"]:
            await self._switch_on(bus)
        for path, device in self._devices(objects):
            if device["Connected"] and device["Address"].upper() in addresses:
                log.info("%s: ending the link that an earlier process left", device["Address"])
                await bus.call(path, _DEVICE, "Disconnect")
        await bus.register(self._agent)

    def _present(self, objects: Objects) -> Mapping[str, Any]:
        """The adapter's properties. Raises RadioAway where it is not there."""
        adapter = objects.get(self._path, {}).get("org.bluez.Adapter1")
        if adapter is None:
            present = [path.rsplit("/", 1)[1] for path, found in objects.items() if "org.bluez.Adapter1" in found]
            others = f"; there is {', '.join(present)}" if present else ""
            raise RadioAway(f"{self.name}: BlueZ has no such adapter{others}", hint="bluetoothctl list shows them.")
        return adapter

    async def _switch_on(self, bus: "_Bus") -> None:
        """Raises RadioAway where that is refused, as it is where rfkill blocks it."""
        powered = ["org.bluez.Adapter1", "Powered", Variant("b", True)]
        await bus.call(self._path, _PROPERTIES, "Set", "ssv", powered)
        adapter = (await bus.objects()).get(self._path, {}).get("org.bluez.Adapter1", {})
        if adapter.get("Powered", False):
            return
        blocked = adapter.get("PowerState") == "off-blocked"
        raise RadioAway(
            f"{self.name}: the adapter is switched off and stays so"
            + (": rfkill blocks it (rfkill unblock bluetooth)" if blocked else ""),
            hint="rfkill list says what is blocked; rfkill unblock bluetooth lifts it, or a switch on the machine.",
        )

    def _devices(self, objects: Objects) -> list[tuple[str, Mapping[str, Any]]]:
        of_ours = f"{self._path}/"
        return [(p, o["org.bluez.Device1"]) for p, o in objects.items() if p.startswith(of_ours) and _is_device(o)]

    async def wait_lost(self) -> None:
        """Until bluetoothd has ended since `attach`: the agent is gone with it. With an adapter that goes bleak ends
        every link, and the next scan says what is wrong."""
        if self._bus is not None and self._bus.alive:
            await self._bus.wait_gone()

    async def detach(self) -> None:
        """BlueZ keeps the adapter."""
        bus, self._bus = self._bus, None
        if bus is not None:
            bus.close()

    # What an operator does.

    async def known(self) -> dict[str, Mapping[str, Any]]:
        """What BlueZ knows of this adapter's devices, by address: the properties of Device1. Raises RadioAway."""
        if self._bus is not None and self._bus.alive:
            objects = await self._bus.objects()
        else:
            async with _Bus.for_now() as bus:
                objects = await bus.objects()
        self._present(objects)
        return {device["Address"].upper(): device for _, device in self._devices(objects)}

    @asynccontextmanager
    async def listening(self, heard: Heard) -> AsyncIterator[None]:
        """Gives each advertisement to heard. Raises RadioAway."""
        scanner = self.scanner(heard, each=True)  # else BlueZ keeps what it has told the daemon's scan
        try:
            async with asyncio.timeout(COMMAND_S):
                await scanner.start()
        except (BleakError, OSError, EOFError, TimeoutError, DBusFastError) as error:
            raise RadioAway(why(self.name, error), hint="Is bluetoothd running, and the adapter switched on?") from None
        try:
            yield
        finally:
            with suppress(BleakError, OSError, EOFError, TimeoutError, DBusFastError):
                async with asyncio.timeout(COMMAND_S):
                    await scanner.stop()

    async def bonded(self) -> dict[str, bool]:
        """By address, whether it is connected. Raises RadioAway."""
        known = await self.known()
        return {address: bool(one.get("Connected")) for address, one in known.items() if one.get("Paired")}

    async def held(self, address: str) -> Held:
        """BlueZ does not tell of which kind a bond is. Raises RadioAway."""
        return Held(bool((await self.known()).get(address.upper(), {}).get("Paired", False)))

    def lost_bond(self, error: BaseException) -> bool | None:
        """5.82 says `br-connection-canceled`, to which other things lead too, and later ones `key-missing`."""
        said = " ".join((str(error), getattr(error, "dbus_error_details", None) or ""))
        return True if "key-missing" in said else None if "br-connection-canceled" in said else False

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """BlueZ has the adapter in any case."""
        yield

    async def pair(
        self,
        address: str,
        answers: Answers | None = None,
        *,
        without_number: bool = False,
        heard_as: str | None = None,
        listening: Listening | None = None,
    ) -> bool:
        """Finds the wearable, pairs with it, and ends the link. Whether a number was typed, compared or shown; where
        none was the bond is kept only with without_number.

        However this ends, no other bond is left behind. heard_as: the address under which it is heard now, where that
        changes; its own is learnt and must be `address`. listening: how advertisements are come by. Raises
        PairingFailed and RadioAway.
        """
        address, at = address.upper(), (heard_as or address).upper()
        agent = Agent(answers or self._answers, only=at)
        kept = False
        async with _Bus.for_now() as bus:
            if not self._present(await bus.objects())["Powered"]:
                await self._switch_on(bus)
            await bus.register(agent)
            path = None
            try:
                path = await self._pair(bus, agent, at, listening or self.listening)
                await self._must_be(bus, path, address)
                kept = agent.numbered or without_number
            finally:
                agent.cancel()
                await self._part(bus, path, at, kept)
        if not kept:
            raise PairingFailed(
                f"{address}: it pairs without digits, so nobody knows that it is this one; it is not paired",
                hint="Where that will do, say allow_just_works = true in its [[wearable]] table.",
            )
        return agent.numbered

    async def _pair(self, bus: "_Bus", agent: Agent, address: str, listening: Listening) -> str:
        """Its object."""
        for tries_left in reversed(range(PAIR_TRIES)):
            path = await self._found(bus, address, listening)
            await bus.call(path, _DEVICE, "Disconnect")  # the daemon's link, which it will not miss
            agent.numbered = False
            try:
                await bus.call(path, _DEVICE, "Pair", required=True, within_s=PAIR_S)
            except RefusedByBluez as refused:
                if refused.name not in _DISTURBED or not tries_left:
                    raise PairingFailed(f"{address}: {_PAIRING_WORDS.get(refused.name, refused)}") from None
                await asyncio.sleep(PAIR_AGAIN_S)
            else:
                return path
        raise AssertionError("the last try returns or raises")

    async def _must_be(self, bus: "_Bus", path: str, address: str) -> None:
        """Paired, a wearable says which address is its own; BlueZ then tells that. Raises PairingFailed."""
        known = dict(self._devices(await bus.objects()))
        own = known.get(path, {}).get("Address", "").upper()
        if own != address:
            raise PairingFailed(
                f"{address}: what was paired says that it is {own or 'nobody'}; it is not paired",
                hint="If that is your wearable, this is the address for its [[wearable]] table.",
            )

    async def _found(self, bus: "_Bus", address: str, listening: Listening) -> str:
        """Its object, heard first where BlueZ does not know it. Raises PairingFailed and RadioAway."""
        found = self._device(await bus.objects(), address)
        if found is None:
            heard = asyncio.Event()

            def note(device: BLEDevice, _data: AdvertisementData) -> None:
                if device.address.upper() == address:
                    heard.set()

            async with listening(note):
                with suppress(TimeoutError):
                    async with asyncio.timeout(FIND_S):
                        await heard.wait()
                found = self._device(await bus.objects(), address)
        if found is None:
            hint = "Is it switched on, near and free? One that changes its address: `gateway scan` and --heard-as."
            raise PairingFailed(f"{address}: not heard for {FIND_S:g} s", hint=hint)
        return found[0]

    async def _part(self, bus: "_Bus", path: str | None, address: str, kept: bool) -> None:
        """Ends the link, and the bond unless it is to be kept. Raises PairingFailed where it may still be there.

        path: its object where it has been paired; address: under which it is looked for where it has not.
        """
        try:
            objects = await bus.objects()
            device = dict(self._devices(objects)).get(path or "")
            found = (path, device) if path is not None and device is not None else self._device(objects, address)
            if found is not None and kept:
                await bus.call(found[0], _DEVICE, "Disconnect")
            elif found is not None:
                await bus.call(self._path, _ADAPTER, "RemoveDevice", "o", [found[0]], required=True)
        except RadioAway as error:
            if not kept:
                said = f"{address}: BlueZ may hold a bond that nobody vouches for ({error})"
                raise PairingFailed(said, hint="`gateway forget` it once BlueZ answers.") from None

    async def unpair(self, address: str) -> bool:
        """Whether there was anything to forget. Raises RadioAway."""
        async with _Bus.for_now() as bus:
            objects = await bus.objects()
            self._present(objects)
            found = self._device(objects, address)
            if found is not None:
                await bus.call(self._path, _ADAPTER, "RemoveDevice", "o", [found[0]], required=True)
            return found is not None

    def _device(self, objects: Objects, address: str) -> tuple[str, Mapping[str, Any]] | None:
        known = self._devices(objects)
        return next(((path, device) for path, device in known if device["Address"].upper() == address.upper()), None)

    def scanner(self, heard: Heard, *, each: bool = False) -> BleakScanner:
        return BleakScanner(heard, bluez={"adapter": self.name, "filters": {"DuplicateData": each}})

    def client(
        self, device: BLEDevice, lost: Lost, services: Sequence[str] | None, timeout_s: float, told: Told = untold
    ) -> BleakClient:
        client = _Client(device, lost, services, timeout=timeout_s, bluez={"adapter": self.name})
        if self._bus is not None:
            client.watch = self._bus.watching(device.details["path"], lambda: told(rules.Linked()))
        return client

    def left_half_open(self, error: BaseException) -> bool:
        """`org.bluez.Error.InProgress` (5.82), `org.bluez.Error.Failed: Operation already in progress` (5.66)."""
        return isinstance(error, BleakDBusError) and (
            error.dbus_error == "org.bluez.Error.InProgress"
            or "already in progress" in (error.dbus_error_details or "")
        )

    def is_full(self, error: BaseException) -> bool:
        """The kernel's EMLINK, which it makes of HCI error 0x09, is `br-connection-concurrent-connection-limit` or
        `le-...` in BlueZ (src/error.c)."""
        return isinstance(error, BleakDBusError) and "concurrent-connection-limit" in (error.dbus_error_details or "")

    async def forget(self, device: BLEDevice) -> None:
        """A bond is kept: then the link is only ended. Raises RadioAway."""
        async with _Bus.for_now() as bus:
            found = self._device(await bus.objects(), device.address)
            if found is not None:
                path, known = found
                await bus.call(path, _DEVICE, "Disconnect")
                if not known.get("Paired", False):
                    await bus.call(self._path, _ADAPTER, "RemoveDevice", "o", [path])


def _is_device(interfaces: Mapping[str, Any]) -> bool:
    return "org.bluez.Device1" in interfaces


class _Client(BleakClient):
    """bleak's connect returns only when the services are known; watch tells of the link before."""

    watch: AbstractAsyncContextManager[None] | None = None

    async def connect(self, **kwargs: Any) -> None:
        watch, self.watch = self.watch or nullcontext(), None
        async with watch:
            await super().connect(**kwargs)


class RefusedByBluez(RadioAway):
    """name: of the D-Bus error."""

    def __init__(self, name: str, said: str, hint: str | None = None) -> None:
        super().__init__(said, hint=hint)
        self.name = name


class _Bus:
    """One connection to the system bus; each call on it is bounded in time."""

    def __init__(self, bus: MessageBus) -> None:
        self._bus = bus
        self._exported = False
        self._watched: dict[str, Callable[[], None]] = {}
        self.gone = asyncio.Event()
        """bluetoothd has ended."""
        self._ended = asyncio.ensure_future(bus.wait_for_disconnect())  # type: ignore[no-untyped-call]
        self._ended.add_done_callback(lambda ended: ended.cancelled() or ended.exception())

    @classmethod
    async def connected(cls) -> Self:
        """Raises RadioAway."""
        try:
            async with asyncio.timeout(CALL_S):
                made = cls(await MessageBus(bus_type=BusType.SYSTEM).connect())
        except (OSError, EOFError, TimeoutError, DBusFastError) as error:
            raise RadioAway(f"the system's D-Bus: {error}", hint="BlueZ needs D-Bus: is dbus running?") from None
        made._bus.add_message_handler(made._saw)
        await made.call("/org/freedesktop/DBus", _DBUS, "AddMatch", "s", [_BLUEZ_OWNER], to=_DBUS)
        return made

    @classmethod
    @asynccontextmanager
    async def for_now(cls) -> AsyncIterator[Self]:
        bus = await cls.connected()
        try:
            yield bus
        finally:
            bus.close()

    @property
    def alive(self) -> bool:
        return self._bus.connected

    def close(self) -> None:
        self._bus.disconnect()

    async def register(self, agent: Agent) -> None:
        """As the one that is asked, before those registered earlier; again after bluetoothd has come back.

        Also for Device1.Pair: with the link up BlueZ reads what wants security, which asks the default agent, whose
        refusal ends the pairing. Raises RadioAway.
        """
        if not self._exported:
            self._bus.export(AGENT_PATH, agent)
            self._exported = True
        try:
            await self.call("/org/bluez", _AGENTS, "RegisterAgent", "os", [AGENT_PATH, CAPABILITY], required=True)
        except RefusedByBluez as refused:
            if refused.name != "org.bluez.Error.AlreadyExists":
                raise
        await self.call("/org/bluez", _AGENTS, "RequestDefaultAgent", "o", [AGENT_PATH], required=True)

    def _saw(self, message: Message) -> None:
        if message.member == "NameOwnerChanged" and message.body[:1] == ["org.bluez"] and message.body[1]:
            self.gone.set()  # whoever owned the name owns it no more
        elif message.member == "PropertiesChanged" and message.path in self._watched:
            interface, changed = message.body[:2]
            if interface == _DEVICE and "Connected" in changed and changed["Connected"].value:
                self._watched[message.path]()

    @asynccontextmanager
    async def watching(self, path: str, connected: Callable[[], None]) -> AsyncIterator[None]:
        """connected is called when this device's link comes up. Only of one device, and only meanwhile: while others
        scan, BlueZ tells of each device that it hears."""
        rule = f"type='signal',sender='org.bluez',path='{path}',interface='{_PROPERTIES}',member='PropertiesChanged'"
        self._watched[path] = connected
        try:
            with suppress(RadioAway):
                await self.call("/org/freedesktop/DBus", _DBUS, "AddMatch", "s", [rule], to=_DBUS)
            yield
        finally:
            del self._watched[path]
            if self.alive:  # not waited for: who gives the connect up shall not wait for the bus
                unmatch = Message(_DBUS, "/org/freedesktop/DBus", _DBUS, "RemoveMatch", signature="s", body=[rule])
                unmatch.flags = MessageFlag.NO_REPLY_EXPECTED
                self._bus.send(unmatch)

    async def wait_gone(self) -> None:
        """Until BlueZ has ended since `gone` was cleared, or this connection ends."""
        changed = asyncio.create_task(self.gone.wait())
        try:
            await asyncio.wait({self._ended, changed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()

    async def objects(self) -> Objects:
        body = await self.call("/", "org.freedesktop.DBus.ObjectManager", "GetManagedObjects", required=True)
        return {
            path: {name: {key: value.value for key, value in found.items()} for name, found in interfaces.items()}
            for path, interfaces in body[0].items()
        }

    async def call(
        self,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        body: Sequence[Any] = (),
        *,
        required: bool = False,
        within_s: float = CALL_S,
        to: str = "org.bluez",
    ) -> list[Any]:
        """What it answers. Where it is not required, a refusal is logged: the next scan and connect show what is left.

        Raises RadioAway, and RefusedByBluez where it is required.
        """
        message = Message(to, path, interface, member, signature=signature, body=list(body))
        try:
            async with asyncio.timeout(within_s):
                reply = await self._bus.call(message)
        except (OSError, EOFError, TimeoutError, DBusFastError) as error:
            said = f"BlueZ, {member}: {str(error) or type(error).__name__}"
            raise RadioAway(said, hint="Is bluetoothd running?") from None
        if reply is None or reply.message_type is MessageType.ERROR:
            words = "no reply" if reply is None else f"{reply.error_name}: {', '.join(map(str, reply.body))}"
            if required:
                name = "" if reply is None else reply.error_name or ""
                does = "refuses" if name.startswith("org.bluez.") else "does not answer"
                raise RefusedByBluez(name, f"BlueZ {does} ({words})", hint="Is bluetoothd running?")
            log.info("BlueZ, %s of %s: %s", member, path, words)
            return []
        return list(reply.body)
