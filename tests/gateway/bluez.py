"""A stand-in for bluetoothd on a real D-Bus: its objects, as far as they are used."""

import asyncio

from dbus_fast import DBusError, Message, MessageType, PropertyAccess
from dbus_fast.aio import MessageBus
from dbus_fast.annotations import DBusBool, DBusObjectPath, DBusStr
from dbus_fast.service import ServiceInterface, dbus_method, dbus_property

OURS, STRANGER = "C0:00:00:00:00:01", "C0:00:00:00:00:02"

BUS = """<busconfig>
  <type>system</type><listen>unix:path={socket}</listen><auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/><allow user="*"/>
  </policy>
</busconfig>
"""


class Device1(ServiceInterface):
    """org.bluez.Device1: the properties and the method that are used."""

    def __init__(self, address: str, *, connected: bool = True, paired: bool = False) -> None:
        super().__init__("org.bluez.Device1")
        self.path = "/org/bluez/hci0/dev_" + address.replace(":", "_")
        self.address, self.connected, self.paired = address, connected, paired
        self.asks, self.passkey = "RequestPasskey", 123456
        self.cancels = False
        """The first time, once it has asked; then it asks nothing."""
        self.hangs: asyncio.Event | None = None
        """Set once it pairs without an answer to come."""
        self.bluez: Bluez | None = None
        self.own_address: str | None = None
        """Told once it is paired, where it is heard under another one."""

    @dbus_property(access=PropertyAccess.READ)
    def Address(self) -> DBusStr:
        return self.address

    @dbus_property(access=PropertyAccess.READ)
    def Connected(self) -> DBusBool:
        return self.connected

    @dbus_property(access=PropertyAccess.READ)
    def Paired(self) -> DBusBool:
        return self.paired

    @dbus_method()
    def Disconnect(self) -> None:
        if not self.connected:
            raise DBusError("org.bluez.Error.NotConnected", "Not Connected")
        self.connected = False

    @dbus_method()
    async def Pair(self) -> None:
        """Asks the newest agent, as a wearable with such an `asks` makes BlueZ do; empty: nothing is asked."""
        assert self.bluez is not None
        if self.hangs is not None:
            self.paired = True
            self.hangs.set()
            await asyncio.Event().wait()
        if self.asks and self.cancels:
            await self.bluez.ask(self.asks, self.path)
            self.cancels, self.asks = False, ""
            raise DBusError("org.bluez.Error.AuthenticationCanceled", "Authentication Canceled")
        if not self.asks:
            self.paired = True
            return
        reply = await self.bluez.ask(self.asks, self.path)
        if reply.message_type is MessageType.ERROR or (self.asks == "RequestPasskey" and reply.body != [self.passkey]):
            raise DBusError("org.bluez.Error.AuthenticationFailed", "Authentication Failed")
        self.paired = True
        self.address = self.own_address or self.address


class Adapter1(ServiceInterface):
    def __init__(self, *, powered: bool = True, blocked: bool = False) -> None:
        super().__init__("org.bluez.Adapter1")
        self.powered, self.blocked = powered, blocked
        self.removed: list[str] = []
        self.dies = 0
        """So often bluetoothd ends instead of answering that it has removed a device."""

    @dbus_property()
    def Powered(self) -> DBusBool:
        return self.powered

    @Powered.setter  # type: ignore[no-redef]
    def Powered(self, powered: DBusBool) -> None:
        if self.blocked:
            raise DBusError("org.bluez.Error.Failed", "Failed")
        self.powered = powered

    @dbus_property(access=PropertyAccess.READ)
    def PowerState(self) -> DBusStr:
        return "on" if self.powered else "off-blocked" if self.blocked else "off"

    @dbus_method()
    def RemoveDevice(self, device: DBusObjectPath) -> None:
        if self.dies:
            self.dies -= 1
            raise DBusError("org.freedesktop.DBus.Error.NoReply", "Message recipient disconnected")
        self.removed.append(device)


class AgentManager1(ServiceInterface):
    def __init__(self) -> None:
        super().__init__("org.bluez.AgentManager1")

    @dbus_method()
    def RegisterAgent(self, agent: DBusObjectPath, capability: DBusStr) -> None:
        """Who it was is in the message (Bluez)."""

    @dbus_method()
    def RequestDefaultAgent(self, agent: DBusObjectPath) -> None:
        """The one registered last is asked in any case."""


class Bluez:
    """agents: who registered one, at which path and with which capability, the last one last."""

    def __init__(self, bus: MessageBus) -> None:
        self.bus = bus
        self.agents: list[tuple[str, str, str]] = []
        bus.add_message_handler(self._saw)

    def _saw(self, message: Message) -> None:
        if message.member == "RegisterAgent":
            self.agents.append((message.sender or "", *message.body))

    async def ask(self, what: str, device: str) -> Message:
        """What the newest agent answers."""
        sender, path, _ = self.agents[-1]
        more: tuple[str, list[object]] = ("u", [123456]) if what == "RequestConfirmation" else ("", [])
        asked = Message(sender, path, "org.bluez.Agent1", what, signature=f"o{more[0]}", body=[device, *more[1]])
        reply = await self.bus.call(asked)
        assert reply is not None
        return reply

    async def appears(self, adapter: Adapter1, *devices: Device1) -> None:
        self.bus.export("/org/bluez", AgentManager1())
        self.bus.export("/org/bluez/hci0", adapter)
        for device in devices:
            device.bluez = self
            self.bus.export(device.path, device)
        await self.bus.request_name("org.bluez")
