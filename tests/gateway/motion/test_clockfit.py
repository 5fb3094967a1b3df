"""Device time to host time, against devices whose clock is known."""

import json
import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.motion.clockfit import BURSTS_MAX, JITTER_NS, LEAST_DELAY_NS, SPANS_MAX, ClockFit, TickCount
from gateway.profiles.reference import TIME_EVERY_MAX_S, TIME_EVERY_MIN_S, TIME_READS, TIME_READS_FIRST, TIME_SHARE

MS, S, MINUTE, HOUR = 10**6, 10**9, 60 * 10**9, 3600 * 10**9
STARTED = 5 * S
TICK_HZ = 32768

JITTERS = {
    "even": lambda rng: rng.uniform(0, 100 * MS),
    "exponential": lambda rng: min(100 * MS, rng.expovariate(1 / (25 * MS))),
}


class World:
    """A device that started at this host time and runs off by ppm, and a radio with a least delay for each way."""

    def __init__(self, ppm, jitter="even", seed=0, out_ns=12 * MS, back_ns=12 * MS):
        self.rate, self.jitter, self.rng = 1 + ppm * 1e-6, JITTERS[jitter], random.Random(seed)
        self.out_ns, self.back_ns = out_ns, back_ns
        self.fit = ClockFit()

    def device_ns(self, mono_ns):
        return round((mono_ns - STARTED) * self.rate)

    def delay_ns(self, least_ns):
        return round(least_ns + self.jitter(self.rng))

    def ask(self, mono_ns, readings=8, later_ns=0):
        """later_ns: the last answer alone is so much later."""
        for k in range(readings):
            read_ns = mono_ns + self.delay_ns(self.out_ns)
            ended_ns = read_ns + self.delay_ns(self.back_ns) + (later_ns if k == readings - 1 else 0)
            self.fit.asked(self.device_ns(read_ns), mono_ns, ended_ns)
            mono_ns = ended_ns

    def notify(self, mono_ns, later_ns=0):
        self.fit.arrived(self.device_ns(mono_ns), mono_ns + self.delay_ns(self.back_ns) + later_ns)

    def error_ns(self, mono_ns):
        """How late the label of this moment is. Its uncertainty must cover that."""
        label = self.fit.label(self.device_ns(mono_ns))
        error_ns = label.mono_ns - mono_ns
        assert abs(error_ns) <= label.uncertainty_ns
        return error_ns

    def store(self):
        self.fit = ClockFit.restore(json.loads(json.dumps(self.fit.state())))


WORLDS = [(ppm, jitter, seed) for seed, ppm in enumerate((-50, 50)) for jitter in JITTERS]


def asked_at(until_ns):
    """When, for how many readings, and how long until the next, as the reference profile asks."""
    now = STARTED
    while now < until_ns:
        every_ns = int(min(TIME_EVERY_MAX_S, max(TIME_EVERY_MIN_S, (now - STARTED) / 1e9 / TIME_SHARE)) * S)
        yield now, TIME_READS if now > STARTED else TIME_READS_FIRST, every_ns
        now += every_ns


