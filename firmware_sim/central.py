"""A central over Bumble that looks at one wearable: what it advertises, its GATT table, values, answers and frames.

Times in seconds here are of the radio, which is always in real time.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from bumble import att, core, hci
from bumble.core import AdvertisingData
from bumble.device import Advertisement, Connection, ConnectionParametersPreferences, Device, DeviceConfiguration, Peer

from firmware_sim import encoding
from firmware_sim.peripheral import COMPANY_ID, Controller
from gateway.errors import GatewayError

T = TypeVar("T")

CONNECT_S = 15.0
ATT_S = 30.0
"""Bluetooth Core Specification 5.4, vol. 3, part F, 3.3.3: an ATT transaction that takes longer has failed."""
DISCONNECT_S = 6.0
ATT_MTU = 247
FIRST_INTERVAL_MS, FIRST_TIMEOUT_MS = 60.0, 2000
"""Of a new link: outside what the profile asks for, so that the wearable's own request shows."""


class LinkFailed(GatewayError):
    """The link, or a request on it, came to nothing."""


class WriteRefused(Exception):
    """The ATT error that answered a write."""

    def __init__(self, att_error: int) -> None:
        super().__init__(f"ATT error 0x{att_error:02x}")
        self.att_error = att_error


@dataclass(frozen=True, slots=True)
class Heard:
    """An advertisement. manufacturer: what follows the company number, None where there is none. connectable: it takes
    connections."""

    address: str
    services: tuple[str, ...]
    manufacturer: bytes | None
    connectable: bool


