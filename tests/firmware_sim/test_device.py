"""The firmware's rules against a brute-force model that remembers every sample and every stored byte."""

import random
import struct
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from firmware_sim.device import CAPACITY_MIN, INDICATIONS_WAITING_MAX, LIVE_WAITING_MAX, Device, Settings
from firmware_sim.encoding import BACKLOG_UUID, CONFIG_UUID, CONTROL_UUID, INFO_UUID, LIVE_UUID, TIME_UUID
from firmware_sim.protocol import WriteRefused

ALL = 0xFFFFFFFF


def make(capacity: int = 5000, seed: int = 1) -> Device:
    return Device(Settings(serial=7, capacity=capacity), random.Random(seed))


def motion(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-50, 50, (n, 6)).astype(np.float32)


def ask(device: Device, op: int, layout: str = "", *parameters: int) -> tuple[int, bytes]:
    """(status, parameters) of the answer to a control request."""
    device.written(CONTROL_UUID, struct.pack("<B" + layout, op, *parameters))
    indication = device.next_indication()
    assert indication is not None
    uuid, answer = indication
    assert (uuid, answer[0]) == (CONTROL_UUID, op | 0x80)
    return answer[1], answer[2:]


def low(device: Device) -> int:
    return device.running.number & 0xFFFF


@dataclass(frozen=True)
class Sent:
    """A frame taken apart by this test's own reading of the page."""

    kind: int
    flags: int
    seq: int
    session: int
    first: int
    end: int
    body: bytes

    @classmethod
    def of(cls, frame: bytes) -> "Sent":
        version_type, flags, n, _, seq, session, first, _ = struct.unpack_from("<BBBBHHII", frame)
        assert version_type >> 4 == 1
        kind = version_type & 15
        extent = struct.unpack_from("<I", frame, 16)[0] if kind == 2 else n
        assert len(frame) == (20 if kind == 2 else 16 + 12 * n)
        return cls(kind, flags, seq, session, first, first + extent, frame[16:])

    @property
    def last(self) -> bool:
        return bool(self.flags & 1 << 6)


def drain(device: Device) -> list[tuple[str, Sent]]:
    sent = []
    while (notification := device.next_notification()) is not None:
        sent.append((notification[0], Sent.of(notification[1])))
    return sent


@dataclass
class Kept:
    """A session as the model knows it: all samples ever made, and the frames that the ring must still hold."""

    number: int
    counts: list[list[int]] = field(default_factory=list)
    closed: int = 0
    watermark: int = 0
    overwritten: int = 0
    held: list[tuple[int, int]] = field(default_factory=list)


