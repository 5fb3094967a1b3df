"""bleak's own backend on BlueZ, and over D-Bus the little that bleak does not do: to end links and attempts to connect
that an earlier process left, which BlueZ keeps for ever and which no scan shows (BlueZ 5.66 and 5.82); to pair, and to
answer for whoever pairs; and to notice that bluetoothd has gone, and the agent with it.

Interfaces: org.bluez.Adapter1 and Device1 as in BlueZ's doc/org.bluez.Adapter.rst and org.bluez.Device.rst.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Self

from bleak import BleakClient, BleakScanner
from bleak.backends.device import BLEDevice
from bleak.exc import BleakDBusError, BleakError
from dbus_fast import BusType, Message, MessageType, Variant
from dbus_fast.aio import MessageBus
from dbus_fast.errors import DBusFastError

from gateway.ble.adapter import Heard, Lost
from gateway.ble.bluez_agent import AGENT_PATH, CAPABILITY, Agent, Answers, Refusals
from gateway.ble.errors import PairingFailed, RadioAway
from gateway.ble.radio import COMMAND_S, why

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
_DEVICE = "org.bluez.Device1"
_BLUEZ_OWNER = f"type='signal',sender='{_DBUS}',member='NameOwnerChanged',arg0='org.bluez'"
_DISTURBED = {f"org.bluez.Error.{name}" for name in ("InProgress", "ConnectionAttemptFailed", "AuthenticationCanceled")}
"""What comes of two that connect at once."""
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
        self._agent = Agent(answers or Refusals())
        self._bus: _Bus | None = None
        """The agent's: it lives as long as this connection."""

    async def attach(self, addresses: Collection[str]) -> None:
        """Raises RadioAway."""
        bus = await self._connected()
        objects = await bus.objects()
        adapter = objects.get(self._path, {}).get("org.bluez.Adapter1")
        if adapter is None:
            present = [path.rsplit("/", 1)[1] for path, found in objects.items() if "org.bluez.Adapter1" in found]
            others = f"; there is {', '.join(present)}" if present else ""
            raise RadioAway(f"{self.name}: BlueZ has no such adapter{others}")
        if not adapter["Powered"]:
            await self._switch_on(bus)
        await bus.register(self._agent)
        for path, device in self._devices(objects):
            if device["Connected"] and device["Address"].upper() in addresses:
                log.info("%s: ending the link that an earlier process left", device["Address"])
                await bus.call(path, _DEVICE, "Disconnect")

    async def _switch_on(self, bus: "_Bus") -> None:
        """Raises RadioAway where that is refused, as it is where rfkill blocks it."""
        powered = ["org.bluez.Adapter1", "Powered", Variant("b", True)]
        await bus.call(self._path, _PROPERTIES, "Set", "ssv", powered)
        adapter = (await bus.objects()).get(self._path, {}).get("org.bluez.Adapter1", {})
        if adapter.get("Powered", False):
            return
        blocked = adapter.get("PowerState") == "off-blocked"
        raise RadioAway(
            f"{self.name}: the adapter is switched off and stays so{': rfkill blocks it' if blocked else ''}",
            hint="rfkill list says what is blocked; rfkill unblock bluetooth lifts it, or a switch on the machine.",
        )

    def _devices(self, objects: Objects) -> list[tuple[str, Mapping[str, Any]]]:
        of_ours = f"{self._path}/"
        return [(p, o["org.bluez.Device1"]) for p, o in objects.items() if p.startswith(of_ours) and _is_device(o)]

    async def wait_lost(self) -> None:
        """Until bluetoothd ends: the agent is gone with it. With an adapter that goes bleak ends every link, and the
        next scan says what is wrong."""
        bus = await self._connected()
        await bus.wait_gone()

    async def detach(self) -> None:
        """BlueZ keeps the adapter."""
        bus, self._bus = self._bus, None
        if bus is not None:
            bus.close()

    async def _connected(self) -> "_Bus":
        if self._bus is None or not self._bus.alive:
            self._bus = await _Bus.connected()
        return self._bus

    # What an operator does.

    async def known(self) -> dict[str, Mapping[str, Any]]:
        """What BlueZ knows of this adapter's devices, by address: the properties of Device1. Raises RadioAway."""
        async with _Bus.for_now() as bus:
            return {device["Address"].upper(): device for _, device in self._devices(await bus.objects())}

    @asynccontextmanager
    async def listening(self, heard: Heard) -> AsyncIterator[None]:
        """Gives each advertisement to heard. Raises RadioAway."""
        scanner = self.scanner(heard)
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

    async def pair(self, address: str) -> None:
        """Finds the wearable, pairs with it by this adapter's answers, and ends the link. Raises PairingFailed and
        RadioAway."""
        async with _Bus.for_now() as bus:
            await bus.register(self._agent)
            found = self._device(await bus.objects(), address)
            if found is None:
                heard = await BleakScanner.find_device_by_address(address, FIND_S, bluez={"adapter": self.name})
                found = self._device(await bus.objects(), address) if heard is not None else None
            if found is None:
                raise PairingFailed(f"{address}: not heard for {FIND_S:g} s", hint="Is it switched on, near and free?")
            path = found[0]
            try:
                for tries_left in reversed(range(PAIR_TRIES)):
                    await bus.call(path, _DEVICE, "Disconnect")  # the daemon's link, which it will not miss
                    try:
                        await bus.call(path, _DEVICE, "Pair", required=True, within_s=PAIR_S)
                    except RefusedByBluez as refused:
                        if refused.name not in _DISTURBED or not tries_left:
                            raise PairingFailed(f"{address}: {_PAIRING_WORDS.get(refused.name, refused)}") from None
                        await asyncio.sleep(PAIR_AGAIN_S)
                    else:
                        break
            finally:
                await bus.call(path, _DEVICE, "Disconnect")

    async def unpair(self, address: str) -> bool:
        """Whether there was anything to forget. Raises RadioAway."""
        async with _Bus.for_now() as bus:
            found = self._device(await bus.objects(), address)
            if found is not None:
                await bus.call(self._path, "org.bluez.Adapter1", "RemoveDevice", "o", [found[0]])
            return found is not None

    def _device(self, objects: Objects, address: str) -> tuple[str, Mapping[str, Any]] | None:
        known = self._devices(objects)
        return next(((path, device) for path, device in known if device["Address"].upper() == address.upper()), None)

    def scanner(self, heard: Heard) -> BleakScanner:
        return BleakScanner(heard, bluez={"adapter": self.name})

    def client(self, device: BLEDevice, lost: Lost, services: Sequence[str] | None, timeout_s: float) -> BleakClient:
        return BleakClient(device, lost, services, timeout=timeout_s, bluez={"adapter": self.name})

    def left_half_open(self, error: BaseException) -> bool:
        """`org.bluez.Error.InProgress` (5.82), `org.bluez.Error.Failed: Operation already in progress` (5.66)."""
        return isinstance(error, BleakDBusError) and (
            error.dbus_error == "org.bluez.Error.InProgress"
            or "already in progress" in (error.dbus_error_details or "")
        )

    async def forget(self, device: BLEDevice) -> None:
        """A bond is kept: then the link is only ended. Raises RadioAway."""
        async with _Bus.for_now() as bus:
            for path, found in self._devices(await bus.objects()):
                if found["Address"].upper() != device.address.upper():
                    continue
                await bus.call(path, "org.bluez.Device1", "Disconnect")
                if not found.get("Paired", False):
                    await bus.call(self._path, "org.bluez.Adapter1", "RemoveDevice", "o", [path])


