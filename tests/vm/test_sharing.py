"""What BlueZ must do for gateways that share a wearable, and for connection parameters: on a real kernel."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.vm.test_bluez import HEALS_S, streaming
from tests.vm.test_short import all_arrives

UNIT = Path(__file__).resolve().parents[2] / "systemd" / "fidget-gateway-connparams.service"


@pytest.mark.parametrize("guest", [{"left": ""}], indirect=True)
async def test_a_shared_wearable_is_heard_while_it_is_held_and_let_go_where_that_is_weakly(guest: Any) -> None:
    """BlueZ tells the advertisements of a device that it is connected to."""
    await guest.configure()
    await guest.shell(r"sed -i 's/^\[\[wearable\]\]/[[wearable]]\nshared = true/' /etc/fidget-gateway/gateway.toml")
    await guest.start()
    await streaming(guest)
    await guest.path.control.signal("left", 1, -90.0, 3.0)
    await guest.until("journalctl -u fidget-gateway | grep -q 'let go: heard at -[89]'", "it is let go", HEALS_S)
    await guest.path.control.signal("left", 1, -55.0, 3.0)
    await streaming(guest)
    await all_arrives(guest)


async def test_the_kernel_connects_with_the_parameters_that_the_unit_has_told_it(guest: Any) -> None:
    """And with its own to a wearable that it was told nothing of."""
    left, right = (wearable.address for wearable in await guest.path.made())
    await guest.configure(["left"])
    await guest.write(f"/etc/systemd/system/{UNIT.name}", UNIT.read_text())
    await guest.shell(f"systemctl daemon-reload && systemctl start {UNIT.stem}", HEALS_S)
    said = "1 wearable: interval 30 to 50 ms, latency 0, supervision timeout 5 s, from the next connection on"
    assert said in await guest.log(UNIT.stem)
    await guest.configure()
    await guest.shell("systemd-run --quiet --unit=watching btmon --write /tmp/trace")
    await guest.start()
    await streaming(guest)
    attempts = await guest.shell(
        "systemctl stop watching; btmon --read /tmp/trace | grep -A 15 'HCI Command: LE.* Create Connection (' | cat",
        HEALS_S,
    )
    for address, timeout_ms in ((left, 5000), (right, 420)):
        block = next((block for block in attempts.split("HCI Command:") if address in block), None)
        assert block is not None, attempts
        assert re.search(rf"Supervision timeout: {timeout_ms} msec", block), block
        assert re.search(r"Min connection interval: 30\.00 msec", block), block
        assert re.search(r"Max connection interval: 50\.00 msec", block), block
