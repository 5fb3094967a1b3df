"""The embedded broker, as a process of its own, spoken to by paho and by bytes on a socket."""

import asyncio
import json
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from gateway.demo.announce import PASSWORD_VARIABLE, announced
from gateway.demo.processes import Child, Children

WITHIN_S = 10.0


@pytest.fixture
async def children(tmp_path: Path) -> AsyncIterator[Children]:
    async with Children(tmp_path) as started:
        yield started


async def broker(children: Children, *options: str, password: str = "") -> tuple[str, int]:
    child = await children.start("broker", ("-m", "gateway.demo.broker", *options), {PASSWORD_VARIABLE: password})
    return await child.says(announced, WITHIN_S)


async def subscriber(children: Children, at: tuple[str, int], topic: str, out: Path) -> tuple[Child, str]:
    where = ("--host", at[0], "--port", str(at[1]), "--topic", topic, "--out", str(out))
    child = await children.start("subscriber", ("-m", "gateway.demo.subscriber", *where))
    return child, await child.says(lambda line: line if line.startswith("subscribed") else None, WITHIN_S)


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(int(WITHIN_S / 0.02)):
        if condition():
            return
        await asyncio.sleep(0.02)
    pytest.fail(f"not so within {WITHIN_S:g} s")


def lines_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def connect_packet(client_id: bytes) -> bytes:
    body = b"\x00\x04MQTT\x04\x02\x00\x3c" + struct.pack(">H", len(client_id)) + client_id  # 3.1.1, clean session
    return bytes([0x10, len(body)]) + body


def publish_packet(topic: bytes, payload: bytes, packet_id: int) -> bytes:
    body = struct.pack(">H", len(topic)) + topic + struct.pack(">H", packet_id) + payload
    return bytes([0x32, len(body)]) + body  # QoS 1


async def test_what_it_acknowledged_reaches_the_subscriber_though_the_publisher_is_cut_off(
    children: Children, tmp_path: Path
) -> None:
    at = await broker(children)
    out = tmp_path / "received"
    await subscriber(children, at, "t/#", out)
    acknowledged: set[int] = set()
    for attempt in range(10):
        reader, writer = await asyncio.open_connection(*at)
        writer.write(connect_packet(b"publisher-%d" % attempt))
        await reader.readexactly(4)
        numbers = range(1 + 400 * attempt, 401 + 400 * attempt)
        writer.write(b"".join(publish_packet(b"t/x", b"%d" % n, n) for n in numbers))
        answers = await reader.readexactly(4 * 400)  # every PUBACK, and the connection is reset at once
        acknowledged |= {n for (n,) in struct.iter_unpack(">2xH", answers)}
        plain = writer.get_extra_info("socket")
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
    assert len(acknowledged) == 4000
    await until(lambda: acknowledged <= {line["event"] for line in lines_of(out)})


async def test_a_client_of_mqtt_5_is_told_that_its_version_is_not_spoken(children: Children) -> None:
    reader, writer = await asyncio.open_connection(*await broker(children))
    expiry_60_s = b"\x05\x11\x00\x00\x00\x3c"  # properties, which a 3.1.1 parser would take for a client id
    body = b"\x00\x04MQTT\x05\x02\x00\x3c" + expiry_60_s + b"\x00\x01x"
    writer.write(bytes([0x10, len(body)]) + body)
    async with asyncio.timeout(WITHIN_S):
        assert await reader.read() == bytes([0x20, 2, 0, 1])  # MQTT 3.1.1, 3.2.2.3: unacceptable protocol version
    writer.close()


@pytest.mark.parametrize(
    "first_bytes", [b"GET / HTTP/1.1\r\n\r\n", b"\x10\xff\xff\xff\xff\x7f", b"\x10\x02\x00\x09", b"\x10\x00"]
)
async def test_what_is_no_connect_is_hung_up_on_and_others_are_served(children: Children, first_bytes: bytes) -> None:
    at = await broker(children)
    reader, writer = await asyncio.open_connection(*at)
    writer.write(first_bytes)
    async with asyncio.timeout(WITHIN_S):
        assert await reader.read() == b""
    writer.close()
    reader, writer = await asyncio.open_connection(*at)
    writer.write(connect_packet(b"x"))
    assert await reader.readexactly(4) == bytes([0x20, 2, 0, 0])
    writer.close()


async def test_only_the_one_user_with_the_right_password_gets_in(children: Children) -> None:
    at = await broker(children, "--username", "ada", password="right")
    codes = {}
    for username, password in [("ada", "right"), ("ada", "wrong"), ("bob", "right"), ("", "")]:
        answered: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv311)
        if username:
            client.username_pw_set(username, password)
        loop = asyncio.get_running_loop()
        client.on_connect = lambda *a, f=answered, loop=loop: loop.call_soon_threadsafe(
            lambda: f.done() or f.set_result(a[3].is_failure)
        )
        await asyncio.to_thread(client.connect, *at)
        client.loop_start()
        codes[username, password] = await asyncio.wait_for(answered, WITHIN_S)
        client.disconnect()
        client.loop_stop()
    assert codes == {("ada", "right"): False, ("ada", "wrong"): True, ("bob", "right"): True, ("", ""): True}


async def test_sigterm_ends_it_with_clients_connected(children: Children, tmp_path: Path) -> None:
    child = await children.start("broker", ("-m", "gateway.demo.broker"))
    at = await child.says(announced, WITHIN_S)
    await subscriber(children, at, "t", tmp_path / "received")
    assert await child.stop() == 0


async def test_the_subscriber_writes_topic_flags_and_event_of_each_message(children: Children, tmp_path: Path) -> None:
    at = await broker(children)
    publisher = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv311)
    await asyncio.to_thread(publisher.connect, *at)
    publisher.loop_start()
    publisher.publish("a/state", b'{"id":"kept"}', qos=1, retain=True).wait_for_publish(WITHIN_S)
    out = tmp_path / "received"
    child, said = await subscriber(children, at, "a/#", out)
    assert said == "subscribed, MQTT 3.1.1"
    publisher.publish("a/prediction", b'{"id":"one"}', qos=1)
    publisher.publish("b/prediction", b'{"id":"elsewhere"}', qos=1)
    publisher.publish("a/noise", b"\xff not JSON", qos=1)
    await until(lambda: len(lines_of(out)) >= 3)
    assert lines_of(out) == [
        {"topic": "a/state", "retain": True, "dup": False, "event": {"id": "kept"}},
        {"topic": "a/prediction", "retain": False, "dup": False, "event": {"id": "one"}},
        {"topic": "a/noise", "retain": False, "dup": False, "event": None},
    ]
    publisher.disconnect()
    publisher.loop_stop()
    assert await child.stop() == 0


async def test_the_subscriber_says_that_it_was_refused_or_that_nobody_is_there(
    children: Children, tmp_path: Path
) -> None:
    host, port = await broker(children, "--username", "ada", password="right")
    where = ("-m", "gateway.demo.subscriber", "--host", host, "--topic", "#", "--out", str(tmp_path / "received"))
    refused = await children.start("refused", (*where, "--port", str(port), "--username", "ada"))
    assert await asyncio.wait_for(refused.wait(), WITHIN_S) == 2
    assert (tmp_path / "refused.log").read_text() == f"broker {host}:{port} refused: Not authorized\n"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = free.getsockname()[1]
    absent = await children.start("absent", (*where, "--port", str(nobody)))
    assert await asyncio.wait_for(absent.wait(), WITHIN_S) == 1
    assert (tmp_path / "absent.log").read_text() == f"broker {host}:{nobody}: {os.strerror(111)}\n"
