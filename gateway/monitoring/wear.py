"""Worn or not, from stillness: what lies on a table shows its sensor's noise and none of the small motion of a person.

The rule of van Hees et al., PLoS ONE 8 (2013) e61691, for a wrist: over 60 minutes, moved on by 15, the accelerometer's
standard deviation is below 13 mg on two of its three axes, or its range below 50 mg on two. (Their first form, PLoS ONE
6 (2011) e22922, had 3 mg over 30 minutes.) It takes some still sleep for a table, and a table that is knocked at for a
wrist. Each quarter of an hour is kept as moments of its windows, so their order does not matter; windows that overlap
count their samples as often, all alike.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from gateway.monitoring.features import FEATURES
from gateway.motion.samples import Float32
from gateway.motion.units import STANDARD_GRAVITY_M_S2

QUARTER_S = 900
QUARTERS = 4
"""That one verdict is of."""
DEVIATION_M_S2 = 0.013 * STANDARD_GRAVITY_M_S2
RANGE_M_S2 = 0.050 * STANDARD_GRAVITY_M_S2
AXES = 2
"""So many of the three must be still."""
SEEN_MIN = 0.5
"""Share of a quarter's windows without which nothing is said."""

Float64 = NDArray[np.float64]
_MEAN, _STD = (slice(first, first + 3) for first in map(FEATURES.index, ("Ax_mean_m_s2", "Ax_std_m_s2")))


def _three(value: float) -> Float64:
    return np.full(3, value)


@dataclass(slots=True)
class Stillness:
    """Of windows' accelerations, m/s², (3,) each: sums of their means and mean squares, least and greatest value."""

    windows: int = 0
    means: Float64 = field(default_factory=lambda: _three(0.0))
    squares: Float64 = field(default_factory=lambda: _three(0.0))
    low: Float64 = field(default_factory=lambda: _three(np.inf))
    high: Float64 = field(default_factory=lambda: _three(-np.inf))

    def add(self, window: Float32, features: Float64) -> None:
        """window: (n, 6). features: its (len(FEATURES),)."""
        mean, deviation = features[_MEAN], features[_STD]
        self.windows += 1
        self.means += mean
        self.squares += deviation * deviation + mean * mean
        np.minimum(self.low, np.minimum.reduce(window[:, :3], axis=0), out=self.low)
        np.maximum(self.high, np.maximum.reduce(window[:, :3], axis=0), out=self.high)

    def state(self) -> list[Any]:
        return [self.windows, *(part.tolist() for part in (self.means, self.squares, self.low, self.high))]

    @classmethod
    def restore(cls, state: Sequence[Any]) -> Self:
        return cls(state[0], *(np.array(part, np.float64) for part in state[1:]))


def lies_still(parts: Sequence[Stillness]) -> bool:
    """Whether nobody wears what these have seen together; each of them has seen something."""
    count = sum(part.windows for part in parts)
    mean = sum((part.means for part in parts), _three(0.0)) / count
    variance = sum((part.squares for part in parts), _three(0.0)) / count - mean**2
    spread = np.max([part.high for part in parts], axis=0) - np.min([part.low for part in parts], axis=0)
    deviating = np.sqrt(np.maximum(variance, 0.0))
    return bool((deviating < DEVIATION_M_S2).sum() >= AXES or (spread < RANGE_M_S2).sum() >= AXES)


@dataclass(slots=True)
class WearWatch:
    """Of one session. worn: in the newest whole hour; None while there is none, or where too little of it was seen.

    hop_s: from one window to the next.
    """

    hop_s: float
    worn: bool | None = None
    _quarters: dict[int, Stillness] = field(default_factory=dict)
    _end: int = 0
    """One past the newest quarter that is over."""

    def add(self, start_s: float, window: Float32, features: Float64) -> None:
        """A window that begins at start_s of the session: (n, 6) and its (len(FEATURES),). In any order, each once."""
        quarter = int(start_s // QUARTER_S)
        if quarter not in self._quarters:
            self._quarters[quarter] = Stillness()
        self._quarters[quarter].add(window, features)

    def over(self, end_s: float) -> list[int] | None:
        """No window that begins before end_s will be added any more. Returns which quarters somebody wore it in, of an
        hour that is judged anew; None where none is."""
        end = int(end_s // QUARTER_S)
        if end <= self._end:
            return None
        self._end = end
        first = end - QUARTERS
        hour = {n: self._quarters[n] for n in range(first, end) if n in self._quarters}
        self._quarters = {n: part for n, part in self._quarters.items() if n > first}
        least = SEEN_MIN * QUARTER_S / self.hop_s
        seen = len(hour) == QUARTERS and all(part.windows >= least for part in hour.values())
        self.worn = not lies_still(list(hour.values())) if seen else None
        return [n for n, part in hour.items() if not lies_still([part])] if self.worn else []

    def close(self) -> None:
        """The session is over: what is left of it makes no hour."""
        self._quarters.clear()

    def state(self) -> dict[str, Any]:
        quarters = {str(n): part.state() for n, part in self._quarters.items()}
        return {"worn": self.worn, "quarters": quarters, "end": self._end}

    @classmethod
    def restore(cls, hop_s: float, state: Mapping[str, Any]) -> Self:
        quarters = {int(n): Stillness.restore(part) for n, part in state["quarters"].items()}
        return cls(hop_s, state["worn"], quarters, state["end"])
