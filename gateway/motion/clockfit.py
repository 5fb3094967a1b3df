"""A wearable's clock to the host's monotonic clock, for labels alone: windows live in device time.

Device times are ns since the session's origin by the device's own clock (TickCount and the decoders give them). What
is sought is their offset to host time, a line whose slope is the skew of the device's crystal. Each observation bounds
it, and the bounds hold whatever the radio does:

- A reading of the device's clock: it was taken after the host asked and before the answer came.
- A notification: its last sample was taken before it came. This bounds one side only.

All lines between the bounds form a polygon in the plane of skew and offset (the linear program of Moon, Skelly and
Towsley, "Estimation and removal of clock skew from network delay measurements", INFOCOM 1999, with bounds on both sides
as in Berthaud, "Time synchronization over networks using convex closures", IEEE/ACM ToN 8(2), 2000). Where the device
was asked, a label lies on the middle of that polygon (its centroid: what is to be expected where delays spread evenly),
and the uncertainty reaches to the farthest line in it, so that it covers the truth however unlike the two ways are.
Where it cannot be asked, the label lies on Moon's line, under all arrivals and nearest to them. It is late by the least
one-way delay, which nothing shows: the uncertainty covers it up to LEAST_DELAY_NS.

What contradicts the consensus is left out: within a burst of readings by Marzullo's algorithm (as NTP does, RFC 5905
section 11.2.1), between bursts by the polygon that takes in most of them. A clock that was set is followed once
three bursts agree on it; until then labels are off by the step.

A label is made from what was known when it was asked for, and is not changed by what comes later: derived again from
the same observations it is the same, but a neighbour that is labelled later may lie on a better line.

Limits: where each way takes up to 100 ms, evenly spread, eight readings bound the offset by tens of ms. With 96 at the
start, then 48 after every 20 s or sixteenth of what has passed, at most five minutes, labels were within 5 ms from the
first burst on (18 seeds, 50 ppm fast and slow). A device that counts samples for time and is off by more than SKEW_MAX
is found out in its third minute; until then its labels may be off by that skew.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from operator import itemgetter
from typing import Any, NamedTuple, Self

import numpy as np

from gateway.motion.samples import Int64

READINGS_MAX = 96
"""Of one burst; more push out the one with the longest round trip."""
BURST_NS = 5 * 10**9
"""Readings within so long are one burst; a skew of SKEW_MAX moves them by 1 ms meanwhile."""
BURSTS_MAX = 128
"""Five to ten hours of one or two bursts every five minutes; older ones are forgotten."""
SPAN_NS = 60 * 10**9
"""Of the notifications of one span of device time only the soonest counts."""
SPANS_MAX = 64
"""An hour of notifications."""
SKEW_MAX = 200e-6
"""Twice what crystals are allowed over their temperature and age."""
COUNT_SKEW_MAX = 0.05
"""A device without a clock gives counted samples for time; motion sensors sample within a few percent of their rate."""
WANDER_PER_S = 0.5e-6 / 3600
"""Skew changes with temperature: 0.5 ppm an hour, a wrist that warms or cools a 32 kHz crystal (-0.034 ppm/K²) by some
5 K. A bound that is t away counts for WANDER_PER_S t² / 2 less."""
GRAIN_NS = 62_000
"""A tick of 32,768 Hz for the reading and another for the sample."""
LEAST_DELAY_NS = 50_000_000
"""One connection interval, the longest that the reference profile asks for: the least one-way delay is below it."""
JITTER_NS = 100_000_000
"""Of the radio, beyond the least delay. The soonest of n notifications is late by less than 5/n of it in 99 % of the
cases where delays spread evenly, which is the worst here."""
SEEDS = 3
"""So many bursts in a row make another clock of it."""

Vertex = tuple[float, float]
"""Skew, in ns a ns, and offset at Fit.at_ns, in ns beyond Fit.offset_ns."""


class Label(NamedTuple):
    """When a sample was taken, on the host's monotonic clock, and how far off that may be."""

    mono_ns: int
    uncertainty_ns: int


