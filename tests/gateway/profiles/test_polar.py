"""Polar Verity Sense: the vendor's unit-test frames, an independent packer, the negotiation, two streams, one clock."""

import itertools
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.motion.samples import Burst, Lost, Sensor, SessionEnded
from gateway.profiles import profile_of
from gateway.profiles.conversation import (
    Connected,
    Fault,
    Kind,
    Leaving,
    Notified,
    Observe,
    Received,
    Subscribe,
    Tick,
    Write,
)
from gateway.profiles.errors import FrameError
from gateway.profiles.polar import CONTROL, DATA, decode_frame
from tests.gateway.profiles.rows import (
    BOOT,
    bursts,
    commands_of,
    continues_exactly,
    faults,
    flat,
    fold,
    losses,
    taken,
    writes,
)

PROFILE = profile_of("polar-verity-sense")

GYRO_UNIT = bytes.fromhex("05ffffffffffffff7f80eaff08000d000301df00")  # polar-ble-sdk, GyrDataTest.kt, factor 1
ACC_UNIT = bytes.fromhex("02650000000000000081f1ff1400f00306017b0f08")  # polar-ble-sdk, AccDataTest.kt
START_ACC = "020200013400010110000201080004010" + "3"
START_GYRO = "02050001340001011000020 1d0070401 03".replace(" ", "")
GYRO_FACTOR = 2000 / 32768


def answer(op, kind, status=0, params=b"", more=0):
    return bytes([0xF0, op, kind, status, more]) + params


def factor(value):
    return struct.pack("<BBf", 5, 1, value)


STARTED = [
    (Kind.CONFIG, bytes.fromhex(START_ACC), 0),
    (Kind.CONFIG, answer(2, 2, 0, factor(1.0)), 0),
    (Kind.CONFIG, bytes.fromhex(START_GYRO), 0),
    (Kind.CONFIG, answer(2, 5, 0, factor(GYRO_FACTOR)), 0),
]


def pack_bits(values, width):
    """As the vendor describes it, a bit at a time."""
    bits = [(value >> i) & 1 for value in values for i in range(width)]
    bits += [0] * (-len(bits) % 8)
    return bytes(sum(bit << i for i, bit in enumerate(bits[at : at + 8])) for at in range(0, len(bits), 8))


