"""What is said to BlueZ beside bleak, over a real D-Bus daemon to a stand-in that has BlueZ's objects.

How BlueZ itself behaves is not shown here: it needs a kernel with a Bluetooth adapter.
"""

import asyncio
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path

import pytest
from bleak import BleakClient
from bleak.backends.bluezdbus.client import BleakClientBlueZDBus
from bleak.backends.device import BLEDevice
from bleak.exc import BleakDBusError, BleakError
from dbus_fast import MessageType

from gateway.ble import operator
from gateway.ble.bluez_agent import Refusals
from gateway.ble.bluez_backend import BluezAdapter
from gateway.ble.bonds import Admission, Listed, Records
from gateway.ble.errors import BondRefused, PairingFailed, RadioAway
from gateway.link import rules
from gateway.link.bonds import Remembered
from tests.gateway.bluez import OURS, STRANGER, Adapter1, Bluez, Device1


async def test_a_link_that_a_killed_gateway_left_is_ended_and_no_strangers(bluez: Bluez) -> None:
    ours, stranger = Device1(OURS), Device1(STRANGER)
    await bluez.appears(Adapter1(), ours, stranger)
    await BluezAdapter("hci0").attach({OURS})
    assert (ours.connected, stranger.connected) == (False, True)


async def test_an_adapter_that_is_off_is_switched_on(bluez: Bluez) -> None:
    adapter = Adapter1(powered=False)
    await bluez.appears(adapter)
    await BluezAdapter("hci0").attach(set())
    assert adapter.powered


async def test_an_adapter_that_rfkill_blocks_is_told_with_the_way_out(bluez: Bluez) -> None:
    await bluez.appears(Adapter1(powered=False, blocked=True))
    with pytest.raises(RadioAway, match="hci0: the adapter is switched off and stays so: rfkill blocks it") as away:
        await BluezAdapter("hci0").attach(set())
    assert "rfkill unblock bluetooth" in away.value.hint


async def test_an_adapter_that_is_not_there_is_named_with_those_that_are(bluez: Bluez) -> None:
    await bluez.appears(Adapter1())
    with pytest.raises(RadioAway, match="hci7: BlueZ has no such adapter; there is hci0"):
        await BluezAdapter("hci7").attach(set())


@pytest.mark.usefixtures("system_bus")
async def test_a_bus_without_bluez_asks_for_bluetoothd() -> None:
    with pytest.raises(RadioAway, match="BlueZ does not answer") as away:
        await BluezAdapter("hci0").attach(set())
    assert away.value.hint == "Is bluetoothd running?"


async def test_a_machine_without_a_bus_asks_for_dbus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path / 'none'}")
    with pytest.raises(RadioAway, match=r"the system's D-Bus: .*No such file") as away:
        await BluezAdapter("hci0").attach(set())
    assert "dbus" in away.value.hint


class Person:
    """Who answers so."""

    def __init__(self, passkey: int | None = None, confirms: bool = False, trusts: bool = False) -> None:
        self._passkey, self._confirms, self._trusts = passkey, confirms, trusts

    async def passkey(self, address: str) -> int | None:
        assert address == OURS
        return self._passkey

    async def confirm(self, address: str, number: int) -> bool:
        assert (address, number) == (OURS, 123456)
        return self._confirms

    async def shown(self, address: str, number: int) -> bool:
        raise NotImplementedError

    async def just_works(self, address: str) -> bool:
        assert address == OURS
        return self._trusts


@pytest.mark.parametrize(
    ("asks", "good", "bad"),
    [
        ("RequestPasskey", Person(passkey=123456), Person(passkey=123457)),
        ("RequestPasskey", Person(passkey=123456), Person()),
        ("RequestConfirmation", Person(confirms=True), Person()),
        ("RequestAuthorization", Person(trusts=True), Person()),
    ],
    ids=["passkey", "no passkey", "numbers", "just works"],
)
async def test_who_pairs_is_answered_by_the_person_that_asked_for_it(
    bluez: Bluez, asks: str, good: Person, bad: Person
) -> None:
    ours = Device1(OURS, connected=True)
    ours.asks = asks
    await bluez.appears(Adapter1(), ours)
    with pytest.raises(PairingFailed, match=f"{OURS}: pairing failed: another passkey"):
        await BluezAdapter("hci0", bad).pair(OURS)
    assert not ours.paired
    ours.connected = True
    numbered = await BluezAdapter("hci0", good).pair(OURS, without_number=asks == "RequestAuthorization")
    assert numbered == (asks != "RequestAuthorization")
    assert ours.paired
    assert not ours.connected  # the daemon, which hears it again, is to have it
    assert {capability for _, _, capability in bluez.agents} == {"KeyboardDisplay"}


