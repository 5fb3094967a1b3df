"""A broker that has lost what it had acknowledged is given it again, whatever ends the gateway meanwhile."""

import asyncio
import shutil
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.sync.errors import BrokerUnavailable
from gateway.sync.session import Accepted, Connection, Listener, Presence
from tests.gateway.sync.conftest import House, until
from tests.gateway.sync.test_publisher import (
    NOT_AUTHORIZED,
    QUICK,
    SUCCESS,
    ScriptedBroker,
    ScriptedConnection,
    SetClock,
    numbers,
)

Start = Callable[..., Awaitable[House]]
A_MINUTE_S, HALF_AN_HOUR_S = 60.0, 1800.0


@dataclass
class Forgetful(ScriptedBroker):
    """It has a session from the first CONNECT on that arrives, until it forgets. unheard: so many CONNACKs are lost."""

    session: bool = False
    unheard: int = 0
    on_connect: Callable[[], object] = lambda: None
    on_session: Callable[[], object] = lambda: None

    async def connect(self, presence: Presence | None, listener: Listener) -> Connection:
        await asyncio.sleep(0)
        self.on_connect()
        if self.refusals:
            raise self.refusals.popleft()
        assert presence is not None
        known, self.session = self.session, True
        self.on_session()
        if self.unheard > 0:
            self.unheard -= 1
            error = BrokerUnavailable("no answer to CONNECT")
            error.asked = True
            raise error
        self.received.append([])
        self.live = ScriptedConnection(self, presence, listener, Accepted("5", known, 65535, None))
        return self.live

    def forget(self) -> None:
        self.session = False
        self.received.clear()
        if self.live is not None:
            self.live.drop("killed")

    def cut(self) -> None:
        assert self.live is not None
        self.live.drop("cut")


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Start]:
    houses: list[House] = []

    async def start(broker: ScriptedBroker, path: Path = tmp_path / "gateway.db", **changes: Any) -> House:
        houses.append(House(path, broker, **(QUICK | changes)))
        return houses[-1]

    yield start
    for made in houses:
        if not made.running.done():
            await made.stop()


class Crash:
    """What a kill leaves at one of the moments at which `at` is called with its name: the files as they are then."""

    def __init__(self, path: Path, when: str) -> None:
        self.path, self.when = path, when
        self.left = path.parent / "after" / path.name
        self.came = asyncio.Event()
        self.had: set[int] = set()

    def at(self, moment: str, broker: ScriptedBroker) -> None:
        if moment != self.when or self.came.is_set():
            return
        self.came.set()
        self.had = set(numbers(broker.payloads))
        self.left.parent.mkdir()
        for beside in ("", "-wal"):
            shutil.copy(self.path.with_name(self.path.name + beside), self.left.parent)


MOMENTS = ["CONNECT leaves", "the session is begun", "CONNACK is acted on", "some are sent", "all are acknowledged"]


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_lost_session_is_made_up_for_though_the_gateway_is_killed_when(
    moment: str, house: Start, tmp_path: Path
) -> None:
    """Nothing but what must be there at once is committed meanwhile."""
    broker = Forgetful()
    first = await house(broker)
    first.log(range(1, 11))
    await first.sent()
    await first.stop()
    broker.forget()
    crash = Crash(tmp_path / "gateway.db", moment)
    broker.on_connect = lambda: crash.at("CONNECT leaves", broker)
    broker.on_session = lambda: crash.at("the session is begun", broker)

    def puback(payload: bytes) -> int:
        if payload == b"1":
            crash.at("CONNACK is acted on", broker)
        if payload == b"5":
            crash.at("some are sent", broker)
        return SUCCESS

    broker.puback = puback
    second = await house(broker, commit_interval_s=60)
    await until(lambda: len(broker.payloads) == 10 and second.publisher.acknowledged == 10)
    crash.at("all are acknowledged", broker)
    assert crash.came.is_set()
    await second.stop()
    after = Forgetful(session=moment != "CONNECT leaves")
    third = await house(after, crash.left)
    await third.sent()
    assert crash.had | set(numbers(after.payloads)) == set(range(1, 11))