class Ring(RuleBasedStateMachine):
    """Random appends, acknowledgements, requests, credit, links and reboots."""

    def __init__(self) -> None:
        super().__init__()
        self.device = make(CAPACITY_MIN)
        self.capacity = CAPACITY_MIN
        self.sessions = [Kept(self.device.running.number)]
        self.granted = self.spent = 0
        self.bodies: dict[tuple[int, int], bytes] = {}
        self.request: tuple[int, int, int] | None = None
        self.position = 0
        self.live_next: int | None = None
        self.seed = 0

    def close_frames(self, session: Kept, *, short: bool) -> None:
        while (n := min(19, len(session.counts) - session.closed)) == 19 or (short and n):
            while sum(end - first for s in self.sessions for first, end in s.held) + n > self.capacity:
                oldest = next(s for s in self.sessions if s.held)
                first, end = oldest.held.pop(0)
                oldest.overwritten += sum(index >= oldest.watermark for index in range(first, end))
            session.held.append((session.closed, session.closed + n))
            session.closed += n

    @rule(n=st.integers(1, 300))
    def sample(self, n: int) -> None:
        self.seed += 1
        counts = self.device.sample(motion(n, self.seed))
        self.sessions[-1].counts += counts.tolist()
        self.close_frames(self.sessions[-1], short=False)

    @rule()
    def link_up(self) -> None:
        self.device.link_up()
        self.lapse()

    @rule()
    def link_lost(self) -> None:
        self.device.disconnected()
        self.lapse()

    def lapse(self) -> None:
        self.granted = self.spent = 0
        self.request = None
        self.live_next = None

    @rule()
    def reboot(self) -> None:
        self.close_frames(self.sessions[-1], short=True)
        self.device.restart()
        self.lapse()
        self.sessions.append(Kept(self.device.running.number))
        if len(self.sessions) > 8:
            spent = [s for s in self.sessions[:-1] if s.watermark == s.closed]
            gone = (spent or self.sessions)[0]
            unheard = sum(index >= gone.watermark for first, end in gone.held for index in range(first, end))
            self.sessions.remove(gone)
            self.sessions[0].overwritten += gone.overwritten + unheard

    @rule(credit=st.integers(0, 40))
    def grant(self, credit: int) -> None:
        assert ask(self.device, 4, "H", credit) == (0, b"")
        self.granted += credit

    @rule(which=st.integers(0, 7), share=st.floats(0, 1.1))
    def acknowledge(self, which: int, share: float) -> None:
        session = self.sessions[which % len(self.sessions)]
        index = int(share * session.closed)
        status, answer = ask(self.device, 5, "HI", session.number & 0xFFFF, index)
        session.watermark = max(session.watermark, min(index, session.closed))
        assert (status, struct.unpack("<I", answer)[0]) == (0, session.watermark)
        session.held = [(first, end) for first, end in session.held if end > session.watermark - 400]
        if session is not self.sessions[-1] and session.watermark == session.closed:
            self.sessions.remove(session)

    @rule(which=st.integers(0, 7), first=st.integers(0, 3000), count=st.integers(0, 3000) | st.just(ALL))
    def ask_for(self, which: int, first: int, count: int) -> None:
        session = self.sessions[which % len(self.sessions)]
        status, answer = ask(self.device, 3, "HII", session.number & 0xFFFF, first, count)
        end = min(session.closed, first + count)
        overlapping = [frame for frame in session.held if max(first, frame[0]) < min(end, frame[1])]
        if self.request is not None:
            assert status == 5
        elif not overlapping:
            assert status == 4
        else:
            assert status == 0
            extent = struct.unpack("<II", answer)
            assert extent == (min(first, overlapping[0][0]), overlapping[-1][1])
            self.request, self.position = (session.number, *extent), extent[0]

    @precondition(lambda self: self.request is not None)
    @rule()
    def abort(self) -> None:
        assert ask(self.device, 6) == (0, b"")
        self.request = None

    @rule()
    def start_live(self) -> None:
        status, answer = ask(self.device, 1)
        session = self.sessions[-1]
        assert (status, struct.unpack("<HI", answer)) == (0, (session.number & 0xFFFF, session.closed))
        if self.live_next is None:
            self.live_next = session.closed

    @rule(at_most=st.integers(1, 60))
    def send(self, at_most: int) -> None:
        backlog_seen = False
        for _ in range(at_most):
            notification = self.device.next_notification()
            if notification is None:
                return
            uuid, frame = notification
            sent = Sent.of(frame)
            if uuid == LIVE_UUID:
                assert not backlog_seen  # Live has priority
                assert self.live_next is not None
                assert sent.kind == 0
                assert sent.first >= self.live_next
                self.live_next = sent.end
                self.verbatim(self.sessions[-1], sent)
            else:
                backlog_seen = True
                self.check_backlog(sent)

    def check_backlog(self, sent: Sent) -> None:
        self.spent += 1
        assert self.spent <= self.granted
        assert self.request is not None
        number, _, end = self.request
        session = next((s for s in self.sessions if s.number == number), Kept(number))
        assert sent.session == number & 0xFFFF
        assert sent.first == self.position or (sent.kind == 1 and sent.first < self.position < sent.end)
        self.position = sent.end
        assert sent.last == (sent.end >= end)
        if sent.kind == 2:
            gone = range(sent.first, sent.end)
            assert len(gone) > 0
            assert not any(first < sent.end and sent.first < held_end for first, held_end in session.held)
        else:
            self.verbatim(session, sent)
        if sent.last:
            self.request = None

    def verbatim(self, session: Kept, sent: Sent) -> None:
        expected = np.array(session.counts[sent.first : sent.end], dtype="<i2").tobytes()
        assert sent.body == expected
        assert self.bodies.setdefault((session.number, sent.first), sent.body) == sent.body

    @invariant()
    def info_tells_what_the_ring_holds(self) -> None:
        info = self.device.read(INFO_UUID, 0)
        told = list(struct.iter_unpack("<QIIII", info[28 + 4 * info[24] :]))
        assert told == [
            (s.number, s.held[0][0] if s.held else s.closed, s.closed, s.watermark, s.overwritten)
            for s in self.sessions
        ]

    def teardown(self) -> None:
        """Everything that was not overwritten can be fetched."""
        self.device.link_up()
        for session in self.sessions:
            if not session.held:
                continue
            assert ask(self.device, 3, "HII", session.number & 0xFFFF, 0, ALL)[0] == 0
            assert ask(self.device, 4, "H", 0xFFFF)[0] == 0
            sent = [frame for uuid, frame in drain(self.device) if uuid == BACKLOG_UUID]
            assert [(f.first, f.end) for f in sent if f.kind == 1] == session.held
            assert [(f.first, f.end) for f in sent if f.kind == 2] == (
                [(0, session.held[0][0])] if session.held[0][0] else []
            )
            for frame in sent:
                if frame.kind == 1:
                    self.verbatim(session, frame)


