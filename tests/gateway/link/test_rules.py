"""One link's rules, walked at random: no dead end, no unbounded wait, never two attempts at once."""

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.link import rules
from gateway.link.rules import (
    Closed,
    Command,
    Connect,
    Disconnect,
    Due,
    Event,
    Failed,
    Heard,
    LetGo,
    Link,
    Lost,
    Notified,
    Opened,
    ReleaseTurn,
    State,
    Stop,
    TakeTurn,
    Turn,
    advance,
)

SILENCE_S = 10.0
EVENTS: list[Event] = [
    Heard(),
    Turn(),
    Opened(),
    Notified(),
    Failed("refused"),
    Failed("in progress", half_open=True),
    Lost(),
    LetGo("another is nearer"),
    Closed(),
    Due(),
]
events = st.sampled_from(EVENTS)
steps = st.lists(st.tuples(events, st.floats(0.0, 200.0), st.floats(0.0, 1.0, exclude_max=True)), max_size=60)


@dataclass
class Walk:
    """Obeys the commands as a radio would, and complains where they contradict each other."""

    link: Link = field(default_factory=lambda: Link(SILENCE_S))
    now_s: float = 0.0
    turn: str = "none"
    attempts: int = 0
    open: bool = False
    commands: list[Command] = field(default_factory=list)

    def feed(self, event: Event, jitter: float = 0.5) -> Sequence[Command]:
        was = self.link.state
        self.link, commands = advance(self.link, event, self.now_s, jitter)
        for command in commands:
            match command:
                case TakeTurn():
                    assert self.turn == "none"
                    self.turn = "waiting"
                case ReleaseTurn():
                    assert self.turn != "none"
                    self.turn = "none"
                case Connect():
                    assert not self.open, "two attempts on one link"
                    self.open, self.turn = True, "held"
                    self.attempts += 1
                case Disconnect():
                    assert self.open
        if was is State.CLOSING and self.link.state is not State.CLOSING:
            self.open = False
        self.commands += commands
        return commands

    def wait(self) -> None:
        """The radio never answers: only the deadline passes."""
        self.now_s = self.link.deadline_s
        self.feed(Due())


def walked(taken: list[tuple[Event, float, float]]) -> Walk:
    """As a radio can report it: no turn unless it was asked for, and only what can happen in the state."""
    walk = Walk()
    for event, passing_s, jitter in taken:
        walk.now_s += passing_s
        if isinstance(event, Turn) and walk.turn != "waiting":
            continue
        walk.feed(event, jitter)
    return walk


@given(steps)
def test_every_state_but_absent_and_stopped_ends_by_itself(taken: list[tuple[Event, float, float]]) -> None:
    walk = walked(taken)
    for _ in range(8):
        if walk.link.state is State.ABSENT:
            break
        assert walk.link.deadline_s < math.inf
        assert walk.link.deadline_s - walk.now_s <= rules.TURN_S + 1e-6
        walk.wait()
    assert walk.link.state is State.ABSENT


@given(steps)
def test_a_wearable_that_advertises_is_always_connected_again(taken: list[tuple[Event, float, float]]) -> None:
    walk = walked(taken)
    attempts = walk.attempts
    while walk.link.state in (set(State) - {State.ABSENT}):
        walk.wait()
    for event in (Heard(), Turn(), Opened(), Notified()):
        walk.feed(event)
    assert walk.link.state is State.STREAMING
    assert walk.attempts == attempts + 1


@given(steps)
def test_the_turn_is_held_while_connecting_and_never_kept(taken: list[tuple[Event, float, float]]) -> None:
    walk = walked(taken)
    assert (walk.turn == "waiting") == (walk.link.state is State.QUEUED)
    assert (walk.turn == "held") == walk.link.has_turn
    if walk.link.state not in (State.CONNECTING, State.CLOSING):
        assert walk.turn != "held"


@given(steps)
def test_stop_ends_the_link_and_leaves_nothing_behind(taken: list[tuple[Event, float, float]]) -> None:
    walk = walked(taken)
    connected = walk.open
    walk.feed(Stop())
    assert (walk.link.state is State.CLOSING) == connected
    for _ in range(2):
        if walk.link.state is State.CLOSING:
            walk.wait()
    assert walk.link.state is State.STOPPED
    assert walk.turn == "none"
    for event in EVENTS:
        assert walk.feed(event) == []


@given(st.lists(events, max_size=12), st.floats(0.0, 5.0))
def test_time_alone_changes_nothing_before_the_deadline(before: list[Event], early_s: float) -> None:
    walk = walked([(event, 0.1, 0.5) for event in before])
    link = walk.link
    if early_s == 0.0 or link.deadline_s <= walk.now_s + early_s:
        return
    assert advance(link, Due(), walk.now_s + early_s, 0.5) == (link, [])


