"""The reference conversation against the simulated firmware, through a radio that loses, a host that crashes.

The firmware has an encoder of its own and knows nothing of the gateway. What the wearable still holds must reach the
journal whatever happens, and what it was told to erase must be in the journal.
"""

import random
import struct
from collections import deque
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_sim.device import SESSIONS_MAX, Device, Settings
from gateway.motion.samples import Block, Coverage, Lost, SessionHeld
from gateway.profiles.conversation import (
    Connected,
    Disconnected,
    Durable,
    Fault,
    Kind,
    Notified,
    Observe,
    Read,
    ReadDone,
    Tick,
    WakeAt,
    Write,
    WriteDone,
)
from gateway.profiles.errors import FrameError
from gateway.profiles.reference import (
    CONFIG,
    CONTROL,
    CREDIT_FRAMES,
    INFO,
    TIME_EVERY_MAX_S,
    TIME_EVERY_MIN_S,
    TIME_READS,
    TIME_READS_FIRST,
    TIME_SHARE,
    ReferenceConversation,
    ReferenceDecoder,
)

STEP_NS = 100_000_000


class Host:
    """A gateway's side: the conversation, and a journal of which `durable` rows survive a crash."""

    def __init__(self, journal=()):
        self.journal = list(journal)
        self.durable = len(self.journal)
        self.faults = []
        self.commands = deque()
        self.wake_ns = None
        self.conversation = ReferenceConversation(self.coverage())

    def pieces(self, rows):
        """As the stream reads them: a row that the decoder refuses gives nothing."""
        decoder, pieces = ReferenceDecoder(), []
        for kind, payload in rows:
            with suppress(FrameError):
                pieces += decoder.decode(kind, payload)
        return pieces

    def coverage(self):
        have = {}
        for piece in self.pieces(self.journal[: self.durable]):
            match piece:
                case Block(session, first, _, values):
                    have.setdefault(session, Coverage()).add(first, first + len(values))
                case Lost(session, first, end):
                    have.setdefault(session, Coverage()).add(first, end)
                case SessionHeld(session, first):
                    have.setdefault(session, Coverage()).add(0, first)
        return have

    def handle(self, event, now_ns):
        for command in self.conversation.handle(event, now_ns):
            match command:
                case Observe(kind, payload):
                    self.journal.append((kind, payload))
                case Fault(name, _, fatal):
                    self.faults.append((name, fatal))
                case WakeAt(mono_ns):
                    self.wake_ns = mono_ns
                case _:
                    self.commands.append(command)

    def commit(self, now_ns):
        self.durable = len(self.journal)
        for session, coverage in self.coverage().items():
            self.handle(Durable(session, coverage.contiguous_end(0)), now_ns)


