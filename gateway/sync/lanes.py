"""Who goes first: what is new before what an outage has left. Pure; time is given in seconds.

Events go out in the order of their numbers as long as few wait. Where many do, after an outage or on a link that is too
slow, all that wait then become the backlog, and what comes afterwards goes past them. The backlog, and what somebody
asks for again, go at a pace that can be limited, and never fill the flight window.
"""

from dataclasses import dataclass, field

IN_ORDER_MAX = 1000
"""So many that wait are still sent in order: half an hour of one wearable, and some seconds of a window of 20 with a
round trip of 50 ms."""
BYTES_ABOUT = 1000
"""Of an event."""
RANGES_MAX = 64
"""Of acknowledged events beyond the cursor: with more of them the order is kept, so that the cursor stays small."""
LIVE_SHARE = 0.1
"""Of the flight window; what is replayed leaves it alone."""
BURST_S = 0.1
"""So much of a second's worth may go at once after a pause."""


def replay_room(room: int, window: int) -> int:
    """Of so much room in a flight window of this size, how much may be taken by what is replayed."""
    return room - max(1, int(window * LIVE_SHARE)) if window > 1 else room


def is_backlog(waiting: int, ranges: int, messages_s: float | None = None, bytes_s: float | None = None) -> bool:
    """Whether so many waiting events shall let newer ones pass.

    ranges: of acknowledged events beyond the cursor. messages_s, bytes_s: what the backlog may take a second; where
    that is limited, only a second's worth goes unlimited.
    """
    a_second = min(messages_s or IN_ORDER_MAX, (bytes_s or IN_ORDER_MAX * BYTES_ABOUT) / BYTES_ABOUT)
    return waiting > min(IN_ORDER_MAX, a_second) and ranges <= RANGES_MAX


@dataclass(slots=True)
class Pace:
    """At most so many messages and bytes a second, evenly, whatever came before; None: no limit.

    In any span of t seconds at most (t + BURST_S) x the rate goes, and one message more.
    """

    messages_s: float | None = None
    bytes_s: float | None = None
    _due_s: dict[str, float] = field(default_factory=dict)

    def due_s(self) -> float:
        """From when on the next may go; in the past where it may go now."""
        return max(self._due_s.values(), default=0.0)

    def spent(self, now_s: float, size_bytes: int) -> None:
        """One of this size has gone."""
        for name, amount, rate in (("messages", 1, self.messages_s), ("bytes", size_bytes, self.bytes_s)):
            if rate is not None:
                self._due_s[name] = max(self._due_s.get(name, 0.0), now_s - BURST_S) + amount / rate
