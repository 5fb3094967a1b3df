"""How fast what a wearable has kept comes in, on the virtual link; the times are those of the virtual clock."""

import pytest

from firmware_sim.faults import parse_faults
from tests.sim.account import Account
from tests.sim.families import Reference
from tests.sim.world import INTERVAL_NS, NOTIFICATIONS_A_INTERVAL, SECOND, World

LINK_RATE_HZ = NOTIFICATIONS_A_INTERVAL * SECOND / INTERVAL_NS


def drain(world: World, within_s: float) -> tuple[int, float]:
    """Frames of the backlog and the seconds from the first to the last; the wearable has just come into reach."""
    (air,) = world.airs
    carried = air.worn.next_notification
    times: list[int] = []

    def counted() -> tuple[str, bytes] | None:
        notification = carried()
        if notification is not None and notification[1][0] & 15 == 1:
            times.append(world.clock.now_ns)
        return notification

    air.worn.next_notification = counted  # type: ignore[method-assign]
    began_ns = world.clock.now_ns
    while not (times and world.clock.now_ns - times[-1] > 2 * SECOND):
        world.run(world.clock.now_ns / SECOND + 0.5)
        assert world.clock.now_ns - began_ns < within_s * SECOND, f"{len(times)} frames in {within_s} s"
    return len(times), (times[-1] - times[0]) / SECOND


@pytest.mark.parametrize("queue_bytes", [2_000_000, 100_000], ids=["room for seconds", "room for half a second"])
@pytest.mark.parametrize("commit_interval_s", [0.05, 0.25, 1.0, 5.0])
def test_draining_takes_eight_tenths_of_the_link_at_any_commit_interval(
    commit_interval_s: float, queue_bytes: int
) -> None:
    faults = parse_faults("away@0-1200")
    world = World([(Reference("left", 1), faults)], 1, commit_interval_s=commit_interval_s)
    world.medium.queue_bytes_max = queue_bytes
    world.run(1200)
    frames, seconds = drain(world, 60)
    assert frames >= 1200 * 50 // 19 - 1
    assert frames / seconds >= 0.8 * LINK_RATE_HZ


FAULTY = [
    ("duplicate=0.3", 60),
    ("reorder=0.5", 60),
    ("jitter=0.5", 60),
    ("latency=0.3", 60),
    ("loss=0.05", 120),
    ("burst=0.02/20", 240),  # twenty live frames lost in a row are 7 s of silence, which ends the link
    ("truncate=0.05", 120),
    ("corrupt=0.05", 120),
    ("duplicate=0.3, loss=0.1, reorder=0.3", 400),
]


@pytest.mark.parametrize(("faults", "within_s"), FAULTY, ids=[faults for faults, _ in FAULTY])
def test_no_fault_of_the_notifications_keeps_a_backlog_from_draining(faults: str, within_s: float) -> None:
    """Ten minutes of backlog are 8 s of the whole link."""
    account = Account()
    worn = Reference("left", 1)
    listed = parse_faults(f"away@0-600, {faults}")
    world = account.world = World([(worn, listed)], 1, landed=account.landed, written=account.written)
    running = worn.device.running
    for ran_s in range(5, int(within_s) + 1, 5):  # that at its end a burst just takes the link says nothing
        world.run(600 + ran_s)
        if running.closed - running.watermark < 10 * 50:
            break
    assert running.closed - running.watermark < 10 * 50, f"{worn.device.held} samples wait still"
