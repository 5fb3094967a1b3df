"""The subscriber against a real broker: what it hands out, what it acknowledges, and how it comes back."""

import asyncio
import contextlib
import threading

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from gateway import events
from gateway.client import AsyncSubscriber, BrokerRefused, Subscriber, Subscription
from tests.gateway.sync.conftest import serving

pytestmark = pytest.mark.mosquitto
WITHIN_S = 20.0


class Publisher:
    """Waits for each PUBACK, so that what it has published is at the broker."""

    def __init__(self, port, version):
        self._client = Client(CallbackAPIVersion.VERSION2, protocol=version)
        self._v5 = version is MQTTProtocolVersion.MQTTv5
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def say(self, payload, topic="fidget/v1/home/left/prediction", retain=False, replayed=False):
        payload = payload if isinstance(payload, bytes) else events.encode(payload)
        properties = Properties(PacketTypes.PUBLISH)
        if replayed:
            properties.UserProperty = ("replayed", "true")
        self._client.publish(topic, payload, 1, retain, properties if self._v5 else None).wait_for_publish(WITHIN_S)

    def close(self):
        self._client.disconnect()
        self._client.loop_stop()


@contextlib.contextmanager
def publishing(port, version=MQTTProtocolVersion.MQTTv5):
    publisher = Publisher(port, version)
    try:
        yield publisher
    finally:
        publisher.close()


def numbers_of(messages, count):
    """The first window of each of the next so many predictions."""
    found = []
    for _ in range(count):
        message = messages.next(WITHIN_S)
        assert message is not None, f"only {found} came"
        found.append(message.event.data.windows[0].number)
    return found


@pytest.fixture
async def broker(mosquitto):
    await mosquitto.start()
    return mosquitto


def test_events_come_typed_each_once_and_what_is_none_is_told(broker, made):
    malformed = []
    with publishing(broker.port) as publisher:
        publisher.say(made.life(3), "fidget/v1/home/state", retain=True)
        with Subscriber(Subscription("127.0.0.1", broker.port), malformed.append) as messages:
            for payload in (made.prediction(0), b"no event", made.prediction(0), made.prediction(1)):
                publisher.say(payload)
            birth = messages.next(WITHIN_S)
            assert (birth.event, birth.retained, birth.topic) == (made.life(3), True, "fidget/v1/home/state")
            assert messages.lives.alive("home")
            first = messages.next(WITHIN_S)
            assert (first.event, first.retained) == (made.prediction(0), False)
            assert numbers_of(messages, 1) == [1]
    assert [(one.topic, one.payload) for one in malformed] == [("fidget/v1/home/left/prediction", b"no event")]
    assert messages.counters == {"received": 5, "repeated": 1, "malformed": 1}


async def test_the_same_for_asyncio(broker, made):
    with publishing(broker.port) as publisher:
        async with asyncio.timeout(WITHIN_S), AsyncSubscriber(Subscription("127.0.0.1", broker.port)) as messages:
            for number in (0, 0, 1, 2):
                publisher.say(made.prediction(number))
            found = []
            async for message in messages:
                found.append(message.event.data.windows[0].number)
                if len(found) == 3:
                    await messages.close()
    assert found == [0, 1, 2]


def test_what_was_not_handled_comes_again_and_what_was_does_not(broker, made):
    what = Subscription("127.0.0.1", broker.port, client_id="archive")
    with publishing(broker.port) as publisher:
        with contextlib.suppress(ZeroDivisionError), Subscriber(what) as messages:
            for number in range(4):
                publisher.say(made.prediction(number))
            assert numbers_of(messages, 3) == [0, 1, 2]
            raise ZeroDivisionError  # while 2 is handled
        publisher.say(made.prediction(4))  # while nobody is there
        with Subscriber(what) as messages:
            assert numbers_of(messages, 3) == [2, 3, 4]
        with Subscriber(what) as messages:
            publisher.say(made.prediction(5))
            assert numbers_of(messages, 1) == [5]


def test_after_an_outage_predictions_come_in_order_if_asked_for(broker, made):
    what = Subscription("127.0.0.1", broker.port, in_order=True, patience_s=0.3)
    with publishing(broker.port) as publisher, Subscriber(what) as messages:
        for number in (0, 5, 6, 1, 2, 3, 4, 9):  # 7 and 8 are lost for good
            publisher.say(made.prediction(number))
        assert numbers_of(messages, 8) == [0, 1, 2, 3, 4, 5, 6, 9]
        publisher.say(made.prediction(8))
        assert messages.next(WITHIN_S).late


def test_what_the_gateway_sends_behind_newer_events_is_marked(broker, made):
    with publishing(broker.port) as publisher, Subscriber(Subscription("127.0.0.1", broker.port)) as messages:
        publisher.say(made.prediction(9))
        publisher.say(made.prediction(2), replayed=True)
        assert [messages.next(WITHIN_S).replayed for _ in range(2)] == [False, True]


def test_more_than_the_broker_sends_at_once_comes_to_a_slow_reader(broker, made):
    with publishing(broker.port) as publisher, Subscriber(Subscription("127.0.0.1", broker.port)) as messages:
        for number in range(300):
            publisher.say(made.prediction(number))
        assert numbers_of(messages, 300) == list(range(300))


async def test_a_broker_that_was_away_is_connected_to_again_and_nothing_is_missing(broker, made):
    what = Subscription("127.0.0.1", broker.port, client_id="archive", retry_max_s=1)
    with await asyncio.to_thread(Subscriber(what).__enter__) as messages:
        with publishing(broker.port) as publisher:
            publisher.say(made.prediction(0))
            publisher.say(made.prediction(1))
        assert await asyncio.to_thread(numbers_of, messages, 1) == [0]
        broker.stop()  # 0 is handled when the next one is asked for, so it comes again, and is dropped
        await broker.start()
        with publishing(broker.port) as publisher:
            publisher.say(made.prediction(2))
            assert await asyncio.to_thread(numbers_of, messages, 2) == [1, 2]


def test_closing_from_another_thread_ends_the_iteration(broker):
    with Subscriber(Subscription("127.0.0.1", broker.port)) as messages:
        threading.Timer(0.1, messages.close).start()
        assert list(messages) == []
        assert messages.next() is None


async def test_a_broker_of_3_1_1_serves_too(embedded, made):
    what = Subscription("127.0.0.1", embedded)

    def receive():
        with publishing(embedded, MQTTProtocolVersion.MQTTv311) as publisher, Subscriber(what) as messages:
            publisher.say(made.prediction(3))
            return numbers_of(messages, 1)

    assert await asyncio.to_thread(receive) == [3]


@pytest.mark.parametrize("code", [0x86, 0x87])
async def test_a_broker_that_refuses_is_told_in_words(code):
    def what(port):
        return Subscription("127.0.0.1", port, username="u", password="secret")

    async with serving(lambda level: b"\x20\x03\x00" + bytes([code]) + b"\x00") as server:
        with pytest.raises(BrokerRefused) as refused:
            await asyncio.to_thread(Subscriber(what(server.port)).__enter__)
    assert "secret" not in repr(what(server.port))
    said = {0x86: "Bad user name or password", 0x87: "Not authorized"}[code]
    assert str(refused.value) == f"broker 127.0.0.1:{server.port} refuses: {said}"


async def test_a_broker_that_is_not_there_is_told_in_words(unused_tcp_port):
    with pytest.raises(BrokerRefused, match=f"broker 127.0.0.1:{unused_tcp_port}: Connection refused"):
        await asyncio.to_thread(Subscriber(Subscription("127.0.0.1", unused_tcp_port)).__enter__)
