"""Bytes from a broker against MQTT 5 and 3.1.1, as the standards have them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.sync import wire
from gateway.sync.wire import BrokerViolation, Connack, Disconnect, Incoming, Other, Packet, Puback
from tests.gateway.sync.server5 import connack, disconnect, packet, puback, reason_string, server_reference, text

HELLO = connack()
PINGRESP = b"\xd0\x00"


def read(data: bytes, version: str = "5") -> list[Packet]:
    return list(Incoming(version).feed(data))


def test_a_connection_as_it_should_be() -> None:
    properties = b"\x21\x00\x14" + b"\x27\x00\x00\x04\x00" + b"\x11\x00\x00\x00\x3c" + b"\x13\x00\x1e"
    data = connack(session_present=True, properties=properties) + puback(7) + puback(8, 0x10) + PINGRESP
    refused = puback(9, 0x87, reason_string("no such tenant") + b"\x26" + text("a") + text("b"))
    assert read(data + refused + disconnect(0x8B)) == [
        Connack(0, True, {0x21: 20, 0x27: 1024, 0x11: 60, 0x13: 30}),
        Puback(7),
        Puback(8, 0x10),
        Other("PINGRESP"),
        Puback(9, 0x87, {0x1F: "no such tenant"}),
        Disconnect(0x8B),
    ]


def test_answers_of_3_1_1() -> None:
    assert read(b"\x20\x02\x01\x00" + b"\x40\x02\x00\x07", "3.1.1") == [Connack(0, True), Puback(7)]
    codes = [(1, 0x84), (2, 0x85), (3, 0x88), (4, 0x86), (5, 0x87)]  # 3.1.1, table 3.1
    for code, five in codes:
        assert read(bytes([0x20, 2, 0, code]), "3.1.1") == [Connack(five)]


def test_a_broker_of_3_1_1_tells_a_client_of_5_so() -> None:
    assert read(b"\x20\x02\x00\x01") == [Connack(0x84)]


def test_what_it_adds_in_words_is_fit_for_a_line_of_a_log() -> None:
    (_, refused) = read(HELLO + puback(1, 0x97, reason_string("a\nb\x1b[31m" + "c" * 999)))
    assert isinstance(refused, Puback)
    assert refused.words.startswith("Quota exceeded (a b [31mccc")
    assert len(refused.words) < 250
    assert "\n" not in refused.words


def test_a_packet_that_is_not_whole_yet_is_no_packet() -> None:
    data = HELLO + puback(7, 0x87, reason_string("no"))
    for cut in range(len(HELLO), len(data)):
        incoming = Incoming("5")
        assert list(incoming.feed(data[:cut])) == [Connack(0)]
        assert list(incoming.feed(data[cut:])) == [Puback(7, 0x87, {0x1F: "no"})]


VIOLATIONS = {
    "HTTP": (b"HTTP/1.1 400 Bad Request\r\n\r\n", "it did not begin with CONNACK: is it an MQTT broker"),
    "an answer before CONNACK": (puback(1), "it did not begin with CONNACK"),
    "DISCONNECT before CONNACK": (disconnect(0x8B), "it did not begin with CONNACK"),  # 3.14
    "a second CONNACK": (HELLO + HELLO, "a second CONNACK"),  # 3.2
    "an endless length": (HELLO + b"\x40\xff\xff\xff\xff", "a packet whose length never ends"),  # 1.5.5
    "a length beyond bounds": (HELLO + b"\x30\xff\xff\xff\x7f", "a PUBLISH of 268435460 bytes; 65536 is the most"),
    "flags of PUBACK": (HELLO + b"\x42\x02\x00\x01", "PUBACK with flags 0x2, which are reserved"),  # 2.1.3
    "flags of CONNACK": (b"\x20\x03\x02\x00\x00", "CONNACK with flags 0x02, which are reserved"),  # 3.2.2.1
    "an unknown refusal": (connack(0x8B), "CONNACK with the unknown reason 0x8b"),  # 3.2.2.2
    "a refusal with a session": (connack(0x87, session_present=True), "refused the connection and said that it has"),
    "no reason": (b"\x20\x01\x00", "CONNACK that ends too early"),
    "no properties": (b"\x20\x02\x00\x00", "CONNACK that ends too early"),  # 2.2.2.1
    "properties that run over": (b"\x20\x05\x00\x00\x09\x13\x00", "CONNACK that ends too early"),
    "a property that runs over": (b"\x20\x07\x00\x00\x02\x13\x00\x1e\x00", "whose properties do not end where"),
    "a property of PUBLISH": (connack(properties=b"\x01\x01"), "property 0x01, which does not belong there"),
    "a property twice": (connack(properties=b"\x13\x00\x1e\x13\x00\x1e"), "property 0x13 twice"),  # 2.2.2.2
    "receive maximum 0": (connack(properties=b"\x21\x00\x00"), "property 0x21 of 0"),  # 3.2.2.3.3
    "packet size 0": (connack(properties=b"\x27\x00\x00\x00\x00"), "property 0x27 of 0"),  # 3.2.2.3.6
    "maximum QoS 2": (connack(properties=b"\x24\x02"), "property 0x24 of 2"),  # 3.2.2.3.4
    "no UTF-8": (connack(0x87, properties=b"\x1f\x00\x02\xc3\x28"), "CONNACK with text that is none"),  # 1.5.4
    "U+0000": (connack(0x87, properties=b"\x1f\x00\x01\x00"), "CONNACK with text that is none"),
    "packet 0": (HELLO + puback(0), "PUBACK for packet 0"),  # 2.2.1
    "a short PUBACK": (HELLO + b"\x40\x01\x00", "PUBACK that ends too early"),
    "a PUBACK too long": (HELLO + b"\x40\x05\x00\x01\x00\x00\x00", "PUBACK with 1 bytes too many"),
    "PUBREC for QoS 1": (HELLO + b"\x50\x02\x00\x01", "PUBREC, for which nothing was asked"),  # 4.3.2
    "PUBCOMP for QoS 1": (HELLO + b"\x70\x02\x00\x01", "PUBCOMP, for which nothing was asked"),
    "SUBACK": (HELLO + b"\x90\x04\x00\x01\x00\x00", "SUBACK, for which nothing was asked"),
    "AUTH": (HELLO + packet(0xF0, b"\x00\x00"), "AUTH, for which nothing was asked"),  # 4.12
    "a client's CONNECT": (HELLO + packet(0x10, b""), "CONNECT, for which nothing was asked"),
    "type 0": (HELLO + b"\x00\x00", "reserved packet 0, for which nothing was asked"),
    "QoS 2": (HELLO + packet(0x34, text("t") + b"\x00\x01\x00"), "a PUBLISH of QoS 2"),
    "a PINGRESP with more": (HELLO + b"\xd0\x01\x00", "PINGRESP with a body"),  # 3.13
    "an unknown end": (HELLO + disconnect(0x04), "DISCONNECT with the unknown reason 0x04"),  # 3.14.2.1: a client's
    "a client's property": (HELLO + disconnect(0, b"\x11\x00\x00\x00\x01"), "property 0x11, which does not belong"),
    "more after the end": (HELLO + disconnect(0x8B) + PINGRESP, "PINGRESP after its own end"),
    "more after a refusal": (connack(0x87) + PINGRESP, "PINGRESP after its own end"),
}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_what_the_standard_forbids_is_told_in_words(name: str) -> None:
    data, words = VIOLATIONS[name]
    with pytest.raises(BrokerViolation, match=words.replace("(", r"\(")):
        read(data)


def test_a_reason_that_puback_cannot_have_speaks_of_its_message_all_the_same() -> None:
    packets = Incoming("5").feed(HELLO + puback(3, 0x95))
    assert [next(packets), next(packets)] == [Connack(0), Puback(3, 0x95)]
    with pytest.raises(BrokerViolation, match="a reason that MQTT 5 has not for PUBACK: Packet too large"):
        next(packets)


def test_under_3_1_1_there_is_no_disconnect_and_no_reason() -> None:
    hello = b"\x20\x02\x00\x00"
    with pytest.raises(BrokerViolation, match="DISCONNECT, for which nothing was asked"):
        read(hello + b"\xe0\x00", "3.1.1")
    with pytest.raises(BrokerViolation, match="PUBACK with 1 bytes too many"):
        read(hello + b"\x40\x03\x00\x01\x87", "3.1.1")
    with pytest.raises(BrokerViolation, match="the unknown return code 6"):
        read(b"\x20\x02\x00\x06", "3.1.1")


def test_a_message_from_an_old_subscription_of_our_client_id_is_passed_over() -> None:
    assert read(HELLO + packet(0x32, text("t") + b"\x00\x01\x00" + b"hi")) == [Connack(0), Other("PUBLISH")]


def test_where_to_go_instead_is_read() -> None:
    moved = connack(0x9D, properties=server_reference("b.example:8883"))
    assert read(moved) == [Connack(0x9D, properties={wire.SERVER_REFERENCE: "b.example:8883"})]


GOOD = [HELLO, puback(1), puback(2, 0x97, reason_string("slow")), PINGRESP, disconnect(0x8B), connack(0x87)]
SOUP = st.lists(st.one_of(st.sampled_from(GOOD), st.binary(max_size=12)), max_size=6).map(b"".join)


@given(soup=SOUP, cuts=st.lists(st.integers(1, 5), max_size=20), version=st.sampled_from(["5", "3.1.1"]))
def test_any_bytes_however_cut_give_the_same_packets_and_the_same_complaint(
    soup: bytes, cuts: list[int], version: str
) -> None:
    def outcome(parts: list[bytes]) -> tuple[list[Packet], str]:
        incoming, found = Incoming(version), list[Packet]()
        try:
            for part in parts:
                for one in incoming.feed(part):
                    found.append(one)
        except BrokerViolation as violation:
            return found, str(violation)
        return found, ""

    parts, rest = [], soup
    for cut in cuts:
        parts.append(rest[:cut])
        rest = rest[cut:]
    assert outcome([*parts, rest]) == outcome([soup])


@given(data=st.binary(max_size=300))
def test_what_waits_is_bounded_whatever_comes(data: bytes) -> None:
    incoming = Incoming("5", bytes_max=64)
    try:
        for at in range(len(data)):
            list(incoming.feed(HELLO * (at == 0) + data[at : at + 1]))
            assert len(incoming._waiting) <= 64
    except BrokerViolation:
        pass


PLACES = [  # 4.13.2: examples of the standard's and what is none
    ("myserver.xyz.org", ("myserver.xyz.org", 1883)),
    ("myserver.xyz.org:8883", ("myserver.xyz.org", 8883)),
    ("10.10.151.22:8883 [fe80::9610:3eff:fe1c]:1883", ("10.10.151.22", 8883)),
    ("[fe80::9610:3eff:fe1c]:1884", ("fe80::9610:3eff:fe1c", 1884)),
    ("mqtt://a/b b.example", ("b.example", 1883)),
    ("a:0 a:99999 a:b", None),
    ("", None),
]


@pytest.mark.parametrize(("text_", "place"), PLACES)
def test_a_server_reference_names_a_place(text_: str, place: tuple[str, int] | None) -> None:
    found = wire.elsewhere(0x9D, {wire.SERVER_REFERENCE: text_}, 1883)
    assert (found and (found.host, found.port)) == place
    assert wire.elsewhere(0x87, {wire.SERVER_REFERENCE: "b.example"}, 1883) is None
