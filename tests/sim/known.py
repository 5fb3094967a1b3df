"""What is known of a session, place by place, and by brute force the windows that this makes."""

from dataclasses import dataclass, field

import numpy as np

from tests.sim.world import INTERPOLATE_MAX, SHAPE

MISSING, HERE, LOST = 0, 1, 2
PLACES = 60_000
"""Samples of a session that the account has room for: 20 minutes."""


@dataclass
class Known:
    """What the medium holds of one session, sample by sample."""

    state: np.ndarray = field(default_factory=lambda: np.zeros(PLACES, np.uint8))
    values: np.ndarray = field(default_factory=lambda: np.zeros((PLACES, 6), np.float32))
    saturated: np.ndarray = field(default_factory=lambda: np.zeros(PLACES, bool))
    garbage: np.ndarray = field(default_factory=lambda: np.zeros(PLACES, bool))
    """Came, or was declared lost, by a frame that did not arrive as it was sent."""
    end: int = 0
    """One past the last sample that the wearable has told of."""
    ended: bool = False

    def lose(self, first: int, end: int, garbage: bool = False) -> None:
        new = self.state[first:end] == MISSING
        self.state[first:end][new] = LOST
        self.garbage[first:end][new] = garbage
        self.end = max(self.end, end)

    def take(self, first: int, values: np.ndarray, saturated: bool, garbage: bool) -> None:
        end = first + len(values)
        new = self.state[first:end] == MISSING
        self.state[first:end][new] = HERE
        self.values[first:end][new] = values[new]
        self.saturated[first:end][new] = saturated
        self.garbage[first:end][new] = garbage
        self.end = max(self.end, end)


def windows_due(known: Known) -> dict[int, tuple[int, bytes]]:
    """Number of each window that the medium's samples make, with its interpolated samples and its bytes."""
    due = {}
    for number in range((known.end - SHAPE.length) // SHAPE.hop + 1):
        first, end = number * SHAPE.hop, number * SHAPE.hop + SHAPE.length
        state = known.state[first:end]
        if (state == MISSING).any():
            continue
        values = known.values[first:end].copy()
        whole = True
        at = first
        while at < end:
            if known.state[at] != LOST:
                at += 1
                continue
            low, high = at, at
            while low > 0 and known.state[low - 1] == LOST:
                low -= 1
            while known.state[high] == LOST:
                high += 1
            if low == 0 or high - low > INTERPOLATE_MAX or MISSING in (known.state[low - 1], known.state[high]):
                whole = False
                break
            before, after = known.values[low - 1], known.values[high]
            for i in range(max(low, first), min(high, end)):
                share = np.float32((i - low + 1) / (high - low + 1))
                values[i - first] = before + share * (after - before)
            at = high
        if whole:
            due[number] = (int((state == LOST).sum()), values.tobytes())
    return due
