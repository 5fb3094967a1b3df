"""Streams whose sample index is not the grid: other rates, bursts with times, sensors that stream apart."""

import itertools
import json
import random
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.clock import Instant
from gateway.monitoring.drift import DriftSettings
from gateway.motion.resample import Resampler, Rows
from gateway.motion.samples import Burst, Lost, Sensor, SessionEnded
from gateway.motion.windows import WindowShape
from gateway.profiles import profile_of
from gateway.profiles.conversation import Kind
from gateway.profiles.reference import ReferenceDecoder
from gateway.store.rows import JournalRow
from gateway.stream.stream import (
    SESSIONS_MAX,
    Acknowledge,
    StateReady,
    Stream,
    StreamSettings,
    WindowReady,
    decoder_state,
)
from tests.gateway.profiles import test_polar

SESSION, NEXT = 0x1111_0000_0000_AAAA, 7
SHAPE = WindowShape(40, 20)
GRID_HZ = 50.0


def info(*sessions):
    head = struct.pack("<BBBBIIQ3bBBBHI", 1, 0, 2, 3, 32768, 500_000, 42, 1, 2, 3, 87, 1, len(sessions), 0, 50_000)
    return head + b"".join(struct.pack("<QIIII", number, first, end, 0, 7) for number, first, end in sessions)


def config(rate_hz, cfg_id=1):
    return struct.pack("<BBHIHHff", cfg_id, 19, 0, round(rate_hz * 1000), 8, 2000, 1.0, 1.0)


def counts(first, end):
    index = np.arange(first, end)
    return np.stack([(900 * np.sin(index * k / 9)).round() for k in range(1, 7)], axis=1).astype("<i2")


def frame(first, n, cfg_id=1):
    head = struct.pack("<BBBBHHII", 0x10, 3, n, cfg_id, 0, SESSION & 0xFFFF, first, first * 300)
    return head + counts(first, first + n).tobytes()


class Scripted:
    """A family whose frames are numbers of pieces that the test has at hand."""

    def __init__(self, pieces):
        self.pieces = pieces

    def decode(self, kind, payload, _at):
        if kind is Kind.DISCONNECTED:
            return [SessionEnded(NEXT)]
        return [self.pieces[int(payload)]] if kind is Kind.FRAME else []

    def state(self):
        return {}


def stream(decoder=None, rate_hz=GRID_HZ, native_rate_hz=52.0, **chosen):
    return Stream(
        decoder=decoder or ReferenceDecoder(),
        rate_hz=rate_hz,
        native_rate_hz=native_rate_hz,
        shape=SHAPE,
        settings=StreamSettings(**chosen),
        drift=DriftSettings(),
        reference={},
        mounting=None,
    )


class Journal:
    def __init__(self, stream):
        self.stream, self.row, self.outputs = stream, 0, []

    def __call__(self, kind, payload=b"", mono_ns=0):
        self.row += 1
        outputs = self.stream.advance(JournalRow(self.row, "left", kind, payload, Instant("boot", mono_ns, 0, False)))
        self.outputs += outputs
        return outputs

    def windows(self):
        """Each window's bytes and quality; none twice."""
        made = [o for o in self.outputs if isinstance(o, WindowReady)]
        assert len({(o.session, o.number) for o in made}) == len(made)
        return {(o.session, o.number): (o.values.tobytes(), o.interpolated, o.saturated) for o in made}


def reference(rate_hz):
    journal = Journal(stream())
    journal(Kind.INFO, info((SESSION, 0, 0)))
    journal(Kind.CONFIG, config(rate_hz))
    return journal


def rows_of(rate_hz, first, end):
    resampler = Resampler(rate_hz, GRID_HZ)
    taken_ns = np.rint(np.arange(first, end) * 1e9 / rate_hz).astype(np.int64)
    settled = resampler.add(first, taken_ns, counts(first, end).astype(np.float32))
    return np.concatenate([part.values for part in settled + resampler.end() if isinstance(part, Rows)])


