"""The conformance check passes the simulator, and fails the right item of a wearable that misbehaves."""

import io
import json
import re
import struct
import sys
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import MethodType
from typing import Any

import numpy as np
import pytest

from firmware_sim import check_command, conformance, encoding, peripheral
from firmware_sim.bench import Bench
from firmware_sim.check_command import judge, simulated
from firmware_sim.cli import main
from firmware_sim.conformance import ITEMS, Result
from firmware_sim.device import Device
from firmware_sim.encoding import FrameType, Malformed, Op
from firmware_sim.endpoint import Endpoint
from firmware_sim.radio import VirtualRadio
from tests.firmware_sim.test_transport import wearable

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference-profile.md"

Plant = Callable[[Device], None]


async def failing(plant: Plant | None, *names: str) -> dict[str, str]:
    """What was found of each item that failed; none may be skipped but that which needs a link faster than the check:
    on a busy machine no request lasts until a Live frame is full. It has tests of its own."""
    async with simulated(plant) as bench:
        verdicts = await judge(bench, conformance.chosen(names), sys.stdout)
    assert [verdict.item.id for verdict in verdicts if verdict.result is Result.SKIP] in ([], ["RP-LIVE-5"])
    return {verdict.item.id: verdict.found for verdict in verdicts if verdict.result is Result.FAIL}


async def test_the_simulated_wearable_passes_every_item() -> None:
    assert await failing(None) == {}


# Firmware that misbehaves. Each plant changes one thing.


def changed(name: str) -> Callable[[Callable[..., Any]], Plant]:
    """A method of the device is replaced by f(device, the method, *its arguments)."""

    def plant_with(f: Callable[..., Any]) -> Plant:
        def plant(device: Device) -> None:
            original = getattr(device, name)
            setattr(device, name, MethodType(lambda self, *args, **kwargs: f(self, original, *args, **kwargs), device))

        return plant

    return plant_with


@changed("next_notification")
def a_byte_too_many(device, original):
    sent = original()
    return None if sent is None else (sent[0], sent[1] + b"\0")


@changed("next_notification")
def samples_big_endian(device, original):
    sent = original()
    if sent is None:
        return None
    uuid, frame = sent
    return uuid, frame[:16] + np.frombuffer(frame, "<i2", offset=16).astype(">i2").tobytes()


@changed("next_notification")
def last_frame_not_marked(device, original):
    sent = original()
    return None if sent is None else (sent[0], bytes([sent[1][0], sent[1][1] & 0xBF]) + sent[1][2:])


@changed("next_notification")
def backlog_has_another_tick(device, original):
    sent = original()
    if sent is None or sent[0] != encoding.BACKLOG_UUID:
        return sent
    tick = struct.unpack_from("<I", sent[1], 12)[0]
    return sent[0], sent[1][:12] + struct.pack("<I", tick + 5) + sent[1][16:]


@changed("next_notification")
def live_says_backlog(device, original):
    sent = original()
    return None if sent is None else (sent[0], bytes([0x11]) + sent[1][1:])


@changed("next_notification")
def another_cfg_id(device, original):
    sent = original()
    return None if sent is None else (sent[0], sent[1][:3] + b"\x09" + sent[1][4:])


@changed("_next_seq")
def seq_that_does_not_count(device, original, kind):
    return 7


@changed("_next_seq")
def one_seq_for_both_characteristics(device, original, kind):
    original(FrameType.LIVE)
    return original(FrameType.LIVE)


@changed("_acknowledge")
def ack_erases_up_to_the_watermark(device, original, low_half, index):
    answer = original(low_half, index)
    session = device.running
    while session.frames and session.frames[0].end <= session.watermark:
        device._erase_oldest(session)
    return answer


@changed("_acknowledge")
def ack_moves_the_watermark_back(device, original, low_half, index):
    device.running.watermark = 0
    return original(low_half, index)


@changed("_acknowledge")
def ended_session_stays(device, original, low_half, index):
    kept = list(device.sessions)
    answer = original(low_half, index)
    device.sessions[:] = kept
    return answer


@changed("next_notification")
def erased_once_sent(device, original):
    sent = original()
    if sent is not None:
        device._erase_oldest(device.running)
    return sent