async def test_a_number_of_a_try_that_failed_vouches_for_no_later_bond(
    bluez: Bluez, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.ble.bluez_backend.PAIR_AGAIN_S", 0.0)
    adapter, ours = Adapter1(), Device1(OURS)
    ours.cancels = True
    await bluez.appears(adapter, ours)
    with pytest.raises(PairingFailed, match="it pairs without digits"):
        await BluezAdapter("hci0", Person(passkey=123456)).pair(OURS)
    assert adapter.removed == [ours.path]


async def test_pairing_that_is_stopped_leaves_no_bond(bluez: Bluez) -> None:
    adapter, ours = Adapter1(), Device1(OURS)
    ours.hangs = asyncio.Event()
    await bluez.appears(adapter, ours)
    pairing = asyncio.create_task(BluezAdapter("hci0", Person()).pair(OURS))
    await asyncio.wait_for(ours.hangs.wait(), 5)
    pairing.cancel()
    await asyncio.wait({pairing}, timeout=5)
    assert pairing.cancelled()
    assert adapter.removed == [ours.path]


async def test_no_other_device_is_answered_for_while_one_is_paired(bluez: Bluez) -> None:
    ours = Device1(OURS)
    ours.hangs = asyncio.Event()
    await bluez.appears(Adapter1(), ours)
    pairing = asyncio.create_task(BluezAdapter("hci0", Person(passkey=123456, confirms=True, trusts=True)).pair(OURS))
    await asyncio.wait_for(ours.hangs.wait(), 5)
    for asks in ("RequestPasskey", "RequestConfirmation", "RequestAuthorization"):
        reply = await bluez.ask(asks, Device1(STRANGER).path)
        assert reply.error_name == "org.bluez.Error.Rejected", asks
    pairing.cancel()
    await asyncio.wait({pairing})


async def test_one_heard_under_a_changing_address_is_paired_if_its_own_is_the_one_meant(bluez: Bluez) -> None:
    """BlueZ keeps the object of the address that was heard, and tells the own one once it has its identity key."""
    adapter, private = Adapter1(), Device1("5A:00:00:00:00:01")
    private.own_address = OURS
    await bluez.appears(adapter, private)
    heard_as = "5a:00:00:00:00:01"
    with pytest.raises(PairingFailed, match=f"{STRANGER}: what was paired says that it is {OURS}; it is not paired"):
        await BluezAdapter("hci0").pair(STRANGER, Anybody(), heard_as=heard_as)
    assert adapter.removed == [private.path]
    private.paired, private.address = False, "5A:00:00:00:00:01"
    assert await BluezAdapter("hci0").pair(OURS, Anybody(), heard_as=heard_as)
    assert (private.paired, private.connected, len(adapter.removed)) == (True, False, 1)
    assert await BluezAdapter("hci0").bonded() == {OURS: False}


class Anybody(Person):
    async def passkey(self, _address: str) -> int | None:
        return 123456


CANCELED = BleakDBusError("org.bluez.Error.Failed", ["br-connection-canceled"])


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (CANCELED, None),
        (BleakDBusError("org.bluez.Error.Failed", ["br-connection-key-missing"]), True),
        (BleakDBusError("org.bluez.Error.InProgress", ["In Progress"]), False),
        (TimeoutError(), False),
    ],
)
def test_which_failures_show_that_a_bond_is_gone(error: BaseException, lost: bool | None) -> None:
    assert BluezAdapter().lost_bond(error) is lost


