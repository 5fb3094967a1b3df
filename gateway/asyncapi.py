"""What is published, as an AsyncAPI 3 document: made of the models of gateway/events.py, so that it cannot fall behind.

It stands in docs/asyncapi.json.
"""

import json
from typing import Any

from pydantic.json_schema import models_json_schema

from gateway import events

VERSION = "3.0.0"
CONTRACT = "1.0.0"
"""Fields may be added within 1; what breaks a subscriber gets another topic prefix and type."""
_MQTT_BINDING = "0.2.0"

_CHANNELS = {
    "prediction": ("prediction", True, "What a wearer did in one or more windows."),
    "drift": ("drift", True, "What the windows of a period looked like."),
    "wearableState": ("state", True, "A wearable's link, battery and memory; retained."),
    "clock": ("clock", False, "UTC of the gateway's monotonic clock."),
    "gatewayState": ("state", False, "The gateway itself: online, or offline, also as its last will; retained."),
}
"""Kind of event, whether a wearable's, and what it is."""
_PARAMETERS = {"gateway": "The gateway's id.", "wearable": "The wearable's id."}


def document() -> dict[str, Any]:
    """JSON values."""
    return {
        "asyncapi": VERSION,
        "info": {
            "title": "Fidget Gateway",
            "version": CONTRACT,
            "description": "CloudEvents 1.0 in structured mode over MQTT 5 or 3.1.1, QoS 1. At least once: what "
            "arrives again with the same source and id is the same event. See docs/events.md and docs/subscribers.md.",
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": events.CONTENT_TYPE,
        "servers": {
            "broker": {
                "host": "{host}:{port}",
                "protocol": "mqtt",
                "protocolVersion": "5",
                "description": "The broker that the gateway is configured with.",
                "variables": {"host": {"default": "localhost"}, "port": {"default": "1883"}},
            }
        },
        "channels": {name: _channel(name) for name in _CHANNELS},
        "operations": {f"publish{name[0].upper()}{name[1:]}": _operation(name) for name in _CHANNELS},
        "components": {
            "messages": {kind: _message(kind) for kind in events.KINDS},
            "schemas": _schemas(),
        },
    }


def text() -> str:
    """As it stands in docs/asyncapi.json."""
    return json.dumps(document(), indent=2, ensure_ascii=False) + "\n"


def _channel(name: str) -> dict[str, Any]:
    kind, of_wearable, what = _CHANNELS[name]
    names = ["gateway", *(["wearable"] if of_wearable else [])]
    return {
        "address": "/".join([events.TOPIC_PREFIX, *(f"{{{one}}}" for one in names), kind]),
        "description": what,
        "messages": {kind: {"$ref": f"#/components/messages/{kind}"}},
        "parameters": {one: {"description": _PARAMETERS[one]} for one in names},
    }


def _operation(name: str) -> dict[str, Any]:
    kind, _, what = _CHANNELS[name]
    return {
        "action": "send",
        "channel": {"$ref": f"#/channels/{name}"},
        "summary": what,
        "messages": [{"$ref": f"#/channels/{name}/messages/{kind}"}],
        "bindings": {"mqtt": {"qos": 1, "retain": kind == "state", "bindingVersion": _MQTT_BINDING}},
    }


def _message(kind: str) -> dict[str, Any]:
    return {
        "name": f"fidget.{kind}.v1",
        "title": kind.capitalize(),
        "contentType": events.CONTENT_TYPE,
        "payload": {"$ref": f"#/components/schemas/{events.KINDS[kind].__name__}"},
    }


def _schemas() -> dict[str, Any]:
    models = [(model, "serialization") for model in events.KINDS.values()]
    _, made = models_json_schema(models, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    schemas: dict[str, Any] = made["$defs"]
    for schema in schemas.values():
        _name_discriminators(schema)
    return schemas


def _name_discriminators(schema: Any) -> None:
    """In AsyncAPI a discriminator is the property's name alone."""
    if isinstance(schema, list):
        for one in schema:
            _name_discriminators(one)
    elif isinstance(schema, dict):
        told = schema.get("discriminator")
        if isinstance(told, dict) and "propertyName" in told:
            schema["discriminator"] = told["propertyName"]
        for one in schema.values():
            _name_discriminators(one)
