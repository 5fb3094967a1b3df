"""Movesense against its published frames, and the even times that its rounded stamps become."""

import itertools
import json
import random
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.motion.samples import Lost, Sensor, SessionEnded
from gateway.profiles import profile_of
from gateway.profiles.conversation import (
    Connected,
    Disconnected,
    Kind,
    Leaving,
    Notified,
    Observe,
    Received,
    Subscribe,
    Tick,
    WakeAt,
    Write,
    new_session,
)
from gateway.profiles.errors import FrameError
from gateway.profiles.movesense import COMMAND, NOTIFY, decode_measurement
from tests.gateway.profiles.rows import (
    BOOT,
    bursts,
    commands_of,
    continues_exactly,
    faults,
    flat,
    fold,
    frames,
    losses,
    plain,
    taken,
    writes,
)

PROFILE = profile_of("movesense")

IMU6 = (  # captured: sensein/movesense-py, tests/fixtures/validation/fixture.json
    "aca1020094b578bf399b8840cdb20d4155ff7cbf6a60884092c70c4182627cbfa2e988405da00c418bf871bf71248940c38c0c41"
    "48e17abf713daabf3333b3bec3f568bf713daabf3e0ad7beae4721bff628bcbf3e0ad7beae4721bf3333b3bf3e0ad7be"
)
IMU6_ACC = [
    (-0.9715206623077393, 4.268948078155518, 8.856152534484863),
    (-0.9882710576057434, 4.2617692947387695, 8.798723220825195),
    (-0.9858781099319458, 4.278519630432129, 8.789151191711426),
    (-0.9451987147331238, 4.285698413848877, 8.7843656539917),
]
IMU6_GYRO = [
    (-0.9800000190734863, -1.3300000429153442, -0.3499999940395355),
    (-0.9100000262260437, -1.3300000429153442, -0.42000001668930054),
    (-0.6299999952316284, -1.4700000286102295, -0.42000001668930054),
    (-0.6299999952316284, -1.399999976158142, -0.42000001668930054),
]
ACC = (  # the same source
    "03de010055ab8bbf69f78d4081dd0a412b1387bf975a8d4020840b41e79190bf076d8e401bf10a412b1387bf316e8d40b9660b41"
)
ACC_VALUES = [
    (-1.0911661386489868, 4.436451435089111, 8.679078102111816),
    (-1.0552724599838257, 4.417308330535889, 8.719757080078125),
    (-1.1294525861740112, 4.450809001922607, 8.683863639831543),
    (-1.0552724599838257, 4.419701099395752, 8.712578773498535),
]
WHOLE = b"\2\1" + bytes.fromhex(IMU6)


def frame(stamp_ms, n=4, value=1.0):
    return b"\2\1" + struct.pack(f"<I{6 * n}f", stamp_ms % 2**32, *[value] * (6 * n))


def stream(count, start_ms=0, rate_hz=52.0, n=4):
    """Frames with stamps rounded to ms, as the sensor's."""
    return [frame(start_ms + round(1000 * i * n / rate_hz), n) for i in range(count)]


def split(whole, at):
    return [whole[:at], b"\3\1" + whole[at:]]


def test_the_captured_frame_becomes_four_samples_in_si_units():
    (burst,) = flat(fold(PROFILE.decoder(), frames([WHOLE])))
    assert (burst.session, burst.sensor, burst.first) == (new_session(Received(2, BOOT, 0)), Sensor.IMU, 0)
    assert burst.values.dtype == np.float32
    assert burst.values[:, :3].tolist() == [list(row) for row in IMU6_ACC]
    assert burst.values[:, 3:].tolist() == [list(row) for row in IMU6_GYRO]
    assert np.diff(burst.taken_ns) == pytest.approx([1e9 / 52] * 3, abs=1)
    assert not burst.saturated


