"""Worn or not: the published rule, on noise, on small motion, and on the real recording."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.monitoring.features import window_features
from gateway.monitoring.wear import QUARTER_S, Stillness, WearWatch, lies_still

MG = 9.80665e-3
RATE_HZ = 10.0
HOUR = int(3600 * RATE_HZ)
DOWN = np.array([0.0, 0.0, 9.81])


def noise(n, mg=2.0, seed=1):
    return (DOWN + np.random.default_rng(seed).normal(0, mg * MG, (n, 3))).astype(np.float32)


HOP = 20
HOP_S = HOP / RATE_HZ


def add(watch, values, start_s=0.0, order=None):
    """values: (n, 3). Windows of 4 s that overlap by half, in the given order of their starts."""
    six = np.hstack([values, np.zeros_like(values)])
    for start in range(0, len(values), HOP) if order is None else order:
        window = six[start : start + 2 * HOP]
        watch.add(start_s + start / RATE_HZ, window, window_features(window))


def watched(values, watch=None, order=None):
    watch = watch or WearWatch(HOP_S)
    add(watch, values, order=order)
    watch.over(len(values) / RATE_HZ)
    return watch.worn


def moved(**axes):
    """An hour of noise with a slow sine of so many mg on these axes."""
    values, swing = noise(HOUR), np.sin(np.arange(HOUR) / 500)
    for axis, mg in axes.items():
        values[:, "xyz".index(axis)] += swing * mg * MG
    return values


HOURS = {
    "on a table": (noise(HOUR), False),
    "a noisier sensor on a table": (noise(HOUR, mg=7), False),
    "a hand at rest that sinks and rises": (moved(x=40, y=60, z=10), True),
    "one axis alone": (moved(x=60), False),
    "two axes": (moved(x=60, z=60), True),
    "two axes that deviate by 11 mg": (moved(x=15, z=15), False),
    "two axes that deviate by 16 mg": (moved(x=22, z=22), True),
}


@pytest.mark.parametrize(("values", "worn"), HOURS.values(), ids=HOURS)
def test_an_hour_is_worn_or_not(values, worn):
    assert watched(values) is worn


def test_one_knock_in_an_hour_does_not_make_a_table_a_wrist():
    """The deviation stays; the range alone would not."""
    values = noise(HOUR)
    values[1000:1005] += 3.0
    assert watched(values) is False


def test_two_axes_within_50_mg_are_still_whatever_they_do_there():
    """A square wave of 24 mg: the deviation is above 13 mg, the range below 50."""
    square = np.where(np.arange(HOUR) // 300 % 2, 24.0, -24.0)[:, None] * MG
    values = (DOWN + square).astype(np.float32)
    assert values.std(axis=0).min() > 13 * MG
    assert watched(values) is False


def test_nothing_is_said_before_a_whole_hour_was_seen_and_then_each_quarter_anew():
    watch = WearWatch(HOP_S)
    said = []
    quarter = int(QUARTER_S * RATE_HZ)
    for n, still in enumerate([True] * 5 + [False] * 2 + [True] * 5):
        add(watch, noise(quarter) if still else moved(x=200, y=200)[:quarter], n * QUARTER_S)
        watch.over((n + 1) * QUARTER_S)
        said.append(watch.worn)
    assert said == [None] * 3 + [False, False] + [True] * 5 + [False] * 2


@pytest.mark.parametrize(("share", "worn"), [(0.6, False), (0.4, None), (0.0, None)])
def test_nothing_is_said_of_an_hour_of_which_a_quarter_was_hardly_seen(share, worn):
    watch = WearWatch(HOP_S)
    quarter = int(QUARTER_S * RATE_HZ)
    for n in range(4):
        seen = int(quarter * share) if n == 2 else quarter
        if seen:
            add(watch, noise(seen), n * QUARTER_S)
    watch.over(3600)
    assert watch.worn is worn


def test_an_hour_that_nobody_saw_takes_back_what_was_said():
    watch = WearWatch(HOP_S)
    assert watched(noise(HOUR), watch) is False
    watch.over(10 * 3600)
    assert watch.worn is None


def test_it_tells_which_quarters_it_was_worn_in():
    watch = WearWatch(HOP_S)
    quarter = int(QUARTER_S * RATE_HZ)
    for n in range(4):
        add(watch, moved(x=300, y=300)[:quarter] if n == 2 else noise(quarter), n * QUARTER_S)
    assert watch.over(3600) == [2]
    assert watch.worn is True
    assert watch.over(3600) is None


@settings(max_examples=4, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, HOUR // 20))
def test_neither_order_nor_a_restart_matters(seed, cut):
    values = moved(x=18, y=18)
    order = (np.random.default_rng(seed).permutation(HOUR // 20) * 20).tolist()
    watch = WearWatch(HOP_S)
    add(watch, values, order=order[:cut])
    watch = WearWatch.restore(HOP_S, json.loads(json.dumps(watch.state())))
    assert watched(values, watch, order[cut:]) is watched(values)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(1, 30), st.floats(1, 30), st.integers(1, 5))
def test_moments_give_the_deviation_and_range_of_the_samples_themselves(seed, first_mg, second_mg, parts):
    rng = np.random.default_rng(seed)
    values = (DOWN + rng.normal(0, np.array([first_mg, second_mg, 2.0]) * MG, (4000, 3))).astype(np.float32)
    exact = values.astype(np.float64)
    expected = (exact.std(axis=0) < 13 * MG).sum() >= 2 or (np.ptp(exact, axis=0) < 50 * MG).sum() >= 2
    seen = [Stillness() for _ in range(parts)]
    for number, window in enumerate(np.hstack([values, values]).reshape(100, 40, 6)):  # none overlaps
        seen[number % parts].add(window, window_features(window))
    assert lies_still(seen) == expected


def test_the_real_recording_was_touched_in_its_first_half_hour_and_lay_still_after(real_grid):
    """Of 1.0 h: the model's wearer put it down. By the hour it counts as worn, by its own quarters only at first."""
    watch = WearWatch(2.0)
    for number, window in enumerate(real_grid.windows(200, 100)):
        watch.add(number * 2.0, window, window_features(window))
    assert watch.over(3600) == [0, 1]
    assert watch.worn is True
