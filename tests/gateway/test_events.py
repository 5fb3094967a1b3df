"""The public contract: what is documented is what is published, and what is published can be read back."""

import ast
import base64
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from datasketches import kll_floats_sketch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway import events

DOCS = Path(__file__).resolve().parents[2] / "docs"
EXAMPLES = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", (DOCS / "events.md").read_text(), re.S)]
IDS = [f"{example['type']} of {example['source']}" for example in EXAMPLES]


@pytest.mark.parametrize("example", EXAMPLES, ids=IDS)
def test_an_example_of_the_docs_is_an_event_to_the_last_field(example: dict[str, Any]) -> None:
    event = events.decode(json.dumps(example).encode())
    assert json.loads(events.encode(event)) == example


@pytest.mark.parametrize("example", EXAMPLES, ids=IDS)
def test_an_example_of_the_docs_satisfies_its_published_schema(example: dict[str, Any]) -> None:
    kind = example["type"].split(".")[1]
    schema = json.loads((DOCS / "schemas" / f"{kind}.v1.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(example)


def reasons_of_loss() -> set[str]:
    """The texts in whatever is told as lost: Lost(...) of the profiles, _lose(...) of the stream."""
    calls = [
        node
        for room in ("profiles", "stream")
        for file in (DOCS.parent / "gateway" / room).glob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and re.search(r"\b_?(Lost|lose)$", ast.unparse(node.func))
    ]
    given = [part for call in calls for argument in call.args for part in ast.walk(argument)]
    return {part.value for part in given if isinstance(part, ast.Constant) and isinstance(part.value, str)}


def test_the_docs_say_what_each_reason_of_a_loss_means() -> None:
    page = (DOCS / "events.md").read_text()
    table = page[page.index("`samples_lost_by` has a key") : page.index("Of the gateway. `start`")]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == reasons_of_loss()


def test_the_docs_have_an_example_of_each_kind_and_of_both_states() -> None:
    assert {example["type"].split(".")[1] for example in EXAMPLES} == set(events.KINDS)
    assert {example["data"]["of"] for example in EXAMPLES if "of" in example["data"]} == {"gateway", "wearable"}


@pytest.mark.parametrize("kind", events.KINDS)
def test_the_schemas_in_the_docs_are_those_of_the_models(kind: str) -> None:
    assert (DOCS / "schemas" / f"{kind}.v1.json").read_text() == events.schema_text(kind)


def test_no_other_schema_stands_in_the_docs() -> None:
    assert {path.name for path in (DOCS / "schemas").iterdir()} == {f"{kind}.v1.json" for kind in events.KINDS}


@pytest.mark.parametrize("example", EXAMPLES, ids=IDS)
def test_attributes_are_as_cloudevents_demands(example: dict[str, Any]) -> None:
    """CloudEvents 1.0.2: required attributes, names of lower-case letters and digits, no null, integers of 32 bits."""
    assert {"specversion", "id", "source", "type"} <= set(example)
    for name, value in example.items():
        assert re.fullmatch(r"[a-z0-9]{1,20}", name)
        assert name == "data" or isinstance(value, str)
    assert datetime.fromisoformat(example["time"]).tzinfo is not None


def test_the_sketch_of_the_docs_is_read_by_its_library() -> None:
    (drift,) = (example for example in EXAMPLES if example["type"] == "fidget.drift.v1")
    (feature,) = drift["data"]["features"].values()
    sketch = kll_floats_sketch.deserialize(base64.b64decode(feature["sketch"]))
    assert (sketch.n, sketch.k) == (drift["data"]["windows"], 200)
    assert (sketch.get_min_value(), sketch.get_max_value()) == (feature["minimum"], feature["maximum"])


def record(**changes: Any) -> dict[str, Any]:
    return {
        "number": 1,
        "start_s": 2.0,
        "decision": "activity",
        "activity": "standing",
        "confidence": 0.75,
        "probabilities": {"standing": 0.75, "snapping": 0.25},
    } | changes


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"decision": "uncertain"}, 'reasons belong to decision "uncertain"'),
        ({"reasons": ["frame_unknown"]}, 'reasons belong to decision "uncertain"'),
        ({"confidence": 0.5}, "confidence is the probability of the activity"),
        ({"activity": "sleeping"}, "confidence is the probability of the activity"),
        ({"confidence": float("nan")}, "finite number"),
        ({"probabilities": {"standing": 1.5, "snapping": 0}}, "less than or equal to 1"),
        ({"number": -1}, "greater than or equal to 0"),
    ],
)
def test_an_answer_that_contradicts_itself_is_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        events.WindowRecord.model_validate(record(**changes))


def test_an_uncertain_answer_says_why_and_keeps_its_probabilities() -> None:
    made = events.WindowRecord.model_validate(record(decision="uncertain", reasons=["frame_unknown"]))
    assert made.activity == "standing"


@pytest.mark.parametrize("count", [0, 31])
def test_a_prediction_holds_1_to_30_windows(count: int) -> None:
    example = next(e for e in EXAMPLES if e["type"] == "fidget.prediction.v1")
    broken = example | {"data": example["data"] | {"windows": [record() for _ in range(count)]}}
    with pytest.raises(events.EventRejected, match=r"data\.windows"):
        events.decode(json.dumps(broken).encode())