async def test_a_bonded_wearable_that_cancels_twice_in_a_row_is_told_to_have_lost_its_bond(
    bluez: Bluez, tmp_path: Path
) -> None:
    await bluez.appears(Adapter1(), Device1(OURS, paired=True))
    stack, admission = BluezAdapter("hci0"), Admission(Records(tmp_path / "bonds.json"), Listed("left", OURS))

    async def attempt(error: Exception | None) -> None:
        async with admission.connecting(stack):
            if error is not None:
                raise error

    for other in (None, TimeoutError()):
        with pytest.raises(BleakDBusError):
            await attempt(CANCELED)
        with suppress(TimeoutError):
            await attempt(other)
    with pytest.raises(BleakDBusError):
        await attempt(CANCELED)
    with pytest.raises(BondRefused, match="it does not know its bond any more: it was reset, or another device has"):
        await attempt(CANCELED)


async def test_a_bonded_wearable_whose_link_ends_at_once_again_and_again_is_told_of(
    bluez: Bluez, tmp_path: Path
) -> None:
    ours = Device1(OURS, paired=True)
    await bluez.appears(Adapter1(), ours)
    stack, admission = BluezAdapter("hci0"), Admission(Records(tmp_path / "bonds.json"), Listed("left", OURS))

    async def cut_off() -> str | None:
        with suppress(BleakError):
            async with admission.connecting(stack):
                raise BleakError("disconnected")
        return admission.cut_off()

    assert [await cut_off(), await cut_off()] == [None, None]
    async with admission.connecting(stack):
        pass  # this one is connected
    assert [await cut_off(), await cut_off()] == [None, None]
    told = await cut_off()
    assert told is not None
    assert "it does not know its bond any more" in told


async def test_a_bonded_wearable_that_is_heard_and_only_times_out_is_told_of_with_the_way_out(
    bluez: Bluez, tmp_path: Path
) -> None:
    ours = Device1(OURS, paired=True)
    await bluez.appears(Adapter1(), ours)
    stack, admission = BluezAdapter("hci0"), Admission(Records(tmp_path / "bonds.json"), Listed("left", OURS))

    async def time_out() -> str | None:
        with suppress(TimeoutError):
            async with admission.connecting(stack):
                raise TimeoutError
        return admission.unanswered()

    assert [await time_out(), await time_out()] == [None, None]
    told = await time_out()
    assert told is not None
    assert "does not know its bond any more; if it was reset, `gateway forget left` and `gateway pair left`" in told
    async with admission.connecting(stack):
        pass  # this one is connected
    assert [await time_out(), await time_out()] == [None, None]
    never_bonded = Admission(Records(tmp_path / "none.json"), Listed("right", STRANGER))
    assert [never_bonded.unanswered() for _ in range(4)] == [None] * 4


async def test_a_bond_that_vanishes_from_bluez_is_not_replaced_and_survives_no_restart(
    bluez: Bluez, tmp_path: Path
) -> None:
    ours = Device1(OURS, paired=True)
    await bluez.appears(Adapter1(), ours)

    def admitted() -> AbstractAsyncContextManager[None]:
        """As after a restart; the bond was made before records were kept."""
        admission = Admission(Records(tmp_path / "bonds.json"), Listed("left", OURS, allow_just_works=True))
        return admission.connecting(BluezAdapter("hci0"))

    async with admitted():
        pass
    ours.paired = False
    with pytest.raises(BondRefused, match="the bond is gone from this machine"):
        async with admitted():
            raise AssertionError("it would have been connected")


@pytest.mark.parametrize("asks", ["pair", "known", "unpair"])
async def test_an_operator_who_names_an_adapter_that_is_not_there_is_told(bluez: Bluez, asks: str) -> None:
    await bluez.appears(Adapter1(), Device1(OURS))
    with pytest.raises(RadioAway, match="hci7: BlueZ has no such adapter; there is hci0"):
        await getattr(BluezAdapter("hci7"), asks)(*([] if asks == "known" else [OURS]))


