"""Standard services beside the stream: what is asked for, what is journalled, what it tells."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.motion.samples import DeviceDetail
from gateway.profiles import details, profile_of
from gateway.profiles.conversation import (
    Connected,
    Disconnected,
    Kind,
    Notified,
    Observe,
    Read,
    ReadDone,
    Subscribe,
    Write,
)
from gateway.profiles.errors import FrameError

TAIL = "-0000-1000-8000-00805f9b34fb"
BATTERY, FIRMWARE = f"00002a19{TAIL}", f"00002a26{TAIL}"


def talk():
    return details.with_details(profile_of("thingy52").conversation({}))


def observed(commands):
    return [c.payload.hex() for c in commands if isinstance(c, Observe) and c.kind is Kind.DETAIL]


def test_after_the_streams_own_commands_everything_is_asked_for_and_nothing_is_needed():
    commands = details.with_details(profile_of("xsens-dot").conversation({})).handle(Connected(-61), 7)
    own = profile_of("xsens-dot").conversation({}).handle(Connected(-61), 7)
    assert commands[: len(own)] == own
    assert commands[len(own)] == Observe(Kind.DETAIL, bytes.fromhex("ffff c3"))
    reads = {c.uuid: c.optional for c in commands if isinstance(c, Read)}
    assert reads == {f"0000{number}{TAIL}": True for number in ("2a19", "2a24", "2a25", "2a26", "2a29")}
    assert [c for c in commands if isinstance(c, Subscribe) and c.optional] == [Subscribe(BATTERY, optional=True)]
    assert not any(isinstance(c, Write) for c in commands[len(own) :])


@pytest.mark.parametrize("why", ["", "not connected within 2 s", "für \u2603 nicht"])
def test_what_keeps_it_from_being_connected_is_read_back_as_it_was_written(why):
    assert details.decode(details.trouble("held", why)) == [DeviceDetail(trouble="held", trouble_why=why)]
    assert details.decode(details.trouble("", "")) == [DeviceDetail(trouble="", trouble_why="")]


@pytest.mark.parametrize("rssi_dbm", [None, 127, 200, -200])
def test_a_signal_strength_that_is_none_is_not_told(rssi_dbm):
    assert observed(talk().handle(Connected(rssi_dbm), 0)) == []


def test_a_value_is_journalled_when_it_is_new():
    conversation = talk()
    conversation.handle(Connected(), 0)
    steps = [
        ReadDone(BATTERY, b"\x57", 0),
        Notified(BATTERY, b"\x57"),
        Notified(BATTERY, b"\x56"),
        ReadDone(FIRMWARE, b"1.2", 0),
    ]
    assert [observed(conversation.handle(step, 1)) for step in steps] == [["192a57"], [], ["192a56"], ["262a312e32"]]
    conversation.handle(Disconnected(), 2)
    conversation.handle(Connected(), 3)
    assert observed(conversation.handle(Notified(BATTERY, b"\x56"), 4)) == ["192a56"]


def test_the_streams_events_go_to_its_own_conversation():
    conversation, own = talk(), profile_of("thingy52").conversation({})
    conversation.handle(Connected(), 0)
    own.handle(Connected(), 0)
    raw = Notified("ef680406-9b35-4933-9b10-52ffa9740042", bytes(18))
    assert conversation.handle(raw, 1) == own.handle(raw, 1) == [Observe(Kind.FRAME, bytes(18))]


ROWS = [
    ("192a64", DeviceDetail(battery_percent=100)),
    ("262a" + b"2.1.0".hex(), DeviceDetail(firmware="2.1.0")),
    ("292a" + b"Nordic\0junk".hex(), DeviceDetail(manufacturer="Nordic")),
    ("242a" + "Grüße\n".encode().hex(), DeviceDetail(model="Grüße")),
    ("252a" + "41ff1b42", DeviceDetail(serial="A\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}B")),
    ("ffffc3", DeviceDetail(rssi_dbm=-61)),
]


@pytest.mark.parametrize(("row", "detail"), ROWS, ids=[row[:4] for row, _ in ROWS])
def test_a_row_tells(row, detail):
    assert details.decode(bytes.fromhex(row)) == [detail]


def test_a_row_of_another_number_tells_nothing():
    assert details.decode(bytes.fromhex("012a0000")) == []


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("", "0 bytes"),
        ("19", "1 bytes"),
        ("192a", "0 bytes, expected 1"),
        ("192a65", "battery level 101 %"),
        ("ffff0102", "2 bytes"),
    ],
)
def test_a_row_that_cannot_be_is_refused(row, message):
    with pytest.raises(FrameError, match=message):
        details.decode(bytes.fromhex(row))


@given(
    st.binary(max_size=100)
    | st.builds(lambda n, v: bytes([n, 0x2A]) + v, st.integers(0x10, 0x30), st.binary(max_size=80))
)
def test_no_row_raises_anything_but_a_frame_error(row):
    try:
        details.decode(row)
    except FrameError:
        pass


def test_a_long_text_is_cut():
    conversation = talk()
    conversation.handle(Connected(), 0)
    (row,) = observed(conversation.handle(ReadDone(FIRMWARE, b"x" * 500, 0), 1))
    assert len(bytes.fromhex(row)) == 66
