"""The rules of one wearable's link: states, a table of transitions, time-outs, backoff, quarantine.

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

CONNECT_S = 20.0
"""Until the link is up, while nobody else waits. A wearable that advertises connects within a second or two; BlueZ
itself gives up after 20 to 40."""
YIELD_S = 5.0
"""The same while others wait for their turn: twice what a wearable needs that is there."""
YIELD_AGAIN_S = 2.0
"""The same of one that has failed twice in a row or more: it has had its time, and has it again once nobody waits."""
DISCOVER_S = 15.0
"""Service discovery; at the longest interval and latency of the profile it takes ten."""
PAIR_S = 30.0
"""Pairing or encrypting: SMP ends after 30 s without an answer (Bluetooth Core 5.4, Vol 3, Part H, 3.4)."""
CONFIGURE_S = 60.0
"""Subscriptions and first reads, until the first notification: about twenty GATT operations."""
OPERATION_S = 15.0
"""One GATT operation. ATT allows 30 s (Bluetooth Core 5.4, Vol 3, Part F, 3.3.3) and then calls the bearer dead, but a
supervision timeout of 6 s ends a lost link sooner; BlueZ lets a read that needs pairing hang for ever."""
SILENT_SHARE = 0.5
"""Of the profile's silence, after which a wearable is told as silent; after all of it the link is ended. Of the
reference profile that is 5 s, some 13 frames."""
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
FAILURES_MAX = 10
"""In a row; the backoff has been at its longest three times by then. More of the same will not help, and each costs
the others a turn."""
QUARANTINE_S = 300.0
"""To twice this, at random: long enough that a broken wearable costs the radio next to nothing, short enough that one
that was charged, moved or configured meanwhile is back before anybody asks."""
UNPAIRED_S = 60.0
"""A quarantine because it wants to be paired: whoever pairs with it beside the daemon must not find it connected, and
does not wait for long afterwards."""

WANTS_PAIRING = "it wants to be paired, which only `gateway pair` may do"

TURN_HELD_S = YIELD_S + DISCOVER_S + PAIR_S + 2 * CLOSE_S
"""So long one wearable keeps the others from connecting, at most. One that never answers keeps them for YIELD_S and
its closing."""


class State(StrEnum):
    """absent: not heard, the scanner listens. queued: heard, others are connecting. discovering: the link is up, its
    services are not known yet. configuring: connected, no notification yet. draining: it streams, and what its memory
    holds is being fetched. silent: connected, and nothing has come for a while. quarantined: tried seldom."""

    ABSENT = "absent"
    QUEUED = "queued"
    CONNECTING = "connecting"
    DISCOVERING = "discovering"
    PAIRING = "pairing"
    CONFIGURING = "configuring"
    STREAMING = "streaming"
    DRAINING = "draining"
    SILENT = "silent"
    CLOSING = "closing"
    BACKING_OFF = "backing off"
    QUARANTINED = "quarantined"
    STOPPED = "stopped"


LISTENING = frozenset({State.ABSENT, State.QUEUED})
"""In these the scanner must run for this wearable."""
COLLECTING = frozenset({State.STREAMING, State.DRAINING})
"""In these its samples come."""
NOTIFIED = COLLECTING | {State.SILENT}
LIVE = frozenset({State.PAIRING, State.CONFIGURING}) | NOTIFIED
"""In these GATT operations may run; none is asked for in PAIRING before the link has opened."""

# Events: what happened.


@dataclass(frozen=True, slots=True)
class Heard:
    """An advertisement of this wearable."""


@dataclass(frozen=True, slots=True)
class Turn:
    """No other wearable is connecting now; this one may, until it gives ReleaseTurn."""


@dataclass(frozen=True, slots=True)
class Crowded:
    """Others wait for the turn that this one has."""


@dataclass(frozen=True, slots=True)
class Linked:
    """The link is up, its services are not known yet. A stack that does not tell gives only Opened."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The stack pairs with it, or asks whether it may."""


@dataclass(frozen=True, slots=True)
class Bonded:
    """Pairing is over, and it may be talked to."""


