"""The truth file gives back each sample to the bit."""

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_sim.protocol import Taken
from firmware_sim.truth import Truth, TruthFile, TruthRejected


@settings(max_examples=50)
@given(
    rows=st.lists(st.tuples(*[st.integers(-32768, 32767)] * 6), min_size=1, max_size=40),
    acc_scale=st.floats(2**-16, 1, width=32),
)
def test_every_float32_is_read_back_as_it_was(rows: list[tuple[int, ...]], acc_scale: float, tmp_path_factory) -> None:
    path = tmp_path_factory.mktemp("truth") / "truth.csv"
    scales = np.array([acc_scale] * 3 + [2000 / 32768] * 3, dtype=np.float32)
    values = np.array(rows, dtype=np.float32) * scales
    taken_ns = np.arange(len(rows), dtype=np.int64) * 20_000_000
    with TruthFile(path) as truth:
        truth.add(Taken(slice(0, 6), taken_ns[:1], values[:1]))
        truth.add(Taken(slice(0, 6), taken_ns[1:], values[1:]))
    with path.open() as file:
        header, *lines = csv.reader(file)
    assert header == ["timestamp_s", "Ax", "Ay", "Az", "Gx", "Gy", "Gz"]
    read = np.array([[np.float32(text) for text in line[1:]] for line in lines])
    assert np.array_equal(read, values)
    assert [float(line[0]) for line in lines] == [index / 50 for index in range(len(rows))]


def test_a_truth_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(TruthRejected, match=r"truth .*nowhere/t\.csv: No such file or directory") as rejected:
        TruthFile(tmp_path / "nowhere" / "t.csv")
    assert rejected.value.exit_code == 2


def test_a_session_without_a_sample_has_no_file_and_none_of_an_earlier_run(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("of an earlier run\n")
    with TruthFile(path) as truth:
        truth.add(Taken(slice(0, 6), np.zeros(0, np.int64), np.zeros((0, 6), np.float32)))
        truth.flush()
    assert list(tmp_path.iterdir()) == []


def test_sensors_that_are_sent_apart_have_a_file_each(tmp_path: Path) -> None:
    truth = Truth(tmp_path / "t.csv", (slice(0, 3), slice(3, 6)))
    truth.add(Taken(slice(3, 6), np.array([5], np.int64), np.array([[1, 2, 3]], np.float32)))
    truth.close()
    assert not (tmp_path / "t-acc.csv").exists()
    assert (tmp_path / "t-gyro.csv").read_text() == "timestamp_s,Gx,Gy,Gz\n5e-09,1.0,2.0,3.0\n"
