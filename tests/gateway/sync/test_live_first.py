"""New events before what an outage has left: the publisher over a real store and a scripted broker."""

import asyncio
import tempfile
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from gateway.store.rows import Derived, LoggedEvent
from gateway.sync.errors import BrokerUnavailable
from tests.gateway.sync.conftest import House, until
from tests.gateway.sync.test_publisher import QUICK, QUOTA, SUCCESS, ScriptedBroker, numbers

Start = Callable[..., Awaitable[House]]


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Start]:
    monkeypatch.setattr("gateway.sync.lanes.IN_ORDER_MAX", 20)
    made: list[House] = []

    async def start(broker: ScriptedBroker, **settings: object) -> House:
        made.append(House(tmp_path / "gateway.db", broker, **(QUICK | settings)))
        return made[-1]

    yield start
    for one in made:
        if not one.running.done():
            await one.stop()


def away() -> deque[Exception]:
    return deque([BrokerUnavailable("away")])


async def after_an_outage(house: Start, broker: ScriptedBroker, events: int, **settings: object) -> House:
    """All of them wait when the connection is made."""
    broker.refusals = away()
    made = await house(broker, **({"backoff_min_s": 0.2, "backoff_max_s": 0.2} | settings))
    made.log(range(1, events + 1))
    await made.writer.flush()
    await until(lambda: bool(broker.received))
    return made


def state(number: int, topic: str = "t/left/state") -> LoggedEvent:
    return LoggedEvent("state", "left", "urn:left", f"s{number}", topic, b"%d" % number, 0, "boot", retain=True)


async def test_what_is_new_goes_before_what_an_outage_has_left(house: Start) -> None:
    broker = ScriptedBroker()
    made = await after_an_outage(house, broker, 2000, replay_messages_s=100)
    await until(lambda: len(broker.payloads) >= 3)
    before = len(broker.payloads)
    made.log(range(2001, 2011))
    await made.writer.flush()
    await until(lambda: set(range(2001, 2011)) <= set(numbers(broker.payloads)))
    assert len(broker.payloads) - before < 30  # not the 2,000
    live = [n for n in numbers(broker.payloads) if n > 2000]
    old = [n for n in numbers(broker.payloads) if n <= 2000]
    assert live == sorted(live)
    assert old == list(range(1, len(old) + 1))
    assert numbers(broker.replayed) == old
    cursor = made.store.cursor("broker")
    await made.writer.flush()
    cursor = made.store.cursor("broker")
    assert cursor is not None
    assert len(cursor.text()) < 40


async def test_few_that_wait_go_in_order_and_unmarked(house: Start) -> None:
    broker = ScriptedBroker()
    made = await after_an_outage(house, broker, 20)
    made.log(range(21, 31))
    await made.sent()
    assert numbers(broker.payloads) == list(range(1, 31))
    assert broker.replayed == []


async def test_the_backlog_keeps_to_its_pace_while_new_events_do_not(house: Start) -> None:
    broker, loop = ScriptedBroker(), asyncio.get_running_loop()
    came: dict[bytes, float] = {}
    broker.puback = lambda payload: came.setdefault(payload, loop.time()) * 0 or SUCCESS
    made = await after_an_outage(house, broker, 60, replay_messages_s=100)
    made.log(range(61, 76))
    await made.sent()
    at_s = {int(payload): moment_s for payload, moment_s in came.items()}
    old = [at_s[n] for n in range(1, 61)]
    for i in range(60):
        for j in range(i, 60):
            assert j - i + 1 <= (old[j] - old[i] + 0.1) * 100 + 1.001
    assert max(at_s[n] for n in range(61, 76)) < old[-1]


async def test_a_link_that_cannot_follow_lets_new_events_pass_too(house: Start) -> None:
    broker = ScriptedBroker(puback=lambda payload: None)
    made = await house(broker, window=4, replay_messages_s=40)
    made.log(range(1, 6))
    await until(lambda: len(broker.payloads) == 4)
    made.log(range(6, 100))
    await made.writer.flush()
    broker.puback = lambda payload: SUCCESS
    assert broker.live is not None
    for token in range(2, 6):
        broker.live._answer(token, SUCCESS)
    await until(lambda: len(broker.payloads) > 20)
    made.log(range(100, 103))
    await made.sent()
    arrived = numbers(broker.payloads)
    assert Counter(arrived) == Counter(range(1, 103))
    assert arrived.index(102) < arrived.index(99)


