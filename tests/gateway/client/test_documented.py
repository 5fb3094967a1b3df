"""The programs of docs/subscribers.md, run as they stand against a real broker."""

import asyncio
import contextlib
import os
import re
import sqlite3
import sys
from pathlib import Path

import pytest

from gateway import events
from tests.gateway.client.test_clocks import NOON_US
from tests.gateway.client.test_subscriber import WITHIN_S, publishing

pytestmark = pytest.mark.mosquitto

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "subscribers.md").read_text()
PROGRAMS = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL))


class Program:
    """One of them, at work."""

    def __init__(self, process):
        self._process = process

    async def ends(self):
        """What it has written to its standard output."""
        out, err = await asyncio.wait_for(self._process.communicate(), 3 * WITHIN_S)
        assert self._process.returncode == 0, err.decode()
        return out.decode()


@contextlib.asynccontextmanager
async def running(name, folder, broker, *words):
    """Since it has subscribed."""
    file = folder / name
    file.write_text(PROGRAMS[name])
    log = broker.folder / "mosquitto.log"
    known = log.read_text().count("Sending SUBACK")
    argv = [sys.executable, str(file), *words, "--host", "127.0.0.1", "--port", str(broker.port)]
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=folder,
    )
    try:
        async with asyncio.timeout(3 * WITHIN_S):
            while log.read_text().count("Sending SUBACK") <= known:
                assert process.returncode is None, (await process.communicate())[1].decode()
                await asyncio.sleep(0.05)
        yield Program(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.fixture
async def broker(mosquitto):
    """It writes down each subscription."""
    await mosquitto.start("allow_anonymous true\nlog_type all\n")
    return mosquitto


def told(made):
    """Two windows from before the clock was known, its clock event, two windows in one event after it; a repeat."""
    first = made.prediction(0, mono_us=2_000_000, taken_us=1_000_000)
    second = made.prediction(1, mono_us=4_000_000, taken_us=3_000_000)
    clock = made.clock(NOON_US, 250, mono_us=5_000_000)
    third = made.prediction(2, windows=2, mono_us=9_000_000, taken_us=5_000_000)
    return [second, first, first, clock, third]


def publish(broker, these):
    with publishing(broker.port) as publisher:
        for event in these:
            kind = event.type.split(".")[1]
            publisher.say(event, f"fidget/v1/home/{kind}" if kind == "clock" else f"fidget/v1/home/left/{kind}")


async def test_to_a_dataframe(broker, made, tmp_path):
    pytest.importorskip("pandas")
    async with running("dataframe.py", tmp_path, broker, "--count", "4") as program:
        await asyncio.to_thread(publish, broker, told(made))
        out = await program.ends()
    rows = [line.split() for line in out.splitlines()]
    assert rows[0] == ["time", "wearable", "session", "window", "activity", "confidence"]
    assert [row[0:2] for row in rows[1:3]] == [["2026-03-01", "12:00:01+00:00"], ["2026-03-01", "12:00:03+00:00"]]
    assert [row[-3] for row in rows[1:]] == ["0", "1", "2", "3"]


async def test_to_sqlite_also_over_restarts(broker, made, tmp_path):
    file = tmp_path / "archive.db"
    these = told(made)
    async with running("archive.py", tmp_path, broker, str(file), "--count", "2") as program:
        await asyncio.to_thread(publish, broker, these[:2])
        await program.ends()
    with contextlib.closing(sqlite3.connect(file)) as database:
        found = database.execute("SELECT number, utc_us FROM window ORDER BY number").fetchall()
    assert found == [(0, None), (1, None)]
    await asyncio.to_thread(publish, broker, these[2:])  # while it is away
    async with running("archive.py", tmp_path, broker, str(file), "--count", "4") as program:
        await program.ends()
    with contextlib.closing(sqlite3.connect(file)) as database:
        found = database.execute("SELECT number, utc_us, uncertainty_us FROM window ORDER BY number").fetchall()
    early = [(0, NOON_US + 1_000_000, 250 + 400), (1, NOON_US + 3_000_000, 250 + 200)]
    assert found[:2] == early
    assert found[2] == (2, NOON_US + 5_000_000, 250)
    assert [number for number, *_ in found] == [0, 1, 2, 3]


async def test_to_influxdb_s_line_protocol(broker, made, tmp_path):
    async with running("influx.py", tmp_path, broker, "--count", "3") as program:
        last = made.prediction(2, mono_us=9_000_000, taken_us=5_000_000)
        await asyncio.to_thread(publish, broker, [*told(made)[:4], last])
        out = await program.ends()
    record = made.prediction().data.windows[0]
    tags = f"wearable=left,activity={record.activity},decision=activity,derivation=9f86d081884c"
    assert out.splitlines() == [
        f'fidget,{tags} confidence={record.confidence},window={number}i,session="00000000000000ab" {NOON_US + us}'
        for number, us in ((1, 3_000_000), (0, 1_000_000), (2, 5_000_000))
    ]


def test_each_program_of_the_page_is_run_here():
    assert set(PROGRAMS) == {"dataframe.py", "archive.py", "influx.py"}
    assert events.TOPIC_PREFIX in PROGRAMS["dataframe.py"]