def delta(counts, lengths=(255,), bits=16):
    """counts: (n, 3) integers; blocks of these lengths, the last one repeated, each as wide as it needs."""
    reference = b"".join(int(c).to_bytes(bits // 8, "little", signed=True) for c in counts[0])
    body, at = reference, 1
    for length in itertools.chain(lengths, itertools.repeat(lengths[-1])):
        if at >= len(counts):
            return body
        rows = [[int(b) - int(a) for a, b in zip(*pair, strict=True)] for pair in itertools.pairwise(counts[at - 1 :])]
        rows = rows[: min(length, 255)]
        flat_rows = [value for row in rows for value in row]
        width = max(max(v.bit_length() if v >= 0 else (-v - 1).bit_length() for v in flat_rows) + 1, 1)
        body += bytes([width, len(rows)]) + pack_bits(flat_rows, width)
        at += len(rows)
    raise AssertionError


def frame(kind, stamp_ns, counts, encoding=0x80, lengths=(255,), bits=16):
    return struct.pack("<BQB", kind, stamp_ns, encoding) + delta(counts, lengths, bits)


COUNTS = np.cumsum(np.random.default_rng(1).integers(-40, 41, (71, 3)), axis=0)
T0 = 820_000_000 * 10**9


def two_streams(count=6, rate_hz=52.0, n=(71, 36), start_ns=T0):
    """Alternating frames of both sensors with one clock; the gyroscope began a fifth of a sample later."""
    period_ns = 1e9 / rate_hz
    due = []
    for kind, size, ahead in ((2, n[0], 0.0), (5, n[1], 0.2)):
        for i in range(count * max(n) // size):
            last_ns = start_ns + round(((i + 1) * size - 1 + ahead) * period_ns)
            encoding = {2: 0x81, 5: 0x80}[kind]
            due.append((last_ns, frame(kind, last_ns, COUNTS[:size], encoding, (10,))))
    due.sort()
    return [(Kind.FRAME, payload, last_ns - start_ns) for last_ns, payload in due]


LINK = [(Kind.CONNECTED, b"", 0), *STARTED]


def test_the_vendors_gyroscope_frame_decodes_exactly():
    found = decode_frame(GYRO_UNIT, {5: 1.0})
    assert found.stamp_ns == 0x7FFF_FFFF_FFFF_FFFF
    assert found.values.tolist() == [[-22, 8, 13], [-23, 11, 16]]


def test_the_vendors_accelerometer_frame_decodes_exactly():
    found = decode_frame(ACC_UNIT, {2: 1.0})
    assert found.stamp_ns == 101
    assert found.values.tolist() == pytest.approx(np.array([[-15, 20, 1008], [-20, 17, 1008]]) / 1000, rel=1e-15)
    (burst,) = flat(fold(PROFILE.decoder(), [*LINK, (Kind.FRAME, ACC_UNIT, 1)]))
    assert burst.sensor is Sensor.ACC
    assert burst.values == pytest.approx(np.array([[-15, 20, 1008], [-20, 17, 1008]]) * 9.80665e-3, rel=1e-6)


@pytest.mark.parametrize("whole", [GYRO_UNIT, ACC_UNIT], ids=["gyr", "acc"])
def test_a_vendors_frame_that_is_cut_or_has_a_tail_is_refused(whole):
    """But for the cut that leaves the reference sample alone, which is a frame of one."""
    for end in range(len(whole)):
        if end != 16:
            with pytest.raises(FrameError):
                decode_frame(whole[:end], {2: 1.0, 5: 1.0})
    with pytest.raises(FrameError, match="a block of 0 samples of 0 bits"):
        decode_frame(whole + b"\0", {2: 1.0, 5: 1.0})


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(*[st.integers(-32768, 32767)] * 3), min_size=1, max_size=60),
    st.lists(st.integers(1, 30), min_size=1, max_size=4),
)
def test_blocks_of_any_width_decode_to_what_was_packed(counts, lengths):
    limit = np.array(counts) * 1e-4
    assert decode_frame(frame(2, 1, counts, 0x80, lengths), {2: 1e-4}).values == pytest.approx(limit, rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(*[st.floats(-2000, 2000, width=32)] * 3), min_size=1, max_size=40),
    st.lists(st.integers(1, 30), min_size=1, max_size=4),
)
def test_floats_are_differences_of_their_bit_patterns(rows, lengths):
    values = np.array(rows, np.float32)
    patterns = values.view(np.int32).astype(np.int64)
    wrapped = [[[((b - a + 2**31) % 2**32) - 2**31 for a, b in zip(x, y, strict=True)] for x, y in
               itertools.pairwise(patterns.tolist())]][0]  # fmt: skip
    body = b"".join(int(p).to_bytes(4, "little", signed=True) for p in patterns[0].tolist())
    at = 0
    for length in itertools.chain(lengths, itertools.repeat(lengths[-1])):
        if at >= len(wrapped):
            break
        part = wrapped[at : at + length]
        body += bytes([32, len(part)]) + pack_bits([v for row in part for v in row], 32)
        at += len(part)
    found = decode_frame(struct.pack("<BQB", 5, 7, 0x81) + body, {})
    assert found.values.astype(np.float32).tobytes() == (values.astype(np.float64)).astype(np.float32).tobytes()


def test_raw_milli_g_are_taken_as_they_are():
    payload = struct.pack("<BQB6h", 2, 5, 1, 0, -500, 1000, 1, 2, 3)
    assert decode_frame(payload, {}).values.tolist() == [[0, -0.5, 1.0], [0.001, 0.002, 0.003]]


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"", "0 bytes, expected at least 10"),
        (struct.pack("<BQB", 1, 0, 0), "type 1 in encoding 0x00"),
        (struct.pack("<BQB", 2, 0, 1), "0 bytes of samples, expected 6 for each"),
        (struct.pack("<BQB7s", 2, 0, 1, b""), "7 bytes of samples, expected 6 for each"),
        (GYRO_UNIT, "no start has told its factor"),
        (struct.pack("<BQB3h", 2, 0, 0x81, 0, 0, 0) + b"\x21\x01" + bytes(13), "1 samples of 33 bits at 6"),
        (struct.pack("<BQB3h", 2, 0, 0x81, 0, 0, 0) + b"\x08\x02" + bytes(5), "2 samples of 8 bits at 6"),
        (struct.pack("<BQB3h", 2, 0, 0x81, 0, 0, 0) + b"\x00\xff" * 5, "255 samples of 0 bits"),
        (struct.pack("<BQB3h", 2, 0, 0x81, 32767, 0, 0) + b"\x02\x01\x01", "leave 16 bits"),
        (struct.pack("<BQB3f", 5, 0, 0x81, float("nan"), 0, 0), "no sensor measures"),
        (struct.pack("<BQB3h", 2, 0, 0x01, 32767, 0, 0), "no sensor measures"),
    ],
)
def test_what_is_no_frame_is_refused_with_what_was_found(payload, message):
    with pytest.raises(FrameError, match=message):
        PROFILE.decoder().decode(Kind.FRAME, payload, Received(1, BOOT, 0))


