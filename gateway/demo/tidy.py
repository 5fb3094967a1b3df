"""Leaves nothing of a demo on somebody's broker: no retained message, no session. Blocking; best effort."""

import queue
from collections.abc import Iterable
from contextlib import suppress

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.reasoncodes import ReasonCode

from gateway.demo.arrange import Broker

ANSWER_WITHIN_S = 5.0


def forget(broker: Broker, retained: Iterable[str], client_ids: Iterable[str]) -> None:
    """Takes back the retained messages of these topics, and ends the sessions of these clients, none of them connected.

    An empty retained message takes back the one that stands (MQTT 5, 3.3.1.3); a clean start that is not kept over its
    disconnect ends the session (3.1.2.4 and 3.1.2.11.2).
    """
    with suppress(OSError, RuntimeError, ValueError):  # paho's, where the connection is lost meanwhile
        for client_id in client_ids:
            client = _connected(broker, client_id)
            for topic in retained:
                client.publish(topic, b"", qos=1, retain=True).wait_for_publish(ANSWER_WITHIN_S)
            retained = ()
            client.disconnect()
            client.loop_stop()


def _connected(broker: Broker, client_id: str) -> Client:
    """In MQTT 5, or 3.1.1 where the broker refuses that. Raises ConnectionError, OSError."""
    for protocol in (MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311):
        clean = None if protocol is MQTTProtocolVersion.MQTTv5 else True
        client = Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=protocol, clean_session=clean)
        if broker.username:
            client.username_pw_set(broker.username, broker.password)
        answers: queue.SimpleQueue[ReasonCode] = queue.SimpleQueue()
        client.on_connect = lambda *told, answers=answers: answers.put(told[3])
        client.connect(broker.host, broker.port)
        client.loop_start()
        with suppress(queue.Empty):
            if not answers.get(timeout=ANSWER_WITHIN_S).is_failure:
                return client
        client.loop_stop()
    raise ConnectionError(f"broker {broker.host}:{broker.port}")
