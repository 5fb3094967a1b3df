"""Pairing on the Bumble backend, with simulated wearables that protect what they say, over a virtual radio."""

import asyncio
import json
import random
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest
from bleak import BleakClient
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData
from bleak.exc import BleakGATTProtocolError
from bumble.device import Connection
from bumble.pairing import PairingConfig, PairingDelegate

from firmware_sim.encoding import INFO_UUID
from firmware_sim.endpoint import Endpoint
from firmware_sim.scenario import parse_wearable
from firmware_sim.simulation import Simulation
from gateway.ble import bumble_backend
from gateway.ble.bluez_agent import Refusals
from gateway.ble.bonds import Admission, Listed, Records
from gateway.ble.bumble_backend import BondLost, BumbleAdapter
from gateway.ble.bumble_keys import KeyFile
from gateway.ble.errors import BondRefused, PairingFailed
from gateway.ble.private_file import FileDamaged
from gateway.link.bonds import Remembered


class Person:
    """Who answers so; None: never."""

    def __init__(self, passkey: int | None = 123456, confirms: bool = True) -> None:
        self._passkey, self._confirms = passkey, confirms
        self.asked: list[str] = []
        self.number: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def passkey(self, _address: str) -> int | None:
        self.asked.append("passkey")
        if self._passkey is None:
            await asyncio.Event().wait()
        return self._passkey

    async def confirm(self, _address: str, number: int) -> bool:
        assert 0 <= number <= 999_999
        self.asked.append("confirm")
        return self._confirms

    async def shown(self, _address: str, number: int) -> bool:
        self.asked.append("shown")
        self.number.set_result(number)
        return True

    async def just_works(self, _address: str) -> bool:
        raise NotImplementedError


class Place:
    """A simulated wearable `left`, and hosts that come and go."""

    def __init__(self, simulation: Simulation, transport: str, folder: Path) -> None:
        self.simulation, self.transport, self.folder = simulation, transport, folder
        self.address = simulation.wearables[0].spec.ble_address()
        self.adapters: list[BumbleAdapter] = []

    async def host(self, answers: Refusals | None = None, *, legacy: bool = True) -> BumbleAdapter:
        """As after a restart of the gateway: with the keys that are on the disk."""
        while self.adapters:
            await self.adapters.pop().detach()
        adapter = BumbleAdapter(self.transport, KeyFile(self.folder / "keys.json"), answers, legacy=legacy)
        self.adapters.append(adapter)
        await adapter.attach()
        return adapter

    def op(self, op: str, **more: object) -> None:
        assert "error" not in self.simulation.obey({"op": op, "wearable": "left", **more})

    async def heard(self, adapter: BumbleAdapter) -> BLEDevice:
        """Under its name, and no longer than the first of them."""
        found: asyncio.Future[BLEDevice] = asyncio.get_running_loop().create_future()

        def note(device: BLEDevice, data: AdvertisementData) -> None:
            if data.local_name == "left" and not found.done():
                found.set_result(device)

        async with adapter.listening(note), asyncio.timeout(10):
            return await found

    async def client(self, adapter: BumbleAdapter) -> BleakClient:
        return adapter.client(await self.heard(adapter), lambda _client: None, None, 10.0)

    async def info(self, adapter: BumbleAdapter) -> bytes:
        """What it answers to a read."""
        async with await self.client(adapter) as client:
            return bytes(await client.read_gatt_char(INFO_UUID))


At = Callable[[str], Awaitable[Place]]


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[At]:
    """A place with a wearable as a text describes it."""
    running: list[tuple[asyncio.Task[None], Place]] = []

    async def make(wearable: str) -> Place:
        simulation = Simulation(lambda: 0, random.Random(1))
        simulation.add(parse_wearable(f"name=left; {wearable}"), np.zeros((100, 6), np.float32))
        endpoint = await simulation.serve(Endpoint("127.0.0.1", 0))
        place = Place(simulation, f"tcp-client:{endpoint}", tmp_path)
        running.append((asyncio.create_task(simulation.run()), place))
        await simulation.started.wait()
        return place

    yield make
    for task, place in running:
        place.simulation.close()
        task.cancel()
        for adapter in place.adapters:
            await adapter.detach()
        # before Python 3.12 asyncio.wait_for, in Bumble, may swallow a cancellation (python/cpython#86296)
        await asyncio.wait({task}, timeout=1)


