"""What BlueZ, its adapter and the wearables do to a gateway; each heals by itself, and the account adds up."""

import asyncio
import random
from typing import Any

import pytest

from tests.vm.test_short import all_arrives

HEALS_S = 120.0
"""Without KVM, on two cores that all share."""


async def streaming(guest: Any, windows: int = 4) -> None:
    """So many more windows arrive of each wearable."""
    sources = {f"urn:fidget:wearable:{wearable.name}" for wearable in await guest.path.made()}
    seen = guest.path.prediction_ids()

    def enough() -> bool:
        new = [source for source, _ in guest.path.prediction_ids() - seen]
        return all(new.count(source) >= windows for source in sources)

    await guest.path.until(enough, HEALS_S, f"{windows} windows of each wearable")


@pytest.fixture
async def running(guest: Any) -> Any:
    await guest.configure()
    await guest.start()
    await streaming(guest, 2)
    return guest


@pytest.mark.parametrize("how", ["restart", "kill --signal=KILL"])
async def test_bluetoothd_that_ends_and_comes_back(running: Any, how: str) -> None:
    await running.shell(f"systemctl {how} bluetooth")
    await streaming(running)
    await all_arrives(running)


async def test_an_adapter_that_is_switched_off_is_switched_on_again(running: Any) -> None:
    await running.shell("bluetoothctl power off")
    await streaming(running)
    await all_arrives(running)


async def test_rfkill_is_told_and_waited_for(running: Any) -> None:
    await running.shell("rfkill block bluetooth")
    await running.until("journalctl -u fidget-gateway | grep -q 'rfkill blocks it'", "the log says why")
    await running.shell("rfkill unblock bluetooth")
    await streaming(running)
    await all_arrives(running)


async def test_an_adapter_that_is_unplugged_and_plugged_in_again(running: Any) -> None:
    await running.shell("systemctl stop virtual-adapter")
    await running.until("journalctl -u fidget-gateway | grep -qi 'adapter'", "the log says that the adapter is gone")
    await running.shell("systemctl start virtual-adapter")
    await streaming(running)
    await all_arrives(running)


async def test_wearables_that_go_out_of_range_and_reboot(running: Any) -> None:
    for name in ("left", "right", "left"):
        await running.path.control.out_of_range(name, on=True)
        await asyncio.sleep(8)
        await running.path.control.out_of_range(name, on=False)
        await streaming(running, 2)
    await running.path.control.reboot("right")
    await streaming(running, 2)
    await all_arrives(running)


async def test_a_daemon_that_is_killed_while_it_connects(running: Any) -> None:
    chance = random.Random(7)
    for _ in range(4):
        await running.shell("systemctl kill --signal=KILL fidget-gateway")
        await asyncio.sleep(chance.uniform(4, 10))
    await streaming(running)
    await all_arrives(running)


async def test_a_daemon_that_hangs_is_ended_by_the_watchdog(running: Any) -> None:
    await running.shell("systemctl kill --signal=STOP fidget-gateway")
    await running.until(
        "journalctl -u fidget-gateway | grep -q 'Watchdog timeout'", "systemd ends the hung process", within_s=90
    )
    await streaming(running)
    await all_arrives(running)


async def test_the_machine_loses_its_power(running: Any) -> None:
    for _ in range(2):
        running.machine.cut_power()
        await asyncio.to_thread(running.machine.boot)
        await asyncio.to_thread(running.machine.wait_up)
        await running.plug_in()
        await running.start()
        await streaming(running, 2)
    await all_arrives(running)


@pytest.mark.parametrize("clock", ["1970-01-01T00:10:00", "2027-12-01T00:00:00"])
async def test_a_clock_that_is_wrong_at_boot_and_then_set(running: Any, clock: str) -> None:
    running.machine.cut_power()
    await asyncio.to_thread(running.machine.boot, clock=clock)
    await asyncio.to_thread(running.machine.wait_up)
    await running.plug_in()
    await running.start()
    await streaming(running, 2)
    await running.shell("date -s 2026-11-28T12:00:00")
    await streaming(running, 2)
    await all_arrives(running)
