"""Which samples are missing from a stream whose frames carry neither time nor number: an estimate from when they came.

A sample's device time is its index over the nominal rate. The lower envelope of (arrival - that time) is kept: nothing
comes sooner than the radio's least delay, so what comes later than the envelope by more than LATE_S has waited or
follows lost samples. Which of the two shows in what comes next: what has waited comes in a burst and catches up. So
samples that come late are held back until they have caught up (nothing was lost) or have not come closer for SETTLE_S
(as many were lost as explain what remains; they are counted before the first that was held back). What comes later
still by more than LATE_S than those that are held back follows a loss of its own, or waits: it is judged alike, and
counted before the first of its own.

The envelope may rise by SKEW of the time, since the sensor's own rate is never quite the nominal one.
What this cannot see: fewer than LATE_S of samples lost at once, and a steady loss of less than SKEW. A count is off by
the radio's jitter at the time, and its place by what the wearable had in its queue when the loss began. A sensor that
is slower than its nominal rate by more than SKEW seems to lose samples. A notification that a radio stack gives twice
is taken for two equal samples.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import cast

import numpy as np
from numpy.typing import NDArray

from gateway.motion.samples import Burst, Float32, Int64, Lost, Piece, Sensor
from gateway.profiles.streaming import bursts

LATE_S = 0.5
"""Above what a good link delays (ten connection intervals of 50 ms)."""
SETTLE_S = 0.5
SKEW = 0.01
"""MPU-9250 and ICM-20948: 1 % over temperature."""
RISE_MAX_S = 1.0
"""The envelope rises for no longer than this over a silence."""
HELD_MAX = 500
"""Samples; 10 s at 50 Hz, more than a link survives without a word (supervision timeouts of 4 to 6 s)."""


@dataclass(slots=True)
class Arrivals:
    """One stream of six channels. next_index: of the next sample that is told."""

    rate_hz: float
    next_index: int = 0
    floor_ns: float | None = None
    """The envelope, at floor_at_ns."""
    floor_at_ns: int = 0
    held: list[list[float]] = field(default_factory=list)
    held_saturated: bool = False
    runs: list[tuple[int, float]] = field(default_factory=list)
    """Of what is held back: where a run begins that is later by more than LATE_S than all before it, and how late those
    of it are that came closest."""
    closer_ns: float = 0.0
    """How late those of the last run were that last came closer by a sample or more, and when they came."""
    closer_at_ns: int = 0

    def clear(self) -> None:
        self.next_index, self.floor_ns = 0, None
        self.held, self.held_saturated, self.runs = [], False, []

    def take(self, values: Float32, saturated: bool, mono_ns: int, session: int) -> list[Piece]:
        """values: (n, 6), n >= 1, all came at mono_ns."""
        newest = self.next_index + len(self.held) + len(values) - 1
        seen_ns = mono_ns - newest * 1e9 / self.rate_hz
        floor_ns = seen_ns if self.floor_ns is None else self._risen_ns(mono_ns)
        late_ns = seen_ns - floor_ns
        if late_ns <= LATE_S * 1e9:
            pieces = [*self._tell_held([(0, 0.0)], session), *self._tell(values, saturated, 0, session)]
            self.floor_ns, self.floor_at_ns = min(seen_ns, floor_ns), mono_ns
            return pieces
        if self._follows_a_loss(late_ns) or late_ns <= self.closer_ns - 1e9 / self.rate_hz:
            self.closer_ns, self.closer_at_ns = late_ns, mono_ns
        self.floor_ns, self.floor_at_ns = floor_ns, mono_ns
        self.held += values.tolist()
        self.held_saturated |= saturated
        settled = mono_ns - self.closer_at_ns >= SETTLE_S * 1e9
        return self.flush(session) if settled or len(self.held) >= HELD_MAX else []

    def take_each(
        self, values: Float32, saturated: NDArray[np.bool_], mono_ns: Sequence[int], session: int
    ) -> list[Piece] | None:
        """As `take` for each of these samples in turn; None, and nothing is done, where one comes late."""
        if self.held or self.floor_ns is None:
            return None
        floor_ns, floor_at_ns = self.floor_ns, self.floor_at_ns
        for index, came_ns in enumerate(mono_ns, self.next_index):
            seen_ns = came_ns - index * 1e9 / self.rate_hz
            floor_ns += SKEW * min(RISE_MAX_S * 1e9, max(0, came_ns - floor_at_ns))
            if seen_ns - floor_ns > LATE_S * 1e9:
                return None
            floor_ns, floor_at_ns = min(seen_ns, floor_ns), came_ns
        self.floor_ns, self.floor_at_ns = floor_ns, floor_at_ns
        first, self.next_index = self.next_index, self.next_index + len(values)
        return bursts(session, first, self._taken_ns(first), values, saturated, np.array(mono_ns, np.int64))

    def flush(self, session: int) -> list[Piece]:
        """What is held back, each run of it after as many lost samples as explain how late it is."""
        return list(self._tell_held(self.runs, session))

    def _follows_a_loss(self, late_ns: float) -> bool:
        """Whether a run begins; else it belongs to the last that is not later than it by more than LATE_S, and what
        was later has waited."""
        while len(self.runs) > 1 and late_ns <= self.runs[-2][1] + LATE_S * 1e9:
            self.runs.pop()
        if not self.runs or late_ns > self.runs[-1][1] + LATE_S * 1e9:
            self.runs.append((len(self.held), late_ns))
            return True
        begin, least_ns = self.runs[-1]
        self.runs[-1] = begin, min(late_ns, least_ns)
        return False

    def _risen_ns(self, mono_ns: int) -> float:
        assert self.floor_ns is not None
        if self.held:
            return self.floor_ns
        return self.floor_ns + SKEW * min(RISE_MAX_S * 1e9, max(0, mono_ns - self.floor_at_ns))

    def _tell_held(self, runs: list[tuple[int, float]], session: int) -> Iterator[Piece]:
        if self.held:
            values, saturated = np.array(self.held, np.float32), self.held_saturated
            self.held, self.held_saturated, self.runs = [], False, []
            told = 0
            for (begin, late_ns), (end, _) in pairwise([*runs, (len(values), 0.0)]):
                lost = round(late_ns * self.rate_hz / 1e9) - told
                yield from self._tell(values[begin:end], saturated, lost, session)
                told += lost

    def _tell(self, values: Float32, saturated: bool, lost: int, session: int) -> Iterator[Piece]:
        first = self.next_index + lost
        if lost:
            yield Lost(session, self.next_index, first, "radio", estimated=True)
        self.next_index = first + len(values)
        yield Burst(session, Sensor.IMU, first, self._taken_ns(first), values, saturated)

    def _taken_ns(self, first: int) -> Int64:
        taken_ns: Int64 = np.rint(np.arange(first, self.next_index) * (1e9 / self.rate_hz)).astype(np.int64)
        return taken_ns

    def state(self) -> dict[str, object]:
        return {
            "next_index": self.next_index,
            "floor_ns": self.floor_ns,
            "floor_at_ns": self.floor_at_ns,
            "held": [list(row) for row in self.held],
            "held_saturated": self.held_saturated,
            "runs": [list(run) for run in self.runs],
            "closer_ns": self.closer_ns,
            "closer_at_ns": self.closer_at_ns,
        }

    def restore(self, state: object) -> None:
        for name, value in cast(dict[str, object], state).items():
            setattr(self, name, value)
