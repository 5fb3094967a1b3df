"""Signed axes: how one right-handed frame is turned into another by quarter turns.

Written as text "-y,x,z": the target's x is the source's -y, its y the source's x, its z the source's z. As a matrix M,
(3, 3) float32 with one entry of ±1 in each row and column and determinant +1: target = M @ source. Hence frames compose
by multiplication: case_from_sensor, then model_from_case, is model_from_case @ case_from_sensor; back is M.T.
An axis of rotation turns as any vector does under a proper rotation, so accelerometer and gyroscope take the same M.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from gateway.errors import InputRejected
from gateway.motion.samples import Float32

_NAMES = "xyz"


class AxesRejected(InputRejected):
    """A frame that no sensor can be in."""

    hint = "Name each of x, y and z once, with a sign where it points the other way, such as x,y,z or -y,x,z."


def parse_axes(text: str) -> Float32:
    """The matrix of "x,y,z" or "-y,x,z". Raises AxesRejected."""
    words = [word.strip().removeprefix("+") for word in text.split(",")]
    names = [word.removeprefix("-") for word in words]
    if sorted(names) != list(_NAMES):
        raise AxesRejected(f"axes {text!r}: expected three different axes out of x, y and z")
    rows = [(_NAMES.index(name), -1 if word.startswith("-") else 1) for name, word in zip(names, words, strict=True)]
    return _proper(rows, repr(text))


def axes_from_directions(directions: Sequence[int]) -> Float32:
    """The matrix from a sensor's frame to its case's, from where the sensor's x, y and z point in the case.

    directions: three of ±1 (the case's x: towards the crown), ±2 (y: towards 12 o'clock), ±3 (z: out of the dial), as
    the reference profile's Info gives them (docs/reference-profile.md). Raises AxesRejected.
    """
    if sorted(abs(d) for d in directions) != [1, 2, 3]:
        raise AxesRejected(f"sensor axes {tuple(directions)}: expected ±1, ±2 and ±3, each once")
    by_case = sorted((abs(d), source, 1 if d > 0 else -1) for source, d in enumerate(directions))
    return _proper([(source, sign) for _, source, sign in by_case], str(tuple(directions)))


def axes_text(matrix: Float32) -> str:
    """The text that parse_axes takes."""
    columns = [int(np.flatnonzero(row)[0]) for row in matrix]
    return ",".join(
        ("-" if row[column] < 0 else "") + _NAMES[column] for row, column in zip(matrix, columns, strict=True)
    )


def rotate(values: Float32, matrix: Float32) -> Float32:
    """values: (n, 6), accelerometer and gyroscope. Returns them in the target frame, exact but for the sign of 0."""
    return np.hstack([values[:, :3] @ matrix.T, values[:, 3:] @ matrix.T])


def _proper(rows: Sequence[tuple[int, int]], given: str) -> Float32:
    matrix = np.zeros((3, 3), np.float32)
    for row, (column, sign) in enumerate(rows):
        matrix[row, column] = sign
    if np.linalg.det(matrix) < 0:
        raise AxesRejected(
            f"axes {given}: a mirror image, which no way of wearing a sensor gives",
            hint="Change one sign or swap two axes: right-handed frames only differ by a rotation.",
        )
    return matrix


_TURNED: list[Float32] = [
    np.eye(3, dtype=np.float32)[list(order)] * np.array(signs, np.float32)[:, None]
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]
ROTATIONS: Float32 = np.array([matrix for matrix in _TURNED if np.linalg.det(matrix) > 0])
"""(24, 3, 3): those of a cube, so all that signed axes can stand for; the first turns nothing."""
