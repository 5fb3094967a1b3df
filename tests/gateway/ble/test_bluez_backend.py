"""What is said to BlueZ beside bleak, over a real D-Bus daemon to a stand-in that has BlueZ's objects.

How BlueZ itself behaves is not shown here: it needs a kernel with a Bluetooth adapter.
"""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from bleak import BleakClient
from bleak.backends.bluezdbus.client import BleakClientBlueZDBus
from bleak.backends.device import BLEDevice
from bleak.exc import BleakDBusError, BleakError
from dbus_fast import BusType, DBusError, Message, MessageType, PropertyAccess
from dbus_fast.aio import MessageBus
from dbus_fast.annotations import DBusBool, DBusObjectPath, DBusStr
from dbus_fast.service import ServiceInterface, dbus_method, dbus_property

from gateway.ble.bluez_agent import Refusals
from gateway.ble.bluez_backend import BluezAdapter
from gateway.ble.errors import PairingFailed, RadioAway

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
        self.bluez: Bluez | None = None

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
        """Asks the agent of whoever registered one last, as a wearable with such an `asks` makes BlueZ do."""
        assert self.bluez is not None
        reply = await self.bluez.ask(self.asks, self.path)
        if reply.message_type is MessageType.ERROR or (self.asks == "RequestPasskey" and reply.body != [self.passkey]):
            raise DBusError("org.bluez.Error.AuthenticationFailed", "Authentication Failed")
        self.paired = True


class Adapter1(ServiceInterface):
    def __init__(self, *, powered: bool = True, blocked: bool = False) -> None:
        super().__init__("org.bluez.Adapter1")
        self.powered, self.blocked = powered, blocked
        self.removed: list[str] = []

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


@pytest.fixture
async def system_bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    daemon = shutil.which("dbus-daemon")
    if daemon is None:
        pytest.skip("dbus-daemon is not installed (Debian: apt-get install dbus-daemon)")
    socket, config = tmp_path / "bus", tmp_path / "bus.conf"
    config.write_text(BUS.format(socket=socket))
    process = await asyncio.create_subprocess_exec(
        daemon, f"--config-file={config}", "--nofork", "--print-address", stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    await process.stdout.readline()  # it listens
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={socket}")
    yield
    process.kill()
    await process.wait()


@pytest.fixture
async def bluez(system_bus: None) -> AsyncIterator[Bluez]:
    bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
    yield Bluez(bus)
    bus.disconnect()


async def test_a_link_that_a_killed_gateway_left_is_ended_and_no_strangers(bluez: Bluez) -> None:
    ours, stranger = Device1(OURS), Device1(STRANGER)
    await bluez.appears(Adapter1(), ours, stranger)
    await BluezAdapter("hci0").attach({OURS})
    assert (ours.connected, stranger.connected) == (False, True)


async def test_an_adapter_that_is_off_is_switched_on(bluez: Bluez) -> None:
    adapter = Adapter1(powered=False)
    await bluez.appears(adapter)
    await BluezAdapter("hci0").attach(set())
    assert adapter.powered


async def test_an_adapter_that_rfkill_blocks_is_told_with_the_way_out(bluez: Bluez) -> None:
    await bluez.appears(Adapter1(powered=False, blocked=True))
    with pytest.raises(RadioAway, match="hci0: the adapter is switched off and stays so: rfkill blocks it") as away:
        await BluezAdapter("hci0").attach(set())
    assert "rfkill unblock bluetooth" in away.value.hint


async def test_an_adapter_that_is_not_there_is_named_with_those_that_are(bluez: Bluez) -> None:
    await bluez.appears(Adapter1())
    with pytest.raises(RadioAway, match="hci7: BlueZ has no such adapter; there is hci0"):
        await BluezAdapter("hci7").attach(set())


@pytest.mark.usefixtures("system_bus")
async def test_a_bus_without_bluez_asks_for_bluetoothd() -> None:
    with pytest.raises(RadioAway, match="BlueZ does not answer") as away:
        await BluezAdapter("hci0").attach(set())
    assert away.value.hint == "Is bluetoothd running?"


async def test_a_machine_without_a_bus_asks_for_dbus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path / 'none'}")
    with pytest.raises(RadioAway, match=r"the system's D-Bus: .*No such file") as away:
        await BluezAdapter("hci0").attach(set())
    assert "dbus" in away.value.hint


class Person:
    """Who answers so."""

    def __init__(self, passkey: int | None = None, confirms: bool = False, trusts: bool = False) -> None:
        self._passkey, self._confirms, self._trusts = passkey, confirms, trusts

    async def passkey(self, address: str) -> int | None:
        assert address == OURS
        return self._passkey

    async def confirm(self, address: str, number: int) -> bool:
        assert (address, number) == (OURS, 123456)
        return self._confirms

    async def just_works(self, address: str) -> bool:
        assert address == OURS
        return self._trusts


