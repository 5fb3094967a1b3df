"""What the database holds, asked for by commands beside a running daemon and after it: judged by what a subscriber
received and by what the wearable has sampled."""

import asyncio
import contextlib
import csv
import json
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet

from gateway.bundle import load_bundle
from tests.e2e.path import Path_
from tests.e2e.test_path import arrives_exactly

CHANNELS = ("Ax", "Ay", "Az", "Gx", "Gy", "Gz")


async def gateway(*words: object, code: int = 0) -> str:
    """What the command prints, which shall end with this code."""
    argv = [sys.executable, "-m", "gateway", *map(str, words)]
    done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def same(row: dict[str, Any], event: dict[str, Any], window: dict[str, Any]) -> None:
    """A row of the export is the window as it was received."""
    data = event["data"]
    assert row["session"] == data["session"]
    assert (row["activity"], row["decision"]) == (window["activity"], window["decision"])
    assert float(row["confidence"]) == window["confidence"]
    for label, probability in window["probabilities"].items():
        assert float(row[f"p_{label}"]) == probability
    assert (row["bundle"], row["variant"], row["derivation"]) == (data["bundle"], data["variant"], data["derivation"])
    assert row["id"] == event["id"]
    assert row["wearable"] == event["source"].rsplit(":", 1)[1]


def by_key(events: list[dict[str, Any]]) -> dict[tuple[str, str, int], Any]:
    return {(e["source"], e["id"], w["number"]): (e, w) for e in events for w in e["data"]["windows"]}


async def test_commands_tell_what_was_received_and_what_was_sampled(path: Path_, bundle: Path, tmp_path: Path) -> None:
    manifest = load_bundle(bundle).manifest
    other = next(name for name in manifest.variants if name != manifest.default_variant)
    await path.simulate(30, 150.0, ["left", "right"])
    broker = await path.embedded_broker()
    await path.subscribe(broker)
    await path.configure(broker, bundle)
    await path.start_daemon()
    made = await path.sampling_over(90)
    await arrives_exactly(path, made, 30)
    config = ("--config", path.files.configuration)
    received = by_key(path.predictions())

    # beside the daemon
    out = tmp_path / "predictions.csv"
    assert await gateway("export", "predictions", *config, "--out", out) == f"{len(received)} windows in {out}\n"
    rows = rows_of(out)
    assert len(rows) == len(received)
    for row in rows:
        same(row, *received[f"urn:fidget:wearable:{row['wearable']}", row["id"], int(row["window"])])
    listed = await gateway("events", *config, "--all", "--kind", "prediction", "--format", "jsonl")
    events = [json.loads(line)["event"] for line in listed.splitlines()]
    assert sorted(by_key(events)) == sorted(received)

    # by another model, through the daemon
    rescore = ("rescore", *config, "--bundle", bundle, "--since", "1d", "--variant", other)
    told = await gateway(*rescore)
    counts = Counter(key[0].rsplit(":", 1)[1] for key in received)
    assert [f"{name}: {counts[name]} windows added, 0 were there already" for name in ("left", "right")] == (
        told.splitlines()[:2]
    )
    await path.until(lambda: len(by_key(path.predictions())) == 2 * len(received), 30, "the subscriber has them too")
    await path.until(lambda: (path.status() or {})["events"]["waiting"] == 0, 30, "all are acknowledged")
    rescored = {key: value for key, value in by_key(path.predictions()).items() if key not in received}
    left = [value for key, value in rescored.items() if key[0].endswith("left")]
    await equals_score(path, bundle, other, "left", left)
    again = await gateway(*rescore)
    assert f"left: 0 windows added, {counts['left']} were there already" in again

    # after it
    assert path.daemon is not None
    await path.daemon.stop()
    path.daemon = None
    await samples_are_the_truth(path, config, made, tmp_path)
    status = await gateway("status", *config, code=1)
    assert status.startswith(f"under-test: no gateway runs behind {path.files.state / 'gateway.sock'}\nstore   ")
    assert f"broker  {waiting_in(path)} events wait for {broker.host}\n" in status
    assert [line.split()[0::2] for line in status.splitlines()[-2:]] == [
        [name, str(2 * counts[name])] for name in ("left", "right")
    ]


def waiting_in(path: Path_) -> int:
    with contextlib.closing(sqlite3.connect(path.files.database)) as connection:
        ((cursor,),) = connection.execute("SELECT value FROM latest WHERE kind = 'cursor'").fetchall()
        position, *beyond = cursor.split()
        ((behind,),) = connection.execute("SELECT count(*) FROM event WHERE seq > ?", (position,)).fetchall()
    return behind - len(beyond)


async def equals_score(path: Path_, bundle: Path, variant: str, name: str, rescored: list[Any]) -> None:
    scored = path.files.folder / f"scored-{name}.csv"
    await gateway("score", path.files.truth(name), "--bundle", bundle, "--variant", variant, "--out", scored)
    rows = rows_of(scored)
    assert len(rows) == len(rescored)
    for event, window in rescored:
        assert event["data"]["variant"] == variant
        for label, probability in window["probabilities"].items():
            assert abs(probability - float(rows[window["number"]][f"p_{label}"])) <= 1e-5


async def samples_are_the_truth(path: Path_, config: tuple[object, ...], made: Any, folder: Path) -> None:
    out = folder / "samples.parquet"
    told = await gateway("export", "samples", *config, "--out", out)
    table = pyarrow.parquet.read_table(out).to_pylist()
    assert told == f"{len(table)} rows of samples in {out}\n"
    for wearable in made:
        rows = sorted((row for row in table if row["wearable"] == wearable.name), key=lambda row: row["sample"])
        truth = np.array([[float(c) for c in row.values()] for row in rows_of(path.files.truth(wearable.name))])
        (session,) = wearable.sessions
        assert {row["session"] for row in rows} == {session}
        assert [row["sample"] for row in rows] == list(range(len(truth)))
        values = np.array([[row[channel] for channel in CHANNELS] for row in rows])
        assert np.array_equal(values.astype(np.float32), truth[:, 1:].astype(np.float32))
        device_s = np.array([row["device_s"] for row in rows])
        # a tick is 31 us; the session's origin is the device's to within a sample's jitter
        assert np.abs((device_s - device_s[0]) - (truth[:, 0] - truth[0, 0])).max() < 1e-3
        # taken one after the other, 20 ms apart, at the simulation's own time
        taken_us = np.array([row["time"].timestamp() * 1e6 for row in rows if row["time"] is not None])
        assert len(taken_us) == len(rows)
        assert np.abs(np.diff(taken_us) - 20_000).max() < 20_000
