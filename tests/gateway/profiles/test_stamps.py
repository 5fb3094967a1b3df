"""The line through stamps, against numpy's weighted least squares; and losses counted where much is lost early on."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.profiles.stamps import FIRST_DOUBT, FORGETTING, Stamps

NOMINAL_NS = 1e9 / 52
UNIT_NS = 1_000_000


def tracked(frames, unit_ns=UNIT_NS):
    """frames: (index of its first sample, samples, ns at which it was taken). What each told: first, lost, ns."""
    stamps = Stamps(NOMINAL_NS, unit_ns)
    stamps.clear()
    told = []
    for _index, n, taken_ns in frames:
        stamp = round(taken_ns / unit_ns)
        assert not stamps.stepped(stamp)
        told.append(stamps.track(stamp, n))
    return told, stamps


def fitted(frames, ages=FORGETTING):
    """ns of the last frame's first sample and of a period: all stamps and the nominal rate, weighted."""
    index = np.array([first for first, _, _ in frames], float)
    stamps = np.array([round(taken_ns / UNIT_NS) * UNIT_NS for _, _, taken_ns in frames], float)
    weights = ages ** np.arange(len(index))[::-1]
    rate_weight = weights[0] * frames[0][1] ** 2
    weights[0] /= FIRST_DOUBT
    rows = np.column_stack([np.ones_like(index), index - index[-1]])
    design = np.vstack([rows * np.sqrt(weights)[:, None], [0, np.sqrt(rate_weight)]])
    told = np.append((stamps - stamps[0]) * np.sqrt(weights), NOMINAL_NS * np.sqrt(rate_weight))
    return np.linalg.lstsq(design, told, rcond=None)[0]


sizes = st.lists(st.tuples(st.integers(1, 16), st.integers(0, 20)), min_size=2, max_size=60)


@settings(max_examples=200)
@given(sizes, st.floats(-0.01, 0.01), st.integers(0, 10**9))
def test_the_line_is_that_of_weighted_least_squares_wherever_frames_are_missing(sizes, off, start_ns):
    frames, index = [], 0
    for n, lost in sizes:
        frames.append((index, n, start_ns + index * NOMINAL_NS * (1 + off)))
        index += n + lost
    told, stamps = tracked(frames)
    assert [t.first for t in told] == [first for first, _, _ in frames]
    expected_ns, period_ns = fitted(frames)
    assert told[-1].taken_ns[0] == pytest.approx(expected_ns, abs=1000)
    assert stamps.period_ns == pytest.approx(period_ns, rel=1e-7)


@pytest.mark.parametrize("off_ms", [-8, -6, 6, 8])
def test_a_first_stamp_beside_the_truth_does_not_make_losses_miscounted(off_ms):
    """Between whole samples, so that it does not show; then more is lost than comes."""
    period_ns, frames = NOMINAL_NS, [(0, 4, 1e9 + off_ms * 1e6)]
    for index in (6, 10, 30, 63, 67, 71, 124, 128, 132, 144, 173, 182, 201, 374, 399, 440):
        frames.append((index, 4, 1e9 + index * period_ns))
    told, _ = tracked(frames)
    assert [t.first for t in told] == [first for first, _, _ in frames]


def test_frames_at_once_tell_the_same_as_one_by_one():
    rng = np.random.default_rng(4)
    taken_ns = np.arange(300) * 4 * NOMINAL_NS * 1.02 + rng.uniform(0, 2e6, 300)
    frames = [(4 * i, 4, ns) for i, ns in enumerate(taken_ns)]
    one_by_one, single = tracked(frames)
    _, stamps = tracked(frames[:1])
    told = stamps.track_each([round(ns / UNIT_NS) for ns in taken_ns[1:]], 4)
    assert told is not None
    np.testing.assert_array_equal(told.taken_ns, np.concatenate([t.taken_ns for t in one_by_one[1:]]))
    assert stamps == single


def test_a_state_without_the_lines_doubt_goes_on_with_its_rate():
    frames = [(4 * i, 4, 4 * i * NOMINAL_NS * 1.05) for i in range(400)]
    _, stamps = tracked(frames[:300])
    state = {key: value for key, value in stamps.state().items() if key not in ("doubt", "samples")}
    restored = Stamps.restore(state | {"frames": 128})
    assert all(restored.track(round(ns / UNIT_NS), 4).lost == 0 for _, _, ns in frames[300:])
    assert restored.period_ns == pytest.approx(NOMINAL_NS * 1.05, rel=1e-3)