class World:
    def __init__(self, seed, capacity=500_000, loss=0.0):
        self.rng = random.Random(seed)
        self.device = Device(Settings(serial=1, capacity=capacity), self.rng)
        self.host = Host()
        self.now_ns = 0
        self.loss = loss
        self.trip_ns = lambda: 0
        """How long a read takes; time stands still for all else."""
        self.tamper = lambda payload: [payload]
        self.truth = {}
        self.told = {}

    def sample(self, n):
        session = self.device.running.number
        values = np.array([[self.rng.uniform(-20, 20) for _ in range(6)] for _ in range(n)], np.float32).reshape(n, 6)
        counts = self.device.sample(values)
        scales = self.device.settings.config.scales()
        self.truth.setdefault(session, []).extend(np.asarray(counts, np.float32) * scales)

    def connect(self):
        if not self.device.connected:
            self.device.link_up()
            self.host.commands.clear()
            self.host.handle(Connected(), self.now_ns)

    def disconnect(self):
        if self.device.connected:
            self.device.disconnected()
            self.host.commands.clear()
            self.host.handle(Disconnected(), self.now_ns)

    def crash(self):
        self.device.disconnected()
        self.host = Host(self.host.journal[: self.host.durable])

    def turn(self, frames=20):
        """One interval of the radio: what the host wants, then what the wearable has to send."""
        self.now_ns += STEP_NS
        if self.host.wake_ns is not None and self.host.wake_ns <= self.now_ns:
            self.host.wake_ns = None
            self.host.handle(Tick(), self.now_ns)
        while self.device.connected and self.host.commands:
            match self.host.commands.popleft():
                case Read(uuid):
                    payload = self.device.read(uuid, self.now_ns)
                    self.host.handle(ReadDone(uuid, payload, self.now_ns), self.now_ns + self.trip_ns())
                case Write(uuid, payload):
                    self.device.written(uuid, payload)
                    self.host.handle(WriteDone(uuid), self.now_ns)
                    self.check_watermarks()
            while (indication := self.device.next_indication()) is not None:
                self.host.handle(Notified(*indication), self.now_ns)
        for _ in range(frames):
            notification = self.device.next_notification() if self.device.connected else None
            if notification is None:
                break
            uuid, sent = notification
            if self.rng.random() >= self.loss:
                for payload in self.tamper(sent):
                    self.host.handle(Notified(uuid, payload), self.now_ns)
        if any(fatal for _, fatal in self.host.faults):
            self.host.faults.clear()
            self.disconnect()

    def check_watermarks(self):
        """What the wearable may erase is on the medium."""
        durable = self.host.coverage()
        for session in self.device.sessions:
            if session.watermark > self.told.get(session.number, 0):
                self.told[session.number] = session.watermark
                assert session.watermark <= durable[session.number].contiguous_end(0)

    def settle(self):
        """A good link for as long as anything is left to say."""
        self.loss = 0.0
        self.disconnect()
        self.connect()
        for _ in range(3000):
            before = len(self.host.journal)
            self.turn()
            self.host.commit(self.now_ns)
            if len(self.host.journal) == before and not self.host.commands and self.host.conversation._request is None:
                break

    def check_everything_held_has_arrived(self):
        got = {}
        for piece in self.host.pieces(self.host.journal):
            if isinstance(piece, Block):
                for offset, row in enumerate(piece.values):
                    got.setdefault(piece.session, {})[piece.first + offset] = row
        lost = {session: Coverage() for session in self.truth}
        for piece in self.host.pieces(self.host.journal):
            if isinstance(piece, Lost):
                lost.setdefault(piece.session, Coverage()).add(piece.first, piece.end)
            elif isinstance(piece, SessionHeld):
                lost.setdefault(piece.session, Coverage()).add(0, piece.first)
        for session, rows in self.truth.items():
            for index, row in enumerate(rows):
                if index in got.get(session, {}):
                    assert np.array_equal(got[session][index], row)
                else:
                    assert not lost[session].missing(index, index + 1), f"sample {index} is neither here nor lost"
        return {session: len(rows) - len(got.get(session, {})) for session, rows in self.truth.items()}


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    loss=st.sampled_from([0.0, 0.02, 0.3]),
    steps=st.lists(
        st.sampled_from(["play", "play", "play", "commit", "connect", "connect", "disconnect", "crash", "reboot"]),
        max_size=60,
    ),
)
def test_whatever_the_link_and_the_host_suffer_every_sample_reaches_the_journal(seed, loss, steps):
    world = World(seed, loss=loss)
    for step in steps:
        match step:
            case "play":
                for _ in range(5):
                    world.sample(world.rng.randrange(40))
                    world.turn()
            case "commit":
                world.host.commit(world.now_ns)
            case "connect":
                world.connect()
            case "disconnect":
                world.disconnect()
            case "crash":
                world.crash()
            case "reboot" if len(world.device.sessions) == SESSIONS_MAX:
                pass  # a ninth would cost the oldest, which nobody may have heard of (docs/reference-profile.md)
            case "reboot":
                world.disconnect()
                world.device.restart()
    world.device.finish()
    world.settle()
    assert not any(world.check_everything_held_has_arrived().values())


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), offline=st.integers(1, 60))
def test_what_a_full_ring_has_overwritten_is_declared_lost_and_the_rest_arrives(seed, offline):
    world = World(seed, capacity=950)
    world.connect()
    for _ in range(20):
        world.sample(19)
        world.turn()
    world.host.commit(world.now_ns)
    world.turn()
    world.disconnect()
    for _ in range(offline):
        world.sample(38)
    world.device.finish()
    world.settle()
    made = 20 * 19 + offline * 38
    (missing,) = world.check_everything_held_has_arrived().values()
    assert missing == max(0, offline * 38 - 950)
    assert made - missing >= min(made, 950)


