"""The rows of the store, as the other rooms see them. Payloads are opaque here."""

from dataclasses import dataclass

from gateway.clock import Instant


@dataclass(frozen=True, slots=True)
class JournalRow:
    """One observation of one wearable, as received. row numbers are given in the order of arrival and never reused."""

    row: int
    wearable: str
    kind: str
    payload: bytes
    at: Instant


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """A finished event: what goes on the wire, to the byte.

    (source, id) names it for ever. seq is its place in the log (0 before it is there). kind: prediction, drift,
    clock, state. wearable: None for the gateway's own.
    """

    kind: str
    wearable: str | None
    source: str
    id: str
    topic: str
    payload: bytes
    created_ns: int
    boot_id: str
    retain: bool = False
    seq: int = 0


@dataclass(frozen=True, slots=True)
class StreamRecord:
    """What a wearable's stream needs to go on after a restart.

    snapshot: the stream's state after journal row snapshot_row, in the given version; progress: what has been
    committed since (windows, drift periods), written with every event.
    """

    wearable: str
    snapshot_row: int
    snapshot_version: int
    snapshot: bytes
    progress: bytes


@dataclass(frozen=True, slots=True)
class Derived:
    """What one step of a stream gives: committed as a whole, in the order of submission, or not at all."""

    wearable: str | None
    events: tuple[LoggedEvent, ...] = ()
    progress: bytes | None = None
    snapshot: tuple[int, int, bytes] | None = None
    """(journal row, version, state)"""


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a destination has acknowledged the event log: all up to `position`, and the few in `beyond`."""

    destination: str
    position: int
    beyond: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """All events up to `position` had been acknowledged by then."""

    position: int
    at: Instant


@dataclass(frozen=True, slots=True)
class Parked:
    """An event that a destination has refused for good; reason None: it is parked no longer."""

    destination: str
    seq: int
    reason: str | None
