"""A crash at any moment leaves a prefix of what was submitted; going on from it must neither lose nor repeat a window.

The writer here keeps the submissions in a list, which is what the real one commits, in order; a crash cuts the list.
"""

import asyncio
import random
import struct
from types import SimpleNamespace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.clock import Instant
from gateway.monitoring.drift import DriftSettings
from gateway.motion.windows import WindowShape
from gateway.pipeline import Pipeline
from gateway.profiles.conversation import Durable, Kind
from gateway.profiles.reference import ReferenceDecoder
from gateway.store.rows import Derived, JournalRow, LoggedEvent
from gateway.stream.progress import Progress
from gateway.stream.stream import Stream, StreamSettings, decoder_state

SESSION = 0xABCD_0000_1111_2222
SHAPE = WindowShape(40, 20)
PERIOD_S = 10.0


def info(first, end):
    head = struct.pack("<BBBBIIQ3bBBBHI", 1, 1, 2, 3, 32768, 500_000, 42, 1, 2, 3, 87, 1, 1, 0, 50_000)
    return head + struct.pack("<QIIII", SESSION, first, end, 0, 0)


CONFIG = struct.pack("<BBHIHHff", 1, 19, 0, 50_000, 8, 2000, 0.01, 0.05)


def counts(first, n):
    """Sample i has i, i + 1, ... in its channels: whatever is misplaced shows."""
    return (np.arange(first, first + n)[:, None] + np.arange(6)).astype("<i2")


def frame(first, n):
    head = struct.pack("<BBBBHHII", 0x10, 3, n, 1, 0, SESSION & 0xFFFF, first, first * 655)
    return head + counts(first, n).tobytes()


def gap(first, n):
    return struct.pack("<BBBBHHIII", 0x12, 0, 0, 1, 0, SESSION & 0xFFFF, first, 0, n)


class Submissions(list):
    """Stands for the medium: what was submitted, in order."""

    def __init__(self, items=()):
        super().__init__(items)
        self.next_row = 1 + max((i.row for i in self if isinstance(i, JournalRow)), default=0)

    def journal(self, wearable, kind, payload, at):
        self.append(JournalRow(self.next_row, wearable, kind, payload, at))
        self.next_row += 1
        return self.next_row - 1

    def derived(self, derived):
        self.append(derived)

    def room(self):
        return 10**6


class Events:
    """Makes events whose payload is the window itself, so that the test can look into it."""

    def answer(self, probabilities):
        return SimpleNamespace(activity="sitting")

    def _event(self, kind, id, payload=b""):
        return LoggedEvent(kind, "left", "urn:left", id, "topic", payload, 0, "boot")

    def prediction(self, window, answer):
        payload = window.values.tobytes() + bytes([window.interpolated])
        return self._event("prediction", f"{window.session:016x}-{window.number}", payload)

    def drift(self, ready):
        return self._event("drift", f"{ready.session:016x}-{ready.number}", str(ready.summary.windows).encode())

    def state(self, ready, counters):
        return self._event("state", f"row-{ready.row}")


def opened(submissions, snapshot_rows):
    """A pipeline as the daemon builds it at its start: snapshot, progress, then the journal since."""
    progress, snapshot = Progress(), None
    for item in submissions:
        if isinstance(item, Derived):
            progress = Progress.decode(item.progress) if item.progress is not None else progress
            snapshot = item.snapshot or snapshot
    decoder = ReferenceDecoder.restore(decoder_state(snapshot[2])) if snapshot else ReferenceDecoder()
    stream = Stream(
        decoder=decoder,
        rate_hz=50.0,
        shape=SHAPE,
        settings=StreamSettings(interpolate_samples_max=3),
        drift=DriftSettings(period_s=PERIOD_S),
        reference={},
        mounting=np.eye(3, dtype=np.float32),
        progress=progress,
    )
    if snapshot:
        stream.restore(snapshot[0], snapshot[2])

    async def infer(windows):
        return np.zeros((len(windows), 11), np.float32)

    pipeline = Pipeline(
        wearable="left",
        stream=stream,
        progress=progress,
        events=Events(),
        writer=submissions,
        infer=infer,
        snapshot_rows=snapshot_rows,
    )
    pipeline.replay([item for item in submissions if isinstance(item, JournalRow) and item.row > stream.row])
    return pipeline


