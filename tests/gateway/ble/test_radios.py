"""Several adapters as one, in one air: who holds which wearable, and what becomes of it where one is away or full."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData

from firmware_sim.endpoint import Endpoint
from gateway.ble import open_radios
from gateway.ble.errors import RadioRejected
from gateway.ble.radio import Radio
from gateway.ble.radios import Radios
from gateway.link import rules
from tests.gateway.ble.conftest import Air, Host
from tests.gateway.ble.test_radio import Stack, Statuses
from tests.gateway.ble.test_runner import Script

Hosts = Callable[..., Host]


async def another(air: Air) -> str:
    """One more transport to the same air."""
    return f"tcp-client:{await air.radio.serve(Endpoint('127.0.0.1', 0))}"


@asynccontextmanager
async def gateway_on(*transports: str, wearables_max: int = 8, **only: str) -> AsyncIterator[Host]:
    pinned = {address.replace("_", ":"): name for address, name in only.items()}
    made = Host(open_radios("bumble", transports, wearables_max=wearables_max, only=pinned))
    yield made
    await made.stop()


async def test_two_adapters_hold_more_than_one_and_what_is_too_many_waits(air: Air) -> None:
    transports = (air.transport, await another(air))
    async with gateway_on(*transports, wearables_max=2) as gateway:
        wearables = [gateway.wearable((await air.peripheral(n)).address, Script()) for n in range(1, 6)]
        gateway.start()
        up = lambda: [w for w in wearables if w.runner.state == "configuring"]  # noqa: E731
        await gateway.until(lambda: len(up()) == 4)
        on = [w.runner.adapter for w in up()]
        assert sorted(map(str, on)) == sorted(transports * 2)
        (waiting,) = [w for w in wearables if w not in up()]
        says = [f"{name} holds 2 wearables, 2 is its limit (radio.wearables_max)" for name in transports]
        assert waiting.runner.obstacle == "; ".join(says)
        assert waiting.faults == []
        assert {w.runner.counters.connects for w in up()} == {1}


async def test_each_wearable_is_held_by_one_adapter_at_a_time(air: Air) -> None:
    peripherals = [await air.peripheral(n) for n in range(1, 5)]
    async with gateway_on(air.transport, await another(air)) as gateway:
        wearables = [gateway.wearable(p.address, Script()) for p in peripherals]
        gateway.start()
        for round_ in range(1, 4):
            await gateway.until(lambda: all(w.runner.counters.connects == round_ for w in wearables))  # noqa: B023
            await gateway.until(lambda: all(w.runner.state == "configuring" for w in wearables))
            assert [p.connected for p in peripherals] == [round_] * 4
            for peripheral in peripherals:
                peripheral.lose_link()


async def test_a_wearable_that_is_bonded_with_one_adapter_is_connected_by_no_other(air: Air) -> None:
    first, second = air.transport, await another(air)
    async with gateway_on(first, second, C0_00_00_00_00_01=second) as gateway:
        pinned = gateway.wearable((await air.peripheral(1)).address, Script())
        gateway.start()
        await gateway.until(lambda: pinned.runner.state == "configuring")
        assert pinned.runner.adapter == second


async def test_one_adapter_that_is_away_is_told_and_the_other_takes_its_wearables(air: Air) -> None:
    nobody = "tcp-client:127.0.0.1:1"
    async with gateway_on(nobody, air.transport) as gateway:
        wearable = gateway.wearable((await air.peripheral()).address, Script())
        gateway.start()
        await gateway.until(lambda: wearable.runner.state == "configuring")
        assert wearable.runner.adapter == air.transport
        assert gateway.radio.available
        assert gateway.radio.trouble is not None
        assert gateway.radio.trouble.startswith(f"{nobody}: ")
        assert f"{air.transport} ready" in gateway.radio.status


async def test_where_one_adapter_is_away_and_the_other_full_who_waits_is_told_why(air: Air) -> None:
    async with gateway_on("tcp-client:127.0.0.1:1", air.transport, wearables_max=1) as gateway:
        wearables = [gateway.wearable((await air.peripheral(n)).address, Script()) for n in (1, 2)]
        gateway.start()
        await gateway.until(lambda: any(w.runner.state == "configuring" for w in wearables))
        (waiting,) = [w for w in wearables if w.runner.state != "configuring"]
        says = f"{air.transport} holds 1 wearable, 1 is its limit (radio.wearables_max)"
        assert (waiting.runner.state, waiting.runner.obstacle) == ("absent", says)


async def test_a_transport_that_cannot_be_ends_them_all_with_its_name(air: Air) -> None:
    with pytest.raises(RadioRejected, match="radio transport tpc-client:x: unknown transport scheme"):
        await open_radios("bumble", (air.transport, "tpc-client:x")).run()


class Named(Stack):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


def heard_at(rssi_dbm: int) -> tuple[BLEDevice, AdvertisementData]:
    return BLEDevice("C0:00:00:00:00:01", None, None), AdvertisementData(None, {}, {}, [], None, rssi_dbm, ())


async def test_the_adapter_that_hears_it_best_is_the_one() -> None:
    radios = [Radio(Named("hci0")), Radio(Named("hci1"))]
    pool = Radios(radios)
    pool.register("C0:00:00:00:00:01", lambda _device, _data: None)
    for radio, rssi_dbm in zip(radios, (-80, -40), strict=True):
        radio.status = "scanning"
        radio._advertised(*heard_at(rssi_dbm))
    assert pool.place("C0:00:00:00:00:01") is radios[1]
    radios[1].status = "hci1: lost"
    assert pool.place("C0:00:00:00:00:01") is radios[0]
    assert pool.trouble == "hci1: lost"


async def test_an_adapter_that_is_back_releases_what_may_have_failed_through_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stack, told = Named("hci0"), Statuses()
    radio = Radio(stack, told)
    noticed: list[rules.Event] = []
    radio.register("C0:00:00:00:00:01", lambda _device, _data: None, noticed.append)
    lost = asyncio.Event()
    monkeypatch.setattr(stack, "wait_lost", lost.wait)
    running = asyncio.create_task(radio.run())
    assert await told.next() == "ready"
    assert noticed == []
    lost.set()
    assert await told.next() == "hci0: lost"
    assert await told.next() == "ready"
    assert noticed == [rules.Release()]
    running.cancel()
    await asyncio.wait({running})
