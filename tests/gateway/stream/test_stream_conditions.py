"""What a stream tells of its wearable beside windows: worn or not, gravity against the mounting, the ring's end."""

import json
import struct

import numpy as np
import pytest

from gateway.clock import Instant
from gateway.monitoring.drift import DriftSettings
from gateway.monitoring.gravity import GravityReference
from gateway.motion.axes import parse_axes
from gateway.motion.windows import WindowShape
from gateway.profiles.conversation import Kind
from gateway.profiles.reference import ReferenceDecoder
from gateway.store.rows import JournalRow
from gateway.stream.stream import StateReady, Stream, StreamSettings, decoder_state

SESSION, OTHER = 0x1111_0000_0000_AAAA, 0x2222_0000_0000_BBBB
SECOND = 10**9
RATE_HZ = 10.0
FRAME = 200
HOP = 200
HOUR = int(3600 * RATE_HZ)
SCALE = 0.01
CONFIG = struct.pack("<BBHIHHff", 1, 19, 0, int(RATE_HZ * 1000), 8, 2000, SCALE, 1.0)


def info(*sessions, capacity=500_000):
    """sessions: (number, first, end); the last one runs."""
    head = struct.pack("<BBBBIIQ3bBBBHI", 1, 0, 2, 3, 32768, capacity, 42, 1, 2, 3, 87, 1, len(sessions), 0, 10_000)
    return head + b"".join(struct.pack("<QIIII", number, first, end, 0, 7) for number, first, end in sessions)


def frame(session, first, values):
    """values: (n, 3), m/s²; at rest."""
    counts = np.hstack([np.rint(values / SCALE), np.zeros((len(values), 3))]).astype("<i2")
    head = struct.pack("<BBBBHHII", 0x10, 3, len(values), 1, 0, session & 0xFFFF, first, first * 3276)
    return head + counts.tobytes()


ANYWHERE = np.array([(-10, 10), (0, 1)], float)
UPWARDS = np.array([(-10, 6, 10), (0, 0.01, 1)], float)
GRAVITY = GravityReference(*zip(ANYWHERE, ANYWHERE, UPWARDS, strict=True))
"""Of a training in which the dial is always up, and the others lie anywhere."""


def stream(decoder=None, mounting="x,y,z", gravity=GRAVITY, **settings):
    return Stream(
        decoder=decoder or ReferenceDecoder(),
        rate_hz=RATE_HZ,
        shape=WindowShape(HOP, HOP),
        settings=StreamSettings(**settings),
        drift=DriftSettings(),
        reference={},
        mounting=parse_axes(mounting) if mounting else None,
        gravity=gravity,
    )


class Worn:
    """A journal and what came of it; motion is (n, 3) m/s² from the session's sample 0 on."""

    def __init__(self, made=None, session=SESSION):
        self.stream, self.session = made or stream(), session
        self.row, self.next, self.mono_ns = 0, 0, 0
        self.states = []
        self(Kind.INFO, info((session, 0, 0)))
        self(Kind.CONFIG, CONFIG)
        self.states.clear()

    def __call__(self, kind, payload=b"", boot="boot"):
        self.row += 1
        at = Instant(boot, self.mono_ns, 0, False)
        outputs = self.stream.advance(JournalRow(self.row, "left", kind, payload, at))
        self.states += [output for output in outputs if isinstance(output, StateReady)]

    def sample(self, values, order=None):
        starts = list(range(0, len(values), FRAME))
        for place in order if order is not None else range(len(starts)):
            start = starts[place]
            self.mono_ns += int(FRAME / RATE_HZ * SECOND)
            self(Kind.FRAME, frame(self.session, self.next + start, values[start : start + FRAME]))
        self.next += len(values)

    def restarted(self, **changed):
        """The gateway, from its snapshot."""
        snapshot = json.loads(json.dumps(json.loads(self.stream.snapshot())))
        again = stream(ReferenceDecoder.restore(snapshot["decoder"]), **changed)
        again.restore(self.row, json.dumps(snapshot).encode())
        self.stream = again