async def test_once_what_follows_is_committed_a_kill_repeats_nothing(house: Start, tmp_path: Path) -> None:
    broker = Forgetful()
    first = await house(broker)
    first.log(range(1, 11))
    await first.sent()
    await first.writer.flush()
    crash = Crash(tmp_path / "gateway.db", "idle")
    crash.at("idle", broker)
    second = await house(broker, crash.left)
    await second.sent()
    assert numbers(broker.received[1]) == []


async def test_a_start_needs_no_interval_to_tell_that_the_session_is_known(house: Start, tmp_path: Path) -> None:
    """A gateway that ends a second after each start does not send half an hour again each time."""
    broker = Forgetful()
    first = await house(broker)
    first.log(range(1, 11))
    await first.sent()
    await first.stop()
    second = await house(broker, commit_interval_s=60)
    log = second.store.events()
    await until(lambda: second.publisher.connected)
    await until(lambda: not log.connecting("broker"))
    log.close()
    crash = Crash(tmp_path / "gateway.db", "idle")
    crash.at("idle", broker)
    third = await house(broker, crash.left)
    await third.sent()
    assert third.publisher.counters.rewound == 0


@pytest.mark.parametrize("unheard", [1, 3])
async def test_a_session_that_was_begun_unheard_is_no_proof_that_the_old_one_was_there(
    unheard: int, house: Start
) -> None:
    broker = Forgetful()
    made = await house(broker)
    made.log(range(1, 11))
    await made.sent()
    broker.unheard = unheard
    broker.forget()
    await until(lambda: bool(broker.received) and set(numbers(broker.received[-1])) == set(range(1, 11)))
    broker.cut()
    await until(lambda: len(broker.received) == 2)
    await made.sent()
    assert made.publisher.counters.rewound == 1


async def test_a_broker_that_did_not_get_our_connect_has_lost_nothing(house: Start, tmp_path: Path) -> None:
    """However often it is tried, that costs one commit; and so it is after a stop meanwhile."""
    broker = Forgetful()
    first = await house(broker)
    first.log(range(1, 11))
    await first.sent()
    await first.writer.flush()
    commits = first.writer.counters.commits
    broker.refusals = deque([BrokerUnavailable("connection refused")] * 30)
    broker.cut()
    await until(lambda: not broker.refusals)
    assert first.writer.counters.commits == commits + 1
    await until(lambda: first.publisher.connected)
    broker.refusals = deque([BrokerUnavailable("connection refused")] * 10_000)
    broker.cut()
    await until(lambda: len(broker.refusals) < 9_990)
    await first.stop()
    broker.refusals.clear()
    second = await house(broker)
    await second.sent()
    assert [numbers(payloads) for payloads in broker.received[1:]] == [[], []]
    assert first.publisher.counters.rewound == second.publisher.counters.rewound == 0


async def test_a_stop_while_the_answer_to_connect_is_awaited_leaves_it_unknown(house: Start) -> None:
    broker = Forgetful()
    first = await house(broker)
    first.log(range(1, 11))
    await first.sent()
    await first.stop()
    broker.forget()
    asked = asyncio.Event()

    class Slow(Forgetful):
        async def connect(self, presence: Presence | None, listener: Listener) -> Connection:
            broker.session = True
            asked.set()
            return await asyncio.Future[Connection]()

    second = await house(Slow())
    await asked.wait()
    await second.stop()
    third = await house(broker)
    await third.sent()
    assert set(numbers(broker.payloads)) == set(range(1, 11))


