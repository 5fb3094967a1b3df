"""Version 1 of the contract grows, and nothing else: held against what was recorded of it."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import events
from tests.gateway.compatibility import broken

RECORDED = Path(__file__).parent / "recorded" / "v1"
MESSAGES = [json.loads(line) for line in (RECORDED / "messages.jsonl").read_text().splitlines()]


def recorded(kind: str) -> dict[str, Any]:
    return dict(json.loads((RECORDED / f"{kind}.json").read_text()))


@pytest.mark.parametrize("kind", events.KINDS)
def test_what_is_published_is_what_was_recorded_and_more(kind: str) -> None:
    assert broken(recorded(kind), events.schema(kind)) == []


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message["id"])
def test_a_message_of_before_is_still_read_to_the_last_field(message: dict[str, Any]) -> None:
    again = events.decode(json.dumps(message).encode())
    sent = again if "following" not in message["data"] else packed(again)
    assert json.loads(events.encode(sent)) == message


def packed(event: events.Event) -> events.Event:
    assert isinstance(event, events.Prediction)
    return event.model_copy(update={"data": events.compacted(event.data)})


@given(st.sampled_from(MESSAGES), st.data())
def test_a_message_of_before_is_still_read_without_what_may_be_left_out(message: dict[str, Any], data: Any) -> None:
    """By the schema that was recorded: whatever that takes, decode takes."""
    kind = message["type"].split(".")[1]
    thinner = copy.deepcopy(message)
    for holder in (thinner, thinner["data"]):
        optional = sorted(set(holder) - {"type", "data", "of"})
        for name in data.draw(st.sets(st.sampled_from(optional)) if optional else st.just(set())):
            del holder[name]
    if jsonschema.Draft202012Validator(recorded(kind)).is_valid(thinner):
        events.decode(json.dumps(thinner).encode())


# The checker itself.


def changed(kind: str, change: Any) -> list[str]:
    schema = events.schema(kind)
    change(schema)
    return broken(recorded(kind), schema)


@pytest.mark.parametrize(
    ("kind", "change", "complaint"),
    [
        ("prediction", lambda s: s["$defs"]["WindowRecord"]["properties"].pop("taken_mono_us"),
         r"event\.data\.windows\[\]\.taken_mono_us: removed"),
        ("prediction", lambda s: s["properties"].pop("subject"), r"event\.subject: removed"),
        ("state", lambda s: s["$defs"]["WearableState"]["properties"].pop("worn"), r"event\.data\.worn: removed"),
        ("state", lambda s: s["$defs"].update(GatewayState=s["$defs"]["WearableState"]),
         r"event\.data\.status: removed"),
        ("prediction", lambda s: s["$defs"]["WindowRecord"]["required"].append("taken_mono_us"),
         r"event\.data\.windows\[\]\.taken_mono_us: required, was not \(messages of before\)"),
        ("prediction", lambda s: s["required"].append("mood"), r"event\.mood: required, was not \(messages"),
        ("clock", lambda s: s["$defs"]["ClockData"]["required"].remove("offset_us"),
         r"event\.data\.offset_us: required, was not \(readers of before\)"),
        ("clock", lambda s: s["$defs"]["ClockData"]["properties"]["offset_us"].update(type="string"),
         r"event\.data\.offset_us: integer is not string \(messages"),
        ("clock", lambda s: s["$defs"]["ClockData"]["properties"]["offset_us"].update(type="number"),
         r"event\.data\.offset_us: number is not integer \(readers"),
        ("clock", lambda s: s["$defs"]["ClockData"]["properties"]["uncertainty_us"].update(minimum=5),
         r"event\.data\.uncertainty_us: minimum 5, was 0 \(messages"),
        ("clock", lambda s: s["$defs"]["ClockData"]["properties"]["uncertainty_us"].pop("minimum"),
         r"event\.data\.uncertainty_us: minimum 0, was none \(readers"),
        ("prediction", lambda s: s["$defs"]["PredictionData"]["properties"]["windows"].update(maxItems=20),
         r"event\.data\.windows: maxItems 20, was 30 \(messages"),
        ("prediction", lambda s: s["$defs"]["WindowRecord"]["properties"]["decision"].update(enum=["activity"]),
         r"event\.data\.windows\[\]\.decision: uncertain is none of activity \(messages"),
        ("prediction", lambda s: s["$defs"]["WindowRecord"]["properties"]["decision"]["enum"].append("maybe"),
         r"event\.data\.windows\[\]\.decision: maybe is none of activity, uncertain \(readers"),
        ("prediction", lambda s: s["properties"]["id"].update(pattern="^x"), r"event\.id: pattern \^x, was none"),
        ("drift", lambda s: s["$defs"]["FeatureDrift"]["properties"]["mean"].update(type="integer"),
         r"event\.data\.features\[\]\.mean: number is not integer \(messages"),
    ],
)  # fmt: skip
def test_what_breaks_somebody_is_found(kind: str, change: Any, complaint: str) -> None:
    found = changed(kind, change)
    assert any(re.search(complaint, line) for line in found), found


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("prediction", lambda s: s["properties"].update(mood={"type": "string"})),
        ("prediction", lambda s: s["$defs"]["WindowRecord"]["properties"].update(sure={"type": "boolean"})),
        ("prediction", lambda s: s["$defs"]["Reason"]["enum"].append("quality")),
        ("state", lambda s: s["$defs"]["WearableState"]["properties"].update(mood={"type": "string"})),
        ("clock", lambda s: s["$defs"]["ClockData"].update(description="told otherwise")),
    ],
)
def test_what_only_adds_breaks_nobody(kind: str, change: Any) -> None:
    assert changed(kind, change) == []


def test_a_reason_of_a_later_version_is_read() -> None:
    (message, *_) = (m for m in MESSAGES if m["type"] == "fidget.prediction.v1")
    record = message["data"]["windows"][0] | {"decision": "uncertain", "reasons": ["too_bumpy", "other_wrist"]}
    later = message | {"data": message["data"] | {"windows": [record]}}
    event = events.decode(json.dumps(later).encode())
    assert isinstance(event, events.Prediction)
    assert event.data.windows[0].reasons == ("too_bumpy", events.Reason.OTHER_WRIST)
