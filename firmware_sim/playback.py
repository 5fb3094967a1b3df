"""What a wearable's sensor feels: synthetic motion by a schedule, or a recording brought to the device's rate.

Out: (n, 6) float32, m/s² and deg/s, one row a sample.
"""

import itertools

import numpy as np
from numpy.typing import NDArray

from firmware_sim.scenario import ScenarioRejected, WearableSpec

SECONDS_EACH = 20.0
"""Of each activity, where no schedule is given."""


def load(spec: WearableSpec, rate_hz: float) -> NDArray[np.float32]:
    """All samples of one wearable. Raises ScenarioRejected, and what reading a recording raises."""
    values = _recorded(spec, rate_hz) if spec.recorded else _synthetic(spec, rate_hz)
    if spec.duration_s is not None:
        values = values[: round(spec.duration_s * rate_hz)]
    if not len(values):
        raise ScenarioRejected(f"wearable {spec.name!r}: there is not one sample to play")
    return values


def _synthetic(spec: WearableSpec, rate_hz: float) -> NDArray[np.float32]:
    from firmware_sim.synthesis import ACTIVITIES, Person, synthesize, with_rests

    schedule = spec.schedule or tuple((activity, SECONDS_EACH) for activity in ACTIVITIES)
    once_s = sum(seconds for _, seconds in schedule)
    rounds = max(1, int(np.ceil((spec.duration_s or once_s) / once_s)))
    repeated = tuple(itertools.chain.from_iterable(itertools.repeat(schedule, rounds)))
    person = Person(spec.wrist, spec.hand, spec.mounting, spec.tempo, spec.amplitude)
    rested = with_rests(repeated, spec.rest_s, seed=spec.seed)
    return synthesize(rested, wearer=spec.wearer, seed=spec.seed, rate_hz=rate_hz, person=person)


def _recorded(spec: WearableSpec, rate_hz: float) -> NDArray[np.float32]:
    from gateway.recording import read_recording

    return read_recording(spec.recorded, acc_unit=spec.acc_unit, gyro_unit=spec.gyro_unit).on_grid(rate_hz).values
