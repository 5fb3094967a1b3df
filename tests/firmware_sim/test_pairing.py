"""A simulated wearable that pairs, against Bumble's own host as the central."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable

import numpy as np
import pytest
from bumble import hci
from bumble.core import UUID, ProtocolError
from bumble.device import Advertisement, Connection, Device, DeviceConfiguration, Peer
from bumble.keys import MemoryKeyStore
from bumble.pairing import PairingConfig, PairingDelegate

from firmware_sim.encoding import INFO_UUID
from firmware_sim.scenario import ScenarioRejected, parse_wearable
from firmware_sim.simulation import Simulation


class Keyboard(PairingDelegate):
    """Of the central: it types what it is told to, and notes what it is shown."""

    def __init__(self, typed: int) -> None:
        super().__init__(PairingDelegate.DISPLAY_OUTPUT_AND_KEYBOARD_INPUT)
        self.typed, self.asked, self.compared = typed, 0, 0

    async def get_number(self) -> int:
        self.asked += 1
        return self.typed

    async def compare_numbers(self, number: int, digits: int) -> bool:
        self.compared += 1
        return 0 <= number < 10**digits


Meet = Callable[[str, Keyboard], Awaitable[tuple[Simulation, Device]]]


@pytest.fixture
async def meet() -> AsyncIterator[Meet]:
    """A wearable as a text describes it, and a central in its air."""
    running: list[asyncio.Task[None]] = []

    async def make(wearable: str, keyboard: Keyboard) -> tuple[Simulation, Device]:
        simulation = Simulation(lambda: 0, random.Random(1))
        simulation.add(parse_wearable(f"name=left; {wearable}"), np.zeros((100, 6), np.float32))
        running.append(asyncio.create_task(simulation.run()))
        await simulation.started.wait()
        configuration = DeviceConfiguration(name="central", address=hci.Address("F0:00:00:00:00:01"))
        central = simulation.radio.wearable("central").bumble_device(configuration)
        central.keystore = MemoryKeyStore()
        central.pairing_config_factory = lambda _: PairingConfig(sc=True, mitm=True, bonding=True, delegate=keyboard)
        await central.power_on()
        return simulation, central

    yield make
    for task in running:
        task.cancel()
        await asyncio.wait({task})


async def connected(simulation: Simulation, central: Device) -> Connection:
    (wearable,) = simulation.wearables
    return await asyncio.wait_for(central.connect(hci.Address(wearable.spec.ble_address())), 10)


async def info(connection: Connection) -> bytes:
    """What the wearable answers to a read."""
    peer = Peer(connection)
    await peer.discover_all()
    (characteristic,) = peer.get_characteristics_by_uuid(UUID(INFO_UUID))
    return await characteristic.read_value()


async def test_who_is_not_bonded_reads_nothing(meet: Meet) -> None:
    simulation, central = await meet("pairing=passkey; passkey=123456", Keyboard(123456))
    with pytest.raises(ProtocolError, match=r"AUTHENTICATION|ENCRYPTION"):
        await info(await connected(simulation, central))


@pytest.mark.parametrize(
    ("wearable", "asked", "compared"),
    [
        ("pairing=passkey; passkey=012345", 1, 0),
        ("pairing=numeric", 0, 1),
        ("pairing=just_works", 0, 0),
        ("pairing=legacy; passkey=012345", 1, 0),
    ],
)
async def test_each_way_to_pair_opens_it_and_the_bond_serves_the_next_link(
    meet: Meet, wearable: str, asked: int, compared: int
) -> None:
    keyboard = Keyboard(12345)
    simulation, central = await meet(wearable, keyboard)
    first = await connected(simulation, central)
    await asyncio.wait_for(first.pair(), 10)
    assert (keyboard.asked, keyboard.compared) == (asked, compared)
    assert await info(first)
    await first.disconnect()
    second = await connected(simulation, central)
    await asyncio.wait_for(second.encrypt(), 10)
    assert await info(second)
    assert (keyboard.asked, keyboard.compared) == (asked, compared)


async def test_a_wrong_passkey_pairs_nothing(meet: Meet) -> None:
    simulation, central = await meet("pairing=passkey; passkey=123456", Keyboard(123457))
    connection = await connected(simulation, central)
    with pytest.raises(ProtocolError):
        await asyncio.wait_for(connection.pair(), 10)


@pytest.mark.parametrize(("wearable", "secure"), [("passkey", True), ("legacy", False)])
async def test_only_legacy_pairing_makes_no_key_of_secure_connections(meet: Meet, wearable: str, secure: bool) -> None:
    simulation, central = await meet(f"pairing={wearable}; passkey=123456", Keyboard(123456))
    connection = await connected(simulation, central)
    await asyncio.wait_for(connection.pair(), 10)
    assert connection.sc == secure


async def test_a_wearable_that_forgot_its_bonds_knows_the_central_no_more(meet: Meet) -> None:
    simulation, central = await meet("pairing=numeric", Keyboard(0))
    await asyncio.wait_for((await connected(simulation, central)).pair(), 10)
    simulation.obey({"op": "forget_bonds", "wearable": "left"})
    again = await connected(simulation, central)
    with pytest.raises(Exception, match="PIN_OR_KEY_MISSING"):
        await asyncio.wait_for(again.encrypt(), 10)


async def test_one_that_refuses_to_pair_says_so_and_stays_shut(meet: Meet) -> None:
    simulation, central = await meet("pairing=refused", Keyboard(0))
    connection = await connected(simulation, central)
    with pytest.raises(ProtocolError, match="PAIRING_NOT_SUPPORTED"):
        await asyncio.wait_for(connection.pair(), 10)
    with pytest.raises(ProtocolError, match=r"AUTHENTICATION|ENCRYPTION"):
        await info(connection)


async def test_an_impostor_has_the_name_and_address_lets_everybody_read_and_lacks_the_key(meet: Meet) -> None:
    simulation, central = await meet("pairing=numeric", Keyboard(0))
    await asyncio.wait_for((await connected(simulation, central)).pair(), 10)
    simulation.obey({"op": "impostor", "wearable": "left", "on": True})
    fake = await connected(simulation, central)
    assert await info(fake)
    with pytest.raises(Exception, match="PIN_OR_KEY_MISSING"):
        await asyncio.wait_for(fake.encrypt(), 10)
    simulation.obey({"op": "impostor", "wearable": "left", "on": False})
    real = await connected(simulation, central)
    with pytest.raises(ProtocolError, match=r"AUTHENTICATION|ENCRYPTION"):
        await info(real)
    await asyncio.wait_for(real.encrypt(), 10)
    assert await info(real)


async def test_a_private_one_changes_its_address_and_whoever_has_its_key_knows_it(meet: Meet) -> None:
    """Core 5.4, Vol 6, Part B, 1.3.2.2: the two highest bits are 01, and the rest is hashed with its key."""
    simulation, central = await meet("pairing=numeric; privacy_s=0.5", Keyboard(0))
    wearable = simulation.wearables[0]
    heard: list[hci.Address] = []
    thrice = asyncio.Event()

    def note(advertisement: Advertisement) -> None:
        if advertisement.address not in heard:
            heard.append(advertisement.address)
        if len(heard) == 3:
            thrice.set()

    central.on("advertisement", note)
    await central.start_scanning()
    await asyncio.wait_for(thrice.wait(), 10)
    await central.stop_scanning()
    assert all(bytes(address)[5] >> 6 == 0b01 for address in heard)
    connection = await asyncio.wait_for(central.connect(heard[-1]), 10)
    await asyncio.wait_for(connection.pair(), 10)
    assert connection.peer_address.to_string(False) == wearable.spec.ble_address()
    (irk, identity), *_ = await central.keystore.get_resolving_keys()
    assert identity.to_string(False) == wearable.spec.ble_address()
    assert irk == wearable.peripheral._bumble.irk != bytes(16)


async def test_a_private_one_that_is_free_changes_its_address_when_it_is_told_to(meet: Meet) -> None:
    simulation, central = await meet("pairing=numeric; privacy_s=600", Keyboard(0))
    before = simulation.obey({"op": "status"})["wearables"][0]["advertised_address"]  # type: ignore[index]
    changed = asyncio.Event()

    def note(advertisement: Advertisement) -> None:
        if advertisement.address.to_string(False) != before:
            changed.set()

    central.on("advertisement", note)
    await central.start_scanning()
    simulation.obey({"op": "change_address", "wearable": "left"})
    await asyncio.wait_for(changed.wait(), 10)
    await central.stop_scanning()
    await asyncio.wait_for(central.connect(hci.Address(simulation.wearables[0].peripheral.advertised_address)), 10)
    assert simulation.obey({"op": "change_address", "wearable": "left"}) == {
        "error": "change_address: left is connected"
    }


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"op": "impostor", "wearable": "left"}, "impostor: on is None, expected true or false"),
        ({"op": "type", "wearable": "left", "digits": 1000000}, "type: digits is 1000000, expected a number of up"),
        ({"op": "change_address", "wearable": "left"}, "change_address: left has no privacy_s"),
        ({"op": "type", "wearable": "right", "digits": 1}, "no wearable 'right': there are left"),
    ],
)
async def test_a_control_request_that_makes_no_sense_is_refused(
    meet: Meet, request_: dict[str, object], said: str
) -> None:
    simulation, _ = await meet("pairing=keyboard", Keyboard(0))
    assert said in str(simulation.obey(request_)["error"])


@pytest.mark.parametrize(
    ("wearable", "said"),
    [
        ("pairing=passkey", "passkey: six digits where pairing is passkey or legacy"),
        ("passkey=123456", "passkey: six digits where pairing is passkey or legacy"),
        ("pairing=passkey; passkey=1000000", "passkey: expected at most 999999, found '1000000'"),
        ("pairing=maybe", "pairing: .*'none', 'just_works', 'passkey', 'numeric', 'keyboard', 'refused' or 'legacy'"),
        ("privacy_s=5", "privacy_s: only who is paired can know it by a changing address; say how it pairs"),
        ("pairing=numeric; privacy_s=0", "privacy_s: expected more than 0, found '0'"),
    ],
)
def test_what_cannot_be_is_refused(wearable: str, said: str) -> None:
    with pytest.raises(ScenarioRejected, match=said):
        parse_wearable(f"name=left; {wearable}")