def test_credit_bounds_what_may_be_under_way():
    world = World(1)
    for _ in range(300):
        world.sample(19)
    world.connect()
    world.turn(frames=0)
    for _ in range(50):
        world.turn(frames=0)
    sent = 0
    while world.device.next_notification() is not None:
        sent += 1
    assert sent == CREDIT_FRAMES


@pytest.mark.parametrize(
    ("trip_s", "first", "later"),
    [(lambda rng: 0.06, 8, 8), (lambda rng: rng.uniform(0.05, 1.0), TIME_READS_FIRST, TIME_READS)],
    ids=["even", "uneven"],
)
def test_a_clock_is_read_often_at_first_then_every_few_minutes_the_more_so_the_less_even_the_trips(
    trip_s, first, later
):
    world = World(2)
    rng = random.Random(3)
    world.trip_ns = lambda: round(trip_s(rng) * 1e9)
    world.connect()
    for _ in range(2 * 3010):
        world.sample(5)
        world.turn()
    trips = [payload for kind, payload in world.host.journal if kind is Kind.TIME]
    asked_s = np.array([int.from_bytes(trip[:8], "little") for trip in trips]) / 1e9
    begins = np.flatnonzero(np.diff(asked_s, prepend=-np.inf) > 10)
    sizes = np.diff(begins)
    assert sizes[0] == first
    assert np.median(sizes[1:]) == later
    apart_s = np.diff(asked_s[begins])
    assert (np.diff(apart_s) > -2).all()
    assert TIME_EVERY_MIN_S <= apart_s[0] <= TIME_EVERY_MIN_S + 1
    due_s = (asked_s[begins[-2]] - asked_s[0]) / TIME_SHARE
    assert due_s - 1 <= apart_s[-1] <= due_s + 1 < TIME_EVERY_MAX_S


@pytest.mark.parametrize("lost_frame", range(11))
def test_a_frame_that_the_radio_loses_is_asked_for_at_once(lost_frame):
    world = World(lost_frame)
    world.connect()
    world.turn()
    for frame in range(12):
        world.loss = 1.0 if frame == lost_frame else 0.0
        world.sample(19)
        world.turn()
    world.loss = 0.0
    world.device.finish()
    for _ in range(5):
        world.turn()
    assert not any(world.check_everything_held_has_arrived().values())


def test_what_the_radio_loses_of_the_backlog_is_asked_for_again_on_the_same_link():
    world = World(3, loss=0.1)
    for _ in range(100):
        world.sample(19)
    world.device.finish()
    world.connect()
    for _ in range(4000):
        world.turn()
    (missing,) = world.check_everything_held_has_arrived().values()
    assert missing == 0
    assert sum(kind is Kind.CONNECTED for kind, _ in world.host.journal) == 1


def requests_for(world):
    """The ranges that are asked for from now on, as they are written."""
    asked, written = [], world.device.written

    def write(uuid, payload):
        if payload[:1] == b"\3":
            first, count = struct.unpack_from("<II", payload, 3)
            asked.append((first, first + count))
        written(uuid, payload)

    world.device.written = write
    return asked


def streaming(frames):
    world = World(4)
    world.connect()
    world.turn()
    asked = requests_for(world)
    for _ in range(frames):
        world.sample(19)
        world.turn()
    return world, asked


def test_what_the_sensor_loses_is_acknowledged_and_not_asked_for_for_ever():
    world, asked = streaming(5)
    world.device.overrun(5)
    world.sample(5 + 19)
    for _ in range(1200):  # two minutes
        world.sample(4)
        world.turn()
        world.host.commit(world.now_ns)
    session = world.device.running
    assert session.watermark > session.closed - 2 * 19
    assert len(asked) <= 2
    assert set(asked) <= {(95, 100)}
    (lost,) = {p for p in world.host.pieces(world.host.journal) if isinstance(p, Lost)}
    assert (lost.first, lost.end, lost.reason) == (95, 100, "overrun")


