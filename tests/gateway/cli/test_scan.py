"""`gateway scan`: what is made of what is heard; listening itself is shown in the virtual machine."""

import asyncio
import io
from dataclasses import asdict

import pytest
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData

from gateway.ble.nearby import HEARD_MAX, Nearby
from gateway.cli import main
from gateway.cli.scan import Live, table
from gateway.profiles import PROFILES

POLAR = PROFILES["polar-verity-sense"].service_uuid
HEART_RATE = "0000180d-0000-1000-8000-00805f9b34fb"


def test_the_nearest_comes_first_with_the_profile_whose_service_it_names() -> None:
    nearby = Nearby()
    nearby(*advertised("C0:00:00:00:00:01", None, -90, HEART_RATE))
    nearby(*advertised("c0:00:00:00:00:02", None, -45, HEART_RATE, POLAR.upper()))
    nearby(*advertised("C0:00:00:00:00:02", "band", -40))
    found = nearby.table(["C0:00:00:00:00:02"], {"C0:00:00:00:00:02": "left"})
    assert [(heard.address[-1], heard.profile, heard.paired) for heard in found] == [
        ("2", "polar-verity-sense", True),
        ("1", None, False),
    ]
    assert [line.split() for line in table([asdict(heard) for heard in found]).splitlines()] == [
        ["address", "name", "dBm", "profile", "paired", "wearable"],
        ["C0:00:00:00:00:02", "band", "-40", "polar-verity-sense", "yes", "left"],
        ["C0:00:00:00:00:01", "-", "-90", "-", "no", "-"],
    ]


def test_one_that_advertises_no_service_is_known_by_its_name() -> None:
    nearby = Nearby()
    nearby(*advertised("C0:00:00:00:00:01", "Movesense 174430000051", -50))
    nearby(*advertised("C0:00:00:00:00:02", "Thingy", -60, "ef680100-9b35-4933-9b10-52ffa9740042"))
    nearby(*advertised("C0:00:00:00:00:03", "Polar H10 7E1A2B2C", -70, HEART_RATE))
    nearby(*advertised("C0:00:00:00:00:04", "Movesense in name only", -80, POLAR))
    assert [heard.profile for heard in nearby.table([], {})] == ["movesense", "thingy52", None, "polar-verity-sense"]


def advertised(address: str, name: str | None, rssi_dbm: int, *uuids: str) -> tuple[BLEDevice, AdvertisementData]:
    return BLEDevice(address, name, None), AdvertisementData(name, {}, {}, list(uuids), None, rssi_dbm, ())


def test_a_street_full_of_devices_is_bounded_to_the_latest_heard() -> None:
    nearby = Nearby()
    for number in range(HEARD_MAX + 5):
        nearby(*advertised(f"C0:00:00:00:{number >> 8:02X}:{number & 255:02X}", None, -50))
    assert len(nearby) == HEARD_MAX
    assert "C0:00:00:00:00:04" not in [heard.address for heard in nearby.table([], {})]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_the_table_is_rewritten_and_no_name_writes_to_it() -> None:
    nearby, terminal = Nearby(), Terminal()
    nearby(*advertised("C0:00:00:00:00:02", "\x1b[31mred\n", -40, POLAR))
    live = Live(terminal, everybody=False)
    live.show([])
    live.show([asdict(heard) for heard in nearby.table([], {})])
    live.clear()
    shown = terminal.getvalue()
    assert shown.startswith("listening\n\x1b[1A\x1b[J")
    assert "?[31mred?" in shown
    assert shown.endswith("\n\x1b[2A\x1b[J")
    assert shown.count("\x1b") == 4


def test_where_nobody_is_heard_it_says_what_to_look_at() -> None:
    assert table([]).startswith("nobody is heard that can be used; is it switched on")


def test_a_span_that_makes_no_sense_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scan", "--seconds", "0"]) == 2
    assert "--seconds 0: expected 1 to 600" in capsys.readouterr().err


@pytest.mark.usefixtures("system_bus")
async def test_without_bluetoothd_it_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert await asyncio.to_thread(main, ["scan", "--seconds", "1"]) == 1
    assert "Is bluetoothd running?" in capsys.readouterr().err
