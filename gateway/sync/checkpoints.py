"""When the cursor stood where, so that it can go back by a span of time. Pure."""

from collections.abc import Iterable

from gateway.clock import Instant
from gateway.store.age import age_s
from gateway.store.rows import Checkpoint

A_SPAN = 30
"""Checkpoints taken in the span: going back goes too far by one part in so many, and by what came since the last."""
MOST = 200
"""After many short boots whose age nobody can tell; every other one is dropped then."""


class Checkpoints:
    """Those of the last span_s and one that is older, the oldest first; their positions and times only grow.

    Leaving one out only makes going back go further, unless it is the oldest.
    """

    def __init__(self, span_s: float, known: Iterable[Checkpoint] = ()) -> None:
        self._span_s = span_s
        self._kept = list(known)
        self._latest: Checkpoint | None = None
        """Not taken yet; where the cursor stood before it rested for long."""

    def kept(self) -> tuple[Checkpoint, ...]:
        return tuple(self._kept)

    def take(self, position: int, now: Instant) -> bool:
        """Remembers where the cursor stands, if that is due; then True."""
        kept, latest = self._kept, self._latest
        self._latest = Checkpoint(position, now)
        if kept and (position <= kept[-1].position or not self._due(kept[-1], now)):
            return False
        if latest is not None and self._due(latest, now):
            self._append(latest)
        self._append(Checkpoint(position, now))
        del kept[: max((i for i, c in enumerate(kept) if age_s(c.at, now) >= self._span_s), default=0)]
        if len(kept) > MOST:
            del kept[1::2]
        return True

    def go_back(self) -> int:
        """The position above which everything acknowledged within span_s before the last acknowledgement lies. What was
        taken above it is forgotten.

        Not before now: a broker may have been away for longer than the span, and has lost what it got before that.
        Where no checkpoint is provably so old it is that of the oldest, or the beginning.
        """
        if self._latest is not None:
            self._append(self._latest)
            self._latest = None
        if not self._kept:
            return 0
        last = self._kept[-1].at
        old = [c for c in self._kept if age_s(c.at, last) >= self._span_s]
        position = old[-1].position if old else self._kept[0].position
        self._kept = [c for c in self._kept if c.position <= position]
        return position

    def _due(self, last: Checkpoint, now: Instant) -> bool:
        return age_s(last.at, now) >= self._span_s / A_SPAN

    def _append(self, checkpoint: Checkpoint) -> None:
        if not self._kept or checkpoint.position > self._kept[-1].position:
            self._kept.append(checkpoint)