@pytest.mark.parametrize("asks", ["RequestPasskey", "RequestConfirmation", "RequestAuthorization"])
async def test_the_daemon_pairs_with_nobody_and_says_so(
    bluez: Bluez, asks: str, caplog: pytest.LogCaptureFixture
) -> None:
    ours = Device1(OURS)
    await bluez.appears(Adapter1(), ours)
    daemon = BluezAdapter("hci0")
    await daemon.attach(set())
    reply = await bluez.ask(asks, ours.path)
    assert reply.error_name == "org.bluez.Error.Rejected"
    assert f"{OURS}: wants to be paired, which only `gateway pair` may do" in caplog.text
    await daemon.detach()


async def test_the_daemon_lets_those_pair_just_so_that_may(bluez: Bluez) -> None:
    ours, stranger = Device1(OURS), Device1(STRANGER)
    await bluez.appears(Adapter1(), ours, stranger)
    daemon = BluezAdapter("hci0", Refusals([OURS.lower()]))
    await daemon.attach(set())
    assert (await bluez.ask("RequestAuthorization", ours.path)).message_type is MessageType.METHOD_RETURN
    assert (await bluez.ask("RequestAuthorization", stranger.path)).message_type is MessageType.ERROR
    await daemon.detach()


async def test_a_bluetoothd_that_ends_is_noticed_and_gets_the_agent_again_when_it_is_back(bluez: Bluez) -> None:
    await bluez.appears(Adapter1())
    daemon = BluezAdapter("hci0")
    await daemon.attach(set())
    for times in (2, 3):
        lost = asyncio.create_task(daemon.wait_lost())
        done, _ = await asyncio.wait({lost}, timeout=0.2)
        assert not done
        await bluez.bus.release_name("org.bluez")
        await asyncio.wait_for(lost, 5)
        await bluez.bus.request_name("org.bluez")
        await daemon.attach(set())
        assert len(bluez.agents) == times
    await daemon.detach()


async def test_a_wait_for_bluetoothd_that_is_given_up_leaves_the_next_one_waiting(bluez: Bluez) -> None:
    await bluez.appears(Adapter1())
    daemon = BluezAdapter("hci0")
    await daemon.attach(set())
    for _ in range(2):
        lost = asyncio.create_task(daemon.wait_lost())
        done, _ = await asyncio.wait({lost}, timeout=0.2)
        assert not done
        lost.cancel()
        await asyncio.wait({lost})
    await daemon.detach()


async def test_what_bluez_knows_of_a_wearable_is_told_and_forgotten(bluez: Bluez) -> None:
    adapter, ours = Adapter1(), Device1(OURS, paired=True)
    await bluez.appears(adapter, ours)
    assert (await BluezAdapter("hci0").known())[OURS]["Paired"] is True
    assert await BluezAdapter("hci0").unpair(OURS)
    assert adapter.removed == [ours.path]
    assert not await BluezAdapter("hci0").unpair(STRANGER)


async def test_what_an_operator_forgets_while_bluetoothd_dies_is_forgotten_once_it_is_back(
    bluez: Bluez, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operator, "AGAIN_S", 0.0)
    adapter, ours, records = Adapter1(), Device1(OURS, paired=True), Records(tmp_path / "bonds.json")
    adapter.dies = operator.TRIES - 1
    await bluez.appears(adapter, ours)
    assert await operator.forget(BluezAdapter("hci0"), records, Listed("left", OURS))
    assert adapter.removed == [ours.path]
    assert records.of("left", OURS) is Remembered.FORGOTTEN
    adapter.dies = operator.TRIES
    with pytest.raises(RadioAway, match=r"BlueZ does not answer \(org.freedesktop.DBus.Error.NoReply"):
        await operator.forget(BluezAdapter("hci0"), records, Listed("left", OURS))


@pytest.mark.parametrize("paired", [False, True])
async def test_forgetting_ends_the_link_and_keeps_a_bond(bluez: Bluez, paired: bool) -> None:
    adapter, ours = Adapter1(), Device1(OURS, paired=paired)
    await bluez.appears(adapter, ours, Device1(STRANGER))
    await BluezAdapter("hci0").forget(BLEDevice(OURS, None, {}))
    assert not ours.connected
    assert adapter.removed == ([] if paired else [ours.path])


