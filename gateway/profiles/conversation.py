"""What a wearable family's conversation is told and what it asks for: the border between pure rules and the radio.

A conversation object takes events with the time and returns commands; it neither waits nor reads a clock. The shell
(gateway/ble) obeys the commands in order, one GATT operation at a time, and reports what came of them.
UUIDs are lower-case strings of 36 characters; times are monotonic ns.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

from gateway.motion.samples import Coverage, Piece


class Retention(StrEnum):
    """What a wearable keeps of samples that could not be sent."""

    NONE = "none"
    LOG = "log"
    RING = "ring"


class Kind(StrEnum):
    """What an observation in the journal is."""

    CONNECTED = "connected"
    DISCONNECTED = "disconnected"
    FRAME = "frame"
    INFO = "info"
    CONFIG = "config"
    TIME = "time"
    ABSENT = "absent"
    """What was asked of the wearable and its answer, which says that it never had that."""
    DETAIL = "detail"
    """A value of the services that any wearable may have (gateway/profiles/details.py)."""
    PASSED = "passed"
    """Nothing came, and time passed: what waits for it learns so from the journal too. No profile sees it."""


@dataclass(frozen=True, slots=True)
class Received:
    """Where an observation stands in the journal: its row, and when it came, in ns of this boot's monotonic clock."""

    row: int
    boot_id: str
    mono_ns: int


def new_session(at: Received) -> int:
    """The 64 bits of a session that the wearable itself does not number: from its first journal row, so that deriving
    again gives the same. blake2b (RFC 7693) of boot id and row, big-endian."""
    return int.from_bytes(hashlib.blake2b(f"{at.boot_id}/{at.row}".encode(), digest_size=8).digest())


# Events: what happened.


@dataclass(frozen=True, slots=True)
class Connected:
    """The link is up and its services are known. rssi_dbm: of the advertisement before it."""

    rssi_dbm: int | None = None


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The link is gone; nothing that was asked for on it will be answered."""


@dataclass(frozen=True, slots=True)
class Notified:
    uuid: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class ReadDone:
    """started_ns: when the request went out; the time of the event is when the answer came."""

    uuid: str
    payload: bytes
    started_ns: int


@dataclass(frozen=True, slots=True)
class WriteDone:
    uuid: str


@dataclass(frozen=True, slots=True)
class Durable:
    """Every sample of this session below index is on the gateway's medium (or is lost for good)."""

    session: int
    index: int


@dataclass(frozen=True, slots=True)
class Room:
    """How many more bytes of frames the journal takes before its next commit; what bounds the credit."""

    bytes_free: int


@dataclass(frozen=True, slots=True)
class Tick:
    """A moment that was asked for with WakeAt has come."""


@dataclass(frozen=True, slots=True)
class Leaving:
    """The gateway is about to end this link of its own accord; what is written now still goes out, briefly."""


Event = Connected | Disconnected | Notified | ReadDone | WriteDone | Durable | Room | Tick | Leaving

# Commands: what shall be done.


@dataclass(frozen=True, slots=True)
class Subscribe:
    """optional: a wearable without this characteristic, or that refuses it, is all right; nothing is reported then."""

    uuid: str
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Read:
    """optional: as for Subscribe."""

    uuid: str
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Write:
    uuid: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Observe:
    """Put this in the journal, as it was received."""

    kind: Kind
    payload: bytes


@dataclass(frozen=True, slots=True)
class Fault:
    """Something was wrong; counted under its name. fatal: this link cannot go on, drop it and try again."""

    name: str
    detail: str
    fatal: bool = False


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Give a Tick at this time; a later WakeAt replaces an earlier one."""

    mono_ns: int


Command = Subscribe | Read | Write | Observe | Fault | WakeAt


class Conversation(Protocol):
    """One wearable's side of the talk; lives as long as the daemon, over many links."""

    def handle(self, event: Event, now_ns: int) -> list[Command]: ...


class Decoder(Protocol):
    """A fold over a wearable's journal rows, in their order; what it remembers is in its state."""

    def decode(self, kind: Kind, payload: bytes, at: Received, /) -> list[Piece]:
        """Samples in SI units, sessions, losses. Raises FrameError for a payload that is not of this family."""
        ...

    def state(self) -> dict[str, object]:
        """What restore takes; JSON values only."""
        ...


@runtime_checkable
class FramesDecoder(Decoder, Protocol):
    """A decoder to which it is all the same whether frames come one by one or many at a time."""

    def decode_frames(self, rows: Sequence[tuple[bytes, Received]], /) -> tuple[list[Piece], int]:
        """What `decode` tells of these frames, one after the other, and how many it refuses."""
        ...

    def samples_max(self, payload: bytes, /) -> int | None:
        """How many samples a frame holds at most, told without decoding it; None where that cannot be told."""
        ...


class Profile(Protocol):
    """A wearable family: constants of its GATT service and makers of its conversation and decoder."""

    name: str
    service_uuid: str
    retention: Retention
    rate_hz: float
    """The nominal rate of the samples that the conversation asks for."""
    sensor_frame: tuple[int, int, int] | None
    """Where the sensor's axes point in its case (motion.axes); None where the wearable itself tells."""
    silence_s: float
    """No notification for this long on a live link is a fault."""
    # And it may have counts_samples, bool, False where its frames neither number nor time them;
    # and advertised_names, tuple[str, ...]: how the names begin of those that do not advertise the service.

    def conversation(self, have: dict[int, Coverage]) -> Conversation:
        """have: for each session (64 bits) what the journal already holds."""
        ...

    def decoder(self, state: dict[str, object] | None = None) -> Decoder: ...


@runtime_checkable
class TellsWithoutService(Protocol):
    """A family of which some wearables lack the service, until somebody does something about it."""

    without_service: str
    """What a person can do; empty where there is nothing."""


@runtime_checkable
class TellsHeld(Protocol):
    """A family whose advertisement says whether a central holds the wearable."""

    def held(self, manufacturer_data: Mapping[int, bytes], /) -> bool | None:
        """manufacturer_data: of an advertisement, by company. None where it does not say."""
        ...


def held_of(profile: Profile, manufacturer_data: Mapping[int, bytes]) -> bool | None:
    """What an advertisement says of it; None for a family whose advertisement never does."""
    return profile.held(manufacturer_data) if isinstance(profile, TellsHeld) else None
