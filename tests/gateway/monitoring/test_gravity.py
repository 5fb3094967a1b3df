"""Gravity against the mounting: what is told of days in many postures, and when nothing is."""

import functools
import itertools
import json

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from converter.reference import read_reference
from converter.training_config import read_training_config
from firmware_sim.synthesis import ACTIVITIES, REST, synthesize
from gateway.bundle import load_bundle
from gateway.cli.demo import demo_bundle
from gateway.monitoring.features import FEATURES, window_features
from gateway.monitoring.gravity import (
    MEMORY_S,
    ORDINARY,
    QUIET_S_MIN,
    RARE,
    GravityReference,
    MountingVerdict,
    MountingWatch,
    Postures,
)
from gateway.motion.axes import ROTATIONS, axes_text, rotate

HOP_S = 2.0
ENOUGH = int(QUIET_S_MIN / HOP_S) + 1


def windows_of(motion):
    return sliding_window_view(motion, 200, axis=0)[::100].transpose(0, 2, 1)


@pytest.fixture(scope="module")
def reference():
    found = GravityReference.of(load_bundle(demo_bundle()).manifest.drift_reference)
    assert found is not None
    return found


def times(postures, factor):
    return Postures(
        postures.weight * factor, postures.scores * factor, postures.gravity * factor, postures.squares * factor
    )


def features_at(gravity, deviation=0.1):
    values = np.zeros(len(FEATURES))
    values[:3] = gravity
    values[FEATURES.index("acc_norm_mean_m_s2")] = np.linalg.norm(gravity)
    values[FEATURES.index("acc_norm_std_m_s2")] = deviation
    return values


def test_the_rotations_are_the_24_proper_ones_and_begin_with_none():
    assert len({axes_text(rotation) for rotation in ROTATIONS}) == 24
    np.testing.assert_array_equal(ROTATIONS[0], np.eye(3))
    np.testing.assert_allclose(np.linalg.det(ROTATIONS), 1)


def test_a_score_is_how_ordinary_each_rotated_axis_is_in_the_training_data():
    """Against the shares of the very windows that the reference was made of, axis by axis and rotation by rotation."""
    rng = np.random.default_rng(3)
    trained = rng.normal([4, -2, 6], [3, 1, 2], (20_000, 3))
    ranks = np.linspace(0, 1, 2001)
    values = np.quantile(trained, ranks, axis=0)
    reference = GravityReference(tuple(values.T), (ranks,) * 3)
    seen = rng.normal(0, 6, (20, 3))
    for gravity, scores in zip(seen, reference.scores(seen), strict=True):
        turned = ROTATIONS @ gravity
        near = (np.abs(trained[None] - turned[:, None]) <= 1.0).mean(axis=1)
        expected = np.log(RARE + np.minimum(near, ORDINARY)).sum(axis=1)
        np.testing.assert_allclose(scores, expected, atol=0.15)


@functools.cache
def performed(wearer):
    """The windows of 20 s of each activity, and of rest."""
    return {
        activity: windows_of(synthesize([(activity, 20.0)], wearer=wearer, seed=500))
        for activity in (*ACTIVITIES, REST)
    }


def worn_as(reference, wearer, rotation):
    """What each activity's windows show where the true mounting is this rotation away from the declared one."""
    seen = {}
    for activity, windows in performed(wearer).items():
        seen[activity] = Postures()
        for window in windows:
            seen[activity].add(window_features(rotate(window, rotation)), reference)
        seen[activity].settle(reference)
        seen[activity] = times(seen[activity], 1 / len(windows))
    return seen


def day(seen, shares, windows=3 * ENOUGH):
    whole = Postures()
    for share, postures in zip(shares, seen.values(), strict=True):
        whole.add_all(times(postures, share * windows))
    return whole


def judged(postures, watch=None):
    watch = watch or MountingWatch(HOP_S)
    watch.take(postures)
    return watch.verdict


def test_on_days_of_many_activities_the_right_mounting_stands_and_most_wrong_ones_are_found(reference):
    """Of 23 wrong ones the reference's marginals tell 14 apart; what would fit instead is no worse than right."""
    rng = np.random.default_rng(7)
    found = []
    for wearer in range(2000, 2004):
        seen = [worn_as(reference, wearer, rotation) for rotation in ROTATIONS]
        for _ in range(10):
            shares = rng.dirichlet([1.0] * len(seen[0]))
            verdicts = [judged(day(each, shares)) for each in seen]
            assert verdicts[0] == MountingVerdict("ok")
            found.append(sum(verdict.verdict == "contradicted" for verdict in verdicts[1:]))
            for wrong, verdict in zip(ROTATIONS[1:], verdicts[1:], strict=True):
                if verdict.fits is not None:
                    left = axes_text(ROTATIONS[verdict.fits] @ wrong)
                    back = next(n for n, rotation in enumerate(ROTATIONS) if axes_text(rotation) == left)
                    assert judged(day(seen[back], shares)) == MountingVerdict("ok")
    assert np.mean(found) >= 14


def in_postures(reference, *directions, count=ENOUGH):
    """So many windows, in turn along each of these directions."""
    postures = Postures()
    for direction in directions:
        seen = Postures()
        seen.add(features_at(np.array(direction) / np.linalg.norm(direction) * 9.81), reference)
        seen.settle(reference)
        postures.add_all(times(seen, count / len(directions)))
    return postures


