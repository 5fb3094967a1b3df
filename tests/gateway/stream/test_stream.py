"""What a stream makes of its journal besides an unbroken session's windows (those: test_pipeline.py)."""

import json
import struct

import numpy as np
import pytest

from gateway.clock import Instant
from gateway.monitoring.drift import DriftSettings
from gateway.motion.axes import parse_axes
from gateway.motion.samples import DeviceDetail
from gateway.motion.windows import WindowShape
from gateway.profiles import details
from gateway.profiles.conversation import Kind
from gateway.profiles.reference import ReferenceDecoder
from gateway.store.rows import JournalRow
from gateway.stream.stream import Acknowledge, StateReady, Stream, StreamSettings, WindowReady, decoder_state

FIRST, SECOND = 0x1111_0000_0000_AAAA, 0x2222_0000_0000_BBBB
SHAPE = WindowShape(40, 20)
CONFIG = struct.pack("<BBHIHHff", 1, 19, 0, 50_000, 8, 2000, 1.0, 1.0)
HOUR_NS = 3600 * 10**9


def info(*sessions, sensor_frame=(1, 2, 3)):
    """sessions: (number, first, end); the last one runs."""
    head = struct.pack(
        "<BBBBIIQ3bBBBHI", 1, 0, 2, 3, 32768, 500_000, 42, *sensor_frame, 87, 1, len(sessions), 0, 50_000
    )
    return head + b"".join(struct.pack("<QIIII", number, first, end, 0, 7) for number, first, end in sessions)


def frame(session, first, n, value=(1, 2, 3, 4, 5, 6)):
    head = struct.pack("<BBBBHHII", 0x10, 3, n, 1, 0, session & 0xFFFF, first, first * 655)
    return head + np.tile(np.array(value, "<i2"), (n, 1)).tobytes()


def time_read(session, tick, next_index, started_ns, ended_ns):
    return struct.pack("<QQIHI", started_ns, ended_ns, tick, session & 0xFFFF, next_index)


def stream(decoder=None, shape=SHAPE, mounting="x,y,z", **settings):
    return Stream(
        decoder=decoder or ReferenceDecoder(),
        rate_hz=50.0,
        shape=shape,
        settings=StreamSettings(**settings),
        drift=DriftSettings(),
        reference={},
        mounting=parse_axes(mounting) if mounting else None,
    )


class Journal:
    def __init__(self, stream):
        self.stream, self.row = stream, 0

    def __call__(self, kind, payload=b"", mono_ns=0, boot="boot", utc_ns=0, synced=False):
        self.row += 1
        return self.stream.advance(JournalRow(self.row, "left", kind, payload, Instant(boot, mono_ns, utc_ns, synced)))


def windows(outputs):
    return [(o.session, o.number) for o in outputs if isinstance(o, WindowReady)]


def started(stream, *sessions):
    journal = Journal(stream)
    journal(Kind.INFO, info(*(sessions or [(FIRST, 0, 0)])))
    journal(Kind.CONFIG, CONFIG)
    return journal


def test_a_hole_is_waited_for_and_given_up_when_its_time_is_over():
    journal = started(stream(backlog_wait_s=7200))
    journal(Kind.FRAME, frame(FIRST, 0, 10))
    assert windows(journal(Kind.FRAME, frame(FIRST, 40, 60))) == [(FIRST, 2), (FIRST, 3)]
    assert journal.stream.counters.broken == 0
    journal(Kind.DISCONNECTED, mono_ns=HOUR_NS)
    assert journal.stream.counters.broken == 0
    outputs = journal(Kind.CONNECTED, mono_ns=2 * HOUR_NS + 1)
    assert journal.stream.counters.broken == 2
    assert journal.stream.counters.lost_samples == 30
    assert Acknowledge(journal.row, FIRST, 100) in outputs


def test_time_between_boots_is_not_counted_against_a_hole():
    journal = started(stream(backlog_wait_s=7200))
    journal(Kind.FRAME, frame(FIRST, 40, 60), mono_ns=10 * HOUR_NS)
    journal(Kind.CONNECTED, boot="next boot", mono_ns=100 * HOUR_NS)
    assert journal.stream.counters.broken == 0


def test_what_the_ring_no_longer_holds_is_lost_at_once():
    journal = started(stream())
    journal(Kind.FRAME, frame(FIRST, 0, 10))
    journal(Kind.FRAME, frame(FIRST, 60, 100))
    journal(Kind.INFO, info((FIRST, 60, 160)))
    assert journal.stream.counters.broken == 3  # windows 0, 1 and 2 overlap samples 10 to 60
    assert journal.stream.counters.lost_samples == 50


