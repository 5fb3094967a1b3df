"""From messages to events, each once: pure, what the network brings is an argument."""

from collections import Counter
from dataclasses import dataclass

from gateway.client.clocks import Clocks, parsed_us
from gateway.client.lives import Lives
from gateway.client.order import InOrder
from gateway.client.seen import SEEN_MAX, Seen
from gateway.events import Event, EventRejected, Prediction, State, decode

MESSAGE_BYTES_MAX = 1 << 20
"""Far above any event; a message beyond it is not looked into."""

MONONS_DIGITS_MAX = 19
"""Of 292 years in ns."""


@dataclass(frozen=True, slots=True)
class Received:
    """retained: the broker had kept it from before the subscription. replayed: the gateway says that it sent newer
    events before, or sends this one again (MQTT 5 alone can tell). late: newer predictions of its session have gone on
    already. outlived: a state that a newer one has followed, such as the death of a gateway's earlier life."""

    event: Event
    topic: str
    retained: bool = False
    replayed: bool = False
    late: bool = False
    outlived: bool = False


@dataclass(frozen=True, slots=True)
class Malformed:
    """A message that is no event of this contract; error says why, in a line."""

    topic: str
    payload: bytes
    error: EventRejected


class Sifter:
    """in_order: predictions of a session come in the order of their windows (gateway.client.order)."""

    def __init__(self, *, in_order: bool = False, seen_max: int = SEEN_MAX) -> None:
        self.clocks, self.lives = Clocks(), Lives()
        self._seen = Seen(seen_max)
        self._order = InOrder() if in_order else None
        self._arrived: dict[tuple[str, str], tuple[str, bool, bool]] = {}
        """Of what is held back."""
        self.counters: Counter[str] = Counter()
        """received, repeated, malformed."""

    @property
    def held(self) -> int:
        return self._order.held if self._order else 0

    def take(
        self, topic: str, payload: bytes, *, retained: bool = False, replayed: bool = False
    ) -> list[Received | Malformed]:
        """What comes of a message; nothing of one that came before."""
        self.counters["received"] += 1
        try:
            event = _decoded(payload)
        except EventRejected as error:
            self.counters["malformed"] += 1
            return [Malformed(topic, payload, error)]
        if not self._seen.is_new(event.source, event.id):
            self.counters["repeated"] += 1
            return []
        self.clocks.heed(event)
        outlived = isinstance(event, State) and not self.lives.take(event, replayed=replayed)
        if self._order is None or not isinstance(event, Prediction):
            return [Received(event, topic, retained, replayed, outlived=outlived)]
        self._arrived[event.source, event.id] = topic, retained, replayed
        return self._ordered(self._order.add(event))

    def tick(self) -> list[Received | Malformed]:
        """Called now and then: what has waited for earlier predictions for long enough goes on."""
        return self._ordered(self._order.tick()) if self._order else []

    def flush(self) -> list[Received | Malformed]:
        """At the end."""
        return self._ordered(self._order.flush()) if self._order else []

    def _ordered(self, out: list[tuple[Prediction, bool]]) -> list[Received | Malformed]:
        return [Received(e, *self._arrived.pop((e.source, e.id)), late=late) for e, late in out]


def _decoded(payload: bytes) -> Event:
    """Raises EventRejected."""
    if len(payload) > MESSAGE_BYTES_MAX:
        raise EventRejected(f"event: message: {len(payload)} bytes, more than {MESSAGE_BYTES_MAX}")
    event = decode(payload)
    if len(event.monons) > MONONS_DIGITS_MAX:
        raise EventRejected(f"event: monons: {len(event.monons)} digits, more than {MONONS_DIGITS_MAX}")
    try:
        _ = event.time is None or parsed_us(event.time)
    except ValueError as error:
        raise EventRejected(f"event: time: {error}") from None
    return event