def test_where_live_cannot_tell_the_wearables_own_word_ends_the_asking():
    """The frame behind the hole is the last one: nothing confirms its index but the wearable."""
    world, asked = streaming(5)
    world.device.overrun(5)
    world.sample(5 + 19)
    world.device.finish()
    for _ in range(1200):
        world.turn()
        world.host.commit(world.now_ns)
    assert world.device.running.watermark == world.device.running.closed == 119
    assert [payload for kind, payload in world.host.journal if kind is Kind.ABSENT] == [
        struct.pack("<BHIIBB", 3, world.device.running.number & 0xFFFF, 95, 5, 0x83, 4)
    ]
    assert len(asked) <= 3


def test_an_overrun_while_nobody_is_connected_is_told_when_it_is_asked_for():
    world = World(5)
    world.sample(38)
    world.device.overrun(5)
    world.sample(5 + 38)
    world.device.finish()
    world.settle()
    assert world.check_everything_held_has_arrived() == {world.device.running.number: 5}
    world.host.commit(world.now_ns)
    world.turn()
    assert world.device.running.watermark == world.device.running.closed == 81


def test_a_range_whose_frames_are_not_closed_yet_is_asked_for_again_and_arrives():
    """Garbage in the index of a Live frame makes a hole that reaches into what is still to be sampled."""
    world, _ = streaming(5)
    world.tamper = once_live(lambda p: changed(p, 8, "<I", 200))
    for _ in range(30):
        world.sample(19)
        world.turn()
        world.host.commit(world.now_ns)
    for _ in range(700):  # the rest after requests that brought nothing
        world.turn()
        world.host.commit(world.now_ns)
    lost = [p for p in world.host.pieces(world.host.journal) if isinstance(p, Lost)]
    assert lost == []
    assert world.device.running.watermark == 35 * 19


def info_of(*sessions):
    """Each (session, end); all of its samples are held, none is acknowledged."""
    head = struct.pack("<BBBBIIQ3bBBBHI", 1, 1, 1, 0, 32768, 500_000, 1, 1, 2, 3, 87, 1, len(sessions), 0, 50_000)
    return head + b"".join(struct.pack("<QIIII", session, 0, end, 0, 0) for session, end in sessions)


def test_a_session_that_is_given_up_while_it_is_asked_for_ends_the_asking():
    conversation, requests = ReferenceConversation({}), []
    config = struct.pack("<BBHIHHff", 1, 19, 0, 50_000, 8, 2000, 0.01, 0.05)
    answers = {1: struct.pack("<HI", 2, 38), 3: bytes(8)}

    def tell(event, at_s):
        for command in conversation.handle(event, at_s * 10**9):
            if isinstance(command, Write):
                op = command.payload[0]
                requests.extend([struct.unpack("<HII", command.payload[1:])] if op == 3 else [])
                tell(Notified(CONTROL, bytes([op | 0x80, 0]) + answers.get(op, b"")), at_s)

    tell(Connected(), 0)
    tell(ReadDone(INFO, info_of((1, 19), (2, 38)), 0), 0)
    tell(ReadDone(CONFIG, config, 0), 0)
    tell(Tick(), 0)
    assert requests == [(1, 0, 19)]
    tell(ReadDone(INFO, info_of((2, 57), (3, 0)), 0), 1)
    tell(Tick(), 60)
    assert requests[1:2] == [(2, 0, 57)]


def test_a_config_that_is_notified_before_info_is_read_starts_nothing_yet():
    conversation = ReferenceConversation({})
    conversation.handle(Connected(), 0)
    config = struct.pack("<BBHIHHff", 1, 19, 0, 50_000, 8, 2000, 0.01, 0.05)
    early = conversation.handle(Notified(CONFIG, config), 0)
    assert not any(isinstance(command, Write) for command in early)
    late = conversation.handle(ReadDone(INFO, info_of((1, 19)), 0), 0)
    assert [command.payload for command in late if isinstance(command, Write)] == [b"\1"]


