"""Samples at times of their own to rows on the grid: the one low-pass filter and interpolator of the program.

In: one sensor's samples, each with its index and the device's time, in any order, again, with losses. Out: rows at
k / grid rate since the session's origin, or word that a row is lost. Where times ascend with the index from the
session's origin on, what a row holds depends on its samples alone, to the bit, never on when or in which bursts they
came; where they step back or lie before the origin, nothing is promised of the order.

The kernel is a windowed sinc (J. F. Kaiser, "Nonrecursive digital filter design using the I0-sinh window function",
Proc. IEEE ISCAS 1974), weights normalized to a sum of 1. Its period is that of the slower of both rates, so its cutoff
(-6 dB) is the lower Nyquist rate f; the pass-band ends at 0.8 f, the stop-band begins at 1.2 f. It reaches over 10
periods to each side (0.2 s at 50 Hz): at f and a rate that is the grid's own it is zero but for the sample itself, so
what is on the grid already is kept to the bit.

Where times are not evenly spaced, samples are first brought to the straight line through their times within the
kernel's reach, by the 6 nearest (Lagrange); across a pause of more than 2.5 spacings by the straight line. Where
samples lie too oddly for that (WEIGHT_MIN, OVERSHOOT) a row is on the straight line between its neighbours.

Measured to 50 Hz against analytic tones (tests/gateway/motion/test_resample.py holds these):

| native times | error in the pass-band, of the amplitude | attenuation in the stop-band |
|---|---|---|
| even | 0.05 % at 104 and 105 Hz, 0.1 % at 52, 0.15 % at 26 | 65 dB |
| off by up to 1 % of the spacing | 0.1 % (up to 10 Hz at 52, 5 Hz at 26) | 30 dB |
| off by up to 10 % | 0.1 % at 104 and 105 (up to 15 Hz), 1 % at 52 (10 Hz) and 26 (5 Hz) | 10 dB |
| eight in the time of 6.4, a pause | 0.3 % at 104 and 105 (10 Hz), 1.2 % at 52 (5 Hz) and 26 (3 Hz) | none |

Beside a loss or an end of the session the kernel is cut off there; on a slope the row is then early or late by up to
0.4 periods.
"""

import base64
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from gateway.motion.samples import Coverage, Float32, Int64

Float64 = NDArray[np.float64]

ZEROS = 10
"""Periods of the kernel to each side."""
KAISER_BETA = 6.2
"""For 65 dB: 0.1102 (65 - 8.7). The transition is then (65 - 7.95) / (14.36 x 2 x 10) = 0.2 of the rate wide."""
GAP_MAX_NS = 200_000_000
"""Between samples further apart (or than GAP_PERIODS, at low rates) nothing is made up: the rows there are lost."""
GAP_PERIODS = 2.5
"""A pause longer than this, in spacings, is crossed by a straight line."""
SLOWEST = 1.1
"""A sensor's spacing is at most so many times the nominal one (LSM6DS3: 10 %)."""
SPACINGS_SEEN, SPACING_CHANGE = 20, 1.002
"""After so many it is taken to grow by no more than this until the next row."""
_PHASES = 512
"""Of the table, a period; between them it is interpolated linearly, good to 5e-6."""
_EVEN = 1e-3
"""Times that are all this near to a straight line, in spacings, are even."""
_NODES = 6
WEIGHT_MIN = 0.25
"""Of the kernel's weights on a row's samples, in all. Where samples are even and no further apart than the period it is
1 and more, at an end at least half of that; elsewhere weights may cancel out, and nothing is divided by that."""
OVERSHOOT = 1.0
"""Of the spread of a row's samples, how far beyond them an unevenly timed row may lie. A band-limited signal passes
beyond its samples by a fraction of that; a polynomial through samples of wild times by powers of ten."""
_ROWS_MAX = 256
"""Rows at once: intermediate arrays then stay in a processor's cache."""


