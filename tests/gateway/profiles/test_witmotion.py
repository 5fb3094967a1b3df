"""WitMotion BWT901BLE: a string of bytes cut anywhere, and the rate that it is set to."""

import random
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_sim.families.streaming import Settings
from firmware_sim.families.witmotion import WitMotion
from gateway.motion.samples import SessionEnded
from gateway.profiles import profile_of
from gateway.profiles.conversation import (
    Connected,
    Disconnected,
    Kind,
    Notified,
    Received,
    Subscribe,
    Tick,
    Write,
    new_session,
)
from gateway.profiles.errors import FrameError
from gateway.profiles.witmotion import NOTIFY, WRITE
from tests.gateway.profiles.rows import (
    BOOT,
    bursts,
    commands_of,
    continues_exactly,
    faults,
    flat,
    fold,
    frames,
    writes,
)

PROFILE = profile_of("witmotion-bwt901ble")
VECTOR = bytes.fromhex("5561000000fc0008a4009af90000002000f00000")  # made by hand from the vendor's layout
VECTOR_VALUES = [0, -0.5 * 9.80665, 1.0 * 9.80665, 164 * 2000 / 32768, -1638 * 2000 / 32768, 0]
EVERY_NS = 20_000_000


def frame(*counts):
    return b"\x55\x61" + struct.pack("<9h", *counts, *[0] * (9 - len(counts)))


def distinct(count):
    """Frames whose first count tells them apart."""
    return [frame(i, 1, 2, 3, 4, 5) for i in range(count)]


def indices(pieces):
    """The first counts of all samples that were told."""
    return [round(float(row[0]) / (16 * 9.80665 / 32768)) for b in bursts(pieces) for row in b.values]


def told(payloads):
    return flat(fold(PROFILE.decoder(), frames(payloads, EVERY_NS)))


@pytest.mark.parametrize(
    "payloads",
    [
        [VECTOR],
        [VECTOR[i : i + 1] for i in range(20)],
        [VECTOR[:7], VECTOR[7:]],
        [VECTOR + b"\xff\x00\x55"],
        [VECTOR + VECTOR[:5]],
        [b"\x61\x00\x55", VECTOR],
        [VECTOR[5:], VECTOR],
        [b"\x55\x71" + bytes(18) + VECTOR],
    ],
    ids=["whole", "byte by byte", "cut", "junk after", "the next begun", "junk before", "cut into", "register before"],
)
def test_the_vector_decodes_exactly(payloads):
    pieces = [piece for piece in told(payloads) if not isinstance(piece, str)]
    (burst,) = pieces
    assert burst.values[0] == pytest.approx(VECTOR_VALUES, abs=1e-4)
    assert (burst.first, burst.taken_ns.tolist(), burst.saturated) == (0, [0], False)


def test_a_notification_that_comes_twice_counts_twice_for_nothing_tells_it_from_an_equal_sample():
    (one, other) = bursts(told([VECTOR, VECTOR]))
    assert (one.first, other.first) == (0, 1)
    assert one.values.tolist() == other.values.tolist()


@given(st.lists(st.integers(1, 60), min_size=1, max_size=80))
def test_frames_cut_anywhere_all_come(cuts):
    stream, payloads = b"".join(distinct(50)), []
    for cut in cuts:
        payloads.append(stream[:cut])
        stream = stream[cut:]
        if not stream:
            break
    if stream:
        payloads.append(stream[:512])
        payloads.append(stream[512:])
    assert indices(told([p for p in payloads if p])) == list(range(50))


@pytest.mark.parametrize("seed", range(5))
def test_after_bytes_that_are_missing_or_wrong_the_stream_is_found_again(seed):
    rng = random.Random(seed)
    sent = distinct(60)
    for at in (10, 30):
        sent[at] = sent[at][: rng.randrange(1, 19)]
    sent[20] = rng.randbytes(rng.randrange(1, 40)) + sent[20]
    got = indices(told(sent))
    assert set(got) <= set(range(60))
    assert {i for i in range(60) if i not in (10, 20, 30)} <= set(got)


def test_a_part_that_is_missing_makes_no_sample_of_two():
    """Eight bytes of one frame, the rest of it lost, then whole ones."""
    got = indices(told([frame(0), frame(1)[:8], frame(2) + frame(3), frame(4)]))
    assert got == [0, 2, 3, 4]


@pytest.mark.parametrize(("after_s", "got"), [(1.9, [0, 1, 2]), (2.1, [0, 2])])
def test_a_part_waits_two_seconds_for_its_rest(after_s, got):
    """What comes later is the rest of another frame, or of one that a radio held back as long."""
    rows = [*frames([frame(0), frame(1)[:13]], EVERY_NS)]
    rows += [(Kind.FRAME, frame(1)[13:] + frame(2), 2 * EVERY_NS + round(after_s * 1e9))]
    assert indices(flat(fold(PROFILE.decoder(), [*rows, (Kind.DISCONNECTED, b"", 9 * 10**9)]))) == got


