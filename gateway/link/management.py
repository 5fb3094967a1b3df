"""What is said to the kernel's Bluetooth management interface to have links with chosen parameters: bytes, no socket.

Layouts and error codes: doc/mgmt-api.txt of BlueZ (Read Management Version Information 0x0001, Load Connection
Parameters 0x0035; since Linux 3.17). All integers are little-endian.

The kernel uses loaded parameters for every later connection to that address. A list of more than one entry, or any
before revision 23 (Linux 6.11), first discards what was loaded before, also for other devices (net/bluetooth/mgmt.c);
a single entry since then also changes a link that stands.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.errors import GatewayError, InputRejected

NO_CONTROLLER = 0xFFFF
READ_VERSION, LOAD_CONNECTION_PARAMETERS = 0x0001, 0x0035
COMMAND_COMPLETE, COMMAND_STATUS = 0x0001, 0x0002
LE_PUBLIC, LE_RANDOM = 1, 2
REVISION_ONE_BY_ONE = 23
"""From this one on a single entry leaves the others alone."""
INTERVAL_UNIT_MS, TIMEOUT_UNIT_MS = 1.25, 10.0
INTERVALS, TIMEOUTS, LATENCY_MAX = (6, 3200), (10, 3200), 499
_HEADER = struct.Struct("<HHH")
_COUNT = struct.Struct("<H")
_ENTRY = struct.Struct("<6sBHHHH")
_ANSWER = struct.Struct("<HB")
_VERSION = struct.Struct("<BH")
STATUS_INVALID_INDEX, STATUS_PERMISSION_DENIED = 0x11, 0x14
_STATUS = (
    *("success", "unknown command", "not connected", "failed", "connect failed", "authentication failed"),
    *("not paired", "no resources", "timeout", "already connected", "busy", "rejected", "not supported"),
    *("invalid parameters", "disconnected", "not powered", "cancelled", "invalid index", "rfkilled"),
    *("already paired", "permission denied"),
)


class Refused(GatewayError):
    """status: the kernel's."""

    def __init__(self, status: int, adapter: str) -> None:
        self.status = status
        match status:
            case 0x11:
                said, hint = f"{adapter}: there is no such adapter", "`bluetoothctl list` shows those that are there."
            case 0x14:
                said = f"{adapter}: the kernel lets only CAP_NET_ADMIN set connection parameters"
                hint = "Let the unit fidget-gateway-connparams.service do it, or run this as root."
            case 0x0C:
                said, hint = f"{adapter}: it does not do Bluetooth Low Energy", "Name another adapter in [radio]."
            case _:
                words = _STATUS[status] if status < len(_STATUS) else "an unknown reason"
                said, hint = f"{adapter}: the kernel refuses the connection parameters: {words} (0x{status:02x})", ""
        super().__init__(said, hint=hint)


@dataclass(frozen=True, slots=True)
class LinkParameters:
    """Intervals and supervision timeout in ms; latency: connection events that the wearable may sleep through."""

    interval_min_ms: float = 30.0
    interval_max_ms: float = 50.0
    latency: int = 0
    timeout_ms: float = 5000.0

    def __post_init__(self) -> None:
        """Raises InputRejected for what the kernel would skip without a word (hci_check_conn_params; Bluetooth Core
        5.4, Vol 4, Part E, 7.8.12)."""
        low, high, latency, timeout = self.units()
        for name, value, unit_ms, (least, most) in (
            ("shortest interval", low, INTERVAL_UNIT_MS, INTERVALS),
            ("longest interval", high, INTERVAL_UNIT_MS, INTERVALS),
            ("supervision timeout", timeout, TIMEOUT_UNIT_MS, TIMEOUTS),
        ):
            if not least <= value <= most:
                limits = f"expected {least * unit_ms:g} to {most * unit_ms:g} ms"
                raise InputRejected(f"connection parameters: {name} {value * unit_ms:g} ms, {limits}")
        if low > high:
            found = f"{low * INTERVAL_UNIT_MS:g} and {high * INTERVAL_UNIT_MS:g} ms"
            raise InputRejected(f"connection parameters: shortest and longest interval {found}, expected ascending")
        longest = min(LATENCY_MAX, timeout * 4 // high - 1)
        slowest, timeout_said = f"{high * INTERVAL_UNIT_MS:g} ms", f"{timeout * TIMEOUT_UNIT_MS:g} ms"
        if longest < 0:  # the timeout has to be longer than twice what the wearable may be silent
            found = f"supervision timeout {timeout_said} is not above twice the longest interval, {slowest}"
            raise InputRejected(f"connection parameters: {found}")
        if not 0 <= latency <= longest:
            expected = f"expected 0 to {longest} at intervals up to {slowest} and a timeout of {timeout_said}"
            raise InputRejected(f"connection parameters: latency {latency}, {expected}")

    def units(self) -> tuple[int, int, int, int]:
        """As the interface has them."""
        low, high = (round(ms / INTERVAL_UNIT_MS) for ms in (self.interval_min_ms, self.interval_max_ms))
        return low, high, self.latency, round(self.timeout_ms / TIMEOUT_UNIT_MS)


def version_command() -> bytes:
    return _HEADER.pack(READ_VERSION, NO_CONTROLLER, 0)


def revision_in(payload: bytes) -> int:
    """Of the answer to version_command. Raises GatewayError."""
    if len(payload) != _VERSION.size:
        raise GatewayError(f"Bluetooth management interface: a version of {len(payload)} bytes, expected 3")
    return int(_VERSION.unpack(payload)[1])


def load_commands(index: int, addresses: Sequence[str], parameters: LinkParameters, revision: int) -> list[bytes]:
    """What gives links to these addresses such parameters. index: of the adapter, 0 for hci0. revision: the kernel's.

    An address with its two highest bits set may be public or static random, which it does not show: it is named as
    both.
    """
    entries = [
        _ENTRY.pack(bytes.fromhex(address.replace(":", ""))[::-1], kind, *parameters.units())
        for address in addresses
        for kind in ((LE_PUBLIC, LE_RANDOM) if int(address[:2], 16) >= 0xC0 else (LE_PUBLIC,))
    ]
    if revision >= REVISION_ONE_BY_ONE:
        return [_load(index, [entry]) for entry in entries]
    return [_load(index, entries)]


def _load(index: int, entries: Sequence[bytes]) -> bytes:
    content = _COUNT.pack(len(entries)) + b"".join(entries)
    return _HEADER.pack(LOAD_CONNECTION_PARAMETERS, index, len(content)) + content


def answer_in(event: bytes, command: bytes, adapter: str) -> bytes | None:
    """What the kernel returns to a command; None for an event that answers another, or none. Raises Refused."""
    code, index, _ = _HEADER.unpack_from(command)
    if len(event) < _HEADER.size + _ANSWER.size:
        return None
    kind, event_index, _ = _HEADER.unpack_from(event)
    answered, status = _ANSWER.unpack_from(event, _HEADER.size)
    if kind not in (COMMAND_COMPLETE, COMMAND_STATUS) or (event_index, answered) != (index, code):
        return None
    if status:
        raise Refused(status, adapter)
    return event[_HEADER.size + _ANSWER.size :]
