"""After a demo a broker that is somebody else's has no retained message and no session of it."""

import json
import socket
from typing import Any

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from gateway.demo.arrange import Broker
from gateway.demo.tidy import forget


def knows(broker: Broker, client_id: str) -> bool:
    """Whether the broker takes up a session that it kept; keeps one in any case."""
    present: list[bool] = []
    expiry = Properties(PacketTypes.CONNECT)
    expiry.SessionExpiryInterval = 600
    client = Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=MQTTProtocolVersion.MQTTv5)
    client.on_connect = lambda client, userdata, flags, reason, properties: present.append(flags.session_present)
    client.connect(broker.host, broker.port, clean_start=False, properties=expiry)
    while not present:
        client.loop(0.1)
    client.publish("demo/state", b"kept", qos=1, retain=True)
    client.disconnect()
    client.loop(0.1)
    return present[0]


def retained(broker: Broker) -> list[str]:
    """Topics of the retained messages, as a fresh subscriber gets them; a last message tells that there are no more."""
    topics: list[str] = []
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    client.on_message = lambda client, userdata, message: topics.append(message.topic)
    client.on_subscribe = lambda client, *rest: client.publish("demo/end", b"x")
    client.on_connect = lambda client, *rest: client.subscribe("demo/#")
    client.connect(broker.host, broker.port)
    while "demo/end" not in topics:
        client.loop(0.1)
    client.disconnect()
    return topics[:-1]


@pytest.mark.mosquitto
def test_sessions_and_retained_messages_are_taken_back(mosquitto: Any) -> None:
    mosquitto.start()
    broker = Broker("127.0.0.1", mosquitto.port)
    assert not knows(broker, "gateway")
    assert not knows(broker, "subscriber")
    assert knows(broker, "gateway")
    assert retained(broker) == ["demo/state"]
    forget(broker, ["demo/state"], ["gateway", "subscriber"])
    assert retained(broker) == []
    assert not knows(broker, "gateway")
    assert not knows(broker, "subscriber")


async def test_also_where_the_broker_speaks_no_mqtt_5(path: Any) -> None:
    broker = await path.embedded_broker()
    await path.subscribe(broker)
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv311)
    client.connect(broker.host, broker.port)
    client.loop_start()
    client.publish("fidget/v1/under-test/state", b'{"id":"a","source":"s"}', qos=1, retain=True).wait_for_publish(10)
    await path.until(lambda: len(path.messages()) == 1, 10, "the message arrives")
    forget(broker, ["fidget/v1/under-test/state"], ["gateway"])
    await path.until(lambda: len(path.messages()) == 2, 10, "it is taken back")
    assert json.loads(path.files.received.read_text().splitlines()[-1])["event"] is None
    client.disconnect()
    client.loop_stop()


def test_a_broker_that_is_gone_is_no_error() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = free.getsockname()[1]
    forget(Broker("127.0.0.1", nobody), ["demo/state"], ["gateway"])
