"""bleak's own backend on BlueZ, and over D-Bus the little that bleak does not do: to end links and attempts to connect
that an earlier process left, which BlueZ keeps for ever and which no scan shows (BlueZ 5.66 and 5.82).

Interfaces: org.bluez.Adapter1 and Device1 as in BlueZ's doc/org.bluez.Adapter.rst and org.bluez.Device.rst.
"""

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from bleak import BleakClient, BleakScanner
from bleak.backends.device import BLEDevice
from bleak.exc import BleakDBusError
from dbus_fast import BusType, Message, MessageType, Variant
from dbus_fast.aio import MessageBus
from dbus_fast.errors import DBusFastError

from gateway.ble.adapter import Heard, Lost
from gateway.ble.errors import RadioAway

log = logging.getLogger(__name__)

CALL_S = 10.0
"""One D-Bus call. Device1.Disconnect takes 2 to 2.6 s."""

_PROPERTIES = "org.freedesktop.DBus.Properties"

Objects = Mapping[str, Mapping[str, Mapping[str, Any]]]


class BluezAdapter:
    """name: the adapter's, such as hci0."""

    def __init__(self, name: str = "hci0") -> None:
        self.name = name
        self._path = f"/org/bluez/{name}"

    async def attach(self, addresses: Collection[str]) -> None:
        """Raises RadioAway."""
        async with _Bus() as bus:
            objects = await bus.objects()
            adapter = objects.get(self._path, {}).get("org.bluez.Adapter1")
            if adapter is None:
                present = [path.rsplit("/", 1)[1] for path, found in objects.items() if "org.bluez.Adapter1" in found]
                others = f"; there is {', '.join(present)}" if present else ""
                raise RadioAway(f"{self.name}: BlueZ has no such adapter{others}")
            if not adapter["Powered"]:
                await self._switch_on(bus)
            for path, device in self._devices(objects):
                if device["Connected"] and device["Address"].upper() in addresses:
                    log.info("%s: ending the link that an earlier process left", device["Address"])
                    await bus.call(path, "org.bluez.Device1", "Disconnect")

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
        """Never: with an adapter that goes, bleak ends every link, and the next scan says what is wrong."""
        await asyncio.Event().wait()

    async def detach(self) -> None:
        """BlueZ keeps the adapter."""

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
        async with _Bus() as bus:
            for path, found in self._devices(await bus.objects()):
                if found["Address"].upper() != device.address.upper():
                    continue
                await bus.call(path, "org.bluez.Device1", "Disconnect")
                if not found.get("Paired", False):
                    await bus.call(self._path, "org.bluez.Adapter1", "RemoveDevice", "o", [path])


def _is_device(interfaces: Mapping[str, Any]) -> bool:
    return "org.bluez.Device1" in interfaces


class _Bus:
    """One connection to the system bus for a few calls, each bounded in time."""

    async def __aenter__(self) -> "_Bus":
        try:
            async with asyncio.timeout(CALL_S):
                self._bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
        except (OSError, EOFError, TimeoutError, DBusFastError) as error:
            raise RadioAway(f"the system's D-Bus: {error}", hint="BlueZ needs D-Bus: is dbus running?") from None
        return self

    async def __aexit__(self, *_: object) -> None:
        self._bus.disconnect()

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
    ) -> list[Any]:
        """What it answers. Where it is not required, a refusal is logged: the next scan and connect show what is left.

        Raises RadioAway.
        """
        message = Message("org.bluez", path, interface, member, signature=signature, body=list(body))
        try:
            async with asyncio.timeout(CALL_S):
                reply = await self._bus.call(message)
        except (OSError, EOFError, TimeoutError, DBusFastError) as error:
            raise RadioAway(f"BlueZ, {member}: {error or type(error).__name__}") from None
        if reply is None or reply.message_type is MessageType.ERROR:
            words = "no reply" if reply is None else f"{reply.error_name}: {', '.join(map(str, reply.body))}"
            if required:
                raise RadioAway(f"BlueZ does not answer ({words})", hint="Is bluetoothd running?")
            log.info("BlueZ, %s of %s: %s", member, path, words)
            return []
        return list(reply.body)
