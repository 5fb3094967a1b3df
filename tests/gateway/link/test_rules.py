"""One link's rules, walked at random: no dead end, no unbounded wait, never two attempts at once."""

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
    Asked,
    Bonded,
    CaughtUp,
    Closed,
    Command,
    Connect,
    Crowded,
    Disconnect,
    Due,
    Event,
    Failed,
    FellBehind,
    Heard,
    LetGo,
    Link,
    Linked,
    Lost,
    Notified,
    Opened,
    Refused,
    Release,
    ReleaseTurn,
    State,
    Stop,
    TakeTurn,
    Turn,
    advance,
)

SILENCE_S = 10.0
WAIT_MAX_S = 2 * rules.QUARANTINE_S
"""The longest that a link stays as it is without anybody's doing, but for one that is not heard."""
EVENTS: list[Event] = [
    Heard(),
    Turn(),
    Crowded(),
    Linked(),
    Asked(),
    Bonded(),
    Refused(),
    Opened(),
    Notified(),
    FellBehind(),
    CaughtUp(),
    Failed("refused"),
    Failed("in progress", half_open=True),
    Failed("no such service", lasting=True),
    Failed("no more links", full=True),
    Lost(),
    LetGo("another is nearer"),
    Closed(),
    Due(),
    Release(),
]
events = st.sampled_from(EVENTS)
steps = st.lists(st.tuples(events, st.floats(0.0, 200.0), st.floats(0.0, 1.0, exclude_max=True)), max_size=60)


@dataclass
class Walk:
    """Obeys the commands as a radio would, and complains where they contradict each other or the table."""

    link: Link = field(default_factory=lambda: Link(SILENCE_S))
    now_s: float = 0.0
    turn: str = "none"
    attempts: int = 0
    open: bool = False
    commands: list[Command] = field(default_factory=list)

    def feed(self, event: Event, jitter: float = 0.5) -> Sequence[Command]:
        was = self.link.state
        self.link, commands = advance(self.link, event, self.now_s, jitter)
        assert self.link.state in (was, *rules.TRANSITIONS.get((was, type(event)), ()))
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

    def take(self, *taken: Event) -> None:
        for event in taken:
            self.feed(event)

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
        assert walk.link.deadline_s - walk.now_s <= WAIT_MAX_S + 1e-6
        walk.wait()
    assert walk.link.state is State.ABSENT


@given(steps, st.lists(st.sampled_from([Crowded(), Linked(), Asked(), Bonded()]), max_size=20))
def test_an_attempt_ends_whatever_the_wearable_asks_for_meanwhile(
    taken: list[tuple[Event, float, float]], asked: list[Event]
) -> None:
    """Each thing that it does costs the others some time at most; only data keeps a link."""
    walk = walked(taken)
    while walk.link.state is not State.ABSENT:
        walk.wait()
    walk.take(Heard(), Turn())
    began_s = walk.now_s
    for event in asked:
        walk.feed(event)
        if walk.link.deadline_s < math.inf:
            walk.now_s = max(walk.now_s, walk.link.deadline_s - 0.01)
    while walk.turn == "held":
        walk.wait()
    limit_s = rules.CONNECT_S + rules.PAIR_S + rules.DISCOVER_S + 2 * rules.CLOSE_S
    assert walk.now_s - began_s <= limit_s + rules.DISCOVER_S


@given(steps)
def test_a_wearable_that_advertises_is_always_connected_again(taken: list[tuple[Event, float, float]]) -> None:
    walk = walked(taken)
    attempts = walk.attempts
    while walk.link.state in (set(State) - {State.ABSENT}):
        walk.wait()
    walk.take(Heard(), Turn(), Opened(), Notified())
    assert walk.link.state is State.STREAMING
    assert walk.attempts == attempts + 1


@given(steps)
def test_the_turn_is_held_while_connecting_and_never_kept(taken: list[tuple[Event, float, float]]) -> None:
    walk = walked(taken)
    assert (walk.turn == "waiting") == (walk.link.state is State.QUEUED)
    assert (walk.turn == "held") == walk.link.has_turn
    if walk.link.state not in (State.CONNECTING, State.DISCOVERING, State.PAIRING, State.CLOSING):
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
    walk.take(Heard(), Turn(), Opened(), Notified())
    assert walk.link.state is State.STREAMING
    return walk


