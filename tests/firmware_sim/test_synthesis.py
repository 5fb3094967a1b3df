import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from firmware_sim.synthesis import ACTIVITIES, ScheduleRejected, synthesize

WEARERS = [1, 2, 3]


def test_the_eleven_activities_are_in_the_order_of_the_models_labels():
    assert ACTIVITIES == (
        "ear_rubbing",
        "forehead_rubbing",
        "hair_pulling",
        "hand_scratching",
        "hand_tapping",
        "knuckles_cracking",
        "nail_biting",
        "nape_rubbing",
        "sitting",
        "smoking",
        "standing",
    )


@settings(max_examples=25)
@given(
    st.lists(st.tuples(st.sampled_from(ACTIVITIES), st.floats(0.001, 8)), max_size=4),
    st.integers(0, 10_000),
    st.integers(0, 2**32),
    st.sampled_from([25.0, 50.0, 104.0]),
)
def test_a_schedule_gives_finite_samples_for_its_whole_length(schedule, wearer, seed, rate_hz):
    motion = synthesize(schedule, wearer=wearer, seed=seed, rate_hz=rate_hz)
    assert motion.shape == (round(sum(seconds for _, seconds in schedule) * rate_hz), 6)
    assert motion.dtype == np.float32
    assert np.isfinite(motion).all()


def test_the_seed_and_the_wearer_decide_and_nothing_else():
    def made(wearer: int, seed: int) -> bytes:
        np.random.default_rng().random()
        return synthesize([("smoking", 20), ("sitting", 10)], wearer=wearer, seed=seed).tobytes()

    assert made(1, 1) == made(1, 1)
    assert len({made(1, 1), made(1, 2), made(2, 1)}) == 3


def test_a_longer_schedule_begins_with_the_same_motion():
    short = synthesize([("sitting", 20)], wearer=1, seed=1)
    longer = synthesize([("sitting", 20), ("smoking", 20)], wearer=1, seed=1)
    assert np.array_equal(short[:950], longer[:950])


@pytest.mark.parametrize("wearer", WEARERS)
@pytest.mark.parametrize("activity", ["sitting", "standing"])
def test_a_wrist_at_rest_feels_gravity_and_hardly_turns(activity, wearer):
    motion = synthesize([(activity, 60)], wearer=wearer, seed=1)
    norm = np.linalg.norm(motion[:, :3], axis=1)
    assert np.median(norm) == pytest.approx(9.81, abs=0.25)  # sensor bias included
    assert np.sqrt((motion[:, 3:] ** 2).mean()) < 15


@pytest.mark.parametrize("wearer", WEARERS)
def test_gravity_lies_as_the_arm_does(wearer):
    def mean(activity: str) -> np.ndarray:
        return synthesize([(activity, 60)], wearer=wearer, seed=1)[:, :3].mean(axis=0)

    assert mean("standing")[0] < -7  # the hand hangs: the crown points down
    assert mean("nail_biting")[0] > 4  # the hand is up at the mouth
    assert mean("sitting")[2] > 5  # the dial is up


@pytest.mark.parametrize("activity", ["smoking", "nape_rubbing", "standing"])
def test_the_gyroscope_is_the_derivative_of_the_orientation_that_gravity_shows(activity):
    """Turning the measured gravity by the measured rates gives the gravity measured later."""
    motion = synthesize([(activity, 60)], wearer=1, seed=3).astype(np.float64)
    ahead = 10
    errors = []
    for at in range(0, len(motion) - ahead, 7):
        gravity = motion[at, :3]
        for row in range(at, at + ahead):  # trapezoid between two samples
            turn = Rotation.from_rotvec(np.radians(motion[row, 3:] + motion[row + 1, 3:]) / 2 / 50)
            gravity = turn.inv().apply(gravity)
        errors.append(np.linalg.norm(gravity - motion[at + ahead, :3]))
    moved = np.linalg.norm(motion[ahead:, :3] - motion[:-ahead, :3], axis=1)
    assert np.median(errors) < 0.35 * np.quantile(moved, 0.9) + 0.15  # what is left are strokes and sensor noise


def test_tapping_has_a_rhythm_and_sitting_has_none():
    def peak_over_median(activity: str) -> float:
        acc = synthesize([(activity, 120)], wearer=2, seed=1)[:, 2].astype(np.float64)
        power = np.abs(np.fft.rfft((acc - acc.mean()).reshape(-1, 500) * np.hanning(500))) ** 2
        hz = np.fft.rfftfreq(500, 1 / 50)
        mean = power.mean(axis=0)
        return float(mean[(hz > 1.5) & (hz < 6)].max())

    assert peak_over_median("hand_tapping") > 50 * peak_over_median("sitting")


def test_one_activity_passes_into_the_next_without_a_jump():
    motion = synthesize([("sitting", 20), ("standing", 20)], wearer=1, seed=1)
    step = np.linalg.norm(np.diff(motion[:, :3], axis=0), axis=1)
    assert step[980:1020].max() < 2.5  # 17 m/s² apart, over most of a second
    assert np.linalg.norm(motion[:900, :3].mean(axis=0) - motion[1100:, :3].mean(axis=0)) > 10


def test_wearers_differ_from_each_other():
    means = np.array([synthesize([("nail_biting", 60)], wearer=w, seed=1)[:, :3].mean(axis=0) for w in range(12)])
    assert (means.std(axis=0) > 0.5).all()


def test_an_unknown_activity_is_named_with_the_near_one():
    with pytest.raises(ScheduleRejected, match="unknown activity 'nail_bitting'; did you mean nail_biting") as refused:
        synthesize([("nail_bitting", 10)], wearer=1, seed=1)
    assert refused.value.exit_code == 2
    assert "standing" in refused.value.hint


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_a_length_that_is_none_is_refused(seconds):
    with pytest.raises(ScheduleRejected, match="expected a positive number of seconds"):
        synthesize([("sitting", seconds)], wearer=1, seed=1)
