"""The mounting that three postures give, against an arm built from its anatomy, in all 24 ways of wearing a case."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation, Slerp

from gateway.motion.axes import axes_text, parse_axes, rotate
from gateway.motion.mounting import (
    Held,
    Mounting,
    Posture,
    PostureRejected,
    PosturesContradict,
    ScaleRejected,
    WristContradicts,
    check_wrist,
    find_mounting,
    held,
    turned_deg,
    wrist_that_turned,
)

G = 9.81
FORWARD, UP = np.array([1.0, 0, 0]), np.array([0, 0, 1.0])
LEFT = np.cross(UP, FORWARD)
PROPER = [
    axes_text(matrix)
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
    if np.linalg.det(matrix := (np.eye(3)[list(order)] * np.array(signs)[:, None]).astype(np.float32)) > 0
]


def wrist_in_world(side: str, posture: Posture) -> np.ndarray:
    """Columns: where the wrist's x, y and z point. From anatomy: the fingers, the back of the hand, the thumb."""
    inwards = -LEFT if side == "left" else LEFT
    fingers, back, thumb = {
        Posture.HANGING: (-UP, -inwards, FORWARD),  # palm to the thigh
        Posture.PALM_UP: (FORWARD, -UP, -inwards),
        Posture.PALM_DOWN: (FORWARD, UP, inwards),
    }[posture]
    return np.column_stack([fingers, -thumb if side == "left" else thumb, back])


