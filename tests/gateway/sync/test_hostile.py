"""A broker that refuses, lies, babbles or falls silent: nothing is lost, people are told, and the rest goes on."""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from gateway.store import Store, StoreSettings
from gateway.sync.wire import REASONS
from tests.gateway.sync.conftest import House, until
from tests.gateway.sync.server5 import (
    Act,
    Client,
    Publish,
    Server5,
    connack,
    disconnect,
    packet,
    puback,
    reason_string,
    saying,
    server5,
    server_reference,
    taking,
    text,
)
from tests.gateway.sync.test_wire import VIOLATIONS

Start = Callable[..., Awaitable[House]]
TRANSIENT = [0x80, 0x83, 0x91]
REFUSING = {0x87: "Not authorized", 0x90: "Topic name invalid", 0x99: "Payload format invalid"}


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Start]:
    houses: list[House] = []

    async def start(port: int, **changes: Any) -> House:
        quick = {"host": "127.0.0.1", "port": port, "backoff_min_s": 0.01, "backoff_max_s": 0.05, "protocol": "5"}
        houses.append(House(tmp_path / "gateway.db", **(quick | changes)))
        return houses[-1]

    yield start
    for made in houses:
        if not made.running.done():
            await made.stop()


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.sync.flight.SLOW_MIN_S", 0.02)


def numbers(server: Server5) -> list[int]:
    return [int(payload) for payload in server.payloads]


def sets_aside(path: Path) -> tuple[list[int], str]:
    with Store.open(StoreSettings(path=path)) as store:
        log = store.events()
        try:
            return log.parked("broker"), log.refusal("broker")
        finally:
            log.close()


def once(code: int | bytes, number: int) -> Callable[[Publish], int | bytes]:
    """This answer to the first sending of one event."""
    seen: Counter[bytes] = Counter()

    def answer(publish: Publish) -> int | bytes:
        seen[publish.payload] += 1
        return code if int(publish.payload) == number and seen[publish.payload] == 1 else 0

    return answer


# Reason codes in PUBACK (MQTT 5, 3.4.2.1).


@pytest.mark.parametrize("code", [0x00, 0x10])
async def test_success_moves_the_cursor_with_subscribers_or_without(house: Start, code: int) -> None:
    async with server5(taking(lambda publish: code)) as server:
        made = await house(server.port)
        made.log(range(1, 21))
        await made.sent()
        assert (made.publisher.acknowledged, made.publisher.refused) == (20, 0)
        assert numbers(server) == list(range(1, 21))
        assert len(server.clients) == 1