def test_what_a_lost_ring_had_told_of_and_never_sent_is_counted():
    journal = started(stream(), (FIRST, 0, 100))
    journal(Kind.FRAME, frame(FIRST, 0, 60))
    state = journal.stream.snapshot()
    decoder = ReferenceDecoder.restore(decoder_state(state))
    restored = Journal(stream(decoder))
    restored.stream.restore(journal.row, state)
    for each in (journal, restored):
        each(Kind.INFO, info((SECOND, 0, 0)))
        assert each.stream.counters.lost_by_reason == {"not_held": 40}


def test_a_reboot_that_lost_the_ring_ends_the_old_session_and_the_new_one_counts_from_zero():
    journal = started(stream())
    journal(Kind.FRAME, frame(FIRST, 0, 100))
    journal(Kind.FRAME, frame(FIRST, 110, 90))
    outputs = journal(Kind.INFO, info((SECOND, 0, 0)))
    assert Acknowledge(journal.row, FIRST, 200) in outputs
    assert windows(journal(Kind.FRAME, frame(SECOND, 0, 40))) == [(SECOND, 0)]


def test_a_session_that_ended_is_completed_from_the_ring_after_the_reboot():
    journal = started(stream())
    journal(Kind.FRAME, frame(FIRST, 0, 30))
    journal(Kind.INFO, info((FIRST, 0, 65), (SECOND, 0, 0)))
    assert windows(journal(Kind.FRAME, frame(FIRST, 30, 35))) == [(FIRST, 0), (FIRST, 1)]
    assert journal.stream.snapshot().count(b'"done":true') == 1


def test_a_malformed_frame_is_counted_and_nothing_else():
    journal = started(stream())
    assert journal(Kind.FRAME, b"\xff" * 20) == []
    assert journal.stream.counters.malformed == 1
    assert windows(journal(Kind.FRAME, frame(FIRST, 0, 40))) == [(FIRST, 0)]


@pytest.mark.parametrize(
    ("sensor_frame", "mounting", "expected"),
    [
        ((1, 2, 3), "x,y,z", [1, 2, 3, 4, 5, 6]),
        ((1, 2, 3), "-y,x,z", [-2, 1, 3, -5, 4, 6]),
        # the sensor's x points along the case's y, its y along -x: case = (-y, x, z) of the sensor
        ((2, -1, 3), "x,y,z", [-2, 1, 3, -5, 4, 6]),
        ((2, -1, 3), "-y,x,z", [-1, -2, 3, -4, -5, 6]),
        ((2, -1, 3), None, [1, 2, 3, 4, 5, 6]),
    ],
)
def test_sensor_frame_and_mounting_turn_both_sensors_into_the_models_axes(sensor_frame, mounting, expected):
    journal = Journal(stream(mounting=mounting))
    journal(Kind.INFO, info((FIRST, 0, 0), sensor_frame=sensor_frame))
    journal(Kind.CONFIG, CONFIG)
    outputs = journal(Kind.FRAME, frame(FIRST, 0, 40))
    (window,) = [o for o in outputs if isinstance(o, WindowReady)]
    assert np.array_equal(window.values, np.tile(np.array(expected, np.float32), (40, 1)))


def test_a_sensor_frame_that_the_profile_knows_is_applied_though_the_wearable_tells_none():
    path = Stream(
        decoder=ReferenceDecoder(),
        rate_hz=50.0,
        sensor_frame=(2, -1, 3),
        shape=SHAPE,
        settings=StreamSettings(),
        drift=DriftSettings(),
        reference={},
        mounting=parse_axes("x,y,z"),
    )
    (first, *_) = [o for o in started(path)(Kind.FRAME, frame(FIRST, 0, 40)) if isinstance(o, WindowReady)]
    assert first.values[0].tolist() == [-2, 1, 3, -5, 4, 6]


def test_a_window_is_labelled_from_the_wearables_clock_and_not_by_arrival():
    journal = started(stream())
    journal(Kind.TIME, time_read(FIRST, 0, 0, 5 * 10**9 - 1000, 5 * 10**9 + 1000), mono_ns=5 * 10**9)
    outputs = journal(Kind.FRAME, frame(FIRST, 0, 80), mono_ns=99 * 10**9)
    taken = [o.taken for o in outputs if isinstance(o, WindowReady)]
    assert [t.mono_ns for t in taken] == [5 * 10**9, 5 * 10**9 + 400_000_000, 5 * 10**9 + 800_000_000]
    assert max(t.uncertainty_ns for t in taken) < 400_000  # 0.8 s beyond the reading, at the most skew that is allowed


def test_connecting_and_leaving_are_told_with_what_the_wearable_says_of_itself():
    journal = Journal(stream())
    (told,) = [o for o in journal(Kind.INFO, info((FIRST, 0, 30))) if isinstance(o, StateReady)]
    assert told.connected
    assert (told.device.firmware, told.device.battery_percent, told.device.ring_held) == ("2.3", 87, 30)
    assert told.device.overwritten == 7
    (told,) = [o for o in journal(Kind.DISCONNECTED) if isinstance(o, StateReady)]
    assert not told.connected