TestRing = Ring.TestCase
TestRing.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def test_what_lies_within_400_samples_of_the_watermark_stays() -> None:
    device = make()
    device.sample(motion(19 * 100))
    ask(device, 5, "HI", low(device), 1900)
    assert device.running.first_held <= 1900 - 400
    assert device.running.first_held > 1900 - 400 - 19


def test_an_acknowledgement_never_moves_back() -> None:
    device = make()
    device.sample(motion(1900))
    ask(device, 5, "HI", low(device), 1000)
    assert ask(device, 5, "HI", low(device), 10) == (0, struct.pack("<I", 1000))


def test_a_full_ring_counts_what_nobody_acknowledged() -> None:
    device = make(950)  # fifty frames
    device.sample(motion(1900))
    ask(device, 5, "HI", low(device), 960)
    device.sample(motion(950))
    assert device.held == 950
    assert device.running.overwritten == 950 + (1900 - 960)


def test_the_last_frame_may_be_short_and_the_wearable_stays_up() -> None:
    device = make()
    device.link_up()
    ask(device, 1)
    counts = device.sample(motion(21))
    device.finish()
    live = [frame for uuid, frame in drain(device) if uuid == LIVE_UUID]
    assert [(f.first, f.end) for f in live] == [(0, 19), (19, 21)]
    assert live[1].body == counts[19:].astype("<i2").tobytes()
    assert ask(device, 3, "HII", low(device), 0, ALL) == (0, struct.pack("<II", 0, 21))
    ask(device, 4, "H", 9)
    assert [(f.end, f.last) for _, f in drain(device)] == [(19, False), (21, True)]


def test_credit_lapses_with_the_link() -> None:
    device = make()
    device.sample(motion(190))
    device.link_up()
    ask(device, 4, "H", 5)
    device.disconnected()
    device.link_up()
    ask(device, 3, "HII", low(device), 0, ALL)
    assert drain(device) == []
    ask(device, 4, "H", 1)
    assert len(drain(device)) == 1


def test_live_frames_that_the_radio_does_not_take_spend_their_seq_and_stay_in_the_ring() -> None:
    device = make()
    device.link_up()
    ask(device, 1)
    frames = LIVE_WAITING_MAX + 3
    device.sample(motion(19 * frames))
    sent = [frame for _, frame in drain(device)]
    assert [frame.seq for frame in sent] == list(range(3, frames))
    assert sent[0].first == 3 * 19
    ask(device, 3, "HII", low(device), 0, 3 * 19)
    ask(device, 4, "H", 10)
    assert [frame.first for _, frame in drain(device)] == [0, 19, 38]


