"""Which samples were taken when, as far as a journal that is still being written can tell."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.clock import Instant
from gateway.motion.samples import Block, Burst, DeviceStatus, Sensor, SessionEnded, SessionHeld
from gateway.profiles import PROFILES
from gateway.profiles.conversation import Kind
from gateway.profiles.errors import FrameError
from gateway.store.rows import JournalRow
from gateway.stream.latest import PIECES_MAX, Latest
from gateway.stream.stream import aside_in
from tests.gateway.stream.test_frames_aside import FAMILIES, journal, stream

MS = 10**6
OLD, NEW = 7, 8


class Family:
    """A profile whose decoder gives the pieces that the test names."""

    sensor_frame = None

    def __init__(self, sensor_frame=None):
        self.sensor_frame = sensor_frame
        self.pieces = []

    def decoder(self, state=None):
        return self

    def decode(self, kind, payload, at):
        if payload == b"garbage":
            raise FrameError("acme", "garbage", payload)
        pieces, self.pieces = self.pieces, []
        return pieces


class Told:
    """Rows in the order in which they come; times in ms."""

    def __init__(self, sensor_frame=None):
        self.family = Family(sensor_frame)
        self.latest = Latest(self.family)
        self._row = 0

    def __call__(self, at_ms, *pieces, kind=Kind.FRAME, payload=b"", boot="boot"):
        self.family.pieces = list(pieces)
        self._row += 1
        self.latest.advance(JournalRow(self._row, "w", kind, payload, Instant(boot, at_ms * MS, 0, False)))

    def felt(self, since_ms, until_ms):
        return self.latest.felt(since_ms * MS, until_ms * MS)


def block(first, n=20, session=NEW, ax=None):
    """Sample i has i on its x, unless told otherwise; 50 Hz."""
    values = np.zeros((n, 6), np.float32)
    values[:, 0] = np.arange(first, first + n) if ax is None else ax
    values[:, 3] = 1000 + values[:, 0]
    return Block(session, first, 0, values)


def live(told, since_ms, until_ms, offset_ms=1000, delay_ms=lambda _: 30):
    """Blocks of 20 samples (400 ms); sample i is taken at offset + 20 i ms, the block comes delay after its last."""
    for first in range((since_ms - offset_ms) // 20, (until_ms - offset_ms) // 20, 20):
        told(offset_ms + (first + 19) * 20 + delay_ms(first), block(first))


def test_the_samples_are_those_taken_in_the_span_late_by_the_least_delay():
    told = Told()
    live(told, 1000, 9000)
    felt = told.felt(3000, 5000)
    assert felt.acc[:, 0].tolist() == list(range(99, 199))  # sample 99 was taken at 2980 and is put at 3010
    assert felt.gyro[:, 0].tolist() == [1000 + n for n in range(99, 199)]
    assert (felt.steady, felt.hole_s) == (True, pytest.approx(0.02, abs=0.005))
    assert told.latest.newest_ns() == (8980 + 30) * MS


@settings(deadline=None)
@given(jitter=st.lists(st.integers(0, 300), min_size=60, max_size=60))
def test_radio_delays_move_nothing(jitter):
    told = Told()
    live(told, 1000, 9000, delay_ms=lambda first: 30 + (0 if first % 100 == 0 else jitter[first // 20 % 60]))
    assert told.felt(3000, 5000).acc[:, 0].tolist() == list(range(99, 199))
    assert told.felt(3000, 5000).steady


def test_what_was_kept_and_what_comes_twice_is_not_felt_again():
    told = Told()
    for first in range(0, 400, 20):
        at_ms = 1000 + (first + 19) * 20 + 30
        told(at_ms, block(first), block(first), block(first - 2000, ax=-1), block(first, session=OLD, ax=-2))
        told(at_ms + 1, SessionHeld(OLD, 0, 10_000, False), SessionHeld(NEW, 0, 10_000, True), kind=Kind.INFO)
    assert told.felt(3000, 5000).acc[:, 0].tolist() == list(range(99, 199))


def test_a_backlog_alone_is_not_steady():
    told = Told()
    for first in range(0, 4000, 20):  # eight times as fast as it was taken
        told(1000 + first * 20 // 8, block(first))
    assert not told.felt(5000, 9000).steady


def test_a_hole_is_told_also_at_the_edges():
    told = Told()
    live(told, 1000, 4000)
    live(told, 5000, 9000)
    # samples 0 to 159 and 200 to 399, each put 30 ms after it was taken
    assert told.felt(3000, 7000).hole_s == pytest.approx(0.82)
    assert told.felt(7000, 10_000).hole_s == pytest.approx(0.99)
    assert told.felt(20_000, 22_000).hole_s == 2.0
    assert len(told.felt(20_000, 22_000).acc) == 0


def test_of_a_wearable_that_restarted_the_new_session_is_felt():
    told = Told()
    live(told, 1000, 4000)
    told(4100, SessionEnded(NEW), kind=Kind.DISCONNECTED)
    for n in range(10):
        told(5000 + n * 400, block(20 * n, session=99, ax=5))
    assert set(told.felt(5500, 8000).acc[:, 0].tolist()) == {5}


def test_sensors_that_stream_apart_are_put_on_one_time():
    told = Told()
    for n in range(40):
        taken_ns = (np.arange(n * 10, n * 10 + 10) * 20 * MS).astype(np.int64)
        values = np.full((10, 3), n, np.float32)
        told(1000 + n * 200 + 180, Burst(NEW, Sensor.ACC, n * 10, taken_ns, values))
        told(1000 + n * 200 + 650, Burst(NEW, Sensor.GYRO, n * 10, taken_ns, values + 100))
    felt = told.felt(3000, 5000)
    assert felt.acc.shape == felt.gyro.shape
    assert np.array_equal(felt.acc + 100, felt.gyro)


def test_the_wearables_own_sensor_frame_and_the_profiles_are_applied():
    told = Told()
    told(900, DeviceStatus("1", None, 0, 0, 0, sensor_frame=(2, -1, 3)), kind=Kind.INFO)
    live(told, 1000, 4000)
    # the sensor's x points along the case's y
    assert told.felt(2000, 3000).acc[0].tolist() == [0, 49, 0]
    constant = Told(sensor_frame=(3, 1, 2))
    live(constant, 1000, 4000)
    assert constant.felt(2000, 3000).acc[0].tolist() == [0, 0, 49]


def test_after_a_reboot_of_the_host_nothing_of_before_counts():
    told = Told()
    live(told, 100_000, 104_000)
    told(50, kind=Kind.CONNECTED, boot="next")
    assert told.latest.newest_ns() is None
    assert (told.latest.boot_id, told.latest.connected) == ("next", True)
    told(60, kind=Kind.DISCONNECTED, boot="next")
    assert told.latest.connected is False


def test_what_the_profile_refuses_and_details_are_passed_over():
    told = Told()
    told(10, payload=b"garbage")
    told(20, kind=Kind.DETAIL, payload=b"garbage")
    live(told, 1000, 4000)
    assert len(told.felt(2000, 3000).acc) == 50


def test_memory_is_bounded():
    told = Told()
    for n in range(PIECES_MAX + 100):
        told(1000 + n * 400, block(20 * n))
    assert len(told.latest._parts) == PIECES_MAX


@pytest.mark.parametrize("family", FAMILIES)
def test_it_goes_on_from_a_streams_snapshot_with_the_frames_that_wait_in_it(family):
    rows, profile = journal(family)[:-1], PROFILES[family]
    whole, path = Latest(profile), stream(profile.decoder())
    for row in rows:
        whole.advance(row)
    waiting = []
    for cut, row in enumerate(rows, 1):
        path.advance(row)
        if cut > len(rows) // 2 and len(waiting := aside_in(path.snapshot())) >= 2:
            break
    later = Latest(profile, path.snapshot(), cut)
    assert later.row == cut
    for row in rows[cut:]:
        later.advance(row)
    since, until = waiting[1].at.mono_ns, waiting[1].at.mono_ns + 4 * 10**9
    felt, expected = later.felt(since, until), whole.felt(since, until)
    assert len(felt.acc) > 190
    assert felt.hole_s < 0.1
    ends = [expected.acc[:3].tolist(), expected.acc[-3:].tolist()]  # the least delay may have been before the snapshot
    assert felt.acc[0].tolist() in ends[0]
    assert felt.acc[-1].tolist() in ends[1]
