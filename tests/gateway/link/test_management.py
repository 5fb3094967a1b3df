"""The kernel's management interface, byte for byte as doc/mgmt-api.txt of BlueZ has it."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import GatewayError, InputRejected
from gateway.link.management import LinkParameters, Refused, answer_in, load_commands, revision_in, version_command

STATIC, PUBLIC = "C0:FF:EE:00:12:34", "00:F1:D9:00:00:01"
SINCE_LINUX_6_11, BEFORE = 23, 22


def test_one_wearable_with_a_public_address_is_one_entry() -> None:
    """0x0035, index 2, 17 bytes; one entry: address backwards, LE public, 24 and 40 x 1.25 ms, 0, 500 x 10 ms."""
    expected = bytes.fromhex("3500 0200 1100 0100 010000d9f100 01 1800 2800 0000 f401".replace(" ", ""))
    assert load_commands(2, [PUBLIC], LinkParameters(), SINCE_LINUX_6_11) == [expected]
    assert load_commands(2, [PUBLIC], LinkParameters(), BEFORE) == [expected]


def test_an_address_that_may_be_public_or_static_random_is_named_as_both() -> None:
    first, second = load_commands(0, [STATIC], LinkParameters(), SINCE_LINUX_6_11)
    assert first[:8] == second[:8] == bytes.fromhex("3500000011000100")
    assert (first[8:15], second[8:15]) == (bytes.fromhex("341200eeffc001"), bytes.fromhex("341200eeffc002"))
    assert first[15:] == second[15:] == bytes.fromhex("18002800 0000f401".replace(" ", ""))


def test_an_older_kernel_forgets_what_was_loaded_before_so_all_goes_in_one_list() -> None:
    (command,) = load_commands(0, [STATIC, PUBLIC], LinkParameters(), BEFORE)
    code, index, size, count = struct.unpack_from("<HHHH", command)
    assert (code, index, size, count, len(command)) == (0x35, 0, 2 + 3 * 15, 3, 6 + 2 + 3 * 15)
    assert len(load_commands(0, [STATIC, PUBLIC], LinkParameters(), SINCE_LINUX_6_11)) == 3


@given(st.floats(0.0, 5000.0), st.floats(0.0, 5000.0), st.integers(-1, 600), st.floats(0.0, 40_000.0))
def test_what_is_taken_the_kernel_takes_and_nothing_that_it_takes_is_refused(
    low_ms: float, high_ms: float, latency: int, timeout_ms: float
) -> None:
    """The kernel's own rule (hci_check_conn_params), in its units; what breaks it, it skips without a word."""
    low, high, timeout = round(low_ms / 1.25), round(high_ms / 1.25), round(timeout_ms / 10)
    kernel_takes = (
        6 <= low <= high <= 3200
        and 10 <= timeout <= 3200
        and high < timeout * 8
        and 0 <= latency <= min(499, timeout * 4 // high - 1)
    )
    try:
        taken = LinkParameters(low_ms, high_ms, latency, timeout_ms)
    except InputRejected:
        assert not kernel_takes
    else:
        assert kernel_takes
        assert taken.units() == (low, high, latency, timeout)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ((5.0, 50.0, 0, 5000.0), "shortest interval 5 ms, expected 7.5 to 4000 ms"),
        ((30.0, 4001.5, 0, 5000.0), "longest interval 4001.25 ms, expected 7.5 to 4000 ms"),
        ((50.0, 30.0, 0, 5000.0), "shortest and longest interval 50 and 30 ms, expected ascending"),
        ((30.0, 50.0, 0, 90.0), "supervision timeout 90 ms, expected 100 to 32000 ms"),
        ((30.0, 50.0, 50, 5000.0), "latency 50, expected 0 to 49 at intervals up to 50 ms and a timeout of 5000 ms"),
        ((30.0, 4000.0, 0, 5000.0), "supervision timeout 5000 ms is not above twice the longest interval, 4000 ms"),
    ],
)
def test_what_the_kernel_would_skip_is_told_in_words(parameters: tuple[float, float, int, float], said: str) -> None:
    with pytest.raises(InputRejected) as refused:
        LinkParameters(*parameters)
    assert str(refused.value) == f"connection parameters: {said}"


def event(kind: int, index: int, code: int, status: int, payload: bytes = b"") -> bytes:
    return struct.pack("<HHHHB", kind, index, 3 + len(payload), code, status) + payload


def test_the_answer_is_found_among_events_of_other_things() -> None:
    (command,) = load_commands(1, [PUBLIC], LinkParameters(), BEFORE)
    for other in (
        b"",
        b"\x01\x00\x01",
        event(1, 0, 0x35, 0),  # of another adapter
        event(1, 1, 0x23, 0),  # of another command
        event(0x0B, 1, 0x35, 0),  # no answer at all
    ):
        assert answer_in(other, command, "hci1") is None
    assert answer_in(event(1, 1, 0x35, 0), command, "hci1") == b""
    assert version_command() == bytes.fromhex("0100ffff0000")
    told = answer_in(event(1, 0xFFFF, 0x01, 0, b"\x01\x17\x00"), version_command(), "Bluetooth")
    assert told is not None
    assert revision_in(told) == 23
    with pytest.raises(GatewayError, match="a version of 2 bytes, expected 3"):
        revision_in(b"\x01\x17")


@pytest.mark.parametrize("kind", [1, 2])
@pytest.mark.parametrize(
    ("status", "said", "hint"),
    [
        (0x11, "hci1: there is no such adapter", "bluetoothctl list"),
        (0x14, "hci1: the kernel lets only CAP_NET_ADMIN set connection parameters", "fidget-gateway-connparams"),
        (0x0C, "hci1: it does not do Bluetooth Low Energy", "another adapter"),
        (0x0D, "hci1: the kernel refuses the connection parameters: invalid parameters (0x0d)", ""),
        (0x77, "hci1: the kernel refuses the connection parameters: an unknown reason (0x77)", ""),
    ],
)
def test_a_refusal_is_told_in_words(kind: int, status: int, said: str, hint: str) -> None:
    (command,) = load_commands(1, [PUBLIC], LinkParameters(), BEFORE)
    with pytest.raises(Refused) as refused:
        answer_in(event(kind, 1, 0x35, status), command, "hci1")
    assert str(refused.value) == said
    assert hint in refused.value.hint
    assert refused.value.exit_code == 1
