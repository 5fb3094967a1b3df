"""The one scan for all wearables, and an adapter that comes and goes."""

import asyncio
import inspect
import re
from collections.abc import Callable, Collection, Sequence

import bumble.transport
import pytest
from bleak import BleakClient, BleakScanner
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData, BaseBleakScanner
from bleak.exc import BleakBluetoothNotAvailableError, BleakBluetoothNotAvailableReason, BleakError

from firmware_sim.endpoint import Endpoint
from firmware_sim.radio import VirtualRadio
from gateway.ble import TRANSPORTS, check_transport, open_radio
from gateway.ble import radio as radio_module
from gateway.ble.adapter import Heard, Lost, Told, untold
from gateway.ble.errors import RadioAway, RadioRejected
from gateway.ble.radio import STRANGERS_MAX, Radio, Stranger
from tests.gateway.ble.conftest import Air, Host, Peripheral, within


async def test_a_transport_that_refuses_is_tried_until_it_answers() -> None:
    virtual = VirtualRadio()
    endpoint = await virtual.serve(Endpoint("127.0.0.1", 0))
    virtual.close()
    told = Statuses()
    radio = open_radio("bumble", transport=f"tcp-client:{endpoint}", on_status=told)
    heard = asyncio.Event()
    radio.register("C0:00:00:00:00:01", lambda _device, _rssi_dbm: heard.set())
    radio.listen("C0:00:00:00:00:01", True)
    running = asyncio.create_task(radio.run())
    status = await told.next()
    assert not radio.available
    assert status.startswith(f"tcp-client:{endpoint}: ")
    assert status.endswith(": Connection refused")

    again = VirtualRadio()
    await again.serve(endpoint)
    await Peripheral(again, "C0:00:00:00:00:01", "late").advertise()
    await within(heard.wait())
    assert radio.status == "scanning"
    running.cancel()
    await asyncio.wait({running})
    assert radio.status == "stopped"
    again.close()


async def test_a_transport_that_bumble_does_not_know_ends_the_daemon_with_the_ones_it_does() -> None:
    with pytest.raises(RadioRejected, match="radio transport tpc-client:x: unknown transport scheme") as refused:
        await open_radio("bumble", transport="tpc-client:x").run()
    assert refused.value.exit_code == 2
    assert "tcp-client:" in refused.value.hint


def test_bumble_without_a_transport_or_without_its_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RadioRejected, match="needs a transport"):
        open_radio("bumble")
    monkeypatch.setattr("gateway.ble.find_spec", lambda _name: None)
    with pytest.raises(RadioRejected, match="bumble is not installed") as missing:
        open_radio("bumble", transport="usb:0")
    assert missing.value.hint == "pip install 'fidget-gateway[bumble]'"


async def test_the_scan_stops_when_nobody_listens_and_starts_again_when_somebody_does(
    air: Air, host: Callable[..., Host]
) -> None:
    peripheral = await air.peripheral()
    gateway = host(air.transport)
    gateway.wearable(peripheral.address, _Quiet())
    gateway.start()
    await gateway.until(lambda: gateway.wearables[0].runner.state == "configuring" and not _scanning(air))
    assert gateway.radio.status == "ready"
    peripheral.lose_link()
    await gateway.until(lambda: gateway.wearables[0].runner.counters.connects == 2)


async def test_a_wearable_that_was_not_let_pair_is_left_alone_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    radio, heard = Radio(Stack()), []
    for number in (1, 2):
        address = f"C0:00:00:00:00:0{number}"
        radio.register(address, lambda device, _rssi_dbm: heard.append(device.address.upper()))
        radio.listen(address, True)
    radio.leave_alone("c0:00:00:00:00:01")
    for number in (1, 2):
        radio._advertised(*advertisement(number, []))
    assert heard == ["C0:00:00:00:00:02"]
    monkeypatch.setattr(radio_module, "UNPAIRED_S", 0.0)  # the while is over with the loop's next turn
    radio.leave_alone("C0:00:00:00:00:01")
    over = asyncio.Event()
    asyncio.get_running_loop().call_later(0.0, over.set)
    await within(over.wait())
    radio._advertised(*advertisement(1, []))
    assert heard == ["C0:00:00:00:00:02", "C0:00:00:00:00:01"]


