"""What wearables that keep nothing have in common: a stream that is asked for and watched, sessions that end with it.

Such a wearable is asked to stream after each connect. Its decoder opens a session with the first frame after that and
ends it with the link, or where the device's clock steps.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from gateway.motion.samples import Burst, Coverage, Float32, Int64, Piece, Sensor, SessionEnded
from gateway.motion.units import STANDARD_GRAVITY_M_S2
from gateway.profiles.conversation import (
    Command,
    Connected,
    Disconnected,
    Durable,
    Event,
    Fault,
    Kind,
    Leaving,
    Notified,
    Observe,
    ReadDone,
    Received,
    Retention,
    Room,
    Subscribe,
    Tick,
    WakeAt,
    WriteDone,
    new_session,
)
from gateway.profiles.errors import FrameError

START_S = 10.0
"""From asking to the first frame: a connection interval or two for each write, and at most 2.5 s until a frame is full;
what has brought nothing by then is asked for again. Three times this is less than the link's own bound (60 s)."""
START_TRIES = 3
"""So often on one link; then the link is dropped, which some wearables need to start afresh."""
STALL_S = 15.0
"""A stream that brings nothing for so long has ended, whatever else still notifies; frames come at most 2.5 s apart."""
REMEMBERED_FRAMES = 4
"""A frame that is equal to one of so many before it came twice."""
GRID_HZ = 50.0
"""The rate of the models; of the rates that a wearable offers the nearest that is not below it is asked for."""

ACC_MAX_M_S2, GYRO_MAX_DEG_S = 17 * STANDARD_GRAVITY_M_S2, 2100.0
"""Beyond the widest range of any sensor here (16 g, 2,000 deg/s) and its calibration: not a measurement."""
LIMITS = np.array([ACC_MAX_M_S2] * 3 + [GYRO_MAX_DEG_S] * 3, np.float32)


def measurable(values: NDArray[Any], limits: NDArray[Any] | float) -> bool:
    """Whether all values are numbers and none is beyond its limit."""
    with np.errstate(invalid="ignore"):  # a NaN fails the comparison
        return bool((np.abs(values) <= limits).all())


class StreamingConversation:
    """Subscribes, starts, starts again a bounded number of times, and notices a stream that has ended.

    A family gives the writes that start and stop it, and in `_frame` what it holds of a notification.
    """

    name: ClassVar[str]
    frames_uuid: ClassVar[str]
    """The characteristic that notifies frames."""
    subscriptions: ClassVar[tuple[str, ...]]
    stamped: ClassVar[bool] = True
    """Frames carry a stamp, so that two equal ones are one that came twice."""

    def __init__(self) -> None:
        self._reset(0)

    def _reset(self, now_ns: int) -> None:
        self._linked = False
        self._tries = 1
        self._streaming = False
        self._since_ns = now_ns
        """Of the last frame, or of the last start."""
        self._recent: deque[bytes] = deque(maxlen=REMEMBERED_FRAMES)

    def handle(self, event: Event, now_ns: int) -> list[Command]:
        match event:
            case Connected():
                self._reset(now_ns)
                self._linked = True
                return [Observe(Kind.CONNECTED, b""), *self._opening(), self._wake(now_ns)]
            case Disconnected():
                self._reset(now_ns)
                return [Observe(Kind.DISCONNECTED, b"")]
            case Notified(uuid, payload) if self._linked:
                frame = uuid == self.frames_uuid
                return self._frame_came(payload, now_ns) if frame else self._told(uuid, payload, now_ns)
            case ReadDone(uuid, payload) if self._linked:
                return self._told(uuid, payload, now_ns)
            case Tick() if self._linked:
                return self._tick(now_ns)
            case Leaving() if self._linked:
                return self._farewell()
            case Notified() | ReadDone() | Tick() | WriteDone() | Durable() | Room() | Leaving():
                pass
        return []

    def _opening(self) -> list[Command]:
        return [*(Subscribe(uuid) for uuid in self.subscriptions), *self._starts()]

    def _starts(self) -> list[Command]:
        return []

    def _stops(self) -> list[Command]:
        return []

    def _farewell(self) -> list[Command]:
        """So that it does not measure on for nobody; not every family stops with its link."""
        return self._stops()

    def _told(self, _uuid: str, _payload: bytes, _now_ns: int) -> list[Command]:
        """An answer that is no frame."""
        return []

    def _frame(self, _payload: bytes) -> str | None:
        """What is wrong with a notification; None for one that may be a frame."""
        raise NotImplementedError

    def _is_stamped(self, _payload: bytes) -> bool:
        return self.stamped

    def _frame_came(self, payload: bytes, now_ns: int) -> list[Command]:
        wrong = self._frame(payload)
        if wrong is not None:
            return [Fault("malformed", f"{self.name}: {wrong}")]
        if self._is_stamped(payload) and payload in self._recent:
            return [Fault("duplicate", f"a frame of {len(payload)} bytes came again")]
        self._recent.append(payload)
        self._seen(payload, now_ns)
        return [Observe(Kind.FRAME, payload)]

    def _seen(self, _payload: bytes, now_ns: int) -> None:
        self._streaming, self._since_ns = True, now_ns

    def _tick(self, now_ns: int) -> list[Command]:
        waited_s = (now_ns - self._since_ns) / 1e9
        if self._streaming and waited_s >= STALL_S:
            return [Fault("stalled", f"the stream has brought nothing for {waited_s:.0f} s", fatal=True)]
        if not self._streaming and waited_s >= START_S:
            return self._again("no_stream", f"no frame within {START_S:g} s of the start", now_ns)
        return [self._wake(now_ns)]

    def _again(self, name: str, why: str, now_ns: int) -> list[Command]:
        """Stops and starts again; after START_TRIES the link is given up."""
        if self._tries >= START_TRIES:
            return [Fault(name, f"{why}; tried {self._tries} times", fatal=True)]
        stops = self._stops()
        self._tries += 1
        self._since_ns = now_ns
        return [Fault(name, f"{why}; starting again"), *stops, *self._starts(), self._wake(now_ns)]

    def _wake(self, now_ns: int) -> WakeAt:
        return WakeAt(max(now_ns, self._since_ns + int((STALL_S if self._streaming else START_S) * 1e9)))


