import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.motion.axes import ROTATIONS, AxesRejected, axes_from_directions, axes_text, parse_axes, rotate

EVERY = [
    ",".join(sign + name for sign, name in zip(signs, names, strict=True))
    for names in itertools.permutations("xyz")
    for signs in itertools.product(["", "-"], repeat=3)
]


def accepted(text: str) -> bool:
    try:
        parse_axes(text)
    except AxesRejected:
        return False
    return True


PROPER = [text for text in EVERY if accepted(text)]


def test_of_the_48_signed_permutations_the_24_rotations_of_a_cube_are_taken():
    assert len(PROPER) == 24
    for text in EVERY:  # right-handed: the third axis is the cross product of the first two
        axis = {name: np.eye(3)[i] for i, name in enumerate("xyz")}
        x, y, z = (axis[word[-1]] * (-1 if word[0] == "-" else 1) for word in text.split(","))
        assert (text in PROPER) == np.allclose(np.cross(x, y), z)


def test_the_rotations_are_those_24_and_begin_with_none():
    assert sorted(map(axes_text, ROTATIONS)) == sorted(PROPER)
    assert axes_text(ROTATIONS[0]) == "x,y,z"


def test_the_text_names_the_source_axis_behind_each_target_axis():
    values = np.array([[1, 2, 3, 10, 20, 30]], np.float32)
    assert rotate(values, parse_axes("-y,x,z")).tolist() == [[-2, 1, 3, -20, 10, 30]]
    assert rotate(values, parse_axes(" +z , -y, x")).tolist() == [[3, -2, 1, 30, -20, 10]]


@pytest.mark.parametrize("text", PROPER)
def test_text_and_matrix_are_the_same(text):
    assert axes_text(parse_axes(text)) == text


def test_a_sensor_that_points_along_its_case_needs_no_turn():
    assert axes_text(axes_from_directions((1, 2, 3))) == "x,y,z"


def test_the_sensors_directions_give_the_case_axes():
    # The sensor's x points to 12 o'clock, its y away from the crown, its z out of the dial.
    matrix = axes_from_directions((2, -1, 3))
    assert (matrix @ np.array([1, 0, 0])).tolist() == [0, 1, 0]
    assert (matrix @ np.array([0, 1, 0])).tolist() == [-1, 0, 0]
    assert axes_text(matrix) == "-y,x,z"


@given(st.sampled_from(PROPER), st.sampled_from(PROPER))
def test_frames_compose_by_multiplication_and_stay_exact(first, second):
    values = np.random.default_rng(1).normal(0, 10, (5, 6)).astype(np.float32)
    one_by_one = rotate(rotate(values, parse_axes(first)), parse_axes(second))
    assert np.array_equal(one_by_one, rotate(values, parse_axes(second) @ parse_axes(first)))
    assert np.array_equal(rotate(one_by_one, (parse_axes(second) @ parse_axes(first)).T), values)
    assert one_by_one.dtype == np.float32


@pytest.mark.parametrize("text", ["", "x", "x,y", "x,y,z,x", "x,x,z", "x,y,w", "--x,y,z", "x;y;z", "x,-,z", "X,Y,Z"])
def test_what_names_no_three_axes_is_refused(text):
    with pytest.raises(AxesRejected, match="expected three different axes") as refused:
        parse_axes(text)
    assert refused.value.exit_code == 2
    assert "-y,x,z" in refused.value.hint


def test_a_mirror_image_is_refused_with_the_way_out():
    with pytest.raises(AxesRejected, match="mirror image") as refused:
        parse_axes("-x,y,z")
    assert "sign" in refused.value.hint


@pytest.mark.parametrize("directions", [(1, 2), (1, 2, 4), (1, -1, 3), (0, 2, 3)])
def test_directions_that_are_no_axes_are_refused(directions):
    with pytest.raises(AxesRejected, match="expected ±1, ±2 and ±3"):
        axes_from_directions(directions)


@given(st.text(max_size=12))
def test_no_text_gives_anything_but_a_rotation_or_a_refusal(text):
    try:
        matrix = parse_axes(text)
    except AxesRejected:
        return
    assert np.linalg.det(matrix) == pytest.approx(1)
