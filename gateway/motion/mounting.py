"""How a wearable is worn, from three postures of the arm: the signed axes that turn its case's frame into the model's.

At rest an accelerometer shows the direction up (+9.81 m/s² along the axis that points to the sky). The frame of the
wrist is said in the body's own directions: x along the forearm towards the hand, z out of the back of the wrist (where
a watch has its dial), y what makes it right-handed: on the left wrist towards the little finger, on the right one
towards the thumb. (A watch worn as usual on the left wrist has x towards its crown and y towards 12 o'clock.) So, on
either wrist:

    arm hanging straight down                       up is -x
    forearm level, palm up                          up is -z
    forearm level, palm down                        up is +z

Palm up and palm down are one axis, measured twice; the arm that hangs gives the second; the third follows, since frames
are right-handed. Which of the 24 rotations of a cube the case is turned by is the one under which the largest angle
between measured and expected directions is least. A bundle's `frame` then gives the model's axes in those of the wrist.

Gravity cannot tell an arm held up from one that hangs, nor palm up taken for palm down. The gyroscope can, with the
wrist: from palm up to palm down a forearm turns with the thumb over the top (it has no other way), which is about +x on
the left wrist and about -x on the right one; either mistake turns the sign.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gateway.errors import GatewayError
from gateway.motion.axes import ROTATIONS, axes_text
from gateway.motion.samples import Float32
from gateway.motion.units import STANDARD_GRAVITY_M_S2, check_gravity

Float64 = NDArray[np.float64]

SAMPLES_MIN = 25
"""Of one posture: half a second at 50 Hz, and the mean of so many is far better than the angles below need."""
UNREST_MAX_M_S2 = 0.6
"""Root mean square about the mean. Gravity that turns by 3.5° comes to that; a held arm's tremor (8 to 12 Hz, Elble and
Koller, "Tremor", 1990) and any wearable's noise stay well below."""
UNREST_MAX_DEG_S = 15.0
"""The same of the rates of turn: an arm that is still being moved turns by tens of degrees a second."""
OFF_MAX_DEG = 35.0
"""An axis this far from vertical is no longer clearly the nearest one, which it is up to 45°."""
OPPOSITE_MIN_DEG = 120.0
"""Between palm up and palm down, nominally 180: a forearm turns by some 170° at most, and neither is quite level."""
DISTINCT_MIN_DEG = 30.0
"""Between the arm hanging and each of the others, nominally 90."""
TURN_MIN_DEG, TURN_MAX_DEG = 90.0, 270.0
"""From palm up to palm down, nominally 150 to 180; what is outside of these was something else."""


class Posture(StrEnum):
    """In the order in which they are asked for."""

    HANGING = "arm hanging"
    PALM_UP = "palm up"
    PALM_DOWN = "palm down"


_UP: dict[Posture, Float64] = {
    Posture.HANGING: np.array([-1.0, 0.0, 0.0]),
    Posture.PALM_UP: np.array([0.0, 0.0, -1.0]),
    Posture.PALM_DOWN: np.array([0.0, 0.0, 1.0]),
}
"""In the wrist's frame."""


class PostureRejected(GatewayError):
    """One posture's samples that nothing can be told from; to be held again."""

    hint = "Take the posture, then hold the arm still until told."


class ScaleRejected(GatewayError):
    """At rest the wearable does not show gravity."""

    hint = (
        "The wearable's profile or its range setting is wrong, or gravity was taken out; with such samples the model's "
        "answers mean nothing however it is mounted."
    )


class WristContradicts(GatewayError):
    """The forearm turned as the other one does."""

    hint = (
        "Either it is worn on the other wrist than the configuration says; or palm up and palm down were taken for "
        "each other, or the arm was held up instead of down: then start again."
    )


class PosturesContradict(GatewayError):
    """The postures together fit no way of wearing it."""

    hint = "Start again. The forearm alone counts: it hangs straight down, then lies level, palm up, then palm down."


@dataclass(frozen=True, slots=True)
class Held:
    """What a posture felt like, in the case's frame. up: (3,), unit length. unrest: root mean squares about the mean.

    offset_deg_s: (3,), what the gyroscope shows at rest; it and its unrest are 0 where nobody gave rates of turn.
    """

    up: Float64
    offset_deg_s: Float64
    gravity_m_s2: float
    unrest_m_s2: float
    unrest_deg_s: float
    samples: int


@dataclass(frozen=True, slots=True)
class Mounting:
    """axes: the model's as signed axes of the case, as motion.axes writes them; matrix: (3, 3), the same.

    forearm: (3,), where the wrist's x points in the case. off_deg: for each posture the angle between the measured
    direction up and the one expected. second_deg: the largest such angle under the next best of the 24 rotations.
    """

    axes: str
    matrix: Float32
    forearm: Float32
    off_deg: dict[Posture, float]
    second_deg: float

    @property
    def worst_deg(self) -> float:
        return max(self.off_deg.values())

    @property
    def margin_deg(self) -> float:
        """How much worse the second best fits; some 90 where the postures were exact."""
        return self.second_deg - self.worst_deg