def streaming(now_s: float = 0.0) -> Walk:
    walk = Walk(now_s=now_s)
    for event in (Heard(), Turn(), Opened(), Notified()):
        walk.feed(event)
    assert walk.link.state is State.STREAMING
    return walk


def test_silence_on_a_live_link_is_a_fault() -> None:
    walk = streaming()
    walk.now_s = 9.0
    walk.feed(Notified())
    walk.now_s = 18.9
    assert walk.feed(Due()) == []
    walk.now_s = 19.0
    assert walk.feed(Due()) == [Disconnect()]
    assert walk.link.why == "silent for 10 s"


@pytest.mark.parametrize("ending", [Lost(), Failed("read timed out"), Stop()], ids=["lost", "failed", "stopped"])
def test_the_client_is_closed_whatever_ended_the_link(ending: Event) -> None:
    assert streaming().feed(ending) == [Disconnect()]


def test_a_device_left_half_open_is_removed_before_the_next_attempt() -> None:
    walk = Walk()
    walk.feed(Heard())
    walk.feed(Turn())
    assert walk.feed(Failed("org.bluez.Error.InProgress", half_open=True)) == [Disconnect(forget=True)]
    assert walk.turn == "held", "nobody else connects before this is cleaned up"
    assert walk.feed(Closed()) == [ReleaseTurn()]


def test_a_disconnect_that_hangs_is_tried_once_more_by_removing_the_device() -> None:
    walk = streaming()
    walk.feed(Lost())
    walk.now_s = walk.link.deadline_s
    assert walk.feed(Due()) == [Disconnect(forget=True)]
    walk.now_s = walk.link.deadline_s
    assert walk.feed(Due()) == []
    assert walk.link.state is State.BACKING_OFF


def test_a_stale_advertisement_is_not_connected_to() -> None:
    walk = Walk()
    walk.feed(Heard())
    walk.now_s += rules.FRESH_S + 0.1
    assert walk.feed(Turn()) == [ReleaseTurn()]
    assert walk.link.state is State.ABSENT


def test_backoff_doubles_to_its_bound_and_a_good_link_resets_it() -> None:
    assert [rules.backoff_s(n, 0.0) for n in (1, 2, 3, 4)] == pytest.approx([0.2, 0.4, 0.8, 1.6])
    assert max(rules.backoff_s(n, 0.999) for n in range(1, 2000)) <= rules.BACKOFF_MAX_S
    walk = Walk()
    for failures in range(1, 6):
        for attempt in (Heard(), Turn(), Failed("refused")):
            walk.feed(attempt)
        assert walk.link.failures == failures
        walk.feed(Closed())
        walk.open = False
        walk.now_s = walk.link.deadline_s
        walk.feed(Due())
    for event in (Heard(), Turn(), Opened(), Notified()):
        walk.feed(event)
    walk.now_s += rules.STABLE_S + 0.1
    walk.feed(Failed("read timed out"))
    assert walk.link.failures == 1


def test_losses_at_the_edge_of_reach_do_not_lengthen_the_backoff_but_faults_do() -> None:
    walk = Walk()
    for ending, failures in ((Lost(), 1), (Lost(), 1), (Failed("malformed"), 2), (Failed("malformed"), 3), (Lost(), 1)):
        for event in (Heard(), Turn(), Opened(), Notified(), ending, Closed()):
            walk.feed(event)
        assert walk.link.failures == failures
        walk.wait()


@given(st.integers(1, 40), st.floats(0.0, 1.0, exclude_max=True))
def test_jitter_takes_at_most_half_of_the_backoff(failures: int, jitter: float) -> None:
    whole = rules.backoff_s(failures, 1.0)
    assert whole / 2 <= rules.backoff_s(failures, jitter) <= whole


def test_the_table_names_every_state_and_leaves_none_without_a_way_out() -> None:
    ways_out = {state for (state, _), following in rules.TRANSITIONS.items() if following is not state}
    assert ways_out | {State.STOPPED} == set(State)


def test_the_docs_show_the_table_and_the_waits_as_they_are() -> None:
    page = (Path(__file__).parents[3] / "docs" / "bluetooth.md").read_text()
    lines = page[page.index("| in |") :].splitlines()
    names, _, *rows = itertools.takewhile(lambda line: line.startswith("|"), lines)
    events = [name.strip() for name in names.strip("|").split("|")[1:]]
    shown = {}
    for row in rows:
        state, *following = (cell.strip() for cell in row.strip("|").split("|"))
        shown |= {(state, event): to for event, to in zip(events, following, strict=True) if to}
    assert shown == {(str(state), event.__name__): str(to) for (state, event), to in rules.TRANSITIONS.items()}
    waits = [rules.CONNECT_S, rules.CONFIGURE_S, rules.OPERATION_S, rules.CLOSE_S, rules.TURN_S]
    assert re.findall(r"^\| (\d+) s \|", page, re.MULTILINE) == [f"{wait:g}" for wait in waits]