async def test_who_else_advertises_is_remembered_while_somebody_is_listened_for() -> None:
    radio = Radio(Stack())
    radio.register("C0:00:00:00:00:01", lambda _device, _rssi_dbm: None)
    radio.listen("C0:00:00:00:00:01", True)
    battery, heart = "0000180f-0000-1000-8000-00805f9b34fb", "0000180d-0000-1000-8000-00805f9b34fb"
    for number, uuids in [(1, [heart]), (2, [heart.upper(), battery]), (3, [battery]), (4, [heart]), (2, [heart])]:
        radio._advertised(*advertisement(number, uuids))
    assert radio.strangers() == [
        Stranger("C0:00:00:00:00:03", "no 3", frozenset([battery])),
        Stranger("C0:00:00:00:00:04", "no 4", frozenset([heart])),
        Stranger("C0:00:00:00:00:02", "no 2", frozenset([heart])),
    ]
    for number in range(5, 5 + STRANGERS_MAX):
        radio._advertised(*advertisement(number, [battery]))
    assert {one.services for one in radio.strangers()} == {frozenset([battery])}
    assert len(radio.strangers()) == STRANGERS_MAX


def test_a_name_that_anybody_advertises_writes_no_line_of_its_own_to_the_log() -> None:
    radio = Radio(Stack())
    radio._advertised(*advertisement(1, [], "left\n2026 gateway: all well\x1b[2J"))
    (stranger,) = radio.strangers()
    assert stranger.name == "left?2026 gateway: all well?[2J"


def advertisement(number: int, uuids: list[str], name: str | None = None) -> tuple[BLEDevice, AdvertisementData]:
    name = name or f"no {number}"
    device = BLEDevice(f"c0:00:00:00:00:{number:02x}", name, None)
    return device, AdvertisementData(name, {}, {}, uuids, None, -50, ())


class Statuses:
    """What the radio says of itself, in order."""

    def __init__(self) -> None:
        self._said: asyncio.Queue[str] = asyncio.Queue()

    def __call__(self, status: str) -> None:
        self._said.put_nowait(status)

    async def next(self) -> str:
        return str(await within(self._said.get()))


def _scanning(air: Air) -> bool:
    return any(host.controller.le_scan_enable for host in air.radio._hosts.values())


class _Quiet:
    def handle(self, _event: object, _now_ns: int) -> list[object]:
        return []


class _Scanner(BaseBleakScanner):
    """A stack whose scans fail as BlueZ's do; what bleak's classes do with it is bleak's own code."""

    def __init__(self, *_: object, script: "Stack", **__: object) -> None:
        super().__init__(None, None)
        self._script = script

    async def start(self) -> None:
        self._script.starts.append("start")
        if self._script.errors:
            raise self._script.errors.pop(0)

    async def stop(self) -> None:
        self._script.starts.append("stop")
        raise BleakError("[org.bluez.Error.Failed] No discovery started")


class Stack:
    """An adapter whose attach and scans go as the test says."""

    name = "hci0"

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.attached: list[set[str]] = []
        self.away: list[Exception] = []
        self.starts: list[str] = []

    async def attach(self, addresses: Collection[str]) -> None:
        self.attached.append(set(addresses))
        if self.away:
            raise self.away.pop(0)

    async def wait_lost(self) -> None:
        await asyncio.Event().wait()

    async def detach(self) -> None:
        pass

    def scanner(self, _heard: Heard, *, each: bool = False) -> BleakScanner:
        del each
        return BleakScanner(backend=_Scanner, script=self)

    def client(
        self, device: BLEDevice, lost: Lost, services: Sequence[str] | None, timeout_s: float, told: Told = untold
    ) -> BleakClient:
        raise NotImplementedError

    def is_full(self, _error: BaseException) -> bool:
        return False

    def left_half_open(self, _error: BaseException) -> bool:
        return False

    async def forget(self, device: BLEDevice) -> None:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            BleakBluetoothNotAvailableError("x", BleakBluetoothNotAvailableReason.POWERED_OFF),
            "hci0: the adapter is switched off",
        ),
        (
            BleakBluetoothNotAvailableError("x", BleakBluetoothNotAvailableReason.NO_BLUETOOTH),
            "hci0: no Bluetooth adapter",
        ),
        (TimeoutError(), "hci0: no answer within 10 s"),
        (EOFError(), "hci0: EOFError"),
        (BleakError("[org.bluez.Error.NotReady] Resource Not Ready"), "hci0: [org.bluez.Error.NotReady] Resource Not"),
    ],
)
async def test_a_scan_that_cannot_start_is_told_in_words_and_tried_again(error: Exception, words: str) -> None:
    stack, told = Stack(error), Statuses()
    radio = Radio(stack, told)
    radio.register("c0:00:00:00:00:01", lambda _device, _rssi_dbm: None)
    radio.listen("c0:00:00:00:00:01", True)
    running = asyncio.create_task(radio.run())
    assert await told.next() == "ready"
    assert (await told.next()).startswith(words)
    while await told.next() != "scanning":
        pass
    running.cancel()
    await asyncio.wait({running})


