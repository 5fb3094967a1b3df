"""Windows that share an event: the same cut whatever order samples come in, and to the byte after any crash."""

import asyncio
import json
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import events
from gateway.clock import Instant
from gateway.events import EventRejected, Following, PredictionData, WindowRecord, compacted, decode, expanded
from gateway.monitoring.drift import DriftSettings
from gateway.pipeline import Pipeline
from gateway.profiles.conversation import Kind
from gateway.profiles.reference import ReferenceDecoder
from gateway.store.rows import Derived, JournalRow
from gateway.stream.coalescing import OPEN_MAX, span_of
from gateway.stream.outcome import EventMaker, Model
from gateway.stream.progress import Progress
from gateway.stream.stream import Stream, StreamSettings, decoder_state, open_slots
from tests.gateway.test_pipeline import CONFIG, SESSION, SHAPE, Submissions, frame, info, script, windows_due

LABELS = ("sitting", "nail_biting", "smoking", "standing")
MODEL = Model("ab" * 32, "mixed", LABELS, SHAPE.length, SHAPE.hop, 50.0)
MAKER = EventMaker("home", "left", "p-17", MODEL, "0123456789ab", frame_known=True)
SPAN, HOP_S = 10, SHAPE.hop / 50
TOGETHER = StreamSettings(interpolate_samples_max=3, coalesce_s=SPAN * HOP_S, coalesce_wait_s=300)


ACTIVITIES = [label for stretch in range(40) for label in [stretch % 4] * np.random.default_rng(stretch).integers(1, 9)]


def activity(number):
    """Stretches of one to eight windows."""
    return ACTIVITIES[number]


async def infer(windows):
    """Sample i has 0.01 i in its first channel: that tells the number of a window, which decides its answer."""
    made = np.full((len(windows), len(LABELS)), 0.002, np.float32)
    for row, window in zip(made, windows, strict=True):
        number = round(float(window[0, 0]) / 0.01) // SHAPE.hop
        row[activity(number)] = 0.9 + number % 10 / 1000
        row[(activity(number) + 1) % 4] = 0.094 - number % 10 / 1000
    return made


def opened(submissions, snapshot_rows, how=TOGETHER, maker=MAKER):
    progress, snapshot = Progress(), None
    for item in submissions:
        if isinstance(item, Derived):
            progress = Progress.decode(item.progress) if item.progress is not None else progress
            snapshot = item.snapshot or snapshot
    stream = Stream(
        decoder=ReferenceDecoder.restore(decoder_state(snapshot[2])) if snapshot else ReferenceDecoder(),
        rate_hz=50.0,
        shape=SHAPE,
        settings=how,
        drift=DriftSettings(period_s=10.0),
        reference={},
        mounting=np.eye(3, dtype=np.float32),
        progress=progress,
    )
    if snapshot:
        stream.restore(snapshot[0], snapshot[2])
    pipeline = Pipeline(
        wearable="left",
        stream=stream,
        progress=progress,
        events=maker,
        writer=submissions,
        infer=infer,
        snapshot_rows=snapshot_rows,
        span=span_of(how.coalesce_s, HOP_S),
    )
    if snapshot:
        pipeline.restore(snapshot[2])
    pipeline.replay([item for item in submissions if isinstance(item, JournalRow) and item.row > stream.row])
    return pipeline


def at(moment_s):
    return Instant("boot", round(moment_s * 1e9), 0, False)


async def play(observations, rng, snapshot_rows, crashes, how=TOGETHER):
    """observations: kind, payload, seconds. What the journal has lost at a crash is sent again, as a wearable would."""
    submissions = Submissions()
    pipeline = opened(submissions, snapshot_rows, how)
    index = 0
    while index < len(observations):
        kind, payload, moment_s = observations[index]
        pipeline.observe(kind, payload, at(moment_s))
        index += 1
        if rng.random() < 0.5:
            await pipeline.drain()
        if crashes and rng.random() < 0.15:
            cut = rng.randrange(len(submissions) + 1)
            index -= sum(isinstance(item, JournalRow) for item in submissions[cut:])
            submissions = Submissions(submissions[:cut])
            crashes -= 1
            pipeline = opened(submissions, snapshot_rows, how)
    await pipeline.drain()
    return submissions


def timed(observations, rng, pauses):
    """Samples come faster than they were taken, as a backlog does; pauses of minutes lie in between."""
    moment_s, made = 0.0, []
    pausing = set(rng.sample(range(3, len(observations)), min(pauses, len(observations) - 3)))
    for number, (kind, payload) in enumerate(observations):
        moment_s += 0.01
        if number in pausing:
            moment_s += rng.choice([50.0, 200.0, 400.0])
            made.append((Kind.PASSED, b"", moment_s))
        made.append((kind, payload, moment_s))
    return [*made, (Kind.PASSED, b"", moment_s + 1000.0)]  # so nothing waits any more


def predictions(submissions):
    made = [e for item in submissions if isinstance(item, Derived) for e in item.events if e.kind == "prediction"]
    assert max(Counter(e.id for e in made).values(), default=1) == 1, "an event was committed twice"
    return {e.id: e.payload for e in made}


