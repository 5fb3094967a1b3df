"""Several brokers in order: each with a cursor of its own, and the first is gone back to."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.clock import Clock
from gateway.store import Committed, Store, StoreSettings, Writer
from gateway.sync import Failover, SyncSettings, publisher_of
from tests.gateway.sync.conftest import House, until
from tests.gateway.sync.server5 import Client, Server5, connack, server5, taking


class Switched:
    """A broker that can be away."""

    def __init__(self) -> None:
        self.away = False
        self.server: Server5 | None = None

    async def act(self, server: Server5, client: Client) -> None:
        if self.away:
            await client.read()
            client.send(connack(0x88))
        else:
            await taking()(server, client)

    def leave(self, server: Server5) -> None:
        self.away = True
        server.kick()


class Several(House):
    """Store, writer and publishers as the daemon joins them."""

    def __init__(self, path: Path, ports: list[int], **changes: Any) -> None:
        first, *others = ports
        brokers = [{"host": "127.0.0.1", "port": port, "destination": f"b{port}"} for port in others]
        settings = {"host": "127.0.0.1", "port": first, "broker": brokers, "failover_after_s": 1} | changes
        quick = {"backoff_min_s": 0.01, "backoff_max_s": 0.05, "protocol": "5"}
        self.store = Store.open(StoreSettings(path=path, commit_interval_s=0.005))
        self.writer = Writer(self.store, asyncio.get_running_loop(), self._committed)
        made = publisher_of(SyncSettings.model_validate(quick | settings), "home", self.store, self.writer, Clock())
        assert isinstance(made, Failover)
        self.several = made
        self.running = asyncio.create_task(made.run())

    def _committed(self, committed: Committed) -> None:
        self.several.committed(committed.event_seq)

    async def sent(self) -> None:
        await self.writer.flush()
        await until(lambda: self.several.connected and self.several.waiting == 0)

    async def stop(self, timeout_s: float = 5.0) -> None:
        await self.several.stop(timeout_s)
        await self.running
        await self.writer.close()
        self.store.close()


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.sync.failover.LOOK_EVERY_S", 0.02)


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Switched, Server5, Switched, Server5]]:
    one, two = Switched(), Switched()
    async with server5(one.act) as first, server5(two.act) as second:
        yield one, first, two, second


def numbers(server: Server5) -> list[int]:
    return [int(payload) for payload in server.payloads]


def presence(server: Server5) -> list[tuple[str, int]]:
    states = [json.loads(p.payload)["data"] for p in server.taken if p.topic == "fidget/v1/home/state"]
    return [(state["status"], state["connection"]) for state in states]


async def test_the_second_gets_what_the_first_has_not_and_the_first_gets_everything_in_the_end(
    pair: tuple[Switched, Server5, Switched, Server5], tmp_path: Path
) -> None:
    one, first, _, second = pair
    made = Several(tmp_path / "gateway.db", [first.port, second.port])
    made.log(range(1, 21))
    await made.sent()
    assert (numbers(first), second.clients) == (list(range(1, 21)), [])
    for turn in (0, 1):
        start = 21 + 40 * turn
        one.leave(first)
        await until(lambda: not made.several.connected)
        made.log(range(start, start + 20))
        await made.sent()
        assert numbers(second)[20 * turn :] == list(range(start, start + 20))
        assert f"connected to 127.0.0.1:{second.port}, MQTT 5, which stands in: broker " in made.several.state
        assert "refused the connection: Server unavailable" in made.several.state
        one.away = False
        await until(lambda: second.clients[-1].said_bye == 0)
        made.log(range(start + 20, start + 40))
        await made.sent()
        assert numbers(first) == list(range(1, start + 40))
        assert made.several.state == f"connected to 127.0.0.1:{first.port}, MQTT 5"
    assert len(numbers(second)) == 40
    await made.stop()
    # a subscriber of either broker tells an old death from a new one: connections are counted over both
    assert presence(first) == [("online", 1), ("online", 3), ("online", 5), ("offline", 5)]
    assert presence(second) == [("online", 2), ("offline", 2), ("online", 4), ("offline", 4)]


async def test_each_has_a_cursor_that_outlives_a_restart(
    pair: tuple[Switched, Server5, Switched, Server5], tmp_path: Path
) -> None:
    one, first, _, second = pair
    one.away = True
    for life in (0, 1):
        made = Several(tmp_path / "gateway.db", [first.port, second.port])
        made.log(range(1 + 10 * life, 11 + 10 * life))
        await made.sent()
        await made.stop()
    assert numbers(second) == list(range(1, 21))
    one.away = False
    made = Several(tmp_path / "gateway.db", [first.port, second.port])
    await made.sent()
    await made.stop()
    assert numbers(first) == list(range(1, 21))


async def test_what_is_asked_for_again_moves_to_the_broker_in_use_which_has_all_of_it_in_the_end(
    pair: tuple[Switched, Server5, Switched, Server5], tmp_path: Path
) -> None:
    one, first, _, second = pair
    made = Several(tmp_path / "gateway.db", [first.port, second.port], replay_messages_s=60)
    made.log(range(1, 61))
    await made.sent()
    request = made.several.replay(0, 10**12)
    await until(lambda: len(numbers(first)) >= 65)
    one.leave(first)
    await until(lambda: len(numbers(second)) >= 5)
    assert request.acknowledged < 60
    await asyncio.wait_for(request.over.wait(), 20)
    assert numbers(second) == list(range(1, 61))
    assert (request.found, request.acknowledged, request.refused) == (60, 60, 0)
    again = made.several.replay(0, 10**12)
    await until(lambda: len(numbers(second)) >= 65)
    before = len(numbers(first))
    one.away = False
    await asyncio.wait_for(again.over.wait(), 20)
    assert numbers(first)[before:] == list(range(1, 61))
    assert (again.found, again.acknowledged) == (60, 60)
    await made.stop()


async def test_what_was_asked_for_again_and_cancelled_moves_nowhere(
    pair: tuple[Switched, Server5, Switched, Server5], tmp_path: Path
) -> None:
    one, first, _, second = pair
    made = Several(tmp_path / "gateway.db", [first.port, second.port], replay_messages_s=20)
    made.log(range(1, 21))
    await made.sent()
    request = made.several.replay(0, 10**12)
    await until(lambda: len(numbers(first)) >= 22)
    one.leave(first)
    made.several.cancel(request)
    made.log(range(21, 23))
    await made.sent()
    assert numbers(second) == [21, 22]
    await made.stop()


async def test_with_all_away_each_is_tried_and_the_first_that_comes_gets_it(
    pair: tuple[Switched, Server5, Switched, Server5], tmp_path: Path
) -> None:
    one, first, two, second = pair
    one.away = two.away = True
    made = Several(tmp_path / "gateway.db", [first.port, second.port])
    made.log(range(1, 11))
    await until(lambda: bool(second.clients))
    assert (made.several.connected, made.several.waiting) == (False, 10)
    one.away = False
    await made.sent()
    assert (numbers(first), numbers(second)) == (list(range(1, 11)), [])
    await made.stop()


async def test_one_broker_needs_no_failover(tmp_path: Path) -> None:
    with Store.open(StoreSettings(path=tmp_path / "gateway.db")) as store:
        writer = Writer(store, asyncio.get_running_loop(), lambda committed: None)
        settings = SyncSettings.model_validate({"host": "h"})
        assert not isinstance(publisher_of(settings, "home", store, writer, Clock()), Failover)
        await writer.close()
