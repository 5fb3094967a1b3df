"""Two adapters on a real BlueZ: wearables spread over them, and where one is gone they go to the other or wait."""

import asyncio
from typing import Any

import pytest

from tests.vm.test_bluez import HEALS_S, alike, streaming
from tests.vm.test_short import all_arrives

TWO = {"adapters": ["hci0", "hci1"], "wearables_max": 2}
ROOM_FULL = "hci0 holds 2 wearables, 2 is its limit (radio.wearables_max)"
AWAY = "hci1: BlueZ has no such adapter; there is hci0"


HOSTS = {None: None, "00:F1:D9:00:00:01": "hci0", "00:F1:D9:00:00:02": "hci1"}
"""By their controllers' addresses on the virtual radio, in the order in which they were plugged in."""
STATUS = "systemctl show -p StatusText --value fidget-gateway"


async def until_through(guest: Any, what: str, *expected: dict[str, str | None]) -> None:
    """Until the wearables are connected through these adapters."""
    found: dict[str, str | None] = {}
    for _ in range(int(HEALS_S)):
        found = {wearable.name: HOSTS[wearable.central] for wearable in await guest.path.made()}
        if found in expected:
            return
        await asyncio.sleep(1)
    pytest.fail(f"{what}: {found}; {await guest.shell(STATUS)}")


@alike
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
    await guest.until(f"{STATUS} | grep -F '{ROOM_FULL}' | grep -qF '{AWAY}'", "why one waits is told")

    await guest.shell("systemctl start virtual-adapter-2")
    back = [dict(one) | {name: "hci1"} for one in moved for name, at in one.items() if at is None]
    await until_through(guest, "the one that waited is connected", *back)
    await streaming(guest, 2)
    await guest.until(f"{STATUS} | grep '^ok: 3 of 3 wearables streaming$'", "all is well")
    await all_arrives(guest)


@pytest.mark.parametrize("guest", [{"left": "", "right": ""}], indirect=True, ids=["two"])
async def test_an_adapter_that_is_away_at_the_start_keeps_the_other_from_nothing(guest: Any) -> None:
    await guest.configure(radio=TWO)
    await guest.start()
    await streaming(guest, 2)
    assert AWAY in await guest.shell(STATUS)
    await guest.plug_in_another()
    await guest.until(f"{STATUS} | grep '^ok: 2 of 2 wearables streaming$'", "nothing is away")
    await streaming(guest, 2)
    await all_arrives(guest)