def stays_within_5_ms(ppm, jitter, seed, until_ns, probes):
    world = World(ppm, jitter, seed)
    for now, readings, every_ns in asked_at(until_ns):
        world.ask(now, readings)
        for later in range(5 * S, every_ns, every_ns // probes):
            assert abs(world.error_ns(now + later)) <= 5 * MS
        world.store()


@pytest.mark.parametrize(("ppm", "jitter", "seed"), WORLDS)
def test_over_24_hours_labels_of_a_device_that_is_asked_are_within_5_ms_and_their_uncertainty(ppm, jitter, seed):
    stays_within_5_ms(ppm, jitter, seed, STARTED + 24 * HOUR, 4)


@pytest.mark.parametrize("seed", range(2, 18))
def test_in_the_first_hour_labels_are_within_5_ms_as_well(seed):
    stays_within_5_ms((-50, 50)[seed % 2], list(JITTERS)[seed // 2 % 2], seed, STARTED + HOUR, 8)


@pytest.mark.parametrize(("ppm", "jitter", "seed"), WORLDS)
def test_over_24_hours_labels_by_arrival_are_late_by_the_least_delay_within_5_ms(ppm, jitter, seed):
    least_ns = (3 * MS, 45 * MS)[seed % 2]
    world = World(ppm, jitter, seed, back_ns=least_ns)
    for now in range(STARTED, STARTED + 24 * HOUR, 2900 * MS):
        world.notify(now)
        if (now - STARTED) // (2900 * MS) % 101 == 7:
            error_ns = world.error_ns(now - 4 * S)
            if now >= STARTED + 10 * MINUTE:
                assert -5 * MS <= error_ns - least_ns <= 5 * MS
            world.store()


@pytest.mark.parametrize("ppm", [-10_000, 3_000, 20_000])
def test_a_device_that_counts_samples_at_a_rate_of_its_own_is_labelled_as_well(ppm):
    world = World(ppm)
    for now in range(STARTED, STARTED + HOUR, 300 * MS):
        world.notify(now)
        if now > STARTED + 10 * MINUTE and now % (20 * S) == 0:
            assert abs(world.error_ns(now - 4 * S) - world.back_ns) <= 5 * MS


def test_unlike_ways_there_and_back_stay_within_the_uncertainty():
    world = World(50, out_ns=5 * MS, back_ns=60 * MS)
    for now in range(STARTED, STARTED + 6 * HOUR, 5 * MINUTE):
        world.ask(now)
        world.error_ns(now + MINUTE)


def test_an_answer_that_is_two_seconds_late_moves_nothing():
    world = World(30)
    for now in range(STARTED, STARTED + 6 * HOUR, 5 * MINUTE):
        world.ask(now, later_ns=2 * S)
        if now >= STARTED + HOUR:
            assert abs(world.error_ns(now + MINUTE)) <= 5 * MS


def test_readings_that_are_two_seconds_old_are_outvoted_in_their_burst_and_a_burst_of_them_by_the_others():
    world = World(30)
    for k, now in enumerate(range(STARTED, STARTED + 6 * HOUR, 5 * MINUTE)):
        stale = 8 if k % 7 == 5 else 3
        for _ in range(stale):
            world.fit.asked(world.device_ns(now) - 2 * S, now, now + 20 * MS)
        world.ask(now + S, readings=8 - stale)
        if now >= STARTED + HOUR:
            assert abs(world.error_ns(now + MINUTE)) <= 10 * MS  # fewer readings than in the bursts above


def test_notifications_that_a_stalled_link_held_back_move_nothing():
    world = World(30)
    for now in range(STARTED, STARTED + 2 * HOUR, 500 * MS):
        stalled = now % (20 * MINUTE) < 90 * S
        world.notify(now, later_ns=3 * S if stalled else 0)
        if now > STARTED + 21 * MINUTE and now % (10 * S) == 0:
            assert abs(world.error_ns(now - 4 * S) - world.back_ns) <= 5 * MS


@pytest.mark.parametrize("step_ns", [-3 * S, 300 * MS, 3 * S])
def test_a_clock_that_was_set_is_followed_once_three_bursts_agree(step_ns):
    world = World(30)
    for now in range(STARTED, STARTED + 3 * HOUR, 5 * MINUTE):
        world.ask(now)
    world.device_ns = lambda mono_ns: round((mono_ns - STARTED) * world.rate) + step_ns
    for k, now in enumerate(range(STARTED + 3 * HOUR, STARTED + 5 * HOUR, 5 * MINUTE)):
        world.ask(now)
        if k >= 2:
            assert abs(world.error_ns(now + MINUTE)) <= 30 * MS


def test_there_is_no_label_before_anything_was_observed():
    assert ClockFit().label(0) is None


def test_one_reading_labels_and_admits_what_it_does_not_know():
    fit = ClockFit()
    fit.asked(1000 * S, 1500 * S, 1500 * S + 40 * MS)
    near, far = fit.label(1000 * S), fit.label(0)
    assert abs(near.mono_ns - (1500 * S + 20 * MS)) < MS
    assert 20 * MS <= near.uncertainty_ns < 21 * MS
    assert abs(far.mono_ns - (500 * S + 20 * MS)) < MS
    assert far.uncertainty_ns > 1000 * S * 100e-6  # crystals may be off by as much


def test_what_cannot_be_asked_is_never_more_certain_than_the_least_delay_that_may_hide():
    fit = ClockFit()
    for k in range(1000):
        fit.arrived(k * S, k * S)
    assert fit.label(990 * S).uncertainty_ns >= LEAST_DELAY_NS


def test_a_single_notification_may_have_been_as_late_as_the_radio_allows():
    fit = ClockFit()
    fit.arrived(0, 10 * S)
    assert fit.label(0).uncertainty_ns >= LEAST_DELAY_NS + JITTER_NS


def test_notifications_told_many_at_a_time_say_as_much_as_one_by_one():
    rng = np.random.default_rng(1)
    device_ns = np.arange(0, 1800 * S, 20 * MS)
    mono_ns = np.rint(device_ns * (1 + 30e-6)).astype(np.int64) + 7 * S + rng.integers(0, 100 * MS, len(device_ns))
    mono_ns = np.maximum.accumulate(mono_ns)
    singly, together = ClockFit(), ClockFit()
    for device, mono in zip(device_ns.tolist(), mono_ns.tolist(), strict=True):
        singly.arrived(device, mono)
    for first in range(0, len(device_ns), 130):
        together.arrived_each(device_ns[first : first + 130], mono_ns[first : first + 130])
    for at_s in (60, 900, 1800):
        told, apart = together.label(at_s * S), singly.label(at_s * S)
        assert abs(told.mono_ns - apart.mono_ns) < MS
        assert abs(told.mono_ns - (at_s * S * (1 + 30e-6) + 7 * S)) < 5 * MS
        assert told.uncertainty_ns == pytest.approx(apart.uncertainty_ns, rel=0.05)


times = st.integers(-(2**58), 2**58)
near_times = st.integers(-200 * S, 200 * S)
asks = st.tuples(st.just("asked"), times | near_times, times | near_times, times | near_times)
arrivals = st.tuples(st.just("arrived"), times | near_times, times | near_times)


@settings(max_examples=150, deadline=None)
@given(st.lists(asks | arrivals, max_size=40), st.lists(near_times | st.integers(-(2**50), 2**50), min_size=2))
def test_in_any_order_of_calls_nothing_raises_and_labels_never_fall(calls, asked_for):
    fit = ClockFit()
    for name, *arguments in calls:
        getattr(fit, name)(*arguments)
        again = ClockFit.restore(json.loads(json.dumps(fit.state())))
        assert again.label(0) == fit.label(0)
    labels = [fit.label(device_ns) for device_ns in sorted(asked_for)]
    if labels[0] is not None:
        slack_ns = max(abs(label.mono_ns) for label in labels) >> 50  # of a float's 53 bits
        assert all(late.mono_ns - early.mono_ns >= -slack_ns for early, late in pairwise(labels))


def test_memory_is_bounded_whatever_comes():
    fit, rng = ClockFit(), random.Random(1)
    for k in range(5000):
        fit.arrived(rng.randrange(10**15), k)
        fit.asked(rng.randrange(10**15), k, k + 1)
    state = fit.state()
    assert len(state["bursts"]) <= BURSTS_MAX
    assert len(state["spans"]) <= SPANS_MAX


# The counter of ticks.


def tick_of(index, sensor_hz, started=0):
    return (started + int(index / sensor_hz * TICK_HZ)) % 2**32


@pytest.mark.parametrize("sensor_hz", [50.0, 49.5, 50.6])
@pytest.mark.parametrize("order", ["forwards", "backwards", "shuffled"])
def test_ticks_give_the_true_rate_over_wraps_in_any_order(sensor_hz, order):
    started, newest = 4_000_000_000, int(100 * 3600 * sensor_hz)  # 100 hours, three wraps
    ticks = TickCount(50.0)
    origin_ns = ticks.read(tick_of(newest, sensor_hz, started), TICK_HZ, newest)
    frames = list(range(0, newest, 2850))
    if order != "forwards":
        frames.reverse()
    if order == "shuffled":
        random.Random(1).shuffle(frames)
    for n, first in enumerate(frames):
        ticks.seen(first, tick_of(first, sensor_hz, started))
        if n % 500 == 499:
            ticks = TickCount.restore(50.0, json.loads(json.dumps(ticks.state())))
    for index in range(1000, newest, 700_001):
        expected_ns = origin_ns - (newest - index) / sensor_hz * S
        assert abs(ticks.at(index) - expected_ns) < MS


def test_samples_and_readings_share_one_time_whichever_comes_first():
    early, late = TickCount(50.0), TickCount(50.0)
    read_ns = early.read(tick_of(1000.7, 50), TICK_HZ, 1001)
    for ticks in (early, late):
        ticks.seen(981, tick_of(981, 50))
    late_read_ns = late.read(tick_of(1000.7, 50), TICK_HZ, 1001)
    late.seen(981, tick_of(981, 50))
    assert abs((read_ns - early.at(981)) - 19.7 * 20 * MS) < 62_000
    assert abs((late_read_ns - late.at(981)) - 19.7 * 20 * MS) < 62_000


def test_without_ticks_device_time_is_the_index_by_the_nominal_rate():
    assert TickCount(50.0).at(75) == 1500 * MS


@pytest.mark.parametrize("step_s", [-40, 2, 3600])
def test_a_tick_that_contradicts_the_index_is_bridged_by_the_index(step_s):
    ticks = TickCount(50.0)
    ticks.read(0, TICK_HZ, 0)
    for first in range(0, 100_000, 20):
        stepped = step_s * TICK_HZ if first >= 50_000 else 0
        ticks.seen(first, (tick_of(first, 50) + stepped) % 2**32)
    assert all(abs(ticks.at(index) - index * 20 * MS) < MS for index in range(0, 100_000, 7_001))
    assert abs(ticks.read((tick_of(100_000, 50) + step_s * TICK_HZ) % 2**32, TICK_HZ, 100_000) - 2000 * S) < MS


def test_over_40_hours_samples_are_labelled_through_the_wrap_of_the_ticks():
    world, ticks = World(-40), TickCount(50.0)
    for now in range(STARTED, STARTED + 40 * HOUR, 5 * MINUTE):
        for k in range(8):
            started_ns = now + k * 300 * MS
            read_ns = started_ns + world.delay_ns(world.out_ns)
            elapsed_s = world.device_ns(read_ns) / S
            device_ns = ticks.read(int(elapsed_s * TICK_HZ) % 2**32, TICK_HZ, int(elapsed_s * 50) + 1)
            world.fit.asked(device_ns, started_ns, read_ns + world.delay_ns(world.back_ns))
        first = int(world.device_ns(now + 4 * S) / S * 50)
        ticks.seen(first, tick_of(first, 50))
        label = world.fit.label(ticks.at(first + 5.5))
        taken_ns = STARTED + (first + 5.5) * 20 * MS / world.rate
        assert abs(label.mono_ns - taken_ns) <= label.uncertainty_ns
        if now >= STARTED + HOUR:
            assert abs(label.mono_ns - taken_ns) <= 5 * MS
