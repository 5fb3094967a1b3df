"""The publisher over a real store, against a broker that a test scripts at the border of a connection."""

import asyncio
import itertools
import json
import re
import tempfile
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from gateway import events
from gateway.clock import Clock, Instant
from gateway.store import Store, StoreSettings
from gateway.store.rows import Derived, LoggedEvent
from gateway.sync.errors import BrokerRefused, BrokerUnavailable
from gateway.sync.session import Accepted, Connection, Listener, Presence
from tests.gateway.sync.conftest import House, until

QUICK = {"host": "broker.example", "backoff_min_s": 0.001, "backoff_max_s": 0.002}
SUCCESS, NO_SUBSCRIBERS, NOT_AUTHORIZED, TOO_LARGE, QUOTA = 0x00, 0x10, 0x87, 0x95, 0x97


@dataclass
class ScriptedBroker:
    """puback: the reason code for a payload, None for no answer. refusals: raised by the next connects, in order."""

    puback: Callable[[bytes], int | None] = lambda payload: SUCCESS
    refusals: deque[Exception] = field(default_factory=deque)
    in_flight_max: int = 65535
    packet_bytes_max: int | None = None
    keeps_sessions: bool = True
    presence_answered_s: float = 0.0
    drop_after: int | None = None
    """Ends the connection once it has received so many events."""
    received: list[list[bytes]] = field(default_factory=list)
    """For each connection the payloads of events."""
    retained: dict[bytes, bool] = field(default_factory=dict)
    """Whether a payload was retained when it came last."""
    replayed: list[bytes] = field(default_factory=list)
    """Payloads that were marked so."""
    presence: list[tuple[bytes, bool]] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)
    most_in_flight: int = 0
    live: "ScriptedConnection | None" = None

    async def connect(self, presence: Presence | None, listener: Listener) -> Connection:
        await asyncio.sleep(0)
        if self.refusals:
            raise self.refusals.popleft()
        assert presence is not None
        known = bool(self.received) and self.keeps_sessions
        self.received.append([])
        self.live = ScriptedConnection(
            self, presence, listener, Accepted("5", known, self.in_flight_max, self.packet_bytes_max)
        )
        return self.live

    @property
    def payloads(self) -> list[bytes]:
        return [payload for connection in self.received for payload in connection]


class ScriptedConnection:
    def __init__(self, broker: ScriptedBroker, presence: Presence, listener: Listener, accepted: Accepted) -> None:
        self._broker, self._presence, self._listener, self.accepted = broker, presence, listener, accepted
        self._tokens = 0
        self._open = True
        self.unanswered = 0

    def publish(
        self, topic: str, payload: bytes, *, retain: bool, replayed: bool = False, expiry_s: int | None = None
    ) -> int:
        self._tokens += 1
        broker, code = self._broker, 0
        self.unanswered += 1
        broker.most_in_flight = max(broker.most_in_flight, self.unanswered)
        if topic == self._presence.topic:
            broker.presence.append((payload, retain))
            asyncio.get_running_loop().call_later(broker.presence_answered_s, self._answer, self._tokens, code)
            return self._tokens
        if self._open:
            broker.received[-1].append(payload)
            broker.retained[payload] = retain
            broker.replayed += [payload] * replayed
            answer = broker.puback(payload)
            if broker.drop_after is not None and len(broker.received[-1]) >= broker.drop_after:
                asyncio.get_running_loop().call_soon(self.drop, "dropped")
            if answer is None:
                return self._tokens
            code = answer
        asyncio.get_running_loop().call_soon(self._answer, self._tokens, code)
        return self._tokens

    def _answer(self, token: int, code: int) -> None:
        self.unanswered -= 1
        if self._open:
            self._listener.answered(token, code, {NOT_AUTHORIZED: "Not authorized"}.get(code, f"code {code:#04x}"))

    def drop(self, why: str) -> None:
        if self._open:
            self._open = False
            self._broker.ends.append(why)
            self._listener.lost(why)

    async def close(self) -> None:
        self._open = False
        self._broker.ends.append("closed")

    def abort(self) -> None:
        if self._open:
            self._open = False
            self._broker.ends.append("aborted")


