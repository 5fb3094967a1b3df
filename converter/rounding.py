"""Which way each number of a weight is rounded: so that what the layer computes changes least, not the number itself.

A layer's inputs are correlated, so the rounding error of one weight can be made up for by the weights that are still to
be rounded: GPTQ (Frantar et al., 2023, https://arxiv.org/abs/2210.17323), here for the few thousand rows that each
layer meets on some windows. What an error in an LSTM's gate does depends on how far the gate is from its ends, so each
row counts by the slope of the gate there. Of the reference model's recurrent kernels half of the error remains.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from converter.layers import Float64
from converter.quantize import Fitted, Storage, Weight, builtin_of, constant_of, int8_scale, weights_of
from converter.tflite import unpacked
from gateway.motion.samples import Float32

_ROWS_MAX = 100_000
"""Of a layer's inputs: nearly all of the reference model's on the search's windows. With 4,000 more error remains."""
_INPUTS_MAX = 512
"""A wider kernel's normal matrix takes too long; dense layers over a whole sequence are rounded by carrying errors."""
_DAMPING = 0.01
"""Of the normal matrix's mean diagonal, added to it (the paper's value)."""
_OPERATORS_MAX = 16
"""Of those that share a kernel, as the steps of an unrolled recurrence do: so many are looked at."""
_INT8_MAX = 127
_LSTM_KERNELS, _LSTM_RECURRENT, _LSTM_BIASES = slice(1, 5), slice(5, 9), slice(12, 16)


def fitted_weights(model: bytes, windows: Float32) -> Fitted:
    """For each weight and storage, its tensors as rounded for these windows; without those that cannot be fitted.

    model: a float32 .tflite file. windows: (n, window, channels).
    """
    read = unpacked(model)
    weights = weights_of(model)
    inputs = {weight.name: list(_uses(read, weight)) for weight in weights}
    wanted = {tensor for uses in inputs.values() for use in uses for tensor in use.tensors}
    seen = _activations(model, windows, sorted(wanted))
    fitted: dict[tuple[str, Storage], tuple[tuple[NDArray[Any], NDArray[np.float32] | None], ...]] = {}
    for weight in weights:
        rows = _rows(read, weight, inputs[weight.name], seen)
        if rows is None:
            continue
        normal = _normal_matrices(*rows)
        values = np.concatenate([_matrix(read, tensor) for tensor in weight.tensors])
        shape = (-1, *weight.shape[1:])
        if Storage.FLOAT16 in weight.choices:
            halves = compensated(values, normal, lambda column: column.astype(np.float16).astype(np.float64))
            parts = np.split(halves.astype(np.float16).reshape(shape), len(weight.tensors))
            fitted[weight.name, Storage.FLOAT16] = tuple((part, None) for part in parts)
        scale = int8_scale(values, 0)
        counts = compensated(
            values / scale.astype(np.float64)[:, np.newaxis],
            normal,
            lambda column: np.clip(np.rint(column), -_INT8_MAX, _INT8_MAX),
        )
        split = (np.split(each, len(weight.tensors)) for each in (counts.astype(np.int8).reshape(shape), scale))
        fitted[weight.name, Storage.INT8] = tuple(zip(*split, strict=True))
    return fitted


def compensated(values: Float64, normal: Float64, rounded: Callable[[Float64], Float64]) -> Float64:
    """values: (outputs, inputs); normal: (groups, inputs, inputs), X'X of the inputs X of each group of outputs, all of
    a size.

    Rounds one input's weights after the other, those that matter most first, and changes the rest so that X @ values
    stays as near as can be.
    """
    groups, width = normal.shape[:2]
    largest = _DAMPING / width * np.einsum("gii->g", normal)
    damped = normal + np.eye(width) * largest[:, np.newaxis, np.newaxis]
    order = np.argsort(-np.einsum("gii->i", damped), kind="stable")
    damped = damped[:, order[:, np.newaxis], order]
    # The rows of the inverse's upper Cholesky factor say how the error of one input spreads over those after it.
    upper = np.linalg.cholesky(np.linalg.inv(damped)).transpose(0, 2, 1)
    left = values[:, order].astype(np.float64).reshape(groups, -1, width)
    made = np.empty(left.shape)
    for place in range(width):
        made[..., place] = rounded(left[..., place])
        error = (left[..., place] - made[..., place]) / upper[:, place, place, np.newaxis]
        left[..., place:] -= error[..., np.newaxis] * upper[:, np.newaxis, place, place:]
    result = np.empty(values.shape)
    result[:, order] = made.reshape(values.shape)
    return result


