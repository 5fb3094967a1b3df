"""`gateway connparams`: has the kernel connect to the configured wearables with the interval, latency and supervision
timeout that the reference profile asks for.

BlueZ has no D-Bus call for it, and the kernel lets only CAP_NET_ADMIN do it, which the daemon does not have.
"""

import argparse
import ctypes
import os
import socket
import struct
from collections.abc import Callable

from gateway.cli.arguments import add_config
from gateway.errors import GatewayError
from gateway.link.management import (
    LinkParameters,
    answer_in,
    load_commands,
    revision_in,
    version_command,
)

AF_BLUETOOTH, BTPROTO_HCI = 31, 1
"""By number: a Python that was built without Bluetooth's headers has no names for them (bits/socket.h, bluetooth.h)."""
HCI_DEV_NONE, HCI_CHANNEL_CONTROL = 0xFFFF, 3
ANSWER_S = 5.0
"""The kernel answers at once, unless it is busy with that adapter."""
EVENTS_MAX = 1000
"""About other things, between a command and its answer."""
_EVENT_BYTES = 2048

Ask = Callable[[bytes, str], bytes]
"""A command and the adapter's name, to what the kernel returns."""


class NoBluetooth(GatewayError):
    """The kernel has no management interface."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Has the kernel make links to the configured wearables with an interval of 30 to 50 ms, latency 0 and a "
        "supervision timeout of 5 s, from the next connection on. It holds until bluetoothd or the machine starts "
        "again. For backend bluez; needs CAP_NET_ADMIN. Exit codes: 0 done, 1 the kernel would not, 2 something is "
        "wrong with the input."
    )
    add_config(parser)


def run(args: argparse.Namespace) -> int:
    from gateway.config import load_config
    from gateway.errors import InputRejected

    config = load_config(args.config)
    if config.radio.backend != "bluez":
        raise InputRejected(
            f"{args.config}: [radio] backend is {config.radio.backend!r}",
            hint="That one asks for its links' parameters by itself; this is for bluez.",
        )
    addresses = {
        name: [wearable.address for wearable in config.wearables if wearable.adapter in (None, name)]
        for name in config.radio.names
    }
    with _control() as kernel:
        count = apply(lambda command, adapter: _ask(kernel, command, adapter), addresses, LinkParameters())
    named = "1 wearable" if count == 1 else f"{count} wearables"
    print(f"{named}: interval 30 to 50 ms, latency 0, supervision timeout 5 s, from the next connection on")
    return 0


def apply(ask: Ask, addresses: dict[str, list[str]], parameters: LinkParameters) -> int:
    """addresses: of the wearables that each adapter may hold. How many wearables there are. Raises GatewayError."""
    revision = revision_in(ask(version_command(), "Bluetooth"))
    for adapter, wearables in addresses.items():
        if wearables:
            for command in load_commands(int(adapter.removeprefix("hci")), wearables, parameters, revision):
                ask(command, adapter)
    return len({address for wearables in addresses.values() for address in wearables})


def _control() -> socket.socket:
    """A socket on the kernel's control channel. Raises NoBluetooth."""
    try:
        kernel = socket.socket(AF_BLUETOOTH, socket.SOCK_RAW, BTPROTO_HCI)
    except OSError as error:
        said = f"this kernel offers no Bluetooth ({error.strerror})"
        raise NoBluetooth(
            said, hint="Is the module bluetooth loaded, and AF_BLUETOOTH allowed to this process?"
        ) from None
    kernel.settimeout(ANSWER_S)
    # Python's own bind knows no channel before 3.14.
    address = struct.pack("<HHH", AF_BLUETOOTH, HCI_DEV_NONE, HCI_CHANNEL_CONTROL)
    if ctypes.CDLL(None, use_errno=True).bind(kernel.fileno(), address, len(address)) != 0:
        kernel.close()
        said = f"the kernel's Bluetooth management interface: {os.strerror(ctypes.get_errno())}"
        raise NoBluetooth(said, hint="Is this a container? The interface is the host's.")
    return kernel


def _ask(kernel: socket.socket, command: bytes, adapter: str) -> bytes:
    """Raises GatewayError."""
    try:
        kernel.send(command)
        for _ in range(EVENTS_MAX):
            answer = answer_in(kernel.recv(_EVENT_BYTES), command, adapter)
            if answer is not None:
                return answer
    except TimeoutError:
        raise GatewayError(f"{adapter}: the kernel does not answer within {ANSWER_S:g} s") from None
    except OSError as error:
        raise GatewayError(f"{adapter}: the kernel's Bluetooth management interface: {error.strerror}") from None
    raise GatewayError(f"{adapter}: the kernel does not answer among {EVENTS_MAX} events")
