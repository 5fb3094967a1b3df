"""How soon and how surely a wearable that comes back is collected again, under seeded loss, fading and latency.

Simulated wearables go away and come back by a schedule; what they lose meanwhile on the air, advertisements and
attempts to connect too, follows from the seed. Measured from outside: the journal says when frames came, the daemon's
log how often it tried, the event log which samples stand in windows.
"""

import asyncio
import math
import random
import re
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gateway.demo.arrange import Broker
from gateway.events import Prediction, decode
from gateway.store.archive import Archive
from gateway.store.journal import Journal
from tests.e2e.path import POLL_S

WEATHER = "loss=0.02, burst=0.001/8, fade=40/{depth}, latency=0.05, jitter=0.1"
"""On top of being away: 2 % lost, bursts of eight, more at the worst of each 40 s, and 50 to 150 ms of delay. Where a
try fails with probability p, p² of the reconnects need a third one, whatever the gateway does: 5 % of them at 0.22, so
fading stays below that, and the fewer returns there are the farther, or chance decides."""
NEAR_S, AWAY_S = (3.0, 6.0), (1.0, 3.0)
"""Spans in reach and out of it, at random."""
WINDOW, HOP = 200, 100
TRIES_SHARE, TRIES = 0.95, 2
FIRST_FRAME_P95_S = 10.0
SAMPLES_SHARE = 0.999
DRAINED_WITHIN_S = 40.0
"""From the last sample until all that the wearables hold is in windows."""


def spans(chance: random.Random, until_s: float) -> list[tuple[float, float]]:
    """When it is away; in reach at the end."""
    made, at_s = [], 0.0
    while (gone_s := at_s + chance.uniform(*NEAR_S)) < until_s - NEAR_S[1] - AWAY_S[1]:
        at_s = gone_s + chance.uniform(*AWAY_S)
        made.append((round(gone_s, 2), round(at_s, 2)))
    return made


def scenario(
    file: Path, away: dict[str, list[tuple[float, float]]], depth: float, seed: int, duration_s: float
) -> None:
    tables = []
    for name, gone in away.items():
        faults = ", ".join([WEATHER.format(depth=depth), *(f"away@{start}-{end}" for start, end in gone)])
        table = {"name": name, "schedule": "sitting:20, hand_tapping:20", "seed": seed, "faults": faults}
        lines = [f'{key} = "{value}"' if isinstance(value, str) else f"{key} = {value}" for key, value in table.items()]
        tables.append("\n".join(["[[wearable]]", *lines, f"duration_s = {duration_s}"]))
    file.write_text("\n".join(tables))


def simulated_s(path: Any) -> float:
    """Monotonic time of the simulation, as the journal has it; its speed is that of life."""
    return (time.monotonic_ns() - int(path.sim_time.rsplit(":", 1)[1])) / 1e9


async def started_s(path: Any) -> dict[str, float]:
    """When each wearable began to sample, which its faults count from. It samples in steps of 20 ms."""
    begins: dict[str, float] = {}
    for _ in range(20):
        for wearable in await path.made():
            begin_s = simulated_s(path) - wearable.made / 50.0
            begins[wearable.name] = min(begins.get(wearable.name, begin_s), begin_s)
    return begins