def _table() -> Float64:
    """The kernel at i / _PHASES periods. Rounded to 2^-40, so that every processor has the same."""
    at = np.arange(ZEROS * _PHASES + 2) / _PHASES
    window = np.i0(KAISER_BETA * np.sqrt(np.clip(1 - (at / ZEROS) ** 2, 0, 1))) / np.i0(KAISER_BETA)
    rounded: Float64 = np.round(np.sinc(at) * window * (at < ZEROS) * 2.0**40) / 2.0**40
    return rounded


_KERNEL = _table()
_KERNEL_STEP = np.append(np.diff(_KERNEL), 0.0)


def kernel_period_ns(native_rate_hz: float, grid_rate_hz: float) -> float:
    return 1e9 / min(native_rate_hz, grid_rate_hz)


def reach_ns(period_ns: float) -> int:
    """How far from a row its samples may lie."""
    return int(np.ceil(ZEROS * period_ns))


def resample(taken_ns: Int64, values: Float32, at_ns: Int64, period_ns: float) -> Float32:
    """The values at these times, (r,) ascending, as (r, c), from an unbroken run of samples: taken_ns (n,) ascending,
    values (n, c). Each time must lie within the run.

    Only samples within reach_ns of it count, so that more of them change nothing.
    """
    made = np.empty((len(at_ns), values.shape[1]), np.float32)
    reach = reach_ns(period_ns)
    for start in range(0, len(at_ns), _ROWS_MAX):
        rows = slice(start, start + _ROWS_MAX)
        low, high = np.searchsorted(taken_ns, [at_ns[rows][0] - reach, at_ns[rows][-1] + reach])
        made[rows] = _resample(taken_ns[low:high], values[low:high], at_ns[rows], period_ns)
    return made


def _resample(taken_ns: Int64, values: Float32, at_ns: Int64, period_ns: float) -> Float64:
    reach = reach_ns(period_ns)
    low = np.searchsorted(taken_ns, at_ns - reach, side="right")
    count = np.searchsorted(taken_ns, at_ns + reach, side="left") - low
    made = np.full((len(at_ns), values.shape[1]), np.nan)
    enough = count >= _NODES
    if enough.all():
        made = _filtered(taken_ns, values, at_ns, low, count, period_ns)
    elif enough.any():
        made[enough] = _filtered(taken_ns, values, at_ns[enough], low[enough], count[enough], period_ns)
    none = np.isnan(made).any(axis=1)
    if none.any():
        made[none] = _linear(taken_ns, values, at_ns[none])
    return made


def _filtered(taken_ns: Int64, values: Float32, at_ns: Int64, low: Int64, count: Int64, period_ns: float) -> Float64:
    """Rows from `count` samples each, from index low on. Arrays of (taps, rows), and (c, taps, rows) of values.

    NaN where samples lie so that a filter makes up what none of them is near to.
    """
    if len(at_ns) == 1:  # a lone row's taps would be summed in another order
        return _filtered(taken_ns, values, np.tile(at_ns, 2), np.tile(low, 2), np.tile(count, 2), period_ns)[:1]
    taps = np.arange(count.max())[:, None]
    inside = taps < count
    index = np.minimum(low + taps, len(taken_ns) - 1)
    offset = np.where(inside, taken_ns[index] - at_ns, 0).astype(np.float64)
    line, spacing = _line(offset, taps, inside, count)
    even = np.abs(np.where(inside, offset - line, 0.0)).max(axis=0) <= _EVEN * spacing
    by_channel = np.ascontiguousarray(values.T, np.float64)
    if even.all():
        return _summed(offset, by_channel[:, index], inside, period_ns)
    made = np.empty((len(at_ns), values.shape[1]))
    if even.any():
        made[even] = _filtered(taken_ns, values, at_ns[even], low[even], count[even], period_ns)
    rows = np.flatnonzero(~even)
    if len(rows) == 1:
        rows = np.concatenate([rows, rows])
    place, tapped = _on_line(taken_ns, by_channel, at_ns[rows], low[rows], count[rows], line[:, rows], spacing[rows])
    made[rows] = _within(
        by_channel, index[:, rows], inside[:, rows], _summed(place, tapped, inside[:, rows], period_ns)
    )
    return made


