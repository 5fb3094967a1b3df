"""What the gateway asks of a real BlueZ, and what comes of it: calls that end, one attempt to connect at a time, and
notifications that are longer than Bluetooth 4.0 allows for."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.link import rules
from gateway.profiles.reference import FRAME_BYTES_MAX, LIVE, ReferenceProfile
from tests.vm.test_bluez import HEALS_S, KILLED, alike, frames, streaming
from tests.vm.test_short import PYTHON, all_arrives

DEAD_CLIENT = Path(__file__).with_name("dead_client.py")
NOTIFICATION_HEADER_BYTES = 3
"""Opcode and handle (Core 5.4, Vol 3, Part F, 3.4.7.1)."""
MTU_MIN = 23
"""Each link begins with it (Core 5.4, Vol 3, Part G, 5.2.1)."""


@alike
@pytest.mark.parametrize("guest", [{"left": ""}], indirect=True, ids=["one"])
async def test_calls_on_a_client_whose_link_or_bluetoothd_is_gone_end_with_an_error(guest: Any) -> None:
    (left,) = await guest.path.made()
    await guest.write("/tmp/dead_client.py", DEAD_CLIENT.read_text())

    async def out_of_range() -> None:
        await guest.path.control.out_of_range("left", on=True)
        await guest.path.control.out_of_range("left", on=False)

    async def bluetoothd_dies() -> None:
        await guest.shell(f"systemctl {KILLED} bluetooth")

    for unit, gone in (("link-lost", out_of_range), ("bluetoothd-gone", bluetoothd_dies)):
        await guest.shell(f"systemd-run --quiet --unit={unit} {PYTHON} /tmp/dead_client.py {left.address}")
        await guest.until(f"journalctl -o cat -u {unit} | grep -q '^connected'", f"{unit}: connected", HEALS_S)
        await gone()
        await guest.until(f"journalctl -o cat -u {unit} | grep -q disconnect", f"{unit}: all have ended", HEALS_S)
        said = [json.loads(line) for line in (await guest.log(unit)).splitlines() if line.startswith("{")]
        errors = {one["call"]: one["error"] for one in said}
        assert errors.pop("disconnect") is None, "harmless: what has ended is closed with it"
        assert set(errors) == {"under way", "read", "write", "subscribe"}
        assert all(error.startswith("Bleak") for error in errors.values()), errors
        assert max(one["took_s"] for one in said) < rules.OPERATION_S


async def test_a_bluetoothd_that_hangs_holds_no_link_up_for_longer_than_its_bounds(guest: Any) -> None:
    await guest.configure()
    await guest.start()
    await streaming(guest, 1)
    since = (await guest.shell("date +%s")).strip()
    await guest.shell("systemctl kill --signal=STOP bluetooth")
    for name in ("left", "right"):
        told = f"journalctl -u fidget-gateway --since=@{since} | grep -q '{name}: backing off (silent for 10 s)'"
        await guest.until(told, f"{name} is given up while bluetoothd hangs", HEALS_S)
    await guest.shell("systemctl kill --signal=CONT bluetooth")
    await streaming(guest, 1)
    await all_arrives(guest)


def attempts(trace: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(device's object, what became of it) of each Device1.Connect that was answered before the next one began; one
    that was not fails the test. trace: of `dbus-monitor --profile`."""
    under_way: tuple[str, tuple[str, str]] | None = None
    for line in trace:
        kind, _, serial, sender, destination, about, *more = line.split("\t")
        match kind, more:
            case "mc", ["org.bluez.Device1", "Connect"]:
                assert under_way is None, f"{about} was begun during {under_way}"
                under_way = about, (sender, serial)
            case (("mr" | "err"), _) if under_way is not None and under_way[1] == (destination, about):
                yield under_way[0], kind
                under_way = None


@alike
async def test_wearables_that_appear_at_the_same_moment_are_connected_one_after_the_other(guest: Any) -> None:
    """Two attempts at once disturb each other in BlueZ: `InProgress`, `br-connection-canceled`."""
    asked, answered = "type='method_call',interface='org.bluez.Device1',member='Connect'", "sender='org.bluez'"
    watched = " ".join(f'"{rule}"' for rule in (asked, f"type='method_return',{answered}", f"type='error',{answered}"))
    await guest.write("/tmp/watch.sh", f"exec dbus-monitor --system --profile {watched} > /tmp/trace\n")
    await guest.configure()
    for name in ("left", "right"):
        await guest.path.control.out_of_range(name, on=True)
    await guest.start()
    await guest.shell("systemd-run --quiet --unit=watching sh /tmp/watch.sh")
    status = "systemctl show -p StatusText --value fidget-gateway"
    rounds = 3
    for _ in range(rounds):
        await guest.until(f"{status} | grep 'left: absent' | grep -q 'right: absent'", "neither is there", HEALS_S)
        for name in ("left", "right"):
            await guest.path.control.out_of_range(name, on=False)
        await guest.until(f"{status} | grep -q '2 of 2 wearables streaming'", "both stream", HEALS_S)
        for name in ("left", "right"):
            await guest.path.control.out_of_range(name, on=True)
    made = list(attempts((await guest.shell("grep -P '^(mc|mr|err)\\t' /tmp/trace")).splitlines()))
    for wearable in await guest.path.made():
        own = [what for path, what in made if path.endswith(wearable.address.replace(":", "_"))]
        assert own.count("mr") >= rounds, made
    for name in ("left", "right"):
        await guest.path.control.out_of_range(name, on=False)
    await all_arrives(guest)


@alike
@pytest.mark.parametrize("guest", [{"left": "", "right": 'faults = "mtu=23"'}], indirect=True, ids=["right takes 23"])
async def test_notifications_of_a_larger_mtu_come_whole_and_a_wearable_that_takes_none_is_told_of(guest: Any) -> None:
    """BlueZ asks for the MTU by itself; a wearable of the reference profile cuts no frame in two (RP-MTU-2)."""
    await guest.configure()
    await guest.start()
    left, right = await guest.path.made()
    await guest.path.until(lambda: len(guest.path.prediction_ids()) >= 2, HEALS_S, "windows arrive")
    await guest.until("journalctl -u fidget-gateway | grep -q 'right: configuring'", "right is connected", HEALS_S)
    mtus = (
        "for path in $(busctl tree --list org.bluez | grep 'char....$'); do echo $path"
        " $(busctl get-property org.bluez $path org.bluez.GattCharacteristic1 UUID MTU); done"
    )
    found = {}
    for path, _, uuid, _, mtu in map(str.split, (await guest.shell(mtus)).splitlines()):
        if uuid == f'"{LIVE}"':
            (device,) = (part for part in path.split("/") if part.startswith("dev_"))
            found[device.removeprefix("dev_").replace("_", ":")] = int(mtu)
    assert found == {left.address: FRAME_BYTES_MAX + NOTIFICATION_HEADER_BYTES, right.address: MTU_MIN}
    assert max(map(len, await frames(guest, "left"))) == FRAME_BYTES_MAX
    assert await frames(guest, "right") == []
    told = f"right: timed_out: silent for {ReferenceProfile.silence_s:g} s"  # it answers, and sends nothing
    await guest.until(f"journalctl -u fidget-gateway | grep -qF '{told}'", "right's silence is told", HEALS_S)
    seen = guest.path.prediction_ids()
    await guest.path.until(lambda: guest.path.prediction_ids() > seen, HEALS_S, "left streams on")
    assert {source for source, _ in guest.path.prediction_ids()} == {"urn:fidget:wearable:left"}
