"""What time it was: clock events amend what came before and after them, and order bounds what they cannot tell."""

from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import events
from gateway.client import Clocks, When
from gateway.client.clocks import TIME_UNCERTAINTY_US

NOON_US = 1_772_366_400_000_000  # 2026-03-01T12:00:00Z
HOUR_US = 3_600_000_000


def rfc3339(utc_us):
    return events.rfc3339(utc_us * 1000)


def test_an_event_from_before_the_clock_was_set_has_its_time_once_the_clock_event_has_come(made):
    clocks, early = Clocks(), made.prediction(0, mono_us=5_000_000)
    clocks.heed(early)
    assert str(clocks.made(early)) == "?"
    clocks.heed(made.clock(NOON_US, 250, mono_us=5_000_000))
    when = clocks.made(early)
    assert when.exact
    assert when.utc == datetime(2026, 3, 1, 12, 0, 5, tzinfo=UTC)
    assert when.uncertainty_us == 250
    assert str(when) == "2026-03-01T12:00:05.000000Z"


def test_the_longer_before_the_clock_event_the_less_sure(made):
    clocks = Clocks()
    clocks.heed(made.clock(NOON_US, 250, mono_us=10 * HOUR_US))
    assert clocks.made(made.prediction(0, mono_us=0)).uncertainty_us == 250 + 10 * HOUR_US // 10_000
    assert clocks.made(made.prediction(0, mono_us=11 * HOUR_US)).uncertainty_us == 250


def test_a_clock_that_was_set_tells_of_what_comes_after_it(made):
    clocks = Clocks()
    for event in (made.clock(NOON_US, mono_us=1000), made.clock(NOON_US + HOUR_US, mono_us=5000)):
        clocks.heed(event)
    found = [clocks.at(made.prediction().bootid, mono_us).utc_us for mono_us in (0, 1000, 4999, 5000, 9000)]
    offsets = [NOON_US, NOON_US, NOON_US, NOON_US + HOUR_US, NOON_US + HOUR_US]
    assert found == [offset + mono for offset, mono in zip(offsets, (0, 1000, 4999, 5000, 9000), strict=True)]


def test_an_event_s_own_time_comes_first_and_serves_its_boot_where_no_clock_event_came(made):
    clocks, early = Clocks(), made.prediction(0, mono_us=1_000_000)
    timed = made.prediction(1, mono_us=3_000_000, time=rfc3339(NOON_US))
    clocks.heed(timed)
    assert clocks.made(timed) == When(NOON_US - TIME_UNCERTAINTY_US, NOON_US + TIME_UNCERTAINTY_US, True)
    assert clocks.made(early).utc_us == NOON_US - 2_000_000


def test_a_window_was_taken_as_long_before_the_event_as_monotonic_time_says(made):
    clocks = Clocks()
    event = made.prediction(0, mono_us=9_000_000, taken_us=4_000_000)
    timed = made.prediction(0, mono_us=9_000_000, taken_us=4_000_000, time=rfc3339(NOON_US))
    assert clocks.taken(timed, timed.data.windows[0]).utc_us == NOON_US - 5_000_000
    clocks.heed(made.clock(NOON_US, mono_us=10_000_000))
    assert clocks.taken(event, event.data.windows[0]).utc_us == NOON_US + 4_000_000


def test_a_window_of_an_earlier_boot_was_taken_before_its_event(made):
    clocks, event = Clocks(), made.prediction(0, mono_us=0)
    clocks.heed(made.clock(NOON_US, 0, mono_us=0))
    assert clocks.taken(event, event.data.windows[0]) == When(None, NOON_US, False)


def test_a_boot_that_never_knew_the_time_lies_between_its_neighbours(made):
    clocks = Clocks()
    clocks.heed(made.life(1, boot="a"))
    clocks.heed(made.clock(NOON_US, bootid="a", mono_us=HOUR_US))
    clocks.heed(made.life(2, boot="b", mono_us=1_000_000))
    lost = made.prediction(0, bootid="b", mono_us=3_000_000)
    clocks.heed(lost)
    clocks.heed(made.prediction(1, bootid="b", mono_us=8_000_000))
    assert clocks.made(lost) == When(NOON_US + HOUR_US + 3_000_000, None, False)
    assert str(clocks.made(lost)) == "2026-03-01T13:00:03.000000Z..?"
    clocks.heed(made.life(3, boot="c", mono_us=1_000_000))
    clocks.heed(made.clock(NOON_US + 2 * HOUR_US, bootid="c", mono_us=0))
    # c began, at the earliest moment of its clock, after b's last 8 s
    when = clocks.made(lost)
    assert when == When(NOON_US + HOUR_US + 3_000_000, NOON_US + 2 * HOUR_US - 5_000_000, False)
    assert when.utc is None