@pytest.mark.parametrize(
    ("body", "sensors", "stamp", "values"),
    [
        (IMU6, 2, 172460, np.hstack([IMU6_ACC, IMU6_GYRO])),
        (ACC, 1, 122371, np.array(ACC_VALUES)),
    ],
    ids=["imu6", "acc"],
)
def test_the_published_measurements_decode_exactly(body, sensors, stamp, values):
    found_stamp, found = decode_measurement(bytes.fromhex(body), sensors)
    assert found_stamp == stamp
    assert found.tolist() == values.tolist()


@pytest.mark.parametrize("at", range(3, len(WHOLE)))
def test_a_frame_split_anywhere_is_joined_before_it_is_decoded(at):
    """But where the first part is a whole number of samples by itself, which no usual MTU makes."""
    told = fold(PROFILE.decoder(), frames(split(WHOLE, at)))
    if at > 6 and (at - 6) % 24 == 0:
        assert "a continuation of nothing" in flat(told)[-1]
    else:
        assert told[1] == []
        assert plain(told[2])[0][1:] == plain(flat(fold(PROFILE.decoder(), frames([WHOLE]))))[0][1:]


@pytest.mark.parametrize("times", [1, 2], ids=["each part once", "each part twice"])
def test_equal_continuations_of_a_wearable_at_rest_are_no_duplicates(times):
    conversation, rows = PROFILE.conversation({}), []
    conversation.handle(Connected(), 0)
    for part in [part for whole in stream(30, n=8) for part in split(whole, 197)]:
        for _ in range(times):
            rows += [c for c in conversation.handle(Notified(NOTIFY, part), 0) if isinstance(c, Observe)]
    pieces = [p for p in flat(fold(PROFILE.decoder(), frames([row.payload for row in rows]))) if not isinstance(p, str)]
    assert losses(pieces) == []
    assert sum(len(burst.values) for burst in bursts(pieces)) == 30 * 8


def test_a_frame_in_parts_of_a_byte_is_refused_part_by_part():
    parts = [WHOLE[i : i + 1] for i in range(len(WHOLE))]
    assert all(isinstance(p, str) for p in flat(fold(PROFILE.decoder(), frames(parts))))


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"", "expected DATA"),
        (b"\x04\x01abcdef", "expected DATA"),
        (b"\3\1" + bytes(24), "a continuation of nothing"),
        (frame(0, value=float("nan")), "a value that no sensor measures"),
        (frame(0, value=float("inf")), "a value that no sensor measures"),
        (frame(0, value=3000.0), "a value that no sensor measures"),
        (frame(0, 65), "1564 bytes, expected 4 and 24 for each of 1 to 64 samples"),
    ],
)
def test_what_is_no_frame_is_refused_with_what_was_found(payload, message):
    with pytest.raises(FrameError, match=message):
        PROFILE.decoder().decode(Kind.FRAME, payload, Received(1, BOOT, 0))


def test_trailing_bytes_make_a_frame_wait_for_its_end_and_then_it_is_dropped():
    told = fold(PROFILE.decoder(), frames([WHOLE + b"\0", frame(172460 + 77)]))
    assert [len(pieces) for pieces in told] == [0, 0, 1]


@pytest.mark.parametrize("rate_hz", [52.0, 50.9, 53.5])
def test_rounded_stamps_become_even_times(rate_hz):
    pieces = flat(fold(PROFILE.decoder(), frames(stream(1000, rate_hz=rate_hz))))
    times = taken(pieces)
    assert not losses(pieces)
    assert (np.diff(times) > 0).all()
    truth = np.arange(4000) * 1e9 / rate_hz
    settled = slice(400, None)
    assert np.abs(times - truth)[settled].max() < 0.6e6  # rounding to 1 ms alone is off by 0.5
    assert np.std((times - truth)[settled]) < 0.15e6
    assert np.abs(np.diff(times)[settled] - 1e9 / rate_hz).max() < 0.1e6


@pytest.mark.parametrize("rate_hz", [47.3, 57.7])
def test_no_sample_of_a_sensor_that_is_9_percent_off_seems_lost(rate_hz):
    pieces = flat(fold(PROFILE.decoder(), frames(stream(1000, rate_hz=rate_hz))))
    assert not losses(pieces)
    assert len({b.session for b in bursts(pieces)}) == 1


