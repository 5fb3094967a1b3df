import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import interp1d

from gateway.motion.grid import RecordingRejected, SensorSeries, in_order, on_grid
from gateway.motion.joining import SensorJoin
from gateway.motion.samples import Sensor

RATE_HZ = 50.0


def series(timestamps_s, values=None, seed=0) -> SensorSeries:
    timestamps_s = np.asarray(timestamps_s, np.float64)
    if values is None:
        values = np.random.default_rng(seed).normal(0, 10, (len(timestamps_s), 3))
    return SensorSeries(timestamps_s, np.asarray(values, np.float64))


@pytest.mark.parametrize(
    ("start_s", "written"),
    [
        (0.0, lambda t: t),
        (12.34, lambda t: np.round(t, 3)),
        (1_742_803_939.766, lambda t: np.round(t, 3)),
        (1_742_803_939.766, lambda t: t),
        (5000.0, lambda t: np.float32(t).astype(float)),
    ],
)
def test_a_recording_that_is_on_the_grid_keeps_its_values_to_the_bit(start_s, written):
    timestamps_s = written(start_s + np.arange(2000) / RATE_HZ)
    acc, gyro = (series(timestamps_s, np.float32(series(timestamps_s, seed=s).values)) for s in (1, 2))
    grid = on_grid(acc, gyro, RATE_HZ)
    assert len(grid.values) == 2000
    assert grid.values.tobytes() == np.hstack([acc.values, gyro.values]).astype(np.float32).tobytes()
    assert grid.gaps == ()


@settings(max_examples=50)
@given(
    st.lists(st.floats(0.5, 2.0), min_size=8, max_size=60),
    st.floats(-0.05, 0.05),
    st.sampled_from([25.0, 50.0, 104.0]),
    st.integers(0, 99),
)
def test_at_the_grid_s_own_rate_rows_are_interpolated_and_the_gyroscope_is_held(steps, gyro_shift_s, rate_hz, seed):
    """Whatever the bursts in which the sensor wrote; their mean spacing is the grid's."""
    acc = series(100 + np.cumsum(steps) * (len(steps) - 1) / (sum(steps[1:]) * rate_hz), seed=seed)
    gyro = series(acc.timestamps_s + gyro_shift_s, seed=seed + 1)
    grid = on_grid(acc, gyro, rate_hz)
    at = acc.timestamps_s[0] + np.arange(len(grid.values)) / rate_hz
    assert at[-1] <= acc.timestamps_s[-1] + 1e-6 < at[-1] + 1 / rate_hz + 2e-6
    for sensor, columns in ((acc, slice(0, 3)), (gyro, slice(3, 6))):
        held = np.clip(at, sensor.timestamps_s[0], sensor.timestamps_s[-1])
        expected = interp1d(sensor.timestamps_s, sensor.values, axis=0)(held)
        # The steepest slope times the millisecond by which timestamps may be moved onto the grid.
        slope = np.abs(np.diff(sensor.values, axis=0) / np.diff(sensor.timestamps_s)[:, None]).max()
        assert np.abs(grid.values[:, columns] - expected).max() <= 1e-3 + slope * 0.002


def test_between_two_samples_lies_the_straight_line():
    acc = series([0.0, 0.015, 0.04], [[0, 0, 0], [3, 30, -3], [8, -20, -8]])
    grid = on_grid(acc, acc, RATE_HZ)
    assert grid.values[:, :3] == pytest.approx(np.array([[0, 0, 0], [4, 20, -4], [8, -20, -8]]), abs=1e-6)


@pytest.mark.parametrize("native_hz", [26.0, 52.0, 104.0, 105.0])
def test_a_recording_of_another_rate_gives_the_rows_that_the_live_stream_gives(native_hz):
    """To the bit; the gyroscope starts 12 ms later. Both ends of a live stream are those of the recording."""
    acc_s = np.arange(int(native_hz * 10)) / native_hz
    acc, gyro = series(acc_s, seed=1), series(acc_s + 0.012, seed=2)
    join = SensorJoin(native_hz, RATE_HZ)
    settled = []
    for sensor, one in ((Sensor.ACC, acc), (Sensor.GYRO, gyro)):
        taken_ns = np.rint(one.timestamps_s * 1e9).astype(np.int64)
        settled += join.add(sensor, 0, taken_ns, one.values.astype(np.float32), False)
    live = np.concatenate([part.values for part in settled + join.end()])
    grid = on_grid(acc, gyro, RATE_HZ)
    assert live.tobytes() == grid.values[: len(live)].tobytes()
    assert len(grid.values) - len(live) <= 1


