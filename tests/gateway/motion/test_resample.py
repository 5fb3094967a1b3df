"""Samples at any times to the grid: against analytic signals, and the same whatever order they come in."""

import itertools
import json
import random
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import i0

from gateway.motion.resample import (
    GAP_MAX_NS,
    KAISER_BETA,
    ZEROS,
    Resampler,
    Rows,
    RowsLost,
    kernel_period_ns,
    reach_ns,
    resample,
)

GRID_HZ, ROW_NS = 50.0, 20_000_000


def times(rate_hz, seconds, kind, seed=1):
    """Device times: even, off by up to a share of the spacing, or eight samples in the time of 6.4 and a pause."""
    index = np.arange(int(rate_hz * seconds))
    if kind == "bursts":
        index = index // 8 * 8 + index % 8 * 0.8
    elif kind:
        index = index + np.random.default_rng(seed).uniform(-kind, kind, len(index))
        index -= index[0]
    return np.rint(index * 1e9 / rate_hz).astype(np.int64)


def tone(hz, at_ns):
    return np.sin(2 * np.pi * hz * at_ns / 1e9 + 0.3)


def inner_rows(taken_ns, period_ns):
    """Those whose whole reach is there."""
    reach = reach_ns(period_ns)
    return np.arange(reach // ROW_NS + 1, (taken_ns[-1] - reach) // ROW_NS) * ROW_NS


def error(rate_hz, kind, hz, gain=1.0):
    """The largest difference from a tone of amplitude 1 (from silence where gain is 0)."""
    taken_ns = times(rate_hz, 30, kind)
    period_ns = kernel_period_ns(rate_hz, GRID_HZ)
    at_ns = inner_rows(taken_ns, period_ns)
    made = resample(taken_ns, tone(hz, taken_ns)[:, None].astype(np.float32), at_ns, period_ns)[:, 0]
    return np.abs(made - gain * tone(hz, at_ns)).max()


# The docstring's table: native rate, kind of times, tones in Hz of the pass-band, error of their amplitude at most.
PASSED = [
    ("26 Hz", 26, None, (1, 3, 5, 8, 10), 0.0015),
    ("52 Hz", 52, None, (1, 3, 5, 10, 15, 20), 0.001),
    ("104 Hz", 104, None, (1, 3, 5, 10, 15, 20), 0.0005),
    ("105 Hz", 105, None, (1, 3, 5, 10, 15, 20), 0.0005),
    ("26 Hz, jitter of 1 %", 26, 0.01, (1, 3, 5), 0.001),
    ("52 Hz, jitter of 1 %", 52, 0.01, (1, 3, 5, 10), 0.001),
    ("104 Hz, jitter of 1 %", 104, 0.01, (1, 3, 5, 10, 15, 20), 0.001),
    ("105 Hz, jitter of 1 %", 105, 0.01, (1, 3, 5, 10, 15, 20), 0.001),
    ("26 Hz, jitter of 10 %", 26, 0.1, (1, 3, 5), 0.01),
    ("52 Hz, jitter of 10 %", 52, 0.1, (1, 3, 5, 10), 0.01),
    ("104 Hz, jitter of 10 %", 104, 0.1, (1, 3, 5, 10, 15), 0.001),
    ("105 Hz, jitter of 10 %", 105, 0.1, (1, 3, 5, 10, 15), 0.001),
    ("26 Hz in bursts", 26, "bursts", (1, 3), 0.012),
    ("52 Hz in bursts", 52, "bursts", (1, 3, 5), 0.012),
    ("104 Hz in bursts", 104, "bursts", (1, 3, 5, 10), 0.003),
    ("105 Hz in bursts", 105, "bursts", (1, 3, 5, 10), 0.003),
]


@pytest.mark.parametrize(("rate_hz", "kind", "tones_hz", "most"), [p[1:] for p in PASSED], ids=[p[0] for p in PASSED])
def test_a_tone_of_the_pass_band_comes_through(rate_hz, kind, tones_hz, most):
    assert {hz: e for hz in tones_hz if (e := error(rate_hz, kind, hz)) > most} == {}


@pytest.mark.parametrize("rate_hz", [104, 105])
@pytest.mark.parametrize(("kind", "least_db"), [(None, 65), (0.01, 30), (0.1, 10)], ids=["even", "1 %", "10 %"])
def test_a_tone_above_the_new_nyquist_rate_is_attenuated(rate_hz, kind, least_db):
    left = max(error(rate_hz, kind, hz, gain=0.0) for hz in (30, 35, 40, 45, 50))
    assert -20 * np.log10(left) >= least_db


@pytest.mark.parametrize("rate_hz", [26.0, 52.0, 105.0])
def test_evenly_spaced_samples_get_the_kaiser_window_s_sinc(rate_hz):
    taken_ns = times(rate_hz, 6, None)
    values = np.random.default_rng(2).normal(0, 9, (len(taken_ns), 3)).astype(np.float32)
    period_ns = kernel_period_ns(rate_hz, GRID_HZ)
    at_ns = inner_rows(taken_ns, period_ns)
    distance = (taken_ns - at_ns[:, None]) / period_ns
    window = i0(KAISER_BETA * np.sqrt(np.clip(1 - (distance / ZEROS) ** 2, 0, None))) / i0(KAISER_BETA)
    weights = np.where(np.abs(distance) < ZEROS, np.sinc(distance) * window, 0)
    expected = weights @ values.astype(np.float64) / weights.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(resample(taken_ns, values, at_ns, period_ns), expected, atol=2e-4)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([13.0, 26.0, 50.0, 52.0, 104.0, 400.0]), st.sampled_from([None, 0.01, 0.2, "bursts"]))
