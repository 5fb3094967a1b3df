"""What a connection to a broker is for the publisher; gateway/sync/mqtt.py is the real one."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Presence:
    """Retained under `topic`: online while the connection lives; offline as its last will, and at a clean end."""

    topic: str
    online: bytes
    offline: bytes


@dataclass(frozen=True, slots=True)
class Accepted:
    """What the broker said to CONNECT. in_flight_max: its receive maximum; packet_bytes_max: None for no limit."""

    protocol: str
    session_present: bool
    in_flight_max: int
    packet_bytes_max: int | None
    place: str = ""
    """Host and port, where they are not those of the settings."""


class Listener(Protocol):
    """Called in the loop."""

    def answered(self, token: int, code: int, words: str) -> None:
        """PUBACK for what was published under this token, with its reason code (MQTT 5, 3.4.2.1; 0 under 3.1.1)."""

    def lost(self, why: str, code: int | None = None) -> None:
        """The connection has ended; called once, and nothing after it. code: of the broker's DISCONNECT, if any."""

    def renew(self, why: str) -> None:
        """The connection should be closed and made anew, once that does no harm."""


class Connection(Protocol):
    @property
    def accepted(self) -> Accepted: ...

    def publish(
        self, topic: str, payload: bytes, *, retain: bool, replayed: bool = False, expiry_s: int | None = None
    ) -> int:
        """Sends with QoS 1, now, and returns the token that its answer will have. Never blocks.

        MQTT 5 also lets us say: replayed, that newer events may have gone before it; expiry_s, after how long no
        subscriber needs it any more.
        """

    async def close(self) -> None:
        """DISCONNECT, after which the broker drops the last will. Bounded in time; the listener hears nothing more."""

    def abort(self) -> None:
        """Drops the connection; the broker publishes the last will."""


class Broker(Protocol):
    async def connect(self, presence: Presence | None, listener: Listener) -> Connection:
        """A new connection with nothing in flight. Raises BrokerUnavailable or BrokerRefused; bounded in time, after
        which no CONNECT leaves any more."""
