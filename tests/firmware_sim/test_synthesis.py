import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from firmware_sim.synthesis import ACTIVITIES, REST, Person, ScheduleRejected, synthesize, with_rests
from gateway.errors import InputRejected
from gateway.motion.axes import parse_axes

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


# Wearers who differ


def quiet(person: Person, activity: str = "nail_biting", seconds: float = 30) -> np.ndarray:
    return synthesize([(activity, seconds)], wearer=3, seed=1, person=person).astype(np.float64)


def test_a_person_of_whom_nothing_is_known_moves_as_the_number_alone_does():
    assert (
        synthesize([("smoking", 20)], wearer=3, seed=1).tobytes()
        == quiet(Person(), "smoking", 20).astype(np.float32).tobytes()
    )


@pytest.mark.parametrize("activity", ACTIVITIES)
def test_the_right_wrist_is_the_mirror_image_of_the_left_one(activity):
    """By reflecting positions and orientations: with S = diag(1, -1, 1) an acceleration a becomes S a, and a rate of
    turn w, for which R' = R [w]x holds, becomes that of S R S: [w'] = S [w]x S."""
    left, right = quiet(Person(), activity), quiet(Person(wrist="right"), activity)
    reflect = np.diag([1.0, -1.0, 1.0])
    noise = left - right * [1, -1, 1, -1, 1, -1]  # the sensor's own, in its own frame
    assert np.abs(noise[:, [0, 2, 4]]).max() < 1e-4
    assert np.abs(noise).max() < 5
    for row in range(0, len(left), 97):
        x, y, z = left[row, 3:]
        cross = reflect @ np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ reflect
        turned = np.array([cross[2, 1], cross[0, 2], cross[1, 0]])
        assert right[row, 3:] == pytest.approx(turned, abs=5)
        assert right[row, :3] == pytest.approx(reflect @ left[row, :3], abs=1)


@pytest.mark.parametrize("mounting", ["-x,-y,z", "y,-x,z", "x,-y,-z", "z,x,y"])
def test_a_case_that_is_mounted_otherwise_feels_the_same_motion_in_its_own_axes(mounting):
    plain, turned = quiet(Person(), "smoking"), quiet(Person(mounting=mounting), "smoking")
    matrix = parse_axes(mounting).astype(np.float64)
    assert (
        np.abs(turned[:, :3] - plain[:, :3] @ matrix.T).mean() < 0.25
    )  # noise and bias of the sensor stay in its axes
    assert np.abs(turned[:, 3:] - plain[:, 3:] @ matrix.T).mean() < 1.5


def peak_hz(motion: np.ndarray) -> float:
    power = (
        np.abs(np.fft.rfft((motion[:, 3:] - motion[:, 3:].mean(axis=0)) * np.hanning(len(motion))[:, None], axis=0))
        ** 2
    ).sum(axis=1)
    hz = np.fft.rfftfreq(len(motion), 1 / 50)
    return float(np.average(hz[hz < 8], weights=power[hz < 8]))


def test_a_faster_person_is_faster_by_the_factor():
    slow, fast = (peak_hz(quiet(Person(tempo=tempo), "ear_rubbing", 120)) for tempo in (0.8, 1.6))
    assert fast / slow == pytest.approx(2, rel=0.25)


def test_a_larger_amplitude_swings_wider_by_the_factor():
    small, large = (quiet(Person(amplitude=amplitude), "ear_rubbing", 60)[:, 3:].std() for amplitude in (0.6, 1.2))
    assert large / small == pytest.approx(2, rel=0.1)


def test_the_other_hand_is_slower_and_moves_less():
    own, other = (quiet(Person(wrist="left", hand=hand), "ear_rubbing", 120) for hand in ("left", "right"))
    assert peak_hz(other) < peak_hz(own)
    assert other[:, 3:].std() < own[:, 3:].std()


def test_drawn_persons_differ_in_everything_and_are_the_same_for_the_same_number():
    persons = [Person.drawn(number) for number in range(60)]
    assert persons == [Person.drawn(number) for number in range(60)]
    for trait in ("hand", "wrist", "mounting", "tempo", "amplitude"):
        assert len({getattr(person, trait) for person in persons}) > 1, trait
    assert 0 < sum(person.hand == "left" for person in persons) < 20


@pytest.mark.parametrize("wearer", WEARERS)
def test_a_hand_at_rest_is_stiller_than_any_activity(wearer):
    turning = {name: synthesize([(name, 30)], wearer=wearer, seed=1)[:, 3:].std() for name in (*ACTIVITIES, REST)}
    assert min(turning, key=turning.__getitem__) in (REST, "sitting")
    still = synthesize([(REST, 30)], wearer=wearer, seed=1)
    assert np.linalg.norm(still[:, :3], axis=1).mean() == pytest.approx(9.81, abs=0.25)


def test_rests_stand_between_activities_and_last_as_long_as_asked_in_the_mean():
    schedule = [("sitting", 5.0)] * 400
    rested = with_rests(schedule, 3.0, seed=1)
    assert rested == with_rests(schedule, 3.0, seed=1) != with_rests(schedule, 3.0, seed=2)
    assert [entry for entry in rested if entry[0] != REST] == schedule
    assert [name for name, _ in rested[1::2]] == [REST] * 399
    assert np.mean([seconds for name, seconds in rested if name == REST]) == pytest.approx(3, rel=0.1)
    assert with_rests(schedule, 0, seed=1) == schedule


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ({"tempo": 0}, "tempo 0: expected a factor above 0"),
        ({"amplitude": 9}, "up to 5"),
        ({"tempo": float("nan")}, "tempo nan"),
        ({"mounting": "x,y"}, "expected three different axes"),
        ({"mounting": "-x,y,z"}, "a mirror image"),
    ],
    ids=["no-tempo", "huge", "nan", "two-axes", "mirror"],
)
def test_a_person_that_cannot_be_is_refused(known, said):
    with pytest.raises(InputRejected, match=said):
        Person(**known)
