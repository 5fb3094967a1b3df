"""The rules of one wearable's link: states, a table of transitions, time-outs, backoff.

`advance` takes what happened, the time (seconds of one monotonic clock) and a random number, and returns the link's
next state and what the radio shall do. It does not wait: `deadline_s` says when the next Due is owed.

What is waited for and cleaned up follows what BlueZ needs: one connection attempt at a time; an own bound on each wait
(BlueZ 5.66 tries an absent device for over 100 s); the wearable heard again before each attempt (BlueZ forgets a device
that it has not heard for about 30 s); the client closed after each loss as well, or its subscriptions come back twice;
a device left half open removed before the next attempt; silence taken for a loss, since BlueZ never reports a
peripheral that is connected and dead.
"""

import math
from dataclasses import dataclass, replace
from enum import StrEnum

CONNECT_S = 30.0
"""Connection and service discovery. A wearable that advertises connects within a second or two; discovery at the
longest interval and latency of the profile takes ten; BlueZ itself gives up after 20 to 40."""
CONFIGURE_S = 60.0
"""Subscriptions and first reads, until the first notification: about twenty GATT operations."""
OPERATION_S = 15.0
"""One GATT operation. ATT allows 30 s (Bluetooth Core 5.4, Vol 3, Part F, 3.3.3) and then calls the bearer dead, but a
supervision timeout of 6 s ends a lost link sooner; BlueZ lets a read that needs pairing hang for ever."""
CLOSE_S = 10.0
"""Disconnection. BlueZ takes 2 to 2.6 s by its own timer."""
TURN_S = 120.0
"""Waiting while other wearables connect; after that what was heard is stale in any case."""
FRESH_S = 10.0
"""A wearable heard longer ago than this is listened for again before it is connected."""
STABLE_S = 30.0
"""A link that notified for so long was a good one: what ends it counts as the first failure. So does each loss of a
link that notified: at the edge of reach that is the weather, and the wearable must be heard again in any case."""
BACKOFF_FIRST_S = 0.4
BACKOFF_MAX_S = 30.0
"""A wearable that comes back in reach is connected within this; its ring holds hours."""


class State(StrEnum):
    """absent: not heard, the scanner listens. queued: heard, others are connecting. configuring: connected, no
    notification yet."""

    ABSENT = "absent"
    QUEUED = "queued"
    CONNECTING = "connecting"
    CONFIGURING = "configuring"
    STREAMING = "streaming"
    CLOSING = "closing"
    BACKING_OFF = "backing off"
    STOPPED = "stopped"


LISTENING = frozenset({State.ABSENT, State.QUEUED})
"""In these the scanner must run for this wearable."""
LIVE = frozenset({State.CONFIGURING, State.STREAMING})
"""In these GATT operations may run."""

# Events: what happened.


@dataclass(frozen=True, slots=True)
class Heard:
    """An advertisement of this wearable."""


@dataclass(frozen=True, slots=True)
class Turn:
    """No other wearable is connecting now; this one may, until it gives ReleaseTurn."""


@dataclass(frozen=True, slots=True)
class Opened:
    """Connected, services known."""


@dataclass(frozen=True, slots=True)
class Notified:
    """A notification or indication came."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt to connect failed, or an operation on the live link did.

    half_open: the stack still holds an attempt of its own, which blocks the next one.
    """

    why: str
    half_open: bool = False


@dataclass(frozen=True, slots=True)
class Lost:
    """The stack reports that the link is gone."""


@dataclass(frozen=True, slots=True)
class LetGo:
    """The link is up, and another gateway shall have the wearable (gateway/link/sharing.py)."""

    why: str


@dataclass(frozen=True, slots=True)
class Closed:
    """What Disconnect asked for is done, whatever came of it."""


@dataclass(frozen=True, slots=True)
class Due:
    """deadline_s has come."""


@dataclass(frozen=True, slots=True)
class Stop:
    """The gateway ends, or this wearable is no longer wanted."""


Event = Heard | Turn | Opened | Notified | Failed | Lost | LetGo | Closed | Due | Stop

# Commands: what shall be done.


@dataclass(frozen=True, slots=True)
class TakeTurn:
    """Wait for the right to connect, then report Turn."""


@dataclass(frozen=True, slots=True)
class ReleaseTurn:
    """Give the right to connect back, or stop waiting for it."""


@dataclass(frozen=True, slots=True)
class Connect:
    """Connect and discover services; report Opened, Failed or Lost."""


@dataclass(frozen=True, slots=True)
class Disconnect:
    """End whatever runs on this link, close the client, report Closed. forget: remove the device from the stack too."""

    forget: bool = False


Command = TakeTurn | ReleaseTurn | Connect | Disconnect

TRANSITIONS: dict[tuple[State, type[Event]], State] = {
    (State.ABSENT, Heard): State.QUEUED,
    (State.ABSENT, Stop): State.STOPPED,
    (State.QUEUED, Heard): State.QUEUED,
    (State.QUEUED, Turn): State.CONNECTING,  # or ABSENT, when what was heard is stale
    (State.QUEUED, Due): State.ABSENT,
    (State.QUEUED, Stop): State.STOPPED,
    (State.CONNECTING, Opened): State.CONFIGURING,
    (State.CONNECTING, Failed): State.CLOSING,
    (State.CONNECTING, Lost): State.CLOSING,
    (State.CONNECTING, Due): State.CLOSING,
    (State.CONNECTING, Stop): State.CLOSING,
    (State.CONFIGURING, Notified): State.STREAMING,
    (State.CONFIGURING, Failed): State.CLOSING,
    (State.CONFIGURING, Lost): State.CLOSING,
    (State.CONFIGURING, Due): State.CLOSING,
    (State.CONFIGURING, Stop): State.CLOSING,
    (State.STREAMING, Notified): State.STREAMING,
    (State.STREAMING, Failed): State.CLOSING,
    (State.STREAMING, Lost): State.CLOSING,
    (State.STREAMING, LetGo): State.CLOSING,
    (State.STREAMING, Due): State.CLOSING,
    (State.STREAMING, Stop): State.CLOSING,
    (State.CLOSING, Closed): State.BACKING_OFF,  # or STOPPED, when it was asked to stop
    (State.CLOSING, Due): State.CLOSING,  # once more, removing the device; then as Closed
    (State.CLOSING, Stop): State.CLOSING,
    (State.BACKING_OFF, Due): State.ABSENT,
    (State.BACKING_OFF, Stop): State.STOPPED,
}
"""What is not here changes nothing."""


