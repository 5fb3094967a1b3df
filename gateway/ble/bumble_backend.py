"""A bleak backend on a Bumble host over any HCI transport: a serial or USB controller without BlueZ, or a virtual radio
behind a socket.

One BumbleAdapter owns the host of this process; scanner and clients share it through bleak's `backend` argument. Bumble
ends what is under way by cancelling it (a link lost in a GATT request) or not at all (a command to a transport that is
gone); BumbleAdapter.bounded turns both into a BleakError.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Sequence
from typing import Any, TypeVar
from uuid import UUID

from bleak import BleakClient, BleakScanner
from bleak.args import SizedBuffer
from bleak.assigned_numbers import CharacteristicPropertyName
from bleak.backends.characteristic import BleakGATTCharacteristic
from bleak.backends.client import BaseBleakClient, NotifyCallback
from bleak.backends.descriptor import BleakGATTDescriptor
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData, AdvertisementDataCallback, BaseBleakScanner
from bleak.backends.service import BleakGATTService, BleakGATTServiceCollection
from bleak.exc import BleakDeviceNotFoundError, BleakError, BleakGATTProtocolError
from bumble import hci
from bumble.att import ATT_Error, ErrorCode
from bumble.core import UUID as BumbleUUID
from bumble.core import AdvertisingData, BaseBumbleError, ProtocolError
from bumble.device import Advertisement, Connection, ConnectionParametersPreferences, Device, DeviceConfiguration, Peer
from bumble.gatt import GATT_CLIENT_CHARACTERISTIC_CONFIGURATION_DESCRIPTOR
from bumble.gatt_client import ServiceProxy
from bumble.host import Host
from bumble.pairing import PairingConfig
from bumble.smp import ErrorCode as SMPErrorCode
from bumble.transport import open_transport
from bumble.transport.common import Transport, TransportSpecError

from gateway.ble.adapter import Heard, Listening, Lost, Told, untold
from gateway.ble.bluez_agent import Answers, Refusals
from gateway.ble.bumble_keys import KeyFile, Panel, refusing
from gateway.ble.errors import PairingFailed, RadioAway, RadioRejected
from gateway.ble.radio import COMMAND_S, why
from gateway.link import rules
from gateway.link.bonds import Held

log = logging.getLogger(__name__)

T = TypeVar("T")

ATTACH_S = 10.0
"""Opening the transport and resetting the controller: tens of commands of a few ms; a serial controller may boot."""
CLOSE_S = 2.0
"""Closing the transport; a controller that hangs shall not hold the daemon."""
CANCEL_S = 1.0
"""LE Create Connection Cancel is answered at once by a controller that lives."""
ATT_MTU = 517
"""The largest of use: the 512 bytes a value may have (Bluetooth Core 5.4, Vol 3, Part F, 3.2.9) and a header of 5."""
DISCONNECT_S = 6.0
"""A peer that no longer answers is given up by the supervision timeout."""
CONNECTION = ConnectionParametersPreferences(
    connection_interval_min=30.0, connection_interval_max=50.0, max_latency=0, supervision_timeout=5000
)
"""ms, as the reference profile asks for. Latency 0: while a backlog drains each interval counts."""
ENCRYPT_S = 10.0
"""A few exchanges on the link."""
PAIR_S = 75.0
"""The 30 s that a person has for each of two steps (Core 5.4, Vol 3, Part H, 3.4), and the link's own."""
FIND_S = 30.0
"""To hear a wearable that is to be paired."""
_THERE = "Is the controller there, switched on, and used by nobody else?"
_NEEDS_BOND = {int(ErrorCode.INSUFFICIENT_AUTHENTICATION), int(ErrorCode.INSUFFICIENT_ENCRYPTION)}
_KEY_IS_GONE = (
    hci.HCI_ErrorCode.PIN_OR_KEY_MISSING_ERROR,
    hci.HCI_ErrorCode.AUTHENTICATION_FAILURE_ERROR,
    hci.HCI_ErrorCode.CONNECTION_TERMINATED_DUE_TO_MIC_FAILURE_ERROR,
)
"""The other side has no key for this host, or another one."""
_PAIRING_WORDS: dict[int | None, str] = {
    SMPErrorCode.PASSKEY_ENTRY_FAILED: "pairing failed: no passkey",
    SMPErrorCode.CONFIRM_VALUE_FAILED: "pairing failed: another passkey, or a number that was not confirmed",
    SMPErrorCode.NUMERIC_COMPARISON_FAILED: "pairing failed: another passkey, or a number that was not confirmed",
    SMPErrorCode.DHKEY_CHECK_FAILED: "pairing failed: another passkey, or a number that was not confirmed",
    SMPErrorCode.PAIRING_NOT_SUPPORTED: "the wearable refused to pair",
    SMPErrorCode.AUTHENTICATION_REQUIREMENTS: "the wearable refused to pair",
    SMPErrorCode.REPEATED_ATTEMPTS: "the wearable wants no more tries for a while",
}