def once_live(change):
    left = [True]

    def tamper(payload):
        if payload[0] & 15 == 0 and left:
            left.clear()
            return [change(payload)]
        return [payload]

    return tamper


def configured(rate_mhz):
    conversation = ReferenceConversation({})
    conversation.handle(Connected(), 0)
    payload = struct.pack("<BBHIHHff", 1, 19, 0, rate_mhz, 8, 2000, 0.01, 0.1)
    return conversation.handle(ReadDone(CONFIG, payload, 0), 0)


@pytest.mark.parametrize("rate_mhz", [10_000, 26_000, 50_000, 104_000, 1_000_000])
def test_any_rate_that_can_be_resampled_is_taken(rate_mhz):
    assert configured(rate_mhz)[0].kind is Kind.CONFIG


@pytest.mark.parametrize(
    ("rate_mhz", "said"), [(9_999, "9.999 Hz"), (1_000_001, "1000 Hz"), (2**32 - 1, "4.29497e+06 Hz")]
)
def test_a_rate_beyond_that_ends_the_link_with_a_sentence(rate_mhz, said):
    (fault,) = configured(rate_mhz)
    assert fault == Fault("rate", f"the wearable samples at {said}; 10 to 1000 Hz can be resampled", fatal=True)


BACKLOG_FRAMES = 300


def changed(payload, offset, layout, value):
    return payload[:offset] + struct.pack(layout, value) + payload[offset + struct.calcsize(layout) :]


def once(number, change):
    """Changes one of the backlog's frames, the first time that it comes."""
    left = [number]

    def tamper(payload):
        if payload[0] & 15 == 1 and left[0] is not None:
            left[0] -= 1
            if left[0] < 0:
                left[0] = None
                return [change(payload)]
        return [payload]

    return tamper


def twice_but_every_ninth_once(payload):
    """The ninth is lost, so that many requests follow; each frame comes twice, also the last of a request."""
    seq = struct.unpack_from("<H", payload, 4)[0]
    return [] if seq % 9 == 5 and payload[0] & 15 == 1 and seq < BACKLOG_FRAMES else [payload, payload]


TAMPERED = [
    ("each frame comes twice", twice_but_every_ninth_once, set()),
    ("garbage in the index", once(100, lambda p: changed(p, 8, "<I", 4_000_000_000)), {"impossible"}),
    ("garbage in cfg_id", once(100, lambda p: changed(p, 3, "<B", 99)), {"unknown_config"}),
    ("garbage in the flags says last", once(100, lambda p: changed(p, 1, "<B", p[1] | 64)), {"refused"}),
    ("garbage in seq", once(100, lambda p: changed(p, 4, "<H", 40_000)), set()),
    ("cut short", once(100, lambda p: p[:100]), {"malformed"}),
    ("garbage in the session", once(100, lambda p: changed(p, 6, "<H", p[6] ^ 1)), {"unknown_session"}),
]


@pytest.mark.parametrize(("tamper", "faults"), [t[1:] for t in TAMPERED], ids=[t[0] for t in TAMPERED])
def test_garbage_and_repetition_leave_no_hole_and_no_request_hanging(tamper, faults):
    world = World(3)
    for _ in range(BACKLOG_FRAMES):
        world.sample(19)
    world.tamper = tamper
    world.connect()
    credit_max = 0
    for turn in range(200):  # 20 s
        world.turn()
        if turn % 10 == 9:
            world.host.commit(world.now_ns)
        credit_max = max(credit_max, world.device._credit)
    world.device.finish()
    made = BACKLOG_FRAMES * 19
    assert world.host.coverage()[world.device.running.number].ranges == [(0, made)]
    assert world.device.running.watermark == made
    assert {name for name, _ in world.host.faults} - {"duplicate"} == faults
    assert credit_max <= CREDIT_FRAMES