def test_the_factor_of_the_start_is_always_used():
    rows = [
        (Kind.CONNECTED, b"", 0),
        (Kind.CONFIG, answer(2, 2, 0, factor(0.5)), 0),
        (Kind.FRAME, ACC_UNIT, 1),
    ]
    (burst,) = flat(fold(PROFILE.decoder(), rows))
    assert burst.values[0] == pytest.approx(np.array([-7.5, 10, 504]) * 9.80665e-3, rel=1e-6)


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf"), 1e30])
def test_a_factor_that_no_sensor_has_is_refused(bad):
    with pytest.raises(FrameError, match="factor"):
        PROFILE.decoder().decode(Kind.CONFIG, answer(2, 2, 0, factor(bad)), Received(1, BOOT, 0))


@pytest.mark.parametrize("rate_hz", [52.0, 51.2, 53.0])
def test_both_streams_have_times_of_one_clock(rate_hz):
    pieces = flat(fold(PROFILE.decoder(), LINK + two_streams(12, rate_hz)))
    assert not losses(pieces)
    acc, gyro = taken(pieces, Sensor.ACC), taken(pieces, Sensor.GYRO)
    period_ns = 1e9 / rate_hz
    origin_ns = 70 * (1e9 / 52) - 70 * period_ns  # of the accelerometer's first frame, whose period was not yet known
    for times, ahead, settled in ((acc, 0.0, 71), (gyro, 0.2, 36)):
        truth = (np.arange(len(times)) + ahead) * period_ns + origin_ns
        assert np.abs(times - truth)[settled:].max() < 3
        assert (np.diff(times) > 0).all()


@pytest.mark.parametrize("first", [2, 5])
def test_time_counts_from_the_accelerometers_first_sample_whichever_frame_comes_first(first):
    rows = sorted(two_streams(3), key=lambda row: row[1][0] != first)
    pieces = flat(fold(PROFILE.decoder(), LINK + rows))
    acc, gyro = taken(pieces, Sensor.ACC), taken(pieces, Sensor.GYRO)
    assert acc[0] == 0
    assert abs(gyro[0] - 0.2e9 / 52) < 3


def test_a_stamp_may_be_any_of_64_bits():
    rows = [(Kind.FRAME, frame(5, 2**64 - 9, COUNTS[:9]), 1), (Kind.FRAME, frame(2, 2**64 - 8, COUNTS[:9], 0x81), 2)]
    pieces = flat(fold(PROFILE.decoder(), LINK + rows))
    assert [burst.taken_ns[-1] - round(8e9 / 52) for burst in bursts(pieces)] == [-1, 0]


def test_a_gyroscope_alone_is_told_with_its_own_time_after_five_seconds_or_where_the_link_ends():
    gyro = [row for row in two_streams(12) if row[1][0] == 5]
    told = [bursts(pieces) for pieces in fold(PROFILE.decoder(), LINK + gyro)][len(LINK) :]
    assert [len(bursts) for bursts in told[:9]] == [0] * 7 + [8, 1]  # 8 x 36 samples are 5.5 s
    assert told[7][0].taken_ns[0] == 0
    few = fold(PROFILE.decoder(), [*LINK, *gyro[:2], (Kind.DISCONNECTED, b"", 0)])[-1]
    assert [type(piece) for piece in few] == [Burst, Burst, SessionEnded]


def test_a_frame_that_is_missing_is_counted_in_its_own_stream():
    rows = two_streams(6, rate_hz=51.5)
    gyro = [i for i, (_, payload, _) in enumerate(rows) if payload[0] == 5]
    del rows[gyro[3]]
    pieces = flat(fold(PROFILE.decoder(), LINK + rows))
    session = bursts(pieces)[0].session
    assert losses(pieces) == [Lost(session, 108, 144, "radio", Sensor.GYRO)]
    last = [b for b in bursts(pieces) if b.sensor is Sensor.GYRO][-1]
    assert last.first == 36 * (len(gyro) - 1)


@pytest.mark.parametrize("early", [2.25, 4])
def test_a_step_back_that_a_loss_hides_makes_no_loss_of_what_comes_after(early):
    """What is left of it, in samples, is a step where it is more than a rate may be off, and else it is forgotten."""
    gyro = [row for row in two_streams(12) if row[1][0] == 5]
    rows = gyro[:5] + [
        (kind, frame(5, T0 + ns - round((36 + early) * 1e9 / 52), COUNTS[:36], 0x80, (10,)), ns)
        for kind, _, ns in gyro[6:]
    ]
    pieces = flat(fold(PROFILE.decoder(), [*LINK, *rows, (Kind.DISCONNECTED, b"", 0)]))
    assert not losses(pieces)
    assert [sum(isinstance(p, SessionEnded) for p in pieces), len(bursts(pieces))] == [
        1 + int(early == 4),
        len(gyro) - 1,
    ]


