"""UTC that jumps by 50 years in either direction, at any moment: it labels, and nothing else hangs on it."""

import asyncio
import contextlib
import os
import random
import signal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_sim.endpoint import Endpoint
from firmware_sim.scenario import parse_wearable
from firmware_sim.simulation import Simulation
from gateway import events
from gateway.cli.demo import demo_bundle
from gateway.client import AsyncSubscriber, Subscription
from gateway.clock import PLAUSIBLE_SINCE_NS, Clock, Instant, SimulatedTime
from gateway.config import load_config
from gateway.daemon import run_daemon
from gateway.store import Committer, Store, StoreSettings
from gateway.store.rows import Cursor, Derived, JournalRow, LoggedEvent
from tests.gateway.sync.conftest import mosquitto
from tests.gateway.test_pipeline import Submissions, opened, script

__all__ = ["mosquitto"]

YEARS_NS = 50 * 365 * 86_400 * 10**9
NOW_NS = PLAUSIBLE_SINCE_NS + 30 * 86_400 * 10**9
STEPS_NS = (-YEARS_NS, 0, YEARS_NS)
utc = st.tuples(st.sampled_from(STEPS_NS), st.booleans())
"""How far off UTC is, and whether the kernel calls it synchronized."""


# The way from observations to events.


async def derived(observations, clock, snapshot_rows, crash_at):
    """What is submitted; clock: for each observation how UTC stands then. One crash, before which all was durable."""
    submissions = Submissions()
    pipeline = opened(submissions, snapshot_rows)
    for number, observation in enumerate(observations):
        off_ns, synced = clock[number % len(clock)]
        mono_ns = number * 10**7
        pipeline.observe(*observation, Instant("boot", mono_ns, NOW_NS + mono_ns + off_ns, synced))
        if number % 3 == 0:
            await pipeline.drain()
        if number == crash_at:
            submissions = Submissions(submissions)
            pipeline = opened(submissions, snapshot_rows)
    await pipeline.drain()
    return [
        (item.row, item.kind, item.payload)
        if isinstance(item, JournalRow)
        else ([(event.id, event.payload) for event in item.events], item.progress, item.snapshot and item.snapshot[0])
        for item in submissions
    ]


@settings(max_examples=40, deadline=None)
@given(
    total=st.integers(60, 1500),
    holes=st.lists(st.tuples(st.integers(1, 1400), st.integers(1, 5)), max_size=3),
    clock=st.lists(utc, min_size=1, max_size=30),
    snapshot_rows=st.integers(1, 40),
    crash_at=st.integers(0, 80),
    seed=st.integers(0, 2**32),
)
def test_what_is_derived_is_the_same_to_the_byte_whatever_utc_does(total, holes, clock, snapshot_rows, crash_at, seed):
    gone = [(low, low + n) for low, n in sorted(holes) if low + n < total]
    gone = [hole for k, hole in enumerate(gone) if k == 0 or hole[0] > gone[k - 1][1] + 1]
    observations = script(total, gone, random.Random(seed))

    def of(clock):
        return asyncio.run(derived(observations, clock, snapshot_rows, crash_at))

    assert of(clock) == of([(0, True)])


# What is kept.


