"""One wearable's path, pure: journal rows in; windows to infer, states, drift periods and acknowledgements out.

Everything here is a function of the snapshot and the journal rows since; time is what the rows carry. The same rows
give the same outputs, so a crash costs nothing but doing it again, and Progress tells what was committed already.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from gateway.clock import Instant
from gateway.monitoring.drift import DriftPeriod, DriftSettings, DriftSummary, Reference
from gateway.monitoring.features import window_features
from gateway.motion.axes import axes_from_directions, rotate
from gateway.motion.clockfit import ClockFit, Label
from gateway.motion.samples import Block, Coverage, DeviceStatus, Float32, Lost, Piece, SessionHeld, TimeRead
from gateway.motion.windows import SessionWindows, Window, WindowShape
from gateway.profiles.conversation import Decoder, Kind
from gateway.profiles.errors import FrameError
from gateway.store.rows import JournalRow
from gateway.stream.progress import Progress

SNAPSHOT_VERSION = 1
SESSIONS_MAX = 16
"""Ended sessions that are remembered; a wearable's ring tells of at most 8."""


class StreamSettings(BaseModel):
    """backlog_wait_s: after so long a hole is given up. interpolate_samples_max: longer losses break a window."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backlog_wait_s: float = Field(86400.0, gt=0)
    interpolate_samples_max: int = Field(5, ge=0, le=50)
    reorder_samples_max: int = Field(200_000, ge=10_000)
    """Samples held beyond holes; above it the oldest hole is given up. 200,000 are 67 minutes, 5 MB."""
    snapshot_rows: int = Field(1000, ge=1)
    """A snapshot every so many journal rows: what is derived again after a crash, at most."""


@dataclass(frozen=True, slots=True, eq=False)
class WindowReady:
    """values: (length, 6) float32, model frame where the mounting is known. taken: of its first sample."""

    session: int
    number: int
    values: Float32
    interpolated: int
    saturated: bool
    taken: Label | None
    at: Instant


@dataclass(frozen=True, slots=True, eq=False)
class DriftReady:
    session: int
    number: int
    summary: DriftSummary
    at: Instant


@dataclass(frozen=True, slots=True)
class StateReady:
    """The wearable connected (and said what it is) or went away."""

    row: int
    connected: bool
    device: DeviceStatus | None
    at: Instant


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """Once this row is durable, so is every sample of the session below index, as far as it exists."""

    row: int
    session: int
    index: int


Output = WindowReady | DriftReady | StateReady | Acknowledge


@dataclass(slots=True)
class Counters:
    """Since the store began, for this wearable; windows and samples."""

    samples: int = 0
    windows: int = 0
    interpolated: int = 0
    broken: int = 0
    lost_samples: int = 0
    malformed: int = 0


@dataclass(slots=True)
class _Session:
    windows: SessionWindows
    clock: ClockFit
    periods: dict[int, DriftPeriod] = field(default_factory=dict)
    waiting_ns: dict[int, int] = field(default_factory=dict)
    """Holes, by their first sample, and when they were first seen in the stream's own time."""
    end: int | None = None
    """One past the last sample that it will ever have; None while it runs."""
    acknowledged: int = 0
    done: bool = False