class BumbleAdapter:
    """One Bumble host on one HCI transport, in Bumble's notation (`serial:/dev/ttyACM0,1000000`, `usb:0`,
    `tcp-client:HOST:PORT`, `unix:PATH`). After its transport was lost it can be attached again.

    keys: its bonds; without them none outlives it. answers: for wearables that want to be paired once they are
    connected. legacy: whether pairing without LE Secure Connections will do.
    """

    def __init__(
        self,
        transport: str,
        keys: KeyFile | None = None,
        answers: Answers | None = None,
        *,
        legacy: bool = True,
    ) -> None:
        self.name = transport
        self.keys = keys or KeyFile()
        self._answers = answers or Refusals()
        self._legacy = legacy
        self._panels: dict[int, Panel] = {}
        """Of who is being paired, by connection handle."""
        self._transport: Transport | None = None
        self._device: Device | None = None
        self._gone: asyncio.Future[None] | None = None
        self._wanted: hci.Address | None = None

    @property
    def device(self) -> Device:
        """Raises BleakError unless attached."""
        if self._device is None:
            raise BleakError(f"{self.name}: not attached")
        return self._device

    async def attach(self, addresses: Collection[str] = ()) -> None:
        """Raises RadioAway, and RadioRejected for a transport that Bumble does not know."""
        del addresses  # the reset ends every link that an earlier process left in the controller
        await self.detach()
        try:
            async with asyncio.timeout(ATTACH_S):
                self._transport = await open_transport(self.name)
                self._gone = self._transport.source.terminated
                host = Host(self._transport.source, self._transport.sink)
                config = DeviceConfiguration(name="fidget-gateway", address=hci.Address(self.keys.own_address))
                device = Device(config=config, host=host)
                device.keystore = self.keys
                device.pairing_config_factory = self._pairing_config
                device.on(Device.EVENT_CONNECTION, self._connected)
                await self.bounded(device.power_on())
                self._device = device
        except TransportSpecError as error:
            known = "serial:, usb:, tcp-client:, unix: and others of Bumble"
            raise RadioRejected(f"radio transport {self.name}: {error}", hint=f"Known transports: {known}.") from None
        except TimeoutError:
            raise RadioAway(f"{self.name}: no answer within {ATTACH_S:g} s", hint=_THERE) from None
        except (OSError, BleakError, BaseBumbleError, AssertionError, ValueError) as error:
            raise RadioAway(f"{self.name}: {_words(error)}", hint=_THERE) from None
        finally:
            if self._device is None:
                await self.detach()

    async def wait_lost(self) -> None:
        if self._gone is not None:
            await asyncio.wait({self._gone})

    async def detach(self) -> None:
        transport, device, gone = self._transport, self._device, self._gone
        self._transport = self._device = None
        if gone is not None and not gone.done():
            gone.set_result(None)
        if device is not None:
            device.on_flush()  # every link of it is over; what waits on one is cancelled
        if transport is not None:
            with contextlib.suppress(TimeoutError, OSError):
                async with asyncio.timeout(CLOSE_S):
                    await transport.close()

    def scanner(self, heard: Heard, *, each: bool = False) -> BleakScanner:
        del each  # it filters nothing
        return BleakScanner(heard, backend=BumbleScanner, radio=self)

    def client(
        self, device: BLEDevice, lost: Lost, services: Sequence[str] | None, timeout_s: float, told: Told = untold
    ) -> BleakClient:
        return BleakClient(device, lost, services, backend=BumbleClient, timeout=timeout_s, radio=self, told=told)

    def left_half_open(self, error: BaseException) -> bool:
        del error  # connect cancels its own attempt
        return False

    def is_full(self, error: BaseException) -> bool:
        """Bluetooth Core 5.4, Vol 1, Part F, 2.9 and 2.13."""
        return isinstance(error.__cause__, ProtocolError) and error.__cause__.error_code in (
            hci.HCI_ErrorCode.CONNECTION_LIMIT_EXCEEDED_ERROR,
            hci.HCI_ErrorCode.CONNECTION_REJECTED_DUE_TO_LIMITED_RESOURCES_ERROR,
        )

    async def forget(self, device: BLEDevice) -> None:
        if self._wanted == device.details:
            await self.cancel_connect()
        with contextlib.suppress(BleakError):
            await self.end_link(device.details)

    def lost_bond(self, error: BaseException) -> bool | None:
        return isinstance(error, BondLost)

    async def held(self, address: str) -> Held:
        return self.keys.held(address)

    async def bonded(self) -> dict[str, bool]:
        """By address, whether it is connected."""
        links = {} if self._device is None else self._device.connections
        linked = {self.keys.identity(link.peer_address.to_string(False)) for link in links.values()}
        return {address: address in linked for address in self.keys.addresses()}

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Attached, for a command beside which no daemon runs. Raises RadioAway."""
        await self.attach()
        try:
            yield
        finally:
            await self.detach()

    @contextlib.asynccontextmanager
    async def listening(self, heard: Heard) -> AsyncIterator[None]:
        """Gives each advertisement to heard. Raises RadioAway."""
        scanner = self.scanner(heard)
        try:
            async with asyncio.timeout(COMMAND_S):
                await scanner.start()
        except (BleakError, TimeoutError) as error:
            raise RadioAway(why(self.name, error), hint=_THERE) from None
        try:
            yield
        finally:
            with contextlib.suppress(BleakError, TimeoutError):
                async with asyncio.timeout(COMMAND_S):
                    await scanner.stop()

    async def pair(
        self,
        address: str,
        answers: Answers | None = None,
        *,
        without_number: bool = False,
        heard_as: str | None = None,
        listening: Listening | None = None,
    ) -> bool:
        """Finds the wearable, pairs with it and ends the link. Whether a number was typed, compared or shown; where
        none was, the bond is kept only with without_number. An earlier bond goes only when the new one is kept.

        heard_as: the address under which it is heard now, where that changes; its own is learnt and must be `address`.
        listening: how advertisements are come by. Raises PairingFailed, RadioAway and InputRejected.
        """
        address = address.upper()
        found = await self._find(heard_as or address, listening or self.listening)
        try:
            async with asyncio.timeout(PAIR_S):
                connection = await self.connect(found)
        except (BleakError, TimeoutError):
            raise PairingFailed(f"{address}: no connection: it is away, or connected to another host") from None
        panel = Panel(answers or self._answers, address, without_number=without_number)
        try:
            async with asyncio.timeout(PAIR_S):
                await self._pair(connection, panel, address)
            self.keys.keep(address)
        except TimeoutError:
            raise PairingFailed(f"{address}: pairing took too long") from None
        finally:
            self.keys.fresh.clear()
            with contextlib.suppress(BleakError):
                await self.disconnect(connection)
        return panel.numbered

    async def unpair(self, address: str) -> bool:
        """Whether there was anything to forget. Raises InputRejected."""
        return self.keys.forget(address)

    async def _find(self, address: str, listening: Listening) -> hci.Address:
        """Raises PairingFailed and RadioAway."""
        found: asyncio.Future[hci.Address] = asyncio.get_running_loop().create_future()

        def note(device: BLEDevice, _data: AdvertisementData) -> None:
            if address.upper() in (device.address.upper(), device.details.to_string(False)) and not found.done():
                found.set_result(device.details)

        async with listening(note):
            try:
                async with asyncio.timeout(FIND_S):
                    return await found
            except TimeoutError:
                hint = "Is it switched on, near and free? One that changes its address: `gateway scan` and --heard-as."
                raise PairingFailed(f"{address}: not heard for {FIND_S:g} s", hint=hint) from None

    async def _pair(self, connection: Connection, panel: Panel, address: str) -> None:
        """Makes a fresh bond of this address. Raises PairingFailed."""
        self.keys.fresh.clear()
        self._panels[connection.handle] = panel
        try:
            await self.bounded(connection.pair())
        except BleakError as error:
            if panel.without_digits:
                raise PairingFailed(
                    f"{address}: it pairs without digits, so nobody knows that it is this one; it is not paired",
                    hint="Where that will do, say allow_just_works = true in its [[wearable]] table.",
                ) from None
            cause = error.__cause__
            said = _PAIRING_WORDS.get(cause.error_code) if isinstance(cause, ProtocolError) else None
            words = said or f"pairing failed: {error}"
            raise PairingFailed(f"{address}: {words}") from None
        finally:
            self._panels.pop(connection.handle, None)
        if list(self.keys.fresh) != [address]:
            other = ", ".join(self.keys.fresh)
            raise PairingFailed(
                f"{address}: what was paired says that it is {other or 'nobody'}; it is not paired",
                hint="If that is your wearable, this is the address for its [[wearable]] table.",
            )
        if not self.keys.is_usable(address):
            raise PairingFailed(f"{address}: it gives no key by which it would be known again; it is not paired")
        if not connection.sc and not self._legacy:
            raise PairingFailed(
                f"{address}: it cannot pair by LE Secure Connections, so whoever listened could read all; it is not "
                "paired",
                hint='Where that will do, say secure_connections = "preferred" in [radio].',
            )

    def _pairing_config(self, connection: Connection) -> PairingConfig:
        panel = self._panels.get(connection.handle)
        return refusing(connection) if panel is None else panel.configuration()

    async def secure(self, connection: Connection, address: str) -> None:
        """Encrypts the link by its bond. Raises BondLost where the wearable has not got its side, and BleakError."""
        reasons: list[int] = []
        connection.once(Connection.EVENT_DISCONNECTION, reasons.append)
        try:
            async with asyncio.timeout(ENCRYPT_S):
                await self.bounded(connection.encrypt())
        except TimeoutError:
            raise BleakError(f"{address}: not encrypted within {ENCRYPT_S:g} s") from None
        except BleakError as error:
            cause = error.__cause__
            code = cause.error_code if isinstance(cause, hci.HCI_Error) else next(iter(reasons), None)
            if code in _KEY_IS_GONE:
                raise BondLost(f"{address}: it does not know its bond") from None
            raise

    async def pair_just_so(self, connection: Connection, address: str) -> bool:
        """Whether a wearable that wants to be paired now is, by this adapter's answers alone. Raises BleakError."""
        if not await self._answers.just_works(address):
            return False
        try:
            async with asyncio.timeout(ENCRYPT_S):
                await self._pair(connection, Panel(self._answers, address, without_number=True), address)
            self.keys.keep(address)
        except (PairingFailed, TimeoutError) as error:
            raise BleakError(_words(error)) from None
        finally:
            self.keys.fresh.clear()
        return True

    async def connect(self, address: hci.Address) -> Connection:
        """Raises BleakError. When cancelled, the controller's attempt is cancelled as well."""
        await self.end_link(address)
        self._wanted = address
        preferences = {hci.HCI_LE_1M_PHY: CONNECTION}
        try:
            return await self.bounded(
                self.device.connect(address, connection_parameters_preferences=preferences, timeout=None)
            )
        except BaseException:
            self._wanted = None
            await self.cancel_connect()
            with contextlib.suppress(BleakError):
                await self.end_link(address)  # it may have been made in the meantime
            raise
        finally:
            self._wanted = None

    async def cancel_connect(self) -> None:
        """Ends a pending attempt of the controller; does nothing where there is none or no controller."""
        command = hci.HCI_LE_Create_Connection_Cancel_Command()
        with contextlib.suppress(BleakError, TimeoutError):
            device, over = self.device, asyncio.Event()
            ends = (Device.EVENT_CONNECTION, Device.EVENT_CONNECTION_FAILURE)

            def end(_: object) -> None:
                over.set()

            for event in ends:
                device.on(event, end)
            try:
                async with asyncio.timeout(CANCEL_S):
                    await self.bounded(device.host.send_sync_command(command))
                    # The attempt's end comes after the answer (Vol 4, Part E, 7.8.13); the next attempt would take it
                    # for its own.
                    await self.bounded(over.wait())
            finally:
                for event in ends:
                    device.remove_listener(event, end)

    async def end_link(self, address: hci.Address) -> None:
        """Ends a link to this address, whoever owns it. Raises BleakError."""
        connection = self.device.find_connection_by_bd_addr(address)
        if connection is not None:
            await self.disconnect(connection)

    async def disconnect(self, connection: Connection) -> None:
        """Raises BleakError."""
        try:
            async with asyncio.timeout(DISCONNECT_S):
                await self.bounded(connection.disconnect())
        except TimeoutError:
            raise BleakError(f"not disconnected within {DISCONNECT_S:g} s") from None

    async def bounded(self, operation: Coroutine[Any, Any, T]) -> T:
        """The operation's result; BleakError when it fails, or when the link or the transport goes meanwhile."""
        task = asyncio.ensure_future(operation)
        gone = self._gone
        awaited: set[asyncio.Future[Any]] = {task} if gone is None else {task, gone}
        try:
            await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task}, timeout=CANCEL_S)
        if not task.done() or task.cancelled():
            lost = gone is not None and gone.done()
            raise BleakError(f"{self.name}: transport lost" if lost else "link lost")
        match task.exception():
            case None:
                return task.result()
            case ATT_Error() as error:
                raise BleakGATTProtocolError(error.error_code)
            case (BaseBumbleError() | OSError()) as error:
                raise BleakError(_words(error)) from error
            case error:
                raise error

    def _connected(self, connection: Connection) -> None:
        """A connection whose attempt was given up meanwhile is ended again."""
        if connection.peer_address != self._wanted:
            log.info("radio %s: %s connected too late, disconnecting", self.name, connection.peer_address)
            connection.cancel_on_disconnection(connection.disconnect())


