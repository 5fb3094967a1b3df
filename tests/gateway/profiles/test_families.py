"""What holds for each family: whatever is notified, read or journalled, nothing but a FrameError comes out of its
decoder and nothing at all out of its conversation; what does come out is samples in order, and of the stream behind it
windows of numbers, each once, of which events can be made.
"""

import json
import os
import random
import struct
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.clock import Instant
from gateway.monitoring.drift import DriftSettings
from gateway.motion.samples import Block, Burst, Lost, SessionEnded
from gateway.motion.windows import WindowShape
from gateway.profiles import PROFILES, polar, profile_of, thingy52, witmotion
from gateway.profiles.conversation import (
    Connected,
    Disconnected,
    Fault,
    Kind,
    Notified,
    Observe,
    Read,
    ReadDone,
    Received,
    Retention,
    Tick,
    WakeAt,
    WriteDone,
)
from gateway.profiles.errors import FrameError
from gateway.profiles.reference import BACKLOG, CONFIG, CONTROL, INFO, LIVE, TIME
from gateway.store.rows import JournalRow
from gateway.stream.outcome import EventMaker, Model
from gateway.stream.stream import DriftReady, StateReady, Stream, StreamSettings, WindowReady
from tests.gateway.profiles import test_movesense, test_polar, test_witmotion, test_xsens_dot
from tests.gateway.profiles.rows import BOOT

NOTIFICATIONS = 1_000_000

# Of each family what a sound wearable says: (characteristic, payload).
GOOD = {
    "movesense": [
        *[
            (test_movesense.NOTIFY, part)
            for whole in test_movesense.stream(12)
            for part in test_movesense.split(whole, 60)
        ],
        *[(test_movesense.NOTIFY, whole) for whole in test_movesense.stream(12, 5000)],
        (test_movesense.NOTIFY, b"\1\1\xc8\0"),
        (test_movesense.NOTIFY, b"\1\1\xf7\1"),
    ],
    "polar-verity-sense": [
        *[(polar.CONTROL, event.payload) for event, _ in test_polar.STREAMING],
        *[(polar.DATA, payload) for _, payload, _ in test_polar.two_streams(6)],
        (polar.DATA, test_polar.GYRO_UNIT),
        (polar.DATA, struct.pack("<BQB3f", 5, 10**18, 0x81, 1.0, 2.0, 3.0) + b"\x20\x01" + bytes(12)),
        (polar.DATA, struct.pack("<BQB6h", 2, 10**18, 1, 0, -500, 1000, 1, 2, 3)),
    ],
    "xsens-dot": [(test_xsens_dot.MEDIUM, p) for p in test_xsens_dot.stream(20, 2**32 - 150_000)],
    "witmotion-bwt901ble": [(witmotion.NOTIFY, p) for p in [*test_witmotion.distinct(20), b"\x55\x71" + bytes(18)]],
    "thingy52": [(thingy52.RAW, struct.pack("<9h", *[i] * 9)) for i in range(20)],
    "arduino-nano33-ble-sense": [("555a0011-0000-467a-9538-01f0652c74e8", bytes(12))],
}


SESSIONS = (0x0123_4567_89AB_BEEF, 0x0F0E_0D0C_0B0A_1234)
REFERENCE_CONFIG = struct.pack("<BBHIHHff", 1, 19, 0, 50_000, 8, 2000, 0.01, 0.05)


class ReferenceTalk:
    """What a sound wearable of the reference profile says next: its samples are numbered, so it must go on."""

    def __init__(self, rng):
        self.rng, self.frames, self.session, self.seq = rng, 0, 0, [0, 0]

    def good(self):
        if self.rng.random() < 1e-3:
            self.frames, self.session = 0, 1 - self.session
        self.frames += 1
        live, behind = self.frames - 1, self.rng.randrange(self.frames)
        gap = struct.pack("<BBBBHHIII", 0x12, 0, 0, 1, self.frames % 65536, self._session16, behind * 19, 0, 19)
        answers = [(CONTROL, bytes([op | 0x80, 0]) + bytes(n)) for op, n in ((2, 0), (3, 8), (4, 0))]
        started = struct.pack("<BBHI", 0x81, 0, self._session16, live * 19)
        live_frame, backlog_frame = self._frame(0, live), self._frame(1, behind)
        return [
            *[(LIVE, live_frame)] * 60,
            *[(BACKLOG, backlog_frame)] * 6,
            (BACKLOG, gap),
            (CONTROL, started),
            *answers,
        ]

    def answer(self, uuid):
        number, end = SESSIONS[self.session], self.frames * 19
        info = struct.pack("<BBBBIIQ3bBBBHI", 1, 1, 1, 0, 32768, 500_000, 42, 1, 2, 3, 87, 1, 1, 0, 50_000)
        return {
            INFO: info + struct.pack("<QIIII", number, 0, end, 0, 0),
            CONFIG: REFERENCE_CONFIG,
            TIME: struct.pack("<IHI", end * 655 % 2**32, self._session16, end),
        }.get(uuid, b"")

    @property
    def _session16(self):
        return SESSIONS[self.session] & 0xFFFF

    def _frame(self, kind, number):
        self.seq[kind] = (self.seq[kind] + 1) % 65536
        first = number * 19
        head = struct.pack("<BBBBHHII", 0x10 | kind, 3, 19, 1, self.seq[kind], self._session16, first, first * 655)
        return head + bytes(range(12 * 19))


