"""One session's samples to windows on the device's own grid.

Samples arrive in any order, again, and with holes; windows of `length` samples start at multiples of `hop` from sample
0 of the session, whatever is missing. A window goes out once: as soon as all its samples are here, or once its holes
are declared lost, interpolated if they are short, broken if not. Nothing here depends on when or in which order
samples came.
"""

import base64
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from gateway.motion.samples import Coverage, Float32


@dataclass(frozen=True, slots=True)
class WindowShape:
    """In samples. A model's input is `length` long; a new window starts every `hop`."""

    length: int
    hop: int

    def numbers(self, first: int, end: int) -> range:
        """The windows that overlap the samples first to end (exclusive)."""
        return range(max(0, -(-(first - self.length + 1) // self.hop)), (end - 1) // self.hop + 1)


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """values: (length, 6), float32, m/s² and deg/s. interpolated: how many of its samples were."""

    number: int
    values: Float32
    interpolated: int
    saturated: bool


@dataclass(frozen=True, slots=True)
class Broken:
    """Windows, by number first to end (exclusive), that no samples can complete any more."""

    first: int
    end: int


@dataclass(slots=True)
class SessionWindows:
    """interpolate_max: the longest run of lost samples that is interpolated (linearly, between its neighbours)."""

    shape: WindowShape
    interpolate_max: int
    covered: Coverage = field(default_factory=Coverage)
    """Samples that came or are lost for good; all that will be asked for no more."""
    final: Coverage = field(default_factory=Coverage)
    """Windows that went out or broke, by number."""
    late: int = 0
    """Samples that came after they had been declared lost."""
    _lost: Coverage = field(default_factory=Coverage)
    _chunks: dict[int, Float32] = field(default_factory=dict)  # hop samples each, by first index // hop
    _saturated: set[int] = field(default_factory=set)

    def add(self, first: int, values: Float32, saturated: bool) -> list[Window | Broken]:
        """values: (n, 6), consecutive samples from index first on. Returns what became final, in order."""
        end = first + len(values)
        new = self.covered.missing(first, end)
        self.late += sum(max(0, min(high, end) - max(low, first)) for low, high in self._lost.ranges)
        for low, high in new:
            self._store(low, values[low - first : high - first], saturated)
            self.covered.add(low, high)
        return self._settle(new)

    def lose(self, first: int, end: int, *, elsewhere: bool = False) -> list[Window | Broken]:
        """Declares the samples first to end (exclusive) lost for good, as far as they have not come. elsewhere: they
        are not, but another gateway has them, whose windows these are: nothing is interpolated."""
        new = self.covered.missing(first, end)
        settled: list[Window | Broken] = []
        for low, high in new:
            self._lost.add(low, high)
            self.covered.add(low, high)
            settled += self._broken_by(low, whatever_length=elsewhere)
        if settled:
            self._drop()
        return settled + self._settle([r for r in new if r[1] - r[0] <= self.interpolate_max])

    def holes(self) -> list[tuple[int, int]]:
        """What is missing below the newest sample and not lost."""
        ranges = self.covered.ranges
        return self.covered.missing(0, ranges[-1][1]) if ranges else []

    @property
    def watermark(self) -> int:
        """All below is here or lost."""
        return self.covered.contiguous_end(0)

    @property
    def buffered(self) -> int:
        """Samples held for windows to come."""
        return len(self._chunks) * self.shape.hop

    def close(self) -> None:
        """No more samples will come, and none is missing: what is left belongs to no whole window."""
        self._chunks.clear()
        self._saturated.clear()

    def _store(self, first: int, values: Float32, saturated: bool) -> None:
        hop = self.shape.hop
        for chunk in range(first // hop, (first + len(values) - 1) // hop + 1):
            low, high = max(first, chunk * hop), min(first + len(values), (chunk + 1) * hop)
            if chunk not in self._chunks:
                self._chunks[chunk] = np.zeros((hop, 6), np.float32)
            self._chunks[chunk][low - chunk * hop : high - chunk * hop] = values[low - first : high - first]
            if saturated:
                self._saturated.add(chunk)

    def _broken_by(self, lost: int, *, whatever_length: bool) -> list[Window | Broken]:
        """What the run of lost samples around this one breaks: a range, for a run may be as long as 32 bits allow."""
        low, high = next(r for r in self._lost.ranges if r[0] <= lost < r[1])
        if low > 0 and high - low <= self.interpolate_max and not whatever_length:
            return []
        numbers = self.shape.numbers(low, high)
        broken = self.final.missing(numbers.start, numbers.stop)
        self.final.add(numbers.start, numbers.stop)
        return [Broken(*numbers) for numbers in broken]

    def _settle(self, changed: list[tuple[int, int]]) -> list[Window | Broken]:
        settled: list[Window | Broken] = []
        for low, high in changed:
            # A window that ends or starts inside a hole waits for the hole's neighbour, which lies outside of it.
            reach = self.interpolate_max + 1
            for number in self.shape.numbers(max(0, low - reach), high + reach):
                if self.final.contiguous_end(number) == number and (window := self._settled(number)) is not None:
                    self.final.add(number, number + 1)
                    settled.append(window)
        if settled:
            self._drop()
        return settled

    def _settled(self, number: int) -> Window | None:
        first = number * self.shape.hop
        end = first + self.shape.length
        runs = list(self._lost_runs(first, end))
        # A run is as long as it will be only when both its neighbours have come.
        if self.covered.missing(first, end) or any(self.covered.contiguous_end(high) == high for _, high in runs):
            return None
        if any(self.covered.contiguous_end(low - 1) == low - 1 for low, _ in runs):
            return None
        values = self._values(first, end)
        for low, high in runs:
            self._interpolate(values, first, low, high)
        chunks = range(first // self.shape.hop, (end - 1) // self.shape.hop + 1)
        interpolated = sum(min(high, end) - max(low, first) for low, high in runs)
        return Window(number, values, interpolated, any(chunk in self._saturated for chunk in chunks))

    def _lost_runs(self, first: int, end: int) -> Iterator[tuple[int, int]]:
        return ((low, high) for low, high in self._lost.ranges if low < end and high > first)

    def _values(self, first: int, end: int) -> Float32:
        hop = self.shape.hop
        chunks = range(first // hop, (end - 1) // hop + 1)
        empty = np.zeros((hop, 6), np.float32)
        whole = np.concatenate([self._chunks.get(chunk, empty) for chunk in chunks])
        offset = chunks[0] * hop
        return np.ascontiguousarray(whole[first - offset : end - offset])

    def _interpolate(self, values: Float32, first: int, low: int, high: int) -> None:
        before, after = self._values(low - 1, low)[0], self._values(high, high + 1)[0]
        inside = np.arange(max(low, first), min(high, first + len(values)))
        share = ((inside - low + 1) / (high - low + 1)).astype(np.float32)[:, None]
        values[inside - first] = before + share * (after - before)

    def _drop(self) -> None:
        """Forgets chunks and losses that no window to come needs, not even as the neighbour of a hole."""
        hop = self.shape.hop
        for chunk in list(self._chunks):
            if self._settled_around(chunk * hop, (chunk + 1) * hop):
                del self._chunks[chunk]
                self._saturated.discard(chunk)
        self._lost = Coverage([r for r in self._lost.ranges if not self._settled_around(*r)])

    def _settled_around(self, first: int, end: int) -> bool:
        reach = self.interpolate_max + 1
        numbers = self.shape.numbers(max(0, first - reach), end + reach)
        return not self.final.missing(numbers.start, numbers.stop)

    def state(self) -> dict[str, Any]:
        """JSON values; samples as base64 of little-endian float32."""
        return {
            "covered": self.covered.ranges,
            "final": self.final.ranges,
            "lost": self._lost.ranges,
            "late": self.late,
            "saturated": sorted(self._saturated),
            "chunks": {
                str(n): base64.b64encode(v.astype("<f4").tobytes()).decode() for n, v in sorted(self._chunks.items())
            },
        }

    @classmethod
    def restore(cls, shape: WindowShape, interpolate_max: int, state: dict[str, Any]) -> Self:
        def values(text: str) -> Float32:
            return np.frombuffer(base64.b64decode(text), "<f4").astype(np.float32).reshape(shape.hop, 6)

        return cls(
            shape,
            interpolate_max,
            covered=Coverage.of(state["covered"]),
            final=Coverage.of(state["final"]),
            late=state["late"],
            _lost=Coverage.of(state["lost"]),
            _chunks={int(n): values(text) for n, text in state["chunks"].items()},
            _saturated=set(state["saturated"]),
        )
