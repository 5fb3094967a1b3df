"""Device times of samples from the stamps of their frames, where a stamp counts since the wearable's start and wraps.

A stamp is rounded (1 ms at Movesense) and read when a frame is made, so it jitters; samples are taken evenly. Recursive
least squares give them even times (S. Haykin, Adaptive Filter Theory, 4th ed. 2002, 9.3): the line of time over sample
number through all stamps so far, of which older ones count less, FORGETTING from one frame to the next, so that it
follows a slow drift. How far apart the frames are, for losses between them, is weighed as a line does. It begins with
the nominal rate, known as well as two exact frames would tell it: known better, a rate that is off by some percent is
not learnt before its frames are half a sample late; less well, the rounding of two stamps tells it. The first stamp
counts for a FIRST_DOUBT-th: one beside the truth, as of a sensor that is just starting, would bend the line, and
losses would be miscounted. With frames of four samples or fewer a rate may be off by 9 %, of eight by 3 %.

A frame that comes later than expected by half a sample or more tells of round(late / period) lost samples. A stamp that
goes back, comes earlier than expected by more than EARLY_SAMPLES, or goes forward by more than STEP_S, is a step of the
clock: also one by a sample, or the period would be bent to catch up with it, and frames would seem lost ever after.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self, cast

import numpy as np
from numpy.typing import NDArray

from gateway.motion.samples import Burst, Float32, Int64, Lost, Piece, Sensor
from gateway.profiles.conversation import Received
from gateway.profiles.streaming import StreamingDecoder, bursts

STEP_S = 60.0
FORGETTING = 0.985
"""A frame counts half after 46 more: 3.5 s of Movesense's, 0.8 s of Xsens DOT's. One that warms up, 1e-6 of its rate a
second, lags less than 0.1 ms by it; with less memory the rounding of stamps bends the line."""
FIRST_DOUBT = 10.0
PERIOD_TOLERANCE = 0.1
"""A sensor's rate differs from its nominal one by at most so much (LSM6DS3: 10 %); no stamp moves the period beyond."""
EARLY_SAMPLES = 0.75
"""A sensor that is 10 % faster than its nominal rate is early by at most 0.6 samples until its rate is known, at four
samples a frame and stamps that jitter by 4 ms."""


@dataclass(frozen=True, slots=True, eq=False)
class Stamped:
    """first: index of the first sample. lost: samples before it that did not come. taken_ns: since the first sample."""

    first: int
    lost: int
    taken_ns: Int64


@dataclass(slots=True)
class Stamps:
    """One stream's stamps of `bits` bits and `unit_ns` each; a stamp is the time of a frame's first sample."""

    nominal_ns: float
    unit_ns: int
    bits: int = 32
    stamp: int | None = None
    elapsed_ns: int = 0
    """Of that stamp, since the first."""
    period_ns: float = 0.0
    next_ns: float = 0.0
    """When the next frame's first sample is due."""
    next_index: int = 0
    doubt: tuple[float, float, float] | None = None
    """Of the time of the last frame's first sample and of the period: variance, covariance and variance, of which one
    stamp's is 1; None before the first frame. `samples` lie between that sample and the next frame's."""
    samples: int = 0

    def clear(self) -> None:
        self.stamp, self.elapsed_ns, self.next_ns, self.next_index = None, 0, 0.0, 0
        self.period_ns, self.doubt, self.samples = self.nominal_ns, None, 0

    def stepped(self, stamp: int) -> bool:
        """Whether this stamp follows the last one only if the clock was set or restarted, or one of both is garbage."""
        if self.stamp is None:
            return False
        gap_ns = self._gap_ns(self.stamp, stamp)
        early_ns = self.next_ns - (self.elapsed_ns + gap_ns)
        return not 0 <= gap_ns <= STEP_S * 1e9 or early_ns > EARLY_SAMPLES * self.period_ns

    def again(self, stamp: int) -> bool:
        return stamp == self.stamp

    def track(self, stamp: int, n: int) -> Stamped:
        """Takes the frame in; one that is neither `stepped` nor `again`."""
        lost, start_ns = self._follow(stamp, n)
        taken_ns = np.rint(start_ns + self.period_ns * np.arange(n)).astype(np.int64)
        return Stamped(self.next_index - n, lost, taken_ns)

    def track_each(self, stamps: Sequence[int], n: int) -> Stamped | None:
        """Takes frames of n samples in, one after the other; None, and nothing is done, where one does not follow the
        one before as it should."""
        if self.stamp is None:
            return None
        last, elapsed_ns, next_ns, period_ns = self.stamp, self.elapsed_ns, self.next_ns, self.period_ns
        doubt, samples = self.doubt or _doubt_at_first(n), self.samples or n
        lines = []
        for stamp in stamps:
            gap_ns = self._gap_ns(last, stamp)
            late_ns = elapsed_ns + gap_ns - next_ns
            if not 0 < gap_ns <= STEP_S * 1e9 or not -EARLY_SAMPLES <= late_ns / period_ns <= 0.5:
                return None
            start_ns, period_ns, doubt = self._fitted(next_ns, period_ns, late_ns, doubt, samples)
            next_ns, samples = start_ns + n * period_ns, n
            last, elapsed_ns = stamp, elapsed_ns + gap_ns
            lines.append((start_ns, period_ns))
        self.stamp, self.elapsed_ns, self.next_ns, self.period_ns = last, elapsed_ns, next_ns, period_ns
        self.doubt, self.samples = doubt, samples
        first, self.next_index = self.next_index, self.next_index + n * len(stamps)
        start, period = np.array(lines).T[:, :, None]
        return Stamped(first, 0, np.rint(start + period * np.arange(n)).astype(np.int64).ravel())

    def _follow(self, stamp: int, n: int) -> tuple[int, float]:
        """How many samples are missing before the frame, and the time of its first, ns."""
        late_ns, lost = 0.0, 0
        if self.stamp is None:
            self.clear()
        else:
            self.elapsed_ns += self._gap_ns(self.stamp, stamp)
            late_ns = self.elapsed_ns - self.next_ns
            lost = max(0, round(late_ns / self.period_ns))
            late_ns -= lost * self.period_ns
            self.next_ns += lost * self.period_ns
        if self.doubt is None:
            start_ns, self.doubt = self.next_ns, _doubt_at_first(n)
        else:
            since = self.samples + lost  # so many samples have made it so late
            start_ns, self.period_ns, self.doubt = self._fitted(
                self.next_ns, self.period_ns, late_ns, self.doubt, since
            )
        self.stamp, self.samples, self.next_index = stamp, n, self.next_index + lost + n
        self.next_ns = start_ns + n * self.period_ns
        return lost, start_ns

    def _fitted(
        self, next_ns: float, period_ns: float, late_ns: float, doubt: tuple[float, float, float], n: int
    ) -> tuple[float, float, tuple[float, float, float]]:
        """The time of a frame's first sample, the period, and their doubt, from when it was due and how late its stamp
        is, n samples after the one before."""
        half_ns = period_ns / 2  # no more, so that times ascend over the seam of two frames
        late_ns = min(half_ns, max(-half_ns, late_ns))
        time, both, period = doubt
        time, both, period = (
            (time + n * (2 * both + n * period)) / FORGETTING,
            (both + n * period) / FORGETTING,
            period / FORGETTING,
        )
        share = 1 / (time + 1)
        start_ns = next_ns + time * share * late_ns
        period_ns += both * share * late_ns
        low_ns, high_ns = self.nominal_ns * (1 - PERIOD_TOLERANCE), self.nominal_ns * (1 + PERIOD_TOLERANCE)
        after = (time * share, both * share, period - both * both * share)
        return start_ns, min(high_ns, max(low_ns, period_ns)), after

    def _gap_ns(self, before: int, stamp: int) -> int:
        """From one stamp to another; negative where it went back, taking the shorter way round."""
        half = 1 << (self.bits - 1)
        return ((stamp - before + half) % (2 * half) - half) * self.unit_ns

    def state(self) -> dict[str, object]:
        return asdict(self) | {"doubt": self.doubt and list(self.doubt)}

    @classmethod
    def restore(cls, state: object) -> "Stamps":
        """A state of before the line's doubt was kept counts its next frame as the first, in weight alone."""
        kept = {key: value for key, value in cast(dict[str, Any], state).items() if key != "frames"}
        doubt = kept.get("doubt")
        return cls(**kept | {"doubt": doubt and tuple(doubt)})


