"""Xsens DOT: captured stamps, the layout of mode 21, a counter that wraps after 71.6 minutes."""

import random
import struct

import numpy as np
import pytest

from gateway.motion.samples import Lost, SessionEnded
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
    Write,
)
from gateway.profiles.errors import FrameError
from gateway.profiles.xsens_dot import CONTROL, MEDIUM, decode_sample, rate_of
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
    taken,
    writes,
)

PROFILE = profile_of("xsens-dot")

FREE_ACC = [  # captured: protobioengineering/xsens-dot-python-examples, mode 6: stamp, free acceleration, four zeros
    ("d8052244af9640406b2aa7405add14c000000000", 0x442205D8, (3.0091970, 5.2239280, -2.3260102)),
    ("f34622440da53c409c13a640f01009c000000000", 0x442246F3, (2.9475739, 5.1898937, -2.1416588)),
]


def sample(stamp_us, acc=(0.0, 0.0, 9.80665), gyro=(1.0, -2.0, 3.0), padding=8):
    return struct.pack("<I6f", stamp_us % 2**32, *acc, *gyro) + bytes(padding)


def stream(count, start_us=0, rate_hz=60.0):
    return [sample(start_us + int(1e6 * i / rate_hz)) for i in range(count)]


@pytest.mark.parametrize(("payload", "stamp", "acc"), FREE_ACC, ids=["first", "second"])
def test_the_captured_stamp_and_vector_stand_where_mode_21_has_them(payload, stamp, acc):
    """The capture is of mode 6, which ends after the first vector; mode 21 has a second one in its place."""
    captured = bytes.fromhex(payload)
    with pytest.raises(FrameError, match="20 bytes, expected 28 and zeros up to 63"):
        decode_sample(captured)
    found_stamp, values = decode_sample(captured[:16] + struct.pack("<3f", 10, -250, 0.5))
    assert found_stamp == stamp
    assert values[0, :3] == pytest.approx(acc, abs=1e-6)
    assert values[0, 3:].tolist() == [10, -250, 0.5]


def test_the_captured_stamps_are_one_sample_of_60_hz_apart():
    assert FREE_ACC[1][1] - FREE_ACC[0][1] == pytest.approx(1e6 / 60, abs=1)


@pytest.mark.parametrize("padding", [0, 1, 8, 35])
def test_zeros_after_the_sample_are_padding(padding):
    assert decode_sample(sample(7, padding=padding))[1].tolist() == [[0, 0, pytest.approx(9.80665), 1, -2, 3]]


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"", "0 bytes"),
        (sample(0, padding=0)[:-1], "27 bytes"),
        (sample(0, padding=36), "64 bytes"),
        (sample(0, padding=3) + b"\1", "32 bytes, expected 28 and zeros"),
        (sample(0, acc=(float("nan"), 0, 0)), "no sensor measures"),
        (sample(0, gyro=(0, float("-inf"), 0)), "no sensor measures"),
        (sample(0, acc=(1e30, 0, 0)), "no sensor measures"),
    ],
)
def test_what_is_no_sample_is_refused_with_what_was_found(payload, message):
    with pytest.raises(FrameError, match=message):
        PROFILE.decoder().decode(Kind.FRAME, payload, Received(1, BOOT, 0))


def test_the_counter_wraps_without_a_gap():
    pieces = flat(fold(PROFILE.decoder(), frames(stream(400, start_us=2**32 - 3_000_000))))
    assert len({b.session for b in bursts(pieces)}) == 1
    assert not losses(pieces)
    assert taken(pieces) == pytest.approx(np.arange(400) * 1e9 / 60, abs=2_000)


@pytest.mark.parametrize("missing", [1, 2, 600])
def test_samples_that_are_missing_are_counted(missing):
    sent = stream(800, rate_hz=60.2)
    pieces = flat(fold(PROFILE.decoder(), frames(sent[:100] + sent[100 + missing :])))
    assert losses(pieces) == [Lost(bursts(pieces)[0].session, 100, 100 + missing, "radio")]
    assert bursts(pieces)[-1].first == 799


@pytest.mark.parametrize("to_us", [0, 4_000_000 + 61 * 10**6])
def test_a_step_of_the_clock_begins_a_new_session(to_us):
    told = fold(PROFILE.decoder(), frames([*stream(10, 4_000_000), *stream(3, to_us)]))
    assert [type(p) for p in told[11]] == [SessionEnded, type(told[1][0])]
    assert told[11][1].first == 0
    assert len({b.session for b in bursts(flat(told))}) == 2


@pytest.mark.parametrize("ahead", [0.9, 1.9, 3.8, 8.95])
@pytest.mark.parametrize("before", [1, 3, 20, 300])
def test_a_garbage_stamp_makes_no_sample_seem_lost_ever_after(before, ahead):
    """It lies ahead, and the radio loses all until the clock has come so far."""
    sent = stream(before + 3000, 10**9)
    garbage = sample(10**9 + int((before + ahead) / 60 * 1e6))
    goes_on = before + int(np.ceil(ahead))
    pieces = flat(fold(PROFILE.decoder(), frames([*sent[:before], garbage, *sent[goes_on:]])))
    assert [lost.end - lost.first for lost in losses(pieces)] == [round(ahead)]
    assert len({b.session for b in bursts(pieces)}) == 2
    assert taken(pieces)[-1] == pytest.approx((before + 3000 - 1 - goes_on) * 1e9 / 60, abs=2_000)