@dataclass(frozen=True, slots=True)
class Refused:
    """It wants to be paired, which nobody here may do."""


@dataclass(frozen=True, slots=True)
class Opened:
    """Connected, services known."""


@dataclass(frozen=True, slots=True)
class Notified:
    """A notification or indication came."""


@dataclass(frozen=True, slots=True)
class FellBehind:
    """It holds much that is not here yet, and is being fetched."""


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """What it held has been fetched."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt to connect failed, or an operation on the live link did.

    half_open: the stack still holds an attempt of its own, which blocks the next one. lasting: trying again soon will
    not cure it. full: the adapter holds no more links, which is no fault of this wearable.
    """

    why: str
    half_open: bool = False
    lasting: bool = False
    full: bool = False


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
class Release:
    """The operator, or an adapter that is back, wants it tried now."""


@dataclass(frozen=True, slots=True)
class Stop:
    """The gateway ends, or this wearable is no longer wanted."""


Event = (
    Heard
    | Turn
    | Crowded
    | Linked
    | Asked
    | Bonded
    | Refused
    | Opened
    | Notified
    | FellBehind
    | CaughtUp
    | Failed
    | Lost
    | LetGo
    | Closed
    | Due
    | Release
    | Stop
)

# Commands: what shall be done.


@dataclass(frozen=True, slots=True)
class TakeTurn:
    """Wait for the right to connect, then report Turn. failures: in a row; who has fewer goes first."""

    failures: int = 0


@dataclass(frozen=True, slots=True)
class ReleaseTurn:
    """Give the right to connect back, or stop waiting for it."""


@dataclass(frozen=True, slots=True)
class Connect:
    """Connect and discover services; report Linked where that can be told, and Opened, Failed or Lost."""


@dataclass(frozen=True, slots=True)
class Disconnect:
    """End whatever runs on this link, close the client, report Closed. forget: remove the device from the stack too."""

    forget: bool = False


Command = TakeTurn | ReleaseTurn | Connect | Disconnect

_ENDS: dict[type[Event], tuple[State, ...]] = {
    Failed: (State.CLOSING,),
    Lost: (State.CLOSING,),
    Due: (State.CLOSING,),
    Stop: (State.CLOSING,),
}
"""What ends a link, or an attempt at one."""
_STREAMS: dict[type[Event], tuple[State, ...]] = {**_ENDS, LetGo: (State.CLOSING,)}

_TABLE: dict[State, dict[type[Event], tuple[State, ...]]] = {
    State.ABSENT: {Heard: (State.QUEUED,), Stop: (State.STOPPED,)},
    State.QUEUED: {
        Heard: (State.QUEUED,),
        Turn: (State.CONNECTING, State.ABSENT),  # when what was heard is stale
        Due: (State.ABSENT,),
        Stop: (State.STOPPED,),
    },
    State.CONNECTING: {
        Crowded: (State.CONNECTING,),
        Linked: (State.DISCOVERING,),
        Asked: (State.PAIRING,),
        Refused: (State.CLOSING,),
        Opened: (State.CONFIGURING,),
        **_ENDS,
    },
    State.DISCOVERING: {
        Asked: (State.PAIRING,),
        Refused: (State.CLOSING,),
        Opened: (State.CONFIGURING,),
        **_ENDS,
    },
    State.PAIRING: {
        Bonded: (State.DISCOVERING, State.CONFIGURING),  # as far as it was before
        Refused: (State.CLOSING,),
        Opened: (State.CONFIGURING,),
        Notified: (State.STREAMING,),
        **_ENDS,
    },
    State.CONFIGURING: {
        Asked: (State.PAIRING,),
        Refused: (State.CLOSING,),
        Notified: (State.STREAMING,),
        **_ENDS,
    },
    State.STREAMING: {Notified: (State.STREAMING,), FellBehind: (State.DRAINING,), **_STREAMS, Due: (State.SILENT,)},
    State.DRAINING: {Notified: (State.DRAINING,), CaughtUp: (State.STREAMING,), **_STREAMS, Due: (State.SILENT,)},
    State.SILENT: {Notified: (State.STREAMING,), **_STREAMS},
    State.CLOSING: {
        Closed: (State.BACKING_OFF, State.QUARANTINED, State.STOPPED),
        Due: (State.CLOSING, State.BACKING_OFF, State.QUARANTINED, State.STOPPED),  # once more, removing the device
        Stop: (State.CLOSING,),
    },
    State.BACKING_OFF: {Due: (State.ABSENT,), Release: (State.ABSENT,), Stop: (State.STOPPED,)},
    State.QUARANTINED: {Due: (State.ABSENT,), Release: (State.ABSENT,), Stop: (State.STOPPED,)},
}
TRANSITIONS: dict[tuple[State, type[Event]], tuple[State, ...]] = {
    (state, event): following for state, row in _TABLE.items() for event, following in row.items()
}
"""Where an event may lead; what is not here changes nothing."""


