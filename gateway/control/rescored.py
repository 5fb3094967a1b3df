"""Predictions that were derived again by another model, on their way to the event log. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from gateway import events
from gateway.errors import InputRejected
from gateway.store.rows import LoggedEvent

PAYLOAD_BYTES_MAX = 1 << 15


@dataclass(frozen=True, slots=True)
class Rescored:
    """payload: the event's bytes. created_ns: UTC as the journal row behind it has it, trusted or not."""

    payload: bytes
    created_ns: int

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Self:
        """As it stands on the local socket. Raises InputRejected."""
        match told:
            case {"payload": str(payload), "created_ns": int(created_ns)} if -(2**63) <= created_ns < 2**63:
                return cls(payload.encode(errors="replace"), created_ns)
        raise InputRejected("events: expected payload, a text, and created_ns, a number, of each")

    def told(self) -> dict[str, Any]:
        return {"payload": self.payload.decode(), "created_ns": self.created_ns}


def acceptable(rescored: Sequence[Rescored], gateway: str, live: Mapping[str, str]) -> list[LoggedEvent]:
    """As the log holds them. live: for each wearable the derivation of what answers for it now, whose events are its
    own to make. Raises InputRejected where any of them is something else than a prediction by another model."""
    return [_accepted(one, gateway, live) for one in rescored]


def _accepted(one: Rescored, gateway: str, live: Mapping[str, str]) -> LoggedEvent:
    if len(one.payload) > PAYLOAD_BYTES_MAX:
        raise InputRejected(f"event: {len(one.payload)} bytes, more than {PAYLOAD_BYTES_MAX}")
    event = events.decode(one.payload)
    if not isinstance(event, events.Prediction):
        raise InputRejected(f"event {event.id}: no prediction")
    wearable = next((name for name in live if events.wearable_source(name) == event.source), None)
    if wearable is None or event.gateway != gateway:
        raise InputRejected(f"event {event.id}: of no wearable of this gateway ({event.source}, {event.gateway})")
    data, named = event.data, f"event {event.id}"
    if data.derivation == live[wearable]:
        raise InputRejected(f"{named}: by what answers for {wearable} now, whose answers only the daemon makes")
    first, last = data.windows[0].number, data.windows[-1].number
    expected = events.prediction_id(int(data.session, 16), first, data.derivation, last)
    if event.id != expected:
        raise InputRejected(f"event {event.id}: its windows make it {expected}")
    topic = events.topic_of(events.TOPIC_PREFIX, gateway, wearable, "prediction")
    return LoggedEvent("prediction", wearable, event.source, event.id, topic, one.payload, one.created_ns, event.bootid)
