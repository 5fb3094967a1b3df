"""A virtual radio: in this process with a peripheral of the test's own, or as the simulator's process."""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from bumble import att, core, gatt, hci
from bumble.core import AdvertisingData
from bumble.device import Connection, Device, DeviceConfiguration
from bumble.transport.common import AsyncPipeSink

from firmware_sim.endpoint import Endpoint
from firmware_sim.radio import VirtualRadio
from firmware_sim.scenario import parse_wearable
from gateway.ble import open_radio
from gateway.ble.bonds import Admission
from gateway.ble.radio import Radio
from gateway.ble.radios import Radios
from gateway.ble.runner import LinkRunner
from gateway.link.seats import WEARABLES_MAX
from gateway.profiles import profile_of
from gateway.profiles.conversation import Conversation, Kind

REPOSITORY = Path(__file__).resolve().parents[3]
PATIENCE_S = 20.0
"""Until a test gives up; on two busy cores everything here takes a tenth of it at most."""

SERVICE = "6b1f0000-9d1c-4d3e-8c53-2a3a6f9f0e10"
LONG, WRITABLE, NOTIFYING, INDICATING, HANGING = (SERVICE[:4] + f"000{n}" + SERVICE[8:] for n in range(1, 6))
LONG_VALUE = bytes(range(256)) + bytes(range(244))
REFUSED = 0x81

Properties = gatt.Characteristic.Properties
Permissions = gatt.Characteristic.Permissions


class Peripheral:
    """One GATT server on the air, with a characteristic of each kind."""

    def __init__(self, radio: VirtualRadio, address: str, name: str, padding: int = 0) -> None:
        self.address = address
        self.written: list[bytes] = []
        self.subscribed = asyncio.Event()
        self.reading = asyncio.Event()
        self.connected = 0
        self.controller = radio.wearable(name)
        self._name = name
        config = DeviceConfiguration(name=name, address=hci.Address(address), advertising_interval_min=20)
        self.device = Device.from_config_with_hci(config, self.controller, AsyncPipeSink(self.controller))
        self.device.gatt_server.max_mtu = 247
        for n in range(padding):  # services before ours, so that our handles move
            self.device.add_service(gatt.Service(core.UUID.from_16_bits(0x1900 + n), []))
        self.notifying = _characteristic(NOTIFYING, Properties.NOTIFY)
        self.indicating = _characteristic(INDICATING, Properties.INDICATE)
        characteristics = [
            _characteristic(LONG, Properties.READ, read=lambda _: LONG_VALUE),
            _characteristic(WRITABLE, Properties.WRITE | Properties.WRITE_WITHOUT_RESPONSE, write=self._write),
            self.notifying,
            self.indicating,
            _characteristic(HANGING, Properties.READ, read=self._hang),
        ]
        self.device.add_service(gatt.Service(core.UUID(SERVICE), characteristics))
        self.device.on(Device.EVENT_CONNECTION, self._on_connection)
        self.device.on("characteristic_subscription", lambda *_: self.subscribed.set())

    async def advertise(self) -> None:
        await self.device.power_on()
        data = AdvertisingData(
            [
                (AdvertisingData.COMPLETE_LIST_OF_128_BIT_SERVICE_CLASS_UUIDS, bytes(core.UUID(SERVICE))),
                (AdvertisingData.MANUFACTURER_SPECIFIC_DATA, b"\xff\xff\x01\x80"),
            ]
        )
        response = AdvertisingData([(AdvertisingData.COMPLETE_LOCAL_NAME, self._name.encode())])
        await self.device.start_advertising(
            auto_restart=True, advertising_data=bytes(data), scan_response_data=bytes(response)
        )

    def lose_link(self) -> None:
        self.controller.end_links()

    async def notify(self, payload: bytes) -> None:
        await self.device.notify_subscribers(self.notifying, payload)

    async def indicate(self, payload: bytes) -> None:
        await self.device.indicate_subscribers(self.indicating, payload)

    def _on_connection(self, connection: Connection) -> None:
        self.connected += 1
        connection.on(Connection.EVENT_DISCONNECTION, lambda _: self.subscribed.clear())

    def _write(self, _: Connection, value: bytes) -> None:
        if value == b"refuse":
            raise att.ATT_Error(REFUSED)
        self.written.append(value)

    async def _hang(self, _: Connection) -> bytes:
        self.reading.set()
        await asyncio.Event().wait()
        return b""


def _characteristic(
    uuid: str,
    properties: Properties,
    read: Callable[[Connection], object] | None = None,
    write: Callable[[Connection, bytes], None] | None = None,
) -> gatt.Characteristic[bytes]:
    permissions = Permissions.READABLE | Permissions.WRITEABLE
    value = gatt.CharacteristicValue(read=read, write=write) if read or write else b""
    return gatt.Characteristic(core.UUID(uuid), properties, permissions, value)