def test_a_ninth_session_takes_the_place_of_one_that_holds_nothing_new() -> None:
    device = make()
    numbers = []
    for n in range(8):
        numbers.append(device.running.number)
        device.sample(motion(0 if n == 3 else 190, n))  # one that a reboot ends before its first sample
        device.restart()
    assert [session.number for session in device.sessions[:-1]] == numbers[:3] + numbers[4:]
    assert sum(session.overwritten for session in device.sessions) == 0


def test_a_session_that_is_given_up_unheard_is_counted_by_the_oldest_that_is_left() -> None:
    device = make()
    for n in range(9):
        device.sample(motion(190, n))
        device.restart()
    entries = [session.entry() for session in device.sessions]
    assert len(entries) == 8
    assert [entry.overwritten for entry in entries] == [2 * 190, *[0] * 7]
    assert device.held == 7 * 190


def test_what_was_overwritten_while_a_request_ran_is_told_by_a_gap_frame_in_its_place() -> None:
    device = make(950)
    device.sample(motion(950))
    device.link_up()
    ask(device, 3, "HII", low(device), 0, ALL)
    ask(device, 4, "H", 1)
    assert [(f.kind, f.first) for _, f in drain(device)] == [(1, 0)]
    device.sample(motion(190, 1))
    ask(device, 4, "H", 2)
    assert [(f.kind, f.first, f.end) for _, f in drain(device)] == [(2, 19, 190), (1, 190, 209)]


def test_saturated_samples_are_clipped_and_flagged() -> None:
    device = make()
    device.link_up()
    ask(device, 1)
    values = motion(38)
    values[20, 0] = 1000.0
    counts = device.sample(values)
    assert counts[20, 0] == 32767
    assert [bool(frame.flags & 8) for _, frame in drain(device)] == [False, True]


def test_ticks_follow_the_index_and_the_clock() -> None:
    device = make()
    device.link_up()
    ask(device, 1)
    device.sample(motion(38))
    notifications = [device.next_notification(), device.next_notification()]
    ticks = [struct.unpack_from("<I", frame, 12)[0] for _, frame in notifications]
    assert ticks == [0, 19 * 32_768 // 50]
    taken_by_then = 51  # at 0, 20 ... 1000 ms, whatever of it the simulation has made
    assert device.read(TIME_UUID, 10**9) == struct.pack("<IHI", 32_768, low(device), taken_by_then)
    device.finish()
    assert device.read(TIME_UUID, 10**9) == struct.pack("<IHI", 32_768, low(device), 38)


@given(uptime_ns=st.integers(0, 10**15))
def test_a_sample_is_due_from_its_moment_on(uptime_ns: int) -> None:
    due = make().samples_due(uptime_ns)
    assert (due - 1) * 20_000_000 <= uptime_ns < due * 20_000_000


def test_unconfirmed_answers_are_bounded() -> None:
    device = make()
    for _ in range(INDICATIONS_WAITING_MAX):
        device.written(CONTROL_UUID, b"\x01")
    with pytest.raises(WriteRefused) as refused:
        device.written(CONTROL_UUID, b"\x01")
    assert refused.value.att_error == 0xFE


def test_only_the_one_setting_that_it_has_can_be_written() -> None:
    device = make()
    device.written(CONFIG_UUID, device.read(CONFIG_UUID, 0))
    for payload in (b"", bytes(20), device.read(CONFIG_UUID, 0) + b"\0"):
        with pytest.raises(WriteRefused) as refused:
            device.written(CONFIG_UUID, payload)
        assert refused.value.att_error == 0x13


@given(
    writes=st.lists(
        st.binary(max_size=14) | st.binary(min_size=1, max_size=14).map(lambda b: bytes([b[0] % 7]) + b[1:])
    )
)
def test_whatever_is_written_is_answered_with_a_status(writes: list[bytes]) -> None:
    device = make()
    device.sample(motion(100))
    device.link_up()
    for payload in writes:
        device.written(CONTROL_UUID, payload)
        indication = device.next_indication()
        assert indication is not None
        answer = indication[1]
        assert answer[0] == (payload[0] if payload else 0) | 0x80
        assert answer[1] <= 5
        drain(device)