def table(n, up=(0, 0, 9.81), seed=2):
    return np.array(up) + np.random.default_rng(seed).normal(0, 0.02, (n, 3))


def wrist(n, *ups):
    """Five windows in each direction, unsteadily."""
    place = np.arange(n) // (5 * HOP) % len(ups)
    unit = np.array(ups) / np.linalg.norm(ups, axis=1, keepdims=True)
    return 9.81 * unit[place] + np.random.default_rng(3).normal(0, 0.05, (n, 3))


def test_taking_it_off_and_putting_it_on_are_each_told_once():
    worn = Worn()
    worn.sample(table(2 * HOUR))
    worn.sample(wrist(2 * HOUR, (1, 1, 9), (-1, -1, 9)))
    assert [(state.worn, state.connected) for state in worn.states] == [(False, True), (True, True)]
    assert worn.stream.worn is True
    worn(Kind.DISCONNECTED)
    assert (worn.states[-1].connected, worn.states[-1].worn) == (False, True)


def test_a_new_session_knows_nothing_yet():
    worn = Worn()
    worn.sample(table(HOUR + 900))
    assert worn.stream.worn is False
    worn(Kind.INFO, info((SESSION, 0, worn.next), (OTHER, 0, 0)))
    assert [state.worn for state in worn.states] == [False, None]


