"""A wearable on a controller behind a transport: seen, read and streamed from by a central that has another one.

The controllers are the project's virtual radio and Bumble's own controller, each behind a TCP socket.
"""

import asyncio
import random
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from bumble.controller import Controller
from bumble.core import UUID, AdvertisingData
from bumble.device import Advertisement, Device, DeviceConfiguration, Peer
from bumble.hci import Address
from bumble.host import Host
from bumble.link import LocalLink
from bumble.transport import open_transport
from bumble.transport.common import PacketParser

from firmware_sim import encoding
from firmware_sim.cli import main
from firmware_sim.endpoint import Endpoint
from firmware_sim.radio import VirtualRadio
from firmware_sim.scenario import parse_wearable
from firmware_sim.simulation import Simulation
from firmware_sim.transport import CannotOpen, TransportRadio, open_controller
from gateway.clock import Clock
from gateway.errors import InputRejected

WITHIN_S = 20


class BumblesOwn:
    """Bumble's controllers as they are, one for each socket that is opened: they claim extended advertising."""

    def __init__(self) -> None:
        self.link = LocalLink()  # type: ignore[no-untyped-call]
        self.places = 0

    async def serve(self, endpoint: Endpoint) -> Endpoint:
        self.server, chosen = await endpoint.listen(self._attached)
        return chosen

    def _attached(self) -> asyncio.Protocol:
        self.places += 1
        controller = Controller(f"C{self.places}", link=self.link, public_address=f"00:00:00:00:00:{self.places:02X}")
        return Socket(controller)

    def close(self) -> None:
        self.server.close()


class Socket(asyncio.Protocol):
    def __init__(self, controller: Controller) -> None:
        self.controller, self.parser = controller, PacketParser()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.controller.host = self  # type: ignore[assignment]
        self.parser.set_packet_sink(self.controller)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_packet(self, packet: bytes) -> None:
        self.transport.write(packet)  # type: ignore[attr-defined]