def committed(submissions, kind):
    events = [e for item in submissions if isinstance(item, Derived) for e in item.events if e.kind == kind]
    ids = [e.id for e in events]
    assert len(ids) == len(set(ids)), "an event was committed twice"
    return {e.id: e.payload for e in events}


async def play(observations, rng, snapshot_rows, crashes):
    """Feeds the observations, with crashes; what the journal has lost of them is sent again, as the wearable would."""
    submissions = Submissions()
    pipeline = opened(submissions, snapshot_rows)
    at = 0
    while at < len(observations):
        pipeline.observe(*observations[at], Instant("boot", at * 10**7, 0, False))
        at += 1
        if rng.random() < 0.5:
            await pipeline.drain()
        if crashes and rng.random() < 0.15:
            cut = rng.randrange(len(submissions) + 1)
            lost = sum(isinstance(item, JournalRow) for item in submissions[cut:])
            submissions = Submissions(submissions[:cut])
            at -= lost
            crashes -= 1
            pipeline = opened(submissions, snapshot_rows)
    await pipeline.drain()
    return submissions


def script(total, gone, rng):
    """Info, Config, then every sample once in frames, some out of order, some declared lost."""
    frames = []
    first = 0
    while first < total:
        n = min(19, total - first)
        hole = next((g for g in gone if g[0] <= first < g[1]), None)
        if hole:
            n = min(hole[1], total) - first
            frames.append((Kind.FRAME, gap(first, n)))
        else:
            end = min([first + n, *(g[0] for g in gone if g[0] > first)])
            n = end - first
            frames.append((Kind.FRAME, frame(first, n)))
        first += n
    for _ in range(len(frames) // 4):
        a, b = rng.randrange(len(frames)), rng.randrange(len(frames))
        frames[a], frames[b] = frames[b], frames[a]
    return [(Kind.CONNECTED, b""), (Kind.INFO, info(0, 0)), (Kind.CONFIG, CONFIG), *frames]


def windows_due(total, gone):
    """By arithmetic on the samples alone: numbers of the windows, with how many samples are interpolated."""
    due = {}
    for number in range((total - SHAPE.length) // SHAPE.hop + 1):
        first, end = number * SHAPE.hop, number * SHAPE.hop + SHAPE.length
        runs = [(low, high) for low, high in gone if low < end and high > first]
        if all(low > 0 and high < total and high - low <= 3 for low, high in runs):
            due[number] = sum(min(high, end) - max(low, first) for low, high in runs)
    return due


@settings(max_examples=60, deadline=None)
@given(
    total=st.integers(60, 2500),
    holes=st.lists(st.tuples(st.integers(1, 2400), st.integers(1, 5)), max_size=4),
    snapshot_rows=st.integers(1, 40),
    seed=st.integers(0, 2**32),
)
def test_no_crash_loses_or_repeats_a_window_whatever_order_frames_come_in(total, holes, snapshot_rows, seed):
    gone = []
    for low, n in sorted(holes):
        if low + n < total and (not gone or low > gone[-1][1] + 1):
            gone.append((low, low + n))
    rng = random.Random(seed)
    submissions = asyncio.run(play(script(total, gone, rng), rng, snapshot_rows, crashes=8))
    due = windows_due(total, gone)
    got = committed(submissions, "prediction")
    assert set(got) == {f"{SESSION:016x}-{number}" for number in due}
    for number, interpolated in due.items():
        first = number * SHAPE.hop
        expected = counts(first, SHAPE.length).astype(np.float64) * np.array([0.01] * 3 + [0.05] * 3)
        payload = got[f"{SESSION:016x}-{number}"]
        values = np.frombuffer(payload[:-1], np.float32).reshape(-1, 6)
        assert np.allclose(values, expected, atol=1e-3)  # a line: interpolation is exact on it
        assert payload[-1] == interpolated


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), snapshot_rows=st.integers(1, 40))
def test_drift_periods_are_told_once_and_hold_each_of_their_windows(seed, snapshot_rows):
    rng, total = random.Random(seed), 2500
    submissions = asyncio.run(play(script(total, [], rng), rng, snapshot_rows, crashes=6))
    windows = (total - SHAPE.length) // SHAPE.hop + 1
    per_period = int(PERIOD_S * 50 / SHAPE.hop)
    assert {id: int(n) for id, n in committed(submissions, "drift").items()} == {
        f"{SESSION:016x}-{period}": per_period for period in range(windows // per_period)
    }


def test_the_wearable_is_told_to_erase_only_what_is_durable_and_unbroken():
    async def scenario():
        submissions = Submissions()
        pipeline = opened(submissions, 1000)
        told = []
        pipeline.attach(told.append)
        at = Instant("boot", 0, 0, False)
        for kind, payload in [(Kind.INFO, info(0, 0)), (Kind.CONFIG, CONFIG), (Kind.FRAME, frame(0, 19))]:
            pipeline.observe(kind, payload, at)
        pipeline.observe(Kind.FRAME, frame(38, 19), at)
        assert [e for e in told if isinstance(e, Durable)] == []
        pipeline.committed(2)
        assert [e for e in told if isinstance(e, Durable)] == []
        pipeline.committed(4)
        assert [e for e in told if isinstance(e, Durable)] == [Durable(SESSION, 19)]
        pipeline.observe(Kind.FRAME, frame(19, 19), at)
        pipeline.committed(5)
        assert [e for e in told if isinstance(e, Durable)] == [Durable(SESSION, 19), Durable(SESSION, 57)]
        pipeline.observe(Kind.FRAME, frame(57, 19), at)
        told.clear()
        pipeline.attach(told.append)  # a new link, while the last frame is in nobody's hands but the writer's
        assert told == [Durable(SESSION, 57)]
        again = opened(Submissions(submissions[:-1]), 1000)
        told.clear()
        again.attach(told.append)
        assert told == [Durable(SESSION, 57)]

    asyncio.run(scenario())


def test_a_row_that_an_error_of_this_program_makes_underivable_costs_itself_live_and_at_each_start(caplog):
    submissions = Submissions()
    pipeline = opened(submissions, 10**6)
    advance = pipeline.stream.advance

    def faulty(row):
        if row.payload == frame(19, 19):
            raise ZeroDivisionError("an error that nobody foresaw")
        return advance(row)

    pipeline.stream.advance = faulty
    for number, payload in enumerate([info(0, 0), CONFIG, *(frame(19 * k, 19) for k in range(8))]):
        kind = (Kind.INFO, Kind.CONFIG)[number] if number < 2 else Kind.FRAME
        pipeline.observe(kind, payload, Instant("boot", number, 0, False))
    assert pipeline.shown.faults == {"underivable": 1}
    assert "left: nothing can be derived from journal row 4; it is left out" in caplog.text
    assert pipeline.stream.counters.samples == 7 * 19
    again = opened([], 10**6)
    again.stream.advance = faulty
    again.replay([item for item in submissions if isinstance(item, JournalRow)])
    assert again.shown.faults == {"underivable": 1}


async def test_an_event_that_says_another_activity_than_the_one_before_is_marked_as_a_change():
    submissions = Submissions()
    pipeline = opened(submissions, snapshot_rows=10**6)
    said = iter(["sitting", "sitting", "tapping", "tapping", "sitting"])
    pipeline._events.answer = lambda probabilities: SimpleNamespace(activity=next(said))
    total = SHAPE.length + 4 * SHAPE.hop
    for n, (kind, payload) in enumerate(script(total, [], random.Random(1))):
        pipeline.observe(kind, payload, Instant("boot", n * 10**7, 0, False))
    await pipeline.drain()
    predictions = [
        item
        for item in submissions
        if isinstance(item, Derived) and [event.kind for event in item.events] == ["prediction"]
    ]
    assert [item.changes for item in predictions] == [True, False, True, False, True]