async def test_the_latest_state_is_retained_at_once_and_no_older_one_replaces_it(house: Start) -> None:
    broker = ScriptedBroker()
    broker.refusals = away()
    made = await house(broker, backoff_min_s=0.2, backoff_max_s=0.2, replay_messages_s=200)
    for number in range(1, 101):
        made.writer.derived(Derived(None, (state(number),)))
    made.log(range(101, 151))
    await made.writer.flush()
    await until(lambda: b"100" in broker.payloads)
    assert len(broker.payloads) < 60
    await made.sent()
    assert Counter(numbers(broker.payloads)) == Counter(range(1, 151))
    assert [payload for payload, retain in broker.retained.items() if retain] == [b"100"]


async def test_a_state_that_went_past_the_backlog_stays_the_retained_one_after_a_restart(house: Start) -> None:
    broker = ScriptedBroker(puback=lambda payload: SUCCESS if int(payload) > 60 else None)
    broker.refusals = away()
    first = await house(broker, backoff_min_s=0.2, backoff_max_s=0.2)
    first.log(range(1, 30))
    for number in range(30, 61):
        first.writer.derived(Derived(None, (state(number),)))
    await first.writer.flush()
    await until(lambda: bool(broker.payloads))
    first.writer.derived(Derived(None, (state(61),)))
    await until(lambda: first.publisher.acknowledged == 1)
    await first.die()
    broker.puback = lambda payload: SUCCESS
    broker.retained.clear()
    second = await house(broker)
    await second.sent()
    assert set(numbers(broker.received[-1])) == set(range(1, 61))
    assert not any(broker.retained.values())


