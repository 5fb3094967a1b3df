"""One wearable's path, pure: journal rows in; windows to infer, states, drift periods and acknowledgements out.

Everything here is a function of the snapshot and the journal rows since; time is what the rows carry. The same rows
give the same outputs, so a crash costs nothing but doing it again, and Progress tells what was committed already.
"""

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from gateway.clock import Instant
from gateway.monitoring.drift import DriftPeriod, DriftSettings, DriftSummary, Reference
from gateway.monitoring.features import window_features
from gateway.monitoring.gravity import GravityReference, MountingVerdict, MountingWatch, Postures
from gateway.monitoring.ring import hours_until_full
from gateway.monitoring.wear import QUARTER_S, QUARTERS, WearWatch
from gateway.motion.axes import ROTATIONS, axes_from_directions, axes_text, rotate
from gateway.motion.clockfit import ClockFit, Label, TickCount
from gateway.motion.joining import SensorJoin
from gateway.motion.resample import Resampler, Rows, RowsLost, kernel_period_ns, reach_ns
from gateway.motion.samples import (
    Block,
    Burst,
    Coverage,
    DeviceDetail,
    DeviceStatus,
    Float32,
    Lost,
    Piece,
    Sensor,
    SessionEnded,
    SessionHeld,
    TimeRead,
)
from gateway.motion.windows import SessionWindows, Window, WindowShape
from gateway.profiles import details
from gateway.profiles.conversation import Decoder, FramesDecoder, Kind, Received
from gateway.profiles.errors import FrameError
from gateway.store.rows import JournalRow
from gateway.stream.coalescing import OpenSlots, SlotDue, span_of
from gateway.stream.progress import Progress

SNAPSHOT_VERSION = 4
"""2: samples at other rates than the grid's, and with times. 3: worn or not, gravity against the mounting, the ring.
4: answers that wait for the others of their event; links, and what keeps it from being connected."""
GRID_RATE_HZ_1 = 50.0
"""Of every stream whose snapshot has version 1."""
ASIDE_MAX = 128
"""Frames that wait undecoded."""
ASIDE_LATE_NS = 100_000_000
"""Longer than a radio's jitter on a good link: frames that come so much later than their samples would are behind
losses, and the next one may complete a window."""
SESSIONS_MAX = 16
"""Ended sessions that are remembered; a wearable's ring tells of at most 8."""
KEPT_SAMPLES = 400
"""So many a wearable keeps behind what is acknowledged (docs/reference-profile.md)."""
RING_SPAN_NS = 60 * 10**9
"""How fast a ring fills is told from two moments so far apart, at least."""
RING_FILLS = 0.01
"""Of its rate; what grows more slowly is the unrest of frames on their way."""


class StreamSettings(BaseModel):
    """backlog_wait_s: after so long a hole is given up. interpolate_samples_max: longer losses break a window."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backlog_wait_s: float = Field(86400.0, gt=0)
    interpolate_samples_max: int = Field(5, ge=0, le=50)
    reorder_samples_max: int = Field(200_000, ge=10_000)
    """Samples held beyond holes; above it the oldest hole is given up. 200,000 are 67 minutes, 5 MB."""
    snapshot_rows: int = Field(1000, ge=1)
    """A snapshot every so many journal rows: what is derived again after a crash, at most."""
    coalesce_s: float = Field(0.0, ge=0, le=3600)
    """Windows of so long share an event while their answer is the same, up to WINDOWS_MAX; below two hops each has its
    own, at once."""
    coalesce_wait_s: float = Field(300.0, ge=0, le=86400)
    """So much longer than coalesce_s an answer waits at most for those that shall share its event."""


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
    """The wearable connected (and said what it is), went away, or what is told of it changed.

    mounting: what gravity says to it. mounting_fits: the mounting that would fit best, where that one does not.
    ring_overflow_h: None where the ring does not fill, or nobody knows.
    """

    row: int
    connected: bool
    device: DeviceStatus | None
    detail: DeviceDetail
    at: Instant
    worn: bool | None = None
    mounting: Literal["ok", "contradicted"] | None = None
    mounting_fits: str | None = None
    ring_overflow_h: float | None = None


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """Once this row is durable, so is every sample of the session below index, as far as it exists."""

    row: int
    session: int
    index: int


Output = WindowReady | SlotDue | DriftReady | StateReady | Acknowledge


@dataclass(slots=True)
class Counters:
    """Since the store began, for this wearable.

    samples, lost_samples and elsewhere_samples are the wearable's own, at its rate, where two sensors stream apart
    those of each; every one is counted in exactly one of them. elsewhere: another gateway has them, and their windows.
    interpolated: rows of windows. links: how often it was connected.
    """

    links: int = 0
    samples: int = 0
    windows: int = 0
    interpolated: int = 0
    broken: int = 0
    lost_samples: int = 0
    lost_estimated: int = 0
    """Of lost_samples those that no count tells, only time."""
    lost_by_reason: dict[str, int] = field(default_factory=dict)
    elsewhere_samples: int = 0
    malformed: int = 0


@dataclass(slots=True)
class _Session:
    """rate_hz: of its samples; None where they come with times (bursts), and then nothing is acknowledged, for a
    wearable that sends so keeps nothing. resampling: None where its sample index is the grid."""

    windows: SessionWindows
    clock: ClockFit
    ticks: TickCount
    wear: WearWatch
    rate_hz: float | None
    rate_known: bool = False
    """Whether samples have come; until then rate_hz is only likely."""
    resampling: SensorJoin | None = None
    periods: dict[int, DriftPeriod] = field(default_factory=dict)
    postures: dict[int, Postures] = field(default_factory=dict)
    """By quarter of an hour; until it is known whether it was worn then."""
    waiting_ns: dict[tuple[Sensor, int], int] = field(default_factory=dict)
    """Holes, by sensor and first sample, and when they were first seen in the stream's own time."""
    end: int | None = None
    """One past the last sample that it will ever have; None while it runs."""
    told: int = 0
    """One past the newest sample that the wearable said it holds."""
    acknowledged: int = 0
    elsewhere: int = 0
    """Of the samples below, another gateway has those that did not come here."""
    done: bool = False

    def ledgers(self) -> dict[Sensor, SessionWindows | Resampler]:
        """For each sensor who knows which of its samples came or are lost."""
        return {Sensor.IMU: self.windows} if self.resampling is None else dict(self.resampling.sensors)

    @property
    def buffered(self) -> int:
        return self.windows.buffered + (self.resampling.buffered if self.resampling else 0)


