"""A host without a radio: one simulated device, its profile's conversation and the stream, joined call by call."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from firmware_sim.protocol import SimulatedDevice
from firmware_sim.truth import Truth
from gateway.clock import Instant
from gateway.monitoring.drift import DriftSettings
from gateway.motion.windows import WindowShape
from gateway.profiles import profile_of
from gateway.profiles.conversation import (
    Command,
    Connected,
    Disconnected,
    Event,
    Kind,
    Notified,
    Observe,
    Read,
    ReadDone,
    Subscribe,
    Tick,
    WakeAt,
    Write,
    WriteDone,
)
from gateway.store.rows import JournalRow
from gateway.stream.stream import Stream, StreamSettings, WindowReady

STEP_NS = 20_000_000


class Host:
    """Time passes in steps of 20 ms; what the device sends in one is there in the same."""

    def __init__(self, profile: str, device: SimulatedDevice, truth: Path) -> None:
        self.device = device
        self.truth = Truth(truth, device.sensors)
        self.windows: dict[int, WindowReady] = {}
        self.faults: list[str] = []
        self.rows: list[JournalRow] = []
        """The journal."""
        self._profile = profile_of(profile)
        self._conversation = self._profile.conversation({})
        self._wake_ns: int | None = None
        self.now_ns, self._row = 10**12, 0
        self.stream = Stream(
            decoder=self._profile.decoder(),
            rate_hz=50.0,
            native_rate_hz=self._profile.rate_hz,
            shape=WindowShape(200, 100),
            settings=StreamSettings(),
            drift=DriftSettings(),
            reference={},
            mounting=np.eye(3, dtype=np.float32),
        )

    def connect(self) -> None:
        self.device.link_up()
        self._tell(Connected())

    def lose_link(self) -> None:
        self.device.disconnected()
        self._tell(Disconnected())

    def play(self, values: np.ndarray) -> None:
        """values: at the device's rate. Then there are no more."""
        began_ns = self.now_ns
        while self.device.made < len(values):
            due = min(self.device.samples_due(self.now_ns - began_ns), len(values))
            for taken in self.device.measure(values[self.device.made : due]):
                self.truth.add(taken)
            self._carry()
            self.now_ns += STEP_NS
            if self._wake_ns is not None and self._wake_ns <= self.now_ns:
                self._wake_ns = None
                self._tell(Tick())
        self.device.finish()
        self._carry()
        self.truth.close()

    def _carry(self) -> None:
        for uuid, payload in self._out():
            self._tell(Notified(uuid, payload))

    def _out(self) -> Iterator[tuple[str, bytes]]:
        while (sent := self.device.next_indication() or self.device.next_notification()) is not None:
            yield sent

    def _tell(self, event: Event) -> None:
        for command in self._conversation.handle(event, self.now_ns):
            self._obey(command)

    def _obey(self, command: Command) -> None:
        match command:
            case Subscribe(uuid):
                self.device.subscribed(uuid, True)
            case Write(uuid, payload):
                self.device.written(uuid, payload)
                self._tell(WriteDone(uuid))
            case Read(uuid):
                self._tell(ReadDone(uuid, self.device.read(uuid, self.now_ns), self.now_ns))
            case Observe(kind, payload):
                self._journal(kind, payload)
            case WakeAt(mono_ns):
                self._wake_ns = mono_ns
            case fault:
                self.faults.append(str(fault))

    def _journal(self, kind: Kind, payload: bytes) -> None:
        self._row += 1
        row = JournalRow(self._row, "left", kind, payload, Instant("boot", self.now_ns, self.now_ns, True))
        self.rows.append(row)
        for output in self.stream.advance(row):
            if isinstance(output, WindowReady):
                assert output.number not in self.windows
                self.windows[output.number] = output