async def test_what_is_refused_for_a_while_in_the_backlog_is_sent_again(
    house: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.sync.flight.SLOW_MIN_S", 0.01)
    seen: Counter[bytes] = Counter()

    def puback(payload: bytes) -> int:
        seen[payload] += 1
        return QUOTA if seen[payload] == 1 and int(payload) % 7 == 0 else SUCCESS

    made = await after_an_outage(house, ScriptedBroker(puback=puback), 100)
    await made.sent()
    assert set(map(int, seen)) == set(range(1, 101))


# Asked for again.


async def test_what_is_asked_for_is_sent_again_with_the_same_bytes_marked_and_never_retained(house: Start) -> None:
    broker = ScriptedBroker()
    made = await house(broker)
    made.log(range(1, 51), created_every_s=60.0)
    made.writer.derived(Derived(None, (state(51),)))
    await made.sent()
    await made.writer.flush()
    cursor, sent = made.store.cursor("broker"), len(broker.payloads)
    broker.replayed.clear()
    request = made.publisher.replay(10 * 60 * 10**9, 20 * 60 * 10**9)
    await asyncio.wait_for(request.over.wait(), 10)
    assert numbers(broker.payloads)[sent:] == list(range(10, 20))
    assert numbers(broker.replayed) == list(range(10, 20))
    assert (request.found, request.acknowledged, request.refused) == (10, 10, 0)
    states = made.publisher.replay(0, 1)
    await asyncio.wait_for(states.over.wait(), 10)
    assert broker.retained[b"51"] is False
    await made.writer.flush()
    assert made.store.cursor("broker") == cursor


async def test_a_wearable_s_events_alone_can_be_asked_for(house: Start) -> None:
    broker = ScriptedBroker()
    made = await house(broker)
    made.log(range(1, 11))
    other = LoggedEvent("prediction", "right", "urn:right", "e", "t/right/prediction", b"11", 5 * 10**9, "boot")
    made.writer.derived(Derived(None, (other,)))
    await made.sent()
    request = made.publisher.replay(0, 10**12, "right")
    await asyncio.wait_for(request.over.wait(), 10)
    assert numbers(broker.replayed) == [11]


async def test_a_connection_that_ends_meanwhile_loses_none_of_what_was_asked_for(house: Start) -> None:
    broker = ScriptedBroker()
    made = await house(broker, replay_messages_s=1000, window=5)
    made.log(range(1, 101))
    await made.sent()
    broker.puback = lambda payload: None if len(broker.payloads) % 9 == 0 else SUCCESS
    request = made.publisher.replay(0, 10**12)
    for _ in range(3):
        limit = len(broker.payloads) + 10
        await until(lambda limit=limit: len(broker.payloads) > limit)
        assert broker.live is not None
        broker.live.drop("cut")
    broker.puback = lambda payload: SUCCESS
    broker.live.drop("cut")
    await asyncio.wait_for(request.over.wait(), 10)
    assert set(numbers(broker.replayed)) == set(range(1, 101))
    assert request.acknowledged == 100


async def test_nothing_of_that_time_is_over_at_once_and_a_cancelled_request_sends_no_more(house: Start) -> None:
    broker = ScriptedBroker()
    made = await house(broker, replay_messages_s=20)
    nothing = made.publisher.replay(0, 10**12)
    await asyncio.wait_for(nothing.over.wait(), 10)
    made.log(range(1, 21))
    await made.sent()
    request = made.publisher.replay(0, 10**12)
    await until(lambda: len(broker.replayed) >= 3)
    made.publisher.cancel(request)
    made.log(range(21, 31))
    await made.sent()
    assert len(broker.replayed) < 10


ANSWERS = st.sampled_from([SUCCESS, SUCCESS, SUCCESS, None, 0x80])


@hypothesis_settings(max_examples=20, deadline=None)
@given(
    answers=st.lists(ANSWERS, max_size=60),
    drops=st.lists(st.integers(1, 30), max_size=4),
    window=st.integers(1, 8),
    lives=st.lists(st.integers(1, 60), min_size=1, max_size=3),
    states=st.sets(st.integers(1, 180)),
    keeps_sessions=st.booleans(),
)
def test_whatever_happens_every_event_arrives_the_new_ones_in_order_and_the_latest_state_stays(
    answers: list[int | None],
    drops: list[int],
    window: int,
    lives: list[int],
    states: set[int],
    keeps_sessions: bool,
) -> None:
    async def play(path: Path) -> None:
        script = deque(answers)
        broker = ScriptedBroker(keeps_sessions=keeps_sessions)
        broker.puback = lambda payload: script.popleft() if script else SUCCESS
        logged = 0

        def more(house: House, count: int) -> None:
            nonlocal logged
            for number in range(logged + 1, logged + count + 1):
                if number in states:
                    house.writer.derived(Derived(None, (state(number),)))
                else:
                    house.log(range(number, number + 1))
            logged += count

        for life, count in enumerate(lives):
            made = House(path, broker, **QUICK, window=window)
            more(made, count)
            if life < len(lives) - 1:
                await until(lambda: len(broker.payloads) > 0)
                await made.die()
        for count in drops:
            broker.drop_after = count
            more(made, 5)
            await asyncio.sleep(0.003)
            if broker.live is not None:
                broker.live.drop("cut")
        broker.drop_after = None
        script.clear()
        if broker.live is not None:
            broker.live.drop("cut")
        await made.sent()
        await made.writer.flush()
        cursor = made.store.cursor("broker")
        assert cursor is not None
        assert (cursor.position, cursor.beyond) == (logged, ())
        await made.stop()
        assert set(numbers(broker.payloads)) == set(range(1, logged + 1))
        for connection in broker.received:
            in_order = [n for n in numbers(connection) if b"%d" % n not in broker.replayed]
            first = list(dict.fromkeys(in_order))
            assert first == sorted(first)
        last_retained = [payload for payload in broker.payloads if broker.retained[payload]]
        logged_states = [number for number in states if number <= logged]
        if logged_states and keeps_sessions:
            assert int(last_retained[-1]) == max(logged_states)

    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr("gateway.sync.lanes.IN_ORDER_MAX", 10)
        patch.setattr("gateway.sync.flight.SLOW_MIN_S", 0.001)
        patch.setattr("gateway.sync.flight.SLOW_MAX_S", 0.002)
        asyncio.run(play(Path(folder) / "gateway.db"))