class Stream:
    """rate_hz: of the grid, which is the model's. native_rate_hz: nominal, of samples that come with times; None is the
    grid's. mounting: (3, 3) from the wearable's case to the model's frame, None where it is unknown. gravity: how the
    training data has it; without it or a mounting nothing can contradict one."""

    def __init__(
        self,
        *,
        decoder: Decoder,
        rate_hz: float,
        native_rate_hz: float | None = None,
        sensor_frame: tuple[int, int, int] | None = None,
        shape: WindowShape,
        settings: StreamSettings,
        drift: DriftSettings,
        reference: Mapping[str, Reference],
        mounting: Float32 | None,
        gravity: GravityReference | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._decoder = decoder
        self._sensor_frame = sensor_frame
        """Where the sensor's axes point in its case; None where the wearable itself tells."""
        self._frames = decoder if isinstance(decoder, FramesDecoder) else None
        self._turn: tuple[tuple[int, int, int], Float32] | None = None
        """The sensor's frame in the case, and the matrix from it to the model's."""
        self._aside: list[JournalRow] = []
        """Frames that are not decoded yet, for they complete no window: many are as quick as one."""
        self._spare = 0
        """How many samples more may wait so, and until when."""
        self._spare_until_ns = 0
        self._rate_hz, self._shape, self._settings, self._drift = rate_hz, shape, settings, drift
        self._native_rate_hz = native_rate_hz or rate_hz
        self._batch = (shape.hop, shape.length % shape.hop)  # so rows come with the last of a window
        self._mounting, self._reference = mounting, reference
        self._gravity = None if mounting is None else gravity
        self._hop_s = shape.hop / rate_hz
        self._slots = open_slots(settings, self._hop_s)
        self._mounting_watch = MountingWatch(self._hop_s)
        self._told: tuple[bool | None, MountingVerdict | None] = (None, None)
        self._ring: tuple[int, int] | None = None
        """When Info came last, in the stream's own time, and what the ring held then that nobody else did."""
        self._progress = progress or Progress()
        self._sessions: dict[int, _Session] = {}
        self._boot_id, self._mono_ns = "", 0
        self._elapsed_ns = 0
        self.row = 0
        self.counters = Counters()
        self._came_by: dict[Sensor, int] = {}
        self.device: DeviceStatus | None = None
        self.detail = DeviceDetail()

    # In.

    def advance(self, row: JournalRow) -> list[Output]:
        """Takes the next journal row. A row that its profile refuses is counted, never fatal."""
        if self._spare > 0 and row.kind == Kind.FRAME and self._waits(row):
            return []
        kind = Kind(row.kind)
        before: list[Output] = []
        if self._aside and (kind not in (Kind.FRAME, Kind.DETAIL) or row.at.boot_id != self._boot_id):
            last, aside = self._aside[-1], self._aside
            self._aside = []
            before = self._decoded(last, self._pieces(aside))
        self._pass_time(row.at)
        self.row = row.row
        if kind in (Kind.DETAIL, Kind.PASSED):
            return before + (self._detail(row) if kind is Kind.DETAIL else []) + self._late_slots()
        if kind is Kind.CONNECTED:
            self.counters.links += 1
            self.detail = replace(self.detail, trouble=None, trouble_why=None)
        rows, self._aside = [*self._aside, row], []
        outputs = before + self._decoded(row, self._pieces(rows))
        self._spare, spare_ns = self._spare_now()
        self._spare_until_ns = row.at.mono_ns + spare_ns + ASIDE_LATE_NS
        return outputs + self._late_slots()

    def waits_for_time(self, now: Instant) -> bool:
        """Whether answers have waited for long enough, or nobody can tell yet in this boot: a row that says that time
        has passed (Kind.PASSED) lets them go out."""
        due_ns = self._slots.due_ns
        if due_ns is None:
            return False
        return now.boot_id != self._boot_id or self._elapsed_ns + now.mono_ns - self._mono_ns >= due_ns

    def _late_slots(self) -> list[Output]:
        return list(self._slots.passed(self._elapsed_ns)) if self._slots.opened_ns else []

    def _waits(self, row: JournalRow) -> bool:
        """Puts a frame aside, if it completes no window. After losses that nobody has seen yet it may, and the window
        comes by ASIDE_LATE_NS or a frame later than without them."""
        assert self._frames is not None  # or nothing may wait
        samples = self._frames.samples_max(row.payload)
        crowded = len(self._aside) == ASIDE_MAX or samples is None or samples > self._spare
        late = row.at.mono_ns > self._spare_until_ns
        if samples is None or crowded or late or row.at.boot_id != self._boot_id:
            return False
        self._spare -= samples
        self._aside.append(row)
        self._pass_time(row.at)
        self.row = row.row
        return True

    def _spare_now(self) -> tuple[int, int]:
        """So many samples more, and those of so many ns, complete no window where none is lost."""
        if self._frames is None:
            return 0, 0
        running = [session for session in self._sessions.values() if not session.done]
        if len(running) != 1 or running[0].rate_hz is not None or running[0].resampling is None:
            return 0, 0
        sensors = running[0].resampling.sensors
        return sensors[Sensor.IMU].spare if len(sensors) == 1 and Sensor.IMU in sensors else (0, 0)

    def _pieces(self, rows: list[JournalRow]) -> list[Piece] | None:
        """Of frames, or of one row; None where it is refused."""
        received = [(row.payload, Received(row.row, row.at.boot_id, row.at.mono_ns)) for row in rows]
        if len(rows) > 1 and self._frames is not None:
            pieces, refused = self._frames.decode_frames(received)
            self.counters.malformed += refused
            return pieces
        try:
            return self._decoder.decode(Kind(rows[0].kind), *received[0])
        except FrameError:
            self.counters.malformed += 1
            return None

    def _decoded(self, row: JournalRow, pieces: list[Piece] | None) -> list[Output]:
        """Takes what the rows up to this one tell."""
        if pieces is None:
            return []
        kind = Kind(row.kind)
        outputs: list[Output] = []
        known = tuple(self._sessions)
        for piece in pieces:
            outputs += self._take(piece, row.at)
        if kind is Kind.CONNECTED:  # the link before has gone untold, if the gateway has crashed
            for number in known:  # after the pieces: the decoder tells now what it had held back of that link
                session = self._sessions.get(number)  # one of the pieces' own may have taken the place of the oldest
                if session is not None and session.rate_hz is None and not session.done:
                    outputs += self._end(number, session, row.at)
        if kind is Kind.INFO:
            outputs += self._retire({p.session for p in pieces if isinstance(p, SessionHeld)}, row.at)
        outputs += self._give_up(row.at)
        # A wearable without Info is known to be there by the first samples after it connected.
        appeared = kind is Kind.FRAME and any(s.rate_hz is None for n, s in self._sessions.items() if n not in known)
        connected = kind is Kind.INFO or appeared
        told, self._told = self._told, (self.worn, self.mounting_verdict)
        if connected or kind is Kind.DISCONNECTED or self._told != told:
            outputs += self._state(row, connected=kind is not Kind.DISCONNECTED)
        if kind is Kind.INFO:
            self._ring = (self._elapsed_ns, self._ring_held())
        return outputs + self._acknowledge(row.row)

    def _detail(self, row: JournalRow) -> list[Output]:
        """What the wearable tells beside its stream; the battery's level, which comes last, tells it on. So does what
        keeps it from being connected."""
        try:
            told = details.decode(row.payload)
        except FrameError:
            self.counters.malformed += 1
            return []
        for detail in told:
            self.detail = replace(self.detail, **{k: v for k, v in asdict(detail).items() if v is not None})
        if any(detail.trouble is not None for detail in told):
            return self._state(row, connected=False)
        if all(detail.battery_percent is None for detail in told):
            return []
        return self._state(row, connected=True)

    def _state(self, row: JournalRow, *, connected: bool) -> list[Output]:
        if row.row <= self._progress.state_row:
            return []
        verdict = self.mounting_verdict
        return [
            StateReady(
                row.row,
                connected,
                self.device,
                self.detail,
                row.at,
                worn=self.worn,
                mounting=verdict.verdict if verdict is not None else None,
                mounting_fits=self.mounting_fits,
                ring_overflow_h=self._ring_overflow_h(connected),
            )
        ]

    @property
    def worn(self) -> bool | None:
        """Whether somebody wears it, as its newest session shows; None where too little of that was seen."""
        newest = None
        for session in reversed(self._sessions.values()):
            if not session.done:
                return session.wear.worn
            newest = newest or session
        return newest.wear.worn if newest is not None else None

    @property
    def mounting_verdict(self) -> MountingVerdict | None:
        """What gravity says to the mounting; None where there is none, or too little was seen."""
        return self._mounting_watch.verdict

    @property
    def mounting_fits(self) -> str | None:
        """Where gravity contradicts the mounting, the one that fits better."""
        verdict = self.mounting_verdict
        if verdict is None or verdict.fits is None or self._mounting is None:
            return None
        return axes_text(ROTATIONS[verdict.fits] @ self._mounting)

    def _ring_held(self) -> int:
        """Samples that only the wearable holds."""
        held = 0
        for session in self._sessions.values():
            if not session.done and session.rate_hz is not None:
                (ledger,) = session.ledgers().values()
                ranges = ledger.covered.ranges
                held += max(0, max(session.told, ranges[-1][1] if ranges else 0) - ledger.watermark)
        return held

    def _ring_overflow_h(self, connected: bool) -> float | None:
        """Away, all that it samples stays on it; connected, what the gateway takes goes."""
        rates = [s.rate_hz for s in self._sessions.values() if not s.done and s.rate_hz is not None]
        if self.device is None or self._ring is None or not rates:
            return None
        since_ns, held_then = self._ring
        held, span_ns = self._ring_held(), self._elapsed_ns - since_ns
        if not connected:
            return hours_until_full(self.device.ring_capacity, held, rates[-1])
        if span_ns < RING_SPAN_NS:
            return None
        grows_hz = (held - held_then) * 1e9 / span_ns
        fills = grows_hz > RING_FILLS * rates[-1]
        return hours_until_full(self.device.ring_capacity, held, grows_hz) if fills else None

    def _pass_time(self, at: Instant) -> None:
        """The stream's own time is what one boot's rows show of monotonic time; that between boots is unknown."""
        if at.boot_id == self._boot_id:
            self._elapsed_ns += max(0, at.mono_ns - self._mono_ns)
        else:
            self._ring = None
            for session in self._sessions.values():
                session.clock = ClockFit()
        self._boot_id, self._mono_ns = at.boot_id, at.mono_ns

    def _take(self, piece: Piece, at: Instant) -> list[Output]:
        if isinstance(piece, DeviceStatus):
            self.device = piece
            return []
        session = self._session(piece.session)
        if session.done:
            return []
        match piece:
            case Block():
                session.ticks.seen(piece.first, piece.tick)
                return self._block(session, piece, at)
            case Burst():
                if piece.came_ns is None:
                    session.clock.arrived(int(piece.taken_ns[-1]), at.mono_ns)
                else:
                    session.clock.arrived_each(piece.taken_ns, piece.came_ns)
                self._resample(session, None)
                return self._burst(session, piece, at)
            case Lost(number, first, end, reason, sensor, estimated):
                if sensor is not Sensor.IMU:
                    self._resample(session, None)
                return self._lose(number, sensor, first, end, reason, at, estimated=estimated)
            case SessionHeld(number, first, end, running, acknowledged):
                session.end = None if running else end
                session.told = max(session.told, end)
                outputs = self._leave(number, session, min(first, acknowledged), at)
                return outputs + self._lose(number, Sensor.IMU, 0, first, "not_held", at)
            case SessionEnded(number):
                return self._end(number, session, at)
            case TimeRead(_, tick, tick_hz, next_index, started_ns, ended_ns):
                session.clock.asked(session.ticks.read(tick, tick_hz, next_index), started_ns, ended_ns)
        return []

    def _session(self, number: int) -> _Session:
        if number not in self._sessions:
            windows = SessionWindows(self._shape, self._settings.interpolate_samples_max)
            ticks, wear = TickCount(self._rate_hz), WearWatch(self._hop_s)
            self._sessions[number] = _Session(windows, ClockFit(), ticks, wear, self._rate_hz)
            ended = [n for n, s in self._sessions.items() if s.done]
            for old in ended[: max(0, len(self._sessions) - SESSIONS_MAX)]:
                del self._sessions[old]
        return self._sessions[number]

    def _block(self, session: _Session, block: Block, at: Instant) -> list[Output]:
        end = block.first + len(block.values)
        if not session.rate_known and block.rate_hz != session.rate_hz:
            session.ticks.rate_hz = block.rate_hz
            self._resample(session, block.rate_hz)
        session.rate_known = True
        if block.rate_hz != session.rate_hz:  # its index counts something else than the session's
            return self._lose(block.session, Sensor.IMU, block.first, end, "rate_changed", at)
        if session.resampling is not None:
            taken_ns = np.rint(np.arange(block.first, end) * 1e9 / block.rate_hz).astype(np.int64)
            burst = Burst(block.session, Sensor.IMU, block.first, taken_ns, block.values, block.saturated)
            return self._burst(session, burst, at)
        new = session.windows.covered.missing(block.first, end)
        self._came(Sensor.IMU, sum(high - low for low, high in new))
        settled = session.windows.add(block.first, block.values, block.saturated)
        return self._settled(block.session, settled, at) + self._finish(block.session, session, at)

    def _came(self, sensor: Sensor, samples: int) -> None:
        self.counters.samples += samples
        self._came_by[sensor] = self._came_by.get(sensor, 0) + samples

    @property
    def moments(self) -> int:
        """So many times was it sampled, since this start: two sensors that stream apart count once."""
        return max(self._came_by.values(), default=0)

    def _resample(self, session: _Session, rate_hz: float | None) -> None:
        """Its sample index is not the grid. What was lost before the first sample told so is so natively."""
        if session.resampling is not None:
            return
        session.rate_hz = rate_hz
        session.resampling = SensorJoin(rate_hz or self._native_rate_hz, self._rate_hz, self._batch)
        if rate_hz is not None:
            session.resampling.of(Sensor.IMU)
        for low, high in session.windows.covered.ranges:
            session.resampling.lose(Sensor.IMU, low, high)
        broken = sum(end - first for first, end in session.windows.final.ranges)
        if session.elsewhere:
            broken -= len(self._shape.numbers(0, session.elsewhere))
        self.counters.broken -= broken  # they are counted anew
        session.windows = SessionWindows(self._shape, self._settings.interpolate_samples_max)
        if session.elsewhere and rate_hz is not None:
            session.windows.lose(*self._rows_about(session, 0, session.elsewhere), elsewhere=True)
        session.wear = WearWatch(self._hop_s)

    def _burst(self, session: _Session, burst: Burst, at: Instant) -> list[Output]:
        assert session.resampling is not None  # _resample came before
        resampler = session.resampling.of(burst.sensor)
        before = resampler.came
        rows = session.resampling.add(burst.sensor, burst.first, burst.taken_ns, burst.values, burst.saturated)
        self._came(burst.sensor, resampler.came - before)
        return self._on_grid(burst.session, rows, at)

    def _on_grid(self, number: int, rows: list[Rows | RowsLost], at: Instant) -> list[Output]:
        session = self._sessions[number]
        if not rows and session.end is None:
            return []
        windows = session.windows
        outputs: list[Output] = []
        for settled in rows:
            if isinstance(settled, RowsLost):
                outputs += self._settled(number, windows.lose(settled.first, settled.end), at)
                continue
            changes = np.flatnonzero(np.diff(settled.saturated)) + 1
            for start, part in zip([0, *changes], np.split(settled.values, changes), strict=True):
                saturated = bool(settled.saturated[start])
                outputs += self._settled(number, windows.add(settled.first + int(start), part, saturated), at)
        return outputs + self._finish(number, session, at)

    def _lose(
        self, number: int, sensor: Sensor, first: int, end: int, reason: str, at: Instant, *, estimated: bool = False
    ) -> list[Output]:
        session = self._sessions[number]
        resampling = session.resampling
        covered = session.windows.covered if resampling is None else resampling.of(sensor).covered
        lost = sum(high - low for low, high in covered.missing(first, end))
        if not lost:
            return []
        self.counters.lost_estimated += lost if estimated else 0
        self._count_lost(lost, reason)
        if resampling is not None:
            return self._on_grid(number, resampling.lose(sensor, first, end), at)
        return self._settled(number, session.windows.lose(first, end), at) + self._finish(number, session, at)

    def _count_lost(self, samples: int, reason: str) -> None:
        self.counters.lost_samples += samples
        self.counters.lost_by_reason[reason] = self.counters.lost_by_reason.get(reason, 0) + samples

    def _leave(self, number: int, session: _Session, end: int, at: Instant, *, lost: bool = False) -> list[Output]:
        """What of the samples below end has not come, another gateway has, and the windows that need it. A row of the
        grid that a resampler would make of the samples at such an edge alone is not the one that it is in between.
        lost: another gateway may have them, or nobody."""
        resampling = session.resampling
        ledger = session.windows if resampling is None else resampling.of(Sensor.IMU)
        session.elsewhere = max(session.elsewhere, 0 if lost else end)
        outputs: list[Output] = []
        for low, high in ledger.covered.missing(0, end):
            if lost:
                self._count_lost(high - low, "not_held")
            else:
                self.counters.elsewhere_samples += high - low
            answers = session.windows.lose(*self._rows_about(session, low, high), elsewhere=True)
            outputs += self._settled(number, [a for a in answers if lost or isinstance(a, Window)], at)
            if resampling is not None:
                outputs += self._on_grid(number, resampling.lose(Sensor.IMU, low, high), at)
        return outputs + self._finish(number, session, at)

    def _rows_about(self, session: _Session, low: int, high: int) -> tuple[int, int]:
        """The rows of the grid, first to end (exclusive), that need one of the samples low to high."""
        if session.resampling is None:
            return low, high
        assert session.rate_hz is not None  # samples that come with times are kept by no wearable
        rows_a_sample, reach = self._rate_hz / session.rate_hz, self._reach_samples(session.rate_hz)
        return max(0, math.floor((low - reach) * rows_a_sample)), math.ceil((high + reach) * rows_a_sample)

    def _reach_samples(self, rate_hz: float) -> int:
        """So many samples to each side a row of the grid is made of."""
        return math.ceil(reach_ns(kernel_period_ns(rate_hz, self._rate_hz)) * rate_hz / 1e9)

    def _retire(self, listed: set[int], at: Instant) -> list[Output]:
        """What the wearable no longer holds is lost; a session that has ended and is complete is done."""
        outputs: list[Output] = []
        for number, session in self._sessions.items():
            if session.done or session.rate_hz is None:
                continue
            if number not in listed:
                (ledger,) = session.ledgers().values()
                ranges = ledger.covered.ranges
                went_on, session.end = session.end is None, max(session.told, ranges[-1][1] if ranges else 0)
                if went_on and session.resampling is not None:  # elsewhere: its last rows here are made of one side
                    answers = session.windows.lose(*self._rows_about(session, session.end, session.end), elsewhere=True)
                    outputs += self._settled(number, answers, at)
                outputs += self._leave(number, session, session.end, at, lost=True)
            outputs += self._finish(number, session, at)
        return outputs

    def _end(self, number: int, session: _Session, at: Instant) -> list[Output]:
        """The wearable will send no more of it and keeps nothing."""
        outputs: list[Output] = []
        for sensor, ledger in session.ledgers().items():
            for low, high in ledger.holes():
                outputs += self._lose(number, sensor, low, high, "ended", at)
        return outputs + self._close(number, session, at)

    def _finish(self, number: int, session: _Session, at: Instant) -> list[Output]:
        if session.done or session.end is None:
            return []
        if any(ledger.watermark < session.end for ledger in session.ledgers().values()):
            return []
        return self._close(number, session, at)

    def _close(self, number: int, session: _Session, at: Instant) -> list[Output]:
        if session.done:
            return []
        session.done = True
        outputs = [] if session.resampling is None else self._on_grid(number, session.resampling.end(), at)
        session.windows.close()
        session.wear.close()
        session.postures.clear()
        outputs += self._slots.ended(number)
        return outputs + [o for p in sorted(session.periods) for o in self._close_period(number, session, p, at)]

    def _give_up(self, at: Instant) -> list[Output]:
        """Holes that have waited too long, or that hold back more than may be buffered, are lost."""
        outputs: list[Output] = []
        limit_ns = self._elapsed_ns - int(self._settings.backlog_wait_s * 1e9)
        for number, session in self._sessions.items():
            if session.done:
                continue
            holes = [(sensor, *hole) for sensor, ledger in session.ledgers().items() for hole in ledger.holes()]
            if not holes:
                session.waiting_ns.clear()
                continue
            waiting_ns = session.waiting_ns
            session.waiting_ns = {(s, low): waiting_ns.get((s, low), self._elapsed_ns) for s, low, _ in holes}
            crowded = session.buffered > self._settings.reorder_samples_max
            for sensor, low, high in holes:
                if session.waiting_ns[sensor, low] <= limit_ns:
                    outputs += self._lose(number, sensor, low, high, "backlog_wait", at)
                elif crowded:
                    outputs += self._lose(number, sensor, low, high, "reorder_limit", at)
                    crowded = session.buffered > self._settings.reorder_samples_max
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
            features = window_features(values)
            session.periods.setdefault(period, DriftPeriod(self._drift)).add(features)
            start_s = answer.number * self._hop_s
            session.wear.add(start_s, values, features)
            if self._gravity is not None:
                quarter = int(start_s // QUARTER_S)
                if quarter not in session.postures:
                    session.postures[quarter] = Postures()
                session.postures[quarter].add(features, self._gravity)
            self.counters.windows += 1
            self.counters.interpolated += answer.interpolated
            if not self._progress.has_window(number, answer.number):
                taken = self._label(session, answer.number * self._shape.hop)
                outputs.append(
                    WindowReady(number, answer.number, values, answer.interpolated, answer.saturated, taken, at)
                )
            outputs += self._slots.came_out(number, answer.number, self._elapsed_ns)
        outputs += self._slots.settled(number, session.windows.final.missing)
        final = session.windows.final.contiguous_end(0)
        for period in sorted(session.periods):
            if self._period_of(final) > period:
                outputs += self._close_period(number, session, period, at)
        self._look_back(session, final * self._hop_s)
        return outputs

    def _look_back(self, session: _Session, end_s: float) -> None:
        """All windows before end_s are out: was it worn, and does gravity fit?"""
        worn_in = session.wear.over(end_s)
        if worn_in is None or self._gravity is None:
            return
        for quarter in worn_in:
            if (postures := session.postures.pop(quarter, None)) is not None:
                postures.settle(self._gravity)
                self._mounting_watch.take(postures)
        oldest = int(end_s // QUARTER_S) - QUARTERS + 1
        session.postures = {n: postures for n, postures in session.postures.items() if n >= oldest}

    def _label(self, session: _Session, grid_index: int) -> Label | None:
        """When this row of the grid was, on the host's monotonic clock."""
        if session.resampling is None:
            return session.clock.label(session.ticks.at(grid_index))
        device_ns = round(grid_index * 1e9 / self._rate_hz)
        if session.rate_hz is not None:  # rows count by nominal rate, the device's clock may tell otherwise
            device_ns = session.ticks.at(grid_index * session.rate_hz / self._rate_hz)
        return session.clock.label(device_ns)

    def _rotated(self, values: Float32) -> Float32:
        if self._mounting is None:
            return values
        told = (1, 2, 3) if self.device is None else self.device.sensor_frame
        directions = self._sensor_frame or told
        if self._turn is None or self._turn[0] != directions:
            self._turn = directions, self._mounting @ axes_from_directions(directions)
        return rotate(values, self._turn[1])

    def _period_of(self, window: int) -> int:
        return int(window * self._shape.hop / self._rate_hz // self._drift.period_s)

    def _close_period(self, number: int, session: _Session, period: int, at: Instant) -> list[Output]:
        summary = session.periods.pop(period).summary(period * self._drift.period_s, self._reference)
        return [] if self._progress.has_period(number, period) else [DriftReady(number, period, summary, at)]

    def _acknowledge(self, row: int) -> list[Output]:
        outputs: list[Output] = []
        for number, session in self._sessions.items():
            if session.rate_hz is None:
                continue
            index = self._acknowledgeable(session)
            if index > session.acknowledged:
                session.acknowledged = index
                outputs.append(Acknowledge(row, number, index))
        return outputs

    def acknowledgeable(self) -> dict[int, int]:
        """For each session that a wearable may keep: what of it may be acknowledged once all rows are durable."""
        sessions = self._sessions.items()
        return {number: self._acknowledgeable(session) for number, session in sessions if session.rate_hz is not None}

    def _acknowledgeable(self, session: _Session) -> int:
        """All that is here, but for what another gateway needs to go on: the first window that is not out here must
        lie within what the wearable keeps behind the acknowledgement."""
        watermark = min(ledger.watermark for ledger in session.ledgers().values())
        if session.done:
            return watermark
        needed = session.windows.final.contiguous_end(0) * self._shape.hop
        if session.resampling is not None:
            assert session.rate_hz is not None
            needed = math.floor(needed * session.rate_hz / self._rate_hz) - self._reach_samples(session.rate_hz)
        return min(watermark, max(0, needed) + KEPT_SAMPLES)

    def coverage(self) -> dict[int, Coverage]:
        """For each session that a wearable may keep the samples, by its own index, that the journal holds or that are
        lost."""
        covered: dict[int, Coverage] = {}
        for number, session in self._sessions.items():
            if session.rate_hz is not None:
                (ledger,) = session.ledgers().values()
                covered[number] = ledger.covered.copy()
        return covered

    # Snapshot.

    def snapshot(self) -> bytes:
        """The state after the last row, as JSON. Progress is not in it: what has gone out by then is final in it."""
        sessions = [
            {
                "session": number,
                "windows": s.windows.state(),
                "clock": s.clock.state(),
                "ticks": s.ticks.state(),
                "rate_hz": s.rate_hz,
                "rate_known": s.rate_known,
                "resampling": s.resampling and s.resampling.state(),
                "periods": {str(n): p.state() for n, p in s.periods.items()},
                "wear": s.wear.state(),
                "postures": {str(n): p.state() for n, p in s.postures.items()},
                "waiting_ns": [[sensor, low, ns] for (sensor, low), ns in s.waiting_ns.items()],
                "end": s.end,
                "told": s.told,
                "acknowledged": s.acknowledged,
                "elsewhere": s.elsewhere,
                "done": s.done,
            }
            for number, s in self._sessions.items()
        ]
        device = self.device
        state = {
            "shape": self._shape_state(),
            "decoder": self._decoder.state(),
            "aside": [_row_state(row) for row in self._aside],
            "spare": self._spare,
            "spare_until_ns": self._spare_until_ns,
            "boot_id": self._boot_id,
            "mono_ns": self._mono_ns,
            "elapsed_ns": self._elapsed_ns,
            "counters": asdict(self.counters),
            "device": device and asdict(device),
            "detail": asdict(self.detail),
            "gravity": self._gravity_state(),
            "mounting": self._mounting_watch.state(),
            "told": [self._told[0], self._told[1] and asdict(self._told[1])],
            "ring": self._ring,
            "slots": self._slots.state(),
            "sessions": sessions,
        }
        return json.dumps(state, separators=(",", ":")).encode()

    def _shape_state(self) -> list[float]:
        """What windows and drift periods in a snapshot depend on."""
        interpolate_max = self._settings.interpolate_samples_max
        return [self._rate_hz, self._shape.length, self._shape.hop, interpolate_max, self._drift.period_s]

    def _gravity_state(self) -> list[Any] | None:
        """What is seen of gravity depends on it."""
        if self._gravity is None or self._mounting is None:
            return None
        return [axes_text(self._mounting), self._gravity.digest(), self._hop_s]

    def restore(self, row: int, payload: bytes) -> None:
        """Takes up a snapshot; the decoder is the caller's to restore (decoder_state).

        Where the windows' shape has changed since (another model), windows begin anew behind the newest sample.
        """
        state = _upgraded(json.loads(payload))
        self.row = row
        self._boot_id, self._mono_ns, self._elapsed_ns = state["boot_id"], state["mono_ns"], state["elapsed_ns"]
        self.counters = Counters(**state["counters"])
        self.device, self.detail = None, DeviceDetail(**state.get("detail", {}))
        if state["device"] is not None:
            frame = tuple(state["device"].pop("sensor_frame"))
            self.device = DeviceStatus(**state["device"], sensor_frame=frame)
        worn, verdict = state["told"]
        self._told = (worn, verdict and MountingVerdict(**verdict))
        self._ring = state["ring"] and tuple(state["ring"])
        same = state["shape"] == self._shape_state()
        same_gravity = same and state["gravity"] == self._gravity_state()
        if same_gravity:
            self._mounting_watch = MountingWatch.restore(self._hop_s, state["mounting"])
        self._aside = [_row_of(state["boot_id"], aside) for aside in state.get("aside", [])]
        self._spare = state.get("spare", 0) if same else 0
        self._spare_until_ns = state.get("spare_until_ns", 0)
        if same and "slots" in state:
            self._slots.restore(state["slots"])
        for s in state["sessions"]:
            session = self._restored(s) if same else self._behind(s, state["shape"][0])
            if same_gravity:
                session.postures = {int(n): Postures.restore(p) for n, p in s["postures"].items()}
            session.clock, session.acknowledged, session.done = (
                ClockFit.restore(s["clock"]),
                s["acknowledged"],
                s["done"],
            )
            session.end, session.told, session.elsewhere = s["end"], s["told"], s.get("elsewhere", 0)
            session.waiting_ns = {(Sensor(sensor), low): ns for sensor, low, ns in s["waiting_ns"]}
            self._sessions[s["session"]] = session

    def _restored(self, s: dict[str, Any]) -> _Session:
        return _Session(
            SessionWindows.restore(self._shape, self._settings.interpolate_samples_max, s["windows"]),
            ClockFit(),
            TickCount.restore(s["rate_hz"] or self._rate_hz, s["ticks"]),
            WearWatch.restore(self._hop_s, s["wear"]),
            s["rate_hz"],
            s["rate_known"],
            s["resampling"] and SensorJoin.restore(s["resampling"]),
            {int(n): DriftPeriod.restore(self._drift, p) for n, p in s["periods"].items()},
        )

    def _behind(self, s: dict[str, Any], grid_rate_hz: float) -> _Session:
        """Begins anew behind its newest sample; grid_rate_hz: of the grid that its windows were on."""
        rate_hz: float | None = s["rate_hz"]
        if s["resampling"]:
            before = SensorJoin.restore(s["resampling"])
        else:  # its index was that grid
            before = SensorJoin(grid_rate_hz, grid_rate_hz)
            covered = Coverage.of(s["windows"]["covered"])
            before.sensors[Sensor.IMU] = Resampler(grid_rate_hz, grid_rate_hz, covered=covered)
        resampling = None
        if rate_hz == self._rate_hz:
            covered = before.of(Sensor.IMU).covered
            rows = covered.ranges[-1][1] if covered.ranges else 0
        else:
            resampling = before.behind(self._rate_hz, self._batch)
            rows = resampling.rows
            covered = Coverage.of([(0, rows)])
        final = Coverage.of([(0, self._shape.numbers(0, max(1, rows)).stop)])
        windows = SessionWindows(self._shape, self._settings.interpolate_samples_max, covered.copy(), final)
        ticks = TickCount.restore(rate_hz or self._rate_hz, s["ticks"])
        wear = WearWatch(self._hop_s)
        return _Session(windows, ClockFit(), ticks, wear, rate_hz, s["rate_known"], resampling)


def open_slots(settings: StreamSettings, hop_s: float) -> OpenSlots:
    span = span_of(settings.coalesce_s, hop_s)
    return OpenSlots(span, int((span * hop_s + settings.coalesce_wait_s) * 1e9))


def with_held(snapshot: bytes, held: object) -> bytes:
    """The same snapshot with what waits behind the stream, JSON values that held_in gives back."""
    return snapshot[:-1] + b',"held":' + json.dumps(held, separators=(",", ":")).encode() + b"}"


def held_in(snapshot: bytes) -> Any:
    """None where nothing waited."""
    return json.loads(snapshot).get("held")


def _row_state(row: JournalRow) -> list[Any]:
    """A frame that waits, as JSON values; its boot is the stream's."""
    at = row.at
    return [row.row, row.wearable, base64.b64encode(row.payload).decode(), at.mono_ns, at.utc_ns, at.utc_synced]


def _row_of(boot_id: str, state: list[Any]) -> JournalRow:
    row, wearable, payload, mono_ns, utc_ns, utc_synced = state
    at = Instant(boot_id, mono_ns, utc_ns, utc_synced)
    return JournalRow(row, wearable, Kind.FRAME, base64.b64decode(payload), at)


def _upgraded(state: dict[str, Any]) -> dict[str, Any]:
    """A snapshot of an earlier version, as one of this.

    1: a wearable's sample index was always the grid. 2: nothing was remembered of stillness, gravity and ring.
    """
    if len(state["shape"]) == 4:
        state["shape"] = [GRID_RATE_HZ_1, *state["shape"]]
        for s in state["sessions"]:
            s |= {"rate_hz": GRID_RATE_HZ_1, "rate_known": True, "resampling": None, "told": 0}
            s |= {"clock": ClockFit().state(), "ticks": TickCount(GRID_RATE_HZ_1).state()}
            s["waiting_ns"] = [[Sensor.IMU, int(low), ns] for low, ns in s["waiting_ns"].items()]
    if "gravity" not in state:
        state |= {"gravity": None, "told": [None, None], "ring": None}
        for s in state["sessions"]:
            s |= {"wear": WearWatch(1.0).state(), "postures": {}}
    return state


def decoder_state(snapshot: bytes) -> dict[str, object]:
    """The part of a snapshot that the wearable's decoder restores itself from."""
    return dict(json.loads(snapshot)["decoder"])


def sensor_frame_in(snapshot: bytes) -> tuple[int, int, int] | None:
    """Where the wearable had said that its sensor's axes point; None where it had not."""
    device = json.loads(snapshot)["device"]
    return device and tuple(device["sensor_frame"])


def ended_in(snapshot: bytes) -> set[int]:
    """The sessions that had ended by then."""
    return {s["session"] for s in json.loads(snapshot)["sessions"] if s["done"] or s["end"] is not None}


def aside_in(snapshot: bytes) -> list[JournalRow]:
    """The rows up to it that its decoder has not seen."""
    state = json.loads(snapshot)
    return [_row_of(state["boot_id"], aside) for aside in state.get("aside", [])]
