"""Recordings onto the model's grid: two sensors with timestamps of their own to rows of six channels at one rate.

In: timestamps in s and values in SI units, each sensor for itself. Out: rows at first + k / rate from the first to the
last accelerometer sample; the gyroscope is held where it starts later or ends earlier. A sensor of another rate than
the grid's goes through the same filter as a live wearable's samples (motion.resample).
"""

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from gateway.errors import InputRejected
from gateway.motion.resample import GAP_MAX_NS, kernel_period_ns, resample
from gateway.motion.samples import Float32

Float64 = NDArray[np.float64]

GAP_MAX_S = GAP_MAX_NS / 1e9
"""A longer silence of either sensor is a gap, and no window reaches over it. Sensors that write in bursts pause for up
to 0.18 s as a habit; 0.4 s of interpolation change one label in twenty."""
ON_GRID_S = 0.001
"""Timestamps that are all this near to the grid are on it: they were rounded (to ms, or to float32) when written."""
SAME_RATE = 0.01
"""A sensor whose rate, its pauses left out, is this near to the grid's has the grid's."""
_CLOCK_ROUNDING_S = 1e-6
"""Seconds since 1970 as float64 are good to 0.24 µs; a last row that near beyond the last sample is on it."""
GRID_ROWS_MAX = 50 * 86_400 * 8
"""Eight days at 50 Hz, 830 MB of float32: beyond it the timestamps are rather in another unit."""


class RecordingRejected(InputRejected):
    """A recording that cannot be brought onto the grid."""


@dataclass(frozen=True, slots=True, eq=False)
class SensorSeries:
    """One sensor's samples. timestamps_s: (n,) ascending, n >= 1. values: (n, 3), m/s² or deg/s."""

    timestamps_s: Float64
    values: Float64


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """values: (n, 6) float32, m/s² and deg/s, at start_s + k / rate_hz.

    gaps: rows first to end (exclusive) that lie in a silence longer than GAP_MAX_S, sorted and disjoint.
    """

    start_s: float
    rate_hz: float
    values: Float32
    gaps: tuple[tuple[int, int], ...]

    def windows(self, length: int, hop: int) -> Float32:
        """All windows, (n, length, 6): a read-only view; n is 0 where the grid is shorter than one."""
        if len(self.values) < length:
            return np.empty((0, length, self.values.shape[1]), np.float32)
        return sliding_window_view(self.values, length, axis=0)[::hop].transpose(0, 2, 1)

    def whole(self, length: int, hop: int) -> NDArray[np.bool_]:
        """For each of these windows whether no gap reaches into it."""
        broken = np.zeros(len(self.values) + 1, np.int64)
        for first, end in self.gaps:
            broken[first + 1 : end + 1] = 1
        before = np.cumsum(broken)
        starts = np.arange(0, len(self.values) - length + 1, hop)
        whole: NDArray[np.bool_] = before[starts + length] == before[starts]
        return whole


def in_order(timestamps_s: Float64, values: Float64) -> tuple[SensorSeries, int]:
    """Sorted by time; of samples that carry the same time the first stays. Also returns how many were dropped."""
    order = np.argsort(timestamps_s, kind="stable")
    ascending = timestamps_s[order]
    kept = np.concatenate([[True], np.diff(ascending) > 0])
    return SensorSeries(ascending[kept], values[order][kept]), int(len(kept) - kept.sum())