@dataclass
class Air:
    """The virtual radio in this process, and what is on it."""

    transport: str
    radio: VirtualRadio

    async def peripheral(self, number: int = 1, padding: int = 0) -> Peripheral:
        made = Peripheral(self.radio, f"C0:00:00:00:00:{number:02X}", f"peripheral {number}", padding)
        await made.advertise()
        return made


@pytest.fixture
async def air() -> AsyncIterator[Air]:
    radio = VirtualRadio()
    endpoint = await radio.serve(Endpoint("127.0.0.1", 0))
    yield Air(f"tcp-client:{endpoint}", radio)
    radio.close()


@dataclass
class Simulator:
    """The simulator's process."""

    process: asyncio.subprocess.Process
    transport: str
    control: str

    async def op(self, **request: object) -> list[dict[str, object]]:
        """Of all wearables, what the control channel answers."""
        host, port = self.control.rsplit(":", 1)
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(json.dumps(request).encode() + b"\n")
            answer = json.loads(await reader.readline())
        finally:
            writer.close()
        assert "error" not in answer, answer
        return list(answer["wearables"])


def address_of(name: str) -> str:
    return parse_wearable(f"name={name}").ble_address()


@asynccontextmanager
async def simulator(wearables: Sequence[str], *options: str) -> AsyncIterator[Simulator]:
    """wearables: as `firmware-sim run --wearable` takes them."""
    listed = [part for wearable in wearables for part in ("--wearable", wearable)]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "firmware_sim", "run", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"),
        *options,
        *listed,
        stdout=asyncio.subprocess.PIPE,
        cwd=REPOSITORY,
    )
    try:
        assert process.stdout is not None
        said = [(await process.stdout.readline()).decode().split()[1] for _ in range(2)]
        yield Simulator(process, f"tcp-client:{said[1]}", said[0])
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@dataclass
class Wearable:
    """A runner under test and what it reported, in order."""

    runner: LinkRunner
    states: list[str]
    observed: list[tuple[Kind, bytes]]
    faults: list[tuple[str, str]]


@dataclass
class Host:
    """A gateway's radio side: the real adapter, one runner for each wearable."""

    radio: Radio | Radios
    speed: float = 1.0
    wearables: list[Wearable] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    _exits: AsyncExitStack = field(default_factory=AsyncExitStack)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def now_ns(self) -> int:
        return int(time.monotonic_ns() * self.speed)

    def wearable(
        self,
        address: str,
        conversation: Conversation | None = None,
        silence_s: float = 10.0,
        services: Sequence[str] | None = None,
        held: Callable[[Mapping[int, bytes]], bool | None] = lambda _: None,
        shared: bool = False,
        admission: Admission | None = None,
    ) -> Wearable:
        reference = profile_of("reference")
        states: list[str] = []
        observed: list[tuple[Kind, bytes]] = []
        faults: list[tuple[str, str]] = []

        def told(note: Callable[..., None]) -> Callable[..., None]:
            def tell(*what: str) -> None:
                note(what[0] if len(what) == 1 else what)
                self.news.set()

            return tell

        runner = LinkRunner(
            address,
            conversation or reference.conversation({}),
            self.radio,
            services=services,
            silence_s=silence_s,
            now_ns=self.now_ns,
            real_delay_s=lambda span_ns: span_ns / 1e9 / self.speed,
            observe=told(observed.append),
            on_state=told(states.append),
            on_fault=told(faults.append),
            held=held,
            shared=shared,
            admission=admission,
        )
        made = Wearable(runner, states, observed, faults)
        self.wearables.append(made)
        return made

    def start(self) -> None:
        runs = [wearable.runner.run() for wearable in self.wearables]
        self._tasks = [asyncio.create_task(run) for run in (*runs, self.radio.run())]

    async def until(self, predicate: Callable[[], bool]) -> None:
        """Waits for news of the wearables until it holds."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not predicate():
                    self.news.clear()
                    await self.news.wait()
        except TimeoutError:
            said = [(w.states[-12:], w.faults[-6:]) for w in self.wearables]
            raise AssertionError(f"not within {PATIENCE_S:g} s; radio {self.radio.status}; {said}") from None

    async def streaming(self, *wearables: Wearable) -> None:
        await self.until(lambda: all(w.runner.state == "streaming" for w in wearables or self.wearables))

    async def stop(self) -> None:
        for wearable in self.wearables:
            if self._tasks:
                await wearable.runner.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@pytest.fixture
async def host() -> AsyncIterator[Callable[..., Host]]:
    """Makes hosts on a transport, and stops them."""
    made: list[Host] = []

    def make(transport: str, speed: float = 1.0, wearables_max: int = WEARABLES_MAX) -> Host:
        radio = open_radio(
            "bumble", transport=transport, wearables_max=wearables_max, on_status=lambda _: gateway.news.set()
        )
        gateway = Host(radio, speed)
        made.append(gateway)
        return gateway

    yield make
    for each in made:
        await each.stop()


async def within(awaitable: Awaitable[object]) -> object:
    async with asyncio.timeout(PATIENCE_S):
        return await awaitable
