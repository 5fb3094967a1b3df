"""Keras' layers that put several tensors together. Definitions: keras/src/layers/merging."""

from collections.abc import Sequence

import numpy as np

from converter.keras_reading import Building, Read, Reader, Reading, Tensor, Unsupported, axis
from converter.layers import Concatenate, MatMul, Merge, MergeKind, UnitNorm

_DOT_EPSILON = 1e-7


def read_merge(kind: MergeKind) -> Reader:
    def read(reading: Reading) -> Read:
        if kind == "subtract" and len(reading.inputs) != 2:
            raise Unsupported(f"it takes {len(reading.inputs)} inputs, expected two")
        return Read([merged(reading.building, kind, reading.inputs)], kind.capitalize())

    return read


def merged(building: Building, kind: MergeKind, inputs: Sequence[Tensor]) -> Tensor:
    if len(inputs) < 2:
        raise Unsupported(f"it takes {len(inputs)} inputs, expected two or more")
    rank = max(len(tensor.shape) for tensor in inputs)
    shapes = [(1,) * (rank - len(tensor.shape)) + tensor.shape for tensor in inputs]
    try:
        shape = np.broadcast_shapes(*shapes)
    except ValueError:
        raise Unsupported(f"inputs {', '.join(str(tensor.shape) for tensor in inputs)} do not fit together") from None
    return building.add(Merge(kind), inputs, shape)


def read_concatenate(reading: Reading) -> Read:
    shapes = [tensor.shape for tensor in reading.inputs]
    if not shapes:
        raise Unsupported("it takes no inputs")
    at = axis(reading.config, shapes[0])
    return Read([concatenated(reading.building, reading.inputs, at)], "Concatenate")


def concatenated(building: Building, inputs: Sequence[Tensor], at: int) -> Tensor:
    shapes = [tensor.shape for tensor in inputs]
    first = shapes[0]
    if any(
        len(shape) != len(first) or shape[:at] + shape[at + 1 :] != first[:at] + first[at + 1 :] for shape in shapes
    ):
        raise Unsupported(f"inputs {', '.join(map(str, shapes))} do not fit together")
    if len(shapes) == 1:
        return inputs[0]
    return building.add(Concatenate(at), inputs, (*first[:at], sum(shape[at] for shape in shapes), *first[at + 1 :]))


def read_dot(reading: Reading) -> Read:
    """The product over one axis of each of two vectors or sequences; with normalize the cosine."""
    if len(reading.inputs) != 2 or any(len(tensor.shape) not in (1, 2) for tensor in reading.inputs):
        shapes = [tensor.shape for tensor in reading.inputs]
        raise Unsupported(f"inputs {', '.join(map(str, shapes))}, expected two vectors or sequences")
    building, given = reading.building, reading.config["axes"]
    each = list(given) if isinstance(given, list | tuple) else [given, given]
    if len(each) != 2:
        raise Unsupported(f"axes={given!r}")
    pair = []
    for tensor, own in zip(reading.inputs, each, strict=True):
        at = axis({"axes": own}, tensor.shape, "axes")
        if reading.flag("normalize", False):
            tensor = building.alike(UnitNorm((at,), _DOT_EPSILON), tensor)
        last = len(tensor.shape) - 1
        turned = building.permuted(tensor, [last, at]) if at != last else tensor
        pair.append(building.reshaped(turned, (1, *turned.shape)[-2:]))
    first, second = pair
    if first.shape[1] != second.shape[1]:
        raise Unsupported(f"axes={given!r} of {first.shape[1]} and {second.shape[1]} do not fit together")
    made = building.add(MatMul(turned=True), pair, (first.shape[0], second.shape[0]))
    sides = tuple(tensor.shape[0] for tensor, own in zip(pair, reading.inputs, strict=True) if len(own.shape) == 2)
    return Read([building.reshaped(made, sides or (1,))], "Dot")