async def test_forgetting_a_device_that_is_not_connected_removes_it_all_the_same(bluez: Bluez) -> None:
    adapter, ours = Adapter1(), Device1(OURS, connected=False)
    await bluez.appears(adapter, ours)
    await BluezAdapter("hci0").forget(BLEDevice(OURS, None, {}))
    assert adapter.removed == [ours.path]


@pytest.mark.parametrize(
    ("error", "half_open"),
    [
        (BleakDBusError("org.bluez.Error.InProgress", ["In Progress"]), True),  # BlueZ 5.82
        (BleakDBusError("org.bluez.Error.Failed", ["Operation already in progress"]), True),  # BlueZ 5.66
        (BleakDBusError("org.bluez.Error.Failed", ["br-connection-canceled"]), False),
        (BleakError("device 'dev_C0_00_00_00_00_01' not found"), False),
        (TimeoutError(), False),
    ],
)
def test_which_failures_show_an_attempt_that_is_left(error: BaseException, half_open: bool) -> None:
    assert BluezAdapter().left_half_open(error) is half_open


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (BleakDBusError("org.bluez.Error.Failed", ["br-connection-concurrent-connection-limit"]), True),
        (BleakDBusError("org.bluez.Error.Failed", ["le-connection-concurrent-connection-limit"]), True),
        (BleakDBusError("org.bluez.Error.Failed", ["br-connection-canceled"]), False),
        (TimeoutError(), False),
    ],
)
def test_which_failures_show_that_the_adapter_holds_no_more(error: BaseException, full: bool) -> None:
    assert BluezAdapter().is_full(error) is full


async def test_each_adapter_ends_the_links_that_were_left_on_it_and_none_of_the_others(bluez: Bluez) -> None:
    first, second = Device1(OURS), Device1(STRANGER)
    second.path = second.path.replace("hci0", "hci1")
    bluez.bus.export("/org/bluez/hci1", Adapter1())
    await bluez.appears(Adapter1(), first, second)
    one, other = BluezAdapter("hci0"), BluezAdapter("hci1")
    await one.attach({OURS, STRANGER})
    assert (first.connected, second.connected) == (False, True)
    await other.attach({OURS, STRANGER})
    assert not second.connected
    assert (list(await one.known()), list(await other.known())) == ([OURS], [STRANGER])
    await one.detach()
    await other.detach()


async def test_the_link_is_told_before_its_services_are_and_only_while_it_is_being_made(
    bluez: Bluez, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What bleak's connect does is not of interest here: BlueZ tells of the link while it runs."""
    ours, stranger = Device1(OURS, connected=False), Device1(STRANGER, connected=False)
    await bluez.appears(Adapter1(), ours, stranger)
    adapter = BluezAdapter("hci0")
    await adapter.attach(set())
    told: list[rules.Event] = []
    linked = asyncio.Event()

    def tell(event: rules.Event) -> None:
        told.append(event)
        linked.set()

    async def connect(_client: BleakClient, **_: object) -> None:
        for device, connected in ((stranger, True), (ours, False), (ours, True)):
            device.connected = connected
            device.emit_properties_changed({"Connected": connected})
        await adapter.known()  # a round trip, behind the signals

    monkeypatch.setattr(BleakClient, "connect", connect)
    device = BLEDevice(OURS, None, {"path": ours.path, "props": {"Adapter": "/x"}})
    client = adapter.client(device, lambda _client: None, None, 5.0, tell)
    await client.connect()
    await asyncio.wait_for(linked.wait(), 5)
    assert told == [rules.Linked()]
    ours.emit_properties_changed({"Connected": True})
    await adapter.known()
    assert told == [rules.Linked()]
    await adapter.detach()


def test_bleak_gets_the_adapter_and_chooses_bluez() -> None:
    device = BLEDevice(OURS, None, {"path": "/org/bluez/hci1/dev_C0_00_00_00_00_01", "props": {"Adapter": "/x"}})
    client = BluezAdapter("hci1").client(device, lambda _client: None, None, 5.0)
    assert isinstance(client, BleakClient)
    assert isinstance(client._backend, BleakClientBlueZDBus)