@pytest.mark.parametrize("behind", [False, True])
def test_silence_on_a_live_link_is_told_at_half_of_its_limit_and_ends_it_at_the_limit(behind: bool) -> None:
    walk = streaming()
    walk.take(*[FellBehind()] * behind)
    walk.now_s = 4.0
    walk.feed(Notified())
    walk.now_s = 8.9
    walk.feed(Due())
    assert walk.link.state is (State.DRAINING if behind else State.STREAMING)
    walk.now_s = 9.0
    assert walk.feed(Due()) == []
    assert walk.link.state is State.SILENT
    walk.now_s = 13.9
    assert walk.feed(Due()) == []
    walk.now_s = 14.0
    assert walk.feed(Due()) == [Disconnect()]
    assert walk.link.why == "silent for 10 s"


def test_a_silent_wearable_that_speaks_again_streams() -> None:
    walk = streaming()
    walk.wait()
    assert walk.link.state is State.SILENT
    walk.feed(Notified())
    assert walk.link.state is State.STREAMING
    assert walk.link.deadline_s == walk.now_s + SILENCE_S / 2


def test_draining_is_told_while_a_backlog_is_fetched_and_counts_as_any_notification() -> None:
    walk = streaming()
    walk.feed(FellBehind())
    assert walk.link.state is State.DRAINING
    walk.now_s = 4.0
    walk.take(Notified(), CaughtUp())
    assert (walk.link.state, walk.link.deadline_s) == (State.STREAMING, 9.0)


def test_discovery_has_a_time_of_its_own_and_says_that_the_link_was_up() -> None:
    walk = Walk()
    walk.take(Heard(), Turn())
    walk.now_s = rules.CONNECT_S - 1
    walk.feed(Linked())
    assert (walk.link.state, walk.turn) == (State.DISCOVERING, "held")
    walk.wait()
    assert walk.link.why == "connected, but its services were not told within 15 s"
    assert walk.now_s == rules.CONNECT_S - 1 + rules.DISCOVER_S


def test_an_attempt_gives_way_while_others_wait() -> None:
    walk = Walk()
    walk.take(Heard(), Turn(), Crowded())
    walk.wait()
    assert walk.now_s == rules.YIELD_S
    assert walk.link.why == "not connected within 5 s"
    late = Walk()
    late.take(Heard(), Turn())
    late.now_s = rules.YIELD_S + 3
    late.feed(Crowded())
    assert late.feed(Due()) == [Disconnect()], "it has had its time already"


def test_one_that_failed_twice_gives_way_sooner_and_has_all_its_time_while_nobody_waits() -> None:
    walk = failing(2)
    walk.take(Heard(), Turn())
    began_s = walk.now_s
    assert walk.link.deadline_s - began_s == rules.CONNECT_S
    walk.feed(Crowded())
    walk.wait()
    assert walk.now_s - began_s == rules.YIELD_AGAIN_S


@pytest.mark.parametrize("opened", [False, True])
def test_pairing_is_a_state_of_its_own_and_leads_back_to_where_it_began(opened: bool) -> None:
    walk = Walk()
    walk.take(Heard(), Turn(), Linked(), *[Opened()] * opened, Asked())
    assert walk.link.state is State.PAIRING
    assert walk.link.deadline_s == rules.PAIR_S
    walk.feed(Bonded())
    assert walk.link.state is (State.CONFIGURING if opened else State.DISCOVERING)
    walk.feed(Asked())
    assert walk.link.state is not State.PAIRING, "a wearable that asks for ever would be waited for as long"
    walk.take(Opened(), Notified())
    assert walk.link.state is State.STREAMING


def test_pairing_that_hangs_ends_the_link() -> None:
    walk = Walk()
    walk.take(Heard(), Turn(), Opened(), Asked())
    walk.wait()
    assert walk.link.why == "pairing took more than 30 s"


def quarantined(walk: Walk) -> bool:
    return walk.link.state is State.QUARANTINED


def test_a_wearable_that_wants_to_be_paired_is_left_alone_until_somebody_may_have_done_it() -> None:
    walk = Walk()
    walk.take(Heard(), Turn(), Asked(), Refused(), Closed())
    assert quarantined(walk)
    assert walk.link.why == "it wants to be paired, which only `gateway pair` may do"
    assert walk.link.deadline_s == rules.UNPAIRED_S


