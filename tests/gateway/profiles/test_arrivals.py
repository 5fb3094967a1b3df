"""What is lost of a stream without time or number, told from arrivals alone, against a radio that delays and loses."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.motion.samples import Burst, Lost
from gateway.profiles.arrivals import Arrivals

RATE_HZ = 50.0
NOTHING = np.zeros((1, 6), np.float32)


def told(arrivals_s):
    """The pieces of samples that came at these times, one each."""
    arrivals = Arrivals(RATE_HZ)
    pieces = [p for at_s in arrivals_s for p in arrivals.take(NOTHING, False, round(at_s * 1e9), 1)]
    return pieces + arrivals.flush(1)


def lost(pieces):
    return [(p.first, p.end) for p in pieces if isinstance(p, Lost)]


def times(count, seed=0, rate_hz=RATE_HZ, jitter_s=0.1):
    """In order, each delayed by up to jitter_s."""
    delays = np.random.default_rng(seed).uniform(0.02, 0.02 + jitter_s, count)
    return np.maximum.accumulate(np.arange(count) / rate_hz + delays)


@pytest.mark.parametrize("rate_hz", [49.6, 50.0, 50.6])
def test_a_radio_that_only_jitters_loses_nothing(rate_hz):
    pieces = told(times(20_000, rate_hz=rate_hz))
    assert lost(pieces) == []
    assert [p.first for p in pieces if isinstance(p, Burst)] == list(range(20_000))


@pytest.mark.parametrize("stall_s", [0.3, 1.0, 4.0])
def test_what_waited_and_then_comes_in_a_burst_is_not_lost(stall_s):
    at_s = times(2000)
    held = (at_s >= 20) & (at_s < 20 + stall_s)
    at_s[held] = 20 + stall_s + np.arange(held.sum()) * 0.005
    pieces = told(np.maximum.accumulate(at_s))
    assert lost(pieces) == []
    assert sum(len(p.values) for p in pieces if isinstance(p, Burst)) == 2000


@pytest.mark.parametrize("missing", [40, 100, 250, 3000])
@pytest.mark.parametrize("seed", range(3))
def test_a_run_that_is_lost_is_counted_to_within_the_jitter(missing, seed):
    at_s = times(6000, seed)
    ((first, end),) = lost(told(np.delete(at_s, np.s_[1000 : 1000 + missing])))
    assert first == 1000
    assert end - first == pytest.approx(missing, abs=4 + 0.01 * RATE_HZ)


def test_what_waited_in_a_queue_that_overflowed_is_counted_too():
    """A second waits, two more are lost, then all goes on."""
    at_s = times(3000)
    at_s[1000:1050] = 20 + 3 + np.arange(50) * 0.005
    at_s = np.maximum.accumulate(np.delete(at_s, np.s_[1050:1150]))
    ((first, end),) = lost(told(at_s))
    assert first == 1000
    assert end - first == pytest.approx(100, abs=6)


@pytest.mark.parametrize("between", [1, 10, 20])
@pytest.mark.parametrize("after", [1, 10, 1500])
def test_a_loss_behind_another_is_counted_by_itself(between, after):
    """It comes before it is clear whether what follows the first one has waited, and the link may end before it is."""
    at_s = times(5000)
    came = [at_s[:1000], at_s[1060 : 1060 + between], at_s[1300 : 1300 + after]]
    (one, other) = lost(told(np.concatenate(came)))
    assert one[0] == 1000
    assert one[1] - one[0] == pytest.approx(60, abs=6)
    assert other[0] == one[1] + between
    assert other[1] - one[0] == pytest.approx(300, abs=6)


def test_one_that_comes_through_while_others_wait_makes_no_loss_of_them():
    at_s = times(3000)
    at_s[1000:1001] = 21
    at_s[1001:1200] = 24 + np.arange(199) * 0.005
    assert lost(told(np.maximum.accumulate(at_s))) == []


def test_fewer_than_the_limit_are_not_seen():
    assert lost(told(np.delete(times(3000), np.s_[1000:1015]))) == []


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 5), max_size=60), st.integers(1, 7))
def test_whatever_comes_is_told_once_and_in_order(gaps_s, n):
    arrivals = Arrivals(RATE_HZ)
    pieces = []
    for number, at_s in enumerate(np.cumsum(gaps_s)):
        values = np.full((n, 6), number, np.float32)
        pieces += arrivals.take(values, False, round(at_s * 1e9), 1)
    pieces += arrivals.flush(1)
    came = np.concatenate([p.values[:, 0] for p in pieces if isinstance(p, Burst)]) if pieces else []
    assert list(came) == [number for number in range(len(gaps_s)) for _ in range(n)]
    at = 0
    for piece in pieces:
        assert piece.first == at
        at = piece.end if isinstance(piece, Lost) else at + len(piece.values)
