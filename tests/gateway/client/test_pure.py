"""What a subscriber relies on without a network: each event once, order, who lives, and what is malformed."""

import random
import re
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import events
from gateway.client import InOrder, Lives, Malformed, Received, Seen, Sifter
from gateway.client.order import PATIENCE_TICKS

NAMES = st.tuples(st.sampled_from(["urn:fidget:wearable:left", "urn:fidget:wearable:right"]), st.integers(0, 30))


@given(st.lists(NAMES, max_size=60))
def test_an_event_is_new_once_by_source_and_id(names):
    seen, known = Seen(), set()
    for source, number in names:
        assert seen.is_new(source, str(number)) == ((source, number) not in known)
        known.add((source, number))


@given(st.lists(st.integers(0, 20), max_size=80), st.integers(1, 10))
def test_memory_is_bounded_and_the_newest_are_remembered(numbers, most):
    seen = Seen(most)
    for place, number in enumerate(numbers):
        recent = list(dict.fromkeys(reversed(numbers[:place])))[:most]
        assert seen.is_new("urn:fidget:wearable:left", str(number)) == (number not in recent)
        assert len(seen) <= most


def test_names_take_no_more_memory_than_the_bound():
    seen = Seen(10_000)
    for number in range(10_000):
        seen.is_new("urn:fidget:wearable:left", str(number))
    tracemalloc.start()
    for number in range(10_000, 40_000):
        seen.is_new("urn:fidget:wearable:left", str(number))
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 2_000_000  # of the 10,000 that were replaced, some 150 bytes each


# Order.


@st.composite
def arrivals(draw):
    """Numbers of two sessions' events, each of 1 to 3 windows, some of them missing for good, in any order."""
    all_ = []
    for session in ("00000000000000aa", "00000000000000ab"):
        number = 0
        for _ in range(draw(st.integers(0, 12))):
            windows = draw(st.integers(1, 3))
            if draw(st.integers(0, 4)):
                all_.append((session, number, windows))
            number += windows
    return draw(st.permutations(all_)), draw(st.sets(st.integers(0, 25)))


@given(arrivals())
def test_each_comes_once_and_only_what_is_marked_late_comes_out_of_order(made, arrivals):
    order, (given_, ticks), out = InOrder(), arrivals, []
    for place, (session, number, windows) in enumerate(given_):
        out += order.add(made.prediction(number, windows=windows, session=session))
        if place in ticks:
            out += order.tick()
    out += order.flush()
    assert sorted((e.data.session, e.data.windows[0].number) for e, _ in out) == sorted(g[:2] for g in given_)
    assert order.held == 0
    for session in ("00000000000000aa", "00000000000000ab"):
        timely = [e.data.windows[0].number for e, late in out if e.data.session == session and not late]
        assert timely == sorted(timely)


@given(arrivals())
def test_without_the_passing_of_time_all_come_in_order(made, arrivals):
    order, out = InOrder(), []
    for session, number, windows in arrivals[0]:
        out += order.add(made.prediction(number, windows=windows, session=session))
    out += order.flush()
    assert not any(late for _, late in out)


def numbers(out):
    return [(event.data.windows[0].number, late) for event, late in out]


def test_what_follows_on_goes_on_at_once_and_what_does_not_waits_for_its_predecessor(made):
    order = InOrder()
    assert numbers(order.add(made.prediction(0))) == [(0, False)]
    assert numbers(order.add(made.prediction(2))) == []
    assert numbers(order.add(made.prediction(3))) == []
    assert numbers(order.add(made.prediction(1))) == [(1, False), (2, False), (3, False)]


def test_a_window_that_never_comes_is_waited_for_no_longer_than_was_said(made):
    order = InOrder()
    assert numbers(order.add(made.prediction(5))) == []
    for _ in range(PATIENCE_TICKS - 1):
        assert numbers(order.tick()) == []
    assert numbers(order.tick()) == [(5, False)]
    assert numbers(order.add(made.prediction(3))) == [(3, True)]
    assert numbers(order.add(made.prediction(6))) == [(6, False)]


def test_the_answers_of_another_model_are_another_order(made):
    order = InOrder()
    assert numbers(order.add(made.prediction(0))) == [(0, False)]
    assert numbers(order.add(made.prediction(1))) == [(1, False)]
    assert numbers(order.add(made.prediction(0, derivation="aaaaaaaaaaaa"))) == [(0, False)]


def test_no_more_wait_than_the_bound(made):
    order, out = InOrder(held_max=10), []
    for number in range(1, 40, 2):
        out += order.add(made.prediction(number))
        assert order.held <= 10
    assert numbers(out) == [(number, False) for number in range(1, 21, 2)]


# Lives.


def test_a_late_death_of_an_earlier_connection_does_not_end_the_newer_life(made):
    lives = Lives()
    assert lives.alive("home") is None
    assert lives.take(made.life(3, 1))
    assert lives.take(made.life(3, 2))
    assert not lives.take(made.life(3, 1, "offline"))
    assert lives.alive("home")
    assert lives.take(made.life(3, 2, "offline"))
    assert lives.alive("home") is False
    assert not lives.take(made.life(3, 2)), "the birth before that death, sent again"
    assert lives.alive("home") is False


