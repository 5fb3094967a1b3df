"""Ingest: notification bytes to windows, as a multiple of real time for one wearable on one core.

    python tests/bench/bench_ingest.py

Three figures from interleaved rounds of one run: the stream alone (journal rows to windows and window features), the
whole pure path (conversation, decoding, stream), and a plain numpy decode of the same bytes as the yardstick.
"""

import struct
import time

import numpy as np

from gateway.clock import Instant
from gateway.monitoring.drift import DriftSettings
from gateway.motion.windows import WindowShape
from gateway.profiles.conversation import Connected, Durable, Kind, Notified, Observe, ReadDone
from gateway.profiles.reference import CONFIG, CONTROL, INFO, LIVE, ReferenceConversation, ReferenceDecoder
from gateway.store.rows import JournalRow
from gateway.stream.stream import Acknowledge, Stream, StreamSettings, WindowReady

RATE_HZ, FRAME_SAMPLES = 50.0, 19
MINUTES = 20
ROUNDS = 5
SESSION = 0x1234_5678_9ABC_DEF0
INFO_PAYLOAD = struct.pack(
    "<BBBBIIQ3bBBBHIQIIII", 1, 0, 1, 0, 32768, 500_000, 1, 1, 2, 3, 255, 1, 1, 0, 50_000, SESSION, 0, 0, 0, 0
)
CONFIG_PAYLOAD = struct.pack("<BBHIHHff", 1, FRAME_SAMPLES, 0, 50_000, 8, 2000, 0.0024, 0.061)
LIVE_STARTED = struct.pack("<BBHI", 0x81, 0, SESSION & 0xFFFF, 0)


def frames() -> list[bytes]:
    rng = np.random.default_rng(1)
    made = []
    for n in range(int(MINUTES * 60 * RATE_HZ) // FRAME_SAMPLES):
        first = n * FRAME_SAMPLES
        head = struct.pack(
            "<BBBBHHII", 0x10, 3, FRAME_SAMPLES, 1, n & 0xFFFF, SESSION & 0xFFFF, first, first * 655 & 0xFFFFFFFF
        )
        made.append(head + rng.integers(-3000, 3000, (FRAME_SAMPLES, 6), dtype=np.int16).tobytes())
    return made


def stream() -> Stream:
    return Stream(
        decoder=ReferenceDecoder(),
        rate_hz=RATE_HZ,
        shape=WindowShape(200, 100),
        settings=StreamSettings(),
        drift=DriftSettings(),
        reference={},
        mounting=np.eye(3, dtype=np.float32),
    )


def rows(observations: list[tuple[Kind, bytes]]) -> list[JournalRow]:
    return [
        JournalRow(n + 1, "w", kind, p, Instant("b", n * 10**7, 0, False)) for n, (kind, p) in enumerate(observations)
    ]


def stream_alone(data: list[bytes]) -> int:
    journal = rows([(Kind.INFO, INFO_PAYLOAD), (Kind.CONFIG, CONFIG_PAYLOAD), *((Kind.FRAME, frame) for frame in data)])
    path = stream()
    return sum(isinstance(output, WindowReady) for row in journal for output in path.advance(row))


def whole_path(data: list[bytes]) -> int:
    conversation, path, row, windows = ReferenceConversation({}), stream(), 0, 0
    events = [
        Connected(),
        ReadDone(INFO, INFO_PAYLOAD, 0),
        ReadDone(CONFIG, CONFIG_PAYLOAD, 0),
        Notified(CONTROL, LIVE_STARTED),
        *(Notified(LIVE, frame) for frame in data),
    ]
    for now_ns, event in enumerate(events):
        for command in conversation.handle(event, now_ns):
            if not isinstance(command, Observe):
                continue
            row += 1
            at = Instant("b", now_ns, 0, False)
            for output in path.advance(JournalRow(row, "w", command.kind, command.payload, at)):
                if isinstance(output, WindowReady):
                    windows += 1
                elif isinstance(output, Acknowledge):
                    conversation.handle(Durable(output.session, output.index), now_ns)
    return windows


def plain_numpy(data: list[bytes]) -> int:
    scale = np.array([0.0024] * 3 + [0.061] * 3, np.float32)
    samples = np.concatenate([np.frombuffer(f, "<i2", offset=16).reshape(-1, 6) * scale for f in data])
    return len([samples[first : first + 200].copy() for first in range(0, len(samples) - 199, 100)])


def main() -> None:
    data = frames()
    span_s = len(data) * FRAME_SAMPLES / RATE_HZ
    paths = {
        "plain numpy, nothing kept": plain_numpy,
        "stream alone": stream_alone,
        "conversation and stream": whole_path,
    }
    times: dict[str, list[float]] = {name: [] for name in paths}
    counts = set()
    for _ in range(ROUNDS):
        for name, path in paths.items():
            began = time.process_time()
            counts.add(path(data))
            times[name].append(time.process_time() - began)
    assert len(counts) == 1, f"the paths disagree on the windows: {counts}"
    print(
        f"{span_s:.0f} s of one wearable at {RATE_HZ:g} Hz, {len(data)} frames, {counts.pop()} windows, {ROUNDS} rounds"
    )
    print(f"{'path':28}{'x real time (median)':>22}{'best':>12}{'us a frame':>12}{'x numpy':>10}")
    yardstick = sorted(times["plain numpy, nothing kept"])[ROUNDS // 2]
    for name, spans in times.items():
        median = sorted(spans)[ROUNDS // 2]
        print(
            f"{name:28}{span_s / median:>22,.0f}{span_s / min(spans):>12,.0f}"
            f"{median / len(data) * 1e6:>12.1f}{median / yardstick:>10.1f}"
        )


if __name__ == "__main__":
    main()
