"""How far a destination has acknowledged the event log. Pure."""

from dataclasses import dataclass, field

from gateway.store.rows import Cursor


@dataclass(slots=True)
class CursorState:
    """All up to `position` is acknowledged, and what is in `beyond`, which lies above position + 1."""

    destination: str
    position: int = 0
    beyond: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, destination: str, cursor: Cursor | None) -> "CursorState":
        if cursor is None:
            return cls(destination)
        state = cls(destination, cursor.position, set(cursor.beyond))
        state._close_up()
        return state

    def has(self, seq: int) -> bool:
        return seq <= self.position or seq in self.beyond

    def acknowledge(self, seq: int) -> None:
        """Also what is not there any more, so that it holds up nothing."""
        if not self.has(seq):
            self.beyond.add(seq)
            self._close_up()

    def absent(self, first: int, end: int) -> None:
        """No event has a number from first to end (exclusive): there is nothing to wait for."""
        if first <= self.position + 1:
            self.position = max(self.position, end - 1)
            self.beyond = {seq for seq in self.beyond if seq > self.position}
            self._close_up()
        else:
            self.beyond.update(range(first, end))

    def rewind(self, position: int) -> None:
        """Takes back what was acknowledged above this position."""
        self.position = min(self.position, position)
        self.beyond = {seq for seq in self.beyond if seq <= position}

    def waiting(self, last_seq: int) -> int:
        """Events up to last_seq that are not acknowledged."""
        return max(0, last_seq - self.position - len(self.beyond))

    def cursor(self) -> Cursor:
        return Cursor(self.destination, self.position, frozenset(self.beyond))

    def _close_up(self) -> None:
        while self.position + 1 in self.beyond:
            self.position += 1
            self.beyond.discard(self.position)
