"""The reference profile's decoder against its published frame, and against whatever else may come."""

import itertools
import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.motion.samples import Block, Lost, SessionHeld, TimeRead
from gateway.profiles import profile_of
from gateway.profiles.conversation import Connected, Fault, Kind, Notified, Observe, ReadDone, Tick, held_of
from gateway.profiles.errors import FrameError
from gateway.profiles.reference import (
    BACKLOG,
    CONFIG,
    CONTROL,
    INFO,
    LIVE,
    TIME,
    Info,
    ReferenceDecoder,
    ReferenceProfile,
)

SESSION = 0x0123_4567_89AB_BEEF
GOLDEN = bytes.fromhex("100302010700efbea861000000007d00f4ff2200e603a00060f00800f6ff1e00ea03b00070f00000")
INFO_PAYLOAD = struct.pack(
    "<BBBBIIQ3bBBBHI QIIII", 1, 1, 2, 3, 32768, 500_000, 42, 1, 2, 3, 87, 1, 1, 0, 50_000, SESSION, 0, 30_000, 0, 0
)
CONFIG_PAYLOAD = struct.pack("<BBHIHHff", 1, 19, 0, 50_000, 8, 2000, 9.80665e-3, 0.0625)


def decoder():
    made = ReferenceDecoder()
    made.decode(Kind.INFO, INFO_PAYLOAD)
    made.decode(Kind.CONFIG, CONFIG_PAYLOAD)
    return made


def test_the_golden_frame_becomes_two_samples_in_si_units():
    (block,) = decoder().decode(Kind.FRAME, GOLDEN)
    assert isinstance(block, Block)
    assert (block.session, block.first, block.tick, block.saturated) == (SESSION, 25_000, 8_192_000, False)
    assert block.values.dtype == np.float32
    assert block.values[0] == pytest.approx([-0.11768, 0.33343, 9.78704, 10, -250, 0.5], abs=5e-6)
    assert block.values[1] == pytest.approx(
        [-10 * 9.80665e-3, 30 * 9.80665e-3, 1002 * 9.80665e-3, 11, -249, 0], abs=5e-6
    )


def test_a_gap_frame_declares_samples_lost():
    frame = struct.pack("<BBBBHHIII", 0x12, 0, 0, 1, 9, 0xBEEF, 100, 0, 2500)
    assert decoder().decode(Kind.FRAME, frame) == [Lost(SESSION, 100, 2600, "overwritten")]


def test_info_tells_what_the_ring_holds_and_what_the_wearable_is():
    status, held = ReferenceDecoder().decode(Kind.INFO, INFO_PAYLOAD)
    assert held == SessionHeld(SESSION, 0, 30_000, True)
    assert (status.firmware, status.battery_percent, status.ring_capacity, status.ring_held) == (
        "2.3",
        87,
        500_000,
        30_000,
    )


def info(
    frame=(1, 2, 3),
    battery=87,
    sessions=((SESSION, 0, 30_000, 0, 0),),
    version=1,
    flags=1,
    tick_hz=32768,
    rates=(50_000,),
    reserved=0,
):
    head = struct.pack(
        "<BBBBIIQ3bBBBH",
        version,
        flags,
        2,
        3,
        tick_hz,
        500_000,
        42,
        *frame,
        battery,
        len(rates),
        len(sessions),
        reserved,
    )
    held = b"".join(struct.pack("<QIIII", *session) for session in sessions)
    return head + struct.pack(f"<{len(rates)}I", *rates) + held


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (info(frame=(1, 2, 2)), r"sensor frame \(1, 2, 2\), expected ±1, ±2 and ±3, right-handed"),
        (info(frame=(1, 2, -3)), r"sensor frame \(1, 2, -3\), expected ±1, ±2 and ±3, right-handed"),
        (info(battery=101), "battery 101 %, expected 0 to 100, or 255 for unknown"),
        (info(battery=254), "battery 254 %"),
        (info(version=2), "layout version 2, expected 1"),
        (info(rates=()), "0 rates and 1 sessions, expected a rate and 1 to 8 sessions"),
        (info(sessions=()), "1 rates and 0 sessions, expected a rate and 1 to 8 sessions"),
        (info(sessions=[(n, 0, 0, 0, 0) for n in range(12)]), "1 rates and 12 sessions, expected a rate and 1 to 8"),
        (info(tick_hz=0), "tick_hz 0, expected more"),
        (info()[:-1], "55 bytes for 1 rates and 1 sessions, expected 56"),
        (info(sessions=[(SESSION, 9, 8, 0, 0)]), "session 0123456789abbeef with samples 9 to 8, watermark 0"),
        (info(sessions=[(SESSION, 0, 8, 9, 0)]), "samples 0 to 8, watermark 9"),
        (info(sessions=[(SESSION, 0, 8, 0, 0), (0xBEEF, 0, 8, 0, 0)]), "two sessions share their low 16 bits"),
    ],
)
def test_info_that_the_profile_forbids_is_refused(payload, message):
    with pytest.raises(FrameError, match=message):
        ReferenceDecoder().decode(Kind.INFO, payload)