def _doubt_at_first(n: int) -> tuple[float, float, float]:
    """Behind the first frame, of n samples."""
    return FIRST_DOUBT, 0.0, 1 / (n * n)


class StampedDecoder(StreamingDecoder):
    """A decoder of frames of all six channels, each with a stamp of its first sample; a family reads them."""

    rate_hz: ClassVar[float]
    unit_ns: ClassVar[int]
    """Of a stamp."""

    def __init__(self) -> None:
        super().__init__()
        self.stamps = Stamps(1e9 / self.rate_hz, self.unit_ns)
        self.newest = np.empty((0, 6), np.float32)
        """Of the last frame."""

    def _take(self, stamp: int, values: Float32, saturated: bool, at: Received) -> list[Piece]:
        """values: (n, 6), m/s² and deg/s. A frame that comes twice tells nothing, also where one of both is garbage;
        another one with the same stamp came after the clock had stepped back by as much as was lost."""
        again = self.stamps.again(stamp) and _alike(values, self.newest)
        self.newest = values
        if again:
            return []
        pieces = self.end() if self.stamps.stepped(stamp) else []
        session, tracked = self.begin(at), self.stamps.track(stamp, len(values))
        if tracked.lost:
            pieces.append(Lost(session, tracked.first - tracked.lost, tracked.first, "radio"))
        return [*pieces, Burst(session, Sensor.IMU, tracked.first, tracked.taken_ns, values, saturated)]

    def _take_each(
        self, stamps: Sequence[int], n: int, values: Float32, saturated: NDArray[np.bool_], mono_ns: Sequence[int]
    ) -> list[Piece] | None:
        """Frames of n samples each. values: of all, (n x frames, 6). saturated: of each sample."""
        if self.session is None:
            return None
        tracked = self.stamps.track_each(stamps, n)
        if tracked is None:
            return None
        self.newest = values[-n:]
        came_ns = np.repeat(np.array(mono_ns, np.int64), n)
        return bursts(self.session, tracked.first, tracked.taken_ns, values, saturated, came_ns)

    def _forget(self) -> list[Piece]:
        self.stamps.clear()
        return []

    def state(self) -> dict[str, object]:
        return {"session": self.session, "stamps": self.stamps.state(), "newest": self.newest.tolist()}

    @classmethod
    def restore(cls, state: dict[str, object]) -> Self:
        made = cls()
        made.session, made.stamps = cast(int | None, state["session"]), Stamps.restore(state["stamps"])
        made.newest = np.array(state.get("newest", []), np.float32).reshape(-1, 6)
        return made


def _alike(values: Float32, others: Float32) -> bool:
    """Whether half or more of the samples are equal."""
    n = min(len(values), len(others))
    return n > 0 and 2 * int((values[:n] == others[:n]).all(axis=1).sum()) >= max(len(values), len(others))