def test_what_repeating_does_not_cure_is_tried_seldom_from_the_first_time_on() -> None:
    walk = Walk()
    walk.take(Heard(), Turn(), Failed("it has no service x", lasting=True))
    assert walk.commands[-1] == Disconnect(forget=True), "what the stack knew of it may be an earlier firmware's"
    walk.feed(Closed(), jitter=0.0)
    assert quarantined(walk)
    assert walk.link.deadline_s == rules.QUARANTINE_S
    walk.wait()
    walk.take(Heard(), Turn(), Opened(), Notified())
    assert walk.link.state is State.STREAMING, "once it is cured it is as any other"


def failing(times: int, **how: bool) -> Walk:
    walk = Walk()
    for _ in range(times):
        assert walk.link.state is State.ABSENT
        walk.take(Heard(), Turn(), Failed("timed out", **how), Closed())
        if not quarantined(walk):
            walk.wait()
    return walk


def test_many_failures_in_a_row_lead_to_quarantine_and_each_one_more_back_to_it() -> None:
    walk = failing(rules.FAILURES_MAX)
    assert quarantined(walk)
    assert walk.link.why == "timed out"
    assert walk.link.deadline_s - walk.now_s == 1.5 * rules.QUARANTINE_S
    walk.wait()
    walk.take(Heard(), Turn(), Failed("timed out"), Closed())
    assert quarantined(walk)


def test_a_full_adapter_is_no_fault_of_the_wearable() -> None:
    walk = failing(3 * rules.FAILURES_MAX, full=True)
    assert walk.link.state is State.ABSENT
    assert walk.link.failures == 0


@pytest.mark.parametrize("how", [{}, {"lasting": True}])
def test_the_operator_releases_a_wearable_which_then_has_all_its_tries(how: dict[str, bool]) -> None:
    walk = failing(1 if how else rules.FAILURES_MAX, **how)
    walk.feed(Release())
    assert (walk.link.state, walk.link.failures) == (State.ABSENT, 0)
    walk.take(Heard(), Turn(), Failed("timed out"), Closed())
    assert walk.link.state is State.BACKING_OFF
    walk.feed(Release())
    assert walk.link.state is State.ABSENT


def test_losses_at_the_edge_of_reach_never_lead_to_quarantine() -> None:
    walk = Walk()
    for _ in range(3 * rules.FAILURES_MAX):
        walk.take(Heard(), Turn(), Opened(), Notified(), Lost(), Closed())
        walk.wait()
        assert walk.link.state is State.ABSENT


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
    ways_out = {state for (state, _), following in rules.TRANSITIONS.items() if following[0] is not state}
    assert ways_out | {State.STOPPED} == set(State)


def test_the_docs_show_the_table_and_the_waits_as_they_are() -> None:
    page = (Path(__file__).parents[3] / "docs" / "bluetooth.md").read_text()
    table = page[page.index("| in |") :].split("\n\n")[0]
    shown = {}
    for row in table.splitlines()[2:]:
        state, *ways = (cell.strip() for cell in row.strip("|").split("|"))
        for way in ways[0].split("; "):
            event, _, following = way.partition(": ")
            shown[state, event] = tuple(re.split(", | or ", following))
    assert shown == {
        (str(state), event.__name__): tuple(map(str, following))
        for (state, event), following in rules.TRANSITIONS.items()
    }
    told = {
        "CONNECT_S": rules.CONNECT_S,
        "YIELD_S": rules.YIELD_S,
        "YIELD_AGAIN_S": rules.YIELD_AGAIN_S,
        "DISCOVER_S": rules.DISCOVER_S,
        "PAIR_S": rules.PAIR_S,
        "CONFIGURE_S": rules.CONFIGURE_S,
        "OPERATION_S": rules.OPERATION_S,
        "CLOSE_S": rules.CLOSE_S,
        "TURN_S": rules.TURN_S,
        "BACKOFF_MAX_S": rules.BACKOFF_MAX_S,
        "UNPAIRED_S": rules.UNPAIRED_S,
        "QUARANTINE_S": rules.QUARANTINE_S,
    }
    assert re.findall(r"^\| (\d+) s \|", page, re.MULTILINE) == [f"{wait:g}" for wait in told.values()]