class Talk:
    """Of any other: one of what it says."""

    def __init__(self, name):
        self._good = GOOD[name]

    def good(self):
        return self._good

    def answer(self, _uuid):
        return None


def mutated(good, rng):
    """A payload of a sound wearable with bits turned, cut off, put in or joined with another's; or any bytes."""
    uuid, payload = rng.choice(good)
    changed = bytearray(payload)
    for _ in range(rng.choice((0, 0, 1, 1, 2, 5))):
        at = rng.randrange(len(changed) + 1)
        match rng.randrange(6):
            case 0 if at < len(changed):
                changed[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(changed):
                changed[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
            case 2:
                del changed[at:]
            case 3:
                changed[at:at] = rng.randbytes(rng.randrange(12))
            case 4:
                changed += rng.choice(good)[1]
            case 5:
                changed = bytearray(rng.randbytes(rng.choice((0, 1, 2, 10, 20, 244, 600))))
    return rng.choice(good)[0] if rng.random() < 0.05 else uuid, bytes(changed)


LABELS = ("sitting", "standing")
MODEL = Model("ab" * 32, "float32", LABELS, 200, 100, 50.0)
ANSWER = np.full(len(LABELS), 0.5, np.float32)


class Suffering:
    """A wearable's conversation, decoder and stream, told whatever comes; checks what they make of it."""

    def __init__(self, name, rng):
        self.profile, self.rng = profile_of(name), rng
        self.talk = ReferenceTalk(rng) if name == "reference" else Talk(name)
        self.conversation, self.decoder = self.profile.conversation({}), self.profile.decoder()
        self.stream = Stream(
            decoder=self.profile.decoder(),
            rate_hz=MODEL.rate_hz,
            native_rate_hz=self.profile.rate_hz,
            sensor_frame=self.profile.sensor_frame,
            shape=WindowShape(MODEL.window, MODEL.hop),
            settings=StreamSettings(),
            drift=DriftSettings(),
            reference={},
            mounting=None,
        )
        self.events = EventMaker("home", "left", None, MODEL, "0" * 12, frame_known=False)
        self.windows = set()
        self.linked = True
        self.sound = 0
        """Notifications that nothing happens to, before the next that something may happen to."""
        self.row, self.now_ns = 0, 0
        self.ends = {}
        self.over = set()
        self.samples = self.refused = 0
        self.tell(Connected())

    def turn(self):
        """One notification, and now and then what else happens."""
        self.now_ns += self.rng.choice((1, 10**6, 2 * 10**7, 10**8, 10**8, 2 * 10**9))
        if not self.linked:
            self.linked = True
            self.tell(Connected())
        self.sound = self.sound - 1 if self.sound else (self.rng.random() < 0.01) * 30
        good = self.talk.good()
        self.tell(Notified(*(self.rng.choice(good) if self.sound else mutated(good, self.rng))))
        if self.rng.random() < 0.02:
            uuid, payload = mutated(self.talk.good(), self.rng)
            read = ReadDone(uuid, payload, self.now_ns)
            self.tell(self.rng.choice((Tick(), Tick(), Connected(), Disconnected(), read, WriteDone(uuid))))
            self.journal(self.rng.choice(list(Kind)), payload)
        if self.rng.random() < 0.01:
            self.decoder = self.profile.decoder(json.loads(json.dumps(self.decoder.state())))

    def tell(self, event):
        for command in self.conversation.handle(event, self.now_ns):
            match command:
                case Observe(kind, payload):
                    self.journal(kind, payload)
                case WakeAt(mono_ns):
                    assert mono_ns >= self.now_ns
                case Read(uuid) if self.talk.answer(uuid) is not None:
                    good = [(uuid, self.talk.answer(uuid))]
                    payload = mutated(good, self.rng)[1] if self.rng.random() < 0.1 else good[0][1]
                    self.tell(ReadDone(uuid, payload, self.now_ns))
                case Fault(name, detail, fatal):
                    assert name
                    assert detail
                    if fatal:  # the link is ended
                        self.linked = False
                        self.tell(Disconnected())
                        return

    def journal(self, kind, payload):
        self.row += 1
        for output in self.stream.advance(
            JournalRow(self.row, "left", kind, payload, Instant(BOOT, self.now_ns, 1_700_000_000 * 10**9, True))
        ):
            self.check_output(output)
        try:
            pieces = self.decoder.decode(kind, payload, Received(self.row, BOOT, self.now_ns))
        except FrameError:
            self.refused += 1
            return
        for piece in pieces:
            self.check(piece)

    def check_output(self, output):
        match output:
            case WindowReady(session, number, values):
                assert values.shape == (MODEL.window, 6)
                assert values.dtype == np.float32
                assert np.isfinite(values).all()
                assert (session, number) not in self.windows
                self.windows.add((session, number))
                self.events.prediction(output, self.events.answer(ANSWER))
            case DriftReady():
                self.events.drift(output)
            case StateReady():
                self.events.state(output, self.stream.counters)

    def check(self, piece):
        """Indices go on without holes or overlaps, times ascend, values are numbers, and no session comes back. Blocks
        carry their indices, in whatever order they come.
        """
        match piece:
            case Block(_, first, _, values):
                assert first >= 0
                assert values.dtype == np.float32
                assert values.shape == (len(values), 6)
                assert np.isfinite(values).all()
                self.samples += len(values)
            case Lost(_, first, end) if self.profile.retention is Retention.RING:
                assert 0 <= first < end
            case Burst(session, sensor, first, taken_ns, values):
                end, last_ns = self.ends.get((session, sensor), (0, None))
                assert session not in self.over
                assert first == end
                assert len(taken_ns) == len(values) > 0
                assert taken_ns.dtype == np.int64
                assert values.dtype == np.float32
                assert values.shape[1] == (sensor.columns.stop - sensor.columns.start)
                assert (np.diff(taken_ns) > 0).all()
                assert last_ns is None or taken_ns[0] > last_ns
                assert np.isfinite(values).all()
                self.ends[session, sensor] = first + len(values), taken_ns[-1]
                self.samples += len(values)
            case Lost(session, first, end, reason, sensor):
                known, last_ns = self.ends.get((session, sensor), (0, None))
                assert known == first < end
                assert reason == "radio"
                self.ends[session, sensor] = end, last_ns
            case SessionEnded(session):
                assert session not in self.over
                self.over.add(session)
                self.ends = {key: value for key, value in self.ends.items() if key[0] != session}


def test_every_family_that_streams_is_here():
    assert set(GOOD) == set(PROFILES) - {"reference"}
    assert all(profile_of(name).retention is Retention.NONE for name in GOOD)


@pytest.mark.parametrize("name", PROFILES)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**64), turns=st.integers(1, 60))
def test_whatever_is_notified_nothing_breaks(name, seed, turns):
    suffering = Suffering(name, random.Random(seed))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(turns):
            suffering.turn()


@pytest.mark.parametrize("name", GOOD)
@given(kind=st.sampled_from(list(Kind)), payload=st.binary(max_size=600))
def test_no_row_raises_anything_but_a_frame_error(name, kind, payload):
    try:
        profile_of(name).decoder().decode(kind, payload, Received(1, BOOT, 0))
    except FrameError:
        pass


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", PROFILES)
def test_a_million_mutated_notifications_break_nothing(name):
    seed = int(os.environ.get("FIDGET_SEED", 1000))
    suffering = Suffering(name, random.Random(seed))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(NOTIFICATIONS):
            suffering.turn()
    made = f"{suffering.samples} samples, {len(suffering.windows)} windows, {suffering.refused} rows refused"
    print(f"{name}, seed {seed}: {made}")
    assert suffering.samples > NOTIFICATIONS / 100 or name.startswith("arduino")
    assert suffering.windows or name != "reference"  # what the others say is not one stream
