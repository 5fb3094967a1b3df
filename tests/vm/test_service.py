"""The service as it is installed: confined by systemd, beside Debian's own broker, and stopped in good order."""

import re
from typing import Any

import pytest

from gateway.demo.arrange import Broker
from tests.vm.machine import OUTSIDE
from tests.vm.test_bluez import both, streaming
from tests.vm.test_short import all_arrives

UNIT = "fidget-gateway"
EXPOSURE_MAX, EXPOSURE_WITH_BROKER_MAX = 1.1, 1.0
"""systemd's own score, from 0, shut in, to 10: of the unit that ships, and where it may speak to the broker's address
alone. What is left: the network, D-Bus' socket, /proc/cpuinfo, and the real-time clock to read (ProtectClock)."""


async def shut_in(guest: Any, broker: str = "") -> None:
    """By the drop-in that the unit speaks of: to localhost, and a broker elsewhere."""
    words = f"[Service]\nIPAddressDeny=any\nIPAddressAllow=localhost {broker}\n"
    await guest.write(f"/etc/systemd/system/{UNIT}.service.d/broker.conf", words)
    await guest.shell("systemctl daemon-reload")


async def exposure(guest: Any) -> float:
    said = await guest.shell(f"systemd-analyze security --no-pager {UNIT} || true")
    found = re.search(r"exposure level for [\w.-]+: ([\d.]+)", said)
    assert found is not None, said
    return float(found[1])


@both
async def test_systemd_calls_the_service_confined_and_it_streams(guest: Any) -> None:
    await guest.configure()
    assert await exposure(guest) <= EXPOSURE_MAX
    await shut_in(guest, OUTSIDE)
    await guest.start()
    assert await exposure(guest) <= EXPOSURE_WITH_BROKER_MAX
    await streaming(guest, 2)
    await all_arrives(guest)
    log = await guest.log()
    assert "cpuinfo" not in log, "the model runtime could not choose its kernels"


@pytest.fixture
async def with_mosquitto(guest: Any) -> Any:
    """Debian's in the guest, where the daemon speaks to it alone, and a subscriber outside."""
    await guest.write("/etc/mosquitto/conf.d/open.conf", "listener 1883\nallow_anonymous true\n")
    await shut_in(guest)
    await guest.shell("systemctl start mosquitto")
    guest.broker = Broker("127.0.0.1", 1883)
    await guest.path.subscribe(Broker("127.0.0.1", guest.machine.reach(1883)))
    return guest


async def test_mosquitto_in_the_same_machine_gives_the_account_window_by_window(with_mosquitto: Any) -> None:
    guest = with_mosquitto
    await guest.configure()
    await guest.start()
    assert await exposure(guest) < EXPOSURE_WITH_BROKER_MAX
    await streaming(guest, 2)
    assert "MQTT 5" in await guest.log()
    await guest.shell("systemctl restart mosquitto")
    await streaming(guest, 2)
    await all_arrives(guest)


async def test_a_service_that_is_stopped_leaves_no_link_and_goes_on_where_it_was(guest: Any) -> None:
    await guest.configure()
    await guest.start()
    await streaming(guest, 2)
    await guest.shell(f"systemctl stop {UNIT}")
    assert "Connected: yes" not in await guest.shell(
        "for d in $(bluetoothctl devices | cut -d' ' -f2); do bluetoothctl info $d; done"
    )
    assert await guest.shell(f"systemctl show -p Result --value {UNIT}") == "success\n"
    await guest.start()
    assert "ending the link that an earlier process left" not in await guest.log()
    await streaming(guest, 2)
    await all_arrives(guest)
