"""Corrections to Bumble's controller that a host of another process depends on."""

import asyncio

from bumble import hci

from firmware_sim.radio import Air, CorrectedController


class Sink:
    """A host's end: the HCI packets that the controller sent."""

    def __init__(self) -> None:
        self.packets: asyncio.Queue[hci.HCI_Packet] = asyncio.Queue()

    def on_packet(self, packet: bytes) -> None:
        self.packets.put_nowait(hci.HCI_Packet.from_bytes(packet))


def controller() -> tuple[CorrectedController, Sink]:
    made, sink = CorrectedController("host", Air()), Sink()
    made.host = sink
    return made, sink


async def answer(sink: Sink) -> hci.HCI_Packet:
    return await asyncio.wait_for(sink.packets.get(), 1)


async def test_an_unknown_command_is_answered_with_unknown_command() -> None:
    made, sink = controller()
    made.on_packet(bytes.fromhex("01 ff3f 00"))  # group 0x0F, which no specification uses
    event = await answer(sink)
    assert isinstance(event, hci.HCI_Command_Status_Event)
    assert (event.status, event.command_opcode) == (0x01, 0x3FFF)


async def test_cancelling_a_pending_connect_completes_it_with_unknown_connection() -> None:
    made, sink = controller()
    connect = hci.HCI_LE_Create_Connection_Command(
        le_scan_interval=96,
        le_scan_window=96,
        initiator_filter_policy=0,
        peer_address_type=1,
        peer_address=hci.Address("F0:00:00:00:00:77"),
        own_address_type=1,
        connection_interval_min=24,
        connection_interval_max=40,
        max_latency=0,
        supervision_timeout=500,
        min_ce_length=0,
        max_ce_length=0,
    )
    cancel = hci.HCI_LE_Create_Connection_Cancel_Command()
    for _ in range(2):  # the second connect shows that nothing was left behind
        made.on_packet(bytes(connect))
        status = await answer(sink)
        assert isinstance(status, hci.HCI_Command_Status_Event)
        assert status.status == 0
        made.on_packet(bytes(cancel))
        done = await answer(sink)
        assert isinstance(done, hci.HCI_Command_Complete_Event)
        assert done.return_parameters.status == 0
        complete = await answer(sink)
        assert isinstance(complete, hci.HCI_LE_Connection_Complete_Event)
        assert complete.status == 0x02
    made.on_packet(bytes(cancel))
    refused = await answer(sink)
    assert isinstance(refused, hci.HCI_Command_Complete_Event)
    assert refused.return_parameters.status == hci.HCI_ErrorCode.COMMAND_DISALLOWED_ERROR


async def test_features_that_bumble_lacks_are_not_claimed() -> None:
    made, sink = controller()
    made.on_packet(bytes(hci.HCI_LE_Read_Local_Supported_Features_Command()))
    event = await answer(sink)
    assert isinstance(event, hci.HCI_Command_Complete_Event)
    features = int.from_bytes(event.return_parameters.le_features, "little")
    extended_advertising, periodic_advertising, privacy = 12, 13, 6  # Core Specification, vol. 6, part B, 4.6
    assert not features & (1 << extended_advertising | 1 << periodic_advertising | 1 << privacy)
