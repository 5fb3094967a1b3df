"""The virtual radio: Bumble's local link, a controller for each wearable and one for each host that attaches.

A host (the gateway) attaches by a stream socket that carries HCI packets (H4), with Bumble's transports
`tcp-client:HOST:PORT` or `unix:PATH`. Its controller lives as long as its connection: a host that is killed leaves
nothing behind, and several hosts can be in the air at once.

Bumble's controller is corrected where a host of another process, or a link that breaks, shows it to be incomplete
(read in bumble 0.0.236, controller.py and link.py); each correction names the behaviour of the Bluetooth Core
Specification 5.4 that it restores.
"""

import asyncio
import itertools
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass

from bumble import core, hci, ll
from bumble.controller import Connection, Controller, LegacyAdvertiser
from bumble.device import Device, DeviceConfiguration
from bumble.link import LocalLink
from bumble.transport.common import AsyncPipeSink, PacketParser

from firmware_sim.endpoint import Endpoint

LOG = logging.getLogger(__name__)

ACL_BYTES = 251
"""One link-layer packet with data length extension: a notification of 244 bytes with its ATT and L2CAP headers."""
BUFFERED_BYTES = 64 * 1024
"""Towards one host, before the wearables stop notifying it."""
BUFFERED_BYTES_MAX = 1024 * 1024
"""A host that lets this much stand does not read at all: its connection is cut."""
ESTABLISHED_S = 0.25
"""Six connection intervals of 30 to 50 ms."""
COMMAND_S = 86_400.0
"""Of Bumble's HCI commands to a controller in this process, which always answers: a process that was suspended, or a
machine that slept, must not find them timed out."""
REACH_DBM = -100.0
"""Weaker than this nothing is received, and no link lives."""
LINK_LOST = hci.HCI_ErrorCode.CONNECTION_TIMEOUT_ERROR  # 0x08
ADVERTISING_TYPES = hci.HCI_LE_Set_Advertising_Parameters_Command.AdvertisingType
REPORTS = hci.HCI_LE_Advertising_Report_Event.EventType


@dataclass(frozen=True, slots=True)
class Signal:
    """How strongly a host receives a wearable. sigma_db: of the single advertisement (normal)."""

    dbm: float = -50.0
    sigma_db: float = 0.0


