"""Which way each number of a weight is rounded: so that what the layer computes changes least, not the number itself.

A layer's inputs are correlated, so the rounding error of one weight can be made up for by the weights that are still to
be rounded: GPTQ (Frantar et al., 2023, https://arxiv.org/abs/2210.17323), for the rows that each layer meets on some
windows. Of the reference model's recurrent kernels half of the error remains, of its other kernels a third to a half.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from converter.layers import Float64
from converter.quantize import (
    INT8_MAX,
    LSTM_RECURRENT,
    Fitted,
    Storage,
    Stored,
    Weight,
    builtin_of,
    constant_of,
    int8_scale,
    weights_of,
)
from converter.tflite import unpacked
from gateway.motion.samples import Float32

FITTING_WINDOWS = 1500
"""With 600 the rounding fits those alone: on others a tenth more error remains."""
_ROWS_MAX = 100_000
"""Of a layer's inputs, evenly spread. With 4,000 more error remains, with 300,000 no less."""
_INPUTS_MAX = 512
"""A wider kernel's normal matrix takes too long; dense layers over a whole sequence are rounded by carrying errors."""
_DAMPING = 0.01
"""Of the normal matrix's mean diagonal, added to it (the paper's value)."""
_OPERATORS_MAX = 16
"""Of those that share a kernel, as the steps of an unrolled recurrence do: so many are looked at."""


def fitted_weights(model: bytes, windows: Float32) -> Fitted:
    """For each weight and storage, its tensors as rounded for these windows; without those that cannot be fitted.

    model: a float32 .tflite file. windows: (n, window, channels).
    """
    read = unpacked(model)
    weights = weights_of(model)
    uses = {weight.name: tuple(_uses(read, weight)) for weight in weights}
    wanted = {use.tensor for some in uses.values() for use in some}
    seen = _activations(model, windows, sorted(wanted))
    normals: dict[tuple[_Use, ...], Float64 | None] = {}  # an LSTM's four gates multiply the same
    fitted: dict[tuple[str, Storage], Stored] = {}
    for weight in weights:
        multiplied = uses[weight.name]
        if multiplied not in normals:
            normals[multiplied] = _normal(read, weight, multiplied, seen)
        normal = normals[multiplied]
        if normal is None:
            continue
        values = constant_of(read, weight.tensor).astype(np.float64).reshape(weight.shape[0], -1)
        if Storage.FLOAT16 in weight.choices:
            halves = compensated(values, normal, lambda column: column.astype(np.float16).astype(np.float64))
            fitted[weight.name, Storage.FLOAT16] = (halves.astype(np.float16).reshape(weight.shape), None)
        scale = int8_scale(values, 0)
        counts = compensated(
            values / scale.astype(np.float64)[:, np.newaxis],
            normal,
            lambda column: np.clip(np.rint(column), -INT8_MAX, INT8_MAX),
        )
        fitted[weight.name, Storage.INT8] = (counts.astype(np.int8).reshape(weight.shape), scale)
    return fitted


def compensated(values: Float64, normal: Float64, rounded: Callable[[Float64], Float64]) -> Float64:
    """values: (outputs, inputs); normal: (inputs, inputs), X'X of the inputs X.

    Rounds one input's weights after the other, those that matter most first, and changes the rest so that X @ values
    stays as near as can be.
    """
    damped = normal + np.eye(len(normal)) * _DAMPING * np.mean(np.diag(normal))
    order = np.argsort(-np.diag(damped), kind="stable")
    # The rows of the inverse's upper Cholesky factor say how the error of one input spreads over those after it.
    upper = np.linalg.cholesky(np.linalg.inv(damped[np.ix_(order, order)])).T
    left, made = values[:, order].astype(np.float64), np.empty(values.shape)
    for place in range(len(normal)):
        made[:, place] = rounded(left[:, place])
        error = (left[:, place] - made[:, place]) / upper[place, place]
        left[:, place:] -= np.outer(error, upper[place, place:])
    result = np.empty(values.shape)
    result[:, order] = made
    return result


@dataclass(frozen=True, slots=True)
class _Use:
    """One operator that multiplies by the weight. tensor: the one whose values have to be seen. states: it multiplies
    what it gave a step before, not what it takes."""

    operator: Any
    tensor: int
    states: bool = False


