import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.motion.units import ACC_UNITS, AccUnit, check_gravity, deg_s_from, m_s2_from

# BIPM, The International System of Units (9th edition): 1 g_n = 9.806 65 m/s²; 1 rad = 180/π degrees.
CONVERSIONS = [("g", 1.0, 9.80665), ("mg", 1000.0, 9.80665), ("mg", -250.0, -2.4516625), ("m_s2", 3.25, 3.25)]


@pytest.mark.parametrize(("unit", "value", "m_s2"), CONVERSIONS)
def test_an_acceleration_in_m_s2(unit, value, m_s2):
    assert m_s2_from(value, unit) == pytest.approx(m_s2, rel=1e-12)


def test_a_rate_of_turn_in_deg_s():
    assert deg_s_from(math.pi, "rad_s") == pytest.approx(180.0, rel=1e-12)


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1))
def test_what_is_in_si_units_stays_to_the_bit(values):
    given = np.array(values)
    assert m_s2_from(given, "m_s2").tobytes() == given.tobytes()
    assert deg_s_from(given, "deg_s").tobytes() == given.tobytes()


def at_rest_then_busy(rest_s: int, busy_s: int, seed: int = 1) -> np.ndarray:
    """m/s²: a wrist that lies still with its dial down, then is shaken."""
    rng = np.random.default_rng(seed)
    rest = np.array([0.0, 0.0, -9.81]) + rng.normal(0, 0.05, (rest_s * 50, 3))
    busy = rng.normal(0, 25.0, (busy_s * 50, 3))
    return np.concatenate([rest, busy])


PER_M_S2 = {"m_s2": 1.0, "g": 1 / 9.80665, "mg": 1000 / 9.80665}


@pytest.mark.parametrize("real", ACC_UNITS)
@pytest.mark.parametrize("taken_for", ACC_UNITS)
def test_a_mistaken_unit_is_recognised_by_gravity(real: AccUnit, taken_for: AccUnit):
    written = at_rest_then_busy(10, 20) * PER_M_S2[real]
    check = check_gravity(m_s2_from(written, taken_for), taken_for)
    assert check.plausible == (real == taken_for)
    if real != taken_for:
        assert check.likely == real


def test_gravity_that_was_removed_fits_no_unit():
    check = check_gravity(np.random.default_rng(1).normal(0, 0.05, (500, 3)), "m_s2")
    assert not check.plausible
    assert check.likely is None


def test_half_a_second_at_rest_is_judged_too():
    assert check_gravity(np.tile([0.0, 9.8, 0.0], (20, 1)), "m_s2").plausible


@pytest.mark.parametrize("scale", [0.92, 1.08])
def test_an_uncalibrated_sensor_is_not_taken_for_a_wrong_unit(scale):
    assert check_gravity(at_rest_then_busy(5, 5) * scale, "m_s2").plausible
