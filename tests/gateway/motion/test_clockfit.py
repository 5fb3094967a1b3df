"""Device samples to host time: against a device whose clock is known."""

import json
import random

import pytest

from gateway.motion.clockfit import ClockFit
from gateway.motion.samples import TimeRead

TICK_HZ = 32768


def device(skew_ppm, started_ns):
    """Ticks and sample index of a 50 Hz wearable that started at this host time and runs off by skew_ppm."""

    def at(mono_ns):
        seconds = (mono_ns - started_ns) / 1e9 * (1 + skew_ppm * 1e-6)
        return int(seconds * TICK_HZ), seconds * 50

    return at


def reading(at, mono_ns, out_ns, back_ns):
    tick, index = at(mono_ns)
    return TimeRead(1, tick % 2**32, TICK_HZ, int(index) + 1, mono_ns - out_ns, mono_ns + back_ns)


@pytest.mark.parametrize("skew_ppm", [-50, 0, 50])
def test_labels_follow_a_drifting_device_through_jitter_and_the_wrap_of_its_ticks(skew_ppm):
    rng = random.Random(skew_ppm)
    started_ns = 5_000_000_000
    at, fit = device(skew_ppm, started_ns), ClockFit(50.0)
    hours = 40  # 32 bits of ticks wrap after 36.4
    for burst in range(hours * 12):
        mono_ns = started_ns + burst * 300 * 10**9 + 10**9
        _, index = at(mono_ns)
        fit.seen(int(index), round(int(index) / 50 * TICK_HZ) % 2**32)
        for k in range(8):
            trip = [rng.randrange(1_000_000, 100_000_000) for _ in range(2)]
            fit.read(reading(at, mono_ns + k * 200_000_000, *trip))
        if burst % 7 == 3:
            taken_ns = mono_ns - 200 * 10**9
            label = fit.label(round(at(taken_ns)[1]))
            assert abs(label.mono_ns - taken_ns) <= label.uncertainty_ns + 20_000_000
        fit = ClockFit.restore(50.0, json.loads(json.dumps(fit.state())))


def test_the_reading_with_the_lowest_round_trip_of_a_burst_counts():
    at, fit = device(0, 0), ClockFit(50.0)
    fit.seen(0, 0)
    fit.read(reading(at, 10**9, 90_000_000, 1_000_000))
    fit.read(reading(at, 2 * 10**9, 1_000_000, 1_000_000))
    fit.read(reading(at, 3 * 10**9, 80_000_000, 0))
    assert fit.label(100).uncertainty_ns == 1_000_000
    assert abs(fit.label(100).mono_ns - 2 * 10**9) < 1_000_000


def test_there_is_no_label_before_the_first_reading():
    assert ClockFit(50.0).label(0) is None