def test_a_tone_above_the_grid_s_nyquist_rate_is_not_folded_down():
    times_s = np.arange(2000) / 100
    tone = np.sin(2 * np.pi * 35 * times_s)
    grid = on_grid(*[series(times_s, np.stack([tone] * 3, axis=1))] * 2, RATE_HZ)
    assert np.abs(grid.values[20:-20]).max() < 0.001  # straight lines would fold nearly all of it to 15 Hz
    assert np.abs(grid.values).max() < 0.5


def test_a_recording_of_another_rate_has_no_row_that_is_made_up_of_both_sides_of_a_gap():
    times_s = np.delete(np.arange(2000) / 100, np.s_[900:960])
    values = np.where(times_s < 9, 1.0, 1000.0)[:, None].repeat(3, axis=1)
    grid = on_grid(series(times_s, values), series(times_s, values), RATE_HZ)
    ((first, end),) = grid.gaps
    assert np.isfinite(grid.values).all()
    assert set(np.round(grid.values[:first].ravel(), 3)) | set(np.round(grid.values[end:].ravel(), 2)) == {1.0, 1000.0}


@given(st.lists(st.integers(0, 40), min_size=1, max_size=300))
def test_samples_are_sorted_and_of_a_repeated_time_the_first_stays(times):
    first = {}
    for number, time in enumerate(times):
        first.setdefault(time, number)
    kept, dropped = in_order(np.array(times, np.float64), np.arange(3.0 * len(times)).reshape(-1, 3))
    assert kept.timestamps_s.tolist() == sorted(first)
    assert kept.values[:, 0].tolist() == [3.0 * first[time] for time in sorted(first)]
    assert dropped == len(times) - len(first)


@pytest.mark.parametrize(("rows", "windows"), [(199, 0), (200, 1), (299, 1), (300, 2), (1000, 9)])
def test_windows_start_at_every_hop(rows, windows):
    steady = series(np.arange(rows) / RATE_HZ)
    grid = on_grid(steady, steady, RATE_HZ)
    made = grid.windows(200, 100)
    assert made.shape == (windows, 200, 6)
    assert grid.whole(200, 100).tolist() == [True] * windows
    for number, window in enumerate(made):
        assert np.array_equal(window, grid.values[100 * number : 100 * number + 200])


def without(timestamps_s: np.ndarray, first: int, end: int) -> np.ndarray:
    return np.delete(timestamps_s, np.s_[first:end])


@pytest.mark.parametrize("sensor", ["acc", "gyro"])
def test_a_long_silence_of_either_sensor_breaks_the_windows_over_it(sensor):
    steady = np.arange(1000) / RATE_HZ
    silent = series(without(steady, 450, 460))
    acc, gyro = (silent, series(steady)) if sensor == "acc" else (series(steady), silent)
    grid = on_grid(acc, gyro, RATE_HZ)
    assert grid.gaps == ((450, 460),)
    assert grid.whole(200, 100).tolist() == [first + 200 <= 450 or first >= 460 for first in range(0, 900, 100)]


def test_a_short_silence_is_interpolated():
    steady = np.arange(1000) / RATE_HZ
    grid = on_grid(series(without(steady, 450, 459)), series(steady), RATE_HZ)  # 0.2 s from sample to sample
    assert grid.gaps == ()


def test_a_gyroscope_that_starts_late_and_ends_early_leaves_gaps():
    steady = np.arange(1000) / RATE_HZ
    grid = on_grid(series(steady), series(steady[20:-30]), RATE_HZ)
    assert grid.gaps == ((0, 20), (970, 1000))


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1))
def test_whole_windows_are_those_without_a_row_in_a_gap(seed):
    rng = np.random.default_rng(seed)
    steady = np.arange(800) / RATE_HZ
    present = np.ones(800, bool)
    for first in rng.integers(1, 780, 3):
        present[first : first + rng.integers(1, 19)] = False
    present[[0, -1]] = True
    grid = on_grid(series(steady[present]), series(steady), RATE_HZ)
    taken = np.flatnonzero(present)
    rows_in_gap = {
        row for a, b in itertools.pairwise(taken) if (b - a) / RATE_HZ > 0.2 + 1e-6 for row in range(a + 1, b)
    }
    assert {row for first, end in grid.gaps for row in range(first, end)} == rows_in_gap
    brute = [not rows_in_gap & set(range(first, first + 50)) for first in range(0, 751, 25)]
    assert grid.whole(50, 25).tolist() == brute


def test_times_in_milliseconds_are_refused_before_they_fill_the_memory():
    steady = series(np.arange(0, 1e9, 1e6))
    with pytest.raises(RecordingRejected, match="spans 277,500 h, more than 192 h") as refused:
        on_grid(steady, steady, RATE_HZ)
    assert "seconds" in refused.value.hint


def test_sensors_of_different_days_are_refused():
    with pytest.raises(RecordingRejected, match="gyroscope: no sample in the time of the accelerometer"):
        on_grid(series(np.arange(100) / 50), series(86_400 + np.arange(100) / 50), RATE_HZ)
