"""`gateway replay` through a running daemon to a real broker."""

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gateway.clock import Clock
from gateway.config import load_config
from gateway.demo.processes import Children
from gateway.local import request
from gateway.store import Committed, Store, Writer
from gateway.store.rows import Derived, LoggedEvent
from tests.gateway.sync.conftest import Mosquitto, children, mosquitto, until
from tests.gateway.sync.test_brokers import Subscriber
from tests.gateway.test_commands import At, House, at

__all__ = ["at", "children", "mosquitto"]

TEN = datetime(2026, 3, 1, 10, tzinfo=UTC)


async def fill(house: House, wearables: tuple[str, ...], minutes: int) -> None:
    """An event a minute of each, from ten o'clock on."""
    with Store.open(load_config(house.config).store) as store:
        committed = asyncio.Event()
        last = len(wearables) * minutes

        def told(what: Committed) -> None:
            if what.event_seq >= last:
                committed.set()

        writer = Writer(store, asyncio.get_running_loop(), told)
        for minute in range(minutes):
            for name in wearables:
                payload = json.dumps({"wearable": name, "minute": minute}).encode()
                created_ns = int(TEN.timestamp() + 60 * minute) * 10**9
                writer.derived(
                    Derived(
                        None,
                        (
                            LoggedEvent(
                                "prediction", name, f"urn:{name}", f"e-{minute}", f"t/{name}/prediction",
                                payload, created_ns, Clock().now().boot_id,
                            ),
                        ),
                    )
                )  # fmt: skip
        await writer.flush()
        await committed.wait()
        await writer.close()


@pytest.mark.mosquitto
async def test_what_is_still_stored_of_some_time_is_sent_again_by_the_daemon(
    at: At, mosquitto: Mosquitto, children: Children, tmp_path: Path
) -> None:
    await mosquitto.start()
    subscriber = Subscriber(tmp_path / "received.jsonl")
    await subscriber.start(children, mosquitto.port)
    house = await at("name=left")
    house.base = house.base.replace("port = 1\n", f"port = {mosquitto.port}\nreplay_messages_s = 200\n")
    house.configure()
    await fill(house, ("left", "right"), 120)
    assert await house.said("replay", "--from", "2026-03-01T10:30") == (
        1,
        f"no gateway runs behind {load_config(house.config).socket}\n",
        "",
    )
    await house.run()
    await house.until(lambda status: status["events"]["waiting"] == 0 and status["broker"]["connected"], "all is sent")
    await until(lambda: len(subscriber.heard("t/right/prediction")) == 120)

    between = ("--from", "2026-03-01T10:30", "--to", "2026-03-01T10:45")
    assert await house.said("replay", *between, "--wearable", "right") == (0, "sent again: 15 of 15 events\n", "")
    await until(lambda: len(subscriber.heard("t/right/prediction")) == 135)
    again = [{"wearable": "right", "minute": minute} for minute in range(30, 45)]
    assert subscriber.heard("t/right/prediction")[120:] == again
    assert len(subscriber.heard("t/left/prediction")) == 120

    assert await house.said("replay", *between) == (0, "sent again: 30 of 30 events\n", "")
    assert await house.said("replay", "--to", "2026-01-01") == (0, "nothing is stored of that time\n", "")
    code, out, err = await house.said("replay", "--wearable", "lef")
    assert (code, out) == (2, "")
    assert "error: no event of a wearable 'lef' is stored of that time; configured are left" in err
    code, out, err = await house.said("replay", "--from", "noon")
    assert (code, out) == (2, "")
    assert "error: --from 'noon': no time" in err
    status = await house.status()
    assert (status["events"]["waiting"], status["events"]["refused"]) == (0, 0)


@pytest.mark.mosquitto
async def test_a_replay_waits_for_a_broker_that_is_away_says_so_and_another_is_refused(
    at: At, mosquitto: Mosquitto
) -> None:
    house = await at("name=left")
    await mosquitto.start()
    house.base = house.base.replace("port = 1\n", f"port = {mosquitto.port}\nbackoff_max_s = 1\n")
    house.configure()
    await fill(house, ("left",), 30)
    await house.run()
    await house.until(lambda status: status["events"]["waiting"] == 0 and status["broker"]["connected"], "all is sent")
    mosquitto.stop()
    await house.until(lambda status: not status["broker"]["connected"], "the broker is away")
    told: list[dict[str, object]] = []
    asked = {"since_us": int(TEN.timestamp() + 600) * 10**6, "until_us": 2**53}
    socket = load_config(house.config).socket
    replaying = asyncio.create_task(request(socket, "replay", asked, told=told.append))
    await until(lambda: bool(told))
    assert "Connection refused" in str(told[-1]["waits_for"]) or "lost" in str(told[-1]["waits_for"])
    code, out, err = await house.said("replay", "--from", "2026-03-01T10:10")
    assert (code, out) == (1, "")
    assert "error: events are being sent again already" in err
    assert not replaying.done()
    await mosquitto.start()
    answer = await asyncio.wait_for(replaying, 20)
    assert (answer["found"], answer["acknowledged"], answer["waits_for"]) == (20, 20, None)
