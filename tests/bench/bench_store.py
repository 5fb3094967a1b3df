"""What the store writes to the medium, against what it is given; and how long a card lasts.

    python tests/bench/bench_store.py [--hours 2] [--folder DIR] [--recording FILE [FILE]]

Real journal rows, predictions, states, drift events and snapshots of wearables of the reference profile (50 Hz, 19
samples a frame, a window every 2 s), a broker that acknowledges all at once, and retentions short enough that as much
is deleted as comes in. Time is simulated; commits fall where the default interval puts them. Two counts, both the
kernel's own of this process (proc(5), /proc/PID/io): bytes that SQLite writes (wchar), and bytes in whole blocks of
4 KiB that go to the medium (write_bytes), where a block that is written twice counts twice. FOLDER must lie on a disk:
on a tmpfs nothing is written. Frames are compressed, so that it matters what moves: a recording, or without one slow
motion with noise of 30 steps of the sensor, far more than a sensor has.
"""

import argparse
import asyncio
import random
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from firmware_sim.encoding import Config, quantize
from gateway.clock import Instant
from gateway.monitoring.drift import DriftSettings
from gateway.motion.samples import Float32
from gateway.motion.windows import WindowShape
from gateway.pipeline import Pipeline
from gateway.profiles.conversation import Kind
from gateway.profiles.reference import ReferenceDecoder
from gateway.recording import read_recording
from gateway.store import Committed, Store, StoreSettings, Writer
from gateway.store.rows import Cursor, Derived
from gateway.stream.outcome import EventMaker, Model
from gateway.stream.progress import Progress
from gateway.stream.stream import Stream, StreamSettings

Int16 = NDArray[np.int16]
RATE_HZ, FRAME_SAMPLES = 50.0, 19
LABELS = tuple(f"activity_{n:02}" for n in range(11))
MODEL = Model("0" * 64, "mixed", LABELS, 200, 100, RATE_HZ)
RETENTION_S = 1200.0
WARM_UP_S = 2 * RETENTION_S
"""By then as much is deleted as comes in."""
TRIM_S = 60.0
CARD_BYTES, CARD_TBW = 32e9, 100e12
DAY_S = 86400.0


@dataclass(frozen=True)
class Cost:
    """Over span_s. given: payloads of journalled rows and of events."""

    span_s: float
    wearables: int
    frames: int
    events: int
    written: int
    blocks: int
    commits: int

    @property
    def given(self) -> int:
        return self.frames + self.events

    def per_day(self, value: float) -> float:
        return value / self.span_s * DAY_S


class Feed:
    """One wearable's frames, as they come."""

    def __init__(self, number: int, counts: Int16 | None = None) -> None:
        self._counts = counts
        self.name = f"wearable-{number}"
        self._session = 0x1234_5678_9ABC_0000 + number
        self._rng = np.random.default_rng(number)
        self._phase_s = float(self._rng.uniform(0, FRAME_SAMPLES / RATE_HZ))

    def opening(self) -> list[tuple[Kind, bytes]]:
        info = struct.pack(
            "<BBBBIIQ3bBBBHIQIIII",
            *(1, 0, 1, 0, 32768, 500_000, number_of(self.name), 1, 2, 3, 255, 1, 1, 0, 50_000, self._session),
            *(0, 0, 0, 0),
        )
        return [
            (Kind.INFO, info),
            (Kind.CONFIG, struct.pack("<BBHIHHff", 1, FRAME_SAMPLES, 0, 50_000, 8, 2000, 0.0024, 0.061)),
        ]

    def frames(self) -> Iterator[tuple[float, bytes]]:
        """(seconds, payload) without end."""
        n = 0
        while True:
            first = n * FRAME_SAMPLES
            numbers = n & 0xFFFF, self._session & 0xFFFF, first, first * 655 & 0xFFFFFFFF
            head = struct.pack("<BBBBHHII", 0x10, 3, FRAME_SAMPLES, 1, *numbers)
            values = self._values(np.arange(first, first + FRAME_SAMPLES)).astype("<i2")
            yield self._phase_s + (n + 1) * FRAME_SAMPLES / RATE_HZ, head + values.tobytes()
            n += 1

    def _values(self, at: NDArray[np.int64]) -> NDArray[np.generic]:
        """Each wearable is at another place of the recording."""
        if self._counts is not None:
            return self._counts[(at + 7919 * number_of(self.name)) % len(self._counts)]
        return 2000 * np.sin(at[:, None] / 40 + np.arange(6)) + self._rng.normal(0, 30, (len(at), 6))


def number_of(name: str) -> int:
    return int(name.rsplit("-", 1)[1]) + 1


def written_so_far() -> tuple[int, int]:
    """Bytes given to write(2) and bytes of dirtied pages, of this process."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["wchar"]), int(fields["write_bytes"])


class Counting:
    """The writer, between the pipelines and the store."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.frames = self.events = 0
        self.waits = False

    def journal(self, wearable: str, kind: str, payload: bytes, at: Instant) -> int:
        self.frames += len(payload)
        self.waits = True
        return self.writer.journal(wearable, kind, payload, at)

    def derived(self, derived: Derived) -> None:
        self.events += sum(len(event.payload) for event in derived.events)
        self.waits = True
        self.writer.derived(derived)

    def room(self) -> int:
        return self.writer.room()


