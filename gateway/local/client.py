"""A command's end of the local socket."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from gateway.errors import GatewayError
from gateway.local import protocol

CONNECT_S = 5.0
ANSWER_S = 60.0
"""Between two lines of the daemon: to end a link that hangs takes 23 s, and what is asked of BlueZ then 10 s a call."""
PAIRED_S = 700.0
"""The same of a pairing: to wait for the radio (120 s), hear the wearable (30 s) and pair (75 s), this three times."""


class NotRunning(GatewayError):
    """No daemon answers: nothing is wrong, it does not run."""


class NotAllowed(GatewayError):
    hint = "Run this as root or as the gateway's user, or let a group use the socket ([local] group)."


class NotAnswering(GatewayError):
    hint = "It hangs, or is stopped; systemd ends one that hangs after 30 s, and starts it again."


class RefusedByDaemon(GatewayError):
    """What the daemon could not do, in its words."""

    def __init__(self, message: str, hint: str, exit_code: int) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code


async def request(
    path: Path,
    op: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    told: Callable[[dict[str, Any]], None] = lambda _what: None,
    asked: Callable[[dict[str, Any]], Awaitable[Any]] | None = None,
) -> dict[str, Any]:
    """What the daemon behind this socket answers. Cancelling it ends what was asked for.

    Raises NotRunning, NotAllowed, NotAnswering, RefusedByDaemon, and Malformed where the daemon speaks something else.
    """
    try:
        async with asyncio.timeout(CONNECT_S):
            reader, writer = await asyncio.open_unix_connection(path, limit=protocol.ANSWER_BYTES_MAX)
    except PermissionError:
        raise NotAllowed(f"{path}: the running gateway's socket is not for this user") from None
    except (OSError, TimeoutError):
        raise NotRunning(f"no gateway runs behind {path}") from None
    try:
        writer.write(protocol.encode({"v": protocol.VERSION, "op": op, **(parameters or {})}))
        while True:
            said = await _line(reader, PAIRED_S if op == "pair" else ANSWER_S)
            match said:
                case {"told": dict(what)}:
                    told(what)
                case {"ask": dict(question)} if asked is not None:
                    writer.write(protocol.encode({"answer": await asked(question)}))
                case {"done": dict(answer)}:
                    return answer
                case {"error": {"message": str(message), "hint": str(hint), "exit_code": int(code)}}:
                    raise RefusedByDaemon(message, hint, code)
                case _:
                    raise protocol.Malformed(
                        f"{path}: the daemon says {', '.join(said)[:80]}, which means nothing here"
                    )
    except (OSError, EOFError):
        raise RefusedByDaemon(f"{path}: the daemon has ended meanwhile", "Its log says why.", 1) from None
    finally:
        writer.close()


async def _line(reader: asyncio.StreamReader, within_s: float) -> dict[str, Any]:
    try:
        async with asyncio.timeout(within_s):
            line = await reader.readline()
    except TimeoutError:
        raise NotAnswering(f"the daemon says nothing for {within_s:g} s") from None
    except ValueError:
        raise protocol.Malformed("the daemon's line is too long") from None
    if not line.endswith(b"\n"):
        raise EOFError
    return protocol.decode(line)