@dataclass(frozen=True, slots=True)
class Link:
    """silence_s: of the wearable's profile. failures: in a row, for the backoff. why: what ended the link last."""

    silence_s: float
    state: State = State.ABSENT
    deadline_s: float = math.inf
    heard_s: float = -math.inf
    opened_s: float = 0.0
    failures: int = 0
    why: str = ""
    stopping: bool = False
    forgetting: bool = False
    has_turn: bool = False


def backoff_s(failures: int, jitter: float) -> float:
    """Seconds to wait after so many failures in a row; jitter: a random number in [0, 1).

    Doubling with half of it random, so that wearables lost together do not come back together ("equal jitter" in
    M. Brooker, Exponential Backoff and Jitter, 2015).
    """
    whole = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** min(failures - 1, 16))
    return whole * (0.5 + 0.5 * jitter)


def advance(link: Link, event: Event, now_s: float, jitter: float) -> tuple[Link, list[Command]]:
    """The link after this event, and what to do, in this order. jitter: a random number in [0, 1)."""
    if (link.state, type(event)) not in TRANSITIONS:
        return link, []
    if isinstance(event, Due) and now_s < link.deadline_s:
        return link, []
    following = TRANSITIONS[link.state, type(event)]
    match link.state, event:
        case State.STREAMING, Notified():
            return replace(link, deadline_s=now_s + link.silence_s), []
        case State.QUEUED, Heard():
            return replace(link, heard_s=now_s), []
        case State.QUEUED, Turn() if now_s - link.heard_s > FRESH_S:
            return replace(link, state=State.ABSENT, deadline_s=math.inf), [ReleaseTurn()]
        case State.CLOSING, Stop():
            return replace(link, stopping=True), []
        case State.CLOSING, Due() if not link.forgetting:
            return replace(link, forgetting=True, deadline_s=now_s + CLOSE_S), [Disconnect(forget=True)]
        case State.CLOSING, Due():
            following = State.BACKING_OFF
    if following is State.CLOSING:
        return _close(link, event, now_s)
    if link.state is State.CLOSING:
        return _closed(link, now_s, jitter)
    return _enter(link, following, now_s)


def _enter(link: Link, following: State, now_s: float) -> tuple[Link, list[Command]]:
    match following:
        case State.QUEUED:
            return replace(link, state=following, heard_s=now_s, deadline_s=now_s + TURN_S), [TakeTurn()]
        case State.CONNECTING:
            return replace(link, state=following, deadline_s=now_s + CONNECT_S, has_turn=True), [Connect()]
        case State.CONFIGURING:
            opened = replace(link, state=following, opened_s=now_s, deadline_s=now_s + CONFIGURE_S, has_turn=False)
            return opened, [ReleaseTurn()]
        case State.STREAMING:
            return replace(link, state=following, deadline_s=now_s + link.silence_s), []
        case _:  # ABSENT or STOPPED: nothing is under way but, in QUEUED, the wait for the turn
            left: list[Command] = [ReleaseTurn()] if link.state is State.QUEUED else []
            return replace(link, state=following, deadline_s=math.inf), left


def _close(link: Link, event: Event, now_s: float) -> tuple[Link, list[Command]]:
    good = link.state is State.STREAMING and (now_s - link.opened_s >= STABLE_S or isinstance(event, Lost | LetGo))
    match event:
        case Failed(why, half_open):
            forget = half_open
        case LetGo(why):
            forget = False
        case Due():
            why, forget = _overdue(link), False
        case Lost():
            why, forget = "link lost", False
        case _:
            why, forget = "stopped", False
    closing = replace(
        link,
        state=State.CLOSING,
        deadline_s=now_s + CLOSE_S,
        failures=1 if good else link.failures + 1,
        why=why,
        stopping=isinstance(event, Stop),
        forgetting=forget,
    )
    return closing, [Disconnect(forget)]


def _overdue(link: Link) -> str:
    match link.state:
        case State.CONNECTING:
            return f"not connected within {CONNECT_S:g} s"
        case State.CONFIGURING:
            return f"no notification within {CONFIGURE_S:g} s of connecting"
        case _:
            return f"silent for {link.silence_s:g} s"


def _closed(link: Link, now_s: float, jitter: float) -> tuple[Link, list[Command]]:
    """The turn is given back only now where connecting failed: two attempts at once disturb each other in BlueZ."""
    commands: list[Command] = [ReleaseTurn()] if link.has_turn else []
    ended = replace(link, has_turn=False, forgetting=False)
    if link.stopping:
        return replace(ended, state=State.STOPPED, deadline_s=math.inf), commands
    return replace(ended, state=State.BACKING_OFF, deadline_s=now_s + backoff_s(link.failures, jitter)), commands
