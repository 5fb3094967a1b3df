"""Where a command's work is done: by the running daemon, or here where none runs."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gateway.ble.bluez_backend import BluezAdapter
    from gateway.ble.bonds import Records
    from gateway.ble.bumble_backend import BumbleAdapter
    from gateway.config import Config


async def asked_of_daemon(
    config: "Config",
    op: str,
    parameters: Mapping[str, Any] | None = None,
    told: Callable[[dict[str, Any]], None] = lambda _what: None,
    asked: Callable[[dict[str, Any]], Awaitable[Any]] | None = None,
) -> dict[str, Any] | None:
    """What the daemon answers; None where none runs. Raises GatewayError."""
    from gateway.local import NotRunning, request

    try:
        return await request(config.socket, op, parameters, told=told, asked=asked)
    except NotRunning:
        return None


def adapter_alone(config: "Config", name: str) -> "BluezAdapter | BumbleAdapter":
    """Not attached. name: the adapter's, or transport. Raises RadioRejected and FileDamaged."""
    from gateway.ble import open_adapter, open_keys

    logging.getLogger("bumble").setLevel(logging.CRITICAL)  # what it warns of is told as the command's error
    backend = config.radio.backend
    legacy = config.radio.secure_connections != "only"
    return open_adapter(backend, name, keys=open_keys(backend, config.keys_file), legacy=legacy)


def records_of(config: "Config") -> "Records":
    """Raises FileDamaged."""
    from gateway.ble.bonds import Records

    return Records(config.bonds_file)
