"""What may go to the log beside what the daemon makes itself."""

import json

import pytest

from gateway import events
from gateway.control.rescored import PAYLOAD_BYTES_MAX, Rescored, acceptable
from gateway.errors import GatewayError, InputRejected
from tests.gateway.client.conftest import made

__all__ = ["made"]

LIVE = {"left": "aaaaaaaaaaaa", "right": "bbbbbbbbbbbb"}


def accepted(event, **more):
    payload = event if isinstance(event, bytes) else events.encode(event)
    return acceptable([Rescored(payload, 7)], "home", LIVE, **more)


def test_a_prediction_by_another_model_is_logged_to_the_byte(made):
    event = made.prediction(5, mono_us=3)
    (logged,) = accepted(event)
    assert (logged.payload, logged.source, logged.id) == (events.encode(event), event.source, event.id)
    assert (logged.kind, logged.wearable, logged.topic) == ("prediction", "left", "fidget/v1/home/left/prediction")
    assert (logged.created_ns, logged.boot_id, logged.retain) == (7, event.bootid, False)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"derivation": "aaaaaaaaaaaa"}, "by what answers for left now, whose answers only the daemon makes"),
        ({"source": "urn:fidget:wearable:door"}, r"of no wearable of this gateway \(urn:fidget:wearable:door, home\)"),
        ({"gateway": "other"}, r"of no wearable of this gateway \(urn:fidget:wearable:left, other\)"),
        ({"id": "mine"}, "event mine: its windows make it 00000000000000ab-5-9f86d081884c"),
    ],
)
def test_what_is_not_one_is_refused(made, change, complaint):
    attributes = {name: value for name, value in change.items() if name in ("gateway",)}
    chosen = {name: value for name, value in change.items() if name in ("derivation", "source")}
    event = made.prediction(5, **chosen, **attributes)
    if "id" in change:
        event = event.model_copy(update={"id": change["id"]})
    with pytest.raises(InputRejected, match=complaint):
        accepted(event)


def test_other_kinds_and_what_is_no_event_are_refused(made):
    with pytest.raises(InputRejected, match="no prediction"):
        accepted(made.clock(0))
    with pytest.raises(GatewayError, match="event: message: Invalid JSON"):
        accepted(b"no event")
    with pytest.raises(InputRejected, match=f"event: {PAYLOAD_BYTES_MAX + 1} bytes, more than {PAYLOAD_BYTES_MAX}"):
        accepted(b" " * (PAYLOAD_BYTES_MAX + 1))


def test_it_comes_over_the_socket_as_it_was(made):
    one = Rescored(events.encode(made.prediction(5)), 2**62)
    assert Rescored.of(json.loads(json.dumps(one.told()))) == one


@pytest.mark.parametrize(
    "told", [{}, {"payload": "x"}, {"payload": 1, "created_ns": 1}, {"payload": "", "created_ns": 2**63}]
)
def test_what_is_told_otherwise_is_refused(told):
    with pytest.raises(InputRejected, match="events: expected payload, a text, and created_ns, a number, of each"):
        Rescored.of(told)