@changed("_start_request")
def credit_is_ignored(device, original, *asked):
    device._credit = 0xFFFF
    return original(*asked)


@changed("_start_request")
def gap_is_left_out(device, original, low_half, first, count):
    session = device._session(low_half)
    held = session.first_held if session is not None else first
    return original(low_half, max(first, held), count - max(0, held - first) if count != encoding.NEWEST else count)


@changed("_start_request")
def a_second_request_takes_over(device, original, *asked):
    device._request = None
    return original(*asked)


@changed("_control")
def abort_is_ignored(device, original, op, parameters):
    return (encoding.Status.DONE, b"") if op is Op.ABORT else original(op, parameters)


@changed("_control")
def stop_is_ignored(device, original, op, parameters):
    return (encoding.Status.DONE, b"") if op is Op.STOP_LIVE else original(op, parameters)


@changed("_control")
def start_tells_the_next_frame(device, original, op, parameters):
    status, answer = original(op, parameters)
    if op is Op.START_LIVE:
        answer = answer[:2] + struct.pack("<I", struct.unpack_from("<I", answer, 2)[0] + 19)
    return status, answer


@changed("disconnected")
def live_outlives_the_link(device, original):
    live = device._live
    original()
    device._live = live


@changed("link_up")
def credit_outlives_the_link(device, original):
    original()
    device._credit = 50


@changed("_tick_of")
def tick_of_half_the_rate(device, original, index):
    return original(index) * 2


@changed("_tick_of")
def ticks_from_another_clock(device, original, index):
    return original(index) + 5 * 32_768


