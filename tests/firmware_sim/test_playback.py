"""What a wearable's sensor feels comes from the schedule or the recording, at 50 Hz."""

from pathlib import Path

import numpy as np
import pytest

from firmware_sim.playback import load
from firmware_sim.scenario import parse_wearable
from firmware_sim.synthesis import ACTIVITIES, synthesize
from gateway.errors import InputRejected


def test_a_schedule_is_played_once_or_repeated_until_the_duration_is_over() -> None:
    once = load(parse_wearable("name=a; schedule=sitting:3,standing:2; seed=5; wearer=2"), 50)
    assert np.array_equal(once, synthesize((("sitting", 3), ("standing", 2)), wearer=2, seed=5))
    assert len(load(parse_wearable("name=a; schedule=sitting:3,standing:2; duration_s=12.5"), 50)) == 625
    assert len(load(parse_wearable("name=a; schedule=sitting:30; duration_s=2"), 50)) == 100
    assert len(load(parse_wearable("name=a"), 50)) == 20 * 50 * len(ACTIVITIES)


def test_a_csv_on_the_devices_grid_is_played_to_the_bit_and_clipped_to_the_duration(tmp_path: Path) -> None:
    values = np.random.default_rng(1).uniform(-9, 9, (300, 6)).astype(np.float32)
    lines = [",".join([f"{k / 50:.2f}", *map(str, row)]) for k, row in enumerate(values)]
    file = tmp_path / "r.csv"
    file.write_text("\n".join(["timestamp_s,Ax,Ay,Az,Gx,Gy,Gz", *lines]))
    assert np.array_equal(load(parse_wearable(f"name=a; recording={file}"), 50), values)
    assert np.array_equal(load(parse_wearable(f"name=a; recording={file}; duration_s=4"), 50), values[:200])


def test_what_cannot_be_played_is_refused(tmp_path: Path) -> None:
    for text in (
        f"name=a; recording={tmp_path / 'none.csv'}",
        "name=a; schedule=sleeping:3",
        "name=a; duration_s=1e-9",
    ):
        with pytest.raises(InputRejected):
            load(parse_wearable(text), 50)


@pytest.mark.real_data
def test_the_real_recording_has_181_700_samples_at_the_devices_rate(real_data: Path) -> None:
    acc, gyro = (next((real_data / "recording").glob(f"*{name}*.xlsx")) for name in ("accelerometer", "gyroscope"))
    values = load(parse_wearable(f"name=a; accelerometer={acc}; gyroscope={gyro}"), 50)
    assert values.shape == (181_700, 6)
    assert np.median(np.linalg.norm(values[:, :3], axis=1)) == pytest.approx(9.83, abs=0.01)