def test_a_constant_stays_and_a_ramp_stays_straight_to_the_ends(rate_hz, kind):
    taken_ns = times(rate_hz, 8, kind)
    seconds = taken_ns / 1e9
    values = np.stack([np.full(len(seconds), 9.80665), 3 * seconds - 10], axis=1).astype(np.float32)
    at_ns = np.arange(taken_ns[-1] // ROW_NS + 1) * ROW_NS
    made = resample(taken_ns, values, at_ns, kernel_period_ns(rate_hz, GRID_HZ))
    np.testing.assert_allclose(made[:, 0], 9.80665, rtol=1e-6)
    inner = inner_rows(taken_ns, kernel_period_ns(rate_hz, GRID_HZ)) // ROW_NS
    ramp, period_s = 3 * at_ns / 1e9 - 10, 1 / min(rate_hz, GRID_HZ)
    np.testing.assert_allclose(made[inner, 1], ramp[inner], atol=3 * period_s * (0.06 if kind == "bursts" else 0.02))
    np.testing.assert_allclose(made[:, 1], ramp, atol=3 * period_s * 0.4)


@given(st.integers(0, 2**32 - 1), st.integers(2, 200))
def test_what_is_on_the_grid_is_kept_to_the_bit(seed, n):
    values = np.random.default_rng(seed).normal(0, 50, (n, 6)).astype(np.float32)
    taken_ns = np.arange(n) * ROW_NS
    resampler = Resampler(GRID_HZ, GRID_HZ)
    rows = account(resampler.add(0, taken_ns, values) + resampler.end())
    assert [rows[k][0] for k in range(n)] == [v.tobytes() for v in values]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_row_does_not_depend_on_which_others_are_asked_for(data):
    rate_hz = data.draw(st.sampled_from([26.0, 52.0, 105.0]))
    taken_ns = times(rate_hz, 4, data.draw(st.sampled_from([None, 0.1, "bursts"])))
    values = np.random.default_rng(3).normal(size=(len(taken_ns), 6)).astype(np.float32)
    at_ns = np.arange(taken_ns[-1] // ROW_NS) * ROW_NS
    whole = resample(taken_ns, values, at_ns, kernel_period_ns(rate_hz, GRID_HZ))
    first = data.draw(st.integers(0, len(at_ns) - 1))
    end = data.draw(st.integers(first + 1, len(at_ns)))
    part = resample(taken_ns, values, at_ns[first:end], kernel_period_ns(rate_hz, GRID_HZ))
    assert part.tobytes() == whole[first:end].tobytes()


# The fold.


def account(settled):
    """Each row's bytes and saturation, None where it is lost; no row twice."""
    rows = {}
    for part in settled:
        numbers = (
            range(part.first, part.end)
            if isinstance(part, RowsLost)
            else range(part.first, part.first + len(part.values))
        )
        assert not rows.keys() & set(numbers)
        if isinstance(part, RowsLost):
            rows.update(dict.fromkeys(numbers))
        else:
            rows.update(
                {k: (v.tobytes(), bool(s)) for k, v, s in zip(numbers, part.values, part.saturated, strict=True)}
            )
    return rows


class Session:
    """600 samples of which runs are lost; 9 of them in a row were saturated."""

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        self.rate_hz = float(rng.choice([13, 26, 50, 52, 104, 105]))
        self.taken_ns = times(self.rate_hz, 600 / self.rate_hz, rng.choice([None, 0.2, "bursts"]), seed)
        self.count = len(self.taken_ns)
        self.values = rng.normal(0, 10, (self.count, 6)).astype(np.float32)
        self.lost = np.zeros(self.count, bool)
        for _ in range(rng.integers(0, 6)):
            first = rng.integers(0, self.count)
            self.lost[first : first + rng.integers(1, 40)] = True
        self.saturated = np.zeros(self.count, bool)
        first = rng.integers(0, self.count - 9)
        self.saturated[first : first + 9] = True

    def events(self, order):
        """Bursts and losses, split anyhow (but where what is true of a burst changes), some bursts twice, shuffled."""
        cuts = {0, self.count} | set(order.sample(range(1, self.count), order.randint(3, 60)))
        for flags in (self.lost, self.saturated):
            cuts |= {int(i) + 1 for i in np.flatnonzero(np.diff(flags.astype(int)))}
        ordered = sorted(cuts)
        events = list(itertools.pairwise(ordered))
        events += order.sample(events, min(5, len(events)))
        order.shuffle(events)
        return events

    def play(self, order, restores=0.0):
        resampler, settled = Resampler(self.rate_hz, GRID_HZ), []
        for first, end in self.events(order):
            if self.lost[first]:
                settled += resampler.lose(first, end)
            else:
                part = slice(first, end)
                settled += resampler.add(first, self.taken_ns[part], self.values[part], bool(self.saturated[first]))
            if order.random() < restores:
                resampler = Resampler.restore(json.loads(json.dumps(resampler.state())))
        assert resampler.watermark == self.count
        return account(settled + resampler.end())


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_any_order_split_repetition_and_restart_give_the_same_rows_to_the_bit(seed):
    session, order = Session(seed), random.Random(seed)
    rows = session.play(order)
    assert session.play(order) == rows
    assert session.play(order, restores=0.3) == rows


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_each_row_up_to_the_last_sample_is_given_or_lost_and_lost_only_where_samples_are(seed):
    session = Session(seed)
    rows = session.play(random.Random(seed))
    here = np.flatnonzero(~session.lost)
    gap_ns = max(GAP_MAX_NS, 2.5e9 / session.rate_hz)
    given_rows = set()
    for run in np.split(here, np.flatnonzero(np.diff(here) > 1) + 1):
        begin_ns, end_ns = session.taken_ns[run[0]], session.taken_ns[run[-1]]
        assert np.diff(session.taken_ns[run]).max(initial=0) <= gap_ns
        given_rows |= set(range(-(-begin_ns // ROW_NS), end_ns // ROW_NS + 1))
    last = session.taken_ns[here[-1]] // ROW_NS
    assert {k for k, row in rows.items() if row is not None} == given_rows
    assert sorted(rows) == list(range(last + 1))


@settings(deadline=None)
@given(
    steps_ns=st.lists(st.one_of(st.sampled_from([1, 10**6, 2 * 10**7, 7 * 10**7]), st.integers(1, 190_000_000)),
                      min_size=12, max_size=60),
    seed=st.integers(0, 2**32),
)  # fmt: skip
def test_however_oddly_samples_lie_rows_are_numbers_near_to_them(steps_ns, seed):
    """A garbage stamp puts samples anywhere; what is made of that may be wrong, not infinite."""
    taken_ns = np.cumsum(steps_ns)
    values = np.random.default_rng(seed).uniform(-10, 10, (len(steps_ns), 3)).astype(np.float32)
    at_ns = np.arange(-(-taken_ns[0] // 20_000_000), taken_ns[-1] // 20_000_000 + 1) * 20_000_000
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = resample(taken_ns, values, at_ns, 2e7)
    assert np.abs(rows).max(initial=0) <= 40


def test_no_row_mixes_what_lies_on_both_sides_of_a_loss():
    taken_ns = times(104, 4, None)
    values = np.where(np.arange(len(taken_ns)) < 200, 1.0, 1000.0)[:, None].astype(np.float32)
    resampler = Resampler(104, GRID_HZ)
    settled = resampler.add(0, taken_ns[:195], values[:195]) + resampler.lose(195, 205)
    settled += resampler.add(205, taken_ns[205:], values[205:]) + resampler.end()
    given = np.concatenate([part.values for part in settled if isinstance(part, Rows)])
    assert set(np.round(given.ravel(), 3)) == {1.0, 1000.0}


def test_a_silence_that_no_index_explains_is_lost_and_not_made_up():
    taken_ns = times(52, 8, None)
    taken_ns[200:] += 300_000_000
    resampler = Resampler(52, GRID_HZ)
    settled = resampler.add(0, taken_ns, np.zeros((len(taken_ns), 3), np.float32)) + resampler.end()
    (lost,) = [part for part in settled if isinstance(part, RowsLost)]
    assert (lost.first, lost.end) == (taken_ns[199] // ROW_NS + 1, -(-taken_ns[200] // ROW_NS))


def test_a_row_comes_once_its_reach_is_there_and_not_sooner():
    taken_ns = times(52, 8, None)
    values = np.zeros((len(taken_ns), 3), np.float32)
    resampler = Resampler(52, GRID_HZ)
    (rows,) = resampler.add(0, taken_ns[:100], values[:100])
    assert (rows.first, len(rows.values)) == (0, (taken_ns[99] - ZEROS * ROW_NS) // ROW_NS + 1)
    assert resampler.add(101, taken_ns[101:103], values[101:103]) == []
    (rows, *_) = resampler.lose(100, 101)
    assert rows.first + len(rows.values) == taken_ns[99] // ROW_NS + 1


def test_what_is_held_does_not_grow_with_the_stream():
    resampler, held = Resampler(104, GRID_HZ), []
    taken_ns = times(104, 100, None)
    for first in range(0, len(taken_ns) - 13, 13):
        resampler.add(first, taken_ns[first : first + 13], np.zeros((13, 3), np.float32))
        held.append(resampler.buffered)
    assert max(held) <= 2 * (ZEROS * 104 / GRID_HZ + 2) + 13
    assert len(resampler.state()["done"]) == 1


def test_what_is_held_around_losses_goes_with_them():
    resampler = Resampler(104, GRID_HZ)
    taken_ns = times(104, 100, None)
    for first in range(0, len(taken_ns) - 26, 26):
        resampler.add(first, taken_ns[first : first + 13], np.zeros((13, 3), np.float32))
        resampler.lose(first + 13, first + 26)
    state = resampler.state()
    assert resampler.buffered <= 60
    assert len(state["lost"]) <= 2
    assert len(state["covered"]) == 1


@pytest.mark.parametrize(("share", "longest"), [(0.02, 1), (0.3, 3), (0.6, 8)])
def test_what_is_held_does_not_grow_with_losses_however_dense(share, longest):
    """A radio that loses every third sample leaves runs that are shorter than the kernel's reach."""
    chance, taken_ns = random.Random(1), times(60, 120, None)
    resampler, held, at, told = Resampler(60.0, GRID_HZ, (100, 0)), [], 0, 0
    while at < len(taken_ns):
        if chance.random() < share:
            at += chance.randint(1, longest)
            continue
        resampler.lose(told, at)
        resampler.add(at, taken_ns[at : at + 1], np.zeros((1, 6), np.float32))
        told = at = at + 1
        held.append(resampler.buffered)
    assert max(held) <= 60 * (2 * ZEROS + 1) / GRID_HZ + 120  # the reach to both sides, and a batch of rows
    assert len(resampler.state()["lost"]) <= 60


def test_what_comes_after_it_was_declared_lost_is_counted_late_and_changes_nothing():
    resampler = Resampler(52, GRID_HZ)
    taken_ns = times(52, 2, None)
    values = np.ones((len(taken_ns), 3), np.float32)
    resampler.add(0, taken_ns[:50], values[:50])
    resampler.lose(50, 60)
    assert resampler.add(50, taken_ns[50:60], values[50:60]) == []
    assert resampler.late == 10