def _is_device(interfaces: Mapping[str, Any]) -> bool:
    return "org.bluez.Device1" in interfaces


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
        self._ended = asyncio.ensure_future(bus.wait_for_disconnect())  # type: ignore[no-untyped-call]
        self._ended.add_done_callback(lambda ended: ended.cancelled() or ended.exception())

    @classmethod
    async def connected(cls) -> Self:
        """Raises RadioAway."""
        try:
            async with asyncio.timeout(CALL_S):
                return cls(await MessageBus(bus_type=BusType.SYSTEM).connect())
        except (OSError, EOFError, TimeoutError, DBusFastError) as error:
            raise RadioAway(f"the system's D-Bus: {error}", hint="BlueZ needs D-Bus: is dbus running?") from None

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
        refusal ends the pairing.
        """
        if not self._exported:
            self._bus.export(AGENT_PATH, agent)
            self._exported = True
        await self.call("/org/bluez", _AGENTS, "RegisterAgent", "os", [AGENT_PATH, CAPABILITY])
        await self.call("/org/bluez", _AGENTS, "RequestDefaultAgent", "o", [AGENT_PATH])

    async def wait_gone(self) -> None:
        """Until BlueZ has another owner, or none, or this connection ends."""
        gone = asyncio.Event()

        def saw(message: Message) -> None:
            if message.member == "NameOwnerChanged" and message.body and message.body[0] == "org.bluez":
                gone.set()

        self._bus.add_message_handler(saw)
        changed = asyncio.create_task(gone.wait())
        try:
            await self.call("/org/freedesktop/DBus", _DBUS, "AddMatch", "s", [_BLUEZ_OWNER], to=_DBUS)
            await asyncio.wait({self._ended, changed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._bus.remove_message_handler(saw)
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
            raise RadioAway(f"BlueZ, {member}: {str(error) or type(error).__name__}") from None
        if reply is None or reply.message_type is MessageType.ERROR:
            words = "no reply" if reply is None else f"{reply.error_name}: {', '.join(map(str, reply.body))}"
            if required:
                name = "" if reply is None else reply.error_name or ""
                raise RefusedByBluez(name, f"BlueZ does not answer ({words})", hint="Is bluetoothd running?")
            log.info("BlueZ, %s of %s: %s", member, path, words)
            return []
        return list(reply.body)
