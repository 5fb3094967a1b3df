"""bleak's own API over the Bumble backend, on the real Bumble stack: two hosts, a virtual radio between them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from bleak import BleakClient
from bleak.backends.characteristic import BleakGATTCharacteristic
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData
from bleak.exc import BleakCharacteristicNotFoundError, BleakError, BleakGATTProtocolError
from bumble import hci
from bumble.core import AdvertisingData
from hypothesis import given
from hypothesis import strategies as st

from gateway.ble.bumble_backend import BumbleAdapter, BumbleClient, advertisement_data
from gateway.ble.errors import RadioAway, RadioRejected
from tests.gateway.ble.conftest import (
    HANGING,
    INDICATING,
    LONG,
    LONG_VALUE,
    NOTIFYING,
    REFUSED,
    SERVICE,
    WRITABLE,
    Air,
    Peripheral,
    within,
)


@pytest.fixture
async def adapter(air: Air) -> AsyncIterator[BumbleAdapter]:
    made = BumbleAdapter(air.transport)
    await made.attach()
    yield made
    await made.detach()


@pytest.fixture
async def peripheral(air: Air) -> Peripheral:
    return await air.peripheral()


async def heard(adapter: BumbleAdapter, address: str) -> tuple[BLEDevice, AdvertisementData]:
    found: asyncio.Future[tuple[BLEDevice, AdvertisementData]] = asyncio.get_running_loop().create_future()

    def report(device: BLEDevice, data: AdvertisementData) -> None:
        if device.address == address and data.local_name is not None and not found.done():
            found.set_result((device, data))

    async with adapter.scanner(report):
        async with asyncio.timeout(10):
            return await found


class Losses(list[BleakClient]):
    """The disconnected callback's calls."""

    def __init__(self) -> None:
        self.first = asyncio.Event()

    def __call__(self, client: BleakClient) -> None:
        self.append(client)
        self.first.set()


@asynccontextmanager
async def connected(adapter: BumbleAdapter, address: str, lost: Losses | None = None) -> AsyncIterator[BleakClient]:
    device, _ = await heard(adapter, address)
    client = adapter.client(device, Losses() if lost is None else lost, None, 10.0)
    await client.connect()
    try:
        yield client
    finally:
        await client.disconnect()


async def test_a_scan_reports_address_name_services_and_manufacturer_data(
    adapter: BumbleAdapter, peripheral: Peripheral
) -> None:
    device, data = await heard(adapter, peripheral.address)
    assert device.name == data.local_name == "peripheral 1"
    assert data.service_uuids == [SERVICE]
    assert data.manufacturer_data == {0xFFFF: b"\x01\x80"}
    assert data.rssi == -50


async def test_connecting_exchanges_the_mtu_and_discovers_every_characteristic(
    adapter: BumbleAdapter, peripheral: Peripheral
) -> None:
    async with connected(adapter, peripheral.address) as client:
        assert client.is_connected
        assert client.mtu_size == 247
        service = client.services.get_service(SERVICE)
        assert service is not None
        found = {c.uuid: set(c.properties) for c in service.characteristics}
        assert found == {
            LONG: {"read"},
            WRITABLE: {"write", "write-without-response"},
            NOTIFYING: {"notify"},
            INDICATING: {"indicate"},
            HANGING: {"read"},
        }
        notifying = service.get_characteristic(NOTIFYING)
        assert notifying is not None
        assert [d.description for d in notifying.descriptors] == ["Client Characteristic Configuration"]


async def test_only_the_services_asked_for_are_discovered(adapter: BumbleAdapter, peripheral: Peripheral) -> None:
    device, _ = await heard(adapter, peripheral.address)
    client = adapter.client(device, Losses(), [SERVICE], 10.0)
    await client.connect()
    assert [service.uuid for service in client.services] == [SERVICE]
    await client.disconnect()