def numbers_in(payloads):
    """By event; each window in exactly one of them."""
    cut = sorted(tuple(w.number for w in decode(payload).data.windows) for payload in payloads.values())
    flat = [number for numbers in cut for number in numbers]
    assert len(flat) == len(set(flat)), "a window stands in two events"
    return cut


def cut_of(numbers):
    """By the rule alone: neighbours of one slot and one answer go together."""
    cut = []
    for number in sorted(numbers):
        before = cut[-1][-1] if cut else None
        joins = before == number - 1 and number % SPAN and activity(before) == activity(number)
        cut[-1:] = [(*cut[-1], number)] if joins else [*cut[-1:], (number,)]
    return cut


def holes_in(total, holes):
    gone = []
    for low, n in sorted(holes):
        if low + n < total and (not gone or low > gone[-1][1] + 1):
            gone.append((low, low + n))
    return gone


TOTALS = st.integers(60, 2500)
HOLES = st.lists(st.tuples(st.integers(1, 2400), st.integers(1, 5)), max_size=4)


@settings(max_examples=25, deadline=None)
@given(total=TOTALS, holes=HOLES, snapshot_rows=st.integers(1, 40), seed=st.integers(0, 2**32))
def test_whatever_order_samples_come_in_and_wherever_it_crashes_whole_slots_are_cut_alike(
    total, holes, snapshot_rows, seed
):
    gone, rng = holes_in(total, holes), random.Random(seed)
    observations = timed(script(total, gone, rng), rng, pauses=0)
    got = predictions(asyncio.run(play(observations, rng, snapshot_rows, crashes=8)))
    assert numbers_in(got) == cut_of(windows_due(total, gone))
    for payload in got.values():
        for window in decode(payload).data.windows:
            assert window.activity == LABELS[activity(window.number)]


@settings(max_examples=25, deadline=None)
@given(
    total=TOTALS, holes=HOLES, snapshot_rows=st.integers(1, 40), pauses=st.integers(0, 6), seed=st.integers(0, 2**32)
)
def test_deriving_again_gives_every_event_to_the_byte_also_those_that_have_waited_for_too_long(
    total, holes, snapshot_rows, pauses, seed
):
    gone, rng = holes_in(total, holes), random.Random(seed)
    observations = timed(script(total, gone, rng), rng, pauses)
    crashed = asyncio.run(play(observations, rng, snapshot_rows, crashes=8))
    again = asyncio.run(play(observations, random.Random(0), 10**6, crashes=0))
    assert predictions(crashed) == predictions(again)
    assert {number for numbers in numbers_in(predictions(crashed)) for number in numbers} == set(
        windows_due(total, gone)
    )


def fed(pipeline, frames, start_s=1.0):
    pipeline.observe(Kind.CONNECTED, b"", at(start_s))
    pipeline.observe(Kind.INFO, info(0, 0), at(start_s))
    pipeline.observe(Kind.CONFIG, CONFIG, at(start_s))
    for first in frames:
        pipeline.observe(Kind.FRAME, frame(first, 20), at(start_s))
    asyncio.run(pipeline.drain())


def test_an_answer_waits_no_longer_than_its_slot_and_coalesce_wait_s_though_nothing_comes_any_more():
    submissions = Submissions()
    pipeline = opened(submissions, 10**6)
    fed(pipeline, range(0, 80, 20))
    assert numbers_in(predictions(submissions)) == []
    limit_s = 1.0 + SPAN * HOP_S + 300
    pipeline.pass_time(at(limit_s - 0.001))
    assert numbers_in(predictions(submissions)) == []
    pipeline.pass_time(at(limit_s))
    asyncio.run(pipeline.drain())
    assert numbers_in(predictions(submissions)) == cut_of(range(3))
    rows = submissions.next_row
    pipeline.pass_time(at(limit_s + 3600))
    assert submissions.next_row == rows  # nothing waits any more: nothing is journalled


def test_after_a_boot_the_wait_begins_anew_and_still_ends():
    submissions = Submissions()
    fed(opened(submissions, 1), range(0, 80, 20))
    again = opened(submissions, 1)
    for moment_s in (5.0, 5.0 + SPAN * HOP_S + 301):
        again.pass_time(Instant("next boot", round(moment_s * 1e9), 0, False))
    asyncio.run(again.drain())
    assert numbers_in(predictions(submissions)) == cut_of(range(3))


def test_a_change_of_activity_finishes_an_event_at_once():
    submissions = Submissions()
    change = next(n for n in range(1, SPAN) if activity(n) != activity(n - 1))
    fed(opened(submissions, 10**6), range(0, SHAPE.hop * (change + 2), 20))
    assert numbers_in(predictions(submissions))[0] == cut_of(range(change))[0]


def test_only_so_many_slots_wait_and_the_oldest_goes_first():
    slots = open_slots(TOGETHER, HOP_S)
    due = [slots.came_out(SESSION, number * SPAN, number) for number in range(OPEN_MAX + 2)]
    assert [[slot.slot for slot in each] for each in due] == [[]] * OPEN_MAX + [[0], [1]]


