from dataclasses import replace

import numpy as np
import pytest

from converter.probes import extreme_windows, probe_sets
from converter.training_config import TrainingConfig
from gateway.errors import InputRejected

CONFIG = TrainingConfig(
    mean=(3.2, 1.3, -3.5, 0.6, 0.2, 0.1),
    scale=(6.6, 4.4, 3.2, 49.9, 14.8, 14.2),
    labels=("a", "b"),
    hop=10,
    rate_hz=50.0,
    sha256="0" * 64,
)


def test_extremes_hold_still_hang_and_reach_the_sensor_s_ends():
    windows = extreme_windows(200, window=50, config=CONFIG, seed=1)
    assert (windows.shape, windows.dtype) == ((200, 50, 6), np.float32)
    constant = (windows == windows[:, :1]).all(axis=(1, 2))
    assert 100 <= constant.sum() <= 140
    gravity = constant & (np.abs(np.linalg.norm(windows[:, 0, :3], axis=1) - 9.80665) < 1e-4)
    assert gravity.sum() >= 40
    assert np.abs(windows[..., :3]).max() == pytest.approx(16 * 9.80665)
    assert np.abs(windows[..., 3:]).max() == 2000
    square = (np.abs(windows[..., 3:]) == np.abs(windows[:, :1, 3:])).all(axis=(1, 2)) & ~constant
    assert square.sum() >= 35


def test_each_channel_has_the_range_of_its_own_sensor():
    """In another order, fewer, and with one whose sensor nobody knows: that one about its mean, in its own spread."""
    known = {"Gy": (2000, 0.0), "Az": (16 * 9.80665, None), "p": (32 * 4, 1013.0)}
    config = replace(CONFIG, mean=(0.2, -3.5, 1013.0), scale=(14.8, 3.2, 4.0), channels=tuple(known), units=("",) * 3)
    windows = extreme_windows(500, window=50, config=config, seed=1)
    assert windows.shape == (500, 50, 3)
    rest = (windows == windows[:, :1]).all(axis=(1, 2)) & (windows[:, 0, 0] == 0) & (windows[:, 0, 2] == 1013)
    assert rest.sum() == 100
    assert np.abs(windows[rest, 0, 1]).max() <= 9.80665 + 1e-4
    for place, (half, middle) in enumerate(known.values()):
        assert np.abs(windows[..., place] - (middle or 0)).max() == pytest.approx(half, rel=1e-4)


def test_a_recording_s_whole_windows_join(tmp_path):
    time_s = np.arange(200) / 50
    rows = np.column_stack([time_s, np.full(200, 9.8), np.zeros((200, 4)), np.sin(time_s)])
    path = tmp_path / "r.csv"
    np.savetxt(path, rows, delimiter=",", header="timestamp_s,Ax,Ay,Az,Gx,Gy,Gz", comments="")
    sets = probe_sets(30, window=20, config=CONFIG, seed=1, recording=[path])
    assert {name: len(windows) for name, windows in sets.items()} == {"walks": 30, "extremes": 10, "recording": 19}
    np.testing.assert_allclose(sets["recording"][1, :, 5], np.sin(time_s[10:30]), atol=1e-3)
    two = replace(CONFIG, mean=(0, 0), scale=(1, 1), channels=("Gz", "Ax"), units=("deg/s", "m/s^2"))
    chosen = probe_sets(30, window=20, config=two, seed=1, recording=[path])["recording"]
    np.testing.assert_array_equal(chosen, sets["recording"][:, :, [5, 0]])
    with pytest.raises(InputRejected, match=r"r\.csv: no whole window of 400 samples at 50 Hz"):
        probe_sets(30, window=400, config=CONFIG, seed=1, recording=[path])