Start = Callable[..., Awaitable[House]]


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Start]:
    houses: list[House] = []

    async def start(broker: ScriptedBroker, **changes: Any) -> House:
        houses.append(House(tmp_path / "gateway.db", broker, **(QUICK | changes)))
        return houses[-1]

    yield start
    for made in houses:
        if not made.running.done():
            await made.stop()


def numbers(payloads: list[bytes]) -> list[int]:
    return [int(payload.rstrip(b"\0")) for payload in payloads]


async def test_events_leave_in_the_order_of_the_log_each_once(house: Start) -> None:
    broker = ScriptedBroker()
    made = await house(broker)
    made.log(range(1, 351))
    await made.sent()
    assert numbers(broker.payloads) == list(range(1, 351))
    assert made.publisher.acknowledged == 350
    assert made.publisher.counters.sent_again == 0
    await made.stop()
    with Store.open(StoreSettings(path=made.store.settings.path)) as store:
        cursor = store.cursor("broker")
        assert cursor is not None
        assert (cursor.position, cursor.beyond) == (350, ())


async def test_no_matching_subscribers_is_a_success(house: Start) -> None:
    made = await house(ScriptedBroker(puback=lambda payload: NO_SUBSCRIBERS))
    made.log(range(1, 4))
    await made.sent()
    assert made.publisher.counters.refused == 0


async def test_what_has_no_answer_is_sent_again_on_the_next_connection_and_only_that(house: Start) -> None:
    silent = {b"2", b"5"}
    broker = ScriptedBroker(puback=lambda payload: None if payload in silent else SUCCESS)
    made = await house(broker)
    made.log(range(1, 7))
    await made.writer.flush()
    await until(lambda: made.publisher.acknowledged == 4)
    silent.clear()
    assert broker.live is not None
    broker.live.drop("cut")
    await made.sent()
    assert [numbers(connection) for connection in broker.received] == [[1, 2, 3, 4, 5, 6], [2, 5]]
    assert made.publisher.counters.sent_again == 2


async def test_a_restart_goes_on_where_the_cursor_stood(house: Start) -> None:
    broker = ScriptedBroker()
    first = await house(broker)
    first.log(range(1, 11))
    await first.sent()
    await first.die()
    second = await house(broker)
    second.log(range(11, 16))
    await second.sent()
    assert numbers(broker.payloads) == list(range(1, 16))


async def test_no_more_is_on_its_way_than_the_broker_takes_its_presence_included(house: Start) -> None:
    for in_flight_max, window, most in ((1, 100, 1), (5, 100, 5), (65535, 7, 7)):
        broker = ScriptedBroker(in_flight_max=in_flight_max, presence_answered_s=0.05)
        made = await house(broker, window=window)
        made.log(range(made.store.last_seq() + 1, made.store.last_seq() + 51))
        await made.sent()
        assert broker.most_in_flight == most
        await made.stop()