@changed("read")
def time_runs_fast(device, original, uuid, uptime_ns):
    return original(uuid, uptime_ns * 11 // 10 if uuid == encoding.TIME_UUID else uptime_ns)


@changed("written")
def any_config_is_taken(device, original, uuid, payload):
    if uuid != encoding.CONFIG_UUID:
        original(uuid, payload)


@changed("written")
def unknown_ops_are_not_answered(device, original, uuid, payload):
    if payload[:1] != b"\x7f":
        original(uuid, payload)


@changed("advertised")
def says_that_it_is_held(device, original):
    return bytes([1, original()[1] | 0x80])


@changed("advertised")
def never_says_that_it_is_held(device, original):
    return bytes([1])


def sessions_count_from_one(device: Device) -> None:
    device.running.number = 1


@changed("_begin_session")
def sessions_follow_on_each_other(device, original):
    number = device.running.number + 1
    original()
    device.running.number = number


@changed("read")
def left_handed_frame(device, original, uuid, uptime_ns):
    value = original(uuid, uptime_ns)
    return value[:20] + bytes([1, 3, 2]) + value[23:] if uuid == encoding.INFO_UUID else value


@changed("read")
def info_is_cut_short(device, original, uuid, uptime_ns):
    value = original(uuid, uptime_ns)
    return value[:-1] if uuid == encoding.INFO_UUID else value


MISBEHAVING = [
    (a_byte_too_many, "RP-FRAME-1", "a frame of 245 bytes with n = 19; expected 244"),
    (samples_big_endian, "RP-FRAME-4", "the median of |a| is"),
    (live_says_backlog, "RP-FRAME-2", "type 1 on Live"),
    (another_cfg_id, "RP-FRAME-3", "cfg_id 9; Config has 1"),
    (seq_that_does_not_count, "RP-LIVE-2", "seq does not count: seq 7 then 7"),
    (seq_that_does_not_count, "RP-REQ-2", "seq does not count: seq 7 then 7"),
    (one_seq_for_both_characteristics, "RP-LIVE-2", "seq and index disagree"),
    (start_tells_the_next_frame, "RP-LIVE-1", "the first frame begins at"),
    (stop_is_ignored, "RP-LIVE-3", "Live frames came after STOP_LIVE"),
    (live_outlives_the_link, "RP-LIVE-4", "on a new link that had not started Live"),
    (last_frame_not_marked, "RP-REQ-1", "none has b6"),
    (credit_is_ignored, "RP-REQ-3", "Backlog frames came without credit"),
    (abort_is_ignored, "RP-REQ-4", "Backlog frames came after ABORT"),
    (credit_outlives_the_link, "RP-REQ-5", "for the credit of an earlier link"),
    (backlog_has_another_tick, "RP-REQ-6", "session, index, tick and samples differ"),
    (gap_is_left_out, "RP-REQ-8", "the gap in front belongs to the range"),
    (a_second_request_takes_over, "RP-CTRL-5", "the second request was answered with status 0"),
    (unknown_ops_are_not_answered, "RP-CTRL-1", "no indication answered 7f"),
    (erased_once_sent, "RP-ACK-1", "the first index held went from 0 to"),
    (ack_moves_the_watermark_back, "RP-ACK-2", "was answered with watermark"),
    (ack_erases_up_to_the_watermark, "RP-ACK-4", "behind the watermark"),
    (ended_session_stays, "RP-SESS-3", "is still listed"),
    (sessions_count_from_one, "RP-SESS-1", "session 0000000000000001 has 1 of 64 bits set"),
    (sessions_follow_on_each_other, "RP-SESS-2", "follows on"),
    (tick_of_half_the_rate, "RP-TIME-3", "the rate makes it 0.3800 s"),
    (ticks_from_another_clock, "RP-TIME-4", "s from where the frames' ticks lead"),
    (time_runs_fast, "RP-TIME-2", "ticks a second; Info tells 32768"),
    (any_config_is_taken, "RP-CFG-3", "a rate that no sensor has was accepted"),
    (says_that_it_is_held, "RP-ADV-2", "bit 7 says that a central holds it; none does"),
    (never_says_that_it_is_held, "RP-ADV-2", "manufacturer data has 1 bytes; expected 2"),
    (left_handed_frame, "RP-INFO-2", "sensor frame (1, 3, 2) is left-handed"),
    (info_is_cut_short, "RP-INFO-1", "1 rates and 1 sessions make 56"),
]


@pytest.mark.parametrize(
    ("plant", "name", "found"), MISBEHAVING, ids=[f"{name}-{number}" for number, (_, name, _) in enumerate(MISBEHAVING)]
)
async def test_what_misbehaves_fails_the_item_that_says_so(
    plant: Plant, name: str, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("firmware_sim.bench.FRAME_S", 1.0)
    monkeypatch.setattr("firmware_sim.bench.ANSWER_S", 1.0)
    assert found in (await failing(plant, name))[name]


def slow_radio(device: Device, *, live_first: bool) -> None:
    """Of Backlog it takes 4 frames between two rounds of sampling."""
    original, taken = device.next_notification, Counter[int]()

    def next_notification() -> tuple[str, bytes] | None:
        if (device._live_waiting and live_first) or device._request is None or not device._credit:
            return original()
        taken[device.made] += 1
        if taken[device.made] > 4:
            return None
        waiting, device._live_waiting = device._live_waiting, deque()
        sent = original()
        device._live_waiting = waiting
        return sent

    device.next_notification = next_notification  # type: ignore[method-assign]


@pytest.mark.parametrize("live_first", [True, False])
async def test_a_live_frame_that_waits_for_the_backlog_fails_its_item(
    live_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conformance, "LONG_FRAMES", 60)
    monkeypatch.setattr(conformance, "UNDER_WAY", 8)
    found = await failing(lambda device: slow_radio(device, live_first=live_first), "RP-LIVE-5")
    said = {"RP-LIVE-5": "more than 8 Backlog frames came before a Live frame that was full"}
    assert found == ({} if live_first else said)


@pytest.mark.parametrize(
    ("plant", "unharmed"),
    [
        (seq_that_does_not_count, ["RP-FRAME", "RP-LIVE-1", "RP-REQ-1", "RP-CTRL"]),
        (credit_is_ignored, ["RP-FRAME", "RP-LIVE", "RP-REQ-1", "RP-REQ-2", "RP-REQ-6"]),
        (sessions_count_from_one, ["RP-INFO", "RP-CTRL", "RP-LIVE-1", "RP-ACK"]),
        (tick_of_half_the_rate, ["RP-FRAME", "RP-LIVE", "RP-TIME-1", "RP-TIME-2"]),
    ],
    ids=["seq", "credit", "session", "tick"],
)
async def test_what_misbehaves_passes_the_items_that_speak_of_something_else(plant: Plant, unharmed: list[str]) -> None:
    assert await failing(plant, *unharmed) == {}


# The page and the code


def test_the_page_has_the_list_that_is_checked_word_for_word() -> None:
    rows = re.findall(r"^\| (RP-[A-Z]+-\d+) \| (.*) \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    assert rows == [(one.id, one.must, one.how) for one in ITEMS]


def test_each_item_has_an_id_of_its_own_and_says_what_must_hold() -> None:
    assert len({one.id for one in ITEMS}) == len(ITEMS)
    assert [one.id for one in ITEMS if "MUST" not in one.must or "|" in one.must + one.how] == []


# The decoders


def test_the_golden_frame_is_read_as_the_page_says() -> None:
    golden = re.search(r"`(1003[0-9a-f]{76})`", PAGE.read_text())
    assert golden is not None
    frame = encoding.decode_frame(bytes.fromhex(golden[1]))
    assert (len(frame.counts), frame.cfg_id, frame.seq, frame.session, frame.first, frame.tick) == (
        2, 1, 7, 0xBEEF, 25_000, 8_192_000,
    )  # fmt: skip
    felt = frame.counts[0] * np.array([0.00980665] * 3 + [0.0625] * 3)
    assert felt == pytest.approx([-0.11768, 0.33343, 9.78704, 10, -250, 0.5], abs=5e-6)


@pytest.mark.parametrize(
    "decode", [encoding.decode_frame, encoding.decode_info, encoding.decode_config, encoding.decode_time]
)
def test_bytes_of_any_length_are_read_or_malformed(decode: Callable[[bytes], object]) -> None:
    rng = np.random.default_rng(1)
    for length in range(300):
        with suppress(Malformed):
            decode(rng.bytes(length))
    with pytest.raises(Malformed, match=r"7 bytes"):
        decode(bytes(7))


# The command


def test_the_command_reports_item_by_item_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--only", "RP-INFO", "--json"]) == 0
    told = capsys.readouterr()
    report = json.loads(told.out)
    assert [(one["id"], one["result"], one["found"]) for one in report["items"]] == [
        (f"RP-INFO-{number}", "pass", None) for number in (1, 2, 3)
    ]
    assert (report["pass"], report["fail"], report["skip"]) == (3, 0, 0)
    assert told.err.count("PASS") == 3
    assert main(["check", "--only", "RP-INFO-1"]) == 0
    assert "1 passed, 0 failed, 0 skipped" in capsys.readouterr().out


def test_an_item_that_fails_makes_the_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check_command, "simulated", lambda: simulated(left_handed_frame))
    assert main(["check", "--only", "RP-INFO-2"]) == 1
    told = capsys.readouterr().out
    assert re.search(r"FAIL\s+RP-INFO-2 .*\n\s+sensor frame \(1, 3, 2\) is left-handed\n", told)
    assert "0 passed, 1 failed, 0 skipped" in told


def test_where_all_is_skipped_nothing_is_proved_and_the_exit_code_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @asynccontextmanager
    async def without_erase() -> AsyncIterator[Bench]:
        async with simulated() as bench:
            bench.erase = False
            yield bench

    monkeypatch.setattr(check_command, "simulated", without_erase)
    assert main(["check", "--only", "RP-ACK-2"]) == 3
    assert "0 passed, 0 failed, 1 skipped" in capsys.readouterr().out
    assert main(["check", "--only", "RP-ACK-2", "--only", "RP-INFO-1"]) == 0
    assert "1 passed, 0 failed, 1 skipped" in capsys.readouterr().out


async def test_a_wearable_of_another_family_is_told_in_one_sentence() -> None:
    air = VirtualRadio()
    transport = f"tcp-client:{await air.serve(Endpoint.parse('127.0.0.1:0'))}"
    async with wearable(transport, "name=other; profile=thingy52") as simulation:
        address = simulation.wearables[0].spec.ble_address()
        with pytest.raises(check_command.AnotherProfile, match="it does not speak the reference profile") as told:
            async with check_command.behind(transport, address, erase=False):
                pass
    assert told.value.exit_code == 1
    air.close()


async def test_a_wearable_behind_a_transport_is_checked_and_keeps_what_it_holds() -> None:
    air = VirtualRadio()
    transport = f"tcp-client:{await air.serve(Endpoint.parse('127.0.0.1:0'))}"
    names = ["RP-ADV-1", "RP-GATT", "RP-CONN", "RP-INFO", "RP-CTRL-1", "RP-FRAME-1", "RP-ACK-2", "RP-SESS-2"]
    async with wearable(transport) as simulation:
        async with check_command.behind(transport, None, erase=False) as bench:
            assert bench.address == simulation.wearables[0].spec.ble_address()
            verdicts = await judge(bench, conformance.chosen(names), sys.stdout)
        assert {one.item.id: one.found for one in verdicts if one.result is not Result.PASS} == {
            "RP-ACK-2": "it acknowledges samples, which the wearable may then erase (--erase)",
            "RP-SESS-2": "it needs a restart, for which nobody is asked (--restart-by-hand)",
        }
        assert simulation.wearables[0].device.running.watermark == 0
    air.close()


class Person(io.StringIO):
    """Restarts the wearable when asked to, or never does."""

    def __init__(self, restart: Callable[[], None], obeys: bool) -> None:
        super().__init__()
        self._restart, self._obeys = restart, obeys

    def write(self, text: str) -> int:
        if "restart the wearable now" in text and self._obeys:
            self._restart()
        return super().write(text)


@pytest.mark.parametrize("answers", [True, False])
async def test_a_person_is_asked_for_a_restart_and_waited_for_as_long_as_is_said(
    answers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("firmware_sim.bench.RESTART_S", 20.0 if answers else 0.3)
    air = VirtualRadio()
    transport = f"tcp-client:{await air.serve(Endpoint.parse('127.0.0.1:0'))}"
    async with wearable(transport) as simulation:
        person = Person(simulation.wearables[0].reboot, obeys=answers)
        async with check_command.behind(transport, None, erase=True, asks=person) as bench:
            verdicts = await judge(bench, conformance.chosen(["RP-SESS-2", "RP-SESS-3"]), person)
    air.close()
    expected = (Result.PASS, "") if answers else (Result.SKIP, "nobody restarted it within 0.3 s")
    assert [(one.result, one.found) for one in verdicts] == [expected] * 2
    limit = "20" if answers else "0.3"
    assert person.getvalue().count(f"restart the wearable now (switch it off and on); waiting up to {limit} s") == 2


@pytest.mark.parametrize("address", [None, "C0:00:00:00:00:01"], ids=["any", "named"])
async def test_a_wearable_that_is_not_heard_is_told(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("firmware_sim.bench.SCAN_S", 0.4)
    air = VirtualRadio()
    transport = f"tcp-client:{await air.serve(Endpoint.parse('127.0.0.1:0'))}"
    with pytest.raises(check_command.NotFound, match="heard in"):
        async with check_command.behind(transport, address, erase=False):
            pass
    air.close()


WRONG = [
    (["--only", "RP-NOPE"], "no item 'RP-NOPE'"),
    (["--address", "C0:00:00:00:00:01"], "--address needs --transport"),
    (["--address", "garbage", "--transport", "tcp-client:127.0.0.1:9"], "--address 'garbage': no Bluetooth address"),
    (["--erase"], "--erase needs --transport"),
    (["--restart-by-hand"], "--restart-by-hand needs --transport"),
    (["--transport", "nonsense"], "transport 'nonsense'"),
]


@pytest.mark.parametrize(("arguments", "said"), WRONG, ids=[said for _, said in WRONG])
def test_a_wrong_option_is_told_in_a_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_the_list_can_be_read_without_a_wearable(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--list", "--json"]) == 0
    assert [one["id"] for one in json.loads(capsys.readouterr().out)] == [one.id for one in ITEMS]


async def test_a_wearable_that_takes_connections_while_it_is_held_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peripheral, "HELD_KIND", peripheral.FREE_KIND)
    assert await failing(None, "RP-ADV-4") == {"RP-ADV-4": "it takes connections while it is held"}


async def test_a_wearable_that_is_silent_while_it_is_held_is_no_failure_but_told() -> None:
    async with simulated(lambda device: setattr(device, "advertised", lambda: b"")) as bench:
        (verdict,) = await judge(bench, conformance.chosen(["RP-ADV-4"]), sys.stdout)
    assert verdict.result is Result.SKIP
    assert verdict.found == "it does not advertise while it is held: nothing was heard in 3 s"