@pytest.mark.parametrize("rate_hz", [10.0, 26.0, 52.0, 104.0, 400.0])
def test_frames_of_another_rate_are_resampled_and_acknowledged_by_their_own_index(rate_hz):
    journal = reference(rate_hz)
    total = int(rate_hz * 6) // 19 * 19
    for first in range(0, total, 19):
        journal(Kind.FRAME, frame(first, 19))
    assert [o for o in journal.outputs if isinstance(o, Acknowledge)][-1].index == total
    assert journal.stream.coverage()[SESSION].ranges == [(0, total)]
    assert journal.stream.counters.samples == total
    rows = rows_of(rate_hz, 0, total)
    windows = journal.windows()
    assert len(windows) >= 5
    for (_, number), (values, *_) in windows.items():
        assert values == rows[number * 20 : number * 20 + 40].tobytes()


def test_the_backlog_that_fills_a_hole_gives_the_windows_that_an_unbroken_stream_gives():
    whole, holed = reference(104.0), reference(104.0)
    frames = list(range(0, 19 * 40, 19))
    for first in frames:
        whole(Kind.FRAME, frame(first, 19))
    for first in frames[:10] + frames[13:] + frames[12:9:-1]:
        holed(Kind.FRAME, frame(first, 19))
    assert holed.windows() == whole.windows()
    assert [o.index for o in holed.outputs if isinstance(o, Acknowledge)][-2:] == [10 * 19, 40 * 19]


def test_a_session_that_ended_gives_its_windows_up_to_the_last_sample():
    journal = reference(104.0)
    for first in range(0, 19 * 20, 19):
        journal(Kind.FRAME, frame(first, 19))
    before = len(journal.windows())
    journal(Kind.INFO, info((SESSION, 0, 19 * 20), (0xBBBB, 0, 0)))
    rows = (19 * 20 - 1) * GRID_HZ / 104 + 1
    assert before < len(journal.windows()) == int(rows - SHAPE.length) // SHAPE.hop + 1
    assert json.loads(journal.stream.snapshot())["sessions"][0]["done"]


def test_losses_are_counted_natively_and_by_reason():
    journal = reference(104.0)
    journal(Kind.FRAME, frame(0, 19))
    journal(Kind.FRAME, frame(57, 19))
    gap = struct.pack("<BBBBHHIII", 0x12, 3, 0, 1, 0, SESSION & 0xFFFF, 19, 0, 30)
    journal(Kind.FRAME, gap)
    journal(Kind.INFO, info((SESSION, 57, 200)))
    counters = journal.stream.counters
    assert (counters.samples, counters.lost_samples) == (38, 38)
    assert counters.lost_by_reason == {"overwritten": 30, "not_held": 8}


def test_what_counts_at_another_rate_within_a_session_is_lost_by_name():
    journal = reference(104.0)
    journal(Kind.FRAME, frame(0, 19))
    journal(Kind.CONFIG, config(52.0, cfg_id=2))
    journal(Kind.FRAME, frame(19, 19, cfg_id=2))
    assert journal.stream.counters.lost_by_reason == {"rate_changed": 19}


def test_a_model_of_another_rate_gets_its_own_grid():
    journal = Journal(stream(rate_hz=25.0))
    journal(Kind.INFO, info((SESSION, 0, 0)))
    journal(Kind.CONFIG, config(50.0))
    for first in range(0, 19 * 20, 19):
        journal(Kind.FRAME, frame(first, 19))
    numbers = [number for _, number in journal.windows()]
    assert numbers == list(range(len(numbers)))
    rows = (19 * 20 - 1) // 2 - 10 + 1  # every other sample, and ten rows wait for their reach
    assert len(numbers) == (rows - SHAPE.length) // SHAPE.hop + 1


# Bursts.


def bursts(seed, apart=True, cuts=None):
    """600 samples a sensor at 52 Hz, 20 and more of them lost on the way; pieces in the order that the radio gives."""
    rng, order = np.random.default_rng(seed), random.Random(seed if cuts is None else cuts)
    pieces = []
    for number, sensor in enumerate((Sensor.ACC, Sensor.GYRO) if apart else (Sensor.IMU,)):
        taken_ns = np.rint(np.arange(600) * 1e9 / 52).astype(np.int64) + number * 3_000_000
        values = rng.normal(size=(600, 3 if apart else 6)).astype(np.float32)
        gone = sorted(int(x) for x in rng.integers(0, 580, 2))
        lost = np.zeros(600, bool)
        for first in gone:
            lost[first : first + int(rng.integers(1, 20))] = True
        edges = sorted({0, 600, *order.sample(range(600), 30), *(np.flatnonzero(np.diff(lost.astype(int))) + 1)})
        for first, end in itertools.pairwise(edges):
            first, end = int(first), int(end)
            if lost[first]:
                pieces.append(Lost(NEXT, first, end, "radio", sensor))
            else:
                pieces.append(Burst(NEXT, sensor, first, taken_ns[first:end], values[first:end]))
    pieces += order.sample(pieces, 5)
    order.shuffle(pieces)
    return pieces