@pytest.mark.parametrize("coalesce_s", [0.0, 2 * SPAN * HOP_S])
def test_what_waited_under_other_settings_goes_out_as_it_is(coalesce_s):
    submissions = Submissions()
    pipeline = opened(submissions, 10**6)
    fed(pipeline, range(0, 80, 20))
    pipeline.take_snapshot()
    asyncio.run(pipeline.drain())
    opened(submissions, 10**6, TOGETHER.model_copy(update={"coalesce_s": coalesce_s}))
    assert numbers_in(predictions(submissions)) == cut_of(range(3))


def test_what_another_model_answered_keeps_its_name():
    submissions = Submissions()
    pipeline = opened(submissions, 10**6)
    fed(pipeline, range(0, 80, 20))
    pipeline.take_snapshot()
    asyncio.run(pipeline.drain())
    other = replace(MAKER, model=replace(MODEL, bundle="cd" * 32), derivation="ba9876543210")
    opened(submissions, 10**6, maker=other)
    (event, *_) = map(decode, predictions(submissions).values())
    assert (event.data.bundle, event.data.derivation) == (MODEL.bundle, MAKER.derivation)


# On the wire.


def steady(count, rng, saturated=(), interpolated=()):
    """Windows of one answer as a real model gives them: two or three labels that matter, the rest near nothing."""
    made = []
    for number in range(36_000, 36_000 + count):
        shares = rng.dirichlet([60, 2, 1, *[0.02] * 8])
        labels = ("hand_tapping", "knuckle_cracking", "snapping_fingers", *(f"other_{k}" for k in range(8)))
        by_label = dict(zip(labels, map(float, shares), strict=True))
        made.append(
            WindowRecord(
                number=number,
                start_s=number * 2.0,
                taken_mono_us=86_408_345_678 + number * 2_000_000 + int(rng.integers(-40, 40)) + number // 7,
                taken_uncertainty_us=12_500 + number - 36_000,
                decision="activity",
                activity="hand_tapping",
                confidence=by_label["hand_tapping"],
                probabilities=by_label,
                quality=events.Quality(
                    interpolated=0.01 if number - 36_000 in interpolated else 0.0,
                    saturated=number - 36_000 in saturated,
                ),
            )
        )
    return PredictionData(
        session=f"{SESSION:016x}", rate_hz=50.0, window=200, hop=100, bundle="ab" * 32, variant="mixed",
        derivation="0123456789ab", windows=tuple(made),
    )  # fmt: skip


@pytest.mark.parametrize("count", [1, 2, 30])
def test_windows_that_share_an_event_say_what_they_say_alone_to_a_thousandth(count):
    whole = steady(count, np.random.default_rng(1), saturated=(0, 3), interpolated=(1, 29))
    told = expanded(compacted(whole))
    assert told.following is None
    assert len(told.windows) == count
    for sent, window in zip(told.windows, whole.windows, strict=True):
        assert (sent.number, sent.start_s, sent.taken_mono_us) == (window.number, window.start_s, window.taken_mono_us)
        assert (sent.decision, sent.reasons, sent.activity) == (window.decision, window.reasons, window.activity)
        assert sent.quality == window.quality
        assert sent.taken_uncertainty_us >= window.taken_uncertainty_us
        for label, probability in window.probabilities.items():
            assert sent.probabilities.get(label, 0.0) == pytest.approx(
                probability, abs=0.0005 + 0.005 * (label not in sent.probabilities)
            )


def test_a_subscriber_who_does_not_know_of_following_reads_the_first_window_as_ever():
    wire = json.loads(compacted(steady(30, np.random.default_rng(1))).model_dump_json(exclude_none=True))
    following = wire.pop("following")
    (first,) = PredictionData.model_validate(wire).windows
    assert (first.number, first.activity, following["count"]) == (36_000, "hand_tapping", 29)


def test_a_column_that_is_too_short_is_refused():
    payload = encoded(steady(3, np.random.default_rng(1)))
    message = json.loads(payload)
    message["data"]["following"]["probabilities_permille"]["hand_tapping"].pop()
    with pytest.raises(EventRejected, match="each column has `count` values"):
        decode(json.dumps(message).encode())
    with pytest.raises(ValueError, match="at least 2 items"):
        Following(count=1, probabilities_permille={"a": (1,)})


def wire_alone(data):
    """As it is without coalescing; of one window."""
    return encoded(data, shape=lambda same: same)


def encoded(data, shape=compacted):
    return events.encode(
        events.Prediction(
            id=events.prediction_id(SESSION, 36_000, data.derivation, data.windows[-1].number),
            source=events.wearable_source("left"),
            subject="p-17",
            time="2026-03-01T12:00:06.250000Z",
            sequence=events.sequence(36_000),
            gateway="home",
            bootid="0b9c1f5e-6f0a-4a57-9d3b-2f6f3c1f8f11",
            monons="86412345678901",
            data=shape(data),
        )
    )


def test_a_window_of_a_minute_in_one_event_costs_less_than_150_bytes():
    """Eleven classes, a whole minute of one activity."""
    assert len(encoded(steady(30, np.random.default_rng(1)))) / 30 <= 150
