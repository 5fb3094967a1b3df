"""What a stream keeps is bounded by the reorder span, whatever arrives."""

import random
import struct

import numpy as np
import pytest

from gateway.clock import Instant
from gateway.monitoring.drift import DriftSettings
from gateway.profiles import profile_of
from gateway.profiles.conversation import Kind
from gateway.profiles.reference import ReferenceDecoder
from gateway.store.rows import JournalRow
from gateway.stream.stream import Stream, StreamSettings
from tests.sim.world import SECOND, SHAPE

REORDER_MAX = 10_000
ROWS = 3000
SNAPSHOT_BYTES_MAX = 3 * REORDER_MAX * 24 * 4 // 3
"""Samples are 24 bytes, base64 takes a third more; three times that leaves room for all else."""
CONFIG = struct.pack("<BBHIHHff", 1, 19, 0, 50_000, 8, 2000, 0.01, 0.05)


def info(*sessions: int) -> bytes:
    head = struct.pack("<BBBBIIQ3bBBBHI", 1, 1, 2, 3, 32768, 500_000, 42, 1, 2, 3, 87, 1, len(sessions), 0, 50_000)
    return head + b"".join(struct.pack("<QIIII", number, 0, 0, 0, 0) for number in sessions)


def frame(session: int, first: int) -> bytes:
    return struct.pack("<BBBBHHII", 0x10, 3, 19, 1, 0, session & 0xFFFF, first, 0) + bytes(19 * 12)


def every_other(rng: random.Random, step: int) -> int:
    return 38 * step


def anywhere(rng: random.Random, step: int) -> int:
    return rng.randrange(2**32 - 20)


def far_apart(rng: random.Random, step: int) -> int:
    return (step * 1_400_000) % (2**32 - 20)


def backwards(rng: random.Random, step: int) -> int:
    return 10_000_000 - 40 * step


def far_beyond_a_hole(rng: random.Random, step: int) -> int:
    return 1000 + 19 * step


@pytest.mark.parametrize("where", [every_other, anywhere, far_apart, backwards, far_beyond_a_hole])
@pytest.mark.parametrize("sessions", [1, 3])
def test_memory_is_bounded_by_the_reorder_span(where, sessions: int) -> None:
    rng = random.Random(1)
    stream = Stream(
        decoder=ReferenceDecoder(),
        rate_hz=50.0,
        shape=SHAPE,
        settings=StreamSettings(reorder_samples_max=REORDER_MAX),
        drift=DriftSettings(),
        reference={},
        mounting=np.eye(3, dtype=np.float32),
    )
    row = 0

    def take(kind: Kind, payload: bytes) -> None:
        nonlocal row
        row += 1
        stream.advance(JournalRow(row, "left", kind, payload, Instant("boot", row * SECOND, 0, False)))

    numbers = [rng.getrandbits(64) for _ in range(sessions)]
    take(Kind.INFO, info(*numbers))
    take(Kind.CONFIG, CONFIG)
    largest = 0
    for step in range(ROWS):
        take(Kind.FRAME, frame(numbers[step % sessions], where(rng, step)))
        if step % 100 == 0:
            largest = max(largest, len(stream.snapshot()))
    assert largest < sessions * SNAPSHOT_BYTES_MAX
    assert stream.counters.samples > 0


def polar_frame(kind: int, last_sample: int) -> bytes:
    """36 equal samples: a reference and differences of no bits."""
    return struct.pack("<BQB3hBB", kind, round((last_sample + 1) * 1e9 / 52), 0x80, 1, 2, 3, 0, 35)


@pytest.mark.parametrize(
    "of_two",
    [
        pytest.param(lambda step: (5, step), id="one sensor alone"),
        pytest.param(lambda step: (2 if step % 40 == 0 else 5, step), id="one that is mostly lost"),
        pytest.param(lambda step: (2 if step % 2 else 5, step // 2 + 11 * (step % 2)), id="one that is ahead by 8 s"),
        pytest.param(lambda step: (5 if step % 3 else 2, 17 * step), id="both with losses"),
    ],
)
def test_memory_is_bounded_where_one_of_two_sensors_does_not_keep_up(of_two) -> None:
    profile = profile_of("polar-verity-sense")
    stream = Stream(
        decoder=profile.decoder(),
        rate_hz=50.0,
        native_rate_hz=profile.rate_hz,
        shape=SHAPE,
        settings=StreamSettings(reorder_samples_max=REORDER_MAX),
        drift=DriftSettings(),
        reference={},
        mounting=np.eye(3, dtype=np.float32),
    )
    rows = [(Kind.CONNECTED, b"")]
    rows += [(Kind.CONFIG, struct.pack("<BBBBBBBf", 0xF0, 2, kind, 0, 0, 5, 1, 0.001)) for kind in (2, 5)]
    rows += [(Kind.FRAME, polar_frame(kind, 36 * (number + 1) - 1)) for kind, number in map(of_two, range(ROWS))]
    largest = 0
    for row, (kind, payload) in enumerate(rows, 1):
        stream.advance(JournalRow(row, "left", kind, payload, Instant("boot", row * SECOND, 0, False)))
        if row % 50 == 0:
            largest = max(largest, len(stream.snapshot()))
    assert largest < SNAPSHOT_BYTES_MAX
    assert stream.counters.samples > 0
    assert stream.counters.malformed == 0
