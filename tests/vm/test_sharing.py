"""What BlueZ must do for gateways that share a wearable, and for connection parameters: on a real kernel."""

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


@pytest.mark.parametrize("guest", [{"left": ""}], indirect=True)
async def test_the_kernel_connects_with_the_parameters_that_the_unit_has_told_it(guest: Any) -> None:
    """Its own supervision timeout would be 420 ms (le_supv_timeout in net/bluetooth/hci_core.c)."""
    (left,) = await guest.path.made()
    await guest.configure()
    await guest.write(f"/etc/systemd/system/{UNIT.name}", UNIT.read_text())
    await guest.shell(f"systemctl daemon-reload && systemctl start {UNIT.stem}", HEALS_S)
    said = "1 wearable: interval 30 to 50 ms, latency 0, supervision timeout 5 s, from the next connection on"
    assert said in await guest.log(UNIT.stem)
    await guest.shell("systemd-run --quiet --unit=watching btmon --write /tmp/trace")
    await guest.start()
    await streaming(guest)
    read = "btmon --read /tmp/trace | grep -a -A 15 'HCI Command: LE Create Connection ('"
    attempt = await guest.shell(f"systemctl stop watching; {read}", HEALS_S)
    for said in (
        f"Peer address: {left.address}",
        "Min connection interval: 30.00 msec",
        "Max connection interval: 50.00 msec",
        "Connection latency: 0 ",
        "Supervision timeout: 5000 msec",
    ):
        assert said in attempt
