"""How many wearables an adapter holds, and which of several adapters a wearable goes to."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from gateway.link.rules import FRESH_S

WEARABLES_MAX = 8
"""Links that one adapter holds, where the configuration does not say. No standard sets a number; controllers are built
for about this many: 8 in Nordic's S120 and onsemi's RSL10, 7 in Android's stack (GATT_MAX_PHY_CHANNEL)."""
FULL_S = 600.0
"""What a controller showed of its own limit counts so long: other programs' links may have taken the room."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """An advertisement as one adapter heard it, at_s of one monotonic clock."""

    adapter: str
    rssi_dbm: int
    at_s: float


@dataclass(slots=True)
class Seats:
    """Of one adapter. limit: as configured. held: who has a seat: it waits for its turn, connects or is connected."""

    limit: int = WEARABLES_MAX
    held: set[str] = field(default_factory=set)
    _shown: int = 0
    _shown_until_s: float = -math.inf

    def holds(self, now_s: float) -> int:
        """As many as it can, as far as is known now."""
        return min(self.limit, self._shown) if now_s < self._shown_until_s else self.limit

    def room(self, now_s: float) -> int:
        return max(0, self.holds(now_s) - len(self.held))

    def refused(self, name: str, now_s: float) -> None:
        """The controller takes no link to this one beside those that it has."""
        self._shown, self._shown_until_s = max(1, len(self.held - {name})), now_s + FULL_S


def choose(sightings: Iterable[Sighting], room: Mapping[str, int], now_s: float) -> str | None:
    """Of the adapters that have heard it just now and have room, the one that hears it best; None where there is none.

    room: seats left, by adapter.
    """
    fit = [one for one in sightings if now_s - one.at_s <= FRESH_S and room.get(one.adapter, 0) > 0]
    return max(fit, key=lambda one: (one.rssi_dbm, room[one.adapter])).adapter if fit else None