RIGHT_HANDED = [
    tuple(sign * axis for sign, axis in zip(signs, order, strict=True))
    for order in itertools.permutations((1, 2, 3))
    for signs in itertools.product((1, -1), repeat=3)
    if np.linalg.det(np.diag(signs) @ np.eye(3)[[axis - 1 for axis in order]]) > 0
]
INDICES = st.integers(0, 3) | st.integers(0, 2**32 - 1)


def sound_sessions(least, most):
    one = st.tuples(st.integers(0, 2**64 - 1), st.tuples(INDICES, INDICES).map(sorted), INDICES, INDICES)
    drawn = one.map(lambda d: (d[0], *d[1], min(d[2], d[1][1]), d[3]))
    return st.lists(drawn, min_size=least, max_size=most, unique_by=lambda session: session[0] & 0xFFFF)


ALLOWED = st.fixed_dictionaries(
    {
        "flags": st.integers(0, 255),
        "reserved": st.integers(0, 2**16 - 1),
        "frame": st.sampled_from(RIGHT_HANDED),
        "battery": st.sampled_from([0, 100, 255]),
        "tick_hz": st.integers(1, 2**32 - 1),
        "rates": st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=3),
        "sessions": sound_sessions(1, 8),
    }
)
ANY = {
    "version": st.integers(0, 255),
    "frame": st.tuples(*[st.integers(-4, 4)] * 3),
    "battery": st.integers(0, 255),
    "tick_hz": st.integers(0, 2),
    "rates": st.just([]),
    "sessions": sound_sessions(9, 12)
    | st.lists(st.tuples(st.integers(0, 2**64 - 1), *[INDICES] * 4), max_size=12)
    | st.lists(st.tuples(st.integers(0, 2), *[st.just(0)] * 4), max_size=3),
}


@given(
    told=ALLOWED,
    changed=st.just({}) | st.sampled_from(sorted(ANY)).flatmap(lambda n: ANY[n].map(lambda value: {n: value})),
)
def test_info_is_read_where_the_conformance_list_allows_it_whatever_is_reserved_says(told, changed):
    told = {"version": 1, **told, **changed}
    sessions = told["sessions"]
    allowed = (
        told["version"] == 1
        and len(told["rates"]) >= 1
        and 1 <= len(sessions) <= 8  # RP-INFO-1
        and told["tick_hz"] > 0
        and (told["battery"] <= 100 or told["battery"] == 255)
        and told["frame"] in RIGHT_HANDED  # RP-INFO-2
        and all(first <= end and watermark <= end for _, first, end, watermark, _ in sessions)
        and len({session[0] % 65536 for session in sessions}) == len(sessions)  # RP-INFO-3
    )
    if not allowed:
        with pytest.raises(FrameError, match="Info: "):
            Info.decode(info(**told))
        return
    read = Info.decode(info(**told))
    assert read == Info.decode(info(**{**told, "flags": told["flags"] & 1, "reserved": 0}))
    assert [(e.session, e.first, e.end, e.watermark, e.overwritten) for e in read.sessions] == sessions
    assert (read.rates_mhz, read.ring_survives_reboot) == (tuple(told["rates"]), bool(told["flags"] & 1))


def test_a_battery_that_nobody_knows_is_none():
    status, _ = ReferenceDecoder().decode(Kind.INFO, info(battery=255))
    assert status.battery_percent is None


def test_a_reading_of_the_clock_carries_the_hosts_times():
    trip = struct.pack("<QQIHI", 10, 30, 77, 0xBEEF, 5)
    assert decoder().decode(Kind.TIME, trip) == [TimeRead(SESSION, 77, 32768, 5, 10, 30)]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (GOLDEN[:-1], "39 bytes with n = 2, expected 40"),
        (GOLDEN + b"\0", "41 bytes with n = 2, expected 40"),
        (GOLDEN[:15], "15 bytes, expected at least 16"),
        (b"\x20" + GOLDEN[1:], "version 2, expected 1"),
        (b"\x13" + GOLDEN[1:], "type 3, expected 0 to 2"),
        (GOLDEN[:6] + b"\0\0" + GOLDEN[8:], "no session 0000 in Info"),
        (GOLDEN[:3] + b"\7" + GOLDEN[4:], "no Config 7"),
        (GOLDEN[:8] + b"\xff" * 4 + GOLDEN[12:], "past the end of 32 bits"),
    ],
)
def test_a_frame_that_is_not_of_the_profile_is_refused_with_what_was_found(frame, message):
    with pytest.raises(FrameError, match=message):
        decoder().decode(Kind.FRAME, frame)


