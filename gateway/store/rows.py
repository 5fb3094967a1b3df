"""The rows of the store, as the other rooms see them. Payloads are opaque here."""

from dataclasses import dataclass, replace

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
    changes: bool = False
    """An event among them says another activity than the one before."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a destination has acknowledged the event log: all up to `position`, and the ranges (first and last) of
    `beyond`, which are in order and do not touch."""

    destination: str
    position: int
    beyond: tuple[tuple[int, int], ...] = ()

    @property
    def beyond_count(self) -> int:
        return sum(last - first + 1 for first, last in self.beyond)

    def text(self) -> str:
        """As it is stored, position first: "3 5 8-12"."""
        ranges = (f"{first}" if first == last else f"{first}-{last}" for first, last in self.beyond)
        return " ".join((f"{self.position}", *ranges))

    @classmethod
    def of(cls, destination: str, text: str) -> "Cursor":
        """Raises ValueError where it is no such text."""
        position, *beyond = text.split()
        ranges = [tuple(map(int, part.split("-"))) for part in beyond]
        return cls(
            destination, int(position), tuple((first, last) for first, *_, last in ((*r, r[-1]) for r in ranges))
        )


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """All events up to `position` had been acknowledged by then."""

    position: int
    at: Instant


@dataclass(frozen=True, slots=True)
class Parked:
    """An event that a destination has refused for good; reason None: it is parked no longer.

    retaken_at: where the cursor stood when the destination took it after all, far above it. Such an event is kept until
    the destination's checkpoints have passed that position: a broker that forgets may have to be given it again.
    """

    destination: str
    seq: int
    reason: str | None
    retaken_at: int | None = None


@dataclass(frozen=True, slots=True)
class Dropped:
    """What had to go although it was still needed, since the store began: observations of a wearable that no snapshot
    covered, or events of a kind that a destination had not acknowledged.

    kind: "observation", or the events'. wearable: None for the gateway's own events. reason: the bound, "bytes", "age"
    or "disk". bytes: of payloads. oldest_ns, newest_ns: UTC, as the clock said when they were made.
    """

    kind: str
    wearable: str | None
    reason: str
    count: int
    bytes: int
    oldest_ns: int
    newest_ns: int

    def plus(self, later: "Dropped") -> "Dropped":
        return replace(
            self,
            count=self.count + later.count,
            bytes=self.bytes + later.bytes,
            oldest_ns=min(self.oldest_ns, later.oldest_ns),
            newest_ns=max(self.newest_ns, later.newest_ns),
        )
