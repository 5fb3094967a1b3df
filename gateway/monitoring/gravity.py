"""Whether the direction of gravity contradicts how a wearable is said to be worn.

What is known of a model's frame is how each axis' mean acceleration over a window is distributed in its training data
(the bundle's drift reference). A quiet window shows gravity g in the frame that the mounting makes of the wearable's.
For each of the 24 rotations R that signed axes can stand for, R g is more or less at home in that data: its score is
the sum over the axes of log(RARE + min(p, ORDINARY)), p the share of the training's windows within NEAR_M_S2 of it. If
the mounting is right, so is R = 1; if another R is better by CONTRADICTED a window, over hours and in various postures,
the mounting is contradicted.

That is the likelihood ratio of Neyman and Pearson (Phil. Trans. R. Soc. A 231 (1933) 289) with its factors censored
from both sides, as Huber does to bound what any one observation can say ("A robust version of the probability ratio
test", Ann. Math. Statist. 36 (1965) 1753). Without the upper bound, who sits all day would be told to wear it another
way, for sitting is rarer in the training than what a turned sitter looks like; so a posture is strange or it is not.

What it cannot do. Marginal distributions say nothing of rotations that keep them, and gravity nothing of one about
itself. Postures that the training has not, for hours, count as strange ones whatever the mounting. So it is silent
until it has seen QUIET_S_MIN of quiet time on the wrist, and until gravity's direction has varied.

Measured with synthetic wearers (30, whose shares of the demo's activities and rest were drawn from Dirichlet
distributions): of 23 wrong mountings 14 are contradicted; the right one was for none of 1,197 wearers with many
activities, 6 of 1,091 with some (concentration 0.2 and 0.5), 8 of 376 with hardly more than one or two (0.1).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from gateway.bundle.manifest import Distribution
from gateway.monitoring.features import FEATURES
from gateway.motion.axes import ROTATIONS
from gateway.motion.units import STANDARD_GRAVITY_M_S2

NEAR_M_S2 = 1.0
ORDINARY, RARE = 0.06, 0.01
CONTRADICTED, FITS_AGAIN = 0.6, 0.3
"""Nats a window by which another rotation is better: above the first contradicted, below the second no longer."""
QUIET_DEVIATION_M_S2, QUIET_OFFSET_M_S2 = 0.5, 0.5
"""Of the acceleration's norm in a quiet window: its standard deviation, and its mean from standard gravity, at most."""
QUIET_S_MIN = 4 * 3600.0
VARIED, VARIED_STILL = 0.2, 0.1
"""Share of the mean of |g|² that must be variance, to say something and to go on saying it; 0 where g never moves."""
MEMORY_S = 24 * 3600.0
"""With more quiet time than this all that was seen counts half as much."""
WAITING_MAX = 32
"""Quiet windows that are scored together."""

Float64 = NDArray[np.float64]

_MEANS = tuple(f"A{axis}_mean_m_s2" for axis in "xyz")
_GRAVITY = slice(FEATURES.index(_MEANS[0]), FEATURES.index(_MEANS[2]) + 1)
_NORM_MEAN, _NORM_STD = FEATURES.index("acc_norm_mean_m_s2"), FEATURES.index("acc_norm_std_m_s2")


_SOURCE = np.abs(ROTATIONS).argmax(axis=2)
_SIGNED = np.where(np.take_along_axis(ROTATIONS, _SOURCE[:, :, None], 2)[:, :, 0] > 0, _SOURCE, _SOURCE + 3)
"""(24, 3): for each axis after a rotation its place among gx, gy, gz, -gx, -gy, -gz."""


@dataclass(frozen=True, slots=True, eq=False)
class GravityReference:
    """For each axis the training's distribution function: values (m/s²) and ranks, both ascending, (n,) each."""

    values: tuple[Float64, Float64, Float64]
    ranks: tuple[Float64, Float64, Float64]

    @classmethod
    def of(cls, features: Mapping[str, Distribution]) -> Self | None:
        """From a bundle's drift reference; None where it does not tell all three axes."""
        if any(name not in features for name in _MEANS):
            return None
        limit = STANDARD_GRAVITY_M_S2 + NEAR_M_S2  # beyond it there is no gravity, but single samples of motion are
        x, y, z = (
            np.array([(0.0, known.min), *known.quantiles, (1.0, known.max)]).T
            for known in (features[name] for name in _MEANS)
        )
        return cls(
            (np.clip(x[1], -limit, limit), np.clip(y[1], -limit, limit), np.clip(z[1], -limit, limit)),
            (x[0], y[0], z[0]),
        )

    def scores(self, gravity: Float64) -> Float64:
        """gravity: (n, 3), m/s². Returns (n, 24), nats, of ROTATIONS."""
        places = np.hstack([gravity, -gravity])
        ends = np.hstack([places + NEAR_M_S2, places - NEAR_M_S2])
        ranks = np.array([np.interp(ends, v, r, 0.0, 1.0) for v, r in zip(self.values, self.ranks, strict=True)])
        table = np.log(RARE + np.minimum(ranks[:, :, :6] - ranks[:, :, 6:], ORDINARY))  # (3, n, 6)
        x, y, z = (table[axis][:, _SIGNED[:, axis]] for axis in range(3))
        total: Float64 = x + y + z
        return total

    def digest(self) -> str:
        content = [axis.tolist() for axis in (*self.values, *self.ranks)]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]


