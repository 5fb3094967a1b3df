"""`gateway export` on databases made here; what it makes of a whole run is judged in tests/e2e/test_stored.py."""

import builtins
import csv
import struct
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow.parquet
import pytest

from gateway.cli import main
from gateway.clock import Instant
from gateway.profiles.conversation import Kind
from gateway.store.rows import JournalRow
from tests.gateway.cli.test_events import HOUR_US, NOON_US, Place, timed
from tests.gateway.client.conftest import made

__all__ = ["made"]

SESSION = 0xABCD_0000_1111_2222
TICK_HZ = 32768
CONFIG = struct.pack("<BBHIHHff", 1, 19, 0, 50_000, 8, 2000, 0.01, 0.05)


def info(end=0):
    head = struct.pack("<BBBBIIQ3bBBBHI", 1, 1, 2, 3, TICK_HZ, 500_000, 42, 1, 2, 3, 87, 1, 1, 0, 50_000)
    return head + struct.pack("<QIIII", SESSION, 0, end, 0, 0)


def frame(first, n=19):
    """Sample i has the counts i, i + 1, ... in its channels."""
    counts = (np.arange(first, first + n)[:, None] + np.arange(6)).astype("<i2")
    tick = round(first * TICK_HZ / 50)
    return struct.pack("<BBBBHHII", 0x10, 3, n, 1, 0, SESSION & 0xFFFF, first, tick) + counts.tobytes()


def time_read(device_s, asked_ns, answered_ns):
    tick, next_index = round(device_s * TICK_HZ), round(device_s * 50)
    return struct.pack("<QQ", asked_ns, answered_ns) + struct.pack("<IHI", tick, SESSION & 0xFFFF, next_index)


def rows(*told, boot="a-boot", synced=True, first_row=1):
    """(kind, payload, seconds of monotonic time); UTC is noon at its zero."""
    return [
        JournalRow(row, "left", kind, payload, Instant(boot, int(s * 1e9), NOON_US * 1000 + int(s * 1e9), synced))
        for row, (kind, payload, s) in enumerate(told, first_row)
    ]


BEGINNING = ((Kind.CONNECTED, b"", 10), (Kind.INFO, info(), 10.1), (Kind.CONFIG, CONFIG, 10.2))


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def exported(place, capsys, *words, suffix="csv"):
    out = place.config.parent / f"out.{suffix}"
    assert main(["export", *words, "--config", str(place.config), "--out", str(out)]) == 0
    told = capsys.readouterr()
    if suffix == "parquet":
        return pyarrow.parquet.read_table(out).to_pylist(), told
    with out.open(newline="") as stream:
        return list(csv.DictReader(stream)), told


def test_csv_and_parquet_hold_the_same_predictions(place, made, capsys):
    place.put(
        *(timed(made, n, NOON_US + n * HOUR_US, taken_us=0) for n in range(3)),
        made.prediction(7, bootid="unknown", derivation="aaaaaaaaaaaa"),
    )
    as_csv, told = exported(place, capsys, "predictions")
    assert told.out.startswith("4 windows in ")
    as_parquet, _ = exported(place, capsys, "predictions", suffix="parquet")
    assert [row["window"] for row in as_parquet] == [0, 1, 2, 7]
    for one, other in zip(as_csv, as_parquet, strict=True):
        assert list(one) == list(other)
        for name, value in other.items():
            if isinstance(value, datetime):
                assert datetime.fromisoformat(one[name]) == value
            elif isinstance(value, bool):
                assert one[name] == str(value).lower()
            elif value is None:
                assert one[name] == ""
            else:
                assert type(value)(one[name]) == value
    assert as_parquet[1]["time"] == datetime(2026, 3, 1, 13, tzinfo=UTC)
    assert as_parquet[3]["time"] is None


def test_predictions_are_chosen_by_time_and_wearable(place, made, capsys):
    right = {"source": "urn:fidget:wearable:right"}
    place.put(*(timed(made, n, NOON_US + n * HOUR_US, taken_us=0, **more) for n in range(3) for more in ({}, right)))
    found, _ = exported(place, capsys, "predictions", "--from", "2026-03-01T13:00", "--wearable", "right")
    assert [(row["wearable"], row["window"]) for row in found] == [("right", "1"), ("right", "2")]