@dataclass(frozen=True, slots=True)
class Link:
    """silence_s: of the wearable's profile. failures: in a row, for the backoff. why: what ended the link last.

    tried_s: when the attempt began; opened: whether it has come to a link that can be talked on. asked: whether it has
    paired on this link. quarantine_s: what the next one lasts, 0 where none is due.
    """

    silence_s: float
    state: State = State.ABSENT
    deadline_s: float = math.inf
    heard_s: float = -math.inf
    tried_s: float = 0.0
    opened_s: float = 0.0
    opened: bool = False
    asked: bool = False
    failures: int = 0
    why: str = ""
    quarantine_s: float = 0.0
    stopping: bool = False
    forgetting: bool = False
    has_turn: bool = False


def backoff_s(failures: int, jitter: float) -> float:
    """Seconds to wait after so many failures in a row; jitter: a random number in [0, 1).

    Doubling with half of it random, so that wearables lost together do not come back together ("equal jitter" in
    M. Brooker, Exponential Backoff and Jitter, 2015).
    """
    whole = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** min(max(failures, 1) - 1, 16))
    return whole * (0.5 + 0.5 * jitter)


def advance(link: Link, event: Event, now_s: float, jitter: float) -> tuple[Link, list[Command]]:
    """The link after this event, and what to do, in this order. jitter: a random number in [0, 1)."""
    if (link.state, type(event)) not in TRANSITIONS:
        return link, []
    if isinstance(event, Due) and now_s < link.deadline_s:
        return link, []
    match link.state, event:
        case ((State.STREAMING | State.DRAINING), Notified()):
            return replace(link, deadline_s=now_s + link.silence_s * SILENT_SHARE), []
        case State.QUEUED, Heard():
            return replace(link, heard_s=now_s), []
        case State.QUEUED, Turn() if now_s - link.heard_s > FRESH_S:
            return replace(link, state=State.ABSENT, deadline_s=math.inf), [ReleaseTurn()]
        case State.CONNECTING, Crowded():
            given_s = YIELD_S if link.failures < 2 else YIELD_AGAIN_S
            return replace(link, deadline_s=min(link.deadline_s, link.tried_s + given_s)), []
        case _, Asked() if link.asked:  # once on a link, or a wearable that asks for ever would be waited for as long
            return link, []
        case State.PAIRING, Bonded():
            return _enter(link, State.CONFIGURING if link.opened else State.DISCOVERING, now_s)
        case State.PAIRING, Notified() if not link.opened:
            return link, []
        case State.CLOSING, Stop():
            return replace(link, stopping=True), []
        case State.CLOSING, Due() if not link.forgetting:
            return replace(link, forgetting=True, deadline_s=now_s + CLOSE_S), [Disconnect(forget=True)]
        case State.CLOSING, _:
            return _closed(link, now_s, jitter)
        case _, Release():
            return _enter(replace(link, failures=0), State.ABSENT, now_s)
    following = TRANSITIONS[link.state, type(event)][0]
    if following is State.CLOSING:
        return _close(link, event, now_s)
    return _enter(link, following, now_s)