def test_another_sample_with_the_same_stamp_is_kept_it_came_after_a_step_back():
    stamped = stream(20)[-1]
    rows = frames([*stream(20), sample(struct.unpack_from("<I", stamped)[0], acc=(5.0, 4.0, 3.0))])
    pieces = flat(fold(PROFILE.decoder(), rows))
    assert [len(burst.values) for burst in bursts(pieces)] == [1] * 21
    assert sum(isinstance(piece, SessionEnded) for piece in pieces) == 1


def test_a_sample_that_comes_twice_counts_once():
    sent = stream(3)
    assert len(bursts(flat(fold(PROFILE.decoder(), frames([sent[0], sent[1], sent[1], sent[2]]))))) == 3


@pytest.mark.parametrize(("acc", "saturated"), [(150.0, False), (156.9064, True)])
def test_a_value_at_the_range_is_saturated(acc, saturated):
    (burst,) = flat(fold(PROFILE.decoder(), frames([sample(0, (0, -acc, 0))])))
    assert burst.saturated is saturated


def test_a_decoder_restored_at_any_row_goes_on_exactly():
    sent = stream(60, 2**32 - 300_000, 60.1)
    rows = [*frames([*sent[:20], *sent[25:], sent[0]]), (Kind.DISCONNECTED, b"", 9), *frames(sent[:10])]
    continues_exactly(PROFILE, rows)


def test_the_payload_is_subscribed_before_the_measurement_starts():
    commands = PROFILE.conversation({}).handle(Connected(), 0)
    assert commands[:3] == [Observe(Kind.CONNECTED, b""), Subscribe(MEDIUM), Write(CONTROL, b"\1\1\x15")]


def notified(payloads):
    return [(Notified(MEDIUM, p), 1 + i / 60) for i, p in enumerate(payloads)]


AGAIN = [(CONTROL, "010015"), (CONTROL, "010115")]
TALKS = [
    ("a sample is journalled", notified(stream(1)), [], []),
    ("60 Hz with a lost sample is right", notified(stream(18)[:5] + stream(18)[6:]), [], []),
    ("60 Hz over the wrap is right", notified(stream(16, 2**32 - 50_000)), [], []),
    ("120 Hz is refused", notified(stream(16, rate_hz=120)), [], [("rate", True)]),
    ("30 Hz is refused", notified(stream(16, rate_hz=30)), [], [("rate", True)]),
    ("another mode's payload", notified([bytes(20)]), [], [("malformed", False)]),
    ("a sample twice", notified([stream(1)[0]] * 2), [], [("duplicate", False)]),
    ("silence is asked again", [(Tick(), 10)], AGAIN, [("no_stream", False)]),
    ("three silences end the link", [(Tick(), 10), (Tick(), 20), (Tick(), 30)], [], [("no_stream", True)]),
    ("a stream that ends is noticed", [*notified(stream(2)), (Tick(), 17)], [], [("stalled", True)]),
    ("nothing is said on no link", [(Disconnected(), 1), (Tick(), 20)], [], []),
]


@pytest.mark.parametrize(("shows", "steps", "written", "said"), TALKS, ids=[t[0] for t in TALKS])
def test_the_talk(shows, steps, written, said):
    last = commands_of(PROFILE.conversation({}), steps)[-1]
    assert writes(last) == written
    assert faults(last) == said


def stamps_of(rate_hz, loss, rng, count=16):
    kept = [k for k in range(count * 60) if rng.random() >= loss][:count]
    return [int(1e6 * k / rate_hz * 1.01 + rng.uniform(0, 300)) for k in kept]


@pytest.mark.parametrize("rate_hz", [1, 10, 30, 60, 120])
def test_the_rate_is_told_in_spite_of_a_garbage_stamp(rate_hz):
    for seed in range(100):
        rng = random.Random(seed)
        stamps = stamps_of(rate_hz, 0.0, rng)
        stamps[rng.randrange(16)] = rng.randrange(2**32)
        assert rate_of(stamps) == pytest.approx(rate_hz, rel=0.02)


@pytest.mark.parametrize("loss", [0.3, 0.6, 0.9, 0.95])
def test_losses_alone_end_no_link(loss):
    told = [rate_of(stamps_of(60, loss, random.Random(seed))) for seed in range(1000)]
    assert set(told) <= {60, None}


def test_another_rate_is_refused_in_words():
    commands = commands_of(PROFILE.conversation({}), notified(stream(16, rate_hz=120)))[-1]
    assert commands[-1].detail == "it samples at 120 Hz; set its output rate to 60 Hz in the vendor's app"


def test_its_stream_is_stopped_before_the_gateway_ends_the_link():
    conversation = PROFILE.conversation({})
    assert conversation.handle(Leaving(), 0) == []
    conversation.handle(Connected(), 0)
    assert writes(conversation.handle(Leaving(), 1)) == [(CONTROL, "010015")]