@pytest.mark.parametrize("code", [0x97, *TRANSIENT])
async def test_what_may_pass_is_sent_again_on_the_same_connection(
    house: Start, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with server5(taking(once(code, 3))) as server:
        made = await house(server.port)
        made.log(range(1, 8))
        await made.sent()
        assert sorted(numbers(server)) == list(range(1, 8))
        assert Counter(int(p.payload) for p in server.seen if p.topic.startswith("t/"))[3] == 2
        assert (made.publisher.refused, len(server.clients)) == (0, 1)
    assert f"event 3: the broker answers {REASONS[code]}; slower" in caplog.text


async def test_over_its_quota_a_broker_gets_less_at_a_time_until_it_takes_more_again(
    house: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.sync.flight.SLOW_MIN_S", 0.2)
    loop, came_s = asyncio.get_running_loop(), list[float]()
    quota = [3]

    def answer(publish: Publish) -> int:
        came_s.append(loop.time())
        quota[0] -= 1
        return 0 if quota[0] >= 0 else 0x97

    async with server5(taking(answer)) as server:
        made = await house(server.port, window=8)
        made.log(range(1, 31))
        await made.writer.flush()
        await until(lambda: len(came_s) >= 12)
        assert max(later - earlier for earlier, later in itertools.pairwise(came_s)) >= 0.1  # half a pause: jitter here
        assert made.publisher.refused == 0
        quota[0] = 1000
        await made.sent()
        assert sorted(numbers(server)) == list(range(1, 31))


@pytest.mark.parametrize("code", REFUSING)
async def test_what_is_refused_is_set_aside_with_the_brokers_words_and_the_rest_goes_on(
    house: Start, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def act(server: Server5, client: Client) -> None:
        def answer(publish: Publish) -> int | bytes:
            refused = int(publish.payload) == 3
            return puback(publish.packet_id, code, reason_string("tenant closed")) if refused else 0

        await taking(answer)(server, client)

    async with server5(act) as server:
        made = await house(server.port)
        made.log(range(1, 8))
        await made.sent()
        assert numbers(server) == [1, 2, 4, 5, 6, 7]
        words = f"{REFUSING[code]} (tenant closed)"
        assert f"it refuses 1 events: {words}" in made.publisher.state
        assert (made.publisher.refused, made.publisher.acknowledged, len(server.clients)) == (1, 6, 1)
        await made.stop()
    assert sets_aside(made.store.settings.path) == ([3], words)
    assert f"event 3 (t/left/prediction): the broker refuses it: {words} (0x{code:02x})" in caplog.text


async def test_what_never_passes_is_set_aside_in_the_end(house: Start) -> None:
    async with server5(taking(lambda publish: 0x83 if publish.payload == b"3" else 0)) as server:
        made = await house(server.port)
        made.log(range(1, 8))
        await made.sent()
        assert (sorted(numbers(server)), made.publisher.refused) == ([1, 2, 4, 5, 6, 7], 1)
        assert "Implementation specific error" in made.publisher.state


async def test_a_reason_that_puback_cannot_have_sets_its_event_aside_too(house: Start) -> None:
    def answer(publish: Publish) -> int | bytes:
        return puback(publish.packet_id, 0x95) if publish.payload == b"3" else 0

    async with server5(taking(answer)) as server:
        made = await house(server.port)
        made.log(range(1, 8))
        await made.sent()
        await until(lambda: set(numbers(server)) == {1, 2, 4, 5, 6, 7})
        assert made.publisher.refused == 1
        assert "Packet too large" in made.publisher.state


# Packet too large, and ends of the connection that are about one message.


async def test_no_packet_is_larger_than_the_broker_takes(house: Start) -> None:
    """The server fails the test at a packet that is."""
    async with server5(taking(packet_bytes_max=400)) as server:
        made = await house(server.port)
        for number in range(1, 41):
            made.log(range(number, number + 1), size=10 * number)
        await made.sent()
        sizes = [publish.size for publish in server.seen]
        assert 300 < max(sizes) <= 400
        assert len(server.payloads) + made.publisher.refused == 40
        assert "larger than the broker takes" in made.publisher.state


@pytest.mark.parametrize("code", [0x87, 0x90, 0x95, 0x99])
async def test_a_broker_that_disconnects_over_one_message_gets_all_the_others(house: Start, code: int) -> None:
    async with server5(taking(lambda publish: disconnect(code) if publish.payload == b"13" else 0)) as server:
        made = await house(server.port)
        made.log(range(1, 41))
        await made.sent()
        await until(lambda: set(numbers(server)) == {*range(1, 41)} - {13})
        assert made.publisher.refused == 1
        assert f"it refuses 1 events: {REASONS[code]}" in made.publisher.state
        await made.stop()
    assert sets_aside(made.store.settings.path)[0] == [13]


async def test_a_broker_that_hangs_up_over_one_message_without_a_word_gets_all_the_others(house: Start) -> None:
    async with server5(taking(lambda publish: b"" if publish.payload == b"13" else 0)) as server:
        made = await house(server.port)
        made.log(range(1, 41))
        await made.sent()
        await until(lambda: set(numbers(server)) == {*range(1, 41)} - {13})
        assert made.publisher.refused == 1
        assert "it refuses 1 events: the connection ends each time that it is sent" in made.publisher.state


async def test_connections_that_are_merely_lost_set_nothing_aside(house: Start) -> None:
    drawn = random.Random(3)
    async with server5(taking(lambda publish: b"" if drawn.random() < 0.2 else 0)) as server:
        made = await house(server.port, window=5)
        made.log(range(1, 101))
        await made.sent()
        assert set(numbers(server)) == set(range(1, 101))
        assert made.publisher.refused == 0


# What is no MQTT, and what may not come.


async def test_a_broker_that_breaks_the_standard_is_left_told_and_tried_again(
    house: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """In every way, one after the other."""
    async with server5(*[saying(data, after_connack=False) for data, _ in VIOLATIONS.values()], taking()) as server:
        made = await house(server.port)
        made.log(range(1, 11))
        await made.sent()
        assert set(numbers(server)) == set(range(1, 11))
        assert len(server.clients) == len(VIOLATIONS) + 1
        told = [record.getMessage() for record in caplog.records if "next try" in record.getMessage()]
        assert len(told) == len(VIOLATIONS)
        for (name, (_, words)), line in zip(VIOLATIONS.items(), told, strict=True):
            # bytes behind an end of its own: the end is told
            assert words in line or (name.startswith("more after") and ("refused" in line or "disconnected" in line))
        assert "Traceback" not in caplog.text


async def test_a_violation_is_said_to_a_broker_of_5(house: Start) -> None:
    async with server5(saying(b"\xd0\x01\x00"), taking()) as server:
        await house(server.port)
        await until(lambda: len(server.clients) == 2 and server.clients[0].said_bye is not None)
        assert server.clients[0].said_bye == 0x82


async def test_answers_for_what_was_never_sent_count_for_nothing(house: Start) -> None:
    """Also those that come before what they are for, twice, or out of order."""
    held: list[Publish] = []

    def answer(publish: Publish) -> bytes | None:
        held.append(publish)
        lies = puback(publish.packet_id + 500) + puback(60_000)
        if len(held) < 5:
            return lies
        truth = b"".join(puback(one.packet_id) * 2 for one in reversed(held))
        held.clear()
        return lies + truth

    async with server5(taking(answer)) as server:
        made = await house(server.port, window=5)
        made.log(range(1, 4))
        await made.writer.flush()
        await until(lambda: len(held) == 3)
        assert made.publisher.acknowledged == 0
        made.log(range(4, 21))
        await made.sent()
        assert made.publisher.acknowledged == 20
        assert len(server.clients) == 1


HALVES = [b"", b"\x40", b"\x40\x02\x00", b"\x30\xff\xff\x03abc", b"\xe0\x05\x8b"]
HALF_CONNACKS = [b"", b"\x20", b"\x20\x03\x00\x00"]


async def test_half_a_packet_and_then_silence_is_left_after_a_while(house: Start) -> None:
    acts = [saying(half) for half in HALVES] + [saying(half, after_connack=False) for half in HALF_CONNACKS]
    async with server5(*acts, taking()) as server:
        made = await house(server.port, connect_timeout_s=0.2)
        object.__setattr__(made.publisher._settings, "ack_timeout_s", 0.1)  # below what a person may set
        made.log(range(1, 11))
        await made.writer.flush()
        await until(lambda: len(server.clients) == len(acts) + 1)
        await made.sent()
        assert set(numbers(server)) == set(range(1, 11))


async def test_the_servers_keep_alive_counts_and_its_silence_is_noticed_with_nothing_on_the_way(
    house: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """3.2.2.3.14; the server says 1 s where we asked for 3600."""
    gone: list[Client] = []

    async def act(server: Server5, client: Client) -> None:
        await client.read()
        client.send(connack(properties=b"\x13\x00\x01"))
        publish = await client.read()
        assert isinstance(publish, Publish)
        client.send(puback(publish.packet_id))
        while client.pings < 2:  # answered
            await client.reader.readexactly(2)
            client.pings += 1
            client.send(b"\xd0\x00")
        while await client.reader.read(100):  # not answered
            pass
        gone.append(client)

    async with server5(act, taking()) as server:
        await house(server.port, keepalive_s=3600)
        await until(lambda: bool(gone))
        await until(lambda: len(server.clients) == 2)
    assert "connection lost: no answer to PINGREQ" in caplog.text


# DISCONNECT (3.14.2.1).

ENDS = [0x00, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99,
        0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2]  # fmt: skip


async def test_each_reason_to_disconnect_is_told_in_words_and_the_next_connection_goes_on(
    house: Start, caplog: pytest.LogCaptureFixture
) -> None:
    async with server5(*[saying(disconnect(code, reason_string("go away"))) for code in ENDS], taking()) as server:
        made = await house(server.port)
        made.log(range(1, 11))
        await made.sent()
        assert set(numbers(server)) == set(range(1, 11))
        assert len(server.clients) == len(ENDS) + 1
    for code in ENDS:
        assert f"it disconnected: {REASONS[code]} (go away)" in caplog.text


# Whatever it says.

PIECES = [
    connack(),
    connack(0x89),
    puback(1),
    puback(2, 0x97),
    puback(3, 0x87),
    puback(1, 0x95),
    b"\xd0\x00",
    disconnect(0x8B),
    packet(0x30, text("t") + b"\x00hi"),
    packet(0x32, text("t") + b"\x00\x07\x05hi"),
]


@hypothesis_settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rounds=st.lists(
        st.tuples(
            st.booleans(),
            st.lists(st.one_of(st.sampled_from(PIECES), st.binary(min_size=1, max_size=40)), max_size=5),
            st.booleans(),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_whatever_it_says_the_publisher_lives_and_what_it_did_not_take_arrives(
    rounds: list[tuple[bool, list[bytes], bool]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    async def play(path: Path) -> None:
        acts: list[Act] = [saying(*data, after_connack=good, then_close=close) for good, data, close in rounds]
        async with server5(*acts, taking()) as server:
            made = House(
                path, host="127.0.0.1", port=server.port, backoff_min_s=0.01, backoff_max_s=0.02, connect_timeout_s=0.2,
                protocol="5",
            )  # fmt: skip
            object.__setattr__(made.publisher._settings, "ack_timeout_s", 0.2)
            made.log(range(1, 11))
            await until(lambda: len(server.clients) > len(rounds))
            await made.sent()
            assert not made.running.done()
            # a lie that looks like an answer cannot be told from one: there are such for packets 1 to 3
            assert set(range(4, 11)) <= set(numbers(server)) | set(made.publisher._parked)
            await made.stop()

    asyncio.run(play(tmp_path_factory.mktemp("hostile") / "gateway.db"))


# Server redirection (4.13).


def sending_on(code: int, port: int, *, at_connect: bool = True, host: str = "127.0.0.1") -> Act:
    place = server_reference(f"{host}:{port}")
    return saying(
        connack(code, properties=place) if at_connect else disconnect(code, place), after_connack=not at_connect
    )


@pytest.mark.parametrize("at_connect", [True, False], ids=["CONNACK", "DISCONNECT"])
@pytest.mark.parametrize("code", [0x9C, 0x9D])
async def test_a_broker_that_names_another_is_followed(
    house: Start, code: int, at_connect: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def here_and_gone(publish: Publish) -> int | bytes:
        return b"" if publish.payload == b"5" and publish.packet_id < 9 else 0

    async with (
        server5(taking(here_and_gone), taking()) as other,
        server5(sending_on(code, other.port, at_connect=at_connect), taking()) as server,
    ):
        made = await house(server.port, window=1)
        made.log(range(1, 11))
        await made.sent()
        assert f":{other.port}" in caplog.text
        # once it has hung up: one that stands in is left again, one to which all has moved is not
        assert (len(server.clients), len(other.clients)) == ((2, 1) if code == 0x9C else (1, 2))
        assert sorted({*numbers(server), *numbers(other)}) == list(range(1, 11))


async def test_where_redirection_is_off_it_is_an_absent_broker(house: Start) -> None:
    async with server5(taking()) as other, server5(sending_on(0x9D, other.port)) as server:
        made = await house(server.port, redirection=False)
        await until(lambda: "refused the connection: Server moved" in made.publisher.state)
        await until(lambda: len(server.clients) > 2)
        assert other.clients == []


async def test_a_reference_to_nowhere_leads_back_and_a_circle_ends(
    house: Start, caplog: pytest.LogCaptureFixture
) -> None:
    acts: list[Act] = []
    async with server5(*acts, taking()) as server:
        server.acts = [sending_on(0x9D, 1), *[sending_on(0x9C, server.port)] * 4, taking()]
        made = await house(server.port)
        made.log(range(1, 11))
        await made.sent()
        assert numbers(server) == list(range(1, 11))
    assert "broker 127.0.0.1:1: Connection refused" in caplog.text
    assert "it sends us on again and again" in caplog.text
