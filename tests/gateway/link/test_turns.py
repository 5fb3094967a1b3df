"""Whose turn it is: on a virtual clock, wearables that never answer do not keep the others waiting."""

import heapq
import itertools
import random
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.link import rules
from gateway.link.rules import (
    Closed,
    Connect,
    Crowded,
    Disconnect,
    Due,
    Event,
    Heard,
    Linked,
    Lost,
    Notified,
    Opened,
    ReleaseTurn,
    State,
    TakeTurn,
    Turn,
    advance,
)
from gateway.link.turns import PASSED_MAX, Turns

CONNECTING_S = 1.5
"""Of a sound wearable: link and services."""
CLOSING_S = 2.5
"""Of BlueZ, by its own timer."""
ADVERTISED_S = 0.5
BROKEN_S = rules.YIELD_S + CLOSING_S
"""What the first attempts at one that never answers cost the others, and the later ones."""
BROKEN_AGAIN_S = rules.YIELD_AGAIN_S + CLOSING_S


@dataclass
class Air:
    """Wearables around one adapter, on a clock of its own: the rules and the turns are the real ones."""

    wearables: int
    broken: Collection[int]
    seed: int = 0
    now_s: float = 0.0
    streaming_s: dict[int, list[float]] = field(default_factory=dict)
    turns_of: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.links = {n: rules.Link(10.0) for n in range(self.wearables)}
        self.turns = Turns()
        self.attempt = dict.fromkeys(self.links, 0)
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        for n in self.links:
            self.after(self.rng.random() * ADVERTISED_S, lambda n=n: self.advertise(n))

    def after(self, delay_s: float, do: Callable[[], None]) -> None:
        self.at(self.now_s + delay_s, do)

    def at(self, at_s: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (at_s, next(self._order), do))

    def run(self, until_s: float) -> None:
        while self._queue and self._queue[0][0] <= until_s:
            self.now_s, _, do = heapq.heappop(self._queue)
            do()

    def advertise(self, n: int) -> None:
        if self.links[n].state in rules.LISTENING:
            self.feed(n, Heard())
        elif self.links[n].state is State.STREAMING:
            self.feed(n, Notified())
        self.after(ADVERTISED_S, lambda: self.advertise(n))

    def feed(self, n: int, event: Event) -> None:
        was = self.links[n]
        self.links[n], commands = advance(was, event, self.now_s, self.rng.random())
        for command in commands:
            match command:
                case TakeTurn(failures):
                    self.turns.enter(str(n), failures)
                    self.crowd()
                case ReleaseTurn():
                    self.turns.leave(str(n))
                case Connect():
                    self.attempt[n] += 1
                    if n not in self.broken:
                        self.on_attempt(n, 0.6, Linked())
                        self.on_attempt(n, CONNECTING_S, Opened())
                        self.on_attempt(n, CONNECTING_S + 0.3, Notified())
                case Disconnect():
                    self.attempt[n] += 1
                    self.on_attempt(n, CLOSING_S, Closed())
        self.grant()
        now = self.links[n]
        if now.deadline_s < float("inf") and now.deadline_s != was.deadline_s:
            # at the number itself: the sum of the time and what is left may round to just before it
            self.at(max(self.now_s, now.deadline_s), lambda: self.feed(n, Due()))
        if now.state is State.STREAMING is not was.state:
            self.streaming_s.setdefault(n, []).append(self.now_s)

    def on_attempt(self, n: int, delay_s: float, event: Event) -> None:
        """Unless another one has begun meanwhile."""
        number = self.attempt[n]
        self.after(delay_s, lambda: self.feed(n, event) if self.attempt[n] == number else None)

    def grant(self) -> None:
        name = self.turns.grant()
        if name is not None:
            self.turns_of.append(int(name))
            self.after(0.0, lambda: self.feed(int(name), Turn()) if self.turns.holder == name else None)
            self.after(0.0, self.crowd)

    def crowd(self) -> None:
        holder = self.turns.holder
        if holder is not None and self.turns.crowded:
            self.after(0.0, lambda: self.feed(int(holder), Crowded()))

    def lose(self, n: int) -> None:
        self.feed(n, Lost())


