"""`gateway events` and what it shares with `gateway export`: what of the log is shown, with which time."""

import argparse
import csv
import io
import json
import os
import signal
import subprocess
import sys

import pytest

from gateway import events
from gateway.cli import main
from gateway.cli.stored import Range, moment_us
from gateway.client import When
from gateway.clock import Instant
from gateway.errors import InputRejected
from gateway.store import Store, StoreSettings
from gateway.store.batch import Batch, write
from gateway.store.rows import Derived, JournalRow, LoggedEvent
from tests.gateway.client.conftest import made

__all__ = ["made"]

NOON_US = 1_772_366_400_000_000  # 2026-03-01T12:00:00Z
HOUR_US = 3_600_000_000
CONFIG = '[gateway]\nid = "home"\nstate_dir = "state"\n[bundle]\npath = "b"\n[sync]\nhost = "x"\n' + (
    '[[wearable]]\nid = "left"\naddress = "C0:FF:EE:00:00:01"\n'
    '[[wearable]]\nid = "right"\naddress = "C0:FF:EE:00:00:02"\n'
)


class Place:
    """A configuration and the database beside it."""

    def __init__(self, folder):
        self.config = folder / "gateway.toml"
        self.config.write_text(CONFIG)
        self.settings = StoreSettings(path=folder / "state" / "gateway.db")

    def put(self, *made_events, rows=()):
        """As the daemon commits them."""
        with Store.open(self.settings) as store:
            put(store, *made_events, rows=rows)

    def says(self, capsys, *words):
        assert main(["events", "--config", str(self.config), *words]) == 0
        return capsys.readouterr().out


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def timed(made, number, utc_us, **more):
    return made.prediction(number, time=events.rfc3339(utc_us * 1000), **more)


def numbers(out):
    return [json.loads(line)["event"]["data"]["windows"][0]["number"] for line in out.splitlines()]


def test_the_newest_are_listed_with_time_wearable_kind_and_what_they_say(place, made, capsys):
    place.put(*(timed(made, n, NOON_US + n * 1_000_000, taken_us=0) for n in range(30)))
    lines = place.says(capsys).splitlines()
    assert len(lines) == 20
    assert lines[-1] == "2026-03-01T12:00:29.000000Z  left  prediction  hand_tapping 0.97, window 29"
    assert lines[0].endswith("window 10")
    assert len(place.says(capsys, "--last", "3").splitlines()) == 3
    assert len(place.says(capsys, "--all").splitlines()) == 30


def test_each_filter_leaves_what_it_names(place, made, capsys):
    right = {"source": "urn:fidget:wearable:right"}
    place.put(
        *(timed(made, n, NOON_US + n * HOUR_US, taken_us=0) for n in range(4)),
        *(timed(made, n, NOON_US + n * HOUR_US, taken_us=0, **right) for n in range(4)),
        made.clock(NOON_US),
    )
    assert len(place.says(capsys, "--wearable", "right").splitlines()) == 4
    assert len(place.says(capsys, "--kind", "clock").splitlines()) == 1
    words = ("--wearable", "left", "--format", "jsonl", "--kind", "prediction")
    assert numbers(place.says(capsys, *words, "--from", "2026-03-01T13:00")) == [1, 2, 3]
    assert numbers(place.says(capsys, *words, "--to", "2026-03-01T14:00+01:00")) == [0]
    assert numbers(place.says(capsys, *words, "--from", "2026-03-01T13:00", "--to", "2026-03-01T15:00")) == [1, 2]


def test_json_lines_carry_the_event_to_the_byte(place, made, capsys):
    event = timed(made, 7, NOON_US, taken_us=0)
    place.put(event)
    (line,) = place.says(capsys, "--format", "jsonl").splitlines()
    assert line.endswith(',"event":' + events.encode(event).decode() + "}")
    assert json.loads(line)["time"] == "2026-03-01T12:00:00.000000Z"
    assert json.loads(line)["topic"] == "fidget/v1/home/left/prediction"


def test_csv_has_a_row_for_each_window(place, made, capsys):
    place.put(timed(made, 5, NOON_US, windows=3, taken_us=0), made.clock(NOON_US, 250))
    rows = list(csv.DictReader(io.StringIO(place.says(capsys, "--format", "csv"))))
    assert [row["window"] for row in rows] == ["5", "6", "7", ""]
    record = made.prediction(5).data.windows[0]
    assert (rows[0]["activity"], float(rows[0]["confidence"])) == (record.activity, record.confidence)
    assert (rows[0]["session"], rows[0]["wearable"], rows[0]["seq"]) == ("00000000000000ab", "left", "1")
    assert rows[3]["text"] == "boot 0b9c1f5e knows the time, give or take 0.00025 s"


def test_what_was_made_before_the_clock_was_known_has_its_time_afterwards(place, made, capsys):
    place.put(made.prediction(0, mono_us=2_000_000, taken_us=1_000_000))
    assert place.says(capsys).startswith("?  ")
    place.put(made.clock(NOON_US, 250, mono_us=3_000_000))
    assert place.says(capsys, "--kind", "prediction").startswith("2026-03-01T12:00:01.000000Z  left")
    assert place.says(capsys, "--kind", "prediction", "--from", "2026-03-01T12:00:02") == ""


def test_the_journal_too_tells_when_a_boot_was(place, made, capsys):
    """Clock events are deleted once they are old; what is kept of the boot may still tell."""
    at = Instant("a-boot", 5_000_000_000, (NOON_US + 5_000_000) * 1000, True)
    place.put(made.prediction(0, bootid="a-boot", mono_us=2_000_000, taken_us=1_000_000),
              rows=[JournalRow(1, "left", "frame", b"", at)])  # fmt: skip
    assert place.says(capsys).startswith("2026-03-01T12:00:01.000000Z  left")