@pytest.mark.parametrize(("count", "saturated"), [(32766, False), (32767, True), (-32768, True)])
def test_a_count_at_its_limit_is_saturated(count, saturated):
    assert [b.saturated for b in bursts(told([frame(0, 0, 0, count), frame(0, 0, count)]))] == [saturated, saturated]


@pytest.mark.parametrize(
    ("payload", "message"), [(b"", "0 bytes, expected 1 to 512"), (bytes(20), "20 bytes that belong to no frame")]
)
def test_what_is_no_frame_is_refused_with_what_was_found(payload, message):
    with pytest.raises(FrameError, match=message):
        PROFILE.decoder().decode(Kind.FRAME, payload, Received(1, BOOT, 0))


def test_a_new_link_begins_a_new_session_and_forgets_what_was_begun():
    rows = [*frames([frame(1), frame(2)[:9]]), (Kind.DISCONNECTED, b"", 9), *frames([frame(3)])]
    pieces = flat(fold(PROFILE.decoder(), rows))
    assert indices(pieces) == [1, 3]
    assert pieces[1] == SessionEnded(new_session(Received(2, BOOT, 0)))
    assert pieces[2].session == new_session(Received(6, BOOT, 0))
    assert pieces[2].first == 0


def test_a_decoder_restored_at_any_row_goes_on_exactly():
    sent = distinct(30)
    cut = [part for f in sent for part in (f[:13], f[13:])]
    late = [(Kind.FRAME, f, 3 * 10**9 + i * EVERY_NS) for i, f in enumerate(distinct(40))]
    stale = [*frames([*cut, cut[0]], EVERY_NS // 2), (Kind.FRAME, cut[1] + sent[1], 28 * 10**8)]
    continues_exactly(PROFILE, [*stale, *late, (Kind.DISCONNECTED, b"", 5 * 10**9), *frames(cut)])


SETTING = [(WRITE, "ffaa6988b5"), (WRITE, "ffaa030800")]


def test_a_link_is_set_to_50_hz_before_it_streams():
    commands = PROFILE.conversation({}).handle(Connected(), 0)
    assert writes(commands[1:3]) == SETTING
    assert commands[3] == Subscribe(NOTIFY)


def test_what_the_sensor_has_saved_is_left_as_it_was_and_each_link_is_at_50_hz():
    device = WitMotion(Settings(serial=1))
    conversation = PROFILE.conversation({})
    for _ in range(2):
        device.link_up()
        for command in conversation.handle(Connected(), 0):
            if isinstance(command, Write):
                device.written(command.uuid, command.payload)
        device.subscribed(NOTIFY, on=True)
        (taken,) = device.measure(np.zeros((100, 6), np.float32))
        assert len(taken.values) == 100  # of the motion's 50 a second
        device.crash(flash_kept=True)
        conversation.handle(Disconnected(), 0)
    device.link_up()
    device.subscribed(NOTIFY, on=True)
    (taken,) = device.measure(np.zeros((100, 6), np.float32))
    assert len(taken.values) == 20  # as delivered: 10 a second


def notified(rate_hz, seconds, from_s=1.0):
    return [(Notified(NOTIFY, VECTOR), from_s + i / rate_hz) for i in range(int(rate_hz * seconds) + 1)]


TALKS = [
    ("50 a second are right", notified(50, 5), [], []),
    ("equal frames are no duplicates", notified(50, 1), [], []),
    ("10 a second are set again", notified(10, 5), SETTING, [("rate", False)]),
    ("10 a second three times end the link", [*notified(10, 5), *notified(10, 5, 7), *notified(10, 5, 13)], [],
     [("rate", True)]),
    ("an empty notification", [(Notified(NOTIFY, b""), 1)], [], [("malformed", False)]),
    ("silence is set again", [(Tick(), 10)], SETTING, [("no_stream", False)]),
    ("a stream that ends is noticed", [*notified(50, 1), (Tick(), 17)], [], [("stalled", True)]),
]  # fmt: skip


@pytest.mark.parametrize(("shows", "steps", "written", "said"), TALKS, ids=[t[0] for t in TALKS])
def test_the_talk(shows, steps, written, said):
    last = commands_of(PROFILE.conversation({}), steps)[-1]
    assert writes(last) == written
    assert faults(last) == said


def test_a_wrong_rate_is_told_in_words():
    commands = commands_of(PROFILE.conversation({}), notified(10, 5))[-1]
    assert commands[1].detail == "it sends 10 samples a second and was set to 50; starting again"


def test_the_frames_are_one_sample_of_the_grid_apart():
    assert np.array_equal(np.concatenate([b.taken_ns for b in bursts(told(distinct(9)))]), np.arange(9) * EVERY_NS)