@dataclass
class Frames:
    """When frames were journalled, in s of the simulation's monotonic time; read again and again, as the journal is
    trimmed."""

    database: Path
    wearables: Collection[str]
    came: dict[str, list[float]] = field(default_factory=dict)
    _rows: dict[str, int] = field(default_factory=dict)

    def read(self) -> None:
        with Journal(self.database) as journal:
            for wearable in self.wearables:
                for row in journal.after(wearable, self._rows.get(wearable, 0)):
                    if row.kind == "frame":
                        self.came.setdefault(wearable, []).append(row.at.mono_ns / 1e9)
                    self._rows[wearable] = row.row

    async def follow(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            self.read()


def windows(database: Path) -> set[tuple[str, str, int]]:
    """(wearable, session, number) of each window that is answered."""
    with Archive(database) as archive:
        rows = list(archive.events(kind="prediction"))
    found = set()
    for row in rows:
        event = decode(row.payload)
        assert isinstance(event, Prediction)
        assert row.wearable is not None
        found |= {(row.wearable, event.data.session, window.number) for window in event.data.windows}
    return found


def tries(log: str, name: str) -> list[int]:
    """Attempts to connect of each time that it came to stream, in order."""
    counted, made = [], 0
    for state in re.findall(rf"\b{name}: (connecting|streaming|closing)\b", log):
        if state == "connecting":
            made += 1
        elif state == "streaming" and made:
            counted.append(made)
            made = 0
    return counted


def in_windows(numbers: set[int]) -> int:
    """Samples that stand in at least one of these windows of a session."""
    return len({n for number in numbers for n in range(number * HOP, number * HOP + WINDOW)})


async def measure(path: Any, bundle: Path, wearables: int, duration_s: float, depth: float, seed: int) -> str:
    """Fails where a figure is worse than it may be; else the figures in words."""
    chance = random.Random(seed)
    away = {f"w{n}": spans(chance, duration_s) for n in range(wearables)}
    scenario(path.files.scenario, away, depth, seed, duration_s)
    await path.simulate_scenario(1.0)
    nobody = Broker("127.0.0.1", 1)  # it is not the broker that is measured
    await path.configure(nobody, bundle, radio={"wearables_max": wearables})
    await path.start_daemon()
    begins = await started_s(path)
    journal = Frames(path.files.database, list(away))
    await path.until(lambda: path.status() is not None, 30, "the daemon has a store")
    following = asyncio.create_task(journal.follow())
    made = await path.sampling_over(duration_s + 60.0)
    due = {(w.name, s, k) for w in made for s, n in w.sessions.items() for k in range((n - WINDOW) // HOP + 1)}
    for _ in range(int(DRAINED_WITHIN_S / POLL_S)):
        answered = windows(path.files.database)
        if answered >= due:
            break
        path.daemon.must_live()
        await asyncio.sleep(POLL_S)
    stored, windowed = (
        sum(in_windows({k for w, _, k in found if w == name}) for name in away) for found in (due, answered & due)
    )
    following.cancel()
    journal.read()
    after_s = sorted(
        next((at for at in journal.came[name] if at >= begins[name] + end), math.inf) - begins[name] - end
        for name, gone in away.items()
        for _, end in gone
    )
    log = path.daemon.log.read_text()
    tried = [n for name in away for n in tries(log, name)[1:]]
    p95_s = after_s[math.ceil(0.95 * len(after_s)) - 1]
    within = sum(n <= TRIES for n in tried) / len(tried)
    said = (
        f"{len(after_s)} returns: first frame after {after_s[len(after_s) // 2]:.1f} s (median), {p95_s:.1f} s (p95), "
        f"{after_s[-1]:.1f} s (longest); {len(tried)} reconnects, {within:.1%} within {TRIES} tries, "
        f"{max(tried)} at most; {windowed:,} of {stored:,} stored samples in windows ({windowed / stored:.3%})"
    )
    assert p95_s <= FIRST_FRAME_P95_S, said
    assert within >= TRIES_SHARE, said
    assert windowed >= SAMPLES_SHARE * stored, said
    return said


async def test_reconnects_under_loss_fading_and_latency(path: Any, bundle: Path, record_property: Any) -> None:
    said = await measure(path, bundle, wearables=12, duration_s=40.0, depth=0.05, seed=20)
    print(said)
    record_property("reconnects", said)


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", [1, 2])
async def test_reconnects_over_minutes_and_several_seeds(path: Any, bundle: Path, seed: int) -> None:
    print(await measure(path, bundle, wearables=8, duration_s=300.0, depth=0.2, seed=seed))