def pipeline(feed: Feed, counting: Counting) -> Pipeline:
    rng = np.random.default_rng(7)

    async def infer(windows: Float32) -> Float32:
        return rng.dirichlet(np.full(len(LABELS), 0.3), len(windows)).astype(np.float32)

    progress = Progress()
    stream = Stream(
        decoder=ReferenceDecoder(),
        rate_hz=RATE_HZ,
        shape=WindowShape(MODEL.window, MODEL.hop),
        settings=StreamSettings(),
        drift=DriftSettings(),
        reference={},
        mounting=np.eye(3, dtype=np.float32),
        progress=progress,
    )
    return Pipeline(
        wearable=feed.name,
        stream=stream,
        progress=progress,
        events=EventMaker("home", feed.name, None, MODEL, "0123456789ab", frame_known=True),
        writer=counting,
        infer=infer,
        snapshot_rows=StreamSettings().snapshot_rows,
    )


async def measure(folder: Path, wearables: int, hours: float, counts: Int16 | None = None) -> Cost:
    settings = StoreSettings(
        path=folder / f"gateway-{wearables}.db", journal_retention_s=RETENTION_S, event_retention_s=RETENTION_S
    )
    interval_s = settings.commit_interval_s
    with Store.open(settings.model_copy(update={"commit_interval_s": 60.0}), ["broker"]) as store:
        told: list[Committed] = []
        writer = Writer(store, asyncio.get_running_loop(), told.append)
        counting = Counting(writer)
        feeds = [Feed(n, counts) for n in range(wearables)]
        paths = {feed.name: pipeline(feed, counting) for feed in feeds}
        boot = "11111111-2222-3333-4444-555555555555"

        def at(now_s: float) -> Instant:
            return Instant(boot, int(now_s * 1e9), int((1_800_000_000 + now_s) * 1e9), True)

        for feed in feeds:
            for kind, payload in feed.opening():
                paths[feed.name].observe(kind, payload, at(0.0))
        sources = {feed.name: feed.frames() for feed in feeds}
        due = sorted((*next(sources[feed.name]), feed.name) for feed in feeds)
        commit_s, trim_s, now_s = float("inf"), TRIM_S, 0.0
        began: tuple[float, int, int, int, int, int] | None = None
        end_s = WARM_UP_S + hours * 3600
        acknowledged = 0
        while now_s < end_s:
            now_s, payload, name = due.pop(0)
            while commit_s <= now_s:
                await writer.flush()
                counting.waits = False
                commit_s = float("inf")
                if told[-1].event_seq > acknowledged:  # the broker's answers come within the second
                    acknowledged = told[-1].event_seq
                    told.clear()
                    writer.cursor(Cursor("broker", acknowledged))
                    commit_s = now_s + interval_s
            paths[name].observe(Kind.FRAME, payload, at(now_s))
            await paths[name].drain()
            commit_s = min(commit_s, now_s + interval_s)
            due.append((*next(sources[name]), name))
            due.sort(key=lambda item: item[0])
            if now_s >= trim_s:
                trim_s += TRIM_S
                writer.trim(at(now_s))
            if began is None and now_s >= WARM_UP_S:
                began = (now_s, counting.frames, counting.events, *written_so_far(), writer.counters.commits)
        assert began is not None
        ended = (now_s, counting.frames, counting.events, *written_so_far(), writer.counters.commits)
        await writer.close()
    span_s, frames, events, written, blocks, commits = (b - a for a, b in zip(began, ended, strict=True))
    return Cost(span_s, wearables, int(frames), int(events), int(written), int(blocks), int(commits))


def report(cost: Cost) -> list[str]:
    lines = [
        f"{cost.wearables} wearables, {cost.span_s / 3600:.1f} h, {cost.commits} commits, given "
        f"{cost.frames / 1e6:.1f} MB of frames and {cost.events / 1e6:.1f} MB of events:"
    ]
    for what, count in (("written by SQLite", cost.written), ("in blocks of the medium", cost.blocks)):
        daily = max(1.0, cost.per_day(count))
        lines.append(
            f"  {what:24} {count / cost.given:5.2f} x what was given, {daily / cost.wearables / 1e6:4.0f} MB a day and "
            f"wearable; {CARD_BYTES / 1e9:.0f} GB for {CARD_TBW / 1e12:.0f} TBW last {CARD_TBW / daily / 365:.0f} years"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description="What the store writes to the medium.")
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--folder", type=Path, help="on a disk; default: the system's folder for temporary files")
    parser.add_argument("--wearables", type=int, nargs="*", default=[1, 8])
    parser.add_argument("--recording", type=Path, nargs="+", default=[], help="files as `gateway score` reads them")
    args = parser.parse_args()
    random.seed(1)
    counts = quantize(read_recording(args.recording).on_grid(RATE_HZ).values, Config())[0] if args.recording else None
    print("frames of a recording:" if args.recording else "frames of synthetic motion:")
    for wearables in args.wearables:
        with tempfile.TemporaryDirectory(prefix="fidget-bench-", dir=args.folder) as folder:
            cost = asyncio.run(measure(Path(folder), wearables, args.hours, counts))
        print("\n".join(report(cost)))


if __name__ == "__main__":
    main()