def _within(by_channel: Float64, index: Int64, inside: NDArray[np.bool_], made: Float64) -> Float64:
    """NaN where a row is further from its samples than OVERSHOOT."""
    samples = by_channel[:, index]
    most = np.where(inside, samples, -np.inf).max(axis=1).T
    least = np.where(inside, samples, np.inf).min(axis=1).T
    spread = OVERSHOOT * (most - least)
    made[(made > most + spread) | (made < least - spread)] = np.nan
    return made


def _summed(place_ns: Float64, tapped: Float64, inside: NDArray[np.bool_], period_ns: float) -> Float64:
    """Tap by tap in their order, so that a row does not depend on how many rows are asked for."""
    weights = np.where(inside, _kernel(place_ns / period_ns), 0.0)
    total = np.add.reduce(weights, axis=0)
    total[total < WEIGHT_MIN] = np.nan
    summed: Float64 = (np.add.reduce(tapped * weights, axis=1) / total).T
    return summed


def _kernel(at: Float64) -> Float64:
    """at: in periods."""
    phase = np.minimum(np.abs(at), ZEROS) * _PHASES
    whole = phase.astype(np.int64)
    value: Float64 = _KERNEL[whole] + (phase - whole) * _KERNEL_STEP[whole]
    return value


def _line(offset: Float64, taps: Int64, inside: NDArray[np.bool_], count: Int64) -> tuple[Float64, Float64]:
    """The least squares line through the times within reach, at each tap, and its slope: the local spacing."""
    centred = np.where(inside, taps - (count - 1) / 2, 0.0)
    slope = np.add.reduce(centred * offset) / (count * (count.astype(np.float64) ** 2 - 1) / 12)
    return np.add.reduce(offset) / count + slope * centred, slope


