"""The wearable's firmware as a pure object: flash ring, sessions, Live, Backlog with credit, acknowledgements.

Samples in m/s² and deg/s, GATT writes and the device's own uptime come in; notifications, indications and read values
go out. It waits for nothing and reads no clock; randomness is handed in. Rules: docs/reference-profile.md.
"""

import random
import struct
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from firmware_sim import encoding
from firmware_sim.details import BATTERY, DEVICE_INFORMATION, Details
from firmware_sim.encoding import Config, Counts, FrameType, Op, SessionEntry, Status
from firmware_sim.protocol import AttError, Property, Service, Taken, WriteRefused

KEPT_BEHIND_WATERMARK = 400
"""Samples that stay after their acknowledgement: two windows, so that another gateway can go on at the seam."""
SESSIONS_MAX = 8
CAPACITY_MIN = 2 * KEPT_BEHIND_WATERMARK
LIVE_WAITING_MAX = 64
"""Live frames that wait for the radio; beyond it the oldest is left to the backlog (its seq is spent)."""
INDICATIONS_WAITING_MAX = 16
"""Answers that wait for the central's confirmations; beyond it control writes are refused."""
CREDIT_MAX = 0xFFFF
ATT_MTU = 247
OWN_SERVICE = Service(
    encoding.SERVICE_UUID,
    {
        encoding.INFO_UUID: Property.READ,
        encoding.CONFIG_UUID: Property.READ | Property.WRITE | Property.INDICATE,
        encoding.LIVE_UUID: Property.NOTIFY,
        encoding.BACKLOG_UUID: Property.NOTIFY,
        encoding.CONTROL_UUID: Property.WRITE | Property.INDICATE,
        encoding.TIME_UUID: Property.READ,
    },
)


@dataclass(frozen=True, slots=True)
class Settings:
    """What distinguishes one wearable from another. capacity: of the ring, in samples. sensor_frame: as in Info."""

    serial: int
    capacity: int = 500_000
    tick_hz: int = 32_768
    config: Config = field(default_factory=Config)
    firmware: tuple[int, int] = (1, 0)
    sensor_frame: tuple[int, int, int] = (1, 2, 3)
    battery_percent: int | None = None

    def __post_init__(self) -> None:
        if self.capacity < CAPACITY_MIN:
            raise ValueError(f"ring of {self.capacity} samples: at least {CAPACITY_MIN} are needed")


@dataclass(frozen=True, slots=True)
class StoredFrame:
    """Samples first to end (exclusive) of a session, as bytes."""

    first: int
    end: int
    data: bytes


@dataclass(slots=True)
class Session:
    number: int
    """64 bits."""
    frames: deque[StoredFrame] = field(default_factory=deque)
    made: int = 0
    closed: int = 0
    """One past the last sample in a closed frame."""
    watermark: int = 0
    overwritten: int = 0
    """Samples that the ring overwrote before anyone acknowledged them."""

    @property
    def first_held(self) -> int:
        return self.frames[0].first if self.frames else self.closed

    def frame_holding(self, index: int) -> StoredFrame | None:
        """The first frame that ends beyond index."""
        place = bisect_right(self.frames, index, key=lambda frame: frame.end)
        return self.frames[place] if place < len(self.frames) else None

    def entry(self) -> SessionEntry:
        return SessionEntry(self.number, self.first_held, self.closed, self.watermark, self.overwritten)


@dataclass(slots=True)
class _Request:
    session: Session
    position: int
    end: int


