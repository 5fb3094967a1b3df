"""`gateway status` where no daemon runs: what its database tells."""

import contextlib
import json
import sqlite3
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.clock import Instant
from gateway.store.batch import Batch, write
from gateway.store.rows import Cursor, JournalRow, Parked
from gateway.store.store import SCHEMA_VERSION, Store
from tests.gateway.cli.test_events import NOON_US, Place, timed
from tests.gateway.client.conftest import made

__all__ = ["made"]


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def says(place, capsys, *words):
    assert main(["status", "--config", str(place.config), *words]) == 1
    return capsys.readouterr().out


def acknowledge(place, cursor, *parked):
    with Store.open(place.settings) as store:
        write(store.connection, Batch(cursors={cursor.destination: cursor}, parked=list(parked)), store.last_seq())


def test_before_the_first_run_there_is_nothing(place, capsys):
    folder = place.settings.path.parent
    assert says(place, capsys) == (
        f"home: no gateway runs behind {folder}/gateway.sock\nstore   nothing is stored yet ({folder}/gateway.db)\n"
    )
    told = json.loads(says(place, capsys, "--json"))
    assert (told["running"], told["store"], told["gateway"]) == (False, None, "home")


def test_what_is_stored_what_waits_and_when_each_wearable_was_last_heard(place, made, capsys):
    at = Instant("a-boot", 5_000_000_000, (NOON_US + 5_000_000) * 1000, True)
    place.put(*(timed(made, n, NOON_US) for n in range(10)), rows=[JournalRow(1, "left", "frame", b"x", at)])
    lines = says(place, capsys).splitlines()
    assert lines[1].startswith("store   10 events and 1 observations, 0.")
    assert lines[2] == "broker  10 events wait for x"
    assert [line.split() for line in lines[3:]] == [
        ["wearable", "last", "seen", "predictions", "stored"],
        ["left", "2026-03-01T12:00:05.000000Z", "10"],
        ["right", "-", "0"],
    ]
    # 1 to 4, 6 and 8 to 9 are acknowledged, and 2 of these were refused
    acknowledge(
        place, Cursor("broker", 4, ((6, 6), (8, 9))), Parked("broker", 2, "too large"), Parked("broker", 4, "no")
    )
    assert says(place, capsys).splitlines()[2] == "broker  5 events wait for x, of which it has refused 2"
    told = json.loads(says(place, capsys, "--json"))
    assert told["brokers"] == {"broker": {"host": "x", "waiting": 5, "refused": 2}}


def test_each_broker_has_its_own_count(place, made, capsys):
    place.config.write_text(place.config.read_text() + '[[sync.broker]]\nhost = "y"\ndestination = "second"\n')
    place.put(timed(made, 0, NOON_US))
    acknowledge(place, Cursor("broker", 1))
    assert says(place, capsys).splitlines()[2:4] == ["broker  0 events wait for x", "broker  1 events wait for y"]


def test_what_had_to_be_dropped_is_told(place, made, capsys):
    place.put(timed(made, 0, NOON_US))
    with sqlite3.connect(place.settings.path) as connection:
        row = ("prediction", "left", "bytes", 7, 2_000_000, NOON_US * 1000, NOON_US * 1000)
        connection.execute("INSERT INTO dropped VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    assert "\n  7 prediction events of left dropped for the bound of bytes, 2.0 MB, " in says(place, capsys)


def test_a_damaged_database_is_told(place, made, capsys):
    place.put(timed(made, 0, NOON_US))
    place.settings.path.write_bytes(place.settings.path.read_bytes()[:5000])
    assert main(["status", "--config", str(place.config)]) == 1
    assert capsys.readouterr().err.startswith(f"error: store {place.settings.path}: ")


OLDER = sorted((Path(__file__).parents[1] / "store" / "databases").glob("version_[1-3].sql"))


@pytest.mark.parametrize("older", [None, *OLDER], ids=lambda older: older.stem if older else "empty")
@pytest.mark.parametrize("command", ["status", "events", "export"])
def test_a_database_on_which_no_daemon_of_this_version_has_run_is_left_as_it_is_and_told(place, capsys, command, older):
    place.settings.path.parent.mkdir()
    with contextlib.closing(sqlite3.connect(place.settings.path)) as connection:
        connection.executescript(older.read_text() if older else "")
    place.settings.path.touch()
    before = place.settings.path.read_bytes()
    words = ["predictions", "--out", str(place.config.parent / "out.csv")] if command == "export" else []
    assert main([command, "--config", str(place.config), *words]) == 2
    version = older.stem[-1] if older else 0
    assert capsys.readouterr().err == (
        f"error: store {place.settings.path}: schema version {version}, this program reads version {SCHEMA_VERSION}\n"
        "  Start the daemon once (gateway run, or its service): it brings a database of any size up to date at once.\n"
    )
    assert place.settings.path.read_bytes() == before
    assert [file.name for file in place.settings.path.parent.iterdir()] == ["gateway.db"]
    Store.open(place.settings).close()
    assert main([command, "--config", str(place.config), *words]) == (1 if command == "status" else 0)