PASSKEY, NUMERIC = "pairing=passkey; passkey=123456", "pairing=numeric"


async def test_nothing_is_read_without_a_bond_and_nobody_is_paired_by_the_daemon(at: At) -> None:
    place, told = await at(PASSKEY), []
    adapter = await place.host(Refusals(refused=told.append))
    with pytest.raises(BleakGATTProtocolError) as refused:
        await place.info(adapter)
    assert int(refused.value.code) in (0x05, 0x0F)
    assert told == [place.address]
    assert not (await adapter.held(place.address)).bonded


@pytest.mark.parametrize(("wearable", "asked"), [(PASSKEY, ["passkey"]), (NUMERIC, ["confirm"])])
async def test_a_number_pairs_and_the_bond_serves_after_a_restart(at: At, wearable: str, asked: list[str]) -> None:
    place = await at(wearable)
    adapter, person = await place.host(), Person()
    assert await adapter.pair(place.address, person) is True
    assert person.asked == asked
    for _ in range(2):
        assert await place.info(adapter)
        assert (await adapter.held(place.address)).authenticated is True
        assert await adapter.bonded() == {place.address: False}
        adapter = await place.host()


async def test_six_zeros_are_a_passkey_like_any_other(at: At) -> None:
    place = await at("pairing=passkey; passkey=000000")
    adapter = await place.host()
    with pytest.raises(PairingFailed, match=WRONG):
        await adapter.pair(place.address, Person(1))
    assert await adapter.pair(place.address, Person(0)) is True
    assert await place.info(adapter)


async def test_the_digits_that_the_gateway_shows_are_typed_on_the_wearable(at: At) -> None:
    place = await at("pairing=keyboard")
    adapter, person = await place.host(), Person()
    pairing = asyncio.create_task(adapter.pair(place.address, person))
    place.op("type", digits=await asyncio.wait_for(person.number, 10))
    assert await asyncio.wait_for(pairing, 10) is True
    assert await place.info(adapter)


WRONG = "pairing failed: another passkey, or a number that was not confirmed"


@pytest.mark.parametrize(
    ("wearable", "passkey", "confirms", "words"),
    [
        (PASSKEY, 123457, True, WRONG),
        (NUMERIC, None, False, WRONG),
        ("pairing=refused", 123456, True, "the wearable refused to pair"),
        ("pairing=just_works", 123456, True, "it pairs without digits, so nobody knows that it is this one"),
    ],
    ids=["another passkey", "other numbers", "refused", "just works"],
)
async def test_what_does_not_pair_says_why_and_leaves_nothing(
    at: At, wearable: str, passkey: int, confirms: bool, words: str
) -> None:
    place = await at(wearable)
    adapter = await place.host()
    with pytest.raises(PairingFailed, match=f"{place.address}: {words}"):
        await adapter.pair(place.address, Person(passkey, confirms))
    assert not (await adapter.held(place.address)).bonded
    assert not adapter.device.connections
    with pytest.raises(BleakGATTProtocolError):
        await place.info(adapter)


async def test_a_bond_of_the_old_way_serves_after_a_restart_by_the_numbers_that_the_wearable_gave_it(at: At) -> None:
    """Core 5.4, Vol 3, Part H, 2.4.4.2: by EDIV and Rand, which a wearable gives with its key, it knows which key is
    meant; LE Secure Connections has zeros there."""
    place = await at("pairing=legacy; passkey=123456")
    assert await (await place.host()).pair(place.address, Person()) is True
    assert await place.info(await place.host())
    file = place.folder / "keys.json"
    kept = json.loads(file.read_text())
    kept["bonds"][place.address]["ltk_central"] |= {"ediv": 0x1234, "rand": "0123456789abcdef"}
    file.write_text(json.dumps(kept))
    host = place.simulation.wearables[0].peripheral._bumble.host
    key_of, asked = host.long_term_key_provider, []

    def note(handle: int, rand: bytes, ediv: int) -> Awaitable[bytes | None]:
        asked.append((ediv, rand.hex()))
        return key_of(handle, rand, ediv)

    host.long_term_key_provider = note
    assert await place.info(await place.host())
    assert asked == [(0x1234, "0123456789abcdef")]


