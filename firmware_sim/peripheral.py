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

from bumble import att, core, gatt, hci
from bumble.core import AdvertisingData
from bumble.device import Connection, DeviceConfiguration
from bumble.device import Device as BumbleDevice
from bumble.transport.common import AsyncPipeSink

from firmware_sim import encoding
from firmware_sim.device import Device, WriteRefused
from firmware_sim.radio import CorrectedController, VirtualRadio

LOG = logging.getLogger(__name__)

ATT_MTU = 247
COMPANY_ID = 0xFFFF
ADVERTISING_INTERVAL_MS = 100
CONNECTION_INTERVAL_MS = (30, 50)
PERIPHERAL_LATENCY = 0
SUPERVISION_TIMEOUT_MS = 5000
COMMAND_S = 86_400.0
"""Of Bumble's HCI commands. The controller is in this process and always answers; a process that was suspended, or a
machine that slept, must not find them timed out."""
BURST = 16
"""Notifications handed to Bumble in one turn of the loop; then live frames go first again."""
_NOTIFICATION = struct.Struct("<BH")

Properties = gatt.Characteristic.Properties
Permissions = gatt.Characteristic.Permissions


class Peripheral:
    """One device on the air. `out_of_range` plays a lost link; notifications_sent counts what went to the radio."""

    def __init__(
        self, name: str, address: str, device: Device, radio: VirtualRadio, uptime_ns: Callable[[], int]
    ) -> None:
        self.name = name
        self.address = address
        self.device = device
        self.notifications_sent = 0
        self._radio = radio
        self._uptime_ns = uptime_ns
        self._answers_wanted = asyncio.Event()
        self._frames_wanted = asyncio.Event()
        self._connection: Connection | None = None
        self._closed = False
        self._link_tasks: list[asyncio.Task[None]] = []
        self._advertised = b""
        self._advertise_again = asyncio.Event()
        self._controller: CorrectedController = radio.wearable(name)
        configuration = DeviceConfiguration(
            name=name,
            address=hci.Address(address),
            advertising_interval_min=ADVERTISING_INTERVAL_MS,
            advertising_interval_max=ADVERTISING_INTERVAL_MS,
        )
        self._bumble = BumbleDevice.from_config_with_hci(
            configuration, self._controller, AsyncPipeSink(self._controller)
        )
        self._bumble.command_timeout = COMMAND_S
        self._bumble.gatt_server.max_mtu = ATT_MTU
        self._characteristics = {
            uuid: self._characteristic(uuid, properties)
            for uuid, properties in {
                encoding.INFO_UUID: Properties.READ,
                encoding.CONFIG_UUID: Properties.READ | Properties.WRITE | Properties.INDICATE,
                encoding.LIVE_UUID: Properties.NOTIFY,
                encoding.BACKLOG_UUID: Properties.NOTIFY,
                encoding.CONTROL_UUID: Properties.WRITE | Properties.INDICATE,
                encoding.TIME_UUID: Properties.READ,
            }.items()
        }
        self._bumble.add_service(gatt.Service(core.UUID(encoding.SERVICE_UUID), list(self._characteristics.values())))
        self._bumble.on(BumbleDevice.EVENT_CONNECTION, self._on_connection)

    @property
    def reachable(self) -> bool:
        return self._controller.reachable

    async def start(self) -> None:
        """Switches the radio on and advertises."""
        await self._bumble.power_on()
        await self._start_advertising()

    def wake(self) -> None:
        """The device may have something to send, or another fill to advertise."""
        self._answers_wanted.set()
        self._frames_wanted.set()
        if not self.device.connected and self.device.advertised() != self._advertised:
            self._advertise_again.set()

    async def keep_advertising(self) -> None:
        """Advertises again after each link, and tells when the ring's fill changes; until closed."""
        while True:
            await self._advertise_again.wait()
            self._advertise_again.clear()
            if self._closed:
                return
            if self._connection is not None:
                continue
            if self._bumble.is_advertising:
                data = self._advertising_data()
                await self._bumble.send_sync_command(hci.HCI_LE_Set_Advertising_Data_Command(advertising_data=data))
            else:
                await self._start_advertising()

    def out_of_range(self, on: bool) -> None:
        """on: every link is lost without a farewell, and nobody hears the wearable until it is off again."""
        self._controller.reachable = not on
        if on:
            self.lose_link()

    def close(self) -> None:
        """Ends the link and keep_advertising."""
        self._closed = True
        self._advertise_again.set()
        self.lose_link()

    def lose_link(self) -> None:
        """Both ends lose it, as by the supervision timeout."""
        self._controller.end_links()

    async def _start_advertising(self) -> None:
        response = AdvertisingData([(AdvertisingData.COMPLETE_LOCAL_NAME, self.name.encode())])
        await self._bumble.start_advertising(
            advertising_data=self._advertising_data(), scan_response_data=bytes(response)
        )

    def _advertising_data(self) -> bytes:
        self._advertised = self.device.advertised()
        flags = AdvertisingData.LE_GENERAL_DISCOVERABLE_MODE_FLAG | AdvertisingData.BR_EDR_NOT_SUPPORTED_FLAG
        service = core.UUID(encoding.SERVICE_UUID)
        fields = [
            (AdvertisingData.FLAGS, bytes([flags])),
            (AdvertisingData.COMPLETE_LIST_OF_128_BIT_SERVICE_CLASS_UUIDS, bytes(service)),
            (AdvertisingData.MANUFACTURER_SPECIFIC_DATA, struct.pack("<H", COMPANY_ID) + self._advertised),
        ]
        return bytes(AdvertisingData(fields))

    def _characteristic(self, uuid: str, properties: Properties) -> gatt.Characteristic[bytes]:
        permissions = Permissions(0)
        if properties & Properties.READ:
            permissions |= Permissions.READABLE
        if properties & Properties.WRITE:
            permissions |= Permissions.WRITEABLE

        def read(_connection: Connection) -> bytes:
            return self.device.read(uuid, self._uptime_ns())

        def write(_connection: Connection, value: bytes) -> None:
            try:
                self.device.written(uuid, value)
            except WriteRefused as refused:
                raise att.ATT_Error(att.ErrorCode(refused.att_error)) from None
            self.wake()

        value = gatt.CharacteristicValue(read=read, write=write)
        return gatt.Characteristic(core.UUID(uuid), properties, permissions, value)

    def _on_connection(self, connection: Connection) -> None:
        LOG.info("%s: connected by %s", self.name, connection.peer_address)
        self._connection = connection
        self.device.link_up()
        work = (self._send_answers, self._send_frames, self._ask_for_parameters)
        self._link_tasks = [asyncio.create_task(self._until_lost(connection, task(connection))) for task in work]
        connection.on(Connection.EVENT_DISCONNECTION, self._on_disconnection)
        connection.on(Connection.EVENT_CONNECTION_ATT_MTU_UPDATE, self._frames_wanted.set)

    def _on_disconnection(self, reason: int) -> None:
        LOG.info("%s: link ended, reason 0x%02x", self.name, reason)
        self._connection = None
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
        with suppress(core.BaseBumbleError, asyncio.TimeoutError):  # a central may refuse either
            await self._bumble.update_connection_parameters(
                connection, *CONNECTION_INTERVAL_MS, PERIPHERAL_LATENCY, SUPERVISION_TIMEOUT_MS
            )
            await connection.gatt_client.request_mtu(ATT_MTU)

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
            if connection.att_mtu >= ATT_MTU and self._send_burst(connection):
                await asyncio.sleep(0)
            else:
                await self._frames_wanted.wait()

    def _send_burst(self, connection: Connection) -> bool:
        """Whether there may be more to send. Frames that the central did not subscribe to are spent unsent."""
        server = self._bumble.gatt_server
        for _ in range(BURST):
            notification = self.device.next_notification()
            if notification is None:
                return False
            uuid, frame = notification
            characteristic = self._characteristics[uuid]
            if server.read_cccd(connection, characteristic)[0] & 1:
                header = _NOTIFICATION.pack(att.Opcode.ATT_HANDLE_VALUE_NOTIFICATION, characteristic.handle)
                self._bumble.send_l2cap_pdu(connection.handle, att.ATT_CID, header + frame)
                self.notifications_sent += 1
        return True