STRANGE = ((-1, -9, 1), (1, -9, -1), (3, 0, -9), (-2, 1, -9))
"""Of gravity in the demo's frame: 12 o'clock down, and the dial down; neither is in its training."""


def test_strange_postures_are_a_contradiction_only_after_hours(reference):
    watch = MountingWatch(HOP_S)
    assert judged(in_postures(reference, *STRANGE, count=ENOUGH // 2), watch) is None
    assert judged(in_postures(reference, *STRANGE, count=ENOUGH // 2 + 1), watch).verdict == "contradicted"


def test_one_posture_however_long_contradicts_nothing(reference):
    assert judged(in_postures(reference, STRANGE[0], count=20 * ENOUGH)) is None


def test_motion_and_what_is_no_gravity_are_passed_over(reference):
    postures = Postures()
    postures.add(features_at((0, -9.8, 0), deviation=0.6), reference)
    postures.add(features_at((0, -9.0, 0)), reference)
    postures.settle(reference)
    assert postures.weight == 0
    assert judged(postures) is None


USUAL = ((8, 2, 4), (0, 1, 9.6), (4.5, 4, 6), (-9, 1, 2))


def test_a_verdict_does_not_flap_between_its_two_thresholds(reference):
    """The same mixture is a contradiction where there was one already, and none where there was not."""

    def mixed(share):
        postures = times(in_postures(reference, *STRANGE), share)
        postures.add_all(times(in_postures(reference, *USUAL), 1 - share))
        return postures

    def better(postures):
        return (postures.scores.max() - postures.scores[0]) / postures.weight

    share = next(share for share in np.linspace(0, 1, 200) if better(mixed(share)) > 0.4)
    assert judged(times(mixed(share), 2)).verdict == "ok"
    watch = MountingWatch(HOP_S)
    assert judged(times(in_postures(reference, *STRANGE), 1.1), watch).verdict == "contradicted"
    verdicts = [judged(mixed(share), watch).verdict for _ in range(20)]
    assert set(verdicts) == {"contradicted"}
    verdicts = [judged(in_postures(reference, *USUAL), watch).verdict for _ in range(20)]
    assert verdicts[-1] == "ok"
    assert sum(a != b for a, b in itertools.pairwise(verdicts)) <= 1


def test_what_is_long_past_weighs_less(reference):
    watch = MountingWatch(HOP_S)
    for _ in range(100):
        watch.take(in_postures(reference, *STRANGE))
    assert watch._seen.weight * HOP_S <= MEMORY_S
    days = 0
    while watch.verdict.verdict == "contradicted":
        watch.take(in_postures(reference, *USUAL, count=int(MEMORY_S / HOP_S / 4)))
        days += 0.25
    assert days <= 2


def test_order_does_not_matter_and_a_snapshot_holds_it_all(reference):
    parts = [in_postures(reference, direction, count=100) for direction in (*STRANGE, *USUAL)]
    forwards, backwards = Postures(), Postures()
    for part in parts:
        forwards.add_all(part)
    for part in reversed(parts):
        backwards.add_all(part)
    np.testing.assert_allclose(forwards.scores, backwards.scores, rtol=1e-12)
    waiting = Postures()
    for n in range(40):
        waiting.add(features_at((0, n / 10 - 2, 9.6)), reference)
    assert waiting.weight == 32
    restored = Postures.restore(json.loads(json.dumps(waiting.state())))
    waiting.settle(reference)
    restored.settle(reference)
    assert waiting.weight == 40
    assert restored.state() == waiting.state()
    watch = MountingWatch(HOP_S)
    watch.take(times(forwards, 20))
    again = MountingWatch.restore(HOP_S, json.loads(json.dumps(watch.state())))
    assert again.verdict == watch.verdict is not None
    watch.take(backwards)
    again.take(backwards)
    assert again.state() == watch.state()
    assert len(json.dumps(watch.state())) < 1000


def test_a_reference_without_all_three_axes_tells_nothing():
    features = dict(load_bundle(demo_bundle()).manifest.drift_reference)
    del features["Ay_mean_m_s2"]
    assert GravityReference.of(features) is None


def test_the_real_recording_contradicts_no_mounting_for_it_is_one_hour_in_one_posture(real_data, real_grid):
    """Against its own model's training statistics. Its evidence alone speaks against 4 of the 23 wrong mountings, and
    not at all against the right one; but one posture is none."""
    config = read_training_config(real_data / "model" / "config.json", window=200, channels=6, classes=11)
    trained = read_reference([real_data / "model" / "training_baseline.json"], window=200, config=config)
    reference = GravityReference.of(trained.features)
    better = []
    for rotation in ROTATIONS:
        postures = Postures()
        for window in real_grid.windows(200, 100)[::10]:
            postures.add(window_features(rotate(window, rotation)), reference)
        postures.settle(reference)
        assert judged(times(postures, 10)) is None
        assert judged(times(postures, 1000)) is None
        better.append((postures.scores.max() - postures.scores[0]) / postures.weight)
    assert better[0] == pytest.approx(0, abs=0.01)
    assert sum(margin > 0.6 for margin in better[1:]) == 4
