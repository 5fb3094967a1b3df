"""systemd's notification protocol: datagrams of VARIABLE=value lines to $NOTIFY_SOCKET (sd_notify(3)).

Without systemd there is no such socket, and every message is dropped. A message never blocks and never fails the
daemon: one that the service manager does not take is followed by the next.
"""

import os
import socket
from collections.abc import Mapping

STATUS_BYTES_MAX = 1000
"""Far below what a datagram holds; the line is for people."""


class ServiceManager:
    """environment: where NOTIFY_SOCKET is looked up: a path, or `@` and an abstract name."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        # vsock: addresses are for virtual machines that are booted as a unit; a service never sees them
        self._address = "\0" + address[1:] if address.startswith("@") else address if address.startswith("/") else ""

    def ready(self) -> bool:
        """Start-up is done: with Type=notify the unit is active from here on."""
        return self._send("READY=1")

    def stopping(self) -> bool:
        return self._send("STOPPING=1")

    def takes(self, seconds: int) -> bool:
        """Start-up takes so much longer from here on, at most."""
        return self._send(f"EXTEND_TIMEOUT_USEC={seconds * 1_000_000}")

    def watchdog(self) -> bool:
        """The daemon is alive; to be said every watchdog_interval_s."""
        return self._send("WATCHDOG=1")

    def status(self, text: str) -> bool:
        """One line in words, shown by systemctl status."""
        line = " ".join(text.split()).encode()[:STATUS_BYTES_MAX].decode(errors="ignore")
        return self._send(f"STATUS={line}")

    def _send(self, message: str) -> bool:
        """Whether the message was handed over."""
        if not self._address:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as s:
                s.sendto(message.encode(), self._address)
        except OSError:
            return False
        return True


def watchdog_interval_s(environment: Mapping[str, str] = os.environ, pid: int | None = None) -> float | None:
    """Half of WATCHDOG_USEC, as sd_watchdog_enabled(3) advises; None where this process is not watched."""
    usec = environment.get("WATCHDOG_USEC", "")
    watched = environment.get("WATCHDOG_PID", "")
    if not usec.isdecimal() or int(usec) == 0 or watched not in ("", str(os.getpid() if pid is None else pid)):
        return None
    return int(usec) / 2e6