class Device:
    """One wearable from its first boot on. `sessions` is never empty; the last one runs."""

    mtu_min = ATT_MTU
    sensors = (slice(0, 6),)

    def __init__(self, settings: Settings, rng: random.Random) -> None:
        self.settings = settings
        known = settings.battery_percent is not None
        self.services = (OWN_SERVICE, DEVICE_INFORMATION, *((BATTERY,) if known else ()))
        self._details = Details(
            manufacturer="Fidget Gateway",
            model="Reference wearable",
            firmware=".".join(map(str, settings.firmware)),
            serial=f"{settings.serial:016X}",
            battery_percent=settings.battery_percent or 0,
        )
        self.sessions: list[Session] = []
        self.finished = False
        self.connected = False
        self._rng = rng
        self._held = 0
        self._filling: list[Counts] = []
        self._filling_saturated = False
        self._filled = 0
        self._overrun = 0
        """Samples that the sensor is still to lose, once the frame that is being filled is full."""
        self._lost_before = False
        self._tick_offset = 0
        self._stepped = False
        self._live = False
        self._live_waiting: deque[bytes] = deque()
        self._request: _Request | None = None
        self._credit = 0
        self._seq = {FrameType.LIVE: 0, FrameType.BACKLOG: 0}
        self._indications: deque[tuple[str, bytes]] = deque()
        self._begin_session()

    @property
    def running(self) -> Session:
        return self.sessions[-1]

    @property
    def session(self) -> int:
        return self.running.number

    @property
    def made(self) -> int:
        return self.running.made

    @property
    def rate_hz(self) -> float:
        return self.settings.config.rate_hz

    @property
    def held(self) -> int:
        """Samples in the ring."""
        return self._held

    @property
    def fill(self) -> float:
        """Of the ring, 0 to 1."""
        return self._held / self.settings.capacity

    # Samples

    def samples_due(self, uptime_ns: int) -> int:
        """How many samples the session has once its clock has run so long; the first is taken at 0."""
        return uptime_ns * self.settings.config.rate_mhz // 10**12 + 1 if uptime_ns >= 0 else 0

    def sample(self, values: NDArray[np.float32]) -> Counts:
        """Takes the next samples, (n, 6) in m/s² and deg/s; returns them as they were quantized, also those that an
        overrun loses."""
        return self._sample(values)[0]

    def _sample(self, values: NDArray[np.float32]) -> tuple[Counts, NDArray[np.bool_]]:
        """And which of them (n,) it has."""
        config = self.settings.config
        counts, saturated = encoding.quantize(values, config)
        kept = np.ones(len(counts), np.bool_)
        taken = 0
        while taken < len(counts):
            if self._overrun and not self._filled:
                lost = min(self._overrun, len(counts) - taken)
                kept[taken : taken + lost] = False
                taken += lost
                self.running.made += lost
                self._overrun -= lost
                self._lost_before = True
                continue
            part = slice(taken, taken + config.samples_a_frame - self._filled)
            self._filling.append(counts[part])
            self._filling_saturated |= bool(saturated[part].any())
            self._filled += len(counts[part])
            self.running.made += len(counts[part])
            taken = part.stop
            if self._filled == config.samples_a_frame:
                self._close_frame()
        return counts, kept

    def measure(self, values: NDArray[np.float32]) -> Sequence[Taken]:
        """Takes the next samples as `sample` does, and says when; all are kept but those that an overrun loses."""
        index = np.arange(self.made, self.made + len(values), dtype=np.int64)
        taken_ns = index * 10**12 // self.settings.config.rate_mhz
        counts, kept = self._sample(values)
        return (Taken(slice(0, 6), taken_ns[kept], counts[kept] * self.settings.config.scales()),)

    def finish(self) -> None:
        """The session has no more samples: its last frame is closed, short or not. The wearable stays up."""
        self._close_frame()
        self.finished = True

    def restart(self) -> None:
        """An orderly reboot: the running session ends, the ring is kept, a new session begins."""
        self._close_frame()
        self.disconnected()
        self.finished = False
        self._begin_session()

    # What goes wrong with it (firmware_sim/faults.py)

    def crash(self, *, flash_kept: bool) -> None:
        """A reboot without warning: what stood in RAM is gone, and so is the ring where the flash is not kept."""
        self._filling, self._filled, self._filling_saturated = [], 0, False
        if not flash_kept:
            self.sessions.clear()
            self._held = 0
        self._tick_offset, self._stepped = 0, False
        self.restart()

    def overrun(self, samples: int) -> None:
        """The sensor's memory runs over: so many samples are lost before the next frame begins."""
        self._overrun += samples

    def step_clock(self, seconds: float) -> None:
        """The clock jumps; frames that are stored keep their ticks, the next one is flagged."""
        self._tick_offset += round(seconds * self.settings.tick_hz)
        self._stepped = True

    def shrink(self, capacity: int) -> None:
        """The flash has room for so many samples from now on."""
        self.settings = replace(self.settings, capacity=capacity)
        self._make_room(0)

    def set_battery(self, percent: int) -> None:
        self.settings = replace(self.settings, battery_percent=percent)
        self._details.set_battery(percent)

    def _begin_session(self) -> None:
        taken = {session.number & 0xFFFF for session in self.sessions}
        number = self._rng.getrandbits(64)
        while number & 0xFFFF in taken:
            number = self._rng.getrandbits(64)
        self.sessions.append(Session(number))
        self._overrun, self._lost_before = 0, False
        if len(self.sessions) > SESSIONS_MAX:
            self._give_up_session()

    def _give_up_session(self) -> None:
        """One that holds nothing that is not acknowledged, or else the oldest; the oldest left counts what was lost."""
        spent = (session for session in self.sessions[:-1] if session.watermark == session.closed)
        ended = next(spent, self.sessions[0])
        while ended.frames:
            self._overwrite_oldest(ended)
        self.sessions.remove(ended)
        self.sessions[0].overwritten += ended.overwritten

    def _close_frame(self) -> None:
        if not self._filled:
            return
        session, first = self.running, self._filling_first
        counts = np.concatenate(self._filling)
        data = encoding.encode_frame(
            counts,
            cfg_id=self.settings.config.cfg_id,
            session=session.number,
            first=first,
            tick=self._tick_of(first),
            saturated=self._filling_saturated,
            clock_stepped=self._stepped,
            lost_before=self._lost_before,
        )
        self._stepped = self._lost_before = False
        self._make_room(len(counts))
        session.closed = first + len(counts)
        session.frames.append(StoredFrame(first, session.closed, bytes(data)))
        self._held += len(counts)
        self._filling, self._filled, self._filling_saturated = [], 0, False
        if self._live:
            if len(self._live_waiting) == LIVE_WAITING_MAX:
                self._live_waiting.popleft()
            self._live_waiting.append(encoding.address_frame(data, FrameType.LIVE, self._next_seq(FrameType.LIVE)))

    @property
    def _filling_first(self) -> int:
        """Index of the first sample of the frame that is being filled."""
        return self.running.made - self._filled if self._filled else self.running.made + self._overrun

    def _make_room(self, samples: int) -> None:
        while self._held + samples > self.settings.capacity:
            self._overwrite_oldest(next(s for s in self.sessions if s.frames))

    def _overwrite_oldest(self, session: Session) -> None:
        frame = self._erase_oldest(session)
        session.overwritten += frame.end - max(frame.first, min(session.watermark, frame.end))

    def _erase_oldest(self, session: Session) -> StoredFrame:
        frame = session.frames.popleft()
        self._held -= frame.end - frame.first
        return frame

    def _tick_of(self, index: int) -> int:
        return index * self.settings.tick_hz * 1000 // self.settings.config.rate_mhz + self._tick_offset

    def _next_seq(self, kind: FrameType) -> int:
        seq = self._seq[kind]
        self._seq[kind] = (seq + 1) & 0xFFFF
        return seq

    # The link

    def link_up(self) -> None:
        self.disconnected()
        self.connected = True

    def disconnected(self) -> None:
        """Live, the request, its credit and unconfirmed answers end with the link; the ring does not."""
        self.connected = self._live = False
        self._live_waiting.clear()
        self._indications.clear()
        self._request, self._credit = None, 0

    def status(self) -> dict[str, object]:
        return {
            "made": self.running.made,
            "closed": self.running.closed,
            "acked": self.running.watermark,
            "ring_held": self.held,
            "ring_fill": self.fill,
            "overwritten": sum(session.overwritten for session in self.sessions),
        }

    def subscribed(self, uuid: str, on: bool) -> None:
        """Nothing depends on it: Live is started, Backlog asked for, by Control."""

    def advertised(self) -> bytes:
        return encoding.encode_advertised(held_by_central=self.connected, fill=self.fill)

    def read(self, uuid: str, uptime_ns: int) -> bytes:
        """The value of Info, Config or Time. uptime_ns: of the running session, by the device's own crystal."""
        settings = self.settings
        if uuid == encoding.INFO_UUID:
            return encoding.encode_info(
                firmware=settings.firmware,
                tick_hz=settings.tick_hz,
                capacity=settings.capacity,
                serial=settings.serial,
                sensor_frame=settings.sensor_frame,
                battery_percent=settings.battery_percent,
                rates_mhz=[settings.config.rate_mhz],
                sessions=[session.entry() for session in self.sessions],
            )
        if uuid == encoding.CONFIG_UUID:
            return encoding.encode_config(settings.config)
        if uuid == encoding.TIME_UUID:
            tick = uptime_ns * settings.tick_hz // 10**9 + self._tick_offset
            # the sensor samples on while the simulation has yet to make what is due: both are of one moment (RP-TIME-4)
            due = 0 if self.finished else self.samples_due(uptime_ns)
            next_index = max(self.running.made, due)
            return encoding.encode_time(tick=tick, session=self.running.number, next_index=next_index)
        if (detail := self._details.read(uuid)) is not None:
            return detail
        raise KeyError(uuid)

    def written(self, uuid: str, payload: bytes) -> None:
        """A write to Control or Config. Raises WriteRefused where an ATT error answers it."""
        if uuid == encoding.CONFIG_UUID:  # there is one setting, so only that can be asked for
            if payload != encoding.encode_config(self.settings.config):
                raise WriteRefused(AttError.VALUE_NOT_ALLOWED)
            return
        if uuid != encoding.CONTROL_UUID:
            raise KeyError(uuid)
        if len(self._indications) >= INDICATIONS_WAITING_MAX:
            raise WriteRefused(AttError.PROCEDURE_ALREADY_IN_PROGRESS)
        decoded = encoding.decode_control(payload)
        status, parameters = (decoded, b"") if isinstance(decoded, Status) else self._control(*decoded)
        answer = encoding.encode_answer(payload[0] if payload else 0, status, parameters)
        self._indications.append((encoding.CONTROL_UUID, answer))

    def _control(self, op: Op, parameters: tuple[int, ...]) -> tuple[Status, bytes]:
        match op:
            case Op.START_LIVE:
                self._live = True
                return Status.DONE, struct.pack("<HI", self.running.number & 0xFFFF, self._filling_first)
            case Op.STOP_LIVE:
                self._live = False
                self._live_waiting.clear()
            case Op.REQUEST:
                return self._start_request(*parameters)
            case Op.CREDIT:
                self._credit = min(CREDIT_MAX, self._credit + parameters[0])
            case Op.ACK:
                return self._acknowledge(*parameters)
            case Op.ABORT:
                self._request = None
        return Status.DONE, b""

    def _session(self, low_half: int) -> Session | None:
        return next((session for session in self.sessions if session.number & 0xFFFF == low_half), None)

    def _start_request(self, low_half: int, first: int, count: int) -> tuple[Status, bytes]:
        if self._request is not None:
            return Status.BUSY, b""
        session = self._session(low_half)
        if session is None:
            return Status.NO_SUCH_SESSION, b""
        end = session.closed if count == encoding.NEWEST else min(first + count, session.closed)
        begin = session.frame_holding(first)
        if first >= end or begin is None or begin.first >= end:
            return Status.NOTHING_HELD, b""
        final = session.frame_holding(end - 1)
        assert final is not None  # the ring loses its oldest frames first, so all after `begin` are there
        self._request = _Request(session, min(first, begin.first), final.end)
        return Status.DONE, struct.pack("<II", self._request.position, self._request.end)

    def _acknowledge(self, low_half: int, index: int) -> tuple[Status, bytes]:
        session = self._session(low_half)
        if session is None:
            return Status.NO_SUCH_SESSION, b""
        session.watermark = max(session.watermark, min(index, session.closed))
        ended = session is not self.running
        if ended and session.watermark == session.closed:
            while session.frames:
                self._erase_oldest(session)
            self.sessions.remove(session)
        while session.frames and session.frames[0].end <= session.watermark - KEPT_BEHIND_WATERMARK:
            self._erase_oldest(session)
        return Status.DONE, struct.pack("<I", session.watermark)

    # What goes out

    def next_indication(self) -> tuple[str, bytes] | None:
        return self._indications.popleft() if self._indications else None

    def next_notification(self) -> tuple[str, bytes] | None:
        """The characteristic and the frame to send now, Live before Backlog; None where nothing may go out."""
        if self._live_waiting:
            return encoding.LIVE_UUID, self._live_waiting.popleft()
        if self._request is None or not self._credit:
            return self._details.next_notification()
        self._credit -= 1
        return encoding.BACKLOG_UUID, self._next_of(self._request)

    def _next_of(self, request: _Request) -> bytes:
        frame = request.session.frame_holding(request.position)
        seq = self._next_seq(FrameType.BACKLOG)
        held_from = min(request.end, frame.first if frame is not None else request.end)
        if frame is None or held_from > request.position:
            first, request.position = request.position, held_from
            last = self._ends(request)
            return encoding.encode_gap(
                cfg_id=self.settings.config.cfg_id,
                seq=seq,
                session=request.session.number,
                first=first,
                tick=self._tick_of(first),
                missing=held_from - first,
                last=last,
            )
        request.position = frame.end
        return encoding.address_frame(frame.data, FrameType.BACKLOG, seq, last=self._ends(request))

    def _ends(self, request: _Request) -> bool:
        if request.position < request.end:
            return False
        self._request = None
        return True