async def test_scans_that_are_refused_again_and_again_attach_the_adapter_afresh_and_spare_live_links(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(radio_module, "RETRY_MAX_S", 0.01)
    stack, told = Stack(*[BleakError("[org.bluez.Error.InProgress] In Progress")] * 4), Statuses()
    radio = Radio(stack, told)
    radio.register("C0:00:00:00:00:01", lambda _device, _rssi_dbm: None)
    radio.register("c0:00:00:00:00:02", lambda _device, _rssi_dbm: None)
    running = asyncio.create_task(radio.run())
    assert await told.next() == "ready"
    assert stack.attached == [{"C0:00:00:00:00:01", "C0:00:00:00:00:02"}]
    radio.listen("C0:00:00:00:00:01", True)
    radio.listen("C0:00:00:00:00:02", False)  # it is connected meanwhile
    assert [await told.next() for _ in range(3)] == [
        "hci0: [org.bluez.Error.InProgress] In Progress",
        "ready",
        "scanning",
    ]
    assert stack.attached[1:] == [{"C0:00:00:00:00:01"}]
    running.cancel()
    await asyncio.wait({running})


async def test_a_scan_is_begun_afresh_every_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that ran over the adapter's being switched off and on is deaf, and cannot even be stopped."""
    monkeypatch.setattr(radio_module, "RESCAN_S", 0.01)
    stack, told = Stack(), Statuses()
    radio = Radio(stack, told)
    radio.listen("C0:00:00:00:00:01", True)
    running = asyncio.create_task(radio.run())
    assert [await told.next() for _ in range(6)] == ["ready", "scanning"] * 3
    assert stack.starts[:5] == ["start", "stop", "start", "stop", "start"]
    assert len(stack.attached) == 1
    running.cancel()
    await asyncio.wait({running})


async def test_who_looks_around_is_told_of_those_that_the_scan_under_way_has_told_of() -> None:
    """BlueZ tells a scan of each device once."""
    stack, told = Stack(), Statuses()
    radio = Radio(stack, told)
    radio.listen("C0:00:00:00:00:01", True)
    running = asyncio.create_task(radio.run())
    assert [await told.next() for _ in range(2)] == ["ready", "scanning"]
    async with radio.overhear(lambda _device, _data: None):
        assert [await told.next() for _ in range(2)] == ["ready", "scanning"]
    assert stack.starts == ["start", "stop", "start"]
    running.cancel()
    await asyncio.wait({running})


async def test_an_adapter_that_is_away_is_named_until_it_is_back() -> None:
    stack, told = Stack(), Statuses()
    stack.away = [RadioAway("hci0: BlueZ has no such adapter"), RadioAway("hci0: BlueZ has no such adapter")]
    running = asyncio.create_task(Radio(stack, told).run())
    assert await told.next() == "hci0: BlueZ has no such adapter"
    assert await told.next() == "ready"
    assert len(stack.attached) == 3
    running.cancel()
    await asyncio.wait({running})


def test_the_transports_that_are_taken_before_opening_one_are_those_of_bumble() -> None:
    source = inspect.getsource(bumble.transport._open_transport)
    conditions = " ".join(re.findall(r"if scheme (?:==|in) (.*):", source))
    assert set(TRANSPORTS) == set(re.findall(r"'([a-z-]+)'", conditions))
    for good in ("serial:/dev/ttyACM0,1000000", "hci-socket", "android-netsim", "usb:[driver=rtk]0"):
        check_transport(good)
    with pytest.raises(RadioRejected, match=r"radio\.transport 'usb': nothing follows 'usb'") as refused:
        check_transport("usb")
    assert refused.value.exit_code == 2