def _enter(link: Link, following: State, now_s: float) -> tuple[Link, list[Command]]:
    moved = replace(link, state=following)
    match following:
        case State.QUEUED:
            return replace(moved, heard_s=now_s, deadline_s=now_s + TURN_S), [TakeTurn(link.failures)]
        case State.CONNECTING:
            trying = replace(moved, tried_s=now_s, deadline_s=now_s + CONNECT_S, has_turn=True)
            return replace(trying, opened=False, asked=False), [Connect()]
        case State.DISCOVERING:
            return replace(moved, deadline_s=now_s + DISCOVER_S), []
        case State.PAIRING:
            return replace(moved, asked=True, deadline_s=now_s + PAIR_S), []
        case State.CONFIGURING:
            configuring = replace(moved, opened=True, opened_s=now_s, deadline_s=now_s + CONFIGURE_S, has_turn=False)
            return configuring, [ReleaseTurn()] if link.has_turn else []
        case State.STREAMING | State.DRAINING:
            streaming = link.state in COLLECTING
            return (moved if streaming else replace(moved, deadline_s=now_s + link.silence_s * SILENT_SHARE)), []
        case State.SILENT:
            return replace(moved, deadline_s=now_s + link.silence_s * (1 - SILENT_SHARE)), []
        case _:  # ABSENT or STOPPED: nothing is under way but, in QUEUED, the wait for the turn
            left: list[Command] = [ReleaseTurn()] if link.state is State.QUEUED else []
            return replace(moved, deadline_s=math.inf), left


def _close(link: Link, event: Event, now_s: float) -> tuple[Link, list[Command]]:
    good = link.state in NOTIFIED and (now_s - link.opened_s >= STABLE_S or isinstance(event, Lost | LetGo))
    forget, failures, quarantine_s = False, 1 if good else link.failures + 1, 0.0
    match event:
        case Failed(why, half_open, lasting, full):
            forget = half_open or lasting  # the stack may have kept what it knew of an earlier firmware
            failures = link.failures if full else failures
            quarantine_s = QUARANTINE_S if lasting else 0.0
        case LetGo(why):
            pass
        case Refused():
            why, quarantine_s = WANTS_PAIRING, UNPAIRED_S
        case Due():
            why = _overdue(link, now_s)
        case Lost():
            why = "link lost"
        case _:
            why = "stopped"
    closing = replace(
        link,
        state=State.CLOSING,
        deadline_s=now_s + CLOSE_S,
        failures=failures,
        why=why,
        quarantine_s=quarantine_s or (QUARANTINE_S if failures >= FAILURES_MAX else 0.0),
        stopping=isinstance(event, Stop),
        forgetting=forget,
    )
    return closing, [Disconnect(forget)]


def _overdue(link: Link, now_s: float) -> str:
    match link.state:
        case State.CONNECTING:
            return f"not connected within {now_s - link.tried_s:.0f} s"
        case State.DISCOVERING:
            return f"connected, but its services were not told within {DISCOVER_S:g} s"
        case State.PAIRING:
            return f"pairing took more than {PAIR_S:g} s"
        case State.CONFIGURING:
            return f"no notification within {CONFIGURE_S:g} s of connecting"
        case _:
            return f"silent for {link.silence_s:g} s"


def _closed(link: Link, now_s: float, jitter: float) -> tuple[Link, list[Command]]:
    """The turn is given back only now where connecting failed: two attempts at once disturb each other in BlueZ."""
    commands: list[Command] = [ReleaseTurn()] if link.has_turn else []
    ended = replace(link, has_turn=False, forgetting=False, opened=False, quarantine_s=0.0)
    if link.stopping:
        return replace(ended, state=State.STOPPED, deadline_s=math.inf), commands
    if link.quarantine_s:
        until_s = now_s + link.quarantine_s * (1.0 if link.quarantine_s == UNPAIRED_S else 1.0 + jitter)
        return replace(ended, state=State.QUARANTINED, deadline_s=until_s), commands
    return replace(ended, state=State.BACKING_OFF, deadline_s=now_s + backoff_s(link.failures, jitter)), commands