async def test_connecting_by_address_alone_looks_for_the_device_first(
    adapter: BumbleAdapter, peripheral: Peripheral
) -> None:
    async with BleakClient(peripheral.address.lower(), backend=BumbleClient, radio=adapter) as client:
        assert await client.read_gatt_char(LONG) == LONG_VALUE


async def test_a_value_longer_than_the_mtu_is_read_whole(adapter: BumbleAdapter, peripheral: Peripheral) -> None:
    async with connected(adapter, peripheral.address) as client:
        assert await client.read_gatt_char(LONG) == LONG_VALUE


async def test_writes_arrive_with_and_without_response(adapter: BumbleAdapter, peripheral: Peripheral) -> None:
    async with connected(adapter, peripheral.address) as client:
        await client.write_gatt_char(WRITABLE, b"without", response=False)
        await client.write_gatt_char(WRITABLE, b"with", response=True)
        assert peripheral.written == [b"without", b"with"]


async def test_a_refused_write_says_the_peripherals_error_code(adapter: BumbleAdapter, peripheral: Peripheral) -> None:
    async with connected(adapter, peripheral.address) as client:
        with pytest.raises(BleakGATTProtocolError) as refused:
            await client.write_gatt_char(WRITABLE, b"refuse", response=True)
        assert refused.value.code == REFUSED


async def test_a_characteristic_that_is_not_there_is_named(adapter: BumbleAdapter, peripheral: Peripheral) -> None:
    async with connected(adapter, peripheral.address) as client:
        with pytest.raises(BleakCharacteristicNotFoundError, match="f1d9e706"):
            await client.read_gatt_char("f1d9e706-6a3b-4d6e-8f52-0c1b7a9d4e21")


async def test_each_notification_comes_once_and_in_order_also_after_losses_and_moved_handles(air: Air) -> None:
    """Each link discovers anew: the peripheral comes back with other handles."""
    adapter = BumbleAdapter(air.transport)
    await adapter.attach()
    for round_ in range(4):
        peripheral = await air.peripheral(number=round_ + 1, padding=round_)
        came: list[bytes] = []
        last = asyncio.Event()

        def take(
            _: BleakGATTCharacteristic, data: bytearray, came: list[bytes] = came, last: asyncio.Event = last
        ) -> None:
            came.append(bytes(data))
            if len(came) == 100:
                last.set()

        lost = Losses()
        async with connected(adapter, peripheral.address, lost) as client:
            await client.start_notify(NOTIFYING, take)
            await client.start_notify(INDICATING, take)
            sent = [bytes([round_, n]) for n in range(100)]
            for n, payload in enumerate(sent):
                await (peripheral.indicate(payload) if n % 2 else peripheral.notify(payload))
            await within(last.wait())
            assert sorted(came) == sent
            for kind in (0, 1):
                assert [p for p in came if p[1] % 2 == kind] == sent[kind::2]
            peripheral.lose_link()
            await within(lost.first.wait())
            assert not client.is_connected
        assert len(lost) == 1
    await adapter.detach()


async def test_the_same_peripheral_connected_again_delivers_once(
    adapter: BumbleAdapter, peripheral: Peripheral
) -> None:
    for _ in range(3):
        came: asyncio.Queue[bytes] = asyncio.Queue()
        lost = Losses()
        async with connected(adapter, peripheral.address, lost) as client:
            await client.start_notify(NOTIFYING, lambda _, data, came=came: came.put_nowait(bytes(data)))
            await peripheral.notify(b"one")
            await peripheral.notify(b"two")
            assert [await within(came.get()) for _ in range(2)] == [b"one", b"two"]
            assert came.empty()
            peripheral.lose_link()
            await within(lost.first.wait())


async def test_stop_notify_ends_the_notifications(adapter: BumbleAdapter, peripheral: Peripheral) -> None:
    async with connected(adapter, peripheral.address) as client:
        came: list[bytes] = []
        await client.start_notify(NOTIFYING, lambda _, data: came.append(bytes(data)))
        with pytest.raises(BleakError, match="already started"):
            await client.start_notify(NOTIFYING, lambda *_: None)
        await client.stop_notify(NOTIFYING)
        await peripheral.notify(b"unheard")
        await client.read_gatt_char(LONG)  # whatever was sent before is here once this is answered
        assert came == []


