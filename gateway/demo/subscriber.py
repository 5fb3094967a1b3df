"""An independent subscriber: writes down what arrives, with no code of the gateway between the broker and the file.

    python -m gateway.demo.subscriber --host HOST --port PORT --topic FILTER --out FILE [--username NAME]

The password comes in FIDGET_BROKER_PASSWORD. MQTT 5, or 3.1.1 where the broker speaks no 5; QoS 1, persistent
session. Prints `subscribed, MQTT V` when the broker has granted it. Each message becomes one line of JSON
{"topic", "retain", "dup", "event"}; "event" is the payload as JSON, or null where it is none. The line is written
before PUBACK goes out. SIGTERM and Ctrl-C end it; exit code 2 where the broker refuses, 1 where none is reached.
"""

import argparse
import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from paho.mqtt.client import Client, ConnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from gateway.demo.announce import PASSWORD_VARIABLE

SESSION_EXPIRY_S = 3600
CONNECT_WITHIN_S = 15.0
_NAMES = {MQTTProtocolVersion.MQTTv5: "5", MQTTProtocolVersion.MQTTv311: "3.1.1"}
_UNSUPPORTED_VERSION = 0x84
_FAILURE = 0x80
"""Reason codes from here on are failures, in MQTT 5 (2.4) and in the 3.1.1 SUBACK (3.9.3)."""


def line_of(message: MQTTMessage) -> str:
    try:
        event = json.loads(message.payload)
    except ValueError:
        event = None
    record = {"topic": message.topic, "retain": message.retain, "dup": message.dup, "event": event}
    return json.dumps(record, separators=(",", ":")) + "\n"


class Subscriber:
    """One paho client at a time; `answers` gets "subscribed", or what the broker refused."""

    def __init__(self, args: argparse.Namespace, out: TextIO) -> None:
        self._args, self._out = args, out
        self.answers: queue.Queue[str | int] = queue.Queue()

    def open(self, protocol: MQTTProtocolVersion) -> Client:
        """Raises OSError where the broker is not reached."""
        v5 = protocol is MQTTProtocolVersion.MQTTv5
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._args.client_id,
            protocol=protocol,
            clean_session=None if v5 else False,
        )
        if self._args.username:
            client.username_pw_set(self._args.username, os.environ.get(PASSWORD_VARIABLE, ""))
        client.on_connect, client.on_subscribe, client.on_message = self._connected, self._subscribed, self._arrived
        client.reconnect_delay_set(1, 2)
        if v5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = SESSION_EXPIRY_S
            client.connect(self._args.host, self._args.port, keepalive=30, clean_start=False, properties=properties)
        else:
            client.connect(self._args.host, self._args.port, keepalive=30)
        client.loop_start()
        return client

    def _connected(
        self, client: Client, _: object, flags: ConnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        del flags, properties
        if reason.is_failure:
            self.answers.put(_UNSUPPORTED_VERSION if reason.value == _UNSUPPORTED_VERSION else str(reason))
            client.disconnect()
        else:
            client.subscribe(self._args.topic, qos=1)

    def _subscribed(
        self, client: Client, _: object, mid: int, reasons: list[ReasonCode], properties: Properties | None
    ) -> None:
        del client, mid, properties
        failed = [str(reason) for reason in reasons if reason.value >= _FAILURE]
        self.answers.put(f"{self._args.topic}: {failed[0]}" if failed else "subscribed")

    def _arrived(self, client: Client, _: object, message: MQTTMessage) -> None:
        del client
        self._out.write(line_of(message))
        self._out.flush()


def run(args: argparse.Namespace, stopping: threading.Event) -> int:
    with Path(args.out).open("a", encoding="utf-8") as out:
        subscriber = Subscriber(args, out)
        for protocol in (MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311):
            try:
                client = subscriber.open(protocol)
                answer = subscriber.answers.get(timeout=CONNECT_WITHIN_S)
            except OSError as error:
                print(f"broker {args.host}:{args.port}: {error.strerror or error}", file=sys.stderr)
                return 1
            except queue.Empty:
                print(f"broker {args.host}:{args.port}: no answer in {CONNECT_WITHIN_S:g} s", file=sys.stderr)
                return 1
            if answer != _UNSUPPORTED_VERSION:
                break
            client.loop_stop()
        if answer != "subscribed":
            print(f"broker {args.host}:{args.port} refused: {answer}", file=sys.stderr)
            return 2
        print(f"subscribed, MQTT {_NAMES[protocol]}", flush=True)
        stopping.wait()
        leave(client, protocol)
    return 0


def leave(client: Client, protocol: MQTTProtocolVersion) -> None:
    """Disconnects and, where the protocol has a way to say so, leaves no session behind."""
    properties = None
    if protocol is MQTTProtocolVersion.MQTTv5:
        properties = Properties(PacketTypes.DISCONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = 0
    client.disconnect(properties=properties)
    client.loop_stop()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m gateway.demo.subscriber", description="Write down what arrives.")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--topic", required=True, help="MQTT topic filter")
    parser.add_argument("--out", required=True, help="a line of JSON for each message is appended to this file")
    parser.add_argument("--client-id", default="fidget-subscriber")
    parser.add_argument("--username", default="", help=f"password in ${PASSWORD_VARIABLE}")
    args = parser.parse_args(argv)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    return run(args, stopping)


if __name__ == "__main__":
    raise SystemExit(main())
