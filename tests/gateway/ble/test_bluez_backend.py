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
from dbus_fast import BusType, DBusError, PropertyAccess
from dbus_fast.aio import MessageBus
from dbus_fast.annotations import DBusBool, DBusObjectPath, DBusStr
from dbus_fast.service import ServiceInterface, dbus_method, dbus_property

from gateway.ble.bluez_backend import BluezAdapter
from gateway.ble.errors import RadioAway

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


class Bluez:
    def __init__(self, bus: MessageBus) -> None:
        self.bus = bus

    async def appears(self, adapter: Adapter1, *devices: Device1) -> None:
        self.bus.export("/org/bluez/hci0", adapter)
        for device in devices:
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