def bursts(
    session: int, first: int, taken_ns: Int64, values: Float32, saturated: NDArray[np.bool_], came_ns: Int64
) -> list[Piece]:
    """Consecutive samples of all six channels, cut where saturation begins and ends. saturated: (n,)."""
    cuts = [0, *(int(at) + 1 for at in np.flatnonzero(np.diff(saturated))), len(values)]
    return [
        Burst(session, Sensor.IMU, first + a, taken_ns[a:b], values[a:b], bool(saturated[a]), came_ns[a:b])
        for a, b in pairwise(cuts)
    ]


class StreamingDecoder:
    """Sessions of a wearable that keeps nothing. session: None until a frame has come over this link.

    Frames may be decoded many at a time (`decode_frames`), which tells the same in fewer pieces: for a sample a
    notification numpy takes as long as for a hundred.
    """

    def __init__(self) -> None:
        self.session: int | None = None

    def decode(self, kind: Kind, payload: bytes, at: Received) -> list[Piece]:
        """Raises FrameError."""
        if kind in (Kind.CONNECTED, Kind.DISCONNECTED):
            return self.end()
        if kind is Kind.CONFIG:
            self._config(payload)
        if kind is Kind.FRAME:
            return self._frame(payload, at)
        return []

    def decode_frames(self, rows: Sequence[tuple[bytes, Received]]) -> tuple[list[Piece], int]:
        """What `decode` tells of these frames, one after the other, and how many it refuses."""
        ordinary = self._ordinary([payload for payload, _ in rows], [at.mono_ns for _, at in rows])
        if ordinary is not None:
            return ordinary, 0
        told: list[Piece] = []
        refused = 0
        for payload, at in rows:
            try:
                pieces = self._frame(payload, at)
            except FrameError:
                refused += 1
                continue
            for piece in pieces:
                if isinstance(piece, Burst) and piece.came_ns is None:
                    piece = replace(piece, came_ns=np.full(len(piece.taken_ns), at.mono_ns))
                told.append(piece)
        return told, refused

    def samples_max(self, _payload: bytes) -> int | None:
        """How many samples a frame holds at most, told without decoding it; None where that cannot be told."""
        return None

    def _ordinary(self, _payloads: Sequence[bytes], _mono_ns: Sequence[int]) -> list[Piece] | None:
        """All these frames at once, where they go on as those before and nothing is odd. None otherwise, and then
        nothing has been done."""
        return None

    def state(self) -> dict[str, object]:
        """JSON values, for `restore`."""
        raise NotImplementedError

    @classmethod
    def restore(cls, state: dict[str, object]) -> Self:
        raise NotImplementedError

    def begin(self, at: Received) -> int:
        """The running session, a new one if there is none."""
        if self.session is None:
            self.session = new_session(at)
        return self.session

    def end(self) -> list[Piece]:
        """What was still held back, and the end of the session."""
        pieces = self._forget()
        if self.session is not None:
            pieces.append(SessionEnded(self.session))
        self.session = None
        return pieces

    def _config(self, _payload: bytes) -> None:
        """What a CONFIG row tells."""

    def _frame(self, _payload: bytes, _at: Received) -> list[Piece]:
        raise NotImplementedError

    def _forget(self) -> list[Piece]:
        """Drops what belongs to the session that ends; returns what of it can still be told."""
        raise NotImplementedError


class StreamingProfile:
    """What such families have in common; each names its conversation and its decoder."""

    name: str
    service_uuid: str
    retention = Retention.NONE
    rate_hz: float
    sensor_frame: tuple[int, int, int] | None = (1, 2, 3)
    silence_s = 5.0
    advertised_names: tuple[str, ...] = ()
    """How the names of such wearables begin, as far as known (unverified)."""
    without_service = ""
    """What a person can do about one that lacks the service, where some do."""
    converses: type[StreamingConversation]
    decodes: type[StreamingDecoder]

    @property
    def counts_samples(self) -> bool:
        """Its frames time them, so that a loss shows."""
        return self.converses.stamped

    def conversation(self, _have: dict[int, Coverage]) -> StreamingConversation:
        return self.converses()

    def decoder(self, state: dict[str, object] | None = None) -> StreamingDecoder:
        return self.decodes() if state is None else self.decodes.restore(state)