@dataclass(frozen=True, slots=True)
class _Use:
    """One operator that multiplies by the weight. tensors: those whose values have to be seen."""

    operator: Any
    tensors: tuple[int, ...]


def _uses(read: Any, weight: Weight) -> Iterator[_Use]:
    operators = [one for one in read.subgraphs[0].operators if weight.tensors[0] in one.inputs]
    stride = -(-len(operators) // _OPERATORS_MAX)
    for operator in operators[::stride]:
        kind = builtin_of(read, operator)
        if kind == schema.BuiltinOperator.UNIDIRECTIONAL_SEQUENCE_LSTM:
            yield _Use(operator, (int(operator.inputs[0]), int(operator.outputs[0])))
        elif kind in (schema.BuiltinOperator.FULLY_CONNECTED, schema.BuiltinOperator.CONV_2D):
            yield _Use(operator, (int(operator.inputs[0]),))


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


def _rows(
    read: Any, weight: Weight, uses: list[_Use], seen: Mapping[int, Float32]
) -> tuple[Float64, Float64 | None] | None:
    """What the weight multiplies, (rows, inputs), and how much each row counts for each group of outputs, (rows, n)
    or all alike; None where it cannot be fitted."""
    if not uses or int(np.prod(weight.shape[1:])) > _INPUTS_MAX:
        return None
    first = uses[0].operator
    counts = None
    if builtin_of(read, first) == schema.BuiltinOperator.UNIDIRECTIONAL_SEQUENCE_LSTM:
        if len(uses) > 1:
            return None
        rows, counts = _lstm_rows(read, weight, first, seen)
    elif builtin_of(read, first) == schema.BuiltinOperator.CONV_2D:
        if len(uses) > 1:
            return None
        rows = _convolved(seen[uses[0].tensors[0]], weight.shape, first.builtinOptions)
    else:
        rows = np.concatenate([seen[use.tensors[0]].reshape(-1, weight.shape[-1]) for use in uses]).astype(np.float64)
    if not np.isfinite(rows).all() or (counts is not None and not np.isfinite(counts).all()) or not rows.any():
        return None
    thinned = _thinned(len(rows))
    rows = rows[thinned]
    if counts is not None:
        return rows, counts[thinned]
    size = np.linalg.norm(rows, axis=1)  # of windows far beyond the rest: what follows has long been saturated
    usual = np.median(size[size > 0])
    return rows * np.minimum(1, usual / np.maximum(size, usual))[:, np.newaxis], None


def _thinned(count: int) -> NDArray[np.intp]:
    return np.linspace(0, count - 1, min(count, _ROWS_MAX)).round().astype(np.intp)


def _lstm_rows(read: Any, weight: Weight, operator: Any, seen: Mapping[int, Float32]) -> tuple[Float64, Float64]:
    """Rows, and the square of the slope of each gate's activation there, on average over the units: (rows, 4)."""
    inputs = [int(tensor) for tensor in operator.inputs]
    x, h = (seen[tensor][:, 0].astype(np.float64) for tensor in (inputs[0], int(operator.outputs[0])))
    before = np.concatenate([np.zeros_like(h[:, :1]), h[:, :-1]], axis=1)
    x, before = x.reshape(-1, x.shape[-1]), before.reshape(-1, h.shape[-1])
    kernel, recurrent = (
        np.concatenate([_matrix(read, tensor) for tensor in inputs[part]]) for part in (_LSTM_KERNELS, _LSTM_RECURRENT)
    )
    bias = np.concatenate([constant_of(read, tensor) for tensor in inputs[_LSTM_BIASES]])
    into, keep, new, out = np.split(x @ kernel.T + before @ recurrent.T + bias, 4, axis=1)

    def logistic_slope(values: Float64) -> Float64:
        return (1 - np.tanh(values / 2) ** 2) / 4

    slopes = (logistic_slope(into), logistic_slope(keep), 1 - np.tanh(new) ** 2, logistic_slope(out))
    counts = np.stack([(slope**2).mean(axis=1) for slope in slopes], axis=1)
    return (before if weight.tensors[0] in inputs[_LSTM_RECURRENT] else x), counts


def _convolved(images: Float32, shape: tuple[int, ...], options: Any) -> Float64:
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
    return cut.reshape(-1, high * wide * channels).astype(np.float64)


def _normal_matrices(rows: Float64, counts: Float64 | None) -> Float64:
    if counts is None:
        return (rows.T @ rows)[np.newaxis]
    return np.stack([(rows * count[:, np.newaxis]).T @ rows for count in counts.T])


def _matrix(read: Any, tensor: int) -> Float64:
    """(outputs, inputs)"""
    values = constant_of(read, tensor).astype(np.float64)
    return values.reshape(len(values), -1)