@dataclass(slots=True)
class Link:
    """A connection whose notifications and indications are collected. properties: of each characteristic found."""

    connection: Connection
    characteristics: Mapping[str, Any]
    live: list[bytes] = field(default_factory=list)
    backlog: list[bytes] = field(default_factory=list)
    frames: list[bytes] = field(default_factory=list)
    """Of Live and Backlog, in the order in which they came."""
    answers: list[bytes] = field(default_factory=list)
    lost: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when something came, the parameters changed or the link was lost."""

    @property
    def properties(self) -> dict[str, int]:
        return {uuid: int(found.properties) for uuid, found in self.characteristics.items()}

    @property
    def mtu(self) -> int:
        return int(self.connection.att_mtu)

    @property
    def parameters(self) -> tuple[float, int, float]:
        """Connection interval in ms, peripheral latency, supervision timeout in ms."""
        now = self.connection.parameters
        return now.connection_interval, now.peripheral_latency, now.supervision_timeout

    async def read(self, uuid: str) -> bytes:
        """Raises LinkFailed."""
        return bytes(await self._bounded(f"reading {_name(uuid)}", self._of(uuid).read_value()))

    async def write(self, uuid: str, payload: bytes) -> None:
        """Raises LinkFailed and WriteRefused."""
        await self._bounded(f"writing {_name(uuid)}", self._of(uuid).write_value(payload, with_response=True))

    def _of(self, uuid: str) -> Any:
        if uuid not in self.characteristics:
            raise LinkFailed(f"there is no {_name(uuid)} characteristic")
        return self.characteristics[uuid]

    async def _bounded(self, what: str, operation: Any) -> Any:
        try:
            async with asyncio.timeout(ATT_S):
                return await operation
        except TimeoutError:
            raise LinkFailed(f"{what}: no response within {ATT_S:g} s") from None
        except att.ATT_Error as error:
            if what.startswith("writing"):
                raise WriteRefused(error.error_code) from None
            raise LinkFailed(f"{what}: {error}") from None
        except (core.BaseBumbleError, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and not self.lost:
                raise
            raise LinkFailed(f"{what}: {'the link was lost' if self.lost else error}") from None


class Central:
    """The host of one controller (firmware_sim.radio or firmware_sim.transport)."""

    def __init__(self, controller: Controller) -> None:
        config = DeviceConfiguration(name="check", address=hci.Address.generate_static_address())
        self._device: Device = controller.bumble_device(config)

    async def start(self) -> None:
        await self._device.power_on()

    async def scan(self, seconds: float, until: Callable[[Heard], bool] = lambda _: False) -> list[Heard]:
        """The last advertisement of each address that was heard in this time, or until one is wanted."""
        heard: dict[str, Heard] = {}
        found = asyncio.Event()

        def hear(advertisement: Advertisement) -> None:
            kinds = AdvertisingData.Type
            services = advertisement.data.get(kinds.COMPLETE_LIST_OF_128_BIT_SERVICE_CLASS_UUIDS) or []
            company = advertisement.data.get(kinds.MANUFACTURER_SPECIFIC_DATA)
            data = company[1] if company is not None and company[0] == COMPANY_ID else None
            address = advertisement.address.to_string(with_type_qualifier=False)
            one = Heard(address, tuple(_text(uuid) for uuid in services), data, advertisement.is_connectable)
            heard[address] = one
            if until(one):
                found.set()

        self._device.on(Device.EVENT_ADVERTISEMENT, hear)
        await self._device.start_scanning(active=False)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await found.wait()
        finally:
            self._device.remove_listener(Device.EVENT_ADVERTISEMENT, hear)
            await self._device.stop_scanning()
        return list(heard.values())

    async def connect(self, address: str, mtu: int = ATT_MTU) -> Link:
        """Connects, exchanges the MTU where it is above the default, discovers, subscribes to everything the profile
        notifies or indicates. Raises LinkFailed.
        """
        self._device.gatt_server.max_mtu = mtu
        preferences = ConnectionParametersPreferences(
            connection_interval_min=FIRST_INTERVAL_MS,
            connection_interval_max=FIRST_INTERVAL_MS,
            max_latency=0,
            supervision_timeout=FIRST_TIMEOUT_MS,
        )
        try:
            async with asyncio.timeout(CONNECT_S):
                connection = await self._device.connect(
                    hci.Address(address),
                    connection_parameters_preferences={hci.HCI_LE_1M_PHY: preferences},
                    timeout=None,
                )
                return await self._opened(connection, mtu)
        except TimeoutError:
            raise LinkFailed(f"{address}: no connection within {CONNECT_S:g} s") from None
        except core.BaseBumbleError as error:
            raise LinkFailed(f"{address}: {error}") from None

    async def _opened(self, connection: Connection, mtu: int) -> Link:
        peer = Peer(connection)
        if mtu > att.ATT_DEFAULT_MTU:
            await peer.request_mtu(mtu)
        await peer.discover_services()
        found: dict[str, Any] = {}
        for service in peer.services:
            if _text(service.uuid) == encoding.SERVICE_UUID:
                for characteristic in await peer.discover_characteristics(service=service):
                    found[_text(characteristic.uuid)] = characteristic
        link = Link(connection, found)

        def lose(_reason: int) -> None:
            link.lost = True
            link.changed.set()

        connection.on(Connection.EVENT_DISCONNECTION, lose)
        connection.on(Connection.EVENT_CONNECTION_PARAMETERS_UPDATE, link.changed.set)
        inboxes = {
            encoding.LIVE_UUID: link.live,
            encoding.BACKLOG_UUID: link.backlog,
            encoding.CONTROL_UUID: link.answers,
        }
        for uuid, inbox in inboxes.items():
            if uuid in found:
                inboxes_of = [inbox] if inbox is link.answers else [inbox, link.frames]
                await found[uuid].subscribe(_collector(inboxes_of, link.changed))
        return link

    async def disconnect(self, link: Link) -> None:
        """Returns once the link is over, whoever ended it."""
        with suppress(core.BaseBumbleError, TimeoutError):
            async with asyncio.timeout(DISCONNECT_S):
                if not link.lost:
                    await link.connection.disconnect()


def _collector(inboxes: Sequence[list[bytes]], changed: asyncio.Event) -> Callable[[bytes], None]:
    def collect(value: bytes) -> None:
        for inbox in inboxes:
            inbox.append(bytes(value))
        changed.set()

    return collect


def _text(uuid: core.UUID) -> str:
    return uuid.to_hex_str("-").lower()


def _name(uuid: str) -> str:
    names = {
        encoding.INFO_UUID: "Info",
        encoding.CONFIG_UUID: "Config",
        encoding.LIVE_UUID: "Live",
        encoding.BACKLOG_UUID: "Backlog",
        encoding.CONTROL_UUID: "Control",
        encoding.TIME_UUID: "Time",
    }
    return names.get(uuid, uuid)