@given(
    st.sampled_from(list(Kind)), st.binary(max_size=300) | st.builds(lambda b: GOLDEN[:-1] + b, st.binary(max_size=2))
)
def test_no_payload_raises_anything_but_a_frame_error(kind, payload):
    try:
        decoder().decode(kind, payload)
    except FrameError:
        pass


def live(seq, first, lost_before=False, n=19, session16=0xBEEF):
    """A Live frame: version 1, type 0, both sensors."""
    return struct.pack("<BBBBHHII", 0x10, 3 | 16 * lost_before, n, 1, seq % 65536, session16, first, 0) + bytes(12 * n)


def lost_by(rows, again=lambda made: made):
    made, told = decoder(), []
    for row in rows:
        made = again(made)
        told.append([p for p in made.decode(*row) if isinstance(p, Lost)])
    return told


def frames_of(*heads):
    return [(Kind.FRAME, live(*head)) for head in heads]


OVERRUN = Lost(SESSION, 119, 124, "overrun")
JUMPS = [
    ("index alone", frames_of((7, 81), (8, 100), (9, 124), (10, 143)), [OVERRUN]),
    ("b4 says so too", frames_of((7, 81), (8, 100), (9, 124, True), (10, 143)), [OVERRUN]),
    ("seq wraps", frames_of((65534, 81), (65535, 100), (65536, 124), (65537, 143)), [OVERRUN]),
    ("seq jumps as well: the radio", frames_of((7, 81), (8, 100), (10, 124), (11, 143)), []),
    ("both by the radio and the sensor", frames_of((7, 81), (8, 100), (10, 143, True), (11, 162)), []),
    ("one after another", frames_of((7, 81), (8, 100), (9, 124, True), (10, 150, True), (11, 169)),
     [OVERRUN, Lost(SESSION, 143, 150, "overrun")]),
    ("garbage in an index", frames_of((7, 81), (8, 100), (9, 124), (10, 138), (11, 157)), []),
    ("garbage in an index before", frames_of((6, 62), (7, 20), (8, 100), (9, 119)), []),
    ("another link", [*frames_of((7, 81), (8, 100)), (Kind.DISCONNECTED, b""), (Kind.CONNECTED, b""),
                      *frames_of((9, 124), (10, 143))], []),
    ("another session", [*frames_of((7, 81), (8, 100)), *frames_of((9, 124, False, 19, 0xBEEE), (10, 143))], None),
    ("the wearable never had it", [(Kind.ABSENT, struct.pack("<BHIIBB", 3, 0xBEEF, 119, 5, 0x83, 4))], [OVERRUN]),
    ("of a session that is listed no more", [(Kind.ABSENT, struct.pack("<BHIIBB", 3, 0xBEEE, 119, 5, 0x83, 4))], []),
]  # fmt: skip


@pytest.mark.parametrize(("rows", "lost"), [j[1:] for j in JUMPS], ids=[j[0] for j in JUMPS])
def test_what_the_sensor_has_lost_is_told_and_nothing_that_the_radio_has(rows, lost):
    if lost is None:
        with pytest.raises(FrameError, match="no session beee in Info"):
            lost_by(rows)
    else:
        assert [piece for pieces in lost_by(rows) for piece in pieces] == lost


def test_it_is_told_with_the_frame_after_the_one_that_jumps():
    assert lost_by(frames_of((7, 81), (8, 100), (9, 124), (10, 143)))[-1] == [OVERRUN]


@pytest.mark.parametrize(("rows", "lost"), [j[1:] for j in JUMPS if j[2]], ids=[j[0] for j in JUMPS if j[2]])
def test_a_decoder_restored_before_any_row_tells_the_same_of_an_overrun(rows, lost):
    restored = lost_by(rows, lambda made: ReferenceDecoder.restore(json.loads(json.dumps(made.state()))))
    assert restored == lost_by(rows)
    assert [piece for pieces in restored for piece in pieces] == lost


def test_a_decoder_of_a_snapshot_from_before_overruns_were_told_goes_on():
    state = decoder().state()
    del state["live"]
    assert ReferenceDecoder.restore(state).decode(Kind.FRAME, GOLDEN)


@pytest.mark.parametrize("payload", [b"", b"\3" + bytes(11), b"\5" + bytes(12)], ids=["empty", "short", "another op"])
def test_a_refusal_that_is_none_of_a_request_is_refused(payload):
    with pytest.raises(FrameError, match="refused request"):
        decoder().decode(Kind.ABSENT, payload)