async def test_a_link_lost_in_the_middle_of_a_read_is_an_error_and_not_a_cancellation(
    adapter: BumbleAdapter, peripheral: Peripheral
) -> None:
    lost = Losses()
    async with connected(adapter, peripheral.address, lost) as client:
        read = asyncio.create_task(client.read_gatt_char(HANGING))
        await within(peripheral.reading.wait())
        peripheral.lose_link()
        with pytest.raises(BleakError, match="link lost"):
            await within(read)
        assert len(lost) == 1
        with pytest.raises(BleakError):
            await client.read_gatt_char(LONG)


async def test_a_read_that_hangs_can_be_given_up(adapter: BumbleAdapter, peripheral: Peripheral) -> None:
    async with connected(adapter, peripheral.address) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await client.read_gatt_char(HANGING)
    assert not client.is_connected


async def test_giving_up_on_an_absent_device_leaves_the_adapter_free_for_another(
    adapter: BumbleAdapter, peripheral: Peripheral
) -> None:
    absent = BLEDevice("C0:00:00:00:00:77", None, hci.Address("C0:00:00:00:00:77"))
    with pytest.raises(TimeoutError):
        await adapter.client(absent, Losses(), None, 0.3).connect()
    async with connected(adapter, peripheral.address) as client:
        assert client.is_connected


async def test_a_connection_that_is_made_while_it_is_given_up_is_ended(
    adapter: BumbleAdapter, peripheral: Peripheral
) -> None:
    """Nobody would own it, and the wearable would advertise no more."""
    device, _ = await heard(adapter, peripheral.address)
    connecting = asyncio.create_task(adapter.client(device, Losses(), None, 10.0).connect())
    adapter.device.once("connection", lambda _: connecting.cancel())
    with pytest.raises(asyncio.CancelledError):
        await within(connecting)
    assert not adapter.device.connections
    async with connected(adapter, peripheral.address) as client:
        assert await client.read_gatt_char(LONG) == LONG_VALUE


async def test_a_connection_that_nobody_waits_for_any_more_is_ended(
    adapter: BumbleAdapter, peripheral: Peripheral
) -> None:
    device, _ = await heard(adapter, peripheral.address)
    ended = asyncio.Event()
    adapter.device.once("connection", lambda connection: connection.on("disconnection", lambda _: ended.set()))
    await adapter.device.connect(device.details)
    await within(ended.wait())


async def test_a_lost_transport_ends_links_and_can_be_attached_again(
    air: Air, adapter: BumbleAdapter, peripheral: Peripheral
) -> None:
    lost = Losses()
    async with connected(adapter, peripheral.address, lost) as client:
        read = asyncio.create_task(client.read_gatt_char(HANGING))
        await within(peripheral.reading.wait())
        for host in list(air.radio._hosts.values()):
            host.close()
        await within(adapter.wait_lost())
        with pytest.raises(BleakError, match=r"transport lost|link lost"):
            await within(read)
        await within(lost.first.wait())
    await adapter.attach()
    async with connected(adapter, peripheral.address) as client:
        assert await client.read_gatt_char(LONG) == LONG_VALUE
    assert len(lost) == 1


async def test_a_transport_lost_while_connecting_is_told_at_once(air: Air, adapter: BumbleAdapter) -> None:
    absent = BLEDevice("C0:00:00:00:00:77", None, hci.Address("C0:00:00:00:00:77"))
    connecting = asyncio.create_task(adapter.client(absent, Losses(), None, 60.0).connect())
    virtual_host = next(iter(air.radio._hosts.values()))
    while virtual_host.controller.pending_le_connection is None:  # noqa: ASYNC110
        await asyncio.sleep(0)
    virtual_host.close()
    with pytest.raises(BleakError, match="transport lost"):
        await within(connecting)