@settings(max_examples=40, deadline=None)
@given(broken=st.sets(st.integers(0, 7), max_size=7), seed=st.integers(0, 1000))
def test_of_eight_wearables_the_sound_ones_stream_within_the_bound_however_many_are_broken(
    broken: set[int], seed: int
) -> None:
    """At the start nobody has failed yet, so each broken one may come before a sound one, once."""
    air = Air(8, broken, seed)
    sound = set(air.links) - broken
    bound_s = len(broken) * BROKEN_S + len(sound) * (CONNECTING_S + 0.3) + 1.0
    air.run(bound_s)
    assert set(air.streaming_s) == sound


@settings(max_examples=10, deadline=None)
@given(broken=st.sets(st.integers(0, 7), min_size=1, max_size=6), seed=st.integers(0, 1000))
def test_a_link_that_is_lost_later_waits_for_one_attempt_of_the_broken_at_most(broken: set[int], seed: int) -> None:
    air = Air(8, broken, seed)
    sound = sorted(set(air.links) - broken)
    air.run(200.0)
    for n in sound:
        lost_s = air.now_s
        air.lose(n)
        air.run(lost_s + 90.0)
        # closing, the first backoff, the attempt that is under way, one that was passed over often, its own
        bound_s = CLOSING_S + rules.BACKOFF_FIRST_S + 2 * BROKEN_AGAIN_S + CONNECTING_S + 1.0
        assert air.streaming_s[n][-1] - lost_s <= bound_s


def test_the_broken_are_still_tried_while_sound_ones_come_and_go() -> None:
    air = Air(8, {0, 1})
    for _ in range(400):
        air.run(air.now_s + 1.0)
        for n, link in air.links.items():
            if link.state is State.STREAMING and air.rng.random() < 0.3:
                air.lose(n)
    for n in (0, 1):
        assert air.turns_of.count(n) >= 5, "a wearable that was away would never be connected again"


def order(*waiting: tuple[str, int]) -> list[str]:
    turns = Turns()
    for name, failures in waiting:
        turns.enter(name, failures)
    taken = []
    while (name := turns.grant()) is not None:
        taken.append(name)
        turns.leave(name)
    return taken


def test_who_failed_less_goes_first_and_then_who_came_first() -> None:
    assert order(("a", 3), ("b", 0), ("c", 1), ("d", 0)) == ["b", "d", "c", "a"]


def test_who_is_passed_over_often_goes_next_but_never_two_such_in_a_row() -> None:
    turns = Turns()
    turns.enter("broken 1", 9)
    turns.enter("broken 2", 9)
    taken = []
    for n in range(12):
        turns.enter(f"sound {n}", 0)
        name = turns.grant()
        assert name is not None
        taken.append(name.split()[0])
        turns.leave(name)
    assert taken == ["sound"] * PASSED_MAX + ["broken", "sound", "broken"] + ["sound"] * 5


def test_one_at_a_time_and_only_who_waits() -> None:
    turns = Turns()
    assert turns.grant() is None
    turns.enter("a", 0)
    turns.enter("b", 0)
    assert (turns.grant(), turns.crowded) == ("a", True)
    assert turns.grant() is None
    turns.leave("b")
    turns.leave("a")
    assert (turns.grant(), turns.crowded, turns.holder) == (None, False, None)


@pytest.mark.parametrize("times", [1, 2])
def test_who_asks_again_waits_once(times: int) -> None:
    turns = Turns()
    for _ in range(times):
        turns.enter("a", 0)
    assert turns.grant() == "a"
    turns.leave("a")
    assert turns.grant() is None
