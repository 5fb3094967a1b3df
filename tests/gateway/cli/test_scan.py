"""`gateway scan`: what is made of what is heard; listening itself is shown in the virtual machine."""

import asyncio

import pytest

from gateway.cli import main
from gateway.cli.scan import heard_of, table
from gateway.profiles import PROFILES

POLAR = PROFILES["polar-verity-sense"].service_uuid
HEART_RATE = "0000180d-0000-1000-8000-00805f9b34fb"


def test_the_nearest_comes_first_with_the_profile_whose_service_it_names() -> None:
    found = heard_of(
        {
            "C0:00:00:00:00:01": (None, -90, [HEART_RATE]),
            "C0:00:00:00:00:02": ("band", -40, [HEART_RATE, POLAR.lower()]),
        },
        paired=["C0:00:00:00:00:02"],
    )
    assert [(heard.address[-1], heard.profile, heard.paired) for heard in found] == [
        ("2", "polar-verity-sense", True),
        ("1", None, False),
    ]
    assert [line.split() for line in table(found).splitlines()] == [
        ["address", "name", "dBm", "profile", "paired"],
        ["C0:00:00:00:00:02", "band", "-40", "polar-verity-sense", "yes"],
        ["C0:00:00:00:00:01", "-", "-90", "-", "no"],
    ]


def test_where_nobody_is_heard_it_says_what_to_look_at() -> None:
    assert table([]).startswith("nobody is heard that can be used; is it switched on")


def test_a_span_that_makes_no_sense_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scan", "--seconds", "0"]) == 2
    assert "--seconds 0: expected 1 to 600" in capsys.readouterr().err


@pytest.mark.usefixtures("system_bus")
async def test_without_bluetoothd_it_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert await asyncio.to_thread(main, ["scan", "--seconds", "1"]) == 1
    assert "Is bluetoothd running?" in capsys.readouterr().err