async def test_detaching_ends_the_links(adapter: BumbleAdapter, peripheral: Peripheral) -> None:
    lost = Losses()
    async with connected(adapter, peripheral.address, lost) as client:
        await adapter.detach()
        assert not client.is_connected
    assert len(lost) == 1


async def test_without_an_adapter_scan_and_connect_say_so(air: Air) -> None:
    adapter = BumbleAdapter(air.transport)
    with pytest.raises(BleakError, match="not attached"):
        async with adapter.scanner(lambda _device, _data: None):
            pass
    device = BLEDevice("C0:00:00:00:00:01", None, hci.Address("C0:00:00:00:00:01"))
    with pytest.raises(BleakError, match="not attached"):
        await adapter.client(device, Losses(), None, 1.0).connect()


async def test_a_transport_that_refuses_or_does_not_exist_is_named() -> None:
    with pytest.raises(RadioAway, match=r"tcp-client:127\.0\.0\.1:1: .*"):
        await BumbleAdapter("tcp-client:127.0.0.1:1").attach()
    with pytest.raises(RadioAway, match=r"unix:/nonexistent/hci: .*No such file"):
        await BumbleAdapter("unix:/nonexistent/hci").attach()
    with pytest.raises(RadioRejected, match="radio transport tpc-client:x: unknown transport scheme"):
        await BumbleAdapter("tpc-client:x").attach()


async def test_a_transport_that_answers_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.ble.bumble_backend.ATTACH_S", 0.2)
    server = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(RadioAway, match=r"no answer within 0\.2 s"):
        await BumbleAdapter(f"tcp-client:127.0.0.1:{port}").attach()
    server.close()


def test_advertising_data_as_the_supplement_lays_it_out() -> None:
    """Core Specification Supplement 11, Part A: 1.1 UUIDs, 1.2 name, 1.4 manufacturer data, 1.5 TX power, 1.11 service
    data."""
    raw = bytes.fromhex("030318180409 4f4d47 020af4 05ff4c00 1002 0416 0f18 64 0303 0d".replace(" ", ""))
    data = advertisement_data(raw, AdvertisingData.from_bytes(raw).ad_structures, -60)
    assert data.local_name == "OMG"
    assert data.service_uuids == ["00001818-0000-1000-8000-00805f9b34fb"]
    assert data.manufacturer_data == {0x004C: b"\x10\x02"}
    assert data.service_data == {"0000180f-0000-1000-8000-00805f9b34fb": b"\x64"}
    assert data.tx_power == -12
    assert data.rssi == -60


@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=29)), max_size=8))
def test_no_advertisement_of_a_stranger_is_an_error(structures: list[tuple[int, bytes]]) -> None:
    advertisement_data(b"", structures, -90)


async def test_an_attempt_that_was_given_up_does_not_end_the_next_one(air: Air, adapter: BumbleAdapter) -> None:
    """The controller tells of its end after it has answered the cancellation."""
    deaf, sound = await air.peripheral(2), await air.peripheral(3)
    deaf.controller.deaf = True
    devices = [(await heard(adapter, peripheral.address))[0] for peripheral in (deaf, sound)]
    slow = air.radio._hosts[1].controller
    send = slow.send_hci_packet

    def late(packet: hci.HCI_Packet) -> None:
        told = isinstance(packet, hci.HCI_LE_Connection_Complete_Event) and packet.status
        asyncio.get_running_loop().call_later(0.4 if told else 0.0, send, packet)

    slow.send_hci_packet = late
    for _ in range(2):
        given_up = asyncio.create_task(adapter.client(devices[0], Losses(), None, 10.0).connect())
        await asyncio.wait({given_up}, timeout=0.1)
        given_up.cancel()
        await asyncio.wait({given_up})
        sound.controller.deaf = True
        asyncio.get_running_loop().call_later(0.6, setattr, sound.controller, "deaf", False)
        client = adapter.client(devices[1], Losses(), None, 10.0)
        await client.connect()
        await client.disconnect()