@pytest.fixture(params=[VirtualRadio, BumblesOwn], ids=["virtual-radio", "bumbles-own-controller"])
async def socket_of_controllers(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    air = request.param()
    endpoint = await air.serve(Endpoint.parse("127.0.0.1:0"))
    yield f"tcp-client:{endpoint}"
    air.close()


@asynccontextmanager
async def wearable(transport: str, text: str = "name=left") -> AsyncIterator[Simulation]:
    radio = await TransportRadio.open([transport])
    simulation = Simulation(Clock(None).mono_ns, random.Random(1), radio)
    still = np.zeros((5000, 6), np.float32)
    still[:, 2] = 9.80665
    simulation.add(parse_wearable(text), still)
    running = asyncio.create_task(simulation.run())
    await simulation.started.wait()
    try:
        yield simulation
    finally:
        simulation.close()
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        await radio.close()


@asynccontextmanager
async def central(transport: str) -> AsyncIterator[Device]:
    opened = await open_transport(transport)
    config = DeviceConfiguration(name="central", address=Address("F0:F1:F2:F3:F4:F5"))
    device = Device(config=config, host=Host(opened.source, opened.sink))
    await device.power_on()
    yield device
    await opened.close()


async def heard(device: Device, wanted: Callable[[Advertisement], bool]) -> Advertisement:
    found: asyncio.Future[Advertisement] = asyncio.get_running_loop().create_future()

    def hear(advertisement: Advertisement) -> None:
        if wanted(advertisement) and not found.done():
            found.set_result(advertisement)

    device.on(Device.EVENT_ADVERTISEMENT, hear)
    await device.start_scanning(active=False)
    try:
        async with asyncio.timeout(WITHIN_S):
            return await found
    finally:
        device.remove_listener(Device.EVENT_ADVERTISEMENT, hear)
        await device.stop_scanning()


async def test_a_central_on_another_controller_sees_reads_and_streams(socket_of_controllers: str) -> None:
    async with wearable(socket_of_controllers) as simulation, central(socket_of_controllers) as device:
        uuid = UUID(encoding.SERVICE_UUID)
        advertisement = await heard(
            device,
            lambda a: uuid in (a.data.get(AdvertisingData.Type.COMPLETE_LIST_OF_128_BIT_SERVICE_CLASS_UUIDS) or []),
        )
        assert str(advertisement.address).startswith(simulation.wearables[0].spec.ble_address())
        async with asyncio.timeout(WITHIN_S):
            connection = await device.connect(advertisement.address)
            peer = Peer(connection)
            await peer.request_mtu(247)
            await peer.discover_services()
            await peer.discover_characteristics()
            of = {uuid: peer.get_characteristics_by_uuid(UUID(uuid))[0] for uuid in ALL}
            info = bytes(await of[encoding.INFO_UUID].read_value())
            serial = struct.unpack_from("<Q", info, 12)[0]
            frames: asyncio.Queue[bytes] = asyncio.Queue()
            answers: asyncio.Queue[bytes] = asyncio.Queue()
            await of[encoding.LIVE_UUID].subscribe(frames.put_nowait)
            await of[encoding.CONTROL_UUID].subscribe(answers.put_nowait)
            await of[encoding.CONTROL_UUID].write_value(bytes([encoding.Op.START_LIVE]), with_response=True)
            answer = bytes(await answers.get())
            got = [bytes(await frames.get()) for _ in range(3)]
        assert serial == simulation.wearables[0].spec.serial_number()
        assert answer[:2] == b"\x81\x00"
        first = struct.unpack_from("<I", answer, 4)[0]
        assert [(len(frame), struct.unpack_from("<I", frame, 8)[0]) for frame in got] == [
            (244, first + 19 * n) for n in range(3)
        ]


ALL = (encoding.INFO_UUID, encoding.LIVE_UUID, encoding.CONTROL_UUID)


async def test_it_advertises_again_with_its_new_fill_and_after_a_link(socket_of_controllers: str) -> None:
    async with wearable(socket_of_controllers) as simulation, central(socket_of_controllers) as device:
        address = Address(simulation.wearables[0].spec.ble_address())
        async with asyncio.timeout(WITHIN_S):
            connection = await device.connect(address)
            await connection.disconnect()
        simulation.wearables[0].device.sample(np.zeros((400_000, 6), np.float32))

        def full(advertisement: Advertisement) -> bool:
            data = advertisement.data.get(AdvertisingData.Type.MANUFACTURER_SPECIFIC_DATA)
            return data is not None and data[1][1] & 0x7F >= 100

        assert (await heard(device, full)).address == address


async def test_out_of_range_ends_links_and_lets_none_stand() -> None:
    air = VirtualRadio()
    transport = f"tcp-client:{await air.serve(Endpoint.parse('127.0.0.1:0'))}"
    async with wearable(transport) as simulation, central(transport) as device, asyncio.timeout(WITHIN_S):
        address = Address(simulation.wearables[0].spec.ble_address())
        for _ in range(2):
            connection = await device.connect(address)
            ended = asyncio.Event()
            connection.on("disconnection", lambda _, ended=ended: ended.set())
            simulation.wearables[0].peripheral.out_of_range(True)
            await ended.wait()
        simulation.wearables[0].peripheral.out_of_range(False)
        peer = Peer(await device.connect(address))
        await peer.discover_services()
        assert UUID(encoding.SERVICE_UUID) in [service.uuid for service in peer.services]
    air.close()


async def test_a_controller_that_goes_away_is_named() -> None:
    air = VirtualRadio()
    transport = f"tcp-client:{await air.serve(Endpoint.parse('127.0.0.1:0'))}"
    radio = await TransportRadio.open([transport])
    air.close()
    async with asyncio.timeout(WITHIN_S):
        assert await radio.wait_lost() == transport
    await radio.close()


async def test_a_second_wearable_finds_no_transport_left() -> None:
    with pytest.raises(InputRejected, match="no transport is left for 'right'"):
        TransportRadio([]).wearable("right")


async def test_whoever_hangs_up_instead_of_answering_is_told() -> None:
    class HangsUp(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            transport.close()

    server, endpoint = await Endpoint.parse("127.0.0.1:0").listen(HangsUp)
    with pytest.raises(CannotOpen, match="transport lost"):
        await open_controller(f"tcp-client:{endpoint}")
    server.close()


async def test_whoever_never_answers_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("firmware_sim.transport.OPEN_S", 0.3)
    server, endpoint = await Endpoint.parse("127.0.0.1:0").listen(asyncio.Protocol)
    with pytest.raises(CannotOpen, match=r"no controller answers within 0\.3 s"):
        await open_controller(f"tcp-client:{endpoint}")
    server.close()


WRONG = [
    (["--transport", "nonsense"], 2, "transport 'nonsense'"),
    (["--transport", "tcp-client:127.0.0.1:1"], 1, "transport 'tcp-client:127.0.0.1:1'"),
    (["--transport", "tcp-client:nowhere"], 1, "transport 'tcp-client:nowhere'"),
    (["--transport", "serial:/dev/no-such-tty,1000000"], 1, "/dev/no-such-tty"),
    (["--transport", "usb:77"], 1, "transport 'usb:77'"),
    (["--transport", "usb:0", "--listen", "127.0.0.1:0"], 2, "--listen and --transport: one of them"),
    (["--transport", "usb:0", "--transport", "usb:1"], 2, "1 wearables and 2 transports"),
    (["--transport", "usb:0", "--transport", "usb:0", "--wearable", "name=b"], 2, "a transport is named twice"),
]


@pytest.mark.parametrize(("arguments", "exit_code", "said"), WRONG, ids=[" ".join(a) for a, _, _ in WRONG])
def test_a_transport_that_cannot_be_used_is_told_in_words(
    arguments: list[str], exit_code: int, said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["run", "--wearable", "name=a; duration_s=1", *arguments]) == exit_code
    told = capsys.readouterr()
    assert told.err.startswith("error: ")
    assert said in told.err
    assert "Traceback" not in told.err
