"""Each family's conversation and decoder against the simulator's wearable of it.

Its encoder shares nothing with them.
"""

from collections import deque

import numpy as np
import pytest

from firmware_sim.families import FAMILIES
from firmware_sim.families.streaming import Settings
from firmware_sim.protocol import Property
from gateway.motion.samples import Burst, DeviceDetail, Lost, Sensor, SessionEnded
from gateway.profiles import details, profile_of
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
    Subscribe,
    Tick,
    WakeAt,
    Write,
    WriteDone,
)
from gateway.profiles.errors import FrameError

STREAMS = [name for name in FAMILIES if not name.startswith("arduino")]
STEP_NS = 30_000_000
"""A connection interval."""


class Link:
    """A wearable that is worn, and a gateway beside it; what is notified may be lost on the way."""

    def __init__(self, name, clock_ns=0):
        self.profile, self.device = profile_of(name), FAMILIES[name](Settings(serial=7, clock_ns=clock_ns))
        self.conversation, self.decoder = details.with_details(self.profile.conversation({})), self.profile.decoder()
        self.now_ns = self.row = 0
        self.wake_ns = None
        self.operations = deque()
        self.taken, self.pieces, self.details, self.faults, self.refused = [], [], [], [], []
        self.rng = np.random.default_rng(3)

    def connect(self):
        self.device.link_up()
        self.tell(Connected(-60))

    def disconnect(self):
        self.device.disconnected()
        self.operations.clear()
        self.tell(Disconnected())

    def tell(self, event):
        for command in self.conversation.handle(event, self.now_ns):
            match command:
                case Observe(Kind.DETAIL, payload):
                    self.details += details.decode(payload)
                case Observe(kind, payload):
                    self.journal(kind, payload)
                case Fault():
                    self.faults.append(command)
                case WakeAt(mono_ns):
                    self.wake_ns = mono_ns
                case _:
                    self.operations.append(command)

    def journal(self, kind, payload):
        self.row += 1
        try:
            self.pieces += self.decoder.decode(kind, payload, Received(self.row, "boot", self.now_ns))
        except FrameError as error:
            self.refused.append(str(error))

    def operate(self):
        """One GATT operation an interval."""
        if not self.operations:
            return
        known = {uuid: p for service in self.device.services for uuid, p in service.characteristics.items()}
        match self.operations.popleft():
            case Subscribe(uuid, optional):
                assert optional or known[uuid] & (Property.NOTIFY | Property.INDICATE)
                if uuid in known:
                    self.device.subscribed(uuid, True)
            case Read(uuid, optional):
                assert optional or uuid in known
                if uuid in known:
                    self.tell(ReadDone(uuid, self.device.read(uuid, self.now_ns), self.now_ns))
            case Write(uuid, payload):
                self.device.written(uuid, payload)
                self.tell(WriteDone(uuid))

    def run(self, seconds, loss=lambda: False):
        for _ in range(round(seconds * 1e9 / STEP_NS)):
            self.now_ns += STEP_NS
            self.operate()
            n = self.device.samples_due(self.now_ns) - self.device.made
            self.taken += self.device.measure(self.rng.uniform(-15, 15, (n, 6)).astype(np.float32))
            if self.wake_ns is not None and self.wake_ns <= self.now_ns:
                self.wake_ns = None
                self.tell(Tick())
            for of in (self.device.next_indication, self.device.next_notification):
                while (said := of()) is not None:
                    if not loss():
                        self.tell(Notified(*said))

    def truth(self, columns):
        taken = [t for t in self.taken if t.columns == columns]
        return np.concatenate([t.taken_ns for t in taken]), np.concatenate([t.values for t in taken])

    @property
    def sensors(self):
        """The columns of each stream, and what the gateway calls it."""
        columns = self.device.sensors
        return zip(columns, [Sensor.IMU] if len(columns) == 1 else [Sensor.ACC, Sensor.GYRO], strict=True)

    def told(self, sensor):
        bursts = [p for p in self.pieces if isinstance(p, Burst) and p.sensor is sensor]
        index = [np.arange(b.first, b.first + len(b.values)) for b in bursts]
        parts = (index, [b.taken_ns for b in bursts], [b.values for b in bursts])
        return [np.concatenate(part) for part in parts]


