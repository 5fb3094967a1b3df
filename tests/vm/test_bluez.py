"""What BlueZ, its adapter and the wearables do to a gateway; each heals by itself, and the account adds up."""

import asyncio
import random
from collections.abc import Iterable
from typing import Any

import pytest

from tests.vm.test_short import PYTHON, all_arrives

HEALS_S = 120.0
"""Without KVM, on two cores that all share."""
KILLED = "kill --signal=KILL"
DATABASE = "/var/lib/fidget-gateway/gateway.db"
READS_FRAMES = """
import sys
from pathlib import Path
from gateway.store.archive import Archive
for row in Archive(Path(sys.argv[1]), following=True).journal(sys.argv[2]):
    if row.kind == "frame":
        print(row.payload.hex())
"""


async def streaming(guest: Any, windows: int = 4) -> None:
    """So many more windows arrive of each wearable."""
    sources = {f"urn:fidget:wearable:{wearable.name}" for wearable in await guest.path.made()}
    seen = guest.path.prediction_ids()

    def enough() -> bool:
        new = [source for source, _ in guest.path.prediction_ids() - seen]
        return all(new.count(source) >= windows for source in sources)

    await guest.path.until(enough, HEALS_S, f"{windows} windows of each wearable")


async def frames(guest: Any, wearable: str) -> list[bytes]:
    """Notifications of samples that the journal holds of a wearable, as they came."""
    said = await guest.shell(f"{PYTHON} -c '{READS_FRAMES}' {DATABASE} {wearable}")
    return [bytes.fromhex(line) for line in said.splitlines()]


both = pytest.mark.parametrize("image", ["trixie", "bookworm"], indirect=True)
"""BlueZ 5.82 on kernel 6.12, and 5.66 on 6.1, which behave differently where a test asks for both."""
BOOKWORM_TOO = pytest.param("bookworm", marks=pytest.mark.soak)
alike = pytest.mark.parametrize("image", ["trixie", BOOKWORM_TOO], indirect=True)
"""They have behaved alike there: the second is left to `make soak`."""


def on_both(name: str, values: Iterable[str], *differing: str) -> pytest.MarkDecorator:
    """Each of these values on both; where they have behaved alike the second is left to `make soak`."""
    cases = [("trixie", value) for value in values]
    doubles = [pytest.param("bookworm", v, marks=[] if v in differing else pytest.mark.soak) for v in values]
    return pytest.mark.parametrize(("image", name), [*cases, *doubles], indirect=["image"])


@pytest.fixture
async def running(guest: Any) -> Any:
    await guest.configure()
    await guest.start()
    await streaming(guest, 2)
    return guest


@on_both("how", ("restart", KILLED), KILLED)
async def test_bluetoothd_that_ends_and_comes_back(running: Any, how: str) -> None:
    await running.shell(f"systemctl {how} bluetooth")
    await streaming(running)
    await all_arrives(running)


async def test_an_adapter_that_is_switched_off_is_switched_on_again(running: Any) -> None:
    await running.shell("bluetoothctl power off")
    await streaming(running)
    await all_arrives(running)


async def test_a_link_is_told_before_its_services_and_a_reload_tries_what_waits(running: Any) -> None:
    """What bleak's connect does in one, the log shows in two; and the confined daemon takes the unit's reload."""
    for wearable in await running.path.made():
        await running.shell(f"journalctl -u fidget-gateway | grep -q '{wearable.name}: discovering'")
    await running.shell("systemctl reload fidget-gateway")
    await running.until("journalctl -u fidget-gateway | grep -q 'SIGUSR1: trying every wearable'", "the log says so")
    await streaming(running)


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


async def test_an_adapter_that_goes_off_and_on_during_a_scan_is_scanned_with_again(running: Any) -> None:
    for name in ("left", "right"):
        await running.path.control.out_of_range(name, on=True)
    await asyncio.sleep(3)  # nothing is connected, and the scan runs
    await running.shell("bluetoothctl power off && sleep 1 && bluetoothctl power on")
    for name in ("left", "right"):
        await running.path.control.out_of_range(name, on=False)
    await streaming(running, 2)
    await all_arrives(running)


async def test_wearables_that_go_out_of_range_and_reboot(running: Any) -> None:
    for name in ("left", "right", "left", "left"):
        await running.path.control.out_of_range(name, on=True)
        await asyncio.sleep(3)
        await running.path.control.out_of_range(name, on=False)
        await streaming(running, 2)
    newest = (await frames(running, "left"))[-8:]
    assert len(newest) == len(set(newest)) == 8, "after three lost links each notification comes once"
    await running.path.control.reboot("right")
    await streaming(running, 2)
    await all_arrives(running)


