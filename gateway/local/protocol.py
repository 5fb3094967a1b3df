"""What is said on the local socket: one JSON object a line, one request a connection.

    client  {"v": 1, "op": "pair", "wearable": "left"}
    daemon  {"told": {...}}                          any number of them
    daemon  {"ask": {"kind": "passkey", ...}}        answered by
    client  {"answer": 123456}
    daemon  {"done": {...}}  or  {"error": {"message": ..., "hint": ..., "exit_code": 1}}

Whoever closes the connection ends what was asked for. Pure: bytes and values.
"""

import json
from collections.abc import Mapping
from typing import Any

from gateway.errors import GatewayError

VERSION = 1
LINE_BYTES_MAX = 1 << 16
"""A request or an answer. The status of 32 wearables takes half of it."""
ANSWER_BYTES_MAX = 1 << 20
"""What the daemon says in one line."""


class Malformed(GatewayError):
    """It is not what is spoken here."""

    hint = "docs/local-socket.md says what is."


def encode(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """Raises Malformed."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        raise Malformed("a line is no JSON") from None
    if not isinstance(found, dict):
        raise Malformed("a line is no JSON object")
    return found


def operation_of(request: Mapping[str, Any]) -> str:
    """Raises Malformed."""
    if request.get("v") != VERSION:
        raise Malformed(
            f"the request is of version {request.get('v')!r}, this daemon speaks {VERSION}",
            hint="Command and daemon are of different releases: restart the daemon.",
        )
    op = request.get("op")
    if not isinstance(op, str):
        raise Malformed(f"op is {op!r}, expected a text")
    return op


def error(message: str, hint: str, exit_code: int) -> dict[str, Any]:
    return {"error": {"message": message, "hint": hint, "exit_code": exit_code}}