async def test_a_pairing_that_leaves_no_key_makes_no_bond_and_no_damaged_file(at: At) -> None:
    place = await at("pairing=legacy; passkey=123456")
    wearable = place.simulation.wearables[0].peripheral._bumble
    bonding = wearable.pairing_config_factory

    def keeps_nothing(connection: Connection) -> PairingConfig:
        configuration = bonding(connection)
        only_its_identity = PairingDelegate.KeyDistribution.DISTRIBUTE_IDENTITY_KEY
        configuration.delegate.local_responder_key_distribution = only_its_identity
        return configuration

    wearable.pairing_config_factory = keeps_nothing
    adapter = await place.host()
    with pytest.raises(PairingFailed, match="it gives no key by which it would be known again; it is not paired"):
        await adapter.pair(place.address, Person())
    assert await (await place.host()).bonded() == {}


async def test_the_old_way_of_pairing_is_refused_where_secure_connections_alone_will_do(at: At) -> None:
    place = await at(PASSKEY)
    wearable = place.simulation.wearables[0].peripheral._bumble
    secure = wearable.pairing_config_factory

    def old(connection: Connection) -> PairingConfig:
        configuration = secure(connection)
        configuration.sc = False
        return configuration

    wearable.pairing_config_factory = old
    adapter = await place.host(legacy=False)
    with pytest.raises(PairingFailed, match="it cannot pair by LE Secure Connections, so whoever listened") as told:
        await adapter.pair(place.address, Person())
    assert told.value.hint == 'Where that will do, say secure_connections = "preferred" in [radio].'
    assert await adapter.bonded() == {}
    adapter = await place.host(legacy=True)
    assert await adapter.pair(place.address, Person()) is True


async def test_a_passkey_that_nobody_types_is_given_up(at: At, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bumble_backend, "PAIR_S", 1.0)
    place = await at(PASSKEY)
    adapter = await place.host()
    with pytest.raises(PairingFailed, match="pairing took too long"):
        await adapter.pair(place.address, Person(None))
    assert not adapter.device.connections


async def test_a_wearable_that_is_not_there_is_not_paired(at: At, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bumble_backend, "FIND_S", 0.3)
    adapter = await (await at(PASSKEY)).host()
    with pytest.raises(PairingFailed, match=r"C0:00:00:00:00:77: not heard for 0\.3 s"):
        await adapter.pair("C0:00:00:00:00:77", Person())


async def test_without_digits_it_pairs_where_that_is_allowed_and_is_known_to_be_so(at: At) -> None:
    place = await at("pairing=just_works")
    adapter = await place.host()
    assert await adapter.pair(place.address, Person(), without_number=True) is False
    assert (await adapter.held(place.address)).authenticated is False
    assert await place.info(adapter)


async def test_the_daemon_pairs_just_so_with_whom_it_may_at_the_first_read(at: At) -> None:
    place = await at("pairing=just_works")
    assert await place.info(await place.host(Refusals([place.address])))
    other = await place.host(Refusals())
    assert await place.info(other), "the bond is kept"
    await other.unpair(place.address)
    with pytest.raises(BleakGATTProtocolError):
        await place.info(other)


async def test_keys_are_for_the_gateway_alone_and_damage_is_told(at: At) -> None:
    place = await at(NUMERIC)
    await (await place.host()).pair(place.address, Person())
    file = place.folder / "keys.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [entry.name for entry in place.folder.iterdir()] == ["keys.json"]
    whole = json.loads(file.read_text())
    for damaged in (b"", b"{", b"[]", b'{"version": 2}', json.dumps(whole | {"address": "x"}).encode(), b"\xff"):
        file.write_bytes(damaged)
        with pytest.raises(FileDamaged, match=r"keys\.json: not what the gateway wrote there") as told:
            KeyFile(file)
        assert told.value.hint == "Move it away and pair the wearables again."
        assert file.read_bytes() == damaged


