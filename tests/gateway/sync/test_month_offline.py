"""A month without a broker: all windows of a wearable stay inside the store's bound, and leave with flat memory."""

import asyncio
import os
from pathlib import Path

import numpy as np
import pytest

from gateway.clock import Clock, Instant
from gateway.store import Committed, Store, StoreSettings, Writer
from gateway.store.batch import Batch, write
from gateway.store.rows import LoggedEvent
from tests.bench import bench_sync
from tests.gateway.sync.conftest import Mosquitto
from tests.gateway.test_coalescing import steady, wire_alone

WINDOWS = int(os.environ.get("FIDGET_MONTH_WINDOWS", "1300000"))
"""Thirty days, one every two seconds."""
DAY_NS = 86_400 * 10**9


async def offline(path: Path) -> tuple[int, int]:
    """Writes them, with the passes of a daemon that deletes what it may; how many are left and how many had to go."""
    payload = wire_alone(steady(1, np.random.default_rng(1)))
    with Store.open(StoreSettings(path=path), destinations=["broker"]) as store:
        for first in range(0, WINDOWS, 10_000):
            last = min(first + 10_000, WINDOWS)
            rows = [
                LoggedEvent(
                    "prediction", "left", "urn:fidget:wearable:left", f"5f3a9c0012d4e677-{number}-9f86d081884c",
                    bench_sync.TOPIC, payload.replace(b"36000", b"%07d" % number), number * 2 * 10**9, "boot",
                )
                for number in range(first, last)
            ]  # fmt: skip
            write(store.connection, Batch(events=rows), first)

        def committed(_told: Committed) -> None:
            """Nobody publishes."""

        writer = Writer(store, asyncio.get_running_loop(), committed)
        now = Clock().now()
        for day in range(31):
            writer.trim(Instant(now.boot_id, now.mono_ns + day * DAY_NS, now.utc_ns + day * DAY_NS, now.utc_synced))
            await writer.flush()
        await writer.close()
        counted = store.connection.execute("SELECT count(*), (SELECT coalesce(sum(count), 0) FROM dropped) FROM event")
        return tuple(counted.fetchone())


@pytest.mark.soak
@pytest.mark.mosquitto
async def test_a_month_offline_fits_into_the_default_bound_and_is_sent_with_flat_memory(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    await mosquitto.start("allow_anonymous true\nmax_inflight_messages 0\n")
    assert await offline(tmp_path / "gateway.db") == (WINDOWS, 0)
    found = await asyncio.to_thread(bench_sync.in_a_process, tmp_path / "gateway.db", mosquitto.port)
    assert found["again"] == 0
    assert found["grown_mb"] <= 1
