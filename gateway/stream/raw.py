"""A wearable's samples as it sent them, each once, from its journal rows; pure, as the stream is.

Units are those of motion, axes the sensor's own: nothing is resampled, turned or filled.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from gateway.motion.clockfit import ClockFit, TickCount
from gateway.motion.samples import Block, Burst, Coverage, Float32, Int64, Sensor, TimeRead
from gateway.profiles.conversation import Kind, Profile, Received, Retention
from gateway.profiles.errors import FrameError
from gateway.store.rows import JournalRow
from gateway.stream.stream import decoder_state

PARTS_MAX = 4096
"""That wait until the device's clock is known; minutes of one wearable."""


@dataclass(frozen=True, slots=True, eq=False)
class Raw:
    """Consecutive samples of one sensor of one session: first is the index of the first, as the wearable counts.

    device_ns: (n,) since the session's origin, by the device's clock. taken_mono_ns: (n,), when they were taken on the
    monotonic clock of the boot, below 0 where that was before it; uncertainty_ns: how far off that may be; None where
    the device's clock was never known. values: (n, 6) or (n, 3), as sensor says, m/s² and deg/s.
    """

    session: int
    sensor: Sensor
    first: int
    device_ns: Int64
    values: Float32
    saturated: bool
    boot_id: str
    taken_mono_ns: Int64 | None = None
    uncertainty_ns: int = 0


@dataclass(slots=True)
class _Session:
    ticks: TickCount
    clock: ClockFit = field(default_factory=ClockFit)
    covered: dict[Sensor, Coverage] = field(default_factory=dict)
    waiting: list[Raw] = field(default_factory=list)


def resumed(profile: Profile, snapshot: bytes) -> dict[str, object] | None:
    """The decoder's state for rows before the one that the snapshot was taken after; None: none that would do.

    What a wearable with a ring says of itself (sessions, scales) holds for its earlier frames too. Of other families
    the decoder counts samples itself, from the beginning of the link on.
    """
    if not snapshot or profile.retention is not Retention.RING:
        return None
    return {**decoder_state(snapshot), "live": []}


class RawReader:
    """profile: the wearable's. snapshot: its stream's, or empty. Rows are to come in order, from the first that is
    kept.

    frames_left_out: they are not of the family, or what they belong to began before the first row.
    """

    def __init__(self, profile: Profile, snapshot: bytes = b"") -> None:
        state = resumed(profile, snapshot)
        self._decoder, self._rate_hz = profile.decoder(state), profile.rate_hz
        self._begun = profile.retention is Retention.RING
        """Frames can be decoded; those of other families from the beginning of a link on."""
        self._sessions: dict[int, _Session] = {}
        self._boot_id = ""
        self.frames_left_out = 0

    def advance(self, row: JournalRow) -> list[Raw]:
        """Samples that are new; their time may take some rows to be known."""
        out: list[Raw] = []
        if row.at.boot_id != self._boot_id:
            out += self._all_waiting()
            self._boot_id = row.at.boot_id
            for session in self._sessions.values():
                session.clock = ClockFit()
        kind = Kind(row.kind)
        self._begun = self._begun or kind is Kind.CONNECTED
        if kind in (Kind.DETAIL, Kind.PASSED):
            return out
        if not self._begun:
            self.frames_left_out += kind is Kind.FRAME
            return out
        try:
            pieces = self._decoder.decode(kind, row.payload, Received(row.row, row.at.boot_id, row.at.mono_ns))
        except FrameError:
            self.frames_left_out += kind is Kind.FRAME
            return out
        for piece in pieces:
            match piece:
                case Block(number, first, tick, values, saturated, rate_hz):
                    session = self._session(number)
                    session.ticks.rate_hz = rate_hz
                    session.ticks.seen(first, tick)
                    begin_ns, end_ns = session.ticks.at(first), session.ticks.at(first + len(values) - 1)
                    taken_ns = np.rint(np.linspace(begin_ns, end_ns, len(values))).astype(np.int64)
                    raw = Raw(number, Sensor.IMU, first, taken_ns, values, saturated, self._boot_id)
                    out += self._new(session, raw)
                case Burst(number, sensor, first, taken_ns, values, saturated, came_ns):
                    session = self._session(number)
                    if came_ns is None:
                        session.clock.arrived(int(taken_ns[-1]), row.at.mono_ns)
                    else:
                        session.clock.arrived_each(taken_ns, came_ns)
                    out += self._new(session, Raw(number, sensor, first, taken_ns, values, saturated, self._boot_id))
                case TimeRead(number, tick, tick_hz, next_index, started_ns, ended_ns):
                    session = self._session(number)
                    session.clock.asked(session.ticks.read(tick, tick_hz, next_index), started_ns, ended_ns)
                case _:
                    pass
        return out

    def finish(self) -> list[Raw]:
        """What still waited."""
        return list(self._all_waiting())

    def _session(self, number: int) -> _Session:
        return self._sessions.setdefault(number, _Session(TickCount(self._rate_hz)))

    def _new(self, session: _Session, raw: Raw) -> list[Raw]:
        """Those that no earlier row had, with their times, behind those that waited for the clock."""
        covered = session.covered.setdefault(raw.sensor, Coverage())
        for low, high in covered.missing(raw.first, raw.first + len(raw.values)):
            part = slice(low - raw.first, high - raw.first)
            session.waiting.append(
                Raw(raw.session, raw.sensor, low, raw.device_ns[part], raw.values[part], raw.saturated, raw.boot_id)
            )
        covered.add(raw.first, raw.first + len(raw.values))
        known = session.clock.label(int(raw.device_ns[0])) is not None
        return list(_timed(session)) if known or len(session.waiting) > PARTS_MAX else []

    def _all_waiting(self) -> Iterator[Raw]:
        for session in self._sessions.values():
            yield from _timed(session)


def _timed(session: _Session) -> Iterator[Raw]:
    """All that waits; a label moves with device time along a line."""
    for raw in session.waiting:
        ends_ns = raw.device_ns[[0, -1]]
        labels = [session.clock.label(int(ns)) for ns in ends_ns]
        if labels[0] is None or labels[1] is None:
            yield raw
            continue
        mono_ns = [label.mono_ns for label in labels if label is not None]
        taken_ns = mono_ns[0] + np.rint(
            (raw.device_ns - ends_ns[0]) * ((mono_ns[1] - mono_ns[0]) / max(1, int(ends_ns[1] - ends_ns[0])))
        ).astype(np.int64)
        yield Raw(
            raw.session,
            raw.sensor,
            raw.first,
            raw.device_ns,
            raw.values,
            raw.saturated,
            raw.boot_id,
            taken_ns,
            max(label.uncertainty_ns for label in labels if label is not None),
        )
    session.waiting.clear()
