"""The reference conversation against the simulated firmware, through a radio that loses, a host that crashes.

The firmware has an encoder of its own and knows nothing of the gateway. What the wearable still holds must reach the
journal whatever happens, and what it was told to erase must be in the journal.
"""

import random
from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_sim.device import Device, Settings
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
from gateway.profiles.reference import (
    CREDIT_FRAMES,
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
        decoder = ReferenceDecoder()
        return [piece for kind, payload in rows for piece in decoder.decode(kind, payload)]

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
                    self.host.handle(ReadDone(uuid, payload, self.now_ns), self.now_ns)
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
            if self.rng.random() >= self.loss:
                self.host.handle(Notified(*notification), self.now_ns)
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


def test_a_clock_is_read_in_bursts_every_few_minutes():
    world = World(2)
    world.connect()
    for _ in range(2 * 3010):
        world.sample(5)
        world.turn()
    assert sum(kind is Kind.TIME for kind, _ in world.host.journal) == 3 * 8


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
