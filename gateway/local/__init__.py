"""The local socket: how a command reaches the running daemon, and what both say on it (docs/local-socket.md)."""

from gateway.local.client import NotAllowed, NotAnswering, NotRunning, RefusedByDaemon, request
from gateway.local.protocol import VERSION
from gateway.local.server import LocalServer, Operation, SocketRefused, SocketTaken, Talk

__all__ = [
    "VERSION",
    "LocalServer",
    "NotAllowed",
    "NotAnswering",
    "NotRunning",
    "Operation",
    "RefusedByDaemon",
    "SocketRefused",
    "SocketTaken",
    "Talk",
    "request",
]