@pytest.mark.parametrize("step_s", [-5, -100_000, 61, 10**6])
def test_a_step_of_the_clock_begins_one_new_session_for_both_streams(step_s):
    rows = LINK + two_streams(3) + two_streams(3, start_ns=T0 + (6 + step_s) * 10**9)
    pieces = flat(fold(PROFILE.decoder(), rows))
    sessions = [b.session for b in bursts(pieces)]
    changes = [i for i in range(1, len(sessions)) if sessions[i] != sessions[i - 1]]
    assert len(changes) == 1
    assert [p for p in pieces if isinstance(p, SessionEnded)] == [SessionEnded(sessions[0])]
    for sensor in (Sensor.ACC, Sensor.GYRO):
        assert next(b.first for b in bursts(pieces) if b.session == sessions[-1] and b.sensor is sensor) == 0


def test_values_at_the_range_are_saturated():
    at_limit = frame(2, 10**9, [(7999, 0, 1000)], 0x81)
    below = frame(2, 2 * 10**9, [(7998, 0, 1000)], 0x81)
    pieces = flat(fold(PROFILE.decoder(), [*LINK, (Kind.FRAME, at_limit, 1), (Kind.FRAME, below, 2)]))
    assert [b.saturated for b in bursts(pieces)] == [True, False]


def test_a_decoder_restored_at_any_row_goes_on_exactly():
    rows = LINK + two_streams(3)
    continues_exactly(PROFILE, [*rows[:8], *rows[9:], (Kind.DISCONNECTED, b"", 0), *LINK, *two_streams(2), *rows[5:8]])


# The conversation

SETTINGS_ACC = struct.pack("<BB3HBBHBBHBBB", 0, 3, 26, 52, 104, 1, 1, 16, 2, 1, 8, 4, 1, 3)
SETTINGS_GYRO = struct.pack("<BBHBBHBBHBBB", 0, 1, 52, 1, 1, 16, 2, 1, 2000, 4, 1, 3)


def told(*payload):
    return [(Notified(CONTROL, p), 1) for p in payload]


NEGOTIATED = told(answer(1, 2, 0, SETTINGS_ACC), answer(1, 5, 0, SETTINGS_GYRO))
STREAMING = [*NEGOTIATED, *told(answer(2, 2, 0, factor(1.0)), answer(2, 5, 0, factor(0.06)))]


def test_both_characteristics_are_subscribed_before_the_first_question():
    commands = PROFILE.conversation({}).handle(Connected(), 0)
    assert commands[1:4] == [Subscribe(CONTROL), Subscribe(DATA), Write(CONTROL, b"\1\2")]


def test_settings_are_asked_for_and_then_both_streams_are_started_one_request_at_a_time():
    steps = commands_of(PROFILE.conversation({}), STREAMING)
    assert [payload for step in steps for _, payload in writes(step)] == ["0105", START_ACC, START_GYRO]
    journalled = [c for step in steps for c in step if isinstance(c, Observe)]
    assert journalled == [Observe(kind, payload) for kind, payload, _ in STARTED[:3]] + [
        Observe(Kind.CONFIG, answer(2, 5, 0, factor(0.06)))
    ]


@pytest.mark.parametrize(
    ("rates", "ranges", "chosen"),
    [
        ((52, 104), (4, 8), (52, 8)),
        ((26, 50, 52), (16,), (50, 16)),
        ((13, 26, 52), (2, 4), (52, 4)),
        ((416, 104), (8,), (104, 8)),
    ],
)
def test_the_nearest_rate_and_range_that_are_not_below_are_chosen(rates, ranges, chosen):
    want_rate, want_range = chosen
    params = struct.pack(f"<BB{len(rates)}H", 0, len(rates), *rates)
    params += struct.pack(f"<BB{len(ranges)}H", 2, len(ranges), *ranges)
    steps = commands_of(PROFILE.conversation({}), told(answer(1, 2, 0, params), answer(1, 5, 0, SETTINGS_GYRO)))
    assert writes(steps[1]) == [(CONTROL, (b"\2\2" + struct.pack("<BBHBBH", 0, 1, want_rate, 2, 1, want_range)).hex())]


