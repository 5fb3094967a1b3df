"""Units of acceleration and rate of turn: each conversion once, and the check that tells a wrong unit from a right one.

Inside the program accelerations are m/s² and rates of turn deg/s; whatever else comes in is converted here.
"""

import math
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

STANDARD_GRAVITY_M_S2 = 9.80665
"""Standard acceleration of free fall, exact by convention (3rd CGPM, 1901; ISO 80000-3)."""

AccUnit = Literal["m_s2", "mg", "g"]
GyroUnit = Literal["deg_s", "rad_s"]
ACC_UNITS: tuple[AccUnit, ...] = get_args(AccUnit)
GYRO_UNITS: tuple[GyroUnit, ...] = get_args(GyroUnit)

_M_S2_PER: dict[AccUnit, float] = {
    "m_s2": 1.0,
    "mg": STANDARD_GRAVITY_M_S2 / 1000,
    "g": STANDARD_GRAVITY_M_S2,
}
_DEG_S_PER: dict[GyroUnit, float] = {"deg_s": 1.0, "rad_s": 180 / math.pi}

Value = TypeVar("Value", float, NDArray[np.float64])


def m_s2_from(value: Value, unit: AccUnit) -> Value:
    """m/s²; what is in m/s² already comes back to the bit."""
    return value * _M_S2_PER[unit]


def deg_s_from(value: Value, unit: GyroUnit) -> Value:
    """deg/s; what is in deg/s already comes back to the bit."""
    return value * _DEG_S_PER[unit]


GRAVITY_TOLERANCE = 0.25
"""Share of standard gravity by which a quiet wrist may differ from it: an uncalibrated MEMS sensor is off by at most a
tenth, slow movement adds some; the units differ by a factor of 9.8 at least."""
_STRETCH = 25
_QUIET_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class GravityCheck:
    """quiet_m_s2: median |a| of the quiet part. plausible: it is near gravity. likely: the unit that would explain
    it where it is not, None where no unit does."""

    quiet_m_s2: float
    plausible: bool
    likely: AccUnit | None = None


def check_gravity(acc_m_s2: NDArray[np.floating], taken_for: AccUnit) -> GravityCheck:
    """Holds accelerations, (n, 3) with n >= 1, against gravity: at rest |a| is 9.81 m/s² whatever the orientation.

    taken_for: the unit from which they were converted. Quiet are the quarter of all stretches of 25 samples in which
    |a| varies least, relative to its size (so that the choice does not depend on the unit).
    """
    norm = np.linalg.norm(acc_m_s2.astype(np.float64), axis=1)
    if len(norm) >= _STRETCH:
        stretches = norm[: len(norm) // _STRETCH * _STRETCH].reshape(-1, _STRETCH)
        spread = stretches.std(axis=1)
        quiet = float(np.median(stretches[spread <= np.quantile(spread, _QUIET_SHARE)]))
    else:
        quiet = float(np.median(norm))
    if _near_gravity(quiet):
        return GravityCheck(quiet, True)
    count = quiet / _M_S2_PER[taken_for]
    return GravityCheck(quiet, False, next((u for u in ACC_UNITS if _near_gravity(m_s2_from(count, u))), None))


def _near_gravity(value_m_s2: float) -> bool:
    return abs(value_m_s2 / STANDARD_GRAVITY_M_S2 - 1) <= GRAVITY_TOLERANCE