def test_a_boot_that_never_knew_the_time_is_bounded_by_its_neighbours(place, made, capsys):
    place.put(made.clock(NOON_US, bootid="a"))
    place.put(made.prediction(0, bootid="b", mono_us=5_000_000, taken_us=2_000_000))
    assert place.says(capsys, "--kind", "prediction").startswith("2026-03-01T12:00:02.000000Z..?  left")
    place.put(made.clock(NOON_US + 2 * HOUR_US, bootid="c", mono_us=0))
    line = place.says(capsys, "--kind", "prediction", "--format", "jsonl", "--from", "2026-03-01T13:59")
    told = json.loads(line)
    assert (told["earliest"], told["latest"]) == ("2026-03-01T12:00:02.000000Z", "2026-03-01T14:00:00.000000Z")
    assert "time" not in told
    assert place.says(capsys, "--kind", "prediction", "--from", "2026-03-01T14:00:01") == ""
    assert place.says(capsys, "--kind", "prediction", "--to", "2026-03-01T12:00:01") == ""


def test_it_reads_beside_a_running_daemon_and_follows(place, made):
    with Store.open(place.settings) as store:
        put(store, timed(made, 0, NOON_US, taken_us=0))
        words = ["events", "--config", str(place.config), "--follow", "--format", "jsonl", "--kind", "prediction"]
        argv = [sys.executable, "-m", "gateway", *words]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as following:
            try:
                assert numbers(following.stdout.readline()) == [0]
                # its boot's clock becomes known with the event that follows
                put(store, made.clock(NOON_US, bootid="b"), made.prediction(1, bootid="b", mono_us=9, taken_us=9))
                line = following.stdout.readline()
            finally:
                os.kill(following.pid, signal.SIGINT)
            assert following.wait(20) == 130
    assert numbers(line) == [1]
    assert json.loads(line)["time"] == "2026-03-01T12:00:00.000009Z"


def put(store, *made_events, rows=()):
    batch = Batch()
    for row in rows:
        batch.add_row(row)
    for event in made_events:
        kind, name = event.type.split(".")[1], event.source.rsplit(":", 1)[1]
        wearable = name if ":wearable:" in event.source else None
        topic = events.topic_of(events.TOPIC_PREFIX, event.gateway, wearable, kind)
        logged = LoggedEvent(
            kind, wearable, event.source, event.id, topic, events.encode(event), 0, event.bootid, kind == "state"
        )
        batch.add_derived(Derived(None, (logged,)))
    write(store.connection, batch, store.last_seq())


def test_nothing_is_changed_and_nothing_left_beside_a_stopped_database(place, made, capsys):
    place.put(made.prediction(0))
    before = {file.name: file.read_bytes() for file in place.settings.path.parent.iterdir()}
    place.says(capsys)
    after = {file.name: file.read_bytes() for file in place.settings.path.parent.iterdir()}
    assert after == before


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--from", "yesterday"], "error: --from 'yesterday': no time\n  UTC such as 2026-03-01"),
        (["--to", "2026-13-01"], "error: --to '2026-13-01': no time"),
        (["--from", "1h", "--to", "2h"], "error: --from 1h --to 2h: nothing lies between them"),
        (["--wearable", "lef"], "error: no wearable 'lef', neither configured nor stored\n  There are: left, right."),
        (["--last", "0"], "error: --last 0: expected 1 or more"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(place, made, words, complaint, capsys):
    place.put(made.prediction(0))
    assert main(["events", "--config", str(place.config), *words]) == 2
    assert capsys.readouterr().err.startswith(complaint)


def test_a_database_that_is_not_there_yet_is_told(place, capsys):
    assert main(["events", "--config", str(place.config)]) == 2
    assert capsys.readouterr().err.startswith(f"error: store {place.settings.path}: not there\n  It is made when")


def test_a_file_that_is_no_database_is_told(place, capsys):
    place.settings.path.parent.mkdir()
    place.settings.path.write_text("no database at all, but long enough to look like one" * 10)
    assert main(["events", "--config", str(place.config)]) == 2
    assert "an SQLite database that another program made" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "us"),
    [
        ("90s", NOON_US - 90_000_000), ("30min", NOON_US - HOUR_US // 2), ("30m", NOON_US - HOUR_US // 2),
        ("2h", NOON_US - 2 * HOUR_US), ("1.5d", NOON_US - 36 * HOUR_US), ("1w", NOON_US - 168 * HOUR_US),
        ("2026-03-01", NOON_US - 12 * HOUR_US), ("2026-03-01T12:00Z", NOON_US), ("2026-03-01T14:00+02:00", NOON_US),
    ],
)  # fmt: skip
def test_times_are_given_in_utc_or_as_a_span_before_now(text, us):
    assert moment_us(text, "--from", NOON_US * 1000) == us


def test_a_range_keeps_what_may_lie_in_it():
    wanted = Range(100, 200)
    exact = [When(t - 30, t + 30, True) for t in (99, 100, 199, 200)]
    assert [wanted.may_have(when) for when in exact] == [False, True, True, False]
    bounded = [When(None, 99, False), When(None, 100, False), When(199, None, False), When(200, None, False)]
    assert [wanted.may_have(when) for when in bounded] == [False, True, True, False]
    assert wanted.may_have(When(None, None, False))


def test_a_range_without_ends_has_everything():
    args = argparse.Namespace(since=None, until=None)
    assert Range.of(args, 0) == Range(None, None)
    with pytest.raises(InputRejected, match="nothing lies between them"):
        Range.of(argparse.Namespace(since="1d", until="1d"), NOON_US * 1000)