@pytest.mark.parametrize("name", STREAMS)
def test_what_the_wearable_measured_arrives_in_si_units_and_in_its_time(name):
    link = Link(name, clock_ns=(2**32 - 20_000) * 1000)  # µs wrap after 20 ms; ms do not here
    link.connect()
    link.run(60)
    assert link.faults == link.refused == []
    assert not any(isinstance(p, Lost | SessionEnded) for p in link.pieces)
    offsets_ns = []
    for columns, sensor in link.sensors:
        truth_ns, truth = link.truth(columns)
        index, taken_ns, values = link.told(sensor)
        assert index.tolist() == list(range(len(index)))
        assert len(truth) - len(index) < 2 * link.profile.rate_hz
        assert values == pytest.approx(truth[: len(values)], abs=2e-5)
        off_ns = taken_ns - truth_ns[: len(values)]
        assert np.ptp(off_ns[1000:]) < 0.7e6  # a stamp of 1 ms is the coarsest
        offsets_ns.append(off_ns[1000:].mean())
    assert np.ptp(offsets_ns) < 1e5  # both sensors by one clock
    assert abs(offsets_ns[0]) < 50e6  # which begins with the first sample that came


@pytest.mark.parametrize("name", STREAMS)
def test_its_details_are_told(name):
    link = Link(name)
    link.connect()
    link.run(2)
    told = {}
    for detail in link.details:
        told |= {key: value for key in DeviceDetail.__slots__ if (value := getattr(detail, key)) is not None}
    device = FAMILIES[name]
    assert told == {
        "rssi_dbm": -60,
        "manufacturer": device.manufacturer,
        "model": device.model,
        "firmware": device.firmware,
        "serial": "0000000000000007",
        "battery_percent": 100,
    }


@pytest.mark.parametrize("name", STREAMS)
def test_a_second_link_is_a_session_of_its_own_that_counts_from_0(name):
    link = Link(name)
    for _ in range(2):
        link.connect()
        link.run(10)
        link.disconnect()
        link.run(3)
    sessions = list(dict.fromkeys(p.session for p in link.pieces if isinstance(p, Burst)))
    assert [p.session for p in link.pieces if isinstance(p, SessionEnded)] == sessions
    assert len(sessions) == 2
    firsts = [next(p.first for p in link.pieces if isinstance(p, Burst) and p.session == s) for s in sessions]
    assert firsts == [0, 0]


@pytest.mark.parametrize("name", ["movesense", "polar-verity-sense", "xsens-dot"])
def test_with_stamps_every_lost_sample_is_counted_where_it_was(name):
    """All but those after the last frame that came, of which nothing can tell."""
    link = Link(name)
    link.connect()
    link.run(5)
    rng = np.random.default_rng(11)
    link.run(60, loss=lambda: rng.random() < 0.1)
    assert any(isinstance(p, Lost) for p in link.pieces)
    for columns, sensor in link.sensors:
        _, truth = link.truth(columns)
        index, _, values = link.told(sensor)
        assert values == pytest.approx(truth[index], abs=2e-5)
        lost = {i for p in link.pieces if isinstance(p, Lost) and p.sensor is sensor for i in range(p.first, p.end)}
        assert lost | set(index.tolist()) == set(range(int(index[-1]) + 1))


@pytest.mark.parametrize("name", ["witmotion-bwt901ble", "thingy52"])
def test_without_stamps_a_second_of_loss_is_estimated(name):
    link = Link(name)
    link.connect()
    link.run(20)
    link.run(2, loss=lambda: True)
    link.run(20)
    (lost,) = [p for p in link.pieces if isinstance(p, Lost)]
    assert lost.estimated
    assert lost.end - lost.first == pytest.approx(100, abs=5)
    assert abs(link.told(Sensor.IMU)[0][-1] - len(link.truth(slice(0, 6))[0])) < 8


@pytest.mark.parametrize("step_s", [-30, 100])
@pytest.mark.parametrize("name", ["movesense", "polar-verity-sense", "xsens-dot"])
def test_a_step_of_its_clock_ends_the_session(name, step_s):
    link = Link(name, clock_ns=100 * 10**9)
    link.connect()
    link.run(10)
    link.device.step_clock(step_s)
    link.run(10)
    assert len([p for p in link.pieces if isinstance(p, SessionEnded)]) == 1
    assert link.faults == []
    assert all("of the time before its clock stepped" in words for words in link.refused)
    assert len(link.refused) <= 1