@both
async def test_a_wearable_that_is_away_keeps_no_other_from_streaming_and_is_found_again(running: Any) -> None:
    """For longer than BlueZ remembers what it has heard, half a minute."""
    await running.path.control.out_of_range("right", on=True)
    left = "urn:fidget:wearable:left"
    for _ in range(3):
        seen = running.path.prediction_ids()
        await asyncio.sleep(13)
        assert left in {source for source, _ in running.path.prediction_ids() - seen}
    await running.path.control.out_of_range("right", on=False)
    await streaming(running, 2)
    await all_arrives(running)


async def test_a_wearable_that_is_connected_and_says_nothing_is_connected_afresh(running: Any) -> None:
    await running.path.control.silent("left", on=True)
    await running.until("journalctl -u fidget-gateway | grep 'left' | grep -q 'timed_out'", "silence is a fault")
    await running.path.control.silent("left", on=False)
    await streaming(running, 2)
    await all_arrives(running)


async def test_a_stranger_that_speaks_the_profile_is_never_connected(guest: Any) -> None:
    await guest.configure(only=("left",))
    await guest.start()
    for _ in range(10):
        await asyncio.sleep(1)
        assert not [w.name for w in await guest.path.made() if w.connected and w.name != "left"]
    await guest.path.until(lambda: len(guest.path.prediction_ids()) >= 2, HEALS_S, "windows arrive")
    assert {source for source, _ in guest.path.prediction_ids()} == {"urn:fidget:wearable:left"}


MOMENTS = {
    "while it scans": ("type='method_call',interface='org.bluez.Adapter1',member='StartDiscovery'", "StartDiscovery"),
    "while it connects": ("type='method_call',interface='org.bluez.Device1',member='Connect'", "member=Connect"),
    "during service discovery": (
        "type='signal',member='PropertiesChanged',arg0='org.bluez.Device1'",
        '"Connected"',
    ),
}
"""By what passes on D-Bus then: dbus-monitor's filter, and a word of what it prints."""


@alike
async def test_a_link_that_a_killed_daemon_left_in_bluez_is_ended_and_made_afresh(running: Any) -> None:
    """No scan shows a wearable that BlueZ is connected to, and BlueZ keeps the link for ever."""
    await running.shell("systemctl kill --signal=KILL fidget-gateway")
    told = "journalctl -u fidget-gateway | grep -q 'ending the link that an earlier process left'"
    await running.until(told, "the next process finds it")
    await streaming(running, 2)
    await all_arrives(running)


@both
@pytest.mark.parametrize("guest", [{"left": "", "right": 'faults = "deaf@0-90"'}], indirect=True, ids=["deaf"])
async def test_a_wearable_that_answers_no_attempt_to_connect_holds_up_no_other_and_is_connected_when_it_does(
    guest: Any,
) -> None:
    """BlueZ 5.66 would try for longer than 100 s, and take no other attempt meanwhile."""
    await guest.configure()
    await guest.start()
    left = "urn:fidget:wearable:left"
    await guest.path.until(lambda: left in {source for source, _ in guest.path.prediction_ids()}, 75, "left streams")
    await guest.until("journalctl -u fidget-gateway | grep 'right' | grep -q 'timed_out'", "right does not answer")
    await streaming(guest, 2)
    await all_arrives(guest)


@on_both("moment", MOMENTS, "while it connects")
async def test_a_daemon_that_is_killed(running: Any, moment: str) -> None:
    rule, word = MOMENTS[moment]
    await running.shell("systemctl stop fidget-gateway")
    unheard = moment == "while it scans"  # else it connects before the kill reaches it
    for name in ("left", "right"):
        await running.path.control.out_of_range(name, on=unheard)
    await running.shell(
        "systemctl start --no-block fidget-gateway;"
        f' timeout 60 dbus-monitor --system "{rule}"'
        f" | {{ grep -m 1 -q '{word}' && systemctl kill --signal=KILL fidget-gateway; killed=$?;"
        " pkill -x dbus-monitor; exit $killed; }",
        90,
    )
    for name in ("left", "right"):
        await running.path.control.out_of_range(name, on=False)
    await streaming(running, 2)
    await all_arrives(running)


async def test_a_daemon_that_is_killed_again_and_again_at_any_moment(running: Any) -> None:
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
