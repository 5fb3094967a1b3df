"""The AsyncAPI document: official by its schema, true by its examples and topics."""

import gzip
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from gateway import asyncapi, events
from tests.gateway.test_events import DOCS, EXAMPLES, IDS

SCHEMA = Path(__file__).parent / "asyncapi" / "3.0.0.json.gz"


def official() -> jsonschema.Draft7Validator:
    return jsonschema.Draft7Validator(json.loads(gzip.decompress(SCHEMA.read_bytes())))


def test_the_document_in_the_docs_is_that_of_the_models() -> None:
    assert (DOCS / "asyncapi.json").read_text() == asyncapi.text()


def test_it_is_asyncapi_3_by_the_official_schema() -> None:
    assert [
        f"{'/'.join(map(str, e.absolute_path))}: {e.message}" for e in official().iter_errors(asyncapi.document())
    ] == []


@pytest.mark.parametrize(
    "broken",
    [
        {"asyncapi": "2.6.0"},
        {"channels": {"prediction": {"adress": "x"}}},
        {"operations": {"p": {"action": "emit", "channel": {"$ref": "#/channels/prediction"}}}},
    ],
)
def test_the_official_schema_finds_what_is_wrong(broken: dict[str, Any]) -> None:
    assert not official().is_valid(asyncapi.document() | broken)


def resolved(document: dict[str, Any], ref: str) -> Any:
    found: Any = document
    for part in ref.removeprefix("#/").split("/"):
        found = found[part]
    return found


def test_every_reference_leads_somewhere() -> None:
    document = asyncapi.document()
    for ref in re.findall(r'"\$ref": "([^"]+)"', asyncapi.text()):
        assert resolved(document, ref)


@pytest.mark.parametrize("example", EXAMPLES, ids=IDS)
def test_an_example_of_the_docs_is_a_message_of_the_document(example: dict[str, Any]) -> None:
    document = asyncapi.document()
    message = document["components"]["messages"][example["type"].split(".")[1]]
    validator = jsonschema.Draft7Validator({**document, "$ref": message["payload"]["$ref"]})
    # beside a $ref draft 7 looks at nothing else
    validator.validate(example)
    assert not validator.is_valid({name: value for name, value in example.items() if name != "id"})


def test_each_channel_has_the_topic_that_is_published_under() -> None:
    document = asyncapi.document()
    addresses = {channel["address"] for channel in document["channels"].values()}
    wearables = {"prediction", "drift", "state"}
    assert addresses == {
        events.topic_of(events.TOPIC_PREFIX, "{gateway}", "{wearable}" if of_wearable else None, kind)
        for kind in events.KINDS
        for of_wearable in (True, False)
        if (kind in wearables and of_wearable) or (kind in ("clock", "state") and not of_wearable)
    }
    for channel in document["channels"].values():
        assert set(re.findall(r"\{(\w+)\}", channel["address"])) == set(channel["parameters"])
