"""Windows on the device's grid, against a brute-force account of the same samples."""

import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.motion.windows import Broken, SessionWindows, Window, WindowShape

SHAPE = WindowShape(length=20, hop=10)
INTERPOLATE_MAX = 3


def signal(first, end):
    index = np.arange(first, end, dtype=np.float32)
    return np.stack([np.sin(index * k) + k for k in range(1, 7)], axis=1).astype(np.float32)


def brute_force(total, lost, shape=SHAPE):
    """For each window of a session of `total` samples: 'broken', or its values with short holes interpolated."""
    is_lost = np.zeros(total, bool)
    for index in lost:
        is_lost[index] = True
    runs = []
    start = None
    for index in range(total + 1):
        if index < total and is_lost[index]:
            start = index if start is None else start
        elif start is not None:
            runs.append((start, index))
            start = None
    values = signal(0, total).astype(np.float64)
    usable = ~is_lost
    for low, high in runs:
        if low > 0 and high < total and high - low <= INTERPOLATE_MAX:
            for channel in range(6):
                ends = values[[low - 1, high], channel]
                values[low:high, channel] = np.interp(np.arange(low, high), [low - 1, high], ends)
            usable[low:high] = True
    answers = {}
    for number in range((total - shape.length) // shape.hop + 1):
        first = number * shape.hop
        span = slice(first, first + shape.length)
        open_end = any(
            low < first + shape.length and high == total and high - low <= 3 and low > 0 for low, high in runs
        )
        if usable[span].all():
            answers[number] = (values[span], int(is_lost[span].sum()))
        elif not open_end:
            answers[number] = "broken"
    return answers


def check(answers, expected):
    got = {}
    for answer in answers:
        numbers = range(answer.first, answer.end) if isinstance(answer, Broken) else [answer.number]
        for number in numbers:
            assert number not in got, "a window went out twice"
            got[number] = answer
    whole = {n for n, e in expected.items() if e != "broken"}
    assert {n for n, a in got.items() if isinstance(a, Window)} == whole
    assert {n for n, e in expected.items() if e == "broken"} <= set(got) - whole
    for number in whole:
        values, interpolated = expected[number]
        assert np.allclose(got[number].values, values, atol=1e-5)
        assert got[number].interpolated == interpolated


@settings(max_examples=300, deadline=None)
@given(
    total=st.integers(20, 150),
    lost=st.lists(st.tuples(st.integers(0, 149), st.integers(1, 6)), max_size=5),
    seed=st.integers(0, 2**32),
)
def test_any_order_of_arrival_with_repeats_and_restarts_gives_the_windows_of_the_whole(total, lost, seed):
    gone = {i for low, n in lost for i in range(low, min(low + n, total))}
    steps = [("sample", low, min(low + 7, total)) for low in range(0, total, 7)]
    steps += [("lost", i, i + 1) for i in gone] + random.Random(seed).sample(steps, len(steps) // 3)
    random.Random(seed).shuffle(steps)
    windows = SessionWindows(SHAPE, INTERPOLATE_MAX)
    answers = []
    for kind, low, high in steps:
        if kind == "lost":
            answers += windows.lose(low, high)
            continue
        held = [i for i in range(low, high) if i not in gone]
        for i in held:
            answers += windows.add(i, signal(i, i + 1), False)
        if seed % 3 == 0:  # the daemon died and came back
            windows = SessionWindows.restore(SHAPE, INTERPOLATE_MAX, json.loads(json.dumps(windows.state())))
    check(answers, brute_force(total, gone))
    assert windows.watermark == total
    assert windows.late == 0


@pytest.mark.parametrize(
    "shape", [WindowShape(20, 10), WindowShape(25, 10), WindowShape(10, 15), WindowShape(200, 100)]
)
def test_windows_start_at_multiples_of_the_hop_whatever_the_frames(shape):
    windows = SessionWindows(shape, 0)
    total = 3 * shape.length + 7
    answers = [a for i in range(0, total, 19) for a in windows.add(i, signal(i, min(i + 19, total)), False)]
    assert [a.number for a in answers] == list(range((total - shape.length) // shape.hop + 1))
    for answer in answers:
        first = answer.number * shape.hop
        assert np.array_equal(answer.values, signal(first, first + shape.length))


def test_complete_windows_beyond_a_hole_go_out_at_once_and_the_held_back_one_when_it_is_filled():
    windows = SessionWindows(SHAPE, INTERPOLATE_MAX)
    assert [w.number for w in windows.add(0, signal(0, 25), False)] == [0]
    assert [w.number for w in windows.add(30, signal(30, 70), False)] == [3, 4, 5]
    assert windows.holes() == [(25, 30)]
    assert [w.number for w in windows.add(25, signal(25, 30), False)] == [1, 2]
    assert windows.holes() == []


def test_samples_after_they_were_declared_lost_are_counted_late_and_change_nothing():
    windows = SessionWindows(SHAPE, INTERPOLATE_MAX)
    windows.add(0, signal(0, 10), False)
    assert windows.lose(10, 20) == [Broken(0, 2)]
    assert windows.add(10, signal(10, 20), False) == []
    assert windows.late == 10


def test_a_loss_of_four_billion_samples_is_one_range_and_not_a_loop():
    windows = SessionWindows(SHAPE, INTERPOLATE_MAX)
    assert windows.lose(100, 2**32 - 1) == [Broken(9, 429496730)]
    assert windows.watermark == 0


def test_saturation_is_told_of_the_windows_that_hold_the_frame():
    windows = SessionWindows(SHAPE, 0)
    answers = windows.add(0, signal(0, 20), False) + windows.add(20, signal(20, 40), True)
    assert [(a.number, a.saturated) for a in answers] == [(0, False), (1, True), (2, True)]


def test_what_is_held_stays_bounded_while_samples_stream():
    windows = SessionWindows(SHAPE, INTERPOLATE_MAX)
    for i in range(0, 5000, 19):
        windows.add(i, signal(i, i + 19), False)
        assert windows.buffered <= SHAPE.length + 2 * SHAPE.hop