def tilted(rng: np.random.Generator, degrees: float) -> np.ndarray:
    """A turn about some horizontal axis: what brings gravity off by exactly that."""
    heading = rng.uniform(0, 2 * np.pi)
    k = np.array([np.cos(heading), np.sin(heading), 0])
    cross = np.cross(np.eye(3), k)
    angle = np.radians(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def felt(side, posture, mounting="x,y,z", tilt_deg=0.0, seed=0, n=200, noise=(0.1, 2.0)) -> np.ndarray:
    """(n, 6): at rest, in the axes of a case whose model axes are `mounting`; the model's axes are the wrist's."""
    rng = np.random.default_rng([seed, list(Posture).index(posture)])
    wrist = tilted(rng, tilt_deg) @ wrist_in_world(side, posture)
    case_from_wrist = parse_axes(mounting).T
    samples = rng.normal(0, [noise[0]] * 3 + [noise[1]] * 3, (n, 6))
    samples[:, :3] += case_from_wrist @ (wrist.T @ (G * UP))
    samples[:, 3:] += rng.uniform(-3, 3, 3)  # a gyroscope's offset is no movement
    return samples.astype(np.float32)


def find(samples: dict[Posture, np.ndarray], frame: str = "x,y,z") -> Mounting:
    return find_mounting({p: held(s[:, :3], s[:, 3:]) for p, s in samples.items()}, parse_axes(frame))


def worn(**options) -> dict[Posture, np.ndarray]:
    return {posture: felt("left", posture, **options) for posture in Posture}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("posture", Posture)
def test_the_wrists_frame_as_it_is_told_is_right_handed_on_both_sides(side, posture):
    x, y, z = wrist_in_world(side, posture).T
    assert np.allclose(np.cross(x, y), z)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("mounting", PROPER)
def test_each_of_the_24_mountings_is_found_on_either_wrist(mounting, side):
    found = find({p: felt(side, p, mounting, tilt_deg=10) for p in Posture})
    assert found.axes == mounting
    assert np.array_equal(found.matrix, parse_axes(mounting))
    assert set(found.off_deg) == set(Posture)
    assert found.worst_deg == pytest.approx(10, abs=1)
    assert found.margin_deg > 60


@settings(deadline=None)
@given(
    mounting=st.sampled_from(PROPER),
    side=st.sampled_from(["left", "right"]),
    tilts=st.tuples(*[st.floats(0, 25)] * 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_postures_up_to_25_degrees_off_give_the_right_mounting(mounting, side, tilts, seed):
    samples = {p: felt(side, p, mounting, tilt, seed) for p, tilt in zip(Posture, tilts, strict=True)}
    found = find(samples)
    assert found.axes == mounting
    assert found.worst_deg == pytest.approx(max(tilts), abs=2)
    assert found.margin_deg > 30


@settings(deadline=None)
@given(worn_as=st.sampled_from(PROPER), frame=st.sampled_from(PROPER))
def test_the_bundles_frame_turns_the_wrists_axes_into_the_models(worn_as, frame):
    found = find({p: felt("left", p, worn_as, tilt_deg=5) for p in Posture}, frame)
    case = np.array([[1, 2, 3, 4, 5, 6]], np.float32)
    wrist = rotate(case, parse_axes(worn_as))
    assert np.array_equal(rotate(case, found.matrix), rotate(wrist, parse_axes(frame)))
    assert np.array_equal(parse_axes(found.axes), found.matrix)


def test_a_watch_as_usual_on_the_left_wrist_has_the_axes_of_its_case():
    assert find(worn()).axes == "x,y,z"  # x to the crown, y to 12 o'clock, z out of the dial


def test_how_still_and_how_heavy_each_posture_was_is_told():
    quiet = worn(noise=(0.0, 0.0))[Posture.PALM_UP]
    shaken = quiet + np.tile([[0.3, 0, 0, 4, 0, 0], [-0.3, 0, 0, -4, 0, 0]], (100, 1))
    posture = held(shaken[:, :3], shaken[:, 3:])
    assert (posture.unrest_m_s2, posture.unrest_deg_s) == (pytest.approx(0.3), pytest.approx(4))
    assert posture.gravity_m_s2 == pytest.approx(G)
    assert posture.samples == 200
    assert posture.up == pytest.approx([0, 0, -1], abs=1e-6)


def test_an_accelerometer_alone_is_enough():
    acc = worn()[Posture.HANGING][:, :3]
    assert held(acc, np.empty((0, 3))).unrest_deg_s == 0.0


MOVED = [
    ("swings", lambda s: s[:, :3] + 1.2 * np.sin(np.arange(200) / 8)[:, None] * [0, 1, 0], None),
    ("sinks", lambda s: s[:, :3] + np.linspace(0, 3, 200)[:, None] * [0, 1, 0], None),
    ("turns", lambda s: s[:, :3], lambda s: s[:, 3:] + 40 * np.sin(np.arange(200) / 8)[:, None]),
]


@pytest.mark.parametrize(("acc", "gyro"), [case[1:] for case in MOVED], ids=[case[0] for case in MOVED])
def test_an_arm_that_moved_is_refused(acc, gyro):
    samples = worn()[Posture.PALM_DOWN]
    with pytest.raises(PostureRejected, match=r"moved: acceleration varies by .* m/s², turning by .* deg/s") as no:
        held(acc(samples), samples[:, 3:] if gyro is None else gyro(samples))
    assert "hold the arm still" in no.value.hint
    assert no.value.exit_code == 1


def test_too_few_samples_are_refused():
    with pytest.raises(PostureRejected, match="24 samples came, 25 are needed"):
        held(np.full((24, 3), 5.66), np.zeros((24, 3)))


@pytest.mark.parametrize(
    ("factor", "said"),
    [
        (1 / 9.80665, "at rest the acceleration is 1 m/s², as if g were taken for m/s²; expected about 9.81"),
        (1000 / 9.80665, "at rest the acceleration is 1000 m/s², as if mg were taken for m/s²; expected about 9.81"),
        (0.5, "at rest the acceleration is 4.905 m/s²; expected about 9.81"),
    ],
    ids=["g", "mg", "half the range"],
)
def test_samples_in_another_unit_are_refused(factor, said):
    samples = worn(noise=(0.0, 0.0))[Posture.HANGING]
    with pytest.raises(ScaleRejected) as no:
        held(samples[:, :3] * factor, samples[:, 3:])
    assert str(no.value) == said
    assert "profile or its range setting is wrong" in no.value.hint


def pointing(**up) -> dict[Posture, Held]:
    exact = {"hanging": (-1, 0, 0), "palm_up": (0, 0, -1), "palm_down": (0, 0, 1), **up}
    return {
        Posture[name.upper()]: Held(np.array(vector) / np.linalg.norm(vector), np.zeros(3), G, 0.0, 0.0, 200)
        for name, vector in exact.items()
    }


CONTRADICTIONS = [
    ({"palm_down": (0, 0.1, -1)}, "palm up and palm down are the same posture (6° apart)"),
    ({"hanging": (0.3, 0, -1)}, "arm hanging and palm up are the same posture (17° apart)"),
    ({"hanging": (0, 0, 1)}, "arm hanging and palm down are the same posture (0° apart)"),
    (
        {"palm_down": (0, 1, 0)},
        "palm up and palm down are 90° apart, expected about 180°: turn the whole forearm over, not the hand alone",
    ),
    ({"hanging": (-1, -0.9, 0)}, "arm hanging: 42° off, where 35° are too many: was the forearm straight down?"),
    ({"palm_up": (0, 0.9, -1)}, "palm up: 42° off, where 35° are too many: was the forearm level?"),
]


@pytest.mark.parametrize(("up", "said"), CONTRADICTIONS, ids=[case[1][:40] for case in CONTRADICTIONS])
def test_postures_that_contradict_each_other_are_refused(up, said):
    with pytest.raises(PosturesContradict) as no:
        find_mounting(pointing(**up), parse_axes("x,y,z"))
    assert str(no.value) == said
    assert "Start again" in no.value.hint


vectors = st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda v: np.linalg.norm(v) > 0.1)


@settings(deadline=None)
@given(hanging=vectors, palm_up=vectors, palm_down=vectors)
def test_any_three_directions_give_a_clear_mounting_or_a_refusal(hanging, palm_up, palm_down):
    try:
        found = find_mounting(pointing(hanging=hanging, palm_up=palm_up, palm_down=palm_down), parse_axes("x,y,z"))
    except PosturesContradict:
        return
    assert found.worst_deg <= 35
    assert found.margin_deg >= 20
    assert found.axes in PROPER


# The turn from palm up to palm down.


def turn(side: str, mounting: str, rate_hz: float = 52.0, seconds: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Rates of turn (deg/s, case frame) and their times, of a forearm that goes from palm up over thumb up to palm
    down, before and after which it rests."""
    inwards = -LEFT if side == "left" else LEFT
    thumb_up = np.column_stack([FORWARD, -UP if side == "left" else UP, -inwards])
    ways = [wrist_in_world(side, Posture.PALM_UP), thumb_up, wrist_in_world(side, Posture.PALM_DOWN)]
    at_s = np.arange(0, seconds + 4, 1 / rate_hz)
    progress = (1 - np.cos(np.pi * np.clip((at_s - 2) / seconds, 0, 1))) / 2  # starts and ends smoothly
    poses = Slerp([0, 0.5, 1], Rotation.from_matrix(ways))(progress)
    rates = np.degrees((poses[:-1].inv() * poses[1:]).as_rotvec()) * rate_hz
    return rates @ parse_axes(mounting), (at_s[:-1] + at_s[1:]) / 2


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("mounting", PROPER)
def test_the_turn_from_palm_up_to_palm_down_tells_the_wrist(mounting, side):
    forearm = find({p: felt(side, p, mounting, tilt_deg=10) for p in Posture}).forearm
    rates, at_s = turn(side, mounting)
    offset = np.array([2.0, -3.0, 1.0])
    angle = turned_deg(forearm, rates + offset, at_s, offset)
    assert angle == pytest.approx(180 if side == "left" else -180, abs=0.5)
    assert wrist_that_turned(angle) == side
    check_wrist(angle, side)
    check_wrist(angle, None)


MISTAKES = [
    ("palms taken for each other", {Posture.PALM_UP: Posture.PALM_DOWN, Posture.PALM_DOWN: Posture.PALM_UP}, -1, 1),
    ("arm held up", {}, 1, -1),
]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("taken", "way", "hanging"), [m[1:] for m in MISTAKES], ids=[m[0] for m in MISTAKES])
def test_what_gravity_cannot_see_the_turn_does(side, taken, way, hanging):
    """way: -1 where the forearm turned from palm down to palm up; hanging: -1 where it pointed to the sky."""
    samples = {posture: felt(side, taken.get(posture, posture)) for posture in Posture}
    samples[Posture.HANGING][:, :3] *= hanging
    found = find(samples)  # which gravity finds nothing wrong with
    rates, at_s = turn(side, "x,y,z")
    other = "right" if side == "left" else "left"
    with pytest.raises(WristContradicts) as no:
        check_wrist(turned_deg(found.forearm, way * rates, at_s, np.zeros(3)), side)
    sign = "+" if other == "left" else "-"
    assert str(no.value) == (
        f"from palm up to palm down the forearm turned as a {other} one does ({sign}180°), "
        f"and the wrist is said to be the {side} one"
    )
    assert "palm up and palm down were taken for each other" in no.value.hint


@pytest.mark.parametrize("angle", [0.0, 89.0, -89.0, 271.0, -271.0])
def test_a_turn_that_was_something_else_tells_nothing(angle):
    assert wrist_that_turned(angle) is None
    check_wrist(angle, "left")
    check_wrist(angle, "right")