class BondLost(BleakError):
    """The wearable does not know the key of its bond."""


def _words(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    return str(error) or type(error).__name__


class BumbleScanner(BaseBleakScanner):
    """Active scan; one at a time on an adapter."""

    def __init__(
        self,
        detection_callback: AdvertisementDataCallback | None,
        service_uuids: list[str] | None,
        scanning_mode: str = "active",
        *,
        radio: BumbleAdapter,
        **_: Any,
    ) -> None:
        super().__init__(detection_callback, service_uuids)
        self._active = scanning_mode == "active"
        self._radio = radio
        self._device: Device | None = None

    async def start(self) -> None:
        self.seen_devices = {}
        self._device = self._radio.device
        self._device.on(Device.EVENT_ADVERTISEMENT, self._heard)
        await self._radio.bounded(self._device.start_scanning(active=self._active))

    async def stop(self) -> None:
        if self._device is None:
            return
        device, self._device = self._device, None
        device.remove_listener(Device.EVENT_ADVERTISEMENT, self._heard)
        await self._radio.bounded(device.stop_scanning())

    def _heard(self, advertisement: Advertisement) -> None:
        data = advertisement_data(advertisement.data_bytes, advertisement.data.ad_structures, advertisement.rssi)
        if not self.is_allowed_uuid(data.service_uuids):
            return
        address = self._radio.keys.identity(advertisement.address.to_string(with_type_qualifier=False))
        device = self.create_or_update_device(address, address, data.local_name, advertisement.address, data)
        self.call_detection_callbacks(device, data)


def advertisement_data(raw: bytes, structures: Sequence[tuple[int, bytes]], rssi_dbm: int) -> AdvertisementData:
    """bleak's view of AD structures (Core Specification Supplement 11, Part A). Anyone may send these: what is cut
    short or of no use is left out.
    """
    names, manufacturers, services, uuids = dict[int, str](), dict[int, bytes](), dict[str, bytes](), list[str]()
    tx_power: int | None = None
    kind = AdvertisingData.Type
    for ad_type, value in structures:
        match ad_type:
            case kind.SHORTENED_LOCAL_NAME | kind.COMPLETE_LOCAL_NAME:
                names[ad_type] = value.decode("utf-8", "replace")
            case kind.TX_POWER_LEVEL if len(value) == 1:
                tx_power = int.from_bytes(value, "little", signed=True)
            case kind.MANUFACTURER_SPECIFIC_DATA if len(value) >= 2:
                manufacturers[int.from_bytes(value[:2], "little")] = value[2:]
            case kind.SERVICE_DATA_16_BIT_UUID if len(value) >= 2:
                services[_uuid(value[:2])] = value[2:]
            case kind.SERVICE_DATA_32_BIT_UUID if len(value) >= 4:
                services[_uuid(value[:4])] = value[4:]
            case kind.SERVICE_DATA_128_BIT_UUID if len(value) >= 16:
                services[_uuid(value[:16])] = value[16:]
            case _:
                size = _UUID_BYTES.get(ad_type)
                if size is not None:
                    uuids += [_uuid(value[at : at + size]) for at in range(0, len(value) - size + 1, size)]
    name = names.get(kind.COMPLETE_LOCAL_NAME, names.get(kind.SHORTENED_LOCAL_NAME))
    return AdvertisementData(name, manufacturers, services, uuids, tx_power, rssi_dbm, (raw,))


_UUID_BYTES: dict[int, int] = {
    AdvertisingData.Type.INCOMPLETE_LIST_OF_16_BIT_SERVICE_CLASS_UUIDS: 2,
    AdvertisingData.Type.COMPLETE_LIST_OF_16_BIT_SERVICE_CLASS_UUIDS: 2,
    AdvertisingData.Type.INCOMPLETE_LIST_OF_32_BIT_SERVICE_CLASS_UUIDS: 4,
    AdvertisingData.Type.COMPLETE_LIST_OF_32_BIT_SERVICE_CLASS_UUIDS: 4,
    AdvertisingData.Type.INCOMPLETE_LIST_OF_128_BIT_SERVICE_CLASS_UUIDS: 16,
    AdvertisingData.Type.COMPLETE_LIST_OF_128_BIT_SERVICE_CLASS_UUIDS: 16,
}


def _uuid(little_endian: bytes) -> str:
    """The 36 characters of a UUID of 2, 4 or 16 bytes, over the Bluetooth base UUID where it is short."""
    if len(little_endian) == 16:
        return str(UUID(bytes=little_endian[::-1]))
    return f"{int.from_bytes(little_endian, 'little'):08x}-0000-1000-8000-00805f9b34fb"


class BumbleClient(BaseBleakClient):
    """One link. Services are discovered at each connect; nothing is kept from the link before."""

    def __init__(
        self,
        address_or_ble_device: BLEDevice | str,
        *,
        disconnected_callback: Callable[[], None] | None,
        timeout: float,
        radio: BumbleAdapter,
        services: set[str] | None = None,
        told: Told = untold,
        **_: Any,
    ) -> None:
        super().__init__(address_or_ble_device, disconnected_callback=disconnected_callback, timeout=timeout)
        self._radio = radio
        self._device = address_or_ble_device if isinstance(address_or_ble_device, BLEDevice) else None
        self._only_services = services
        self._told = told
        self._connection: Connection | None = None
        self._peer: Peer | None = None
        self._notifying: dict[int, Callable[[bytes], None]] = {}
        self._opening = False

    @property
    def name(self) -> str:
        known = self._device.name if self._device is not None else None
        return known or self.address.replace(":", "-")

    @property
    def mtu_size(self) -> int:
        return 23 if self._connection is None else self._connection.att_mtu

    @property
    def is_connected(self) -> bool:
        return self._connection is not None

    async def connect(self, pair: bool, **_: Any) -> None:
        if self._connection is not None:
            raise BleakError(f"{self.address}: already connected")
        if pair:
            log.warning("%s: pairing before the connection is not supported here", self.address)
        async with asyncio.timeout(self._timeout):
            if self._device is None:
                self._device = await self._find(self.address)
            connection = await self._radio.connect(self._device.details)
            if self._radio.device.lookup_connection(connection.handle) is not connection:
                raise BleakError("link lost")  # before anybody listens for that: nothing would ever tell
            connection.on(Connection.EVENT_DISCONNECTION, self._disconnected)
            connection.on(Connection.EVENT_PAIRING_START, lambda: self._told(rules.Asked()))
            connection.on(Connection.EVENT_PAIRING, lambda _keys: self._told(rules.Bonded()))
            self._connection, self._opening = connection, True
            self._told(rules.Linked())
            try:
                if self._radio.keys.held(self.address).bonded:
                    self._told(rules.Asked())
                    await self._radio.secure(connection, self.address)
                    self._told(rules.Bonded())
                self._peer = Peer(connection)
                await self._radio.bounded(self._peer.request_mtu(ATT_MTU))
                self.services = await self._radio.bounded(self._discover(self._peer))
            except BaseException:
                await self.disconnect()
                raise
            finally:
                self._opening = False

    async def _find(self, address: str) -> BLEDevice:
        found: asyncio.Future[BLEDevice] = asyncio.get_running_loop().create_future()

        def heard(device: BLEDevice, _: AdvertisementData) -> None:
            if device.address.lower() == address.lower() and not found.done():
                found.set_result(device)

        async with self._radio.scanner(heard):
            try:
                async with asyncio.timeout(self._timeout):
                    return await found
            except TimeoutError:
                raise BleakDeviceNotFoundError(address, f"{address} was not heard in {self._timeout:g} s") from None

    async def _discover(self, peer: Peer) -> BleakGATTServiceCollection:
        """Vol 3, Part G, 4.4 to 4.7. Descriptors are asked for only where handles are left for them."""
        if self._only_services is None:
            await peer.discover_services()
        else:
            for uuid in self._only_services:
                await peer.discover_service(BumbleUUID(uuid))
        collection = BleakGATTServiceCollection()
        for found in peer.services:
            service = BleakGATTService(found, found.handle, _uuid(found.uuid.to_bytes()))
            collection.add_service(service)
            await self._discover_service(peer, found, service, collection)
        return collection

    async def _discover_service(
        self, peer: Peer, found: ServiceProxy, service: BleakGATTService, collection: BleakGATTServiceCollection
    ) -> None:
        for proxy in await peer.discover_characteristics(service=found):
            characteristic = BleakGATTCharacteristic(
                proxy,
                proxy.handle,
                _uuid(proxy.uuid.to_bytes()),
                [name for bit, name in _PROPERTIES if proxy.properties & bit],
                lambda: self.mtu_size - 3,
                service,
            )
            collection.add_characteristic(characteristic)
            for descriptor in await proxy.discover_descriptors():
                uuid = _uuid(descriptor.type.to_bytes())
                collection.add_descriptor(BleakGATTDescriptor(descriptor, descriptor.handle, uuid, characteristic))

    async def disconnect(self) -> None:
        connection = self._connection
        if connection is None:
            return
        try:
            await self._radio.disconnect(connection)
        except BleakError as error:
            log.debug("%s: disconnect: %s", self.address, error)
        finally:
            self._disconnected()

    def _disconnected(self, _reason: int = 0) -> None:
        if self._connection is None:
            return
        self._connection.remove_listener(Connection.EVENT_DISCONNECTION, self._disconnected)
        self._connection = self._peer = self.services = None
        self._notifying.clear()
        if self._disconnected_callback is not None and not self._opening:  # else connect tells it, and why
            self._disconnected_callback()

    async def pair(self, *_args: Any, **_kwargs: Any) -> None:
        raise NotImplementedError("BumbleAdapter.pair does it")

    async def unpair(self) -> None:
        raise NotImplementedError("BumbleAdapter.unpair does it")

    async def _let(self, operation: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What the wearable answers. Where it wants to be paired first, that is tried once, as BlueZ does it."""
        try:
            return await self._radio.bounded(operation())
        except BleakGATTProtocolError as error:
            if int(error.code) not in _NEEDS_BOND:
                raise
            if not await self._radio.pair_just_so(self._live().connection, self.address.upper()):
                raise
        return await self._radio.bounded(operation())

    def _live(self) -> Peer:
        if self._peer is None:
            raise BleakError(f"{self.address}: not connected")
        return self._peer

    async def read_gatt_char(
        self, characteristic: BleakGATTCharacteristic, *, use_cached: bool = False, **_: Any
    ) -> bytearray:
        del use_cached  # no value is cached
        return bytearray(await self._let(lambda: self._live().read_value(characteristic.handle)))

    async def read_gatt_descriptor(
        self, descriptor: BleakGATTDescriptor, *, use_cached: bool = False, **_: Any
    ) -> bytearray:
        del use_cached
        return bytearray(await self._let(lambda: self._live().read_value(descriptor.handle)))

    async def write_gatt_char(self, characteristic: BleakGATTCharacteristic, data: SizedBuffer, response: bool) -> None:
        value, handle = bytes(data), characteristic.handle
        await self._let(lambda: self._live().write_value(handle, value, with_response=response))

    async def write_gatt_descriptor(self, descriptor: BleakGATTDescriptor, data: SizedBuffer) -> None:
        value, handle = bytes(data), descriptor.handle
        await self._let(lambda: self._live().write_value(handle, value, with_response=True))

    async def start_notify(self, characteristic: BleakGATTCharacteristic, callback: NotifyCallback, **_: Any) -> None:
        peer, proxy = self._live(), characteristic.obj
        if characteristic.handle in self._notifying:
            raise BleakError(f"{characteristic.uuid}: notifications are already started")
        if proxy.get_descriptor(GATT_CLIENT_CHARACTERISTIC_CONFIGURATION_DESCRIPTOR) is None:
            raise BleakError(f"{characteristic.uuid} has no client characteristic configuration descriptor")

        def deliver(value: bytes) -> None:
            callback(bytearray(value))

        self._notifying[characteristic.handle] = deliver
        try:
            await self._let(lambda: peer.gatt_client.subscribe(proxy, deliver))
        except BaseException:
            self._notifying.pop(characteristic.handle, None)
            raise

    async def stop_notify(self, characteristic: BleakGATTCharacteristic) -> None:
        peer = self._live()
        deliver = self._notifying.pop(characteristic.handle, None)
        if deliver is not None:
            await self._radio.bounded(peer.gatt_client.unsubscribe(characteristic.obj, deliver))


_PROPERTIES: list[tuple[int, CharacteristicPropertyName]] = [
    (0x01, "broadcast"),
    (0x02, "read"),
    (0x04, "write-without-response"),
    (0x08, "write"),
    (0x10, "notify"),
    (0x20, "indicate"),
    (0x40, "authenticated-signed-writes"),
    (0x80, "extended-properties"),
]
"""Vol 3, Part G, 3.3.1.1."""