def test_a_late_death_of_an_earlier_start_does_not_end_the_newer_life(made):
    lives = Lives()
    lives.take(made.life(3, 9))
    assert lives.take(made.life(4, 1, boot="another"))
    assert not lives.take(made.life(3, 9, "offline"))
    assert lives.alive("home")


def test_a_gateway_with_a_new_store_lives_though_its_number_is_lower(made):
    lives = Lives()
    lives.take(made.life(30, 1))
    assert lives.take(made.life(1, 1, boot="another"))
    assert lives.alive("home")
    assert lives.of("home").start == 1


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), min_size=1, max_size=8, unique=True), st.randoms())
def test_deaths_may_come_at_any_later_time(made, connections, chance):
    """Births come in order; each death comes somewhere behind its birth, or never: the last one alone counts."""
    lives, connections = Lives(), sorted(connections)
    deaths = {c: chance.choice([None, *range(n, len(connections))]) for n, c in enumerate(connections)}
    for place, (start, connection) in enumerate(connections):
        lives.take(made.life(start, connection, boot=f"boot-{start}"))
        for (s, c), when in deaths.items():
            if when == place:
                lives.take(made.life(s, c, "offline", boot=f"boot-{s}"))
    assert lives.alive("home") == (deaths[connections[-1]] is None)


def test_a_wearable_s_older_state_does_not_replace_a_newer_one(made):
    lives = Lives()
    assert lives.take(made.wearable(row=9, mono_us=900))
    assert not lives.take(made.wearable("disconnected", row=7, mono_us=700), replayed=True)
    assert lives.take(made.wearable("disconnected", row=10, mono_us=950))
    assert lives.take(made.wearable(row=11, mono_us=5, bootid="next"))
    assert not lives.take(made.wearable(row=8, mono_us=990)), "of the boot before"
    assert not lives.take(made.wearable(row=1, mono_us=990, bootid="long ago"), replayed=True)
    assert lives.take(made.wearable(row=11, mono_us=5, bootid="next", gateway="other")), "another gateway's"


# Sifting.


def test_what_is_no_event_is_told_and_the_rest_goes_on(made):
    sifter = Sifter()
    for payload, complaint in [
        (b"", "event: message: Invalid JSON"),
        (b"{}", "event: message: Unable to extract tag"),
        (b"\xff" * 100, "event: message: Invalid JSON"),
        (b'{"type":"fidget.weather.v1"}', "event: message: Input tag 'fidget.weather.v1'"),
        (b"[" * 100_000, "event: message: Invalid JSON: recursion limit exceeded"),
        (b" " * (1 << 20) + b"{}", "event: message: 1048578 bytes, more than 1048576"),
        (events.encode(made.prediction(time="2026-13-41T25:00:00.000000Z")), "event: time: month must be in 1..12"),
        (events.encode(made.prediction(monons="9" * 5000)), "event: monons: 5000 digits, more than 19"),
    ]:
        (found,) = sifter.take("fidget/v1/home/left/prediction", payload)
        assert isinstance(found, Malformed)
        assert str(found.error).startswith(complaint), str(found.error)
        assert re.match(r"^[^\n]*$", str(found.error))
    (good,) = sifter.take("fidget/v1/home/left/prediction", events.encode(made.prediction(1)))
    assert isinstance(good, Received)
    assert good.event == made.prediction(1)
    assert dict(sifter.counters) == {"received": 9, "malformed": 8}


def test_the_same_event_comes_once_whatever_topic_and_gateway_it_came_by(made):
    sifter = Sifter()
    payload = events.encode(made.prediction(7))
    assert len(sifter.take("fidget/v1/home/left/prediction", payload)) == 1
    assert sifter.take("fidget/v1/other/left/prediction", payload) == []
    assert sifter.counters["repeated"] == 1


def test_an_outlived_death_is_handed_on_as_such(made):
    sifter = Sifter()
    told = [made.life(3, 1), made.life(3, 2), made.life(3, 1, "offline"), made.life(3, 2, "offline")]
    out = [one for event in told for one in sifter.take("fidget/v1/home/state", events.encode(event))]
    assert [one.outlived for one in out] == [False, False, True, False]


@given(st.lists(st.integers(0, 15), max_size=40), st.booleans())
def test_repeats_and_order_together_give_each_once(made, arrived, in_order):
    sifter, out = Sifter(in_order=in_order), []
    for number in arrived:
        out += sifter.take("t", events.encode(made.prediction(number)))
    out += sifter.flush()
    found = [one.event.data.windows[0].number for one in out]
    assert found == (sorted(set(arrived)) if in_order else list(dict.fromkeys(arrived)))
    assert sifter.held == 0


@pytest.mark.parametrize("seed", range(3))
def test_any_bytes_are_taken(seed):
    chance, sifter = random.Random(seed), Sifter()
    for _ in range(200):
        (found,) = sifter.take("t", chance.randbytes(chance.randrange(60)))
        assert isinstance(found, Malformed)
