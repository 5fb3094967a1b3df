"""Each wearable family's bytes to windows, as a multiple of real time for one wearable on one core.

    python tests/bench/bench_wearables.py [--family NAME ...] [--minutes 4] [--wearables 64]

Journal rows go through the family's decoder and the stream to windows, their features and labels; nothing is inferred
and nothing stored. Beside it the decoder alone, in interleaved rounds of one run; then many wearables in one process,
whose rows take turns; then the memory that a wearable keeps while it streams (what Python and numpy allocate, traced).

Exit code 1 where a family is slower than the target.
"""

import argparse
import statistics
import struct
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from itertools import count

import numpy as np

from gateway.clock import Instant
from gateway.monitoring.drift import DriftSettings
from gateway.motion.windows import WindowShape
from gateway.profiles import PROFILES
from gateway.profiles.conversation import Kind, Received
from gateway.store.rows import JournalRow
from gateway.stream.stream import Stream, StreamSettings, WindowReady

TARGET = 2000
ROUNDS = 5
MEMORY_WEARABLES, MEMORY_MINUTES = 16, 2.0
GRID_HZ, SHAPE = 50.0, WindowShape(200, 100)
DELAY_NS = 15_000_000

Observation = tuple[float, Kind, bytes]
"""When it came, in s; what; its bytes."""


def samples(n: int, rng: np.random.Generator) -> np.ndarray:
    """(n, 6) int16: a still wrist with some noise, in counts of 1 mg and 0.0625 deg/s."""
    noise: np.ndarray = rng.normal(0, 20, (n, 6))
    noise[:, 2] += 1000
    return noise.astype("<i2")


def reference() -> Iterator[Observation]:
    session, n, tick_hz = 0x1234_5678_9ABC_DEF0, 19, 32768
    rng = np.random.default_rng(1)
    yield (
        0.0,
        Kind.INFO,
        struct.pack(
            "<BBBBIIQ3bBBBHIQIIII", 1, 0, 1, 0, tick_hz, 500_000, 1, 1, 2, 3, 255, 1, 1, 0, 50_000, session, 0, 0, 0, 0
        ),
    )
    yield 0.0, Kind.CONFIG, struct.pack("<BBHIHHff", 1, n, 0, 50_000, 8, 2000, 9.80665e-3, 0.0625)
    for k in count():
        first, last_s = k * n, ((k + 1) * n - 1) / GRID_HZ
        head = struct.pack(
            "<BBBBHHII", 0x10, 3, n, 1, k & 0xFFFF, session & 0xFFFF, first, int(first / GRID_HZ * tick_hz)
        )
        yield last_s, Kind.FRAME, head + samples(n, rng).tobytes()
        if k % 790 == 0:  # every five minutes
            for trip in range(8):
                asked_s = last_s + trip * 0.05
                tick = int((asked_s + 0.02) * tick_hz)
                times = struct.pack("<QQ", *(int(s * 1e9) for s in (asked_s, asked_s + 0.04)))
                yield asked_s + 0.04, Kind.TIME, times + struct.pack("<IHI", tick, session & 0xFFFF, first + n)


def si(counts: np.ndarray) -> np.ndarray:
    """(n, 6) float32, m/s² and deg/s."""
    return (counts * ([9.80665e-3] * 3 + [0.0625] * 3)).astype("<f4")


def movesense() -> Iterator[Observation]:
    n, rate_hz, rng = 8, 52.0, np.random.default_rng(1)
    for k in count():
        values, first_ms = si(samples(n, rng)), round(k * n / rate_hz * 1e3)
        blocks = values[:, :3].tobytes() + values[:, 3:].tobytes()
        yield ((k + 1) * n - 1) / rate_hz, Kind.FRAME, struct.pack("<BBI", 2, 1, first_ms) + blocks


def polar() -> Iterator[Observation]:
    n, rate_hz, rng, started_ns = 36, 52.0, np.random.default_rng(1), 800_000_000 * 10**9
    for kind, range_, factor in ((2, 8, 1e-3), (5, 2000, 0.0625)):
        wanted = struct.pack("<BBHBBHBBHBBB", 0, 1, 52, 1, 1, 16, 2, 1, range_, 4, 1, 3)
        yield 0.0, Kind.CONFIG, bytes([2, kind]) + wanted
        yield 0.0, Kind.CONFIG, bytes([0xF0, 2, kind, 0, 0]) + struct.pack("<BBf", 5, 1, factor)
    for k in count():
        last_s, counts = ((k + 1) * n - 1) / rate_hz, samples(n, rng)
        stamp_ns = started_ns + round(last_s * 1e9)
        yield last_s, Kind.FRAME, struct.pack("<BQB", 2, stamp_ns, 0x01) + counts[:, :3].tobytes()
        gyro = counts[:, 3:]
        deltas = struct.pack("<BB", 16, n - 1) + np.diff(gyro, axis=0).astype("<i2").tobytes()
        yield last_s, Kind.FRAME, struct.pack("<BQB", 5, stamp_ns, 0x80) + gyro[0].tobytes() + deltas