def test_what_lasted_between_two_known_boots_narrows_each_unknown_one(made):
    """a ended by 13:00; b and c, of which 10 and 20 minutes are known, come before d, which began at 15:00."""
    clocks, minute_us = Clocks(), 60_000_000
    for number, (boot, seen_us) in enumerate([("a", HOUR_US), ("b", 10 * minute_us), ("c", 20 * minute_us), ("d", 0)]):
        clocks.heed(made.life(number, boot=boot))
        clocks.heed(made.prediction(number, bootid=boot, mono_us=seen_us))
    clocks.heed(made.clock(NOON_US, bootid="a"))
    clocks.heed(made.clock(NOON_US + 3 * HOUR_US, bootid="d"))
    one_us = NOON_US + HOUR_US
    assert clocks.at("b", 0) == When(one_us, one_us + 90 * minute_us, False)
    assert clocks.at("b", 10 * minute_us) == When(one_us + 10 * minute_us, one_us + 100 * minute_us, False)
    assert clocks.at("c", 0) == When(one_us + 10 * minute_us, one_us + 100 * minute_us, False)


def test_starts_of_another_store_are_not_put_in_order_with_those_before(made):
    clocks = Clocks()
    clocks.heed(made.life(7, boot="a"))
    clocks.heed(made.clock(NOON_US, bootid="a"))
    clocks.heed(made.life(1, boot="b", mono_us=0))
    assert str(clocks.at("b", 0)) == "?"


def test_neighbours_that_contradict_each_other_bound_nothing(made):
    clocks = Clocks()
    for number, (boot, told_us) in enumerate([("a", NOON_US), ("b", None), ("c", NOON_US - HOUR_US)]):
        clocks.heed(made.life(number, boot=boot))
        if told_us is not None:
            clocks.heed(made.clock(told_us, bootid=boot))
    assert str(clocks.at("b", 0)) == "?"


@dataclass(frozen=True)
class Boot:
    begins_us: int
    moments_us: list[int]
    told_at_us: int | None


@st.composite
def histories(draw):
    """A gateway's boots one after the other; in some of them the clock was told at one of the moments."""
    boots, now_us = [], NOON_US
    for _ in range(draw(st.integers(1, 6))):
        begins_us = now_us + draw(st.integers(0, 50 * 365 * 24 * HOUR_US))
        moments_us = sorted(draw(st.lists(st.integers(0, 30 * HOUR_US), min_size=1, max_size=4)))
        told = draw(st.none() | st.sampled_from(moments_us))
        boots.append(Boot(begins_us, moments_us, told))
        now_us = begins_us + moments_us[-1]
    return boots


@given(histories(), st.randoms())
def test_the_truth_lies_within_the_bounds_in_whatever_order_events_came(made, boots, chance):
    told = []
    for number, boot in enumerate(boots):
        name = f"boot-{number}"
        told += [made.prediction(n, bootid=name, mono_us=mono) for n, mono in enumerate(boot.moments_us)]
        if boot.told_at_us is not None:
            told.append(made.clock(boot.begins_us, 7, bootid=name, mono_us=boot.told_at_us))
    chance.shuffle(told)
    lives = [made.life(number, boot=f"boot-{number}") for number in range(len(boots))]
    clocks, again = Clocks(), Clocks()
    for event in (*lives, *told):
        clocks.heed(event)
    for event in (*reversed(told), *lives):
        again.heed(event)
    for number, boot in enumerate(boots):
        for mono_us in boot.moments_us:
            when = clocks.at(f"boot-{number}", mono_us)
            assert when == again.at(f"boot-{number}", mono_us)
            assert when.exact == (boot.told_at_us is not None)
            truth_us = boot.begins_us + mono_us
            assert when.earliest_us is None or when.earliest_us <= truth_us
            assert when.latest_us is None or truth_us <= when.latest_us
            known = [b.told_at_us is not None for b in boots]
            assert (when.earliest_us is not None) == any(known[: number + 1])
            assert (when.latest_us is not None) == any(known[number:])


@pytest.mark.parametrize("us", [-(2**62), 2**62])
def test_a_time_that_no_calendar_has_is_told_as_a_number(us):
    assert str(When(us, us, True)) == f"{us} us"
