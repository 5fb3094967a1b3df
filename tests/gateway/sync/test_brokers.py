"""The publisher against real brokers: everything arrives at an independent subscriber, whatever happens on the way."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.demo.processes import Children
from gateway.demo.proxy import CuttingProxy
from tests.gateway.sync.conftest import WITHIN_S, House, Mosquitto, until

EVENTS = 600
both_protocols = pytest.mark.parametrize("protocol", ["5", "3.1.1"])


class Subscriber:
    """A process that writes down what arrives, with none of the code under test."""

    def __init__(self, out: Path) -> None:
        self.out = out

    async def start(self, children: Children, port: int, *options: str) -> None:
        where = ("--host", "127.0.0.1", "--port", str(port), "--topic", "#", "--out", str(self.out))
        child = await children.start("subscriber", ("-m", "gateway.demo.subscriber", *where, *options))
        await child.says(lambda line: line if line.startswith("subscribed") else None, WITHIN_S)

    def heard(self, topic: str) -> list[Any]:
        lines = self.out.read_text().splitlines(keepends=True) if self.out.exists() else []
        records = [json.loads(line) for line in lines if line.endswith("\n")]
        return [record["event"] for record in records if record["topic"] == topic]

    def numbers(self) -> list[int]:
        return self.heard("t/left/prediction")


@pytest.fixture
async def proxied() -> AsyncIterator[Callable[[int], Any]]:
    proxies: list[CuttingProxy] = []

    async def start(port: int) -> CuttingProxy:
        proxies.append(await CuttingProxy("127.0.0.1", port).__aenter__())
        return proxies[-1]

    yield start
    for proxy in proxies:
        await proxy.__aexit__(None, None, None)


def house(path: Path, port: int, **changes: Any) -> House:
    quick = {"host": "127.0.0.1", "port": port, "backoff_min_s": 0.05, "backoff_max_s": 0.1, "window": 20}
    return House(path / "gateway.db", **(quick | changes))


async def cut_in_the_middle(
    port: int, children: Children, tmp_path: Path, proxied: Callable[[int], Any], protocol: str = "auto"
) -> None:
    subscriber = Subscriber(tmp_path / "received.jsonl")
    await subscriber.start(children, port)
    proxy = await proxied(port)
    made = house(tmp_path, proxy.address[1], protocol=protocol)
    for part in range(4):
        made.log(range(part * EVENTS + 1, (part + 1) * EVENTS + 1))
        await made.writer.flush()
        await until(lambda reached=part * EVENTS + EVENTS // 2: made.publisher.acknowledged > reached)
        proxy.cut()
        await until(lambda: not made.publisher.connected)
        proxy.heal()
    await made.sent()
    await until(lambda: set(subscriber.numbers()) == set(range(1, 4 * EVENTS + 1)))
    arrived = subscriber.numbers()
    assert list(dict.fromkeys(arrived)) == list(range(1, 4 * EVENTS + 1))
    assert len(arrived) - 4 * EVENTS <= made.publisher.counters.sent_again
    assert made.publisher.counters.connections == 5
    await made.stop()


@pytest.mark.mosquitto
@both_protocols
async def test_mosquitto_with_the_way_cut_four_times(
    mosquitto: Mosquitto, children: Children, tmp_path: Path, proxied: Callable[[int], Any], protocol: str
) -> None:
    await mosquitto.start()
    await cut_in_the_middle(mosquitto.port, children, tmp_path, proxied, protocol)


async def test_the_embedded_broker_by_3_1_1_with_the_way_cut_four_times(
    embedded: int, children: Children, tmp_path: Path, proxied: Callable[[int], Any]
) -> None:
    await cut_in_the_middle(embedded, children, tmp_path, proxied)


@pytest.mark.mosquitto
@both_protocols
async def test_mosquitto_stopped_and_back_has_our_session_and_gets_what_it_missed(
    mosquitto: Mosquitto, children: Children, tmp_path: Path, protocol: str
) -> None:
    await mosquitto.start()
    subscriber = Subscriber(tmp_path / "received.jsonl")
    await subscriber.start(children, mosquitto.port)
    made = house(tmp_path, mosquitto.port, protocol=protocol)
    made.log(range(1, EVENTS + 1))
    await made.sent()
    mosquitto.stop()
    await until(lambda: not made.publisher.connected)
    assert "Connection refused" in made.publisher.state or "lost" in made.publisher.state
    made.log(range(EVENTS + 1, 2 * EVENTS + 1))
    await mosquitto.start()
    await made.sent()
    assert made.publisher.counters.rewound == 0
    await until(lambda: set(subscriber.numbers()) == set(range(1, 2 * EVENTS + 1)))
    await made.stop()


@pytest.mark.mosquitto
@both_protocols
async def test_mosquitto_killed_has_lost_our_session_and_gets_everything_recent_again(
    mosquitto: Mosquitto, tmp_path: Path, protocol: str
) -> None:
    await mosquitto.start()
    made = house(tmp_path, mosquitto.port, protocol=protocol, rewind_s=100.0)
    made.log(range(1, EVENTS + 1))
    await made.sent()
    mosquitto.kill()
    await until(lambda: not made.publisher.connected)
    await mosquitto.start()
    await until(lambda: made.publisher.connected and made.publisher.waiting == 0)
    assert made.publisher.counters.rewound == 1
    assert (
        made.publisher.counters.sent_again == EVENTS
    )  # all were acknowledged within the last 100 s, whenever they were created
    await made.stop()


@pytest.mark.mosquitto
async def test_what_mosquittos_access_list_denies_is_told_and_arrives_once_it_is_allowed(
    mosquitto: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = mosquitto.folder / "access"
    access.write_text("topic read #\ntopic write fidget/v1/home/state\n")
    access.chmod(0o600)
    more = f"allow_anonymous true\nacl_file {access}\n"
    await mosquitto.start(more)
    made = house(tmp_path, mosquitto.port)
    made.log(range(1, 8))
    await until(lambda: made.publisher.refused == 7)
    assert (made.publisher.refused, made.publisher.acknowledged) == (7, 0)
    await until(lambda: "it refuses 7 events: Not authorized" in made.publisher.state)
    monkeypatch.setattr("gateway.sync.publisher.PARKED_MIN_S", 0.05)
    mosquitto.stop()
    access.write_text("topic readwrite #\n")
    await mosquitto.start(more)
    await until(lambda: made.publisher.acknowledged == 7)
    assert made.publisher.refused == 0
    await made.stop()


@pytest.mark.mosquitto
@both_protocols
async def test_a_wrong_password_stops_nothing_but_the_sending_until_it_is_right(
    mosquitto: Mosquitto, tmp_path: Path, protocol: str
) -> None:
    passwords, file = mosquitto.folder / "passwords", tmp_path / "password"
    await asyncio.to_thread(
        subprocess.run, ["mosquitto_passwd", "-b", "-c", str(passwords), "ada", "right"], check=True
    )
    await mosquitto.start(f"allow_anonymous false\npassword_file {passwords}\n")
    file.touch(mode=0o600)
    file.write_text("wrong")
    made = house(tmp_path, mosquitto.port, protocol=protocol, username="ada", password_file=file)
    made.log(range(1, 11))
    await made.writer.flush()
    await until(lambda: "refused the connection: Not authorized; Check username, password" in made.publisher.state)
    assert (made.publisher.waiting, made.publisher.connected) == (10, False)
    file.write_text("right\n")
    await made.sent()
    await made.stop()


@pytest.mark.mosquitto
@both_protocols
async def test_mosquitto_says_offline_for_a_gateway_that_is_gone_and_keeps_saying_it(
    mosquitto: Mosquitto, children: Children, tmp_path: Path, protocol: str
) -> None:
    await mosquitto.start()
    topic = "fidget/v1/home/state"
    early, late = Subscriber(tmp_path / "early.jsonl"), Subscriber(tmp_path / "late.jsonl")
    await early.start(children, mosquitto.port)
    made = house(tmp_path, mosquitto.port, protocol=protocol)
    await until(lambda: len(early.heard(topic)) == 1)
    await made.die()
    await until(lambda: len(early.heard(topic)) == 2)
    assert [event["data"]["status"] for event in early.heard(topic)] == ["online", "offline"]
    again = house(tmp_path, mosquitto.port, protocol=protocol)
    await until(lambda: len(early.heard(topic)) == 3)
    await again.stop()
    await until(lambda: len(early.heard(topic)) == 4)
    told = [(e["data"]["status"], e["data"]["start"], e["data"]["connection"]) for e in early.heard(topic)]
    assert told == [("online", 1, 1), ("offline", 1, 1), ("online", 2, 1), ("offline", 2, 1)]
    await late.start(children, mosquitto.port, "--client-id", "late")
    await until(lambda: len(late.heard(topic)) == 1)
    assert late.heard(topic) == early.heard(topic)[-1:]
