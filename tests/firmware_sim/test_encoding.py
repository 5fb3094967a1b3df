"""The bytes against the golden frame of the specification and the gateway's decoder, which shares no line with them."""

import struct

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from firmware_sim import encoding
from firmware_sim.encoding import Config, FrameType, Op, SessionEntry, Status
from gateway.motion.samples import Block, DeviceStatus, Lost, SessionHeld
from gateway.profiles import reference
from gateway.profiles.conversation import Kind

U8, U16, U32, U64 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 32, 64))
COUNTS = st.lists(st.tuples(*[st.integers(-32768, 32767)] * 6), min_size=1, max_size=19).map(
    lambda rows: np.array(rows, dtype=np.int16)
)
GOLDEN_CONFIG = Config(acc_scale_m_s2=0.00980665, gyro_scale_deg_s=0.0625)  # 1 mg and 1/16 deg/s a count
GOLDEN = "100302010700efbea861000000007d00f4ff2200e603a00060f00800f6ff1e00ea03b00070f00000"


def test_the_golden_frame_byte_for_byte() -> None:
    g = 0.00980665
    values = np.array(
        [[-0.11768, 0.33343, 9.78704, 10, -250, 0.5], [-10 * g, 30 * g, 1002 * g, 11, -249, 0]], dtype=np.float32
    )
    counts, saturated = encoding.quantize(values, GOLDEN_CONFIG)
    stored = encoding.encode_frame(
        counts, cfg_id=1, session=0x1234_5678_9ABC_BEEF, first=25_000, tick=8_192_000, saturated=bool(saturated.any())
    )
    assert encoding.address_frame(stored, FrameType.LIVE, 7).hex() == GOLDEN


@given(counts=COUNTS, cfg_id=U8, seq=U16, session=U64, first=st.integers(0, 2**31), tick=U32, last=st.booleans())
def test_the_gateway_reads_back_every_sample_of_a_frame(counts, cfg_id, seq, session, first, tick, last) -> None:
    config = Config(cfg_id=cfg_id)
    stored = encoding.encode_frame(counts, cfg_id=cfg_id, session=session, first=first, tick=tick, saturated=False)
    frame = encoding.address_frame(stored, FrameType.BACKLOG, seq, last=last)
    header = reference.decode_header(frame)
    assert (header.type, header.seq, header.tick) == (reference.FrameType.BACKLOG, seq, tick)
    assert bool(header.flags & reference.Flag.LAST) is last
    decoder = reference.ReferenceDecoder(32_768, {session & 0xFFFF: session})
    decoder.decode(Kind.CONFIG, encoding.encode_config(config))
    [block] = decoder.decode(Kind.FRAME, frame)
    assert isinstance(block, Block)
    assert (block.session, block.first) == (session, first)
    assert np.array_equal(block.values, counts.astype(np.float32) * config.scales())


@given(seq=U16, session=U64, first=st.integers(0, 2**31), missing=st.integers(1, 2**31 - 1), last=st.booleans())
def test_the_gateway_reads_back_a_gap(seq, session, first, missing, last) -> None:
    frame = encoding.encode_gap(cfg_id=1, seq=seq, session=session, first=first, tick=0, missing=missing, last=last)
    assert len(frame) == 20
    decoder = reference.ReferenceDecoder(32_768, {session & 0xFFFF: session})
    assert decoder.decode(Kind.FRAME, frame) == [Lost(session, first, first + missing, "overwritten")]


ENTRIES = st.tuples(U64, st.tuples(U32, U32, U32).map(sorted), U32).flatmap(
    lambda drawn: st.permutations(drawn[1][:2]).map(
        lambda below: SessionEntry(drawn[0], below[0], drawn[1][2], below[1], drawn[2])
    )
)
"""Samples held and watermark end at the session's end at the latest."""


@given(
    entries=st.lists(ENTRIES, min_size=1, max_size=8, unique_by=lambda entry: entry.session & 0xFFFF),
    rates=st.lists(U32, min_size=1, max_size=4),
    serial=U64,
    battery=st.none() | st.integers(0, 100),
)
def test_the_gateway_reads_back_info(entries, rates, serial, battery) -> None:
    payload = encoding.encode_info(
        firmware=(3, 4),
        tick_hz=32_768,
        capacity=500_000,
        serial=serial,
        sensor_frame=(-2, 1, 3),
        battery_percent=battery,
        rates_mhz=rates,
        sessions=entries,
    )
    info = reference.Info.decode(payload)
    assert info.sessions == tuple(
        reference.SessionEntry(e.session, e.first, e.end, e.watermark, e.overwritten) for e in entries
    )
    assert (info.serial, info.battery_percent, info.rates_mhz) == (serial, battery, tuple(rates))
    assert (info.sensor_frame, info.firmware, info.ring_survives_reboot) == ((-2, 1, 3), (3, 4), True)
    pieces = reference.ReferenceDecoder().decode(Kind.INFO, payload)
    assert [type(piece) for piece in pieces] == [DeviceStatus, *[SessionHeld] * len(entries)]


def test_config_and_time_lie_as_the_page_has_them() -> None:
    config = encoding.encode_config(GOLDEN_CONFIG)
    assert config.hex() == "01130000" + "50c30000" + "0800" + "d007" + struct.pack("<ff", 0.00980665, 0.0625).hex()
    time = encoding.encode_time(tick=2**32 + 5, session=0xAAAA_BEEF, next_index=7)
    assert time.hex() == "05000000" + "efbe" + "07000000"


def test_the_advertised_byte_tells_fill_and_central() -> None:
    assert encoding.encode_advertised(held_by_central=False, fill=0).hex() == "0100"
    assert encoding.encode_advertised(held_by_central=True, fill=1).hex() == "01ff"


@given(values=st.lists(st.tuples(*[st.floats(-1e5, 1e5, width=32)] * 6), min_size=1, max_size=5))
def test_quantizing_errs_by_half_a_count_or_says_that_it_was_saturated(values) -> None:
    config, given_values = Config(), np.array(values, dtype=np.float32)
    counts, saturated = encoding.quantize(given_values, config)
    off = np.abs(counts * config.scales().astype(np.float64) - given_values)
    assert ((off <= config.scales() * 0.500001).all(axis=1) | saturated).all()


CONTROL = [
    ("START_LIVE", "01", (Op.START_LIVE, ())),
    ("REQUEST", "03efbe0a000000ffffffff", (Op.REQUEST, (0xBEEF, 10, 0xFFFFFFFF))),
    ("CREDIT", "044000", (Op.CREDIT, (64,))),
    ("ACK", "05efbe10270000", (Op.ACK, (0xBEEF, 10_000))),
    ("empty", "", Status.WRONG_LENGTH),
    ("op 0", "00", Status.UNKNOWN_OP),
    ("an answer sent back", "8100", Status.UNKNOWN_OP),
    ("CREDIT cut", "0440", Status.WRONG_LENGTH),
    ("ABORT with a tail", "0600", Status.WRONG_LENGTH),
]


def test_control_requests_are_read_or_refused_by_status() -> None:
    for shows, payload, expected in CONTROL:
        assert encoding.decode_control(bytes.fromhex(payload)) == expected, shows


@given(st.binary(max_size=32))
def test_no_control_write_raises(payload: bytes) -> None:
    decoded = encoding.decode_control(payload)
    assert isinstance(decoded, Status) or decoded[0] == payload[0]
