"""Two sensors that stream apart, joined by device time: against each sensor resampled by itself."""

import json
import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.motion.joining import JOIN_WAIT_S, SensorJoin
from gateway.motion.resample import Resampler, Rows, RowsLost
from gateway.motion.samples import Sensor

RATE_HZ, GRID_HZ = 52.0, 50.0


def account(settled):
    """Each row's bytes, None where it is lost; no row twice."""
    rows = {}
    for part in settled:
        lost = isinstance(part, RowsLost)
        numbers = range(part.first, part.end if lost else part.first + len(part.values))
        assert not rows.keys() & set(numbers)
        rows.update(dict.fromkeys(numbers) if lost else dict(zip(numbers, part.values, strict=True)))
    return rows


def taken(first, end, shift_ns):
    return np.rint(np.arange(first, end) * 1e9 / RATE_HZ).astype(np.int64) + shift_ns


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_row_is_what_each_sensor_gives_by_itself_and_lost_where_either_lacks_it(seed):
    rng, order = np.random.default_rng(seed), random.Random(seed)
    shift_ns = {Sensor.ACC: 0, Sensor.GYRO: int(rng.integers(0, 150_000_000))}
    alone, events = {}, []
    for sensor, shift in shift_ns.items():
        values = rng.normal(size=(300, 3)).astype(np.float32)
        gone = int(rng.integers(0, 250))
        resampler, settled = Resampler(RATE_HZ, GRID_HZ), []
        for first in range(0, 300, 10):
            lost = gone <= first < gone + 20
            events.append((sensor, first, None if lost else values[first : first + 10]))
            part = (first, taken(first, first + 10, shift), values[first : first + 10])
            settled += resampler.lose(first, first + 10) if lost else resampler.add(*part)
        alone[sensor] = account(settled + resampler.end())
    order.shuffle(events)
    join, settled = SensorJoin(RATE_HZ, GRID_HZ), []
    for sensor, first, values in events:
        if values is None:
            settled += join.lose(sensor, first, first + 10)
        else:
            settled += join.add(sensor, first, taken(first, first + 10, shift_ns[sensor]), values, False)
        if order.random() < 0.2:
            join = SensorJoin.restore(json.loads(json.dumps(join.state())))
    rows = account(settled + join.end())
    both = {
        k: np.concatenate([alone[Sensor.ACC][k], alone[Sensor.GYRO][k]])
        for k in alone[Sensor.ACC]
        if alone[Sensor.ACC][k] is not None and alone[Sensor.GYRO].get(k) is not None
    }
    assert {k for k, row in rows.items() if row is not None} == set(both)
    assert all(rows[k].tobytes() == row.tobytes() for k, row in both.items())
    assert set(range(max(both) + 1)) <= set(rows)


def test_a_sensor_that_stays_silent_does_not_hold_the_other_s_rows_for_ever():
    join, lost, held = SensorJoin(RATE_HZ, GRID_HZ), 0, []
    for first in range(0, int(RATE_HZ) * 120, 26):
        settled = join.add(Sensor.ACC, first, taken(first, first + 26, 0), np.zeros((26, 3), np.float32), False)
        assert not [part for part in settled if isinstance(part, Rows)]
        lost += sum(part.end - part.first for part in settled)
        held.append(join.buffered)
    assert max(held) <= (JOIN_WAIT_S + 12) * GRID_HZ
    assert lost == join.unpaired >= (120 - JOIN_WAIT_S - 12) * GRID_HZ
    late = join.add(Sensor.GYRO, 0, taken(0, 260, 0), np.zeros((260, 3), np.float32), False)
    assert late == []


def test_a_loss_as_long_as_32_bits_allow_costs_no_memory():
    join = SensorJoin(RATE_HZ, GRID_HZ)
    join.add(Sensor.ACC, 0, taken(0, 260, 0), np.zeros((260, 3), np.float32), False)
    join.add(Sensor.GYRO, 0, taken(0, 260, 0), np.zeros((260, 3), np.float32), False)
    far = 2**32 - 1000
    for sensor in (Sensor.ACC, Sensor.GYRO):
        join.lose(sensor, 260, far)
    settled = []
    for sensor in (Sensor.ACC, Sensor.GYRO):
        settled += join.add(sensor, far, taken(far, far + 260, 0), np.ones((260, 3), np.float32), False)
    assert sum(part.end - part.first for part in settled if isinstance(part, RowsLost)) > 4 * 10**9
    assert sum(len(part.values) for part in settled if isinstance(part, Rows)) > 200
    assert join.buffered < 1000
