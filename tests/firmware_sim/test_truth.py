"""The truth file gives back each sample to the bit."""

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_sim.encoding import Config
from firmware_sim.truth import TruthFile, TruthRejected


@settings(max_examples=50)
@given(
    rows=st.lists(st.tuples(*[st.integers(-32768, 32767)] * 6), min_size=1, max_size=40),
    acc_scale=st.floats(2**-16, 1, width=32),
)
def test_every_float32_is_read_back_as_it_was(rows: list[tuple[int, ...]], acc_scale: float, tmp_path_factory) -> None:
    path = tmp_path_factory.mktemp("truth") / "truth.csv"
    config, counts = Config(acc_scale_m_s2=acc_scale), np.array(rows, dtype=np.int16)
    with TruthFile(path, config) as truth:
        truth.add(counts[:1])
        truth.add(counts[1:])
    with path.open() as file:
        header, *lines = csv.reader(file)
    assert header == ["timestamp_s", "Ax", "Ay", "Az", "Gx", "Gy", "Gz"]
    read = np.array([[np.float32(text) for text in line[1:]] for line in lines])
    scales = np.array([acc_scale] * 3 + [2000 / 32768] * 3, dtype=np.float32)
    assert np.array_equal(read, counts.astype(np.float32) * scales)
    assert [float(line[0]) for line in lines] == [index / 50 for index in range(len(rows))]


def test_a_truth_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(TruthRejected, match=r"truth .*nowhere/t\.csv: No such file or directory") as rejected:
        TruthFile(tmp_path / "nowhere" / "t.csv", Config())
    assert rejected.value.exit_code == 2