def played(pieces, restores=None, **chosen):
    journal = Journal(stream(Scripted(pieces), **chosen))
    journal(Kind.CONNECTED)
    for number in range(len(pieces)):
        journal(Kind.FRAME, str(number).encode(), mono_ns=number)
        if restores is not None and restores.random() < 0.2:
            snapshot = journal.stream.snapshot()
            assert decoder_state(snapshot) == {}
            journal.stream = stream(Scripted(pieces), **chosen)
            journal.stream.restore(journal.row, snapshot)
    journal(Kind.DISCONNECTED)
    return journal


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_windows_do_not_depend_on_order_splits_repetition_or_restarts(seed, apart):
    first = played(bursts(seed, apart, cuts=1))
    again = played(bursts(seed, apart, cuts=2), restores=random.Random(seed))
    assert first.windows() == again.windows()
    assert len(first.windows()) >= 3
    for journal in (first, again):
        counters = journal.stream.counters
        assert counters.samples + counters.lost_samples == (1200 if apart else 600)
        assert counters.lost_by_reason == {"radio": counters.lost_samples}
        assert counters.windows + counters.broken >= len(journal.windows())
    assert first.stream.counters == again.stream.counters


def test_a_wearable_that_keeps_nothing_is_acknowledged_nothing_and_told_of_when_its_samples_come():
    journal = played(bursts(1))
    assert not [o for o in journal.outputs if isinstance(o, Acknowledge)]
    assert journal.stream.coverage() == {}
    told = [(o.row, o.connected) for o in journal.outputs if isinstance(o, StateReady)]
    assert told == [(2, True), (journal.row, False)]


def test_the_end_of_a_session_flushes_what_waits_and_loses_what_is_missing():
    taken_ns = np.rint(np.arange(300) * 1e9 / 52).astype(np.int64)
    values = np.zeros((300, 6), np.float32)
    pieces = [
        Burst(NEXT, Sensor.IMU, 0, taken_ns[:100], values[:100]),
        Burst(NEXT, Sensor.IMU, 110, taken_ns[110:], values[110:]),
    ]
    journal = played(pieces)
    assert journal.stream.counters.lost_by_reason == {"ended": 10}
    last_row = int(taken_ns[-1] * GRID_HZ / 1e9)
    assert max(number for _, number in journal.windows()) == (last_row + 1 - SHAPE.length) // SHAPE.hop


def test_a_link_that_ended_untold_is_over_once_the_next_one_is_up():
    taken_ns = np.rint(np.arange(300) * 1e9 / 52).astype(np.int64)
    journal = Journal(stream(Scripted([Burst(NEXT, Sensor.IMU, 0, taken_ns, np.zeros((300, 6), np.float32))])))
    journal(Kind.CONNECTED)
    journal(Kind.FRAME, b"0")
    before = len(journal.windows())
    journal(Kind.CONNECTED)
    assert len(journal.windows()) == before + 1
    assert json.loads(journal.stream.snapshot())["sessions"][0]["done"]


def test_what_a_decoder_held_back_of_a_link_that_ended_untold_is_taken_with_its_end():
    """A Thingy's samples that come late wait for more to come; a crash of the gateway takes the word that none will."""
    journal = Journal(stream(profile_of("thingy52").decoder(), native_rate_hz=None))
    journal(Kind.CONNECTED)
    came = [struct.pack("<9h", n, *[0] * 8) for n in range(60)]
    for n, payload in enumerate(came[:-2]):
        journal(Kind.FRAME, payload, mono_ns=n * 20_000_000)
    for payload in came[-2:]:
        journal(Kind.FRAME, payload, mono_ns=2 * 10**9)
    assert journal.stream.counters.samples < len(came)
    journal(Kind.CONNECTED, mono_ns=9 * 10**9)
    assert journal.stream.counters.samples == len(came)
    assert json.loads(journal.stream.snapshot())["sessions"][0]["done"]


def test_estimated_losses_are_told_apart():
    journal = played([Lost(NEXT, 0, 25, "radio", Sensor.ACC, estimated=True), Lost(NEXT, 0, 10, "radio", Sensor.GYRO)])
    counters = journal.stream.counters
    assert (counters.lost_samples, counters.lost_estimated) == (35, 25)


