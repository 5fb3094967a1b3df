"""The GATT server of one wearable: a shell over Bumble that carries what the pure device says.

Three tasks a link: answers (indications, each waits for its confirmation), notifications (as fast as the radio takes
them, with no queue of its own in between) and the requests of a peripheral (MTU, connection parameters). The device's
uptime is asked of the caller.
"""

import asyncio
import logging
import struct
from collections.abc import Callable, Coroutine
from contextlib import suppress
from operator import itemgetter
from typing import Any, Protocol

from bumble import att, core, gatt, hci
from bumble.core import AdvertisingData
from bumble.device import AdvertisingType, Connection, DeviceConfiguration
from bumble.device import Device as BumbleDevice
from bumble.keys import KeyStore

from firmware_sim.device import ATT_MTU
from firmware_sim.faults import Delivery, RadioFaults
from firmware_sim.pairing import Keypad, Pairing, forget_bonds, pair_as, protected, require_pairing, unprotected
from firmware_sim.protocol import Property, SimulatedDevice, WriteRefused

LOG = logging.getLogger(__name__)

COMPANY_ID = 0xFFFF
ADVERTISING_INTERVAL_MS = 100
HELD_INTERVAL_MS = 500
"""While a central holds it, so that other gateways know how strongly they hear it: within the second that is asked."""
FREE_KIND, HELD_KIND = AdvertisingType.UNDIRECTED_CONNECTABLE_SCANNABLE, AdvertisingType.UNDIRECTED
CONNECTION_INTERVAL_MS = (30, 50)
PERIPHERAL_LATENCY = 0
SUPERVISION_TIMEOUT_MS = 5000
BURST = 16
"""Notifications handed to Bumble in one turn of the loop; then live frames go first again."""
DELAYED_MAX = 256
"""Notifications that latency and jitter hold back; beyond it the device sends no more."""
_NOTIFICATION = struct.Struct("<BH")

Properties = gatt.Characteristic.Properties
Permissions = gatt.Characteristic.Permissions


class Controller(Protocol):
    """What drives the radio of one wearable."""

    reachable: bool
    deaf: bool
    """It advertises, and answers no attempt to connect."""
    losing: Callable[[Any], bool]
    """Whether an advertisement, or an attempt to connect, is lost now."""
    command_s: float
    """How long an HCI command may take."""

    def bumble_device(self, configuration: DeviceConfiguration) -> BumbleDevice: ...

    def end_links(self) -> None: ...


class Radio(Protocol):
    """firmware_sim.radio.VirtualRadio, or controllers behind transports."""

    def wearable(self, name: str) -> Any:
        """A Controller of this radio's kind."""

    async def room_towards(self, wearable: Any, central: hci.Address) -> None:
        """Until the link to the central takes more."""