async def test_no_connect_leaves_before_it_is_on_the_medium(house: Start) -> None:
    broker = Forgetful()
    known: list[bool] = []
    made = await house(ScriptedBroker(refusals=deque([BrokerUnavailable("away")] * 10_000)))
    log = made.store.events()
    broker.on_connect = lambda: known.append(log.connecting("broker"))
    await made.stop()
    made = await house(broker, commit_interval_s=60)
    await until(lambda: made.publisher.connected)
    broker.cut()
    await until(lambda: len(broker.received) == 2)
    log.close()
    assert known == [True, True]


async def test_what_was_acknowledged_in_the_first_minute_of_a_store_is_sent_again_too(house: Start) -> None:
    broker, clock = Forgetful(), SetClock()
    first = await house(broker, clock=clock)
    first.log(range(1, 6))
    await first.sent()
    await first.die()
    clock.seconds += 10.0
    second = await house(broker, clock=clock)
    second.log(range(6, 9))
    await second.sent()
    broker.forget()
    await until(lambda: bool(broker.received) and 8 in numbers(broker.received[-1]))
    await second.sent()
    assert numbers(broker.received[-1]) == list(range(1, 9))


# What somebody has asked for again.


async def test_what_is_asked_for_again_begins_anew_where_the_session_is_lost_meanwhile(house: Start) -> None:
    broker = Forgetful()
    made = await house(broker, replay_messages_s=100)
    made.log(range(1, 61))
    await made.sent()
    request = made.publisher.replay(21 * 10**9, 10**12)
    await until(lambda: request.acknowledged >= 10)
    broker.replayed.clear()
    broker.forget()
    await asyncio.wait_for(request.over.wait(), 20)
    assert set(numbers(broker.replayed)) >= set(range(21, 61))
    assert (request.found, request.acknowledged, request.refused) == (40, 40, 0)


async def test_a_broker_that_keeps_no_session_has_what_is_asked_for_in_the_end_though_the_way_is_cut(
    house: Start,
) -> None:
    broker = ScriptedBroker(keeps_sessions=False)
    made = await house(broker, replay_messages_s=200)
    made.log(range(1, 101))
    await made.sent()
    request = made.publisher.replay(0, 10**12)
    while not request.over.is_set():
        so_far = len(broker.replayed)
        await until(lambda so_far=so_far: len(broker.replayed) >= so_far + 30 or request.over.is_set())
        assert broker.live is not None
        broker.live.drop("cut")
    assert (request.found, request.acknowledged) == (100, 100)


# What was refused, and taken at a later try.


async def taken_late(house: Start, broker: Forgetful, clock: SetClock, refused: range = range(2, 4)) -> House:
    """Of 100 events in ten hours some are refused, and are taken at the end; the last minute has made none."""
    broker.puback = lambda payload: NOT_AUTHORIZED if int(payload) in refused else SUCCESS
    clock.seconds = 1.0
    made = await house(broker, clock=clock)
    for number in range(1, 101):
        clock.seconds += 360.0
        made.log(range(number, number + 1))
        if number % 10 == 0:
            await made.sent()
    clock.seconds += A_MINUTE_S
    broker.puback = lambda payload: SUCCESS
    made.publisher._retry_due_s = 0.0
    broker.cut()
    await until(lambda: made.publisher.refused == 0)
    return made


async def goes_on(made: House, clock: SetClock, first: int, every_s: float, count: int) -> None:
    for number in range(first, first + count):
        clock.seconds += every_s
        made.log(range(number, number + 1))
        await made.sent()


async def test_what_was_taken_at_a_later_try_and_is_lost_is_sent_again(house: Start) -> None:
    broker, clock = Forgetful(), SetClock()
    made = await taken_late(house, broker, clock)
    await goes_on(made, clock, 101, A_MINUTE_S, 10)
    broker.forget()
    await until(lambda: bool(broker.received) and {2, 3} <= set(numbers(broker.received[-1])))
    await made.sent()
    again = numbers(broker.received[-1])
    assert set(again) >= {2, 3, *range(101, 111)}
    assert len(again) == len(set(again)) < 30
    assert (made.publisher.refused, made.publisher.acknowledged) == (0, 110)
    broker.forget()
    await until(lambda: bool(broker.received) and {2, 3} <= set(numbers(broker.received[-1])))
    await made.sent()


