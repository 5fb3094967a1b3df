"""A wearable's sample index to the host's monotonic time, from readings of the wearable's clock.

Only labels depend on this; windows live in device time. Each burst of readings gives one anchor, the reading with the
lowest round trip (as NTP's clock filter does, RFC 5905 section 10); between anchors the time is interpolated, beyond
them it runs on at the nominal rate.
"""

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

from gateway.motion.samples import TimeRead

ANCHORS_MAX = 64
"""Five hours of one anchor every five minutes; older ones are forgotten."""
BURST_NS = 60 * 10**9
"""Readings closer together than this are one burst."""


class Label(NamedTuple):
    """When a sample was taken, on the host's monotonic clock, and how far off that may be."""

    mono_ns: int
    uncertainty_ns: int


class Anchor(NamedTuple):
    sample: float
    mono_ns: int
    half_round_trip_ns: int


@dataclass(slots=True)
class ClockFit:
    """For one session and one boot of the host."""

    rate_hz: float
    anchors: list[Anchor] = field(default_factory=list)
    _tick: int | None = None
    _first: int = 0

    def seen(self, first: int, tick: int) -> None:
        """A frame whose first sample, of this index, was taken at this tick (32 bits, wrapping)."""
        self._tick, self._first = tick, first

    def read(self, reading: TimeRead) -> None:
        """Takes a reading; before the first frame the index that the wearable gives with it must do."""
        half_ns = (reading.ended_ns - reading.started_ns) // 2
        index = float(reading.next_index)
        if self._tick is not None:
            ticks = (reading.tick - self._tick + 2**31) % 2**32 - 2**31
            index = self._first + ticks * self.rate_hz / reading.tick_hz
        anchor = Anchor(index, reading.started_ns + half_ns, half_ns)
        if self.anchors and anchor.mono_ns < self.anchors[-1].mono_ns:
            return  # out of order: nothing to interpolate from
        if self.anchors and anchor.mono_ns - self.anchors[-1].mono_ns < BURST_NS:
            if anchor.half_round_trip_ns > self.anchors[-1].half_round_trip_ns:
                return
            self.anchors.pop()
        self.anchors = [*self.anchors[-ANCHORS_MAX + 1 :], anchor]

    def label(self, sample: float) -> Label | None:
        """When the sample of this index (in its session) was taken; None before the first reading."""
        if not self.anchors:
            return None
        at = bisect_left(self.anchors, sample, key=lambda anchor: anchor.sample)
        near = self.anchors[min(at, len(self.anchors) - 1)]
        if 0 < at < len(self.anchors):
            before = self.anchors[at - 1]
            share = (sample - before.sample) / (near.sample - before.sample)
            mono_ns = before.mono_ns + share * (near.mono_ns - before.mono_ns)
            return Label(round(mono_ns), max(before.half_round_trip_ns, near.half_round_trip_ns))
        return Label(round(near.mono_ns + (sample - near.sample) * 1e9 / self.rate_hz), near.half_round_trip_ns)

    def state(self) -> dict[str, Any]:
        return {"anchors": self.anchors, "tick": self._tick, "first": self._first}

    @classmethod
    def restore(cls, rate_hz: float, state: dict[str, Any]) -> Self:
        return cls(rate_hz, [Anchor(*a) for a in state["anchors"]], state["tick"], state["first"])
