"""What of a stream's results is committed since its snapshot, so that deriving again after a crash repeats none."""

import json
from dataclasses import dataclass, field
from typing import Self

from gateway.motion.samples import Coverage


@dataclass(slots=True)
class Progress:
    """Windows and drift periods by number, for each session; state_row: the journal row of the last state event."""

    windows: dict[int, Coverage] = field(default_factory=dict)
    periods: dict[int, Coverage] = field(default_factory=dict)
    state_row: int = 0

    def add_window(self, session: int, number: int) -> None:
        self.windows.setdefault(session, Coverage()).add(number, number + 1)

    def add_period(self, session: int, number: int) -> None:
        self.periods.setdefault(session, Coverage()).add(number, number + 1)

    def has_window(self, session: int, number: int) -> bool:
        return session in self.windows and not self.windows[session].missing(number, number + 1)

    def has_period(self, session: int, number: int) -> bool:
        return session in self.periods and not self.periods[session].missing(number, number + 1)

    def encode(self) -> bytes:
        return json.dumps(
            {
                "windows": {f"{s:x}": c.ranges for s, c in self.windows.items()},
                "periods": {f"{s:x}": c.ranges for s, c in self.periods.items()},
                "state_row": self.state_row,
            },
            separators=(",", ":"),
        ).encode()

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        if not payload:
            return cls()
        value = json.loads(payload)
        return cls(
            {int(s, 16): Coverage.of(r) for s, r in value["windows"].items()},
            {int(s, 16): Coverage.of(r) for s, r in value["periods"].items()},
            value["state_row"],
        )