class Stream:
    """mounting: (3, 3) from the wearable's case to the model's frame, None where it is unknown."""

    def __init__(
        self,
        *,
        decoder: Decoder,
        rate_hz: float,
        shape: WindowShape,
        settings: StreamSettings,
        drift: DriftSettings,
        reference: Mapping[str, Reference],
        mounting: Float32 | None,
        progress: Progress | None = None,
    ) -> None:
        self._decoder = decoder
        self._rate_hz, self._shape, self._settings, self._drift = rate_hz, shape, settings, drift
        self._mounting, self._reference = mounting, reference
        self._progress = progress or Progress()
        self._sessions: dict[int, _Session] = {}
        self._boot_id, self._mono_ns = "", 0
        self._elapsed_ns = 0
        self.row = 0
        self.counters = Counters()
        self.device: DeviceStatus | None = None

    # In.

    def advance(self, row: JournalRow) -> list[Output]:
        """Takes the next journal row. A row that its profile refuses is counted, never fatal."""
        self._pass_time(row.at)
        self.row = row.row
        kind = Kind(row.kind)
        try:
            pieces = self._decoder.decode(kind, row.payload)
        except FrameError:
            self.counters.malformed += 1
            return []
        outputs: list[Output] = []
        for piece in pieces:
            outputs += self._take(piece, row.at)
        if kind is Kind.INFO:
            outputs += self._retire({p.session for p in pieces if isinstance(p, SessionHeld)}, row.at)
        outputs += self._give_up(row.at)
        if kind in (Kind.INFO, Kind.DISCONNECTED) and row.row > self._progress.state_row:
            outputs.append(StateReady(row.row, kind is Kind.INFO, self.device, row.at))
        return outputs + self._acknowledge(row.row)

    def _pass_time(self, at: Instant) -> None:
        """The stream's own time is what one boot's rows show of monotonic time; that between boots is unknown."""
        if at.boot_id == self._boot_id:
            self._elapsed_ns += max(0, at.mono_ns - self._mono_ns)
        else:
            for session in self._sessions.values():
                session.clock = ClockFit(self._rate_hz)
        self._boot_id, self._mono_ns = at.boot_id, at.mono_ns

    def _take(self, piece: Piece, at: Instant) -> list[Output]:
        if isinstance(piece, DeviceStatus):
            self.device = piece
            return []
        session = self._session(piece.session)
        if session.done:
            return []
        match piece:
            case Block(number, first, tick, values, saturated):
                session.clock.seen(first, tick)
                new = session.windows.covered.missing(first, first + len(values))
                self.counters.samples += sum(high - low for low, high in new)
                return self._settled(number, session.windows.add(first, values, saturated), at)
            case Lost(number, first, end):
                return self._lose(number, first, end, at)
            case SessionHeld(number, first, end, running):
                session.end = None if running else end
                return self._lose(number, 0, first, at)
            case TimeRead():
                session.clock.read(piece)
        return []

    def _session(self, number: int) -> _Session:
        if number not in self._sessions:
            windows = SessionWindows(self._shape, self._settings.interpolate_samples_max)
            self._sessions[number] = _Session(windows, ClockFit(self._rate_hz))
            ended = [n for n, s in self._sessions.items() if s.done]
            for old in ended[: max(0, len(self._sessions) - SESSIONS_MAX)]:
                del self._sessions[old]
        return self._sessions[number]

    def _lose(self, number: int, first: int, end: int, at: Instant) -> list[Output]:
        windows = self._sessions[number].windows
        self.counters.lost_samples += sum(high - low for low, high in windows.covered.missing(first, end))
        return self._settled(number, windows.lose(first, end), at)

    def _retire(self, listed: set[int], at: Instant) -> list[Output]:
        """What the wearable no longer holds is lost; a session that has ended and is complete is done."""
        outputs: list[Output] = []
        for number, session in self._sessions.items():
            if session.done:
                continue
            if number not in listed:
                ranges = session.windows.covered.ranges
                session.end = ranges[-1][1] if ranges else 0
                outputs += self._lose(number, 0, session.end, at)
            outputs += self._finish(number, session, at)
        return outputs

    def _finish(self, number: int, session: _Session, at: Instant) -> list[Output]:
        if session.done or session.end is None or session.windows.watermark < session.end:
            return []
        session.done = True
        session.windows.close()
        return [output for p in sorted(session.periods) for output in self._close_period(number, session, p, at)]

    def _give_up(self, at: Instant) -> list[Output]:
        """Holes that have waited too long, or that hold back more than may be buffered, are lost."""
        outputs: list[Output] = []
        for number, session in self._sessions.items():
            holes = session.windows.holes() if not session.done else []
            if not holes:
                session.waiting_ns.clear()
                continue
            session.waiting_ns = {low: session.waiting_ns.get(low, self._elapsed_ns) for low, _ in holes}
            limit_ns = self._elapsed_ns - int(self._settings.backlog_wait_s * 1e9)
            for low, high in holes:
                if session.waiting_ns[low] <= limit_ns or session.windows.buffered > self._settings.reorder_samples_max:
                    outputs += self._lose(number, low, high, at)
        return outputs

    # Out.

    def _settled(self, number: int, answers: list[Any], at: Instant) -> list[Output]:
        session = self._sessions[number]
        outputs: list[Output] = []
        for answer in answers:
            if not isinstance(answer, Window):
                self.counters.broken += answer.end - answer.first
                continue
            values = self._rotated(answer.values)
            period = self._period_of(answer.number)
            session.periods.setdefault(period, DriftPeriod(self._drift)).add(window_features(values))
            self.counters.windows += 1
            self.counters.interpolated += answer.interpolated
            if self._progress.has_window(number, answer.number):
                continue
            taken = session.clock.label(answer.number * self._shape.hop)
            outputs.append(WindowReady(number, answer.number, values, answer.interpolated, answer.saturated, taken, at))
        final = session.windows.final.contiguous_end(0)
        for period in sorted(session.periods):
            if self._period_of(final) > period:
                outputs += self._close_period(number, session, period, at)
        return outputs + self._finish(number, session, at)

    def _rotated(self, values: Float32) -> Float32:
        if self._mounting is None:
            return values
        directions = (1, 2, 3) if self.device is None else self.device.sensor_frame
        return rotate(values, self._mounting @ axes_from_directions(directions))

    def _period_of(self, window: int) -> int:
        return int(window * self._shape.hop / self._rate_hz // self._drift.period_s)

    def _close_period(self, number: int, session: _Session, period: int, at: Instant) -> list[Output]:
        summary = session.periods.pop(period).summary(period * self._drift.period_s, self._reference)
        return [] if self._progress.has_period(number, period) else [DriftReady(number, period, summary, at)]

    def _acknowledge(self, row: int) -> list[Output]:
        outputs: list[Output] = []
        for number, session in self._sessions.items():
            if session.windows.watermark > session.acknowledged:
                session.acknowledged = session.windows.watermark
                outputs.append(Acknowledge(row, number, session.acknowledged))
        return outputs

    def coverage(self) -> dict[int, Coverage]:
        """For each session the samples that the journal holds or that are lost."""
        return {number: session.windows.covered.copy() for number, session in self._sessions.items()}

    # Snapshot.

    def snapshot(self) -> bytes:
        """The state after the last row, as JSON. Progress is not in it: what has gone out by then is final in it."""
        sessions = [
            {
                "session": number,
                "windows": s.windows.state(),
                "clock": s.clock.state(),
                "periods": {str(n): p.state() for n, p in s.periods.items()},
                "waiting_ns": {str(k): v for k, v in s.waiting_ns.items()},
                "end": s.end,
                "acknowledged": s.acknowledged,
                "done": s.done,
            }
            for number, s in self._sessions.items()
        ]
        device = self.device
        state = {
            "shape": [
                self._shape.length,
                self._shape.hop,
                self._settings.interpolate_samples_max,
                self._drift.period_s,
            ],
            "decoder": self._decoder.state(),
            "boot_id": self._boot_id,
            "mono_ns": self._mono_ns,
            "elapsed_ns": self._elapsed_ns,
            "counters": asdict(self.counters),
            "device": device and asdict(device),
            "sessions": sessions,
        }
        return json.dumps(state, separators=(",", ":")).encode()

    def restore(self, row: int, payload: bytes) -> None:
        """Takes up a snapshot; the decoder is the caller's to restore (decoder_state).

        Where the windows' shape has changed since (another model), windows begin anew behind the newest sample.
        """
        state = json.loads(payload)
        shape = [self._shape.length, self._shape.hop, self._settings.interpolate_samples_max, self._drift.period_s]
        self.row = row
        self._boot_id, self._mono_ns, self._elapsed_ns = state["boot_id"], state["mono_ns"], state["elapsed_ns"]
        self.counters = Counters(**state["counters"])
        self.device = None
        if state["device"] is not None:
            frame = tuple(state["device"].pop("sensor_frame"))
            self.device = DeviceStatus(**state["device"], sensor_frame=frame)
        for s in state["sessions"]:
            if shape == state["shape"]:
                windows = SessionWindows.restore(self._shape, self._settings.interpolate_samples_max, s["windows"])
                periods = {int(n): DriftPeriod.restore(self._drift, p) for n, p in s["periods"].items()}
            else:
                covered = Coverage.of(s["windows"]["covered"])
                newest = covered.ranges[-1][1] if covered.ranges else 0
                behind = Coverage.of([(0, self._shape.numbers(0, max(1, newest)).stop)])
                windows = SessionWindows(self._shape, self._settings.interpolate_samples_max, covered, behind)
                periods = {}
            self._sessions[s["session"]] = _Session(
                windows=windows,
                clock=ClockFit.restore(self._rate_hz, s["clock"]),
                periods=periods,
                waiting_ns={int(k): v for k, v in s["waiting_ns"].items()},
                end=s["end"],
                acknowledged=s["acknowledged"],
                done=s["done"],
            )


def decoder_state(snapshot: bytes) -> dict[str, object]:
    """The part of a snapshot that the wearable's decoder restores itself from."""
    return dict(json.loads(snapshot)["decoder"])