def test_what_is_held_behind_holes_of_resampled_samples_is_bounded():
    journal = reference(104.0)
    journal.stream = stream(
        ReferenceDecoder.restore(decoder_state(journal.stream.snapshot())), reorder_samples_max=10_000
    )
    journal(Kind.INFO, info((SESSION, 0, 0)))
    for first in range(0, 80_000, 38):  # every other frame is lost and never comes
        journal(Kind.FRAME, frame(first, 19))
    session = json.loads(journal.stream.snapshot())["sessions"][0]
    assert len(json.dumps(session)) < 10_000 * 60
    assert journal.stream.counters.lost_by_reason.keys() == {"reorder_limit"}


@pytest.mark.parametrize("apart", [False, True], ids=["both in one stream", "each in its own"])
def test_a_wearable_is_sampled_as_often_as_each_of_its_sensors(apart):
    taken_ns = np.rint(np.arange(104) * 1e9 / 52).astype(np.int64)
    sensors = [(Sensor.ACC, 3), (Sensor.GYRO, 3)] if apart else [(Sensor.IMU, 6)]
    pieces = [Burst(NEXT, sensor, 0, taken_ns, np.ones((104, width), np.float32)) for sensor, width in sensors]
    journal = Journal(stream(Scripted(pieces)))
    for number in range(len(pieces)):
        journal(Kind.FRAME, b"%d" % number)
    assert journal.stream.counters.samples == 104 * len(pieces)
    assert journal.stream.moments == 104


@pytest.mark.parametrize(("before_hz", "after_hz"), [(50.0, 25.0), (25.0, 50.0), (50.0, 52.0)])
def test_another_model_s_rate_begins_behind_the_newest_sample(before_hz, after_hz):
    journal = Journal(stream(rate_hz=before_hz))
    journal(Kind.INFO, info((SESSION, 0, 0)))
    journal(Kind.CONFIG, config(50.0))
    for first in range(0, 190, 19):
        journal(Kind.FRAME, frame(first, 19))
    snapshot, journal.outputs = journal.stream.snapshot(), []
    journal.stream = stream(ReferenceDecoder.restore(decoder_state(snapshot)), rate_hz=after_hz)
    journal.stream.restore(journal.row, snapshot)
    for first in range(190, 1900, 19):
        journal(Kind.FRAME, frame(first, 19))
    numbers = [number for _, number in journal.windows()]
    assert 190 / 50 <= min(numbers) * SHAPE.hop / after_hz <= 190 / 50 + 3
    assert numbers == list(range(numbers[0], numbers[-1] + 1))
    assert journal.stream.coverage()[SESSION].ranges == [(0, 1900)]


def test_a_snapshot_of_the_first_version_is_taken_up():
    journal = reference(50.0)
    for first in range(0, 190, 19):
        journal(Kind.FRAME, frame(first, 19))
    state = json.loads(journal.stream.snapshot())
    state["shape"] = state["shape"][1:]
    for name in ("lost_estimated", "lost_by_reason"):
        del state["counters"][name]
    for session in state["sessions"]:
        for name in ("ticks", "rate_hz", "rate_known", "resampling"):
            del session[name]
        session["waiting_ns"] = {"190": 5}
        session["clock"] = {"anchors": [], "tick": 0, "first": 0}
    old = json.dumps(state).encode()
    restored = Journal(stream(ReferenceDecoder.restore(decoder_state(old))))
    restored.stream.restore(journal.row, old)
    for one in (journal, restored):
        one.outputs = []
        for first in range(190, 380, 19):
            one(Kind.FRAME, frame(first, 19))
    assert restored.windows() == journal.windows() != {}


def test_gyroscope_frames_held_back_when_the_gateway_died_are_counted_after_any_number_of_short_links():
    """Each link's come to light at the next one's beginning, in a session that may push the oldest out."""
    profile, links = profile_of("polar-verity-sense"), 2 * SESSIONS_MAX
    gyro = [row for row in test_polar.two_streams(12) if row[1][0] == 5][:2]
    journal = Journal(stream(profile.decoder()))
    for _ in range(links + 1):
        for kind, payload, _mono_ns in [*test_polar.LINK, *gyro]:
            journal(kind, payload)
    assert journal.stream.counters.samples == links * 72