@dataclass(slots=True)
class Postures:
    """What quiet windows have shown, in sums, so that their order does not matter. weight: how many they were."""

    weight: float = 0.0
    scores: Float64 = field(default_factory=lambda: np.zeros(len(ROTATIONS)))
    gravity: Float64 = field(default_factory=lambda: np.zeros(3))
    squares: float = 0.0
    waiting: list[Float64] = field(default_factory=list)
    """Not in the sums yet: many are as quick as one."""

    def add(self, features: Float64, reference: GravityReference) -> None:
        """features: (len(FEATURES),) of one window in the model's frame."""
        quiet = features[_NORM_STD] <= QUIET_DEVIATION_M_S2
        if not quiet or abs(features[_NORM_MEAN] - STANDARD_GRAVITY_M_S2) > QUIET_OFFSET_M_S2:
            return
        self.waiting.append(features[_GRAVITY].copy())
        if len(self.waiting) == WAITING_MAX:
            self.settle(reference)

    def settle(self, reference: GravityReference) -> None:
        """All that waits goes into the sums."""
        if self.waiting:
            gravity = np.array(self.waiting)
            scores = reference.scores(gravity).sum(axis=0)
            self.waiting.clear()
            self.add_all(Postures(len(gravity), scores, gravity.sum(axis=0), float((gravity**2).sum())))

    def add_all(self, other: "Postures") -> None:
        """The other's sums."""
        self.weight += other.weight
        self.scores = self.scores + other.scores
        self.gravity = self.gravity + other.gravity
        self.squares += other.squares

    def halve(self) -> None:
        self.weight, self.scores = self.weight / 2, self.scores / 2
        self.gravity, self.squares = self.gravity / 2, self.squares / 2

    @property
    def variety(self) -> float:
        """Share of |g|² that is variance, 0 to 1."""
        if not self.squares:
            return 0.0
        return float(1 - self.gravity @ self.gravity / self.weight / self.squares)

    def state(self) -> list[Any]:
        waiting = [gravity.tolist() for gravity in self.waiting]
        return [self.weight, self.scores.tolist(), self.gravity.tolist(), self.squares, waiting]

    @classmethod
    def restore(cls, state: Sequence[Any]) -> Self:
        weight, scores, gravity, squares, waiting = state
        return cls(weight, np.array(scores), np.array(gravity), squares, [np.array(one) for one in waiting])


@dataclass(frozen=True, slots=True)
class MountingVerdict:
    """fits: where contradicted, the rotation (as an index of ROTATIONS) of the model's frame that fits best."""

    verdict: Literal["ok", "contradicted"]
    fits: int | None = None


@dataclass(slots=True)
class MountingWatch:
    """Of one wearable, over its sessions. window_s: what each window stands for. verdict: None while too little was
    seen."""

    window_s: float
    verdict: MountingVerdict | None = None
    _seen: Postures = field(default_factory=Postures)

    def take(self, postures: Postures) -> None:
        """Of windows on the wrist that have not been taken yet; all of them settled."""
        self._seen.add_all(postures)
        while self._seen.weight * self.window_s > MEMORY_S:
            self._seen.halve()
        self.verdict = self._judged()

    def _judged(self) -> MountingVerdict | None:
        seen, before = self._seen, self.verdict
        if seen.weight * self.window_s < QUIET_S_MIN or seen.variety < (VARIED if before is None else VARIED_STILL):
            return None
        best = int(seen.scores.argmax())
        better = (seen.scores[best] - seen.scores) / seen.weight
        fitted = before.fits if before is not None else None
        if better[0] <= (CONTRADICTED if fitted is None else FITS_AGAIN):
            return MountingVerdict("ok")
        return MountingVerdict("contradicted", best if fitted is None or better[fitted] > FITS_AGAIN else fitted)

    def state(self) -> dict[str, Any]:
        told = self.verdict and [self.verdict.verdict, self.verdict.fits]
        return {"seen": self._seen.state(), "verdict": told}

    @classmethod
    def restore(cls, window_s: float, state: Mapping[str, Any]) -> Self:
        told = state["verdict"]
        return cls(window_s, told and MountingVerdict(*told), Postures.restore(state["seen"]))