@pytest.mark.parametrize(
    ("payload", "complaint"),
    [
        (b"", "event: message: Invalid JSON"),
        (b"[]", "event: message: "),
        (b'{"type": "fidget.weather.v1"}', "event: message: Input tag 'fidget.weather.v1'"),
        (b'{"type": "fidget.clock.v1"}', r"event: fidget\.clock\.v1\.id: Field required"),
    ],
)
def test_what_is_no_event_is_refused_in_one_line(payload: bytes, complaint: str) -> None:
    with pytest.raises(events.EventRejected, match=complaint) as refused:
        events.decode(payload)
    assert "\n" not in str(refused.value)


@given(st.binary(max_size=200) | st.sampled_from(EXAMPLES).map(lambda e: json.dumps(e).encode()[:-7]))
def test_any_bytes_are_an_event_or_refused(payload: bytes) -> None:
    with pytest.raises(events.EventRejected):
        events.decode(payload)


def test_fields_of_a_later_version_are_passed_over() -> None:
    example = EXAMPLES[0] | {"mood": "calm"}
    assert json.loads(events.encode(events.decode(json.dumps(example).encode()))) == EXAMPLES[0]


def test_bytes_are_compact_and_the_same_each_time() -> None:
    payload = json.dumps(EXAMPLES[0]).encode()
    first, second = events.encode(events.decode(payload)), events.encode(events.decode(payload))
    assert first == second
    assert first == json.dumps(json.loads(first), separators=(",", ":")).encode()


@hypothesis_settings(max_examples=200)
@given(st.integers(0, 2**62))
def test_utc_is_written_to_the_microsecond(utc_ns: int) -> None:
    parsed = datetime.fromisoformat(events.rfc3339(utc_ns))
    since = parsed - datetime(1970, 1, 1, tzinfo=UTC)
    assert (since.days * 86_400 + since.seconds) * 10**6 + since.microseconds == utc_ns // 1000


def test_probabilities_keep_seven_decimals() -> None:
    made = events.WindowRecord.model_validate(
        record(confidence=0.123456789, activity="a", probabilities={"a": 0.123456789, "b": 0.5})
    )
    assert made.confidence == made.probabilities["a"] == 0.1234568


IDENTIFIERS = st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**31), st.sampled_from(["aa", "ab"]))


@given(IDENTIFIERS, IDENTIFIERS)
def test_different_windows_have_different_ids(one: tuple[int, int, str], other: tuple[int, int, str]) -> None:
    assert (events.prediction_id(*one) == events.prediction_id(*other)) == (one == other)


@given(st.integers(0, 2**40), st.integers(0, 2**40))
def test_different_periods_have_different_ids(one_ms: int, other_ms: int) -> None:
    same = events.drift_id(1, one_ms / 1000) == events.drift_id(1, other_ms / 1000)
    assert same == (one_ms == other_ms)


def test_names_of_topics_and_sources() -> None:
    assert events.topic_of("fidget/v1", "home", "left", "prediction") == "fidget/v1/home/left/prediction"
    assert events.topic_of("fidget/v1", "home", None, "state") == "fidget/v1/home/state"
    assert events.prediction_id(0xAB, 7, "9f86") == "00000000000000ab-7-9f86"
    assert (events.drift_id(0xAB, 900.0), events.drift_id(0xAB, 0.5)) == (
        "00000000000000ab-900-drift",
        "00000000000000ab-0.5-drift",
    )
    assert [events.drift_id(0xAB, start_s) for start_s in (10_000_000.0, 10_000_900.0)] == [  # four months on
        "00000000000000ab-10000000-drift",
        "00000000000000ab-10000900-drift",
    ]
    assert events.sequence(42) == "0000000042"


TEMPLATES = ["fidget/v1/{gateway}/{wearable}/{kind}", "{kind}/{wearable}/gw-{gateway}", "a/{wearable}/{gateway}{kind}"]


@pytest.mark.parametrize("template", TEMPLATES)
def test_topics_by_a_template_never_meet(template: str) -> None:
    assert events.check_topics(template) == template
    things = [(g, w, k) for g in ("a", "ab", "state") for w in (None, "a", "b", "state") for k in events.KINDS]
    topics = [events.topic_by(template, *thing) for thing in things]
    assert len(set(topics)) == len(things)
    assert not any(set("+#{}") & set(topic) or "//" in topic for topic in topics)


def test_the_default_template_is_the_topics_of_the_contract() -> None:
    for wearable in (None, "left"):
        expected = events.topic_of(events.TOPIC_PREFIX, "home", wearable, "state")
        assert events.topic_by(events.TOPICS, "home", wearable, "state") == expected


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("a/{gateway}/{wearable}", "expected {kind} once"),
        ("a/{wearable}/{kind}", "expected {gateway} once"),
        ("a/{gateway}/{kind}", "expected {wearable} once"),
        ("{gateway}/{wearable}/{kind}/{kind}", "expected {kind} once"),
        ("a/{gateway}/w-{wearable}/{kind}", "{wearable} is a level of its own"),
        ("a/{gateway}/{wearable}/{kind}/#", "no wildcards"),
        ("+/{gateway}/{wearable}/{kind}", "no wildcards"),
        ("$SYS/{gateway}/{wearable}/{kind}", "the broker's own"),
        ("/{gateway}/{wearable}/{kind}", "an empty level"),
        ("{gateway}//{wearable}/{kind}", "an empty level"),
        ("{gateway}/{wearable}/{kind}/{wearer}", "no other braces"),
        ("{gateway}/{wearable}/{kind}/{", "no other braces"),
        ("{gateway}/{wearable}/{kind}\0", "printable"),
        ("{gateway}/{wearable}/{kind}" + "x" * 200, "at most 200"),
    ],
)
def test_a_template_whose_topics_cannot_be_or_could_meet_is_refused(template: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint.replace("{", r"\{")):
        events.check_topics(template)