def _on_line(
    taken_ns: Int64, by_channel: Float64, at_ns: Int64, low: Int64, count: Int64, line: Float64, spacing: Float64
) -> tuple[Float64, Float64]:
    """Samples interpolated to the line: places (taps, rows), as offsets from the row, and values (c, taps, rows)."""
    last = low + count - 1
    place = np.clip(line, (taken_ns[low] - at_ns).astype(np.float64), (taken_ns[last] - at_ns).astype(np.float64))
    found = np.searchsorted(taken_ns, np.floor(place).astype(np.int64) + at_ns, side="right") - 1
    before = np.clip(found, low, last - 1)
    node = np.clip(before - _NODES // 2 + 1, low, last - _NODES + 1)
    newton = _newton(taken_ns, by_channel)
    tapped = newton[-1][:, node]
    for n in reversed(range(_NODES - 1)):
        tapped = newton[n][:, node] + (place - (taken_ns[node + n] - at_ns)) * tapped
    step_ns = np.diff(taken_ns)
    paused = np.lib.stride_tricks.sliding_window_view(step_ns, _NODES - 1).max(axis=1)[node] > GAP_PERIODS * spacing
    if paused.any():
        left = before[paused]
        share = (place - (taken_ns[before] - at_ns))[paused] / step_ns[left]
        tapped[:, paused] = by_channel[:, left] + share * (by_channel[:, left + 1] - by_channel[:, left])
    return place, tapped


def _newton(taken_ns: Int64, by_channel: Float64) -> list[Float64]:
    """For the polynomial through _NODES samples from each on, its coefficients in Newton's form, (c, n) each."""
    coefficients = [by_channel]
    for order in range(1, _NODES):
        before = coefficients[-1]
        coefficients.append((before[:, 1:] - before[:, :-1]) / (taken_ns[order:] - taken_ns[:-order]))
    return coefficients


def _linear(taken_ns: Int64, values: Float32, at_ns: Int64) -> Float64:
    """Where samples are too few for a filter or lie too oddly: the straight line between the neighbours."""
    after = np.searchsorted(taken_ns, at_ns, side="left")
    before = np.maximum(after - 1, 0)
    after = np.minimum(after, len(taken_ns) - 1)
    span = np.maximum(taken_ns[after] - taken_ns[before], 1)
    share = np.where(after == before, 0.0, (at_ns - taken_ns[before]) / span)[:, None]
    line: Float64 = values[before] + share * (values[after].astype(np.float64) - values[before])
    return np.where(share == 1.0, values[after], line)


class Rows(NamedTuple):
    """Grid rows from `first` on. values: (n, c) float32. saturated: (n,), some sample within reach was."""

    first: int
    values: Float32
    saturated: NDArray[np.bool_]


class RowsLost(NamedTuple):
    """Grid rows first to end (exclusive) that no samples can give any more."""

    first: int
    end: int


@dataclass(slots=True, eq=False)
class _Run:
    """Samples with consecutive indices that are still needed."""

    first: int
    taken_ns: Int64
    values: Float32
    saturated: NDArray[np.bool_]

    @property
    def end(self) -> int:
        return self.first + len(self.taken_ns)

    def part(self, start: int, end: int) -> "_Run":
        return _Run(
            self.first + start, self.taken_ns[start:end], self.values[start:end].copy(), self.saturated[start:end]
        )

    def joined(self, other: "_Run") -> "_Run":
        return _Run(
            self.first,
            np.concatenate([self.taken_ns, other.taken_ns]),
            np.concatenate([self.values, other.values]),
            np.concatenate([self.saturated, other.saturated]),
        )


@dataclass(slots=True, eq=False)
class Resampler:
    """One sensor of one session. A row comes as soon as every sample within reach of it is here, or lost for good.

    Indices ascend with time; a sample that is not after the one before it begins a new run, as after a gap. Samples
    that no row to come needs are forgotten, so what is held grows with holes only.

    batch: (every, phase). In a stream without holes rows come only when row phase + n * every - 1 has come too, for
    numpy takes as long for one row as for a hundred. What waits so is what no window needs yet.
    """

    native_rate_hz: float
    grid_rate_hz: float
    batch: tuple[int, int] = (1, 0)
    covered: Coverage = field(default_factory=Coverage)
    """Samples, by index, that came or are lost for good."""
    late: int = 0
    """Samples that came after they had been declared lost."""
    _lost: Coverage = field(default_factory=Coverage)
    _done: Coverage = field(default_factory=Coverage)  # rows that went out or were lost
    _runs: list[_Run] = field(default_factory=list)  # by first
    _ended: bool = False
    came: int = 0
    """Samples that came in time."""
    _tail: list[tuple[Int64, Float32, bool]] = field(default_factory=list)  # goes on the last run, brings no row yet
    _tail_end: int = 0
    _due_ns: int = 0  # the time of a sample with which the tail does

    @property
    def _period_ns(self) -> float:
        return kernel_period_ns(self.native_rate_hz, self.grid_rate_hz)

    def add(self, first: int, taken_ns: Int64, values: Float32, saturated: bool = False) -> list[Rows | RowsLost]:
        """Consecutive samples from index first on: taken_ns (n,) since the session's origin, values (n, c)."""
        end = first + len(taken_ns)
        if self._goes_on(first):
            self.covered.add(first, end)
            self.came += len(taken_ns)
            self._tail.append((taken_ns, values, saturated))
            self._tail_end = end
            if taken_ns[-1] < self._due_ns:
                return []
            self._join_tail()
            return self._settle(self._runs[-1:])
        self._join_tail()
        self.late += sum(max(0, min(high, end) - max(low, first)) for low, high in self._lost.ranges)
        settled: list[Rows | RowsLost] = []
        for low, high in self.covered.missing(first, end):
            part = slice(low - first, high - first)
            self.covered.add(low, high)
            self.came += high - low
            run = _Run(low, taken_ns[part].astype(np.int64), values[part].copy(), np.full(high - low, saturated))
            settled += self._settle([self._insert(run)])
        return settled

    def lose(self, first: int, end: int) -> list[Rows | RowsLost]:
        """Declares the samples first to end (exclusive) lost for good, as far as they have not come."""
        settled: list[Rows | RowsLost] = []
        self._join_tail()
        for low, high in self.covered.missing(first, end):
            self.covered.add(low, high)
            self._lost.add(low, high)
            low, high = next(r for r in self._lost.ranges if r[0] <= low < r[1])
            settled += self._settle([run for run in self._runs if run.end == low or run.first == high])
        return settled

    def end(self) -> list[Rows | RowsLost]:
        """No more samples will come: what is missing is lost, and the rows up to the last sample come."""
        settled: list[Rows | RowsLost] = []
        self._join_tail()
        for low, high in self.holes():
            settled += self.lose(low, high)
        self._ended = True
        settled += self._settle(self._runs[-1:])
        self._runs.clear()
        return settled

    def holes(self) -> list[tuple[int, int]]:
        """What is missing below the newest sample and not lost."""
        ranges = self.covered.ranges
        return self.covered.missing(0, ranges[-1][1]) if len(ranges) > 1 or (ranges and ranges[0][0]) else []

    @property
    def watermark(self) -> int:
        """All samples below are here or lost."""
        return self.covered.contiguous_end(0)

    @property
    def buffered(self) -> int:
        """Samples held for rows to come."""
        return sum(len(run.taken_ns) for run in self._runs) + sum(len(taken_ns) for taken_ns, _, _ in self._tail)

    @property
    def rows(self) -> int:
        """One past the last row that is settled."""
        return self._done.ranges[-1][1] if self._done.ranges else 0

    def behind(self, grid_rate_hz: float, batch: tuple[int, int]) -> "Resampler":
        """As if for this other grid all rows were settled that a sample which is known of may reach."""
        self._join_tail()
        other = Resampler(self.native_rate_hz, grid_rate_hz, batch, self.covered.copy())
        ranges = self.covered.ranges
        counted_ns = round(ranges[-1][1] * 1e9 / self.native_rate_hz) if ranges else 0
        newest_ns = max(counted_ns, *(int(run.taken_ns[-1]) for run in self._runs[-1:]), self.row_ns(self.rows))
        reach = max(reach_ns(self._period_ns), reach_ns(other._period_ns))
        other._done.add(0, other._row_from(newest_ns + 2 * reach) + 1)
        return other

    @property
    def spare(self) -> tuple[int, int]:
        """So many samples more, and samples for so many ns, bring no row where none is lost; 0 where that cannot be
        told."""
        if not self._runs or not self._goes_on(self.covered.ranges[-1][1]):
            return 0, 0
        run = self._runs[-1]
        newest_ns = int((self._tail[-1][0] if self._tail else run.taken_ns)[-1])
        spacing_ns, seen = SLOWEST * 1e9 / self.native_rate_hz, self.covered.ranges[-1][1] - run.first - 1
        if seen >= SPACINGS_SEEN:
            spacing_ns = SPACING_CHANGE * (newest_ns - int(run.taken_ns[0])) / seen
        spare_ns = max(0, self._due_ns - newest_ns)
        return int(spare_ns / spacing_ns), spare_ns

    def row_ns(self, row: int) -> int:
        return round(row * 1e9 / self.grid_rate_hz)

    def _row_from(self, taken_ns: int) -> int:
        """The first row at or after this time."""
        row = max(0, int(taken_ns * self.grid_rate_hz / 1e9) - 1)
        while self.row_ns(row) < taken_ns:
            row += 1
        return row

    def _goes_on(self, first: int) -> bool:
        """Whether a burst from here on only lengthens the last run, with nothing lost or missing near."""
        ranges = self.covered.ranges
        if len(ranges) != 1 or ranges[0][1] != first or self._lost.ranges or self._ended or not self._runs:
            return False
        return (self._tail_end if self._tail else self._runs[-1].end) == first

    def _join_tail(self) -> None:
        if self._tail:
            run = self._runs[-1]
            flags = np.repeat([flag for _, _, flag in self._tail], [len(taken_ns) for taken_ns, _, _ in self._tail])
            self._runs[-1] = _Run(
                run.first,
                np.concatenate([run.taken_ns, *(taken_ns for taken_ns, _, _ in self._tail)], dtype=np.int64),
                np.concatenate([run.values, *(values for _, values, _ in self._tail)]),
                np.concatenate([run.saturated, flags]),
            )
            self._tail.clear()

    def _insert(self, run: _Run) -> _Run:
        at = sum(other.first < run.first for other in self._runs)
        if at < len(self._runs) and self._runs[at].first == run.end:
            run = run.joined(self._runs.pop(at))
        if at > 0 and self._runs[at - 1].end == run.first:
            at -= 1
            run = self._runs.pop(at).joined(run)
        self._runs.insert(at, run)
        return run

    def _settle(self, runs: list[_Run]) -> list[Rows | RowsLost]:
        """The rows that these runs, which have changed or whose neighbours are known now, give."""
        settled: list[Rows | RowsLost] = []
        for run in runs:
            settled += self._rows_of(run)
            at = self._runs.index(run)
            settled += self._between(self._runs[at - 1] if at else None, run)
            if at + 1 < len(self._runs):
                settled += self._between(run, self._runs[at + 1])
        if settled:
            self._drop(runs)
            every, phase = self.batch
            last = self.rows + every - (self.rows - phase) % every - 1
            self._due_ns = self.row_ns(last) + reach_ns(self._period_ns)
        return settled

    def _is_lost(self, index: int) -> bool:
        return self._lost.contiguous_end(index) > index

    def _rows_of(self, run: _Run) -> Iterator[Rows | RowsLost]:
        reach = reach_ns(self._period_ns)
        step_ns = np.diff(run.taken_ns)
        breaks = np.flatnonzero((step_ns > max(GAP_MAX_NS, GAP_PERIODS * 1e9 / self.native_rate_hz)) | (step_ns <= 0))
        edges = [0, *(int(b) + 1 for b in breaks), len(run.taken_ns)]
        for number, (start, end) in enumerate(itertools.pairwise(edges)):
            opened = start > 0 or run.first == 0 or self._is_lost(run.first - 1)
            closed = end < len(run.taken_ns) or self._ended or self._is_lost(run.end)
            taken_ns = run.taken_ns[start:end]
            if number:
                yield from self._lose_rows(int(run.taken_ns[start - 1]), int(taken_ns[0]))
            if not closed and taken_ns[-1] - reach < taken_ns[0]:
                continue
            first = self._row_from(int(taken_ns[0]) + (0 if opened else reach))
            if run.first == 0 and start == 0:  # a sensor that starts a little later than its partner is held
                first = self._row_from(int(taken_ns[0]) - GAP_MAX_NS)
            after = self._row_from(int(taken_ns[-1]) - (0 if closed else reach) + 1)
            if end < len(run.taken_ns):
                after = min(after, self._row_from(int(run.taken_ns[end])))
            for low, high in self._done.missing(first, max(first, after)):
                self._done.add(low, high)
                at_ns = np.rint(np.arange(low, high) * 1e9 / self.grid_rate_hz).astype(np.int64)
                held_ns = np.maximum(at_ns, taken_ns[0])
                values = resample(taken_ns, run.values[start:end], held_ns, self._period_ns)
                yield Rows(low, values, self._saturated(taken_ns, run.saturated[start:end], at_ns, reach))

    @staticmethod
    def _saturated(taken_ns: Int64, saturated: NDArray[np.bool_], at_ns: Int64, reach: int) -> NDArray[np.bool_]:
        if not saturated.any():
            return np.zeros(len(at_ns), np.bool_)
        before = np.concatenate([[0], np.cumsum(saturated)])
        low, high = (np.searchsorted(taken_ns, at_ns + side * reach, side="left") for side in (-1, 1))
        return before[high] > before[low]

    def _between(self, left: _Run | None, right: _Run) -> Iterator[RowsLost]:
        """Rows between two runs, or before the first, that have nothing but losses between them."""
        index = 0 if left is None else left.end
        if index < right.first and self._lost.contiguous_end(index) == right.first:
            yield from self._lose_rows(-1 if left is None else int(left.taken_ns[-1]), int(right.taken_ns[0]))

    def _lose_rows(self, after_ns: int, before_ns: int) -> Iterator[RowsLost]:
        """Those at times between these two, both excluded."""
        first = self._row_from(after_ns + 1)
        for low, high in self._done.missing(first, max(first, self._row_from(before_ns))):
            self._done.add(low, high)
            yield RowsLost(low, high)

    def _drop(self, changed: list[_Run]) -> None:
        """Forgets samples and losses around these runs that no row to come needs, not even as neighbours."""
        at = [number for number, run in enumerate(self._runs) if run in changed]
        first, end = max(0, at[0] - 1), min(len(self._runs), at[-1] + 2)
        reach = reach_ns(self._period_ns)
        low_ns, high_ns = self._runs[first].taken_ns[0] - reach, self._runs[end - 1].taken_ns[-1] + reach
        while first > 0 and self._runs[first - 1].taken_ns[-1] > low_ns:
            first -= 1
        while end < len(self._runs) and self._runs[end].taken_ns[0] < high_ns:
            end += 1
        self._runs[first:end] = [part for run in self._runs[first:end] for part in self._needed(run)]
        touched = {run.first for run in self._runs} | {run.end for run in self._runs}
        self._lost = Coverage(
            [
                (low, high)
                for low, high in self._lost.ranges
                if low in touched
                or high in touched
                or self.covered.contiguous_end(high) == high
                or (low > 0 and self.covered.contiguous_end(low - 1) == low - 1)
            ]
        )

    def _needed(self, run: _Run) -> list[_Run]:
        reach = reach_ns(self._period_ns)
        if len(self._runs) == 1 and len(done := self._done.ranges) == 1 and done[0][0] == 0:  # nearly always
            beyond = np.flatnonzero(run.taken_ns > self.row_ns(done[0][1]) - reach)
            start = max(0, int(beyond[0]) - 1) if len(beyond) else len(run.taken_ns)
            return [run.part(start, len(run.taken_ns))] if start < len(run.taken_ns) else []
        low = self._row_from(int(run.taken_ns.min()) - reach)
        high = self._row_from(int(run.taken_ns.max()) + reach)
        needed = np.zeros(len(run.taken_ns), np.bool_)
        for first, end in self._done.missing(low, high + 1):
            needed |= (run.taken_ns > self.row_ns(first) - reach) & (run.taken_ns < self.row_ns(end - 1) + reach)
        needed[:-1] |= needed[1:].copy()
        needed[1:] |= needed[:-1].copy()
        if needed.all():
            return [run]
        edges = np.flatnonzero(np.diff(np.concatenate([[0], needed.astype(np.int8), [0]]))).reshape(-1, 2)
        return [run.part(int(start), int(end)) for start, end in edges]

    def state(self) -> dict[str, Any]:
        """JSON values; arrays as base64 of little-endian int64, float32 and bytes."""
        self._join_tail()
        return {
            "native_rate_hz": self.native_rate_hz,
            "grid_rate_hz": self.grid_rate_hz,
            "batch": self.batch,
            "covered": self.covered.ranges,
            "late": self.late,
            "lost": self._lost.ranges,
            "done": self._done.ranges,
            "ended": self._ended,
            "came": self.came,
            "due_ns": self._due_ns,
            "runs": [
                [
                    run.first,
                    run.values.shape[1],
                    text_of(run.taken_ns.astype("<i8")),
                    text_of(run.values.astype("<f4")),
                    text_of(run.saturated.astype("u1")),
                ]
                for run in self._runs
            ],
        }

    @classmethod
    def restore(cls, state: dict[str, Any]) -> Self:
        return cls(
            state["native_rate_hz"],
            state["grid_rate_hz"],
            tuple(state["batch"]),
            Coverage.of(state["covered"]),
            state["late"],
            Coverage.of(state["lost"]),
            Coverage.of(state["done"]),
            [
                _Run(
                    first,
                    array_of(taken_ns, "<i8").astype(np.int64),
                    array_of(values, "<f4").astype(np.float32).reshape(-1, width),
                    array_of(saturated, "u1").astype(np.bool_),
                )
                for first, width, taken_ns, values, saturated in state["runs"]
            ],
            state["ended"],
            state["came"],
            _due_ns=state["due_ns"],
        )


def text_of(array: NDArray[Any]) -> str:
    """An array's bytes for JSON."""
    return base64.b64encode(array.tobytes()).decode()


def array_of(text: str, dtype: str) -> NDArray[Any]:
    return np.frombuffer(base64.b64decode(text), dtype)