def test_frames_out_of_order_tell_the_same():
    values = np.vstack([table(2 * HOUR), wrist(HOUR, (1, 1, 9), (-1, -1, 9))])
    straight, mixed = Worn(), Worn()
    straight.sample(values)
    order = np.arange(len(values) // FRAME)
    for start in range(0, len(order), 20):  # each 400 s backwards
        order[start : start + 20] = order[start : start + 20][::-1]
    mixed.sample(values, order)
    assert [state.worn for state in mixed.states] == [state.worn for state in straight.states] == [False, True]


UP = ((0, 6, 8), (1, -6, 8), (6, 0, 8), (-6, 1, 8))
DOWN = tuple((x, -y, -z) for x, y, z in UP)


def test_a_mounting_that_hours_of_gravity_contradict_is_told_with_one_that_fits():
    worn = Worn(stream(mounting="x,-y,-z"))
    worn.sample(wrist(6 * HOUR, *UP))
    first, second = worn.states
    assert (first.worn, first.mounting, first.mounting_fits) == (True, None, None)
    assert second.mounting == "contradicted"
    put_right = Worn(stream(mounting=second.mounting_fits))
    put_right.sample(wrist(6 * HOUR, *UP))
    assert [state.mounting for state in put_right.states] == [None, "ok"]
    assert put_right.stream.mounting_verdict.verdict == "ok"


def test_a_watch_on_a_table_contradicts_no_mounting():
    worn = Worn(stream(mounting="x,-y,-z"))
    for up in UP:
        worn.sample(table(3 * HOUR, up=up))
    assert [state.mounting for state in worn.states if state.mounting] == []


@pytest.mark.parametrize("without", [{"mounting": None}, {"gravity": None}], ids=["mounting", "reference"])
def test_without_a_mounting_or_a_reference_nothing_is_said_of_it(without):
    worn = Worn(stream(**without))
    worn.sample(wrist(6 * HOUR, *DOWN))
    assert worn.stream.worn is True
    assert worn.stream.mounting_verdict is None


def test_restarts_change_nothing_of_what_is_told():
    values = wrist(6 * HOUR, *DOWN)
    whole, often = Worn(), Worn()
    whole.sample(values)
    for part in np.split(values, [int(hours * HOUR) // FRAME * FRAME for hours in (0.4, 1.6, 4.9, 5.4)]):
        often.sample(part)
        often.restarted()
    assert [(s.worn, s.mounting, s.mounting_fits) for s in often.states] == [
        (s.worn, s.mounting, s.mounting_fits) for s in whole.states
    ]
    assert often.states[-1].mounting == "contradicted"
    assert json.loads(often.stream.snapshot()) == json.loads(whole.stream.snapshot())


def test_another_mounting_begins_its_evidence_anew():
    worn = Worn()
    worn.sample(wrist(6 * HOUR, *DOWN))
    assert worn.stream.mounting_verdict.verdict == "contradicted"
    worn.restarted(mounting="x,-y,-z")
    assert worn.stream.mounting_verdict is None
    worn.sample(wrist(6 * HOUR, *DOWN))
    assert worn.states[-1].mounting == "ok"


def test_a_snapshot_of_the_second_version_is_taken_up():
    worn = Worn()
    worn.sample(table(HOUR + 900))
    state = json.loads(worn.stream.snapshot())
    for name in ("gravity", "mounting", "told", "ring"):
        del state[name]
    for session in state["sessions"]:
        del session["wear"], session["postures"]
    old = json.dumps(state).encode()
    worn.stream = stream(ReferenceDecoder.restore(decoder_state(old)))
    worn.stream.restore(worn.row, old)
    assert worn.stream.worn is None
    windows = worn.stream.counters.windows
    worn.sample(table(2 * HOUR))
    assert worn.stream.worn is False
    assert worn.stream.counters.windows - windows == 2 * HOUR // HOP


def test_what_was_lost_before_the_rate_was_known_does_not_hide_a_quarter():
    """Of a session at twice the grid's rate an hour is no longer held; the hour after it lies on a table."""
    worn = Worn()
    worn(Kind.CONFIG, struct.pack("<BBHIHHff", 1, 19, 0, 20_000, 8, 2000, SCALE, 1.0))
    worn(Kind.INFO, info((SESSION, 2 * HOUR, 2 * HOUR)))
    worn.next = 2 * HOUR
    worn.sample(table(2 * (HOUR + 900)))
    assert worn.stream.worn is False


# The ring.


def overflow_h(worn, *args):
    worn(*args)
    return worn.states[-1].ring_overflow_h


def test_away_a_ring_fills_at_the_wearables_rate():
    worn = Worn()
    worn.sample(table(8_000))
    assert overflow_h(worn, Kind.DISCONNECTED) == pytest.approx(500_000 / RATE_HZ / 3600)


def test_what_has_not_come_yet_counts_as_held():
    worn = Worn()
    worn(Kind.INFO, info((SESSION, 0, 140_000)))
    worn.next = 140_000 - FRAME
    worn.sample(table(FRAME))
    assert overflow_h(worn, Kind.DISCONNECTED) == pytest.approx(360_000 / RATE_HZ / 3600)


def test_links_too_short_to_drain_it_let_it_overflow_in_the_end():
    """From one link to the next, a day later, 36,000 samples more stay than go."""
    worn = Worn()
    worn(Kind.INFO, info((SESSION, 0, 100_000)))
    worn.mono_ns += 86_400 * SECOND
    assert overflow_h(worn, Kind.INFO, info((SESSION, 0, 136_000))) == pytest.approx((500_000 - 136_000) / 36_000 * 24)


def test_a_ring_that_is_drained_does_not_fill():
    worn = Worn()
    worn(Kind.INFO, info((SESSION, 0, 100_000)))
    worn.sample(table(100_000))
    assert overflow_h(worn, Kind.INFO, info((SESSION, 0, 100_010))) is None


def test_a_full_ring_has_no_hours_left():
    worn = Worn()
    worn(Kind.INFO, info((SESSION, 600_000, 1_200_000)))
    assert overflow_h(worn, Kind.DISCONNECTED) == 0


def test_after_the_hosts_reboot_nobody_knows_how_fast_it_filled():
    worn = Worn()
    worn(Kind.INFO, info((SESSION, 0, 100_000)))
    worn(Kind.CONNECTED, boot="next boot")  # some unknown time later
    worn.mono_ns += 3600 * SECOND
    worn(Kind.INFO, info((SESSION, 0, 136_000)), "next boot")
    assert worn.states[-1].ring_overflow_h is None
