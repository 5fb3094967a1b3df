"""What is on its way to the broker, and what its answers mean. Pure; time is given in seconds."""

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum

from gateway.store.rows import LoggedEvent


class Verdict(StrEnum):
    """What an answer says of an event."""

    DONE = "done"
    SLOW_DOWN = "slow down"
    AGAIN = "again"
    REFUSED = "refused"


SLOW_MIN_S, SLOW_MAX_S = 1.0, 30.0
"""A pause after "quota exceeded", doubled each time until something succeeds."""
TRIES_MAX = 5
"""Of an event to which the broker answers with an error that may pass, or with the end of the connection and nothing
else; then it is set aside."""
ALONE_MAX = 1000
"""So many events are sent one by one, at most, to find the one at which the broker hangs up."""

# PUBACK reason codes (MQTT 5, 3.4.2.1); whatever is not here may pass.
VERDICTS = {
    0x00: Verdict.DONE,
    0x10: Verdict.DONE,  # no matching subscribers: the broker has it all the same
    0x87: Verdict.REFUSED,  # not authorized
    0x90: Verdict.REFUSED,  # topic name invalid
    0x95: Verdict.REFUSED,  # packet too large
    0x97: Verdict.SLOW_DOWN,  # quota exceeded
    0x99: Verdict.REFUSED,  # payload format invalid
}
PACKET_TOO_LARGE = 0x95
BLAMED = {0x87, 0x90, 0x95, 0x99}
"""Reasons of DISCONNECT that speak of one message (MQTT 5, 3.14.2.1): not authorized, topic name invalid, packet too
large, payload format invalid. Brokers may say so instead of answering it."""


@dataclass(slots=True)
class Flight:
    """window: how many events may be on their way; halved when the broker asks for less, grown again by answers."""

    window_max: int = 1
    window: float = 1.0
    under_way: dict[int, LoggedEvent] = field(default_factory=dict)
    """By token."""
    again: deque[LoggedEvent] = field(default_factory=deque)
    """To be sent once more on this connection, before anything new."""
    not_before_s: float = 0.0
    _tries: dict[int, int] = field(default_factory=dict)
    _pause_s: float = SLOW_MIN_S
    _answers: int = 0
    """On this connection."""
    _hung_up: int = 0
    """Connections in a row that ended while something was on its way and nothing had been answered."""
    _suspects: set[int] = field(default_factory=set)
    """One of these makes the broker hang up: they go one by one."""
    _alone: int = 0

    def connected(self, window_max: int) -> None:
        """A new connection: nothing is on its way."""
        self.window_max, self.window = window_max, float(window_max)
        self.under_way.clear()
        self.again.clear()
        self._tries.clear()
        self.not_before_s, self._pause_s = 0.0, SLOW_MIN_S
        self._answers = 0

    def cut(self, code: int | None) -> LoggedEvent | None:
        """The broker has ended the connection, with this reason if any. The event that it will not take, once it is
        known; before that those on their way go one by one on the next connections."""
        stuck = list(self.under_way.values())
        if not stuck:
            return None
        self._hung_up = 0 if self._answers else self._hung_up + 1
        if code not in BLAMED and self._hung_up < TRIES_MAX:
            return None
        self._hung_up = 0
        if len(stuck) > 1:
            self._suspects, self._alone = {event.seq for event in stuck}, ALONE_MAX
            return None
        self._suspects.discard(stuck[0].seq)
        return stuck[0]

    def room(self, now_s: float) -> int:
        """How many may be sent now."""
        window = 1 if self._suspects else int(self.window)
        return 0 if now_s < self.not_before_s else max(0, window - len(self.under_way))

    def sent(self, token: int, event: LoggedEvent) -> None:
        self.under_way[token] = event

    def answered(self, token: int, code: int, now_s: float) -> tuple[LoggedEvent, Verdict] | None:
        """Which event it was, and what becomes of it; None for an answer to nothing of ours."""
        event = self.under_way.pop(token, None)
        if event is None:
            return None
        self._answers += 1
        self._alone -= 1
        self._suspects = self._suspects - {event.seq} if self._alone > 0 else set()
        verdict = VERDICTS.get(code, Verdict.AGAIN)
        if verdict is Verdict.AGAIN:
            self._tries[event.seq] = self._tries.get(event.seq, 0) + 1
            if self._tries[event.seq] >= TRIES_MAX:
                verdict = Verdict.REFUSED
        if verdict in (Verdict.AGAIN, Verdict.SLOW_DOWN):
            self.again.append(event)
            if now_s >= self.not_before_s:  # else it speaks of what was sent before the last such answer
                self.window = max(1.0, self.window / 2)
                self.not_before_s = now_s + self._pause_s
                self._pause_s = min(2 * self._pause_s, SLOW_MAX_S)
        else:
            self._tries.pop(event.seq, None)
        if verdict is Verdict.DONE:
            self._pause_s = SLOW_MIN_S
            self.window = min(float(self.window_max), self.window + 1 / self.window)
        return event, verdict