def _uses(read: Any, weight: Weight) -> Iterator[_Use]:
    operators = [one for one in read.subgraphs[0].operators if weight.tensor in one.inputs]
    stride = -(-len(operators) // _OPERATORS_MAX)
    for operator in operators[::stride]:
        kind = builtin_of(read, operator)
        if kind == schema.BuiltinOperator.UNIDIRECTIONAL_SEQUENCE_LSTM:
            states = weight.tensor in operator.inputs[LSTM_RECURRENT]
            yield _Use(operator, int((operator.outputs if states else operator.inputs)[0]), states)
        elif kind in (schema.BuiltinOperator.FULLY_CONNECTED, schema.BuiltinOperator.CONV_2D):
            takes = int(operator.inputs[0])
            if read.subgraphs[0].tensors[takes].shape[-1] == weight.shape[-1]:  # else each group takes some channels
                yield _Use(operator, takes)


def _activations(model: bytes, windows: Float32, tensors: list[int]) -> dict[int, Float32]:
    """What these tensors hold, (windows, ...) each."""
    litert = import_module("ai_edge_litert.interpreter")
    interpreter = litert.Interpreter(
        model_content=model,
        num_threads=1,
        experimental_op_resolver_type=litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        experimental_preserve_all_tensors=True,
    )
    interpreter.allocate_tensors()
    (entry,) = interpreter.get_input_details()
    seen: dict[int, list[Float32]] = {tensor: [] for tensor in tensors}
    for window in windows:
        interpreter.reset_all_variables()
        interpreter.set_tensor(entry["index"], window[np.newaxis])
        interpreter.invoke()
        for tensor, values in seen.items():
            values.append(interpreter.get_tensor(tensor))
    return {tensor: np.stack(values) for tensor, values in seen.items()}


def _normal(read: Any, weight: Weight, uses: tuple[_Use, ...], seen: Mapping[int, Float32]) -> Float64 | None:
    """X'X of what the weight multiplies, (inputs, inputs); None where it cannot be fitted."""
    if not uses or int(np.prod(weight.shape[1:])) > _INPUTS_MAX:
        return None
    rows = np.concatenate([_multiplied(read, weight, use, seen) for use in uses])
    thinned = np.linspace(0, len(rows) - 1, min(len(rows), _ROWS_MAX)).round().astype(np.intp)
    rows = rows[thinned].astype(np.float64)
    if not np.isfinite(rows).all() or not rows.any():
        return None
    size = np.linalg.norm(rows, axis=1)
    usual = float(np.median(size[size > 0]))
    # Rows far beyond the others are of windows on which all that follows is saturated: none may outweigh the rest.
    weighted: Float64 = rows * np.minimum(1, usual / np.maximum(size, usual))[:, np.newaxis]
    return np.asarray(weighted.T @ weighted)


def _multiplied(read: Any, weight: Weight, use: _Use, seen: Mapping[int, Float32]) -> Float32:
    values = seen[use.tensor]
    if use.states:  # (windows, 1, steps, units)
        before = np.concatenate([np.zeros_like(values[..., :1, :]), values[..., :-1, :]], axis=-2)
        return before.reshape(-1, values.shape[-1])
    if builtin_of(read, use.operator) == schema.BuiltinOperator.CONV_2D:
        return _convolved(values, weight.shape, use.operator.builtinOptions)
    return values.reshape(-1, weight.shape[-1])


def _convolved(images: Float32, shape: tuple[int, ...], options: Any) -> Float32:
    """The patches under the kernel. images: (windows, n, height, width, channels), not padded by the operator."""
    _, high, wide, channels = shape
    images = images.reshape(-1, *images.shape[2:])
    patches = [
        images[:, up * options.dilationHFactor :: options.strideH, along * options.dilationWFactor :: options.strideW]
        for up in range(high)
        for along in range(wide)
    ]
    rows, columns = (min(patch.shape[axis] for patch in patches) for axis in (1, 2))
    cut = np.concatenate([patch[:, :rows, :columns] for patch in patches], axis=-1)
    return cut.reshape(-1, high * wide * channels)