def xsens_dot() -> Iterator[Observation]:
    rate_hz, rng = 60.0, np.random.default_rng(1)
    for k in count():
        stamp_us = round(k / rate_hz * 1e6) & 0xFFFFFFFF
        yield k / rate_hz, Kind.FRAME, struct.pack("<I", stamp_us) + si(samples(1, rng)).tobytes()


def witmotion() -> Iterator[Observation]:
    rng = np.random.default_rng(1)
    for k in count():
        angles = bytes(6)
        yield k / 50, Kind.FRAME, b"\x55\x61" + samples(1, rng).tobytes() + angles


def thingy52() -> Iterator[Observation]:
    rng = np.random.default_rng(1)
    for k in count():
        magnetometer = bytes(6)
        yield k / 50, Kind.FRAME, samples(1, rng).tobytes() + magnetometer


FRAMES: dict[str, Callable[[], Iterator[Observation]]] = {
    "reference": reference,
    "movesense": movesense,
    "polar-verity-sense": polar,
    "xsens-dot": xsens_dot,
    "witmotion-bwt901ble": witmotion,
    "thingy52": thingy52,
}
"""What a wearable of the family sends, without end, by family."""


def journal(family: str, minutes: float) -> list[JournalRow]:
    rows = []
    for at_s, kind, payload in FRAMES[family]():
        if at_s > minutes * 60:
            return rows
        at = Instant("boot", round(at_s * 1e9) + DELAY_NS, 0, False)
        rows.append(JournalRow(len(rows) + 1, "w", kind, payload, at))
    return rows


def stream(family: str) -> Stream:
    return Stream(
        decoder=PROFILES[family].decoder(),
        rate_hz=GRID_HZ,
        native_rate_hz=PROFILES[family].rate_hz,
        shape=SHAPE,
        settings=StreamSettings(),
        drift=DriftSettings(),
        reference={},
        mounting=np.eye(3, dtype=np.float32),
    )


def windows(path: Stream, rows: Iterable[JournalRow]) -> int:
    return sum(isinstance(output, WindowReady) for row in rows for output in path.advance(row))


def cpu_s(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def alone(family: str, minutes: float) -> tuple[float, float, float]:
    """x real time: decoder and stream (median, best), the decoder by itself (median)."""
    rows = journal(family, minutes)

    def decode() -> None:
        decoder = PROFILES[family].decoder()
        for row in rows:
            decoder.decode(Kind(row.kind), row.payload, Received(row.row, row.at.boot_id, row.at.mono_ns))

    def whole() -> None:
        made, expected = windows(stream(family), rows), int(minutes * 60 * GRID_HZ - SHAPE.length) // SHAPE.hop
        if not expected - 2 <= made <= expected + 1:
            raise SystemExit(f"{family}: {made} windows of {minutes:g} minutes, expected about {expected}")

    spent = [(cpu_s(whole), cpu_s(decode)) for _ in range(ROUNDS)]
    both, decoding = (statistics.median(spans) for spans in zip(*spent, strict=True))
    span_s = minutes * 60
    return span_s / both, span_s / min(s for s, _ in spent), span_s / decoding


def together(family: str, minutes: float, wearables: int) -> float:
    """x real time for each of so many wearables in one process, times their number."""
    rows, paths = journal(family, minutes), [stream(family) for _ in range(wearables)]

    def turns() -> None:
        for row in rows:
            for path in paths:
                path.advance(row)

    return wearables * minutes * 60 / cpu_s(turns)


def memory(family: str) -> tuple[float, float]:
    """kB that a streaming wearable keeps, and kB of its snapshot."""
    rows = journal(family, MEMORY_MINUTES)
    windows(stream(family), rows)  # what is loaded or cached once is not a wearable's
    tracemalloc.start()
    paths = [stream(family) for _ in range(MEMORY_WEARABLES)]
    for path in paths:
        windows(path, rows)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return kept / MEMORY_WEARABLES / 1e3, len(paths[0].snapshot()) / 1e3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [name for name in PROFILES if name in FRAMES]
    parser.add_argument("--family", action="append", choices=known, help="only this one; may be repeated")
    parser.add_argument("--minutes", type=float, default=4.0, help="of data, for each round (default: 4)")
    parser.add_argument("--wearables", type=int, default=64, help="in one process (default: 64)")
    args = parser.parse_args()
    print(f"{args.minutes:g} min of one wearable, median and best of {ROUNDS} rounds; target {TARGET:,} x real time")
    print(
        f"{'family':22}{'rows/s':>8}{'x real time':>13}{'best':>9}{'decoder':>10}"
        f"{f'{args.wearables} in one':>12}{'kB kept':>10}{'snapshot':>10}"
    )
    slow = []
    for family in args.family or known:
        median, best, decoding = alone(family, args.minutes)
        many = together(family, args.minutes, args.wearables)
        kept, snapshot = memory(family)
        rate = len(journal(family, 1.0)) / 60
        print(
            f"{family:22}{rate:>8.1f}{median:>13,.0f}{best:>9,.0f}{decoding:>10,.0f}"
            f"{many:>12,.0f}{kept:>10.0f}{snapshot:>10.0f}",
            flush=True,
        )
        slow += [family] if best < TARGET else []
    if slow:
        print(f"slower than the target: {', '.join(slow)}")
    return int(bool(slow))


if __name__ == "__main__":
    sys.exit(main())