@settings(max_examples=25, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["observe", "snapshot", "acknowledge", "trim", "boot"]), utc, st.integers(1, 100)),
        min_size=5, max_size=40,
    )
)  # fmt: skip
def test_nothing_that_is_still_needed_is_deleted_whatever_utc_does(steps, tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "gateway.db"
    kept = StoreSettings(path=path, journal_retention_s=60, event_retention_s=60)
    mono_ns, boot, covered, acknowledged, made, observed = 0, 0, 0, 0, 0, 0
    with Store.open(kept, destinations=["broker"]) as store:
        committer = Committer(store, lambda committed: None)
        for what, (off_ns, synced), seconds in steps:
            mono_ns += seconds * 10**9
            now = Instant(f"boot-{boot}", mono_ns, NOW_NS + mono_ns + off_ns, synced)
            match what:
                case "observe":
                    observed = committer.journal("left", "frame", b"x", now)
                    made += 1
                    event = LoggedEvent("prediction", "left", "urn:left", f"{made}", "t", b"p", now.utc_ns, now.boot_id)
                    committer.derived(Derived("left", events=(event,), progress=b"{}"))
                case "snapshot":
                    covered = observed
                    committer.derived(Derived("left", progress=b"{}", snapshot=(covered, 1, b"s")))
                case "acknowledge":
                    acknowledged = made
                    committer.cursor(Cursor("broker", acknowledged))
                case "trim":
                    committer.trim(now)
                case "boot":
                    boot, mono_ns = boot + 1, 0
            assert committer.attempt(committer.take()), committer.trouble
        rows = [row.row for row in store.journal_after("left", 0)]
        with contextlib.closing(store.events()) as log:
            numbers = [int(event.id) for event in log.after(0, 10_000)]
    assert rows[len(rows) - (observed - covered) :] == list(range(covered + 1, observed + 1))
    assert numbers[len(numbers) - (made - acknowledged) :] == list(range(acknowledged + 1, made + 1))
    assert numbers == sorted(set(numbers))


# The daemon.


class Jumping(Clock):
    """The simulation's time; UTC jumps whenever it is looked at, until it is set right. trusted: it is called
    synchronized all the same."""

    def __init__(self, simulated, trusted):
        super().__init__(simulated)
        self.right, self._trusted, self._rng = False, trusted, random.Random(1)

    def now(self):
        at = super().now()
        if self.right:
            return at
        return Instant(at.boot_id, at.mono_ns, at.utc_ns + self._rng.choice(STEPS_NS), self._trusted)


SPEED = 15.0
SAMPLES = 3000
PATIENCE_S = 100.0


@pytest.mark.mosquitto
@pytest.mark.parametrize("trusted", [False, True])
async def test_a_daemon_whose_clock_jumps_loses_repeats_and_reorders_nothing_and_tells_the_time_afterwards(
    mosquitto, tmp_path, trusted
):
    await mosquitto.start()
    simulated = SimulatedTime(NOW_NS, SPEED, Clock().now().mono_ns)
    clock = Jumping(simulated, trusted)
    simulation = Simulation(clock.mono_ns, random.Random(1))
    simulation.add(parse_wearable("name=left"), np.zeros((SAMPLES, 6), np.float32))
    endpoint = await simulation.serve(Endpoint("127.0.0.1", 0))
    sampling = asyncio.create_task(simulation.run())
    await simulation.started.wait()
    (worn,) = simulation.wearables
    file = tmp_path / "gateway.toml"
    file.write_text(
        f'[gateway]\nid = "home"\nstate_dir = "state"\n[radio]\nbackend = "bumble"\n'
        f'transport = "tcp-client:{endpoint}"\n[bundle]\npath = "{demo_bundle()}"\n'
        f'[store]\ncommit_interval_s = 0.1\n[sync]\nhost = "127.0.0.1"\nport = {mosquitto.port}\n'
        f'[[wearable]]\nid = "left"\naddress = "{worn.spec.ble_address()}"\nmounting = "x,y,z"\n'
    )
    config = load_config(file)
    due = list(range((SAMPLES - 200) // 100 + 1))
    what = Subscription("127.0.0.1", mosquitto.port, in_order=True, patience_s=PATIENCE_S)
    found = []
    try:
        async with (
            asyncio.timeout(PATIENCE_S),
            AsyncSubscriber(what) as messages,
        ):
            for wanted in (len(due) // 2, len(due)):
                clock.right = wanted == len(due)
                daemon = asyncio.create_task(run_daemon(config, clock=clock))
                told = False
                while len(found) < wanted or (clock.right and not told):
                    message = await messages.next()
                    told = told or isinstance(message.event, events.Clock)
                    if isinstance(message.event, events.Prediction):
                        assert not message.late
                        found.append(message.event)
                os.kill(os.getpid(), signal.SIGTERM)
                await daemon
    finally:
        simulation.close()
        sampling.cancel()
        await asyncio.wait({sampling}, timeout=1)
    numbers = [window.number for event in found for window in event.data.windows]
    assert numbers == due
    if trusted:
        return  # then nobody can know better
    assert sum(event.time is None for event in found) >= len(due) // 2, "told before the clock was trusted"
    for event in found:
        (window,) = event.data.windows
        when = messages.clocks.taken(event, window)
        truth_us = NOW_NS // 1000 + window.taken_mono_us
        assert when.exact
        assert abs(when.utc_us - truth_us) <= when.uncertainty_us