class Reading(NamedTuple):
    device_ns: int
    started_ns: int
    ended_ns: int


class BurstBounds(NamedTuple):
    """The two bounds that a burst of readings leaves: the device's clock showed low_ns at low_mono_ns or later, high_ns
    at high_mono_ns or earlier."""

    low_ns: int
    low_mono_ns: int
    high_ns: int
    high_mono_ns: int


class Span(NamedTuple):
    """The soonest of so many notifications: its last sample and when it came."""

    device_ns: int
    mono_ns: int
    notifications: int


class Fit(NamedTuple):
    """All lines that the bounds allow, and the one that labels lie on."""

    at_ns: int
    offset_ns: int
    polygon: tuple[Vertex, ...]
    line: Vertex


class Bound(NamedTuple):
    """side 1: the offset at x is at most this, -1: at least; x in ns from Fit.at_ns."""

    x: float
    offset: float
    side: int


def _clip(polygon: Sequence[Vertex], bound: Bound) -> Sequence[Vertex]:
    """The part of a convex polygon that the bound allows (Sutherland and Hodgman 1974)."""
    x, offset, side = bound
    over = [side * (a + s * x - offset) for s, a in polygon]
    if max(over) <= 0:
        return polygon
    if min(over) > 0:
        return ()
    kept: list[Vertex] = []
    for k, (vertex, here) in enumerate(zip(polygon, over, strict=True)):
        before, there = polygon[k - 1], over[k - 1]
        if (here > 0) != (there > 0):
            share = there / (there - here)
            kept.append((before[0] + share * (vertex[0] - before[0]), before[1] + share * (vertex[1] - before[1])))
        if here <= 0:
            kept.append(vertex)
    return kept


def _clip_all(polygon: Sequence[Vertex], bounds: Iterable[Bound]) -> Sequence[Vertex]:
    for bound in bounds:
        polygon = _clip(polygon, bound)
        if not polygon:
            break
    return polygon


def _consensus(readings: Sequence[Reading]) -> BurstBounds:
    """The bounds that most readings share (Marzullo 1984)."""
    newest_ns = readings[-1].device_ns
    edges = []
    for k, (device_ns, started_ns, ended_ns) in enumerate(readings):
        drift_ns = SKEW_MAX * abs(newest_ns - device_ns)
        edges += [(started_ns - device_ns - drift_ns, 0, k), (ended_ns - device_ns + drift_ns, 1, k)]
    edges.sort()
    depth, best, found = 0, 0, (0, 0)
    for (_, end, k), (_, _, following) in pairwise(edges):
        depth += -1 if end else 1
        if depth > best:
            best, found = depth, (k, following)
    low = readings[found[0]]
    # The consensus ends with the first interval that ends, which the next edge is: a start would have made it deeper.
    high = readings[found[1]]
    return BurstBounds(low.device_ns, low.started_ns, high.device_ns, high.ended_ns)


