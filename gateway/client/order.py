"""Predictions in the order of their windows, though newer ones are sent before older ones after an outage. Pure."""

import heapq
from dataclasses import dataclass, field

from gateway.events import Prediction

HELD_MAX = 1000
"""Predictions that wait for earlier ones of their session; with more of them the lowest goes on."""
STREAMS_MAX = 1000
"""Sessions (of a wearable, by one model) whose place is remembered; a session is a day or so."""
PATIENCE_TICKS = 2

Stream = tuple[str, str, str]
"""source, session, derivation."""


@dataclass(slots=True)
class _Stream:
    next: int = 0
    """One past the last window that went on."""
    held: list[tuple[int, str, int, Prediction]] = field(default_factory=list)
    """By first window; id breaks ties; the tick at which it came."""


class InOrder:
    """Holds a prediction back while windows before it are missing, until they come or `tick` has been called
    PATIENCE_TICKS times: windows may be missing for good. What comes after that is late, never dropped."""

    def __init__(self, held_max: int = HELD_MAX) -> None:
        self._held_max = held_max
        self._streams: dict[Stream, _Stream] = {}
        self._ticks = 0
        self.held = 0

    def add(self, event: Prediction) -> list[tuple[Prediction, bool]]:
        """What may go on, in order, and whether it is late."""
        key = (event.source, event.data.session, event.data.derivation)
        stream = self._streams.pop(key, None) or _Stream()
        self._streams[key] = stream
        out: list[tuple[Prediction, bool]] = []
        if len(self._streams) > STREAMS_MAX:
            out += self._release(self._streams.pop(next(iter(self._streams))), None)
        heapq.heappush(stream.held, (event.data.windows[0].number, event.id, self._ticks, event))
        self.held += 1
        out += self._release(stream, self._ticks - PATIENCE_TICKS)
        while self.held > self._held_max:
            fullest = max(self._streams.values(), key=lambda one: len(one.held))
            fullest.next = fullest.held[0][0]
            out += self._release(fullest, self._ticks - PATIENCE_TICKS)
        return out

    def tick(self) -> list[tuple[Prediction, bool]]:
        """What has waited for long enough goes on."""
        self._ticks += 1
        since = self._ticks - PATIENCE_TICKS
        return [out for stream in self._streams.values() for out in self._release(stream, since)]

    def flush(self) -> list[tuple[Prediction, bool]]:
        """All that waits, in order."""
        return [out for stream in self._streams.values() for out in self._release(stream, None)]

    def _release(self, stream: _Stream, since: int | None) -> list[tuple[Prediction, bool]]:
        """Those with nothing missing before them, and all up to the last that came by that tick; None: all."""
        out: list[tuple[Prediction, bool]] = []
        overdue = sum(since is None or tick <= since for _, _, tick, _ in stream.held)
        while stream.held and (overdue or stream.held[0][0] <= stream.next):
            first, _, tick, event = heapq.heappop(stream.held)
            self.held -= 1
            overdue -= since is None or tick <= since
            out.append((event, first < stream.next))
            stream.next = max(stream.next, event.data.windows[-1].number + 1)
        return out