async def test_a_broker_over_its_quota_gets_everything_in_the_end(
    house: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.sync.flight.SLOW_MIN_S", 0.01)
    seen: Counter[bytes] = Counter()

    def puback(payload: bytes) -> int:
        seen[payload] += 1
        return QUOTA if seen[payload] == 1 and int(payload) % 3 == 0 else SUCCESS

    broker = ScriptedBroker(puback=puback)
    made = await house(broker, window=4)
    made.log(range(1, 8))
    await made.sent()
    assert seen == {b"%d" % n: 2 if n % 3 == 0 else 1 for n in range(1, 8)}
    assert len(broker.received) == 1


async def test_what_the_broker_refuses_is_set_aside_told_and_kept_and_the_rest_goes_on(house: Start) -> None:
    broker = ScriptedBroker(puback=lambda payload: NOT_AUTHORIZED if payload == b"2" else SUCCESS)
    made = await house(broker)
    made.log(range(1, 5))
    await made.sent()
    assert (made.publisher.counters.refused, made.publisher.waiting) == (1, 0)
    await made.stop()
    with Store.open(StoreSettings(path=made.store.settings.path)) as store:
        log = store.events()
        assert log.parked("broker", 9) == [2]
        log.close()


async def test_what_was_refused_is_tried_once_more_after_a_restart(house: Start) -> None:
    refused = {b"2"}
    broker = ScriptedBroker(puback=lambda payload: NOT_AUTHORIZED if payload in refused else SUCCESS)
    first = await house(broker)
    first.log(range(1, 5))
    await first.sent()
    await first.stop()
    refused.clear()
    second = await house(broker)
    await until(lambda: numbers(broker.received[-1]) == [2])
    await second.stop()
    with Store.open(StoreSettings(path=second.store.settings.path)) as store:
        log = store.events()
        assert log.parked("broker", 9) == []
        log.close()


async def test_a_broker_that_refuses_everything_is_seen_to_and_nothing_of_it_counts_as_acknowledged(
    house: Start,
) -> None:
    made = await house(ScriptedBroker(puback=lambda payload: NOT_AUTHORIZED))
    made.log(range(1, 151))
    await made.sent()
    assert (made.publisher.refused, made.publisher.acknowledged, made.publisher.waiting) == (150, 0, 0)
    assert made.publisher.state == "connected to broker.example:1883, MQTT 5; it refuses 150 events: Not authorized"
    await made.stop()
    away = await house(ScriptedBroker(refusals=deque([BrokerUnavailable("away")] * 100)), backoff_max_s=60)
    assert (away.publisher.refused, away.publisher.refusal, away.publisher.acknowledged) == (150, "Not authorized", 0)


async def test_all_that_was_refused_is_sent_in_order_once_the_broker_takes_it_new_events_between(
    house: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.sync.publisher.PARKED_AGAIN", 10)
    monkeypatch.setattr("gateway.sync.publisher.PARKED_MIN_S", 0.02)
    broker = ScriptedBroker(puback=lambda payload: NOT_AUTHORIZED)
    made = await house(broker)
    made.log(range(1, 96))
    await made.sent()
    await until(lambda: len(broker.payloads) > 120)  # tried again on the same connection
    assert made.publisher.counters.refused == made.publisher.refused == 95
    taken: list[int] = []
    broker.puback = lambda payload: taken.append(int(payload)) or SUCCESS  # type: ignore[func-returns-value]
    made.log(range(96, 101))
    await until(lambda: made.publisher.refused == 0 and made.publisher.waiting == 0)
    assert sorted(taken) == list(range(1, 101))
    assert made.publisher.acknowledged == 100
    assert made.publisher.state == "connected to broker.example:1883, MQTT 5"


async def test_a_broker_that_hangs_up_at_each_refusal_gets_the_others_all_the_same(house: Start) -> None:
    """mosquitto 2.0.11 does so."""
    broker = ScriptedBroker()

    def puback(payload: bytes) -> int:
        if int(payload) > 5:
            return SUCCESS
        assert broker.live is not None
        live = broker.live
        asyncio.get_running_loop().call_soon(lambda: asyncio.get_running_loop().call_soon(live.drop, "hung up"))
        return NOT_AUTHORIZED

    broker.puback = puback
    made = await house(broker, window=1)
    made.log(range(1, 11))
    await until(lambda: made.publisher.acknowledged == 5)
    assert made.publisher.refused == 5


async def test_a_broker_that_goes_on_refusing_is_asked_ever_less_often(
    house: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.sync.publisher.PARKED_MIN_S", 0.05)
    loop, asked_s = asyncio.get_running_loop(), list[float]()

    def puback(payload: bytes) -> int:
        asked_s.append(loop.time())
        return NOT_AUTHORIZED

    made = await house(ScriptedBroker(puback=puback))
    made.log(range(1, 2))
    await until(lambda: len(asked_s) == 5)
    pauses = [later - earlier for earlier, later in itertools.pairwise(asked_s)]
    assert all(pause >= least - 0.005 for pause, least in zip(pauses, (0.05, 0.05, 0.1, 0.2), strict=True))


async def test_an_old_state_that_was_refused_does_not_replace_the_retained_one(house: Start) -> None:
    def state(number: int, topic: str) -> LoggedEvent:
        return LoggedEvent("state", "left", "urn:left", f"s{number}", topic, b"%d" % number, 0, "boot", retain=True)

    first = await house(ScriptedBroker(puback=lambda payload: SUCCESS if payload in (b"3", b"6") else NOT_AUTHORIZED))
    topics = {1: "t/a", 2: "t/a", 3: "t/a", 4: "t/b", 5: "t/b", 6: "t/c"}
    first.writer.derived(Derived(None, tuple(state(number, topic) for number, topic in topics.items())))
    await first.sent()
    await first.stop()
    broker = ScriptedBroker()
    second = await house(broker)
    await until(lambda: second.publisher.refused == 0)
    await second.sent()  # this broker knows nothing of the first connection: 3 and 6 come again
    assert broker.retained == {b"1": False, b"2": False, b"3": True, b"4": False, b"5": True, b"6": True}


async def test_a_refused_state_is_not_retained_where_a_later_one_may_have_been_trimmed(house: Start) -> None:
    first = await house(ScriptedBroker(puback=lambda payload: SUCCESS if payload == b"2" else NOT_AUTHORIZED))
    for number in (1, 2):
        made = LoggedEvent("state", "left", "urn:left", f"s{number}", "t/a", b"%d" % number, 0, "boot", retain=True)
        first.writer.derived(Derived(None, (made,)))
    await first.sent()
    await first.writer.flush()
    first.store.connection.execute("DELETE FROM event WHERE seq = 2")
    await first.stop()
    broker = ScriptedBroker()
    second = await house(broker)
    await until(lambda: second.publisher.refused == 0)
    assert broker.retained == {b"1": False}


async def test_a_state_sent_again_behind_a_later_one_is_not_retained(
    house: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.sync.flight.SLOW_MIN_S", 0.01)
    seen: Counter[bytes] = Counter()

    def puback(payload: bytes) -> int:
        seen[payload] += 1
        return QUOTA if seen[payload] == 1 and payload == b"1" else SUCCESS

    broker = ScriptedBroker(puback=puback)
    made = await house(broker)
    for number in (1, 2):
        state = LoggedEvent("state", "left", "urn:left", f"s{number}", "t/a", b"%d" % number, 0, "boot", retain=True)
        made.writer.derived(Derived(None, (state,)))
    await made.sent()
    assert numbers(broker.payloads) == [1, 2, 1]
    assert broker.retained == {b"1": False, b"2": True}


async def test_what_is_larger_than_the_brokers_packets_is_not_sent(house: Start) -> None:
    broker = ScriptedBroker(packet_bytes_max=500)
    made = await house(broker)
    made.log(range(1, 3))
    made.log(range(3, 4), size=600)
    made.log(range(4, 6))
    await made.sent()
    assert numbers(broker.payloads) == [1, 2, 4, 5]
    assert made.publisher.counters.refused == 1


class SetClock(Clock):
    """Says what a test sets; UTC is what a Pi without a clock battery has before NTP."""

    seconds = 0.0

    def now(self) -> Instant:
        return Instant("boot", int(self.seconds * 1e9), int(self.seconds * 1e9), False)


async def test_a_broker_that_lost_the_session_gets_all_that_it_acknowledged_in_the_last_half_hour_again(
    house: Start,
) -> None:
    """100 events of ten hours, all created before the first of them was acknowledged, then one every minute."""
    broker, clock = ScriptedBroker(keeps_sessions=False), SetClock()
    clock.seconds = 36_000.0
    made = await house(broker, clock=clock)
    made.log(range(1, 101), created_every_s=360.0)
    await made.sent()
    for number in range(101, 111):
        clock.seconds += 60.0
        made.log(range(number, number + 1), created_every_s=360.0)
        await made.sent()
    assert broker.live is not None
    broker.live.drop("killed")
    await until(lambda: len(broker.received) == 2 and len(broker.received[1]) == 110)
    await made.sent()
    assert made.publisher.counters.rewound == 1
    clock.seconds += 2000.0
    for number in range(111, 121):
        clock.seconds += 60.0
        made.log(range(number, number + 1), created_every_s=360.0)
        await made.sent()
    broker.live.drop("killed again")
    await until(lambda: len(broker.received) == 3 and 120 in numbers(broker.received[2]))
    await made.sent()
    assert numbers(broker.received[2]) == list(range(111, 121))


async def test_how_far_to_go_back_is_known_after_a_restart_too(house: Start) -> None:
    broker, clock = ScriptedBroker(keeps_sessions=False), SetClock()
    first = await house(broker, clock=clock)
    first.log(range(1, 11))
    await first.sent()
    clock.seconds += 2000.0
    first.log(range(11, 21))
    await first.sent()
    await first.die()
    clock.seconds += 10.0
    second = await house(broker, clock=clock)
    await until(lambda: len(broker.received) == 2 and 20 in numbers(broker.received[1]))
    await second.sent()
    assert numbers(broker.received[1]) == list(range(11, 21))


async def test_a_loss_of_the_session_while_the_gateway_was_off_is_seen_too(house: Start) -> None:
    first = await house(ScriptedBroker())
    first.log(range(1, 11))
    await first.sent()
    await first.stop()
    broker = ScriptedBroker(keeps_sessions=False)
    second = await house(broker)
    await until(lambda: bool(broker.received) and len(broker.received[0]) == 10)
    await second.sent()


async def test_a_first_connection_rewinds_nothing(house: Start) -> None:
    made = await house(ScriptedBroker(keeps_sessions=False))
    made.log(range(1, 4))
    await made.sent()
    assert made.publisher.counters.rewound == 0


async def test_what_is_committed_while_the_log_is_read_is_not_taken_for_gone(house: Start) -> None:
    broker = ScriptedBroker()
    made = await house(broker)
    loop, read = asyncio.get_running_loop(), made.publisher._log.after
    logged = 5

    async def log_more() -> None:
        nonlocal logged
        if logged < 50:
            made.log(range(logged + 1, logged + 6))
            logged += 5
        await made.writer.flush()
        await asyncio.sleep(0)  # until the publisher has been told, too

    def read_and_commit(seq: int, limit: int) -> list[LoggedEvent]:
        found = read(seq, limit)
        asyncio.run_coroutine_threadsafe(log_more(), loop).result(10)
        return found

    made.publisher._log.after = read_and_commit  # type: ignore[method-assign]
    made.log(range(1, 6))
    await until(lambda: made.publisher.acknowledged == 50)
    assert numbers(broker.payloads) == list(range(1, 51))


async def test_events_that_are_not_there_any_more_hold_up_nothing(house: Start) -> None:
    broker = ScriptedBroker(refusals=deque([BrokerUnavailable("away")] * 5))
    made = await house(broker, backoff_min_s=0.05, backoff_max_s=0.05)
    made.log(range(1, 10))
    await made.writer.flush()
    made.store.connection.execute("DELETE FROM event WHERE seq IN (1, 4, 5, 9)")
    await made.sent()
    assert numbers(broker.payloads) == [2, 3, 6, 7, 8]


async def test_what_the_store_dropped_before_it_was_acknowledged_is_passed_and_counted(house: Start) -> None:
    broker = ScriptedBroker()
    made = await house(broker, backoff_min_s=0.05, backoff_max_s=0.05)
    made.log(range(1, 4))
    await made.sent()
    broker.refusals = deque([BrokerUnavailable("away")] * 10_000)
    assert broker.live is not None
    broker.live.drop("cut")
    made.log(range(4, 5000))
    await made.writer.flush()
    made.store.connection.execute("DELETE FROM event WHERE seq BETWEEN 4 AND 4900")
    broker.refusals.clear()
    await made.sent()
    assert numbers(broker.payloads) == [1, 2, 3, *range(4901, 5000)]
    assert (made.publisher.counters.dropped, made.publisher.waiting) == (4897, 0)
    await made.writer.flush()
    cursor = made.store.cursor("broker")
    assert cursor is not None
    assert (cursor.position, cursor.beyond) == (4999, ())


async def test_what_was_gone_before_a_destination_began_is_no_loss_of_its(house: Start) -> None:
    first = await house(ScriptedBroker())
    first.log(range(1, 10))
    await first.sent()
    await first.writer.flush()
    first.store.connection.execute("DELETE FROM event WHERE seq < 6")
    await first.stop()
    broker = ScriptedBroker()
    second = await house(broker, destination="another")
    await second.sent()
    assert numbers(broker.payloads) == [6, 7, 8, 9]
    assert second.publisher.counters.dropped == 0


async def test_an_event_without_an_answer_holds_the_rest_only_far_behind_it(
    house: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.sync.publisher.BEYOND_MAX", 20)
    broker = ScriptedBroker(puback=lambda payload: None if payload == b"3" else SUCCESS)
    made = await house(broker)
    made.log(range(1, 100))
    await made.writer.flush()
    await until(lambda: made.publisher.acknowledged == 2 + 19)
    assert made.publisher.waiting == 99 - 21
    broker.puback = lambda payload: SUCCESS
    assert broker.live is not None
    broker.live.drop("cut")
    await made.sent()


async def test_a_broker_that_answers_nothing_is_left_and_connected_to_anew(house: Start) -> None:
    broker = ScriptedBroker(puback=lambda payload: None)
    made = await house(broker, ack_timeout_s=5)
    object.__setattr__(made.publisher._settings, "ack_timeout_s", 0.05)  # below what a person may set
    made.log(range(1, 3))
    await until(lambda: len(broker.received) == 3)
    assert "no answer from the broker in 0.05 s" in made.publisher.state or made.publisher.connected
    broker.puback = lambda payload: SUCCESS
    await made.sent()


# Presence and state.


def told(payload: bytes) -> events.GatewayState:
    event = events.decode(payload)
    assert isinstance(event, events.State)
    assert isinstance(event.data, events.GatewayState)
    return event.data


async def test_online_is_said_retained_at_each_connection_and_offline_at_the_end(house: Start) -> None:
    broker = ScriptedBroker()
    made = await house(broker)
    await until(lambda: made.publisher.connected)
    assert broker.live is not None
    will = broker.live._presence
    assert (will.topic, told(will.offline).status) == ("fidget/v1/home/state", "offline")
    broker.live.drop("cut")
    await until(lambda: len(broker.presence) == 2)
    await made.stop()
    said = [told(payload) for payload, retain in broker.presence if retain]
    assert [(s.status, s.start, s.connection) for s in said] == [("online", 1, 1), ("online", 1, 2), ("offline", 1, 2)]
    assert broker.ends == ["cut", "closed"]
    assert made.publisher.state == "stopped"
    assert len({json.loads(payload)["id"] for payload, _ in broker.presence}) == 3


async def test_stopping_waits_for_the_answers_to_what_is_on_its_way(house: Start) -> None:
    broker = ScriptedBroker(puback=lambda payload: None)
    made = await house(broker)
    made.log(range(1, 4))
    await until(lambda: len(broker.payloads) == 3)
    stopping = asyncio.create_task(made.publisher.stop(5.0))
    await asyncio.sleep(0.02)
    assert broker.presence[-1:] == broker.presence[:1]  # no farewell yet
    assert broker.live is not None
    for token in (2, 3, 4):
        broker.live._answer(token, SUCCESS)
    await stopping
    assert made.publisher.acknowledged == 3
    assert broker.ends == ["closed"]
    await made.writer.close()


async def test_stopping_is_bounded_and_leaves_the_will_to_speak(house: Start) -> None:
    broker = ScriptedBroker(puback=lambda payload: None)
    made = await house(broker)
    made.log(range(1, 4))
    await until(lambda: len(broker.payloads) == 3)
    await made.publisher.stop(0.05)
    assert broker.ends == ["aborted"]
    assert made.running.done()


async def test_stopping_does_not_wait_for_a_broker_that_is_away(house: Start) -> None:
    broker = ScriptedBroker(refusals=deque([BrokerUnavailable("away")] * 100))
    made = await house(broker, backoff_min_s=60, backoff_max_s=60)
    await until(lambda: "away" in made.publisher.state)
    async with asyncio.timeout(1):
        await made.publisher.stop(30.0)


async def test_why_nothing_is_sent_is_told_in_words_and_tried_again(house: Start) -> None:
    refusals: deque[Exception] = deque([BrokerUnavailable("broker x:1: Connection refused"), BrokerRefused("no entry")])
    broker = ScriptedBroker(refusals=refusals)
    made = await house(broker, backoff_min_s=0.2, backoff_max_s=0.2)
    states: list[str] = []

    def seen(words: str) -> bool:
        states.append(made.publisher.state)
        return words in made.publisher.state

    await until(lambda: seen("broker x:1: Connection refused; next try 0."))
    assert not made.publisher.connected
    await until(lambda: seen("no entry; Check username, password"))
    await until(lambda: seen("connected to broker.example:1883, MQTT 5"))
    assert (made.publisher.connected, made.publisher.protocol) == (True, "5")


async def test_the_pause_between_tries_doubles_up_to_its_limit_with_jitter(house: Start) -> None:
    states: list[str] = []

    class Away(ScriptedBroker):
        async def connect(self, presence: Presence | None, listener: Listener) -> Connection:
            states.append(made.publisher.state)
            raise BrokerUnavailable("away")

    made = await house(Away(), backoff_min_s=0.01, backoff_max_s=0.04)
    await until(lambda: len(states) > 6)
    pauses = [float(re.findall(r"next try (.*) s later", state)[0]) for state in states[1:]]
    limits = [0.01, 0.02, *([0.04] * len(pauses))]
    assert all(limit / 2 <= pause <= limit for pause, limit in zip(pauses, limits, strict=False))
    assert len(set(pauses[2:])) > 1


# Whatever the broker does.

ANSWERS = st.sampled_from([SUCCESS, SUCCESS, NO_SUBSCRIBERS, None, None, 0x80])


@hypothesis_settings(max_examples=25, deadline=None)
@given(
    answers=st.lists(ANSWERS, max_size=60),
    drops=st.lists(st.integers(1, 12), max_size=5),
    refusals=st.integers(0, 3),
    keeps_sessions=st.booleans(),
    window=st.integers(1, 8),
    deaths=st.integers(0, 2),
)
def test_whatever_the_broker_does_every_event_arrives_and_first_arrivals_are_in_order(
    answers: list[int | None], drops: list[int], refusals: int, keeps_sessions: bool, window: int, deaths: int
) -> None:
    async def play(path: Path) -> None:
        script = deque(answers)
        broker = ScriptedBroker(keeps_sessions=keeps_sessions)

        def puback(payload: bytes) -> int | None:
            return script.popleft() if script else SUCCESS

        broker.puback = puback
        broker.refusals = deque([BrokerUnavailable("away")] * refusals)
        logged = 0
        for life in range(deaths + 1):
            made = House(path, broker, **QUICK, window=window)
            made.log(range(logged + 1, logged + 21))
            logged += 20
            if life < deaths:
                await until(lambda: len(broker.payloads) > 0)
                await made.die()
        for count in drops:
            broker.drop_after = count
            await asyncio.sleep(0.003)
            if broker.live is not None:
                broker.live.drop("cut")
        broker.drop_after = None
        script.clear()
        if broker.live is not None:
            broker.live.drop("cut")
        await made.sent()
        await made.stop()
        arrived = numbers(broker.payloads)
        assert set(arrived) == set(range(1, logged + 1))
        assert list(dict.fromkeys(arrived)) == sorted(set(arrived))

    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr("gateway.sync.flight.SLOW_MIN_S", 0.001)
        patch.setattr("gateway.sync.flight.SLOW_MAX_S", 0.002)
        asyncio.run(play(Path(folder) / "gateway.db"))