class Air(LocalLink):
    """Carries data by the addresses of the connection that it belongs to; what reaches nobody is lost, as in air.

    Bumble gives ACL data the sender's random address even where the connection uses its public one.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.signals: dict[tuple[str, str], Signal] = {}
        """By the names of a wearable's and a host's controller."""
        self._noise = random.Random(0)

    def received_dbm(self, sender: Controller, receiver: Controller) -> int | None:
        """Of one packet; None where it does not arrive."""
        signal = self.signals.get((sender.name, receiver.name), Signal())
        if signal.dbm <= REACH_DBM:
            return None
        return round(max(-127.0, min(20.0, self._noise.gauss(signal.dbm, signal.sigma_db))))

    def send_acl_data(
        self,
        sender_controller: Controller,
        destination_address: hci.Address,
        transport: core.PhysicalTransport,
        data: bytes,
    ) -> None:
        connection = sender_controller.le_connections.get(destination_address)
        if connection is not None and (receiver := self.peer(connection)) is not None:
            loop = asyncio.get_running_loop()
            loop.call_soon(receiver.on_link_acl_data, connection.self_address, transport, data)

    def send_ll_control_pdu(
        self, sender_address: hci.Address, receiver_address: hci.Address, packet: ll.ControlPdu
    ) -> None:
        for controller in self.controllers:
            connection = controller.le_connections.get(sender_address)
            if connection is not None and connection.self_address == receiver_address:
                asyncio.get_running_loop().call_soon(controller.on_ll_control_pdu, sender_address, packet)

    def peer(self, connection: Connection) -> Controller | None:
        """The controller at the other end of a connection."""
        for controller in self.controllers:
            other = controller.le_connections.get(connection.self_address)
            if other is not None and other.self_address == connection.peer_address:
                return controller
        return None

    def advertiser(self, address: hci.Address) -> Controller | None:
        """Who advertises under this address now, and is in reach of anybody."""
        for controller in self.controllers:
            legacy = controller.le_legacy_advertiser
            if legacy.enabled and legacy.address == address and getattr(controller, "reachable", True):
                return controller
        return None


class Advertiser(LegacyAdvertiser):
    """Also without taking connections: Bumble sends nothing then."""

    @property
    def connectable(self) -> bool:
        return bool(self.enabled and self.advertising_type == ADVERTISING_TYPES.ADV_IND)

    def send_advertising_data(self) -> None:
        if self.enabled and self.advertising_type == ADVERTISING_TYPES.ADV_NONCONN_IND:
            self.controller.send_advertising_pdu(ll.AdvNonConnInd(self.address, self.advertising_data))
        else:
            super().send_advertising_data()


class CorrectedController(Controller):
    """See the module."""

    link: Air

    # Extended and periodic advertising and privacy are incomplete in Bumble: a host would use what is claimed.
    le_features = Controller.le_features & ~(
        hci.LeFeatureMask.LE_EXTENDED_ADVERTISING
        | hci.LeFeatureMask.LE_PERIODIC_ADVERTISING
        | hci.LeFeatureMask.LL_PRIVACY
    )
    acl_data_packet_length = le_acl_data_packet_length = ACL_BYTES
    supported_max_tx_octets = supported_max_rx_octets = suggested_max_tx_octets = ACL_BYTES

    def __init__(self, name: str, air: Air, public_address: hci.Address | None = None) -> None:
        super().__init__(name, link=air, public_address=public_address)
        self.le_legacy_advertiser: Advertiser = Advertiser(self)
        self.reachable = True
        self.deaf = False
        """It advertises, and answers no attempt to connect."""
        self.losing: Callable[[ll.AdvertisingPdu], bool] = lambda _packet: False
        """Whether the advertisement that it sends, or the attempt to connect that it is sent, is lost."""
        self.links_max: int | None = None
        self.command_s = COMMAND_S

    def bumble_device(self, configuration: DeviceConfiguration) -> Device:
        """A Bumble host in this process that drives the controller."""
        return Device.from_config_with_hci(configuration, self, AsyncPipeSink(self))

    def end_links(self) -> None:
        """Both ends of every link of this controller lose it, as by the supervision timeout."""
        for connection in list(self.le_connections.values()):
            connection.send_ll_control_pdu(ll.TerminateInd(LINK_LOST))
            self.on_le_disconnected(connection, LINK_LOST)

    def on_hci_packet(self, packet: hci.HCI_Packet) -> None:
        # Bumble formats every packet for its log, read or not: a third of the time of a stream of notifications.
        match packet:
            case hci.HCI_AclDataPacket():
                self.on_hci_acl_data_packet(packet)
            case hci.HCI_Command():
                self.on_hci_command_packet(packet)
            case _:
                LOG.info("%s: packet of type %s ignored", self.name, packet.hci_packet_type)

    def send_hci_packet(self, packet: hci.HCI_Packet) -> None:
        if self.host is not None:
            asyncio.get_running_loop().call_soon(self.host.on_packet, bytes(packet))

    def on_hci_command(self, command: hci.HCI_Command) -> hci.HCI_StatusReturnParameters | None:  # type: ignore[override]
        # Vol. 4, part E, 4.5: an unknown command is answered; Bumble leaves the asynchronous ones to time out.
        LOG.info("%s: unknown HCI command 0x%04x", self.name, command.op_code)
        if isinstance(command, hci.HCI_SyncCommand):
            return hci.HCI_StatusReturnParameters(hci.HCI_ErrorCode.UNKNOWN_HCI_COMMAND_ERROR)
        self._send_hci_command_status(hci.HCI_ErrorCode.UNKNOWN_HCI_COMMAND_ERROR, command.op_code)
        return None

    def on_hci_reset_command(self, _command: hci.HCI_Reset_Command) -> hci.HCI_StatusReturnParameters:
        # Vol. 4, part E, 7.3.2: the link layer returns to standby; Bumble keeps links and scans.
        self.end_links()
        self.le_scan_enable = False
        self.pending_le_connection = None
        self.le_legacy_advertiser.stop()
        return hci.HCI_StatusReturnParameters(hci.HCI_ErrorCode.SUCCESS)

    def on_hci_le_create_connection_command(self, command: hci.HCI_LE_Create_Connection_Command) -> None:
        # Vol. 1, part F, 2.9; Bumble holds any number of links.
        if self.links_max is not None and len(self.le_connections) >= self.links_max:
            self._send_hci_command_status(hci.HCI_ErrorCode.CONNECTION_LIMIT_EXCEEDED_ERROR, command.op_code)
            return
        super().on_hci_le_create_connection_command(command)

    def on_hci_le_create_connection_cancel_command(
        self, _command: hci.HCI_LE_Create_Connection_Cancel_Command
    ) -> hci.HCI_StatusReturnParameters:
        # Vol. 4, part E, 7.8.13; Bumble keeps the pending connection, which blocks every later one.
        pending, self.pending_le_connection = self.pending_le_connection, None
        if pending is None:
            return hci.HCI_StatusReturnParameters(hci.HCI_ErrorCode.COMMAND_DISALLOWED_ERROR)
        event = hci.HCI_LE_Connection_Complete_Event(
            status=hci.HCI_ErrorCode.UNKNOWN_CONNECTION_IDENTIFIER_ERROR,
            connection_handle=0,
            role=hci.Role.CENTRAL,
            peer_address_type=pending.peer_address.address_type,
            peer_address=pending.peer_address,
            connection_interval=0,
            peripheral_latency=0,
            supervision_timeout=0,
            central_clock_accuracy=0,
        )
        # After the command complete event, which Bumble puts in the queue when this returns.
        asyncio.get_running_loop().call_soon(self.send_hci_packet, event)
        return hci.HCI_StatusReturnParameters(hci.HCI_ErrorCode.SUCCESS)

    def send_advertising_pdu(self, packet: ll.AdvertisingPdu) -> None:
        if self.reachable and not self.losing(packet):
            super().send_advertising_pdu(packet)

    def on_ll_advertising_pdu(self, packet: ll.AdvertisingPdu) -> None:
        if not self.reachable:
            return
        match packet:
            case ll.ConnectInd():
                self.on_le_connect_ind(packet)
            case ll.AdvInd() | ll.AdvNonConnInd():
                self._on_advertisement(packet)

    def on_le_connect_ind(self, packet: ll.ConnectInd) -> None:
        own = self.le_legacy_advertiser
        if own.address == packet.advertiser_address and not own.connectable:
            self._fail(packet)  # two centrals answered one advertisement, and this is the later one
        elif own.address == packet.advertiser_address and self.losing(packet):
            asyncio.get_running_loop().call_later(ESTABLISHED_S, self._fail, packet)
        else:
            super().on_le_connect_ind(packet)

    def _fail(self, packet: ll.ConnectInd) -> None:
        """The central believes in a connection until it has heard nothing for six intervals; then it "failed to be
        established" (vol. 6, part B, 4.5.2)."""
        if packet.initiator_address not in self.le_connections:  # else it has tried again meanwhile, and has one
            failed = hci.HCI_ErrorCode.CONNECTION_FAILED_TO_BE_ESTABLISHED_ERROR
            self.link.send_ll_control_pdu(packet.advertiser_address, packet.initiator_address, ll.TerminateInd(failed))

    def _on_advertisement(self, pdu: ll.AdvInd | ll.AdvNonConnInd) -> None:
        # Vol. 4, part E, 7.7.65.2; Bumble reports the advertising data a second time as the scan response.
        advertiser = self.link.advertiser(pdu.advertiser_address)
        rssi_dbm = None if advertiser is None else self.link.received_dbm(advertiser, self)
        if advertiser is None or rssi_dbm is None:
            return
        connectable = isinstance(pdu, ll.AdvInd)
        if self.le_scan_enable:
            kind = REPORTS.ADV_IND if connectable else REPORTS.ADV_NONCONN_IND
            self._report(kind, pdu.advertiser_address, pdu.data, rssi_dbm)
            if self.le_scan_type and connectable:
                response = advertiser.le_legacy_advertiser.scan_response_data
                self._report(REPORTS.SCAN_RSP, pdu.advertiser_address, response, rssi_dbm)
        pending = self.pending_le_connection
        if getattr(advertiser, "deaf", False):
            return
        if connectable and pending is not None and pending.peer_address == pdu.advertiser_address:
            self.create_le_connection(pdu.advertiser_address)

    def _report(
        self,
        kind: hci.HCI_LE_Advertising_Report_Event.EventType,
        address: hci.Address,
        data: bytes,
        rssi_dbm: int,
    ) -> None:
        report = hci.HCI_LE_Advertising_Report_Event.Report(
            event_type=kind, address_type=address.address_type, address=address, data=data, rssi=rssi_dbm
        )
        self.send_hci_packet(hci.HCI_LE_Advertising_Report_Event([report]))


