"""What goes behind new events: the backlog of an outage, and what somebody has asked for again. Values; no I/O."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from gateway.store import EventLog
from gateway.store.rows import LoggedEvent

READ_AHEAD = 100
"""Events read from the log at a time; a drift event is the largest, about 50 kB."""
ANEW_MAX = 3
"""So often what was asked for is begun anew where a broker has lost its session; one that keeps none, behind a way that
is often cut, would never have all of it."""
SCAN_ROWS = 500
"""Of what was asked for, so many numbers are looked at at a time."""


@dataclass(slots=True, eq=False)
class Request:
    """Events made from since_ns to until_ns (exclusive), in UTC as the clock said then, of one wearable or of all.

    end: the last number that is looked at.
    """

    since_ns: int
    until_ns: int
    wearable: str | None
    end: int
    first: int = 0
    """Of those that were still there when it began."""
    position: int = -1
    """How far it has been looked at; -1 before that has begun."""
    found: int = 0
    acknowledged: int = 0
    refused: int = 0
    ahead: deque[LoggedEvent] = field(default_factory=deque)
    under_way: dict[int, LoggedEvent] = field(default_factory=dict)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    _lost: int = 0
    """Times that the broker has lost its session meanwhile."""
    _anew: bool = False

    def read(self, log: EventLog) -> Callable[[], list[LoggedEvent]] | None:
        """In a thread; None where nothing is left to read."""
        if self.position >= self.end:
            return None

        def between() -> list[LoggedEvent]:
            if self.position < 0:
                self.first = log.first_seq()
                self.position = self.first - 1
            rows = max(0, min(SCAN_ROWS, self.end - self.position))
            found, self.position = log.between(self.position, rows, self.since_ns, self.until_ns, self.wearable)
            return found

        return between

    def take(self, found: list[LoggedEvent]) -> None:
        """Never retained: a state of then is none of now."""
        self.found += len(found)
        self.ahead += [replace(event, retain=False) for event in found]

    def sent(self, event: LoggedEvent) -> None:
        self.under_way[event.seq] = event

    def answered(self, seq: int, *, taken: bool) -> None:
        if self.under_way.pop(seq, None) is not None:
            self.acknowledged += taken
            self.refused += not taken
            self.settle()

    def lose(self) -> None:
        """The broker may have forgotten what it has acknowledged of it."""
        self._lost += 1
        self._anew = self._lost <= ANEW_MAX and not self.over.is_set()

    def begin_anew(self) -> None:
        """With nothing being read of it."""
        self._anew = False
        self.position, self.first = -1, 0
        self.found = self.acknowledged = self.refused = 0
        self.ahead.clear()
        self.under_way.clear()

    def begin_again(self) -> None:
        """What was on its way when a connection ended is still to be sent."""
        if self._anew:
            self.begin_anew()
        self.ahead.extendleft(reversed(self.under_way.values()))
        self.under_way.clear()

    def settle(self) -> None:
        if self.position >= self.end and not self.ahead and not self.under_way and not self._anew:
            self.over.set()
