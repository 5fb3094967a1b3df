"""Nothing is lost and nothing comes twice, whatever breaks: against an oracle that sees only the samples made."""

import asyncio
import csv
import os
import random
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.demo.arrange import Broker
from gateway.demo.processes import ChildFailed
from gateway.demo.proxy import CuttingProxy

SEED = 20250324
SAVES_AT_ONCE = "allow_anonymous true\nautosave_on_changes true\nautosave_interval 1\n"
"""A mosquitto that writes its state with each change, behind the answer to it."""


@dataclass(frozen=True)
class Played:
    """What the wearables make, and the model for it. duration_s: of device time, at most."""

    bundle: Path
    recording: tuple[Path, ...]
    speed: float
    duration_s: float


@pytest.fixture
def played(request: pytest.FixtureRequest) -> Played:
    """The real recording and model where they are; synthetic motion and the demo's bundle where not. A minute each."""
    try:
        data, converted = request.getfixturevalue("real_data"), request.getfixturevalue("real_bundle")
    except pytest.skip.Exception:
        return Played(request.getfixturevalue("bundle"), (), 20.0, 1000.0)
    return Played(converted, tuple(sorted((data / "recording").glob("*.xlsx"))), 60, 3700.0)


def due_ids(made: Any) -> set[tuple[str, str]]:
    """(source, id without its derivation) of each prediction that the samples made ask for: windows of 200 samples,
    one every 100, from sample 0 of each session."""
    return {
        (f"urn:fidget:wearable:{wearable.name}", f"{session}-{first // 100}")
        for wearable in made
        for session, samples in wearable.sessions.items()
        for first in range(0, samples, 100)
        if first + 200 <= samples
    }


async def arrives_exactly(path: Any, made: Any, within_s: float) -> None:
    """All that is due is received; then, once nothing waits any more, nothing else is."""
    due = due_ids(made)
    assert due
    await path.until(lambda: path.prediction_ids() >= due, within_s, "every window due is received")
    assert path.prediction_ids() == due


@pytest.mark.real_data
async def test_the_real_recording_arrives_as_gateway_score_predicts_it(
    path: Any, real_data: Path, real_bundle: Path, tmp_path: Path
) -> None:
    recording = sorted((real_data / "recording").glob("*.xlsx"))
    await path.simulate(120, 3700.0, ["watch"], *recording)
    broker = await path.embedded_broker()
    await path.subscribe(broker)
    await path.configure(broker, real_bundle)
    await path.start_daemon()
    (made,) = await path.sampling_over(90)
    await arrives_exactly(path, [made], 30)

    scored = tmp_path / "scored.csv"
    score = (
        "-m",
        "gateway",
        "score",
        str(path.files.truth("watch")),
        "--bundle",
        str(real_bundle),
        "--out",
        str(scored),
    )
    done = await asyncio.to_thread(subprocess.run, [sys.executable, *score], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(scored.open()))
    assert len(rows) == len(path.prediction_ids())
    for event in path.predictions():
        for window in event["data"]["windows"]:
            row = rows[window["number"]]
            for label, probability in window["probabilities"].items():
                assert abs(probability - float(row[f"p_{label}"])) <= 1e-5, (window["number"], label)


