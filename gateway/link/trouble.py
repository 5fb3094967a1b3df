"""What keeps a wearable from being connected, as it is told to whoever watches many gateways: what lasts, and once."""

from dataclasses import dataclass
from enum import StrEnum

LASTING_S = 60.0
"""So long something must be in the way, or gone, before that is told: adapters and bluetoothd come back within seconds,
and a wearable that advertises is heard within seconds."""
WHY_MAX = 200
"""Characters of a sentence."""


class Obstacle(StrEnum):
    """refused: its bond, or that it has none, keeps it out. unpaired: it wants to be paired. quarantined: it failed
    again and again, or in a way that repeating does not cure. adapter_away, adapter_full: there is no adapter, or none
    with room. held: another central has it. unheard: nothing is heard of it."""

    REFUSED = "refused"
    UNPAIRED = "unpaired"
    QUARANTINED = "quarantined"
    ADAPTER_AWAY = "adapter_away"
    ADAPTER_FULL = "adapter_full"
    HELD = "held"
    UNHEARD = "unheard"


AT_ONCE = frozenset({Obstacle.REFUSED, Obstacle.UNPAIRED, Obstacle.QUARANTINED})
"""These have lasted when they are known."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """why: in words, without what changes by itself, such as the time of the next attempt."""

    obstacle: Obstacle
    why: str


@dataclass(slots=True)
class Patience:
    """Of one wearable: what was found last, and since when."""

    _found: Trouble | None = None
    _since_s: float | None = None

    def is_due(self, found: Trouble | None, told: Trouble | None, now_s: float) -> bool:
        """Whether what is found in the way now, if anything, is to be told instead of what was told last."""
        if found != self._found or self._since_s is None:
            self._found, self._since_s = found, now_s
        if found == told:
            return False
        at_once = found is not None and found.obstacle in AT_ONCE
        return at_once or now_s - self._since_s >= LASTING_S