@pytest.mark.parametrize(("kind", "sensor"), [(2, "accelerometer"), (5, "gyroscope")])
def test_rates_below_the_models_end_the_link_with_a_sentence(kind, sensor):
    before = [NEGOTIATED[0]] if kind == 5 else []
    slow = answer(1, kind, 0, struct.pack("<BB3HBBH", 0, 3, 13, 26, 49, 2, 1, 8))
    last = commands_of(PROFILE.conversation({}), [*before, *told(slow)])[-1]
    said = f"the {sensor} sends at most 49 samples a second, which is too slow for the model: it needs 50"
    assert last == [Fault("too_slow", said, fatal=True)]


def test_an_answer_in_parts_is_joined():
    parts = told(answer(1, 2, 0, SETTINGS_ACC[:5], more=1), b"\1" + SETTINGS_ACC[5:9], b"\0" + SETTINGS_ACC[9:])
    steps = commands_of(PROFILE.conversation({}), [*parts, *told(answer(1, 5, 0, SETTINGS_GYRO))])
    assert [writes(step) for step in steps] == [[], [], [(CONTROL, "0105")], [(CONTROL, START_ACC)]]


def test_settings_that_are_not_told_are_the_known_ones():
    steps = commands_of(PROFILE.conversation({}), told(answer(1, 2, 1), answer(1, 5, 4)))
    assert writes(steps[1]) == [(CONTROL, START_ACC)]


ACC_FRAME, GYRO_FRAME = (payload for _, payload, _ in two_streams(1, n=(36, 36)))
STOPS = [(CONTROL, "0302")]
TALKS = [
    ("no accelerometer", told(answer(1, 2, 2)), [], [("refused", True)]),
    ("no gyroscope", [NEGOTIATED[0], *told(answer(1, 5, 3))], [], [("refused", True)]),
    ("a start while it streams is stopped first", [*NEGOTIATED, *told(answer(2, 2, 6))], STOPS, [("refused", False)]),
    ("in its charger", [*NEGOTIATED, *told(answer(2, 2, 13))], [], [("refused", True)]),
    ("an unknown status", [*NEGOTIATED, *told(answer(2, 2, 99))], STOPS, [("refused", False)]),
    ("settings of nonsense", told(answer(1, 2, 0, b"\x09\x01")), STOPS, [("malformed", False)]),
    ("an answer to nothing", told(answer(2, 2)), [], [("odd_answer", False)]),
    ("an empty answer", told(b""), [], [("odd_answer", False)]),
    ("no answer", [(Tick(), 10)], STOPS, [("no_stream", False)]),
    ("no answer, three times", [(Tick(), 10), (Tick(), 20), (Tick(), 30)], [], [("no_stream", True)]),
    ("one stream alone is none", [*STREAMING, (Notified(DATA, ACC_FRAME), 3), (Tick(), 10)], STOPS,
     [("no_stream", False)]),
    ("one of two that ends is noticed", [*STREAMING, (Notified(DATA, ACC_FRAME), 3), (Notified(DATA, GYRO_FRAME), 3),
     (Notified(DATA, ACC_FRAME[:1] + b"\0" + ACC_FRAME[2:]), 17), (Tick(), 18)], [], [("stalled", True)]),
    ("a heart rate's frame", [(Notified(DATA, b"\1" + bytes(20)), 3)], [], [("malformed", False)]),
]  # fmt: skip


@pytest.mark.parametrize(("shows", "steps", "written", "said"), TALKS, ids=[t[0] for t in TALKS])
def test_the_talk(shows, steps, written, said):
    last = commands_of(PROFILE.conversation({}), steps)[-1]
    assert writes(last) == written
    assert faults(last) == said


def test_a_refusal_is_told_in_words():
    (fault,) = commands_of(PROFILE.conversation({}), [*NEGOTIATED, *told(answer(2, 2, 13))])[-1]
    assert fault.detail == "the accelerometer's start is refused: it sits in its charger (status 13)"


def test_after_a_stop_everything_is_asked_afresh():
    steps = [*NEGOTIATED, *told(answer(2, 2, 6), answer(3, 2), answer(3, 5, 12)), *STREAMING]
    sent = [payload for step in commands_of(PROFILE.conversation({}), steps)[3:] for _, payload in writes(step)]
    assert sent == ["0305", "0102", "0105", START_ACC, START_GYRO]


def test_its_stream_is_stopped_before_the_gateway_ends_the_link():
    conversation = PROFILE.conversation({})
    assert conversation.handle(Leaving(), 0) == []
    conversation.handle(Connected(), 0)
    assert writes(conversation.handle(Leaving(), 1)) == [(CONTROL, "0302"), (CONTROL, "0305")]