def test_the_decoder_goes_on_after_a_restart():
    again = ReferenceDecoder.restore(decoder().state())
    (block,) = again.decode(Kind.FRAME, GOLDEN)
    assert block.session == SESSION


@given(
    st.lists(
        st.tuples(
            st.sampled_from([LIVE, BACKLOG, CONTROL, CONFIG, INFO, TIME]), st.binary(max_size=60) | st.just(GOLDEN)
        ),
        max_size=30,
    )
)
def test_a_conversation_survives_whatever_is_notified_or_read(talk):
    conversation = profile_of("reference").conversation({})
    conversation.handle(Connected(), 0)
    conversation.handle(ReadDone(INFO, INFO_PAYLOAD, 0), 0)
    conversation.handle(ReadDone(CONFIG, CONFIG_PAYLOAD, 0), 0)
    for now_ns, (uuid, payload) in enumerate(talk):
        conversation.handle(Notified(uuid, payload), now_ns)
        conversation.handle(ReadDone(uuid, payload, now_ns), now_ns)
        conversation.handle(Tick(), now_ns)


def test_a_malformed_frame_is_a_fault_and_not_journalled():
    conversation = profile_of("reference").conversation({})
    conversation.handle(Connected(), 0)
    conversation.handle(ReadDone(INFO, INFO_PAYLOAD, 0), 0)
    conversation.handle(ReadDone(CONFIG, CONFIG_PAYLOAD, 0), 0)
    commands = conversation.handle(Notified(LIVE, GOLDEN[:-1]), 0)
    assert [type(c) for c in commands] == [Fault]
    assert not commands[0].fatal
    good = conversation.handle(Notified(LIVE, GOLDEN), 0)
    assert Observe(Kind.FRAME, GOLDEN) in good


@pytest.mark.parametrize(
    "scales", [(3e38, 0.06), (float("nan"), 0.06), (0.0, 0.06), (-0.01, 0.06), (0.01, float("inf"))]
)
def test_scales_that_no_sensor_has_are_refused_before_they_reach_the_model(scales):
    config = struct.pack("<BBHIHHff", 1, 19, 0, 50_000, 8, 2000, *scales)
    with pytest.raises(FrameError, match="all must be above 0, the scales at most 1 and 1"):
        ReferenceDecoder().decode(Kind.CONFIG, config)
    conversation = profile_of("reference").conversation({})
    conversation.handle(Connected(), 0)
    conversation.handle(ReadDone(INFO, INFO_PAYLOAD, 0), 0)
    (fault,) = conversation.handle(ReadDone(CONFIG, config, 0), 0)
    assert fault.fatal


def test_the_backlog_of_an_earlier_config_is_taken_after_a_reconnect():
    conversation, made = profile_of("reference").conversation({}), decoder()
    conversation.handle(Connected(), 0)
    conversation.handle(ReadDone(INFO, INFO_PAYLOAD, 0), 0)
    other = struct.pack("<BBHIHHff", 9, 19, 0, 50_000, 16, 2000, 0.005, 0.0625)
    conversation.handle(ReadDone(CONFIG, other, 0), 0)
    made.decode(Kind.CONFIG, other)
    commands = conversation.handle(Notified(BACKLOG, GOLDEN), 0)  # of Config 1, read before this start of the gateway
    assert Observe(Kind.FRAME, GOLDEN) in commands
    (block,) = made.decode(Kind.FRAME, GOLDEN)
    assert block.values[0] == pytest.approx([-0.11768, 0.33343, 9.78704, 10, -250, 0.5], abs=5e-6)


@pytest.mark.parametrize(
    ("manufacturer_data", "held"),
    [
        ({0xFFFF: b"\x01\x80"}, True),
        ({0xFFFF: b"\x01\x7f"}, False),
        ({0xFFFF: b"\x01\xff\x00\x00"}, True),
        ({0xFFFF: b"\x02\x80"}, None),
        ({0xFFFF: b"\x01"}, None),
        ({0xFFFF: b""}, None),
        ({0x004C: b"\x01\x80"}, None),
        ({}, None),
    ],
)
def test_the_advertisement_tells_by_one_bit_whether_a_central_holds_the_wearable(
    manufacturer_data: dict[int, bytes], held: bool | None
) -> None:
    assert held_of(ReferenceProfile(), manufacturer_data) is held


def test_a_family_whose_advertisement_says_nothing_of_it_says_nothing() -> None:
    assert held_of(profile_of("movesense"), {0xFFFF: b"\x01\x80"}) is None