def held(acc_m_s2: NDArray[np.floating], gyro_deg_s: NDArray[np.floating]) -> Held:
    """From (n, 3) accelerations and (m, 3) rates of turn of one posture, in the case's frame; m may be 0.

    Raises PostureRejected where they are too few or the arm moved, ScaleRejected where |a| is not near gravity.
    """
    if len(acc_m_s2) < SAMPLES_MIN:
        raise PostureRejected(f"{len(acc_m_s2)} samples came, {SAMPLES_MIN} are needed")
    gravity = check_gravity(acc_m_s2, "m_s2")
    if not gravity.plausible:
        unit = f", as if {gravity.likely} were taken for m/s²" if gravity.likely else ""
        found = f"at rest the acceleration is {gravity.quiet_m_s2:.4g} m/s²{unit}"
        raise ScaleRejected(f"{found}; expected about {STANDARD_GRAVITY_M_S2:.2f}")
    mean = acc_m_s2.mean(axis=0, dtype=np.float64)
    unrest_m_s2, unrest_deg_s = _unrest(acc_m_s2), _unrest(gyro_deg_s)
    if unrest_m_s2 > UNREST_MAX_M_S2 or unrest_deg_s > UNREST_MAX_DEG_S:
        found = f"acceleration varies by {unrest_m_s2:.2f} m/s², turning by {unrest_deg_s:.0f} deg/s"
        raise PostureRejected(f"moved: {found} (still is {UNREST_MAX_M_S2:g} and {UNREST_MAX_DEG_S:g})")
    norm = float(np.linalg.norm(mean))
    offset_deg_s = gyro_deg_s.mean(axis=0, dtype=np.float64) if len(gyro_deg_s) else np.zeros(3)
    return Held(mean / norm, offset_deg_s, norm, unrest_m_s2, unrest_deg_s, len(acc_m_s2))


def find_mounting(postures: Mapping[Posture, Held], model_from_wrist: Float32) -> Mounting:
    """postures: all three. model_from_wrist: (3, 3), a bundle's `frame` (motion.axes.parse_axes).

    Raises PosturesContradict.
    """
    up = {posture: postures[posture].up for posture in Posture}
    _check_apart(up)
    fits = [(_off_deg(rotation, up), rotation) for rotation in ROTATIONS]
    fits.sort(key=lambda fit: max(fit[0].values()))
    (off_deg, wrist_from_case), (second, _) = fits[0], fits[1]
    for posture, angle in off_deg.items():
        if angle > OFF_MAX_DEG:
            expected = "straight down" if posture is Posture.HANGING else "level"
            raise PosturesContradict(
                f"{posture}: {angle:.0f}° off, where {OFF_MAX_DEG:g}° are too many: was the forearm {expected}?"
            )
    matrix = model_from_wrist @ wrist_from_case
    return Mounting(axes_text(matrix), matrix, wrist_from_case[0], off_deg, max(second.values()))


Wrist = Literal["left", "right"]


def turned_deg(
    forearm: Float32, gyro_deg_s: NDArray[np.floating], at_s: Float64, offset_deg_s: NDArray[np.floating]
) -> float:
    """How far the forearm turned about itself, positive about the wrist's x.

    gyro_deg_s: (m, 3), case frame, at the times at_s, (m,), ascending; offset_deg_s: (3,), of the gyroscope at rest.
    The integral of the rate about an axis that is fixed in the body: exact for a turn about that axis alone.
    """
    rates = (gyro_deg_s - offset_deg_s) @ forearm.astype(np.float64)
    return float(((rates[1:] + rates[:-1]) / 2 * np.diff(at_s)).sum())


def wrist_that_turned(turn_deg: float) -> Wrist | None:
    """Whose forearm turns so from palm up to palm down; None where it was no such turn."""
    if not TURN_MIN_DEG <= abs(turn_deg) <= TURN_MAX_DEG:
        return None
    return "left" if turn_deg > 0 else "right"


def check_wrist(turn_deg: float, declared: Wrist | None) -> None:
    """Raises WristContradicts where the turn from palm up to palm down was that of the other wrist."""
    seen = wrist_that_turned(turn_deg)
    if declared is not None and seen is not None and seen != declared:
        found = f"from palm up to palm down the forearm turned as a {seen} one does ({turn_deg:+.0f}°)"
        raise WristContradicts(f"{found}, and the wrist is said to be the {declared} one")


def _check_apart(up: Mapping[Posture, Float64]) -> None:
    for one, other in itertools.combinations(Posture, 2):
        apart = _angle_deg(up[one], up[other])
        if apart < DISTINCT_MIN_DEG:
            raise PosturesContradict(f"{one} and {other} are the same posture ({apart:.0f}° apart)")
    apart = _angle_deg(up[Posture.PALM_UP], up[Posture.PALM_DOWN])
    if apart < OPPOSITE_MIN_DEG:
        raise PosturesContradict(
            f"{Posture.PALM_UP} and {Posture.PALM_DOWN} are {apart:.0f}° apart, expected about 180°: "
            "turn the whole forearm over, not the hand alone"
        )


def _off_deg(wrist_from_case: Float32, up: Mapping[Posture, Float64]) -> dict[Posture, float]:
    return {posture: _angle_deg(wrist_from_case @ up[posture], _UP[posture]) for posture in Posture}


def _angle_deg(one: Float64, other: Float64) -> float:
    """Between unit vectors; atan2, since the arc cosine is coarse near 0 and 180."""
    return float(np.degrees(np.arctan2(np.linalg.norm(np.cross(one, other)), one @ other)))


def _unrest(values: NDArray[np.floating]) -> float:
    """Root mean square distance of (n, 3) from their mean; 0 of none."""
    if not len(values):
        return 0.0
    off = values - values.mean(axis=0, dtype=np.float64)
    return float(np.sqrt((off**2).sum(axis=1).mean()))