@pytest.mark.mosquitto
@pytest.mark.parametrize(
    "kills",
    [30, pytest.param(1000, marks=[pytest.mark.soak, pytest.mark.timeout(8 * 3600)])],
    ids=["thirty", "a thousand"],
)
async def test_kills_of_the_daemon_and_of_its_broker_and_cut_ways_lose_nothing_and_repeat_nothing(
    path: Any, mosquitto: Any, played: Played, kills: int
) -> None:
    """A soak of FIDGET_SOAK seconds other than 600 has more or fewer of them."""
    if kills == 1000:
        kills = round(kills * float(os.environ.get("FIDGET_SOAK", 600)) / 600)
        await path.simulate(20.0, 400_000.0, ["left", "right"])
    else:
        await path.simulate(played.speed, played.duration_s, ["left", "right"], *played.recording)
    chance = random.Random(SEED)
    mosquitto.start(SAVES_AT_ONCE)
    await path.subscribe(Broker("127.0.0.1", mosquitto.port))
    ends: Counter[str] = Counter()
    async with CuttingProxy("127.0.0.1", mosquitto.port) as proxy:
        bundle = played.bundle
        await path.configure(Broker(*proxy.address), bundle, store={"commit_interval_s": 0.5})
        await path.start_daemon()
        for kill in range(kills):
            if kill % 2 == 0:
                with suppress(ChildFailed):  # nothing streams once all is played
                    await path.daemon.says(lambda line: line if line.endswith(": streaming") else None, 15)
            await asyncio.sleep(chance.uniform(0.1, 1.6))
            match kill % 30:
                case 6 | 20:
                    proxy.swallow()  # what is sent now never arrives
                    await asyncio.sleep(1.0)
                    proxy.cut()
                case 8 | 22:
                    proxy.heal()
                case 14:
                    await path.control.out_of_range("left", on=True)
                case 17:
                    await path.control.out_of_range("left", on=False)
                case n if n % 3 == 0:
                    end = chance.choice(["terminate", "kill"])
                    ends[end] += 1
                    getattr(mosquitto, end)()
                    await asyncio.sleep(chance.uniform(0, 0.5))
                    mosquitto.start(SAVES_AT_ONCE)
            await path.kill_daemon()
            await path.start_daemon()
        if kills > 30:
            await path.control.stop_sampling()
        made = await path.sampling_over(90)
        await arrives_exactly(path, made, 90)
    predictions = path.predictions()
    first = len({(event["source"], event["id"]) for event in predictions})
    print(f"{kills} kills of the daemon, {dict(ends)} of the broker: {first} predictions, ", end="")
    print(f"{(len(predictions) - first) / first:.1%} came once more")
    assert ends["terminate"] >= 3
    assert ends["kill"] >= 3
    lives = (path.files.folder / "daemon.log").read_text()
    assert lives.count("left: streaming") >= kills // 4, "most lives were too short to collect anything"


@pytest.mark.mosquitto
async def test_mosquitto_stopped_and_back_loses_nothing(path: Any, mosquitto: Any, bundle: Path) -> None:
    mosquitto.start()
    broker = Broker("127.0.0.1", mosquitto.port)
    await path.subscribe(broker)
    assert "MQTT 5" in (path.files.folder / "subscriber.log").read_text()
    await path.simulate(20, 400.0, ["left", "right"])
    await path.configure(broker, bundle)
    await path.start_daemon()
    await path.until(lambda: len(path.prediction_ids()) >= 20, 60, "predictions come")
    mosquitto.terminate()
    await path.until(
        lambda: (status := path.status()) is not None and status["events"]["waiting"] > 10, 30, "events wait"
    )
    mosquitto.start()
    made = await path.sampling_over(60)
    await arrives_exactly(path, made, 30)


async def test_a_refused_password_stops_nothing_but_the_publishing(path: Any, bundle: Path) -> None:
    broker = await path.embedded_broker("ada", "right")
    await path.simulate(20, 120.0, ["left"])
    await path.configure(Broker(broker.host, broker.port, "ada", "wrong"), bundle)
    await path.start_daemon()
    (made,) = await path.sampling_over(60)
    await path.until(
        lambda: (status := path.status()) is not None and status["events"]["waiting"] >= len(due_ids([made])),
        30,
        "all that is due is in the event log",
    )
    status = path.status()
    assert not status["broker"]["connected"]
    assert "refused" in status["broker"]["state"]
    check = ("-m", "gateway", "check", "--config", str(path.files.configuration), "--connect")
    done = await asyncio.to_thread(subprocess.run, [sys.executable, *check], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