def on_grid(acc: SensorSeries, gyro: SensorSeries, rate_hz: float) -> Grid:
    """The common grid of both sensors, from the first to the last accelerometer sample.

    A sensor whose timestamps all lie on the grid keeps its values to the bit. One of nearly the grid's rate
    (SAME_RATE) is interpolated linearly: there is nothing to filter, and where it wrote in bursts its timestamps say
    little of when a sample was taken, so that a longer kernel would only spread their error. All others are
    resampled. Raises RecordingRejected.
    """
    start_s = float(acc.timestamps_s[0])
    span_s = float(acc.timestamps_s[-1]) - start_s
    if span_s * rate_hz >= GRID_ROWS_MAX:
        raise RecordingRejected(
            f"the recording spans {span_s / 3600:,.0f} h, more than {GRID_ROWS_MAX / rate_hz / 3600:.0f} h",
            hint="Are the timestamps in seconds? If they are, split the recording.",
        )
    for name, series in (("accelerometer", acc), ("gyroscope", gyro)):
        if series.timestamps_s[-1] < start_s or series.timestamps_s[0] > start_s + span_s:
            raise RecordingRejected(
                f"{name}: no sample in the time of the accelerometer", hint="Do the two files belong together?"
            )
    acc_at, gyro_at = (_places(series.timestamps_s, start_s, rate_hz) for series in (acc, gyro))
    rows = int(np.floor(acc_at[-1] + _CLOCK_ROUNDING_S * rate_hz)) + 1
    values = np.empty((rows, 6), np.float32)
    for columns, at, series in ((slice(0, 3), acc_at, acc), (slice(3, 6), gyro_at, gyro)):
        values[:, columns] = _rows(at, series.values, rows, rate_hz)
    return Grid(start_s, rate_hz, values, _gaps(acc_at, gyro_at, rows, GAP_MAX_S * rate_hz))


def _rows(at: Float64, values: Float64, rows: int, rate_hz: float) -> Float32:
    """One sensor's rows, (rows, 3), from samples at these places; held beyond its ends."""
    step = np.diff(at)
    step = step[step <= GAP_MAX_S * rate_hz]
    per_row = 1 / step.mean() if len(step) else 1.0
    places = np.arange(rows, dtype=np.float64)
    if abs(per_row - 1) <= SAME_RATE:
        return np.stack([np.interp(places, at, values[:, axis]) for axis in range(3)], axis=1).astype(np.float32)
    made = np.empty((rows, 3), np.float32)
    made[:] = np.nan
    ns = 1e9 / rate_hz
    taken_ns, at_ns = np.rint(at * ns).astype(np.int64), np.rint(places * ns).astype(np.int64)
    held_ns = np.clip(at_ns, taken_ns[0], taken_ns[-1])
    breaks = np.flatnonzero(np.diff(taken_ns) > GAP_MAX_NS) + 1
    samples = values.astype(np.float32)
    for first, end in itertools.pairwise([0, *breaks, len(at)]):
        of_run = slice(*np.searchsorted(held_ns, [taken_ns[first], taken_ns[end - 1] + 1]))
        period_ns = kernel_period_ns(per_row * rate_hz, rate_hz)
        made[of_run] = resample(taken_ns[first:end], samples[first:end], held_ns[of_run], period_ns)
    between = np.isnan(made[:, 0])
    for axis in range(3):  # in gaps, where no window is whole: something finite
        made[between, axis] = np.interp(places[between], at, values[:, axis])
    return made


def _places(timestamps_s: Float64, start_s: float, rate_hz: float) -> Float64:
    """Where the samples lie on the grid, in rows; whole numbers where they were only rounded away from it."""
    places = (timestamps_s - start_s) * rate_hz
    nearest = np.round(places)
    rounded = bool(np.all(np.abs(places - nearest) <= ON_GRID_S * rate_hz) and np.all(np.diff(nearest) > 0))
    return nearest if rounded else places


def _gaps(acc_at: Float64, gyro_at: Float64, rows: int, longest: float) -> tuple[tuple[int, int], ...]:
    """Rows strictly between two samples that are more than `longest` rows apart, and where the gyroscope is held so."""
    longest *= 1 + 1e-9
    inside = np.zeros(rows, np.bool_)
    for at in (acc_at, gyro_at):
        for index in np.flatnonzero(np.diff(at) > longest):
            inside[max(0, int(np.floor(at[index])) + 1) : max(0, int(np.ceil(at[index + 1])))] = True
    if gyro_at[0] > longest:
        inside[: int(np.ceil(gyro_at[0]))] = True
    if acc_at[-1] - gyro_at[-1] > longest:
        inside[int(np.floor(gyro_at[-1])) + 1 :] = True
    edges = np.flatnonzero(np.diff(np.concatenate([[0], inside.astype(np.int8), [0]])))
    return tuple((int(first), int(end)) for first, end in edges.reshape(-1, 2))