async def test_that_is_so_after_a_restart_and_a_loss_before_it_too(house: Start) -> None:
    broker, clock = Forgetful(), SetClock()
    first = await taken_late(house, broker, clock)
    await goes_on(first, clock, 101, A_MINUTE_S, 10)
    await first.stop()
    broker.forget()
    second = await house(broker, clock=clock)
    await until(lambda: bool(broker.received) and {2, 3} <= set(numbers(broker.received[-1])))
    await second.sent()
    assert second.publisher.refused == 0


async def test_half_an_hour_after_it_was_taken_it_is_not_sent_again(house: Start) -> None:
    broker, clock = Forgetful(), SetClock()
    made = await taken_late(house, broker, clock)
    await goes_on(made, clock, 101, 120.0, 40)
    log = made.store.events()
    await made.writer.flush()
    assert log.retaken("broker") == made.publisher._retaken == {}
    log.close()
    broker.forget()
    await until(lambda: bool(broker.received) and 140 in numbers(broker.received[-1]))
    await made.sent()
    assert min(numbers(broker.received[-1])) > 100


async def test_what_is_lost_goes_before_what_is_still_refused_and_is_not_told_as_refused(
    house: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.sync.publisher.PARKED_AGAIN", 3)
    broker, clock = Forgetful(), SetClock()
    broker.puback = lambda payload: NOT_AUTHORIZED if int(payload) <= 20 else SUCCESS
    made = await house(broker, clock=clock)
    made.log(range(1, 31))
    await made.sent()
    taken = {19, 20}
    broker.puback = lambda payload: NOT_AUTHORIZED if int(payload) <= 18 else SUCCESS
    request = made.publisher.replay(19 * 10**9, 21 * 10**9)
    await asyncio.wait_for(request.over.wait(), 10)
    assert made.publisher.refused == 18
    broker.forget()
    refused: list[int] = []
    states: list[tuple[int, int]] = []

    def puback(payload: bytes) -> int:
        states.append((made.publisher.refused, made.publisher.waiting))
        if int(payload) <= 18:
            refused.append(int(payload))
            return NOT_AUTHORIZED
        return SUCCESS

    broker.puback = puback
    await until(lambda: bool(broker.received) and taken <= set(numbers(broker.received[-1])))
    await made.sent()
    assert len(refused) <= 3
    assert max(refused for refused, _ in states) == 18
    assert any(waiting >= 2 for _, waiting in states)
    assert made.publisher.refused == 18


async def test_what_is_lost_and_refused_then_is_told_as_refused(house: Start) -> None:
    broker, clock = Forgetful(), SetClock()
    made = await taken_late(house, broker, clock)
    broker.puback = lambda payload: NOT_AUTHORIZED if int(payload) in (2, 3) else SUCCESS
    broker.forget()
    await until(lambda: made.publisher.refused == 2)
    await made.sent()
    assert made.publisher.state.endswith("it refuses 2 events: Not authorized")
    await made.stop()
    again = await house(ScriptedBroker(refusals=deque([BrokerUnavailable("away")] * 100)), backoff_max_s=60)
    assert (again.publisher.refused, again.publisher.refusal) == (2, "Not authorized")


async def test_what_is_lost_and_not_stored_any_more_holds_up_nothing(house: Start) -> None:
    broker, clock = Forgetful(), SetClock()
    made = await taken_late(house, broker, clock)
    await made.writer.flush()
    made.store.connection.execute("DELETE FROM event WHERE seq = 2")
    broker.forget()
    await until(lambda: bool(broker.received) and 3 in numbers(broker.received[-1]))
    await made.sent()
    assert made.publisher.refused == 0
    assert 2 not in numbers(broker.payloads)
