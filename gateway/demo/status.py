"""What the demo reads while it runs: the daemon's status file and the growing file of the subscriber."""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.demo.account import EventId, read_received


@dataclass(frozen=True, slots=True)
class WearableStatus:
    link: str
    rate_hz: float
    activity: str | None
    probability: float | None
    windows: int


@dataclass(frozen=True, slots=True)
class DaemonStatus:
    """What the daemon last wrote, and when by its own time. broker: its session's state in words."""

    time_utc_ns: int
    pid: int
    broker: str
    broker_connected: bool
    events_waiting: int
    events_acknowledged: int
    wearables: dict[str, WearableStatus]


def read_status(path: Path) -> DaemonStatus | None:
    """None where there is none yet. The daemon replaces the file as a whole, so it is never half-written."""
    try:
        status: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return DaemonStatus(
        time_utc_ns=status["time_utc_ns"],
        pid=status["pid"],
        broker=status["broker"]["state"],
        broker_connected=status["broker"]["connected"],
        events_waiting=status["events"]["waiting"],
        events_acknowledged=status["events"]["acknowledged"],
        wearables={
            name: WearableStatus(w["link"], w["rate_hz"], w["activity"], w["probability"], w["windows"])
            for name, w in status["wearables"].items()
        },
    )


def topics_in(received: Path) -> set[str]:
    """Every topic that the subscriber has seen."""
    return {json.loads(line)["topic"] for line in received.read_text().splitlines()}


@dataclass(slots=True)
class SubscriberTail:
    """Counts what the subscriber has written so far, reading only what is new.

    Events of the log alone: that a gateway is present, or gone, is told past the log.
    """

    path: Path
    messages: int = 0
    events: set[EventId] = field(default_factory=set)
    windows: Counter[str] = field(default_factory=Counter)
    """By wearable; a window that came twice counts once."""
    _offset: int = 0

    def read(self) -> None:
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._offset)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._offset += len(whole)
        for message in read_received(whole.decode().splitlines(keepends=True)):
            if message.kind == "state" and message.event.source.startswith("urn:fidget:gateway:"):
                continue
            self.messages += 1
            if message.event not in self.events:
                self.events.add(message.event)
                self.windows.update(wearable for wearable, _, _ in message.windows)

    @property
    def repeated(self) -> int:
        return self.messages - len(self.events)
