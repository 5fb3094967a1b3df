"""Two adapters on a real BlueZ: wearables spread over them, and where one is gone they go to the other or wait."""

import json
from typing import Any

import pytest

from tests.vm.test_bluez import HEALS_S, both, streaming
from tests.vm.test_short import CONFIG, GATEWAY, all_arrives

TWO = {"adapters": ["hci0", "hci1"], "wearables_max": 2}
ROOM_FULL = "hci0 holds 2 wearables, 2 is its limit (radio.wearables_max)"
AWAY = "hci1: BlueZ has no such adapter; there is hci0"


async def reasons(guest: Any) -> str:
    status = await guest.shell(f"{GATEWAY} status --json --config {CONFIG} || true")
    return "\n".join(json.loads(status)["health"]["reasons"])


async def adapters(guest: Any) -> dict[str, str | None]:
    """Through which each wearable streams; None of one that does not."""
    status = json.loads(await guest.shell(f"{GATEWAY} status --json --config {CONFIG} || true"))
    collecting = {"streaming", "draining"}
    return {n: one["adapter"] if one["link"] in collecting else None for n, one in status["wearables"].items()}


async def until_through(guest: Any, what: str, *expected: dict[str, str | None]) -> None:
    """Until the wearables stream as one of these says."""
    for _ in range(int(HEALS_S / 3)):  # each look costs the guest a Python's start
        if (found := await adapters(guest)) in expected:
            return
    pytest.fail(f"{what}: {found}; {await reasons(guest)}")


@both
@pytest.mark.parametrize("guest", [{"left": "", "right": "", "ankle": ""}], indirect=True, ids=["three"])
async def test_wearables_of_an_adapter_that_is_unplugged_go_to_the_other_or_wait_and_come_back(guest: Any) -> None:
    air = guest.path.control
    for name, unheard_by in (("left", 2), ("right", 1), ("ankle", 1)):
        await air.signal(name, unheard_by, None)
    await guest.plug_in_another()
    await guest.configure(radio=TWO)
    await guest.start()
    spread = {"left": "hci0", "right": "hci1", "ankle": "hci1"}
    await until_through(guest, "each through the adapter that hears it", spread)
    await streaming(guest, 2)

    for name in ("right", "ankle"):
        await air.signal(name, 1, -60.0)
    await guest.shell("systemctl stop virtual-adapter-2")
    moved = [spread | {"right": "hci0", "ankle": None}, spread | {"right": None, "ankle": "hci0"}]
    await until_through(guest, "one goes to the other adapter, and one waits", *moved)
    told = await reasons(guest)
    assert ROOM_FULL in told, told
    assert AWAY in told, told

    await guest.shell("systemctl start virtual-adapter-2")
    back = [dict(one) | {name: "hci1"} for one in moved for name, at in one.items() if at is None]
    await until_through(guest, "the one that waited is connected", *back)
    assert await reasons(guest) == ""
    await streaming(guest, 2)
    await all_arrives(guest)


@pytest.mark.parametrize("guest", [{"left": "", "right": ""}], indirect=True, ids=["two"])
async def test_an_adapter_that_is_away_at_the_start_keeps_the_other_from_nothing(guest: Any) -> None:
    await guest.configure(radio=TWO)
    await guest.start()
    await streaming(guest, 2)
    assert AWAY in await reasons(guest)
    await guest.plug_in_another()
    await guest.until(f"! {GATEWAY} status --config {CONFIG} | grep 'no such adapter'", "nothing is away", HEALS_S)
    await streaming(guest, 2)
    await all_arrives(guest)