@pytest.mark.parametrize("how", [{"op": "forget_bonds"}, {"op": "impostor", "on": True}], ids=["lost", "impostor"])
async def test_who_has_not_the_key_is_not_read_and_not_paired_again(at: At, how: dict[str, object]) -> None:
    """An impostor would let everybody read."""
    place = await at("pairing=numeric")
    adapter = await place.host(Refusals([place.address]))
    await adapter.pair(place.address, Person())
    before = (place.folder / "keys.json").read_bytes()
    place.op(**how)
    client = await place.client(adapter)
    with pytest.raises(BondLost, match="it does not know its bond"):
        await client.connect()
    assert not client.is_connected
    assert (place.folder / "keys.json").read_bytes() == before
    place.op("impostor", on=False)
    if how["op"] == "impostor":
        assert await place.info(adapter), "the real one is known again"


async def test_a_wearable_that_says_it_is_another_one_takes_no_ones_place(at: At) -> None:
    place = await at("pairing=numeric; privacy_s=60")
    adapter = await place.host()
    heard_as = (await place.heard(adapter)).address
    with pytest.raises(PairingFailed, match=f"what was paired says that it is {place.address}; it is not") as told:
        await adapter.pair("C0:00:00:00:00:77", Person(), heard_as=heard_as)
    assert "address for its [[wearable]] table" in told.value.hint
    assert await adapter.bonded() == {}


async def test_an_address_that_changes_is_that_of_the_same_wearable_once_it_is_paired(at: At) -> None:
    place = await at("pairing=numeric; privacy_s=600")
    adapter = await place.host()
    device = await place.heard(adapter)
    assert device.address != place.address
    await adapter.pair(place.address, Person(), heard_as=device.address)
    seen: set[str] = set()
    for _ in range(3):
        device = await place.heard(adapter)
        seen.add(device.details.to_string(False))
        assert device.address == place.address
        async with await place.client(adapter) as client:
            assert await client.read_gatt_char(INFO_UUID)
            assert await adapter.bonded() == {place.address: True}
        adapter = await place.host()
        await place.simulation.wearables[0].peripheral.change_address()
    assert len(seen) > 1, "it did change"


# Who may be connected.


def admission(place: Place, *, allow_just_works: bool = False) -> Admission:
    records = Records(place.folder / "bonds.json")
    return Admission(records, Listed("left", place.address, allow_just_works))


async def test_a_wearable_that_was_paired_is_refused_once_its_bond_is_gone_from_here(at: At) -> None:
    place = await at(NUMERIC)
    adapter = await place.host()
    await adapter.pair(place.address, Person())
    async with admission(place).connecting(adapter):
        assert await place.info(adapter)
    (place.folder / "keys.json").unlink()
    place.op("impostor", on=True)
    adapter = await place.host()
    with pytest.raises(BondRefused, match=r"the bond is gone from this machine.*`gateway pair left` near it pairs"):
        async with admission(place).connecting(adapter):
            raise AssertionError("it would have been connected")


async def test_one_that_has_lost_its_key_is_told_with_the_way_out(at: At) -> None:
    place = await at(NUMERIC)
    adapter = await place.host()
    await adapter.pair(place.address, Person())
    place.op("forget_bonds")
    admit = admission(place, allow_just_works=True)
    with pytest.raises(BondRefused, match=r"does not know its bond any more: .*`gateway forget left` and `gateway pa"):
        async with admit.connecting(adapter):
            await (await place.client(adapter)).connect()


async def test_a_bond_without_digits_is_refused_where_that_is_not_allowed_any_more(at: At) -> None:
    place = await at("pairing=just_works")
    adapter = await place.host()
    await adapter.pair(place.address, Person(), without_number=True)
    async with admission(place, allow_just_works=True).connecting(adapter):
        pass
    with pytest.raises(BondRefused, match="it is paired without digits, so nobody knows who it is"):
        async with admission(place).connecting(adapter):
            raise AssertionError("it would have been connected")
    assert Records(place.folder / "bonds.json").of("left", place.address) is Remembered.JUST_WORKS