def test_the_counter_wraps_without_a_gap():
    pieces = flat(fold(PROFILE.decoder(), frames(stream(40, start_ms=2**32 - 1000))))
    assert {type(p) for p in pieces} == {type(bursts(pieces)[0])}
    assert len(taken(pieces)) == 160


@pytest.mark.parametrize("missing", [1, 3, 100, 700])
def test_frames_that_are_missing_are_counted_in_samples(missing):
    sent = stream(800)
    kept = sent[:50] + sent[50 + missing :]
    pieces = flat(fold(PROFILE.decoder(), frames(kept)))
    session = bursts(pieces)[0].session
    assert losses(pieces) == [Lost(session, 200, 200 + 4 * missing, "radio")]
    assert bursts(pieces)[-1].first == 4 * 799


@pytest.mark.parametrize("seed", range(50))
def test_one_loss_does_not_make_the_next_one_miscounted(seed):
    """Most frames are lost; what is left tells the rate only over the gaps between, by stamps in whole milliseconds."""
    kept, frame_at = [], 0
    chance = random.Random(seed)
    for _ in range(40):
        kept.append(frame_at)
        frame_at += chance.choice([1, 1, 10, 15])
    pieces = flat(fold(PROFILE.decoder(), frames([frame(1000 * 4 * at // 52) for at in kept])))
    assert [lost.end - lost.first for lost in losses(pieces)] == [
        4 * (after - before - 1) for before, after in itertools.pairwise(kept) if after - before > 1
    ]


@pytest.mark.parametrize("stamp_ms", [0, 5_000 + 61_000, 2**31], ids=["restart", "a minute ahead", "half the counter"])
def test_a_step_of_the_clock_ends_the_session_and_begins_another(stamp_ms):
    rows = frames([*stream(5, start_ms=5_000), frame(stamp_ms), frame(stamp_ms + 77)])
    told = fold(PROFILE.decoder(), rows)
    first, second = (new_session(Received(row, BOOT, 0)) for row in (2, 7))
    ended, burst = told[6]
    assert ended == SessionEnded(first)
    assert (burst.session, burst.first, burst.taken_ns[0]) == (second, 0, 0)
    assert told[7][0].session == second


def test_a_frame_that_comes_twice_counts_once():
    sent = stream(4)
    pieces = flat(fold(PROFILE.decoder(), frames([sent[0], sent[0], sent[1], sent[1], *sent[2:]])))
    assert [b.first for b in bursts(pieces)] == [0, 4, 8, 12]


@pytest.mark.parametrize("end", [Kind.DISCONNECTED, Kind.CONNECTED])
def test_a_session_ends_with_its_link(end):
    rows = [*frames(stream(2)), (end, b"", 1), (Kind.CONNECTED, b"", 2), (Kind.FRAME, frame(900), 3)]
    told = fold(PROFILE.decoder(), rows)
    assert told[3] == [SessionEnded(told[1][0].session)]
    assert told[4] == []
    assert (told[5][0].session, told[5][0].first) == (new_session(Received(6, BOOT, 0)), 0)


@pytest.mark.parametrize(("value", "saturated"), [(78.0, False), (78.4532, True), (-78.4532, True)])
def test_a_value_at_the_range_is_saturated(value, saturated):
    body = struct.pack("<I6f", 0, value, 0, 0, 0, 0, 0)
    (burst,) = flat(fold(PROFILE.decoder(), frames([b"\2\1" + body])))
    assert burst.saturated is saturated


def test_a_decoder_restored_at_any_row_goes_on_exactly():
    sent = stream(30)
    parts = [part for f in sent[:10] for part in split(f, 50)]
    continues_exactly(PROFILE, [*frames([*parts, *sent[14:], frame(3)]), (Kind.DISCONNECTED, b"", 9), *frames(sent)])


# The conversation


def test_a_link_is_subscribed_first_and_then_asked_for_52_samples_a_second():
    assert PROFILE.conversation({}).handle(Connected(), 5) == [
        Observe(Kind.CONNECTED, b""),
        Subscribe(NOTIFY),
        Write(COMMAND, b"\1\1/Meas/IMU6/52"),
        WakeAt(5 + 10 * 10**9),
    ]


def answer(status, ref=1):
    return Notified(NOTIFY, struct.pack("<BBH", 1, ref, status))


AGAIN = [(COMMAND, "0201"), (COMMAND, (b"\1\2/Meas/IMU6/52").hex())]
TALKS = [  # what it shows, events with seconds, writes and faults of the last
    ("an answer that all is well needs nothing", [(answer(200), 1)], [], []),
    ("data without an answer is the answer", [(Notified(NOTIFY, WHOLE), 1), (Tick(), 10)], [], []),
    ("an answer of old firmware is left alone", [(Notified(NOTIFY, b"\1\1ok"), 1)], [], []),
    ("a refusal is asked again", [(answer(503), 1)], AGAIN, [("refused", False)]),
    ("an answer to an earlier reference is left alone", [(answer(503), 1), (answer(404, 1), 1)], [], []),
    ("three refusals end the link", [(answer(503, r), r) for r in (1, 2, 3)], [], [("refused", True)]),
    ("silence is asked again", [(Tick(), 10)], AGAIN, [("no_stream", False)]),
    ("three silences end the link", [(Tick(), 10), (Tick(), 20), (Tick(), 30)], [], [("no_stream", True)]),
    ("a stream that ends is noticed", [(Notified(NOTIFY, WHOLE), 1), (Tick(), 16)], [], [("stalled", True)]),
    ("data of another subscription", [(Notified(NOTIFY, b"\2\7abc"), 1)], [], [("malformed", False)]),
    ("a frame twice", [(Notified(NOTIFY, WHOLE), 1), (Notified(NOTIFY, WHOLE), 1)], [], [("duplicate", False)]),
    ("nothing is said on no link", [(Disconnected(), 1), (Tick(), 20)], [], []),
]


@pytest.mark.parametrize(("shows", "steps", "written", "said"), TALKS, ids=[t[0] for t in TALKS])
def test_the_talk(shows, steps, written, said):
    last = commands_of(PROFILE.conversation({}), steps)[-1]
    assert writes(last) == written
    assert faults(last) == said


def test_a_refusal_is_told_with_the_sensors_status():
    (fault, *_) = commands_of(PROFILE.conversation({}), [(answer(503), 1)])[-1]
    assert fault.detail == "/Meas/IMU6/52 is refused with status 503; starting again"


def test_both_parts_of_a_frame_are_journalled_as_they_came():
    first, rest = split(WHOLE, 50)
    told = commands_of(PROFILE.conversation({}), [(Notified(NOTIFY, first), 1), (Notified(NOTIFY, rest), 1)])
    assert told == [[Observe(Kind.FRAME, first)], [Observe(Kind.FRAME, rest)]]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 64)), max_size=20))
def test_times_ascend_within_a_session_whatever_the_stamps(stamps):
    last = {}
    for piece in bursts(flat(fold(PROFILE.decoder(), frames([frame(s, n) for s, n in stamps])))):
        assert (np.diff(piece.taken_ns) > 0).all()
        assert piece.taken_ns[0] > last.get(piece.session, -1)
        last[piece.session] = piece.taken_ns[-1]


def test_the_state_is_json():
    decoder = PROFILE.decoder()
    fold(decoder, frames(stream(3)))
    assert json.loads(json.dumps(decoder.state())) == decoder.state()


def test_its_stream_is_stopped_before_the_gateway_ends_the_link():
    conversation = PROFILE.conversation({})
    assert conversation.handle(Leaving(), 0) == []
    conversation.handle(Connected(), 0)
    assert writes(conversation.handle(Leaving(), 1)) == [(COMMAND, "0201")]
