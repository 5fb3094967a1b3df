"""How far a destination has acknowledged the event log. Pure."""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field

from gateway.store.rows import Cursor


@dataclass(slots=True)
class CursorState:
    """All up to `position` is acknowledged, and what lies in one of the ranges beyond position + 1.

    Ranges, not numbers: however much is acknowledged out of order, what is stored grows only with the gaps.
    """

    destination: str
    position: int = 0
    _firsts: list[int] = field(default_factory=list)
    _lasts: list[int] = field(default_factory=list)
    """Of disjoint ranges that do not touch, in order; both included."""
    _beyond: int = 0
    """Events in them."""

    @classmethod
    def of(cls, destination: str, cursor: Cursor | None) -> "CursorState":
        state = cls(destination)
        if cursor is not None:
            state.position = cursor.position
            for first, last in cursor.beyond:
                state.absent(first, last + 1)
            state._close_up()
        return state

    @property
    def beyond(self) -> tuple[tuple[int, int], ...]:
        """Ranges above position + 1, first and last."""
        return tuple(zip(self._firsts, self._lasts, strict=True))

    @property
    def acknowledged(self) -> int:
        """Events, of those that there have ever been."""
        return self.position + self._beyond

    def has(self, seq: int) -> bool:
        return self.open_from(seq) != seq

    def open_from(self, seq: int) -> int:
        """The first number from seq on that is not acknowledged."""
        if seq <= self.position:
            seq = self.position + 1
        at = bisect_right(self._firsts, seq) - 1
        return self._lasts[at] + 1 if at >= 0 and seq <= self._lasts[at] else seq

    def acknowledge(self, seq: int) -> None:
        """Also what is not there any more, so that it holds up nothing."""
        if seq == self.position + 1:
            self.position = seq
            self._close_up()
            return
        at = bisect_right(self._firsts, seq) - 1
        if seq <= self.position or (at >= 0 and seq <= self._lasts[at]):
            return
        grows = at >= 0 and seq == self._lasts[at] + 1
        if grows and (at + 1 == len(self._firsts) or self._firsts[at + 1] > seq + 1):
            self._lasts[at] = seq
            self._beyond += 1
        else:
            self._add(seq, seq)

    def absent(self, first: int, end: int) -> None:
        """No event has a number from first to end (exclusive): there is nothing to wait for."""
        if end <= first or end - 1 <= self.position:
            return
        if first <= self.position + 1:
            self.position = end - 1
            self._close_up()
        else:
            self._add(first, end - 1)

    def waiting_in(self, first: int, end: int) -> int:
        """Numbers from first to end (exclusive) that are not acknowledged."""
        first = max(first, self.position + 1)
        held = sum(max(0, min(last + 1, end) - max(low, first)) for low, last in self.beyond)
        return max(0, end - first) - held

    def advance(self, other: Cursor) -> None:
        """Takes for acknowledged what this one has."""
        self.absent(1, other.position + 1)
        for first, last in other.beyond:
            self.absent(first, last + 1)
        self._close_up()

    def rewind(self, position: int) -> None:
        """Takes back what was acknowledged above this position."""
        self.position = min(self.position, position)
        kept = [(first, min(last, position)) for first, last in self.beyond if first <= position]
        self._firsts, self._lasts = [first for first, _ in kept], [last for _, last in kept]
        self._count()

    def waiting(self, last_seq: int) -> int:
        """Events up to last_seq that are not acknowledged."""
        return max(0, last_seq - self.acknowledged)

    def cursor(self) -> Cursor:
        return Cursor(self.destination, self.position, self.beyond)

    def _add(self, first: int, last: int) -> None:
        low = bisect_left(self._lasts, first - 1)  # the first range that touches it or lies above
        high = bisect_right(self._firsts, last + 1)  # one past the last that touches it
        if low < high:
            first, last = min(first, self._firsts[low]), max(last, self._lasts[high - 1])
        self._beyond += last - first + 1 - sum(self._lasts[i] - self._firsts[i] + 1 for i in range(low, high))
        self._firsts[low:high], self._lasts[low:high] = [first], [last]

    def _close_up(self) -> None:
        passed = bisect_right(self._firsts, self.position + 1)
        if passed:
            self.position = max(self.position, self._lasts[passed - 1])
            del self._firsts[:passed], self._lasts[:passed]
            self._count()

    def _count(self) -> None:
        self._beyond = sum(last - first + 1 for first, last in self.beyond)