class AttachedHost(asyncio.Protocol):
    """One host's connection, and the controller that it drives."""

    def __init__(self, radio: "VirtualRadio") -> None:
        self._radio = radio
        self._parser = PacketParser()
        self.writable = asyncio.Event()
        self.writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=BUFFERED_BYTES)
        self.controller = self._radio.attach(self)
        self.controller.host = self
        self._parser.set_packet_sink(self.controller)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except core.InvalidPacketError as error:
            LOG.warning("%s: not HCI (%s); its connection is closed", self.controller.name, error)
            self._transport.abort()

    def on_packet(self, packet: bytes) -> None:
        """From the controller: Bumble's TransportSink."""
        if self._transport.is_closing():
            return
        self._transport.write(packet)
        if self._transport.get_write_buffer_size() > BUFFERED_BYTES_MAX:
            LOG.warning("%s: the host does not read; its connection is closed", self.controller.name)
            self._transport.abort()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self.writable.set()
        self._radio.detach(self)

    def close(self) -> None:
        self._transport.abort()


class VirtualRadio:
    """The air, and the hosts in it. links_max: that a host's controller holds, of those that attach from now on; None
    for any number."""

    def __init__(self) -> None:
        self.links_max: int | None = None
        self.air = Air()
        self._hosts: dict[int, AttachedHost] = {}
        self._server: asyncio.AbstractServer | None = None

    async def serve(self, endpoint: Endpoint) -> Endpoint:
        """Lets hosts attach; the endpoint with its port. Raises CannotListen."""
        self._server, chosen = await endpoint.listen(lambda: AttachedHost(self))
        return chosen

    def wearable(self, name: str) -> CorrectedController:
        """A controller in this air for a wearable's own host."""
        return CorrectedController(name, self.air)

    def attach(self, host: AttachedHost) -> CorrectedController:
        """A controller for a host; its public address is that of the lowest free place, so a host keeps its own."""
        place = next(n for n in itertools.count(1) if n not in self._hosts)
        self._hosts[place] = host
        address = hci.Address(f"00:F1:D9:00:{place >> 8:02X}:{place & 255:02X}", hci.Address.PUBLIC_DEVICE_ADDRESS)
        controller = CorrectedController(f"host {place}", self.air, address)
        controller.links_max = self.links_max
        return controller

    def detach(self, host: AttachedHost) -> None:
        self._hosts = {place: other for place, other in self._hosts.items() if other is not host}
        host.controller.host = None
        host.controller.end_links()
        host.controller.reachable = False  # also for what is on its way to it in this turn of the loop
        self.air.remove_controller(host.controller)

    def set_signal(self, wearable: CorrectedController, place: int, signal: Signal) -> None:
        """How strongly the host at this place, counted from 1 in the order they attached, receives the wearable from
        now on. Out of its reach it loses a link to it."""
        host = f"host {place}"
        self.air.signals[wearable.name, host] = signal
        if signal.dbm > REACH_DBM:
            return
        for connection in list(wearable.le_connections.values()):
            peer = self.air.peer(connection)
            if peer is not None and peer.name == host:
                connection.send_ll_control_pdu(ll.TerminateInd(LINK_LOST))
                wearable.on_le_disconnected(connection, LINK_LOST)

    async def room_towards(self, wearable: CorrectedController, central: hci.Address) -> None:
        """Until the host at the other end of a wearable's link takes more; at once where there is none."""
        connection = wearable.le_connections.get(central)
        peer = self.air.peer(connection) if connection is not None else None
        for host in self._hosts.values():
            if host.controller is peer:
                await host.writable.wait()
                return

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for host in list(self._hosts.values()):
            host.close()
