"""Real kernel, bluetoothd, D-Bus and systemd: what is streamed arrives, window by window, whatever is killed."""

import asyncio
from typing import Any

from tests.e2e.test_path import due_ids


async def all_arrives(guest: Any, within_s: float = 120.0) -> None:
    """The wearables stop sampling; then each window due is received, and no other."""
    await guest.path.control.stop_sampling()
    made = await guest.path.made()
    due = due_ids(made)
    assert due
    await guest.path.until(lambda: guest.path.prediction_ids() >= due, within_s, "every window due is received")
    assert guest.path.prediction_ids() == due


async def test_what_streams_arrives_over_kills_of_the_daemon(guest: Any) -> None:
    await guest.configure()
    await guest.start()
    await guest.path.until(lambda: len(guest.path.prediction_ids()) >= 4, 120, "windows arrive")
    for _ in range(2):
        await guest.shell("systemctl kill --signal=KILL fidget-gateway")
        seen = len(guest.path.prediction_ids())
        await guest.path.until(lambda seen=seen: len(guest.path.prediction_ids()) >= seen + 4, 120, "windows go on")
        await asyncio.sleep(2)
    await all_arrives(guest)