@dataclass(slots=True)
class ClockFit:
    """For one session and one boot of the host. Memory is bounded; no order of calls raises."""

    _readings: list[Reading] = field(default_factory=list)
    """Of the newest burst."""
    _bursts: list[BurstBounds] = field(default_factory=list)
    _spans: dict[int, Span] = field(default_factory=dict)
    _skew: float = 0.0
    _fit: Fit | None = None
    _stale: bool = False

    def asked(self, device_ns: int, started_ns: int, ended_ns: int) -> None:
        """The device's clock showed device_ns at some moment from started_ns to ended_ns."""
        if ended_ns < started_ns:
            return
        if self._readings and abs(device_ns - self._readings[0].device_ns) >= BURST_NS:
            self._readings = []
        if not self._readings:
            self._bursts = self._bursts[-BURSTS_MAX + 1 :]
        else:
            self._bursts.pop()
        self._readings.append(Reading(device_ns, started_ns, ended_ns))
        if len(self._readings) > READINGS_MAX:
            self._readings.remove(max(self._readings, key=lambda r: r.ended_ns - r.started_ns))
        self._bursts.append(_consensus(self._readings))
        self._stale = True

    def arrived_each(self, device_ns: Int64, mono_ns: Int64) -> None:
        """Samples taken at device_ns (n,), ascending, came at mono_ns (n,) in notifications of one or more."""
        first = 0
        while first < len(device_ns):
            last_ns = (int(device_ns[first]) // SPAN_NS + 1) * SPAN_NS - 1
            after = int(np.searchsorted(device_ns, last_ns, side="right"))
            device, mono = device_ns[first:after], mono_ns[first:after]
            ahead = device - device[0]
            soonest = int((mono - mono[0] - ahead - self._skew * ahead).argmin())
            notifications = 1 + int(np.count_nonzero(mono[1:] != mono[:-1]))
            self.arrived(int(device[soonest]), int(mono[soonest]), notifications)
            first = after

    def arrived(self, device_ns: int, mono_ns: int, of: int = 1) -> None:
        """A notification came at mono_ns whose last sample was taken at device_ns; the soonest of so many."""
        number = device_ns // SPAN_NS
        span = self._spans.get(number)
        if span is None:
            self._spans[number], notifications = Span(device_ns, mono_ns, of), of
            if len(self._spans) > SPANS_MAX:
                del self._spans[min(self._spans)]
        else:
            ahead_ns = device_ns - span.device_ns
            sooner = mono_ns - span.mono_ns - ahead_ns < self._skew * ahead_ns
            soonest = (device_ns, mono_ns) if sooner else span[:2]
            notifications = span.notifications + of
            self._spans[number] = Span(*soonest, notifications)
        doubled = notifications.bit_length() > (notifications - of).bit_length()
        doubled = doubled and len(self._spans) <= SEEDS  # there is nothing better yet
        if not self._bursts and (span is None or doubled):
            self._fit = self._solved()  # at once: what is soonest depends on the skew

    def label(self, device_ns: int) -> Label | None:
        """When the device's clock showed device_ns; None before anything was observed. Never falls as device_ns rises
        while nothing new is told."""
        if self._stale:
            self._fit, self._stale = self._solved(), False
        if self._fit is None:
            return None
        at_ns, offset_ns, polygon, line = self._fit
        x = float(device_ns - at_ns)
        offsets = [a + s * x for s, a in polygon]
        low, high = min(offsets), max(offsets)
        offset = line[1] + line[0] * x
        uncertainty = max(high - offset, offset - low, 0 if self._bursts else LEAST_DELAY_NS)
        uncertainty += _wander_ns(x) + GRAIN_NS
        return Label(device_ns + offset_ns + round(offset), round(uncertainty))

    def _solved(self) -> Fit | None:
        if self._bursts:
            at_ns, mono_ns = max((burst.high_ns, burst.high_mono_ns) for burst in self._bursts)
        else:
            at_ns, mono_ns, _ = self._spans[max(self._spans)]
        offset_ns = mono_ns - at_ns

        def bound(device_ns: int, mono_ns: float, side: int) -> Bound:
            x = float(device_ns - at_ns)
            return Bound(x, mono_ns - device_ns - offset_ns + side * (_wander_ns(x) + GRAIN_NS), side)

        groups = [(bound(b.low_ns, b.low_mono_ns, -1), bound(b.high_ns, b.high_mono_ns, 1)) for b in self._bursts]
        if not groups:
            for device_ns, mono_ns, count in self._spans.values():
                soonest_ns = mono_ns - LEAST_DELAY_NS - 5 * JITTER_NS // count
                groups.append((bound(device_ns, soonest_ns, -1), bound(device_ns, mono_ns, 1)))
        polygon, left_out = _agreed(groups, SKEW_MAX)
        if not self._bursts and left_out > 1:
            counted, left_out_counted = _agreed(groups, COUNT_SKEW_MAX)
            if 2 * left_out_counted <= left_out:
                polygon = counted
        if not polygon:
            return None  # no burst is even consistent with itself
        if self._bursts:
            line = _centroid(polygon)
        else:
            middle = sum(group[1].x for group in groups) / len(groups)
            line = max(polygon, key=lambda vertex: vertex[1] + vertex[0] * middle)
        self._skew = line[0]
        return Fit(at_ns, offset_ns, tuple(polygon), line)

    def state(self) -> dict[str, Any]:
        return {
            "readings": self._readings,
            "bursts": self._bursts,
            "spans": list(self._spans.items()),
            "skew": self._skew,
            "fit": self._fit,
            "stale": self._stale,
        }

    @classmethod
    def restore(cls, state: dict[str, Any]) -> Self:
        fit = state["fit"]
        if fit is not None:
            at_ns, offset_ns, polygon, line = fit
            fit = Fit(at_ns, offset_ns, tuple((s, a) for s, a in polygon), line and (line[0], line[1]))
        return cls(
            [Reading(*reading) for reading in state["readings"]],
            [BurstBounds(*burst) for burst in state["bursts"]],
            {number: Span(*span) for number, span in state["spans"]},
            state["skew"],
            fit,
            state["stale"],
        )


def _centroid(polygon: Sequence[Vertex]) -> Vertex:
    """Of the area: what is to be expected where the radio's delays spread evenly."""
    (s0, a0), area, s, a = polygon[0], 0.0, 0.0, 0.0
    for (s1, a1), (s2, a2) in pairwise(polygon[1:]):
        part = (s1 - s0) * (a2 - a0) - (s2 - s0) * (a1 - a0)
        area += part
        s += part * (s1 - s0 + s2 - s0)
        a += part * (a1 - a0 + a2 - a0)
    return (s0 + s / (3 * area), a0 + a / (3 * area)) if area else polygon[0]


def _wander_ns(x: float) -> float:
    return WANDER_PER_S * 1e-9 * x * x / 2


def _agreed(groups: Sequence[tuple[Bound, Bound]], skew_max: float) -> tuple[Sequence[Vertex], int]:
    """The polygon that takes in most pairs of bounds, and how many it leaves out.

    It grows from one of the newest pairs to ever older ones. Behind SEEDS pairs in a row that contradict it the clock
    was another one, and nothing there counts.
    """
    newest_first = sorted(groups, key=lambda group: -group[1].x)
    best: tuple[Sequence[Vertex], int] = ((), len(groups) + 1)
    for seed in newest_first[:SEEDS]:
        reach = 2 * skew_max * max(abs(bound.x) for bound in seed) + abs(seed[0].offset) + abs(seed[1].offset) + 1
        whole = [(-skew_max, -reach), (skew_max, -reach), (skew_max, reach), (-skew_max, reach)]
        polygon, accepted, missed = _clip_all(whole, seed), 1, 0
        if not polygon:
            continue
        for group in newest_first:
            if group is seed:
                continue
            if less := _clip_all(polygon, group):
                polygon, accepted, missed = less, accepted + 1, 0
            else:
                missed += 1
            if missed == SEEDS:
                break
        if len(groups) - accepted < best[1]:
            best = polygon, len(groups) - accepted
        if 8 * best[1] <= len(groups):
            break
    return best


STEP_S, STEP_SHARE = 0.5, 0.05
"""A tick that is further than this from what the index makes of it (the share is of the distance, as sensors sample
within a few percent of their rate) is that of a clock that was set."""
NODES_MAX = 64
NODE_S = 60.0


class Node(NamedTuple):
    sample: int
    tick: int
    device_ns: int


@dataclass(slots=True)
class TickCount:
    """The device time of a session's samples and readings where the device stamps them with a counter of 32 bits.

    The only place where that counter is unwrapped. Which wrap a tick belongs to follows from the sample index with it,
    so that frames may come in any order; and where the tick contradicts the index the clock was set, and the index
    bridges that. The origin is sample 0 by the nominal rate from the first tick that was seen, and the true rate what
    ticks show against the index; where no tick was seen, device time is index / rate. Belongs to the session, not to
    the host's boot.
    """

    rate_hz: float
    tick_hz: int = 0
    _nodes: list[Node] = field(default_factory=list)
    """By index, NODE_S apart or more; of frames only, whose index is that of the tick."""
    _newest: Node | None = None
    """Of the last frame or, before the first one, of the reading."""

    def seen(self, first: int, tick: int) -> None:
        """A frame whose first sample, of this index, was taken at this tick."""
        if not self.tick_hz:
            return  # no reading yet: nothing can be labelled either
        self._newest = node = self._node(first, tick)
        if self._nodes and 0 <= first - self._nodes[-1].sample < NODE_S * self.rate_hz:
            return
        at = bisect_left(self._nodes, first, key=itemgetter(0))
        near = self._nodes[max(0, at - 1) : at + 1]
        if all(abs(first - other.sample) >= NODE_S * self.rate_hz for other in near):
            insort(self._nodes, node)
            if len(self._nodes) > NODES_MAX:
                del self._nodes[1 : NODES_MAX // 2 : 2]

    def read(self, tick: int, tick_hz: int, next_index: int) -> int:
        """The device time at which the counter showed this tick. next_index: of the sample that comes next."""
        self.tick_hz = tick_hz
        node = self._node(next_index, tick)
        if self._newest is None:
            self._newest = node
        return node.device_ns

    def at(self, index: float) -> int:
        """The device time of a sample; index may lie between two."""
        nodes = self._nodes
        if nodes and self._newest is not None and self._newest.sample != nodes[-1].sample:
            nodes = sorted([*nodes, self._newest])
        if not nodes:
            return round(index * 1e9 / self.rate_hz)
        after = bisect_left(nodes, index, key=itemgetter(0))
        near = nodes[min(after, len(nodes) - 1)]
        if 0 < after < len(nodes):
            pair = nodes[after - 1 : after + 1]
        else:
            pair = nodes[:2] if after == 0 else nodes[-2:]
            if abs(pair[-1].sample - pair[0].sample) < NODE_S * self.rate_hz:  # too near for their slope to lead beyond
                return near.device_ns + round((index - near.sample) * 1e9 / self.rate_hz)
        before, behind = pair
        if before.sample == behind.sample:
            return before.device_ns
        elapsed_ns = (index - before.sample) * (behind.device_ns - before.device_ns)
        return before.device_ns + round(elapsed_ns / (behind.sample - before.sample))

    def _node(self, index: int, tick: int) -> Node:
        near = self._newest
        if near is None or abs(index - near.sample) > self.rate_hz:
            near = self._near(index)
        if near is None:
            return Node(index, tick, round(index * 1e9 / self.rate_hz))
        expected = round((index - near.sample) * self.tick_hz / self.rate_hz)
        beyond = (tick - near.tick - expected + 2**31) % 2**32 - 2**31
        if abs(beyond) > STEP_S * self.tick_hz + STEP_SHARE * abs(expected):
            beyond = 0
        return Node(index, tick, near.device_ns + round((expected + beyond) * 1e9 / self.tick_hz))

    def _near(self, index: int) -> Node | None:
        at = bisect_left(self._nodes, index, key=itemgetter(0))
        nodes = self._nodes[max(0, at - 1) : at + 1]
        if self._newest is not None:
            nodes.append(self._newest)
        return min(nodes, key=lambda node: abs(node.sample - index), default=None)

    def state(self) -> dict[str, Any]:
        return {"tick_hz": self.tick_hz, "nodes": self._nodes, "newest": self._newest}

    @classmethod
    def restore(cls, rate_hz: float, state: dict[str, Any]) -> Self:
        nodes = [Node(*node) for node in state["nodes"]]
        return cls(rate_hz, state["tick_hz"], nodes, state["newest"] and Node(*state["newest"]))