@pytest.mark.parametrize(
    ("asks", "good", "bad"),
    [
        ("RequestPasskey", Person(passkey=123456), Person(passkey=123457)),
        ("RequestPasskey", Person(passkey=123456), Person()),
        ("RequestConfirmation", Person(confirms=True), Person()),
        ("RequestAuthorization", Person(trusts=True), Person()),
    ],
    ids=["passkey", "no passkey", "numbers", "just works"],
)
async def test_who_pairs_is_answered_by_the_person_that_asked_for_it(
    bluez: Bluez, asks: str, good: Person, bad: Person
) -> None:
    ours = Device1(OURS, connected=True)
    ours.asks = asks
    await bluez.appears(Adapter1(), ours)
    with pytest.raises(PairingFailed, match=f"{OURS}: pairing failed: another passkey"):
        await BluezAdapter("hci0", bad).pair(OURS)
    assert not ours.paired
    ours.connected = True
    await BluezAdapter("hci0", good).pair(OURS)
    assert ours.paired
    assert not ours.connected  # the daemon, which hears it again, is to have it
    assert {capability for _, _, capability in bluez.agents} == {"KeyboardDisplay"}


@pytest.mark.parametrize("asks", ["RequestPasskey", "RequestConfirmation", "RequestAuthorization"])
async def test_the_daemon_pairs_with_nobody_and_says_so(
    bluez: Bluez, asks: str, caplog: pytest.LogCaptureFixture
) -> None:
    ours = Device1(OURS)
    await bluez.appears(Adapter1(), ours)
    daemon = BluezAdapter("hci0")
    await daemon.attach(set())
    reply = await bluez.ask(asks, ours.path)
    assert reply.error_name == "org.bluez.Error.Rejected"
    assert f"{OURS}: wants to be paired, which only `gateway pair` may do" in caplog.text
    await daemon.detach()


async def test_the_daemon_lets_those_pair_just_so_that_may(bluez: Bluez) -> None:
    ours, stranger = Device1(OURS), Device1(STRANGER)
    await bluez.appears(Adapter1(), ours, stranger)
    daemon = BluezAdapter("hci0", Refusals([OURS.lower()]))
    await daemon.attach(set())
    assert (await bluez.ask("RequestAuthorization", ours.path)).message_type is MessageType.METHOD_RETURN
    assert (await bluez.ask("RequestAuthorization", stranger.path)).message_type is MessageType.ERROR
    await daemon.detach()


async def test_a_bluetoothd_that_ends_is_noticed_and_gets_the_agent_again_when_it_is_back(bluez: Bluez) -> None:
    await bluez.appears(Adapter1())
    daemon = BluezAdapter("hci0")
    await daemon.attach(set())
    lost = asyncio.create_task(daemon.wait_lost())
    done, _ = await asyncio.wait({lost}, timeout=0.2)
    assert not done
    await bluez.bus.release_name("org.bluez")
    await asyncio.wait_for(lost, 5)
    await bluez.bus.request_name("org.bluez")
    await daemon.attach(set())
    assert len(bluez.agents) == 2
    await daemon.detach()


async def test_what_bluez_knows_of_a_wearable_is_told_and_forgotten(bluez: Bluez) -> None:
    adapter, ours = Adapter1(), Device1(OURS, paired=True)
    await bluez.appears(adapter, ours)
    assert (await BluezAdapter("hci0").known())[OURS]["Paired"] is True
    assert await BluezAdapter("hci0").unpair(OURS)
    assert adapter.removed == [ours.path]
    assert not await BluezAdapter("hci0").unpair(STRANGER)


@pytest.mark.parametrize("paired", [False, True])
async def test_forgetting_ends_the_link_and_keeps_a_bond(bluez: Bluez, paired: bool) -> None:
    adapter, ours = Adapter1(), Device1(OURS, paired=paired)
    await bluez.appears(adapter, ours, Device1(STRANGER))
    await BluezAdapter("hci0").forget(BLEDevice(OURS, None, {}))
    assert not ours.connected
    assert adapter.removed == ([] if paired else [ours.path])


async def test_forgetting_a_device_that_is_not_connected_removes_it_all_the_same(bluez: Bluez) -> None:
    adapter, ours = Adapter1(), Device1(OURS, connected=False)
    await bluez.appears(adapter, ours)
    await BluezAdapter("hci0").forget(BLEDevice(OURS, None, {}))
    assert adapter.removed == [ours.path]


@pytest.mark.parametrize(
    ("error", "half_open"),
    [
        (BleakDBusError("org.bluez.Error.InProgress", ["In Progress"]), True),  # BlueZ 5.82
        (BleakDBusError("org.bluez.Error.Failed", ["Operation already in progress"]), True),  # BlueZ 5.66
        (BleakDBusError("org.bluez.Error.Failed", ["br-connection-canceled"]), False),
        (BleakError("device 'dev_C0_00_00_00_00_01' not found"), False),
        (TimeoutError(), False),
    ],
)
def test_which_failures_show_an_attempt_that_is_left(error: BaseException, half_open: bool) -> None:
    assert BluezAdapter().left_half_open(error) is half_open


def test_bleak_gets_the_adapter_and_chooses_bluez() -> None:
    device = BLEDevice(OURS, None, {"path": "/org/bluez/hci1/dev_C0_00_00_00_00_01", "props": {"Adapter": "/x"}})
    client = BluezAdapter("hci1").client(device, lambda _client: None, None, 5.0)
    assert isinstance(client, BleakClient)
    assert isinstance(client._backend, BleakClientBlueZDBus)