def test_samples_are_in_si_units_each_once_with_the_time_at_which_they_were_taken(place, capsys):
    """The wearable's sample 0 was taken at 11 s of the gateway's time, as it says between two moments 2 ms apart."""
    place.put(
        rows=rows(
            *BEGINNING,
            (Kind.FRAME, frame(0), 11.5),
            (Kind.TIME, time_read(0.5, int(11.499e9), int(11.501e9)), 11.501),
            (Kind.FRAME, frame(19), 12.0),
            (Kind.FRAME, frame(10), 12.1),  # again
        )
    )
    found, told = exported(place, capsys, "samples", suffix="parquet")
    assert (told.out[:19], told.err) == ("38 rows of samples ", "")
    assert [row["sample"] for row in found] == list(range(38))
    assert {(row["wearable"], row["session"], row["sensor"]) for row in found} == {("left", f"{SESSION:016x}", "imu")}
    assert found[3]["Ax"] == np.float32(np.float32(0.01) * 3)
    assert found[3]["Gz"] == np.float32(np.float32(0.05) * 8)
    begin = datetime(2026, 3, 1, 12, 0, 11, tzinfo=UTC)
    for row in found:
        assert abs(row["time"] - begin - timedelta(seconds=row["sample"] / 50)) < timedelta(milliseconds=2)
        assert row["uncertainty_s"] >= abs((row["time"] - begin).total_seconds() - row["sample"] / 50)
        assert abs(row["device_s"] - row["sample"] / 50) < 1e-4
    later, _ = exported(place, capsys, "samples", "--from", "2026-03-01T12:00:11.4")
    assert int(later[0]["sample"]) in (19, 20, 21)
    assert int(later[-1]["sample"]) == 37


def test_samples_of_a_boot_whose_time_is_not_known_are_bounded(place, capsys):
    told = (*BEGINNING, (Kind.TIME, time_read(0.5, int(11.499e9), int(11.501e9)), 11.5), (Kind.FRAME, frame(0), 12.0))
    place.put(rows=rows((Kind.CONNECTED, b"", 5), boot="earlier"))
    place.put(rows=rows(*told, boot="later", synced=False, first_row=2))
    found, _ = exported(place, capsys, "samples", suffix="parquet")
    # the later boot began after the 5 s of the earlier one
    assert all(row["time"] is None and row["latest"] is None for row in found)
    earliest = datetime(2026, 3, 1, 12, 0, 16, tzinfo=UTC)
    assert abs(found[0]["earliest"] - earliest) < timedelta(seconds=0.11)


def test_frames_before_anything_is_known_of_them_are_told(place, capsys):
    place.put(rows=rows((Kind.FRAME, frame(0), 1), (Kind.FRAME, frame(19), 2), *BEGINNING, (Kind.FRAME, frame(38), 12)))
    found, told = exported(place, capsys, "samples")
    assert [int(row["sample"]) for row in found] == list(range(38, 57))
    assert told.err == "left: 2 frames left out: malformed, or the beginning of their link is kept no more\n"


def test_a_wearable_that_is_configured_no_more_is_told(place, capsys):
    place.put(rows=[JournalRow(1, "old", Kind.CONNECTED, b"", Instant("b", 0, 0, False))])
    found, told = exported(place, capsys, "samples")
    assert found == []
    assert told.err == "old: left out, since the configuration does not say of which profile it is\n"


@pytest.mark.parametrize(
    ("out", "complaint"),
    [
        ("out.xlsx", "expected a name that ends in .csv or .parquet"),
        ("nowhere/out.csv", "cannot be written there"),
    ],
)
def test_a_file_that_cannot_be_is_refused_before_the_work(place, made, out, complaint, capsys):
    place.put(made.prediction(0))
    file = place.config.parent / out
    assert main(["export", "predictions", "--config", str(place.config), "--out", str(file)]) == 2
    assert capsys.readouterr().err.startswith(f"error: --out {file}: {complaint}")


def test_without_pyarrow_parquet_is_refused_with_the_way_out(place, made, capsys, monkeypatch):
    importing = builtins.__import__

    def without(name, *rest):
        if name.split(".")[0] == "pyarrow":
            raise ImportError(name)
        return importing(name, *rest)

    place.put(made.prediction(0))
    monkeypatch.setattr(builtins, "__import__", without)
    out = place.config.parent / "out.parquet"
    assert main(["export", "predictions", "--config", str(place.config), "--out", str(out)]) == 2
    assert capsys.readouterr().err == (
        f"error: --out {out}: Parquet needs the package pyarrow, which is not installed\n"
        '  Install it with pip install "fidget-gateway[parquet]", or name a .csv file.\n'
    )
    assert not out.exists()


def test_what_was_there_stays_where_the_export_fails(place, made, capsys, monkeypatch):
    place.put(made.prediction(0))
    out = place.config.parent / "out.csv"
    out.write_text("before")
    place.settings.path.write_bytes(place.settings.path.read_bytes()[:5000])
    assert main(["export", "predictions", "--config", str(place.config), "--out", str(out)]) == 1
    assert capsys.readouterr().err.startswith(f"error: store {place.settings.path}: ")
    assert out.read_text() == "before"
    assert [file.name for file in out.parent.iterdir() if file.name.endswith(".part")] == []