def test_another_models_windows_begin_behind_the_newest_sample():
    journal = started(stream())
    journal(Kind.FRAME, frame(FIRST, 0, 100))
    snapshot = journal.stream.snapshot()
    other = stream(ReferenceDecoder.restore(decoder_state(snapshot)), WindowShape(50, 25))
    other.restore(journal.row, snapshot)
    journal.stream = other
    assert windows(journal(Kind.FRAME, frame(FIRST, 100, 30))) == []
    assert windows(journal(Kind.FRAME, frame(FIRST, 130, 60))) == [(FIRST, 4), (FIRST, 5)]


def test_a_snapshot_restores_to_itself():
    journal = started(stream())
    for first in (0, 19, 57):
        journal(Kind.FRAME, frame(FIRST, first, 19))
    snapshot = journal.stream.snapshot()
    again = stream(ReferenceDecoder.restore(decoder_state(snapshot)))
    again.restore(journal.row, snapshot)
    assert json.loads(again.snapshot()) == json.loads(snapshot)


def test_what_is_held_back_by_holes_is_bounded():
    journal = started(stream(reorder_samples_max=10_000))
    for first in range(0, 40_000, 60):  # every frame leaves a hole that is never filled
        journal(Kind.FRAME, frame(FIRST, first, 40))
    session = json.loads(journal.stream.snapshot())["sessions"][0]
    assert len(session["windows"]["chunks"]) * SHAPE.hop <= 10_000 + 100


def labels(outputs):
    return [(o.session, o.taken and o.taken.mono_ns // 10**9) for o in outputs if isinstance(o, WindowReady)]


def test_a_rebooted_wearable_and_a_rebooted_host_each_start_a_clock_of_their_own():
    journal = started(stream(), (FIRST, 0, 40), (SECOND, 0, 0))
    journal(Kind.TIME, time_read(SECOND, 0, 0, 500 * 10**9, 500 * 10**9))
    assert labels(journal(Kind.FRAME, frame(SECOND, 0, 40))) == [(SECOND, 500)]
    assert labels(journal(Kind.FRAME, frame(FIRST, 0, 40))) == [(FIRST, None)]  # nobody asked while it ran
    journal(Kind.CONNECTED, boot="next boot")
    assert labels(journal(Kind.FRAME, frame(SECOND, 40, 20), boot="next boot")) == [(SECOND, None)]
    journal(Kind.TIME, time_read(SECOND, 80 * 655, 80, 7 * 10**9, 7 * 10**9), boot="next boot")
    assert labels(journal(Kind.FRAME, frame(SECOND, 60, 20), boot="next boot")) == [(SECOND, 6)]  # sample 40: 0.8 s ago


def test_details_are_told_on_with_the_batterys_level_and_survive_a_restart():
    made = stream()
    journal = Journal(made)
    assert journal(Kind.DETAIL, struct.pack("<H", 0x2A24) + b"BWT901") == []
    (told,) = journal(Kind.DETAIL, struct.pack("<HB", 0x2A19, 71))
    assert told == StateReady(2, True, None, DeviceDetail(model="BWT901", battery_percent=71), told.at)
    again = stream()
    again.restore(2, made.snapshot())
    (told,) = again.advance(JournalRow(3, "left", Kind.DETAIL, struct.pack("<HB", 0x2A19, 70), told.at))
    assert told.detail == DeviceDetail(model="BWT901", battery_percent=70)


def test_what_keeps_it_from_being_connected_is_told_until_it_connects_and_survives_a_restart():
    made = stream()
    journal = Journal(made)
    journal(Kind.CONNECTED)
    (told,) = journal(Kind.DETAIL, details.trouble("refused", "it does not know its bond"))
    detail = DeviceDetail(trouble="refused", trouble_why="it does not know its bond")
    assert told == StateReady(2, False, None, detail, told.at)
    again = stream()
    again.restore(2, made.snapshot())
    assert (again.detail, again.counters.links) == (told.detail, 1)
    journal = Journal(again)
    journal.row = 2
    (told,) = journal(Kind.DETAIL, details.trouble("", ""))
    assert (told.connected, told.detail.trouble, told.detail.trouble_why) == (False, "", "")
    journal(Kind.DETAIL, details.trouble("quarantined", "not connected within 2 s"))
    journal(Kind.CONNECTED)
    assert (again.detail, again.counters.links) == (DeviceDetail(), 2)


def test_a_malformed_detail_is_counted():
    made = stream()
    assert Journal(made)(Kind.DETAIL, struct.pack("<HB", 0x2A19, 101)) == []
    assert made.counters.malformed == 1
