"""Nordic Thingy:52: the layout, its narrow range, its configuration."""

import struct

import pytest

from gateway.motion.samples import SessionEnded
from gateway.profiles import profile_of
from gateway.profiles.conversation import (
    Connected,
    Disconnected,
    Kind,
    Notified,
    Read,
    ReadDone,
    Received,
    Subscribe,
    Tick,
    Write,
)
from gateway.profiles.errors import FrameError
from gateway.profiles.thingy52 import CONFIGURATION, RAW
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

PROFILE = profile_of("thingy52")
VECTOR = bytes.fromhex("000000fe00044001c0e010004001b0ff8002")  # made by hand from the vendor's layout


def raw(*counts):
    return struct.pack("<9h", *counts, *[0] * (9 - len(counts)))


def test_the_vector_decodes_exactly():
    (burst,) = flat(fold(PROFILE.decoder(), frames([VECTOR])))
    assert burst.values[0] == pytest.approx([0, -0.5 * 9.80665, 9.80665, 10, -250, 0.5], abs=1e-6)
    assert (burst.first, burst.taken_ns.tolist(), burst.saturated) == (0, [0], False)


@pytest.mark.parametrize("payload", [b"", VECTOR[:-1], VECTOR + b"\0", VECTOR + VECTOR])
def test_any_other_length_is_refused_with_what_was_found(payload):
    with pytest.raises(FrameError, match=f"raw: {len(payload)} bytes, expected 18"):
        PROFILE.decoder().decode(Kind.FRAME, payload, Received(1, BOOT, 0))


@pytest.mark.parametrize(
    ("counts", "saturated"),
    [
        ((2046, -2047, 0), False),
        ((2047, 0, 0), True),
        ((0, -2048, 0), True),
        ((0, 0, 0, 32766, -32767), False),
        ((0, 0, 0, 32767), True),
        ((0, 0, 0, 0, -32768), True),
    ],
)
def test_two_g_or_the_end_of_16_bits_is_saturated(counts, saturated):
    (burst,) = flat(fold(PROFILE.decoder(), frames([raw(*counts)])))
    assert burst.saturated is saturated


def test_a_notification_that_comes_twice_counts_twice_for_nothing_tells_it_from_an_equal_sample():
    (one, other) = bursts(flat(fold(PROFILE.decoder(), frames([VECTOR, VECTOR]))))
    assert (one.first, other.first) == (0, 1)
    assert one.values.tolist() == other.values.tolist()


def test_a_session_ends_with_its_link_after_what_was_held_back():
    rows = [
        *frames([VECTOR] * 3, 20_000_000),
        (Kind.FRAME, VECTOR, 2_060_000_000),
        (Kind.DISCONNECTED, b"", 2_100_000_000),
    ]
    told = fold(PROFILE.decoder(), rows)
    assert told[4] == []
    lost, burst, ended = told[5]
    assert (lost.first, lost.estimated) == (3, True)
    assert lost.end == pytest.approx(102, abs=1)  # less what the sensor may be slow by
    assert (burst.first, ended) == (lost.end, SessionEnded(burst.session))


def test_a_decoder_restored_at_any_row_goes_on_exactly():
    late = [(Kind.FRAME, raw(i), 3 * 10**9 + i * 20_000_000) for i in range(40)]
    rows = [*frames([raw(i) for i in range(30)], 20_000_000), *late, (Kind.DISCONNECTED, b"", 5 * 10**9)]
    continues_exactly(PROFILE, rows + frames([VECTOR] * 4))


def test_a_link_is_configured_for_50_hz_before_samples_can_come():
    talk = PROFILE.conversation({})
    assert talk.handle(Connected(), 0)[1] == Read(CONFIGURATION)
    as_delivered = bytes.fromhex("f401f401f4010a0001")
    assert talk.handle(ReadDone(CONFIGURATION, as_delivered, 1), 1) == [Write(CONFIGURATION, AT_50), Subscribe(RAW)]


def test_a_configuration_that_stands_is_not_written_to_its_flash_again():
    talk = PROFILE.conversation({})
    for _ in range(2):
        talk.handle(Connected(), 0)
        assert talk.handle(ReadDone(CONFIGURATION, AT_50, 1), 1) == [Subscribe(RAW)]
        assert talk.handle(ReadDone(CONFIGURATION, AT_50, 2), 2) == []  # a subscription that stands is none to ask for
        talk.handle(Disconnected(), 3)


def test_silence_is_looked_into():
    assert Read(CONFIGURATION) in commands_of(PROFILE.conversation({}), [(Tick(), 10)])[-1]


AT_50 = bytes.fromhex("e803f401f401320000")
TALKS = [
    ("equal samples are no duplicates", [(Notified(RAW, VECTOR), 1), (Notified(RAW, VECTOR), 1.02)], [], []),
    ("another length", [(Notified(RAW, VECTOR[1:]), 1)], [], [("malformed", False)]),
    ("silence is asked about", [(Tick(), 10)], [], [("no_stream", False)]),
    (
        "and configured again where it is another",
        [(Tick(), 10), (ReadDone(CONFIGURATION, AT_50[::-1], 1), 11)],
        [(CONFIGURATION, AT_50.hex())],
        [],
    ),
    ("three silences end the link", [(Tick(), 10), (Tick(), 20), (Tick(), 30)], [], [("no_stream", True)]),
    ("a stream that ends is noticed", [(Notified(RAW, VECTOR), 1), (Tick(), 16)], [], [("stalled", True)]),
]


@pytest.mark.parametrize(("shows", "steps", "written", "said"), TALKS, ids=[t[0] for t in TALKS])
def test_the_talk(shows, steps, written, said):
    last = commands_of(PROFILE.conversation({}), steps)[-1]
    assert writes(last) == written
    assert faults(last) == said


def test_samples_count_on_over_a_late_one():
    rows = [*frames([VECTOR] * 3, 20_000_000), (Kind.FRAME, VECTOR, 400_000_000)]
    assert [b.first for b in bursts(flat(fold(PROFILE.decoder(), rows)))] == [0, 1, 2, 3]