class Peripheral:
    """One device on the air. `out_of_range` plays a lost link; notifications_sent counts what went to the radio."""

    def __init__(
        self,
        name: str,
        address: str,
        device: SimulatedDevice,
        radio: Radio,
        uptime_ns: Callable[[], int],
        faults: RadioFaults,
        now_ns: Callable[[], int],
        pairing: Pairing = Pairing.NONE,
        passkey: int = 0,
        identity_key: bytes = bytes(16),
    ) -> None:
        """identity_key: where its address changes, what tells whoever is bonded that it is still this one."""
        self.name = name
        self.address = address
        self.device = device
        self.notifications_sent = 0
        self._radio = radio
        self._uptime_ns = uptime_ns
        self._faults, self._now_ns = faults, now_ns
        self._delayed: list[Delivery] = []
        self._ordered_away = self._faulted_away = False
        self._answers_wanted = asyncio.Event()
        self._frames_wanted = asyncio.Event()
        self._connection: Connection | None = None
        self._closed = False
        self._link_tasks: list[asyncio.Task[None]] = []
        self._advertised, self._advertised_held = b"", False
        self._links = 0
        self.links_max = 0
        """Most links at once since the start."""
        self._advertise_again = asyncio.Event()
        self._silent = False
        self._controller: Controller = radio.wearable(name)
        self._controller.losing = lambda _packet: faults.loses(now_ns())
        configuration = DeviceConfiguration(
            name=name,
            address=hci.Address(address),
            irk=identity_key,
            advertising_interval_min=ADVERTISING_INTERVAL_MS,
            advertising_interval_max=ADVERTISING_INTERVAL_MS,
        )
        self._bumble = self._controller.bumble_device(configuration)
        self._bumble.command_timeout = self._controller.command_s
        self._pairing, self._passkey = pairing, passkey
        self.keypad = Keypad()
        self._set_aside: KeyStore | None = None
        """The bonds of the wearable, while an impostor stands in its place."""
        require_pairing(self._bumble, pairing, passkey, self.keypad)
        self._bumble.gatt_server.max_mtu = ATT_MTU
        self._characteristics = {
            uuid: self._characteristic(uuid, properties)
            for service in device.services
            for uuid, properties in service.characteristics.items()
        }
        for service in device.services:
            own = [self._characteristics[uuid] for uuid in service.characteristics]
            self._bumble.add_service(gatt.Service(_uuid(service.uuid), own))
        self._bumble.on(BumbleDevice.EVENT_CONNECTION, self._on_connection)

    @property
    def reachable(self) -> bool:
        return self._controller.reachable

    @property
    def controller(self) -> Controller:
        return self._controller

    async def start(self) -> None:
        """Switches the radio on and advertises."""
        await self._bumble.power_on()
        await self._start_advertising()

    def wake(self) -> None:
        """The device may have something to send, or another fill to advertise."""
        self._answers_wanted.set()
        self._frames_wanted.set()
        if self.device.advertised() != self._advertised:
            self._advertise_again.set()

    @property
    def central(self) -> str | None:
        """The address of the one that holds it."""
        return None if self._connection is None else self._connection.peer_address.to_string(False)

    async def keep_advertising(self) -> None:
        """Advertises again after each link, without taking another while there is one, and tells when what it
        advertises changes; until closed. Where that does not tell whether it is held, it is silent while it is."""
        while True:
            await self._advertise_again.wait()
            self._advertise_again.clear()
            if self._closed:
                return
            held = self._connection is not None
            if held and not self.device.advertised():
                continue
            if self._bumble.is_advertising and held is self._advertised_held:
                data = self._advertising_data()
                if (extended := self._bumble.legacy_advertising_set) is not None:  # the two kinds may not be mixed
                    await extended.set_advertising_data(data)
                else:
                    await self._bumble.send_sync_command(hci.HCI_LE_Set_Advertising_Data_Command(advertising_data=data))
            else:
                await self._start_advertising()

    def out_of_range(self, on: bool) -> None:
        """on: every link is lost without a farewell, and nobody hears the wearable until it is off again."""
        self._ordered_away = on
        self._set_reach()

    def silent(self, on: bool) -> None:
        """on: what it notifies of reaches nobody, though its links stand and it answers; as firmware that hangs."""
        self._silent = on

    def suffer(self) -> None:
        """Plays what the radio's faults have due: a link that dies, a wearable that goes away or comes back."""
        now_ns = self._now_ns()
        self._faulted_away = not self._faults.reachable(now_ns)
        self._controller.deaf = self._faults.deaf(now_ns)
        self._set_reach()
        if self._faults.ends(now_ns) and self._connection is not None:
            self.lose_link()

    def _set_reach(self) -> None:
        self._controller.reachable = not (self._ordered_away or self._faulted_away)
        if not self._controller.reachable:
            self.lose_link()

    def forget_bonds(self) -> None:
        """As after a reset to factory settings: whoever was bonded has to pair again."""
        self.lose_link()
        forget_bonds(self._bumble)

    def impostor(self, on: bool) -> None:
        """on: another device with this one's name, address and services is here instead, which has none of its keys,
        lets everybody read, and would pair with anybody."""
        if on == (self._set_aside is not None):
            return
        self.lose_link()
        pairing = Pairing.JUST_WORKS if on else self._pairing
        if on:
            self._set_aside = self._bumble.keystore
            forget_bonds(self._bumble)
        else:
            self._bumble.keystore, self._set_aside = self._set_aside, None
        pair_as(self._bumble, pairing, self._passkey, self.keypad)
        for characteristic in self._characteristics.values():
            allowed = unprotected(characteristic.permissions)
            characteristic.permissions = allowed if on else protected(allowed, self._pairing)

    async def change_address(self) -> None:
        """Advertises under another resolvable private address (Core 5.4, Vol 6, Part B, 1.3.2.2), once it is free."""
        if self._connection is not None:
            return
        if self._bumble.is_advertising:
            await self._bumble.stop_advertising()
        address = hci.Address.generate_private_address(self._bumble.irk)
        await self._bumble.send_sync_command(hci.HCI_LE_Set_Random_Address_Command(random_address=address))
        self._bumble.random_address = address
        await self._start_advertising()

    @property
    def advertised_address(self) -> str:
        return str(self._bumble.random_address.to_string(False))

    def close(self) -> None:
        """Ends the link and keep_advertising."""
        self._closed = True
        self._advertise_again.set()
        self.lose_link()

    def lose_link(self) -> None:
        """Both ends lose it, as by the supervision timeout."""
        self._controller.end_links()

    async def _start_advertising(self) -> None:
        held = self._advertised_held = self._connection is not None
        interval_ms = HELD_INTERVAL_MS if held else ADVERTISING_INTERVAL_MS
        response = AdvertisingData([(AdvertisingData.COMPLETE_LOCAL_NAME, self.name.encode())])
        await self._bumble.start_advertising(
            HELD_KIND if held else FREE_KIND,
            advertising_data=self._advertising_data(),
            scan_response_data=bytes(response),
            advertising_interval_min=interval_ms,
            advertising_interval_max=interval_ms,
        )

    def _advertising_data(self) -> bytes:
        self._advertised = self.device.advertised()
        flags = AdvertisingData.LE_GENERAL_DISCOVERABLE_MODE_FLAG | AdvertisingData.BR_EDR_NOT_SUPPORTED_FLAG
        service = core.UUID(self.device.services[0].uuid)
        fields = [
            (AdvertisingData.FLAGS, bytes([flags])),
            (AdvertisingData.COMPLETE_LIST_OF_128_BIT_SERVICE_CLASS_UUIDS, bytes(service)),
        ]
        if self._advertised:
            data = struct.pack("<H", COMPANY_ID) + self._advertised
            fields.append((AdvertisingData.MANUFACTURER_SPECIFIC_DATA, data))
        return bytes(AdvertisingData(fields))

    def _characteristic(self, uuid: str, properties: Property) -> gatt.Characteristic[bytes]:
        permissions = Permissions(0)
        if properties & Property.READ:
            permissions |= Permissions.READABLE
        if properties & (Property.WRITE | Property.WRITE_WITHOUT_RESPONSE):
            permissions |= Permissions.WRITEABLE

        def read(_connection: Connection) -> bytes:
            return self.device.read(uuid, self._uptime_ns())

        def write(_connection: Connection, value: bytes) -> None:
            try:
                self.device.written(uuid, value)
            except WriteRefused as refused:
                raise att.ATT_Error(att.ErrorCode(refused.att_error)) from None
            self.wake()

        def subscribed(_connection: Connection, notified: bool, indicated: bool) -> None:
            self.device.subscribed(uuid, notified or indicated)
            self.wake()

        value = gatt.CharacteristicValue(read=read, write=write)
        made: gatt.Characteristic[bytes] = gatt.Characteristic(
            _uuid(uuid), Properties(int(properties)), protected(permissions, self._pairing), value
        )
        made.on(gatt.Characteristic.EVENT_SUBSCRIPTION, subscribed)
        return made

    def _on_connection(self, connection: Connection) -> None:
        LOG.info("%s: connected by %s", self.name, connection.peer_address)
        self._connection = connection
        self._links += 1
        self.links_max = max(self.links_max, self._links)
        self._advertise_again.set()
        self._delayed.clear()
        self._faults.link_up(self._now_ns())
        self._bumble.gatt_server.max_mtu = self._faults.mtu(self._now_ns(), ATT_MTU)
        self.device.link_up()
        work = (self._send_answers, self._send_frames, self._ask_for_parameters)
        self._link_tasks = [asyncio.create_task(self._until_lost(connection, task(connection))) for task in work]
        connection.on(Connection.EVENT_DISCONNECTION, self._on_disconnection)
        connection.on(Connection.EVENT_CONNECTION_ATT_MTU_UPDATE, self._frames_wanted.set)

    def _on_disconnection(self, reason: int) -> None:
        LOG.info("%s: link ended, reason 0x%02x", self.name, reason)
        self._connection = None
        self._links -= 1
        for task in self._link_tasks:
            task.cancel()
        self.device.disconnected()
        self._advertise_again.set()

    async def _until_lost(self, connection: Connection, work: Coroutine[None, None, None]) -> None:
        """A central that breaks the protocol loses its link and nothing else."""
        try:
            await work
        except Exception as error:
            LOG.warning("%s: %s; the link is dropped", self.name, str(error) or type(error).__name__)
            with suppress(core.BaseBumbleError):
                await connection.disconnect()

    async def _ask_for_parameters(self, connection: Connection) -> None:
        wanted = (*CONNECTION_INTERVAL_MS, PERIPHERAL_LATENCY, SUPERVISION_TIMEOUT_MS)
        refused = (core.BaseBumbleError, asyncio.TimeoutError)  # a central may refuse each
        try:
            await self._bumble.update_connection_parameters(connection, *wanted)
        except refused:  # the link layer's procedure is optional, L2CAP's is not (Core 5.4, vol. 3, part A, 4.20)
            with suppress(*refused):
                await self._bumble.update_connection_parameters(connection, *wanted, use_l2cap=True)
        with suppress(*refused):
            await connection.gatt_client.request_mtu(self._bumble.gatt_server.max_mtu)

    def _holds(self, connection: Connection) -> bool:
        """Whether it is still this link's. Cancelling is not enough: before Python 3.12 a task that is cancelled in
        the turn in which its asyncio.wait_for (here in Bumble) completes goes on (python/cpython#86296).
        """
        return self._connection is connection

    async def _send_answers(self, connection: Connection) -> None:
        while self._holds(connection):
            self._answers_wanted.clear()
            while self._holds(connection) and (indication := self.device.next_indication()) is not None:
                uuid, payload = indication
                await self._bumble.gatt_server.indicate_subscriber(connection, self._characteristics[uuid], payload)
            await self._answers_wanted.wait()

    async def _send_frames(self, connection: Connection) -> None:
        while self._holds(connection):
            self._frames_wanted.clear()
            await self._radio.room_towards(self._controller, connection.peer_address)
            if connection.att_mtu >= self.device.mtu_min and self._send_burst(connection):
                await asyncio.sleep(0)
            else:
                await self._frames_wanted.wait()

    def _send_burst(self, connection: Connection) -> bool:
        """Whether there may be more to send. Frames that the central did not subscribe to are spent unsent."""
        now_ns = self._now_ns()
        for _ in range(BURST):
            self._deliver(connection, now_ns)
            notification = self.device.next_notification() if len(self._delayed) < DELAYED_MAX else None
            if notification is None:
                return False
            uuid, frame = notification
            if self._silent:
                continue
            if self._bumble.gatt_server.read_cccd(connection, self._characteristics[uuid])[0] & 1:
                self._delayed = sorted([*self._delayed, *self._faults.pass_(now_ns, uuid, frame)], key=itemgetter(0))
        self._deliver(connection, now_ns)
        return True

    def _deliver(self, connection: Connection, now_ns: int) -> None:
        """Sends what has come through the faults by now."""
        while self._delayed and self._delayed[0][0] <= now_ns:
            _, uuid, frame = self._delayed.pop(0)
            header = _NOTIFICATION.pack(att.Opcode.ATT_HANDLE_VALUE_NOTIFICATION, self._characteristics[uuid].handle)
            self._bumble.send_l2cap_pdu(connection.handle, att.ATT_CID, header + frame)
            self.notifications_sent += 1


def _uuid(text: str) -> core.UUID:
    """Of 16 bits where it has that form: some hosts look for the short one only."""
    short = text.removesuffix("-0000-1000-8000-00805f9b34fb")
    return core.UUID(text if short == text else short.removeprefix("0000"))
