"""How each weight of a float model is stored: passes over the flatbuffer, tensor by tensor.

Stored as float16 or int8, a weight is expanded by a DEQUANTIZE operator that the runtime computes once, when it loads
the model: the operators stay those of the float model, only the weights are rounded. Hybrid is a dense layer's int8
kernel, which multiplies an input that it quantizes as it comes: as small as int8, and small in memory too.

Versions of operators: tensorflow/lite/tools/versioning/op_version.cc. What int8 means, symmetric with a scale for each
slice of an axis: https://ai.google.dev/edge/litert/models/quantization_spec
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from converter.tflite import operator_code, packed, unpacked
from gateway.motion.samples import Float32

WEIGHT_SIZE_MIN = 512
"""Numbers in a weight below which it stays float32: the operator that expands it costs a hundred bytes itself."""
INT8_MAX = 127
_DIFFUSED = 0.9
"""Of a rounding error, carried to the next step: less than all, for sequences that also shake."""
_LSTM_KERNELS, LSTM_RECURRENT = slice(1, 5), slice(5, 9)
_OUT_CHANNELS_FIRST = (
    schema.BuiltinOperator.CONV_2D,
    schema.BuiltinOperator.FULLY_CONNECTED,
    schema.BuiltinOperator.UNIDIRECTIONAL_SEQUENCE_LSTM,
)
"""Of a kernel; of any other weight (a depthwise kernel, slopes, a constant added to a sequence) it is the last axis."""
_DEQUANTIZE_FLOAT16, _DEQUANTIZE_PER_CHANNEL = 3, 5
_DENSE_HYBRID_PER_ROW, _LSTM_HYBRID = 12, 3


class Storage(StrEnum):
    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"
    HYBRID = "hybrid"

    @property
    def bytes_each(self) -> int:
        """Of one number."""
        return {"float32": 4, "float16": 2}.get(self, 1)


@dataclass(frozen=True, slots=True)
class Weight:
    """One tensor: each of an LSTM's four gates has its own, since they bear rounding differently well (that of the cell
    candidate worst: what the others multiply is added up in it). size: numbers in it."""

    name: str
    tensor: int
    shape: tuple[int, ...]
    axis: int
    """Of the output channels: each gets a scale of its own."""
    steps: int
    """Of a dense kernel over a flattened sequence: its steps, slowest in its columns; else 1."""
    choices: tuple[Storage, ...]
    """float32 first; what can hold it."""

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))


Plan = Mapping[str, Storage]
"""By the weight's name; a weight that is not in it stays float32."""
Stored = tuple[NDArray[Any], NDArray[np.float32] | None]
"""What stands in the file for a tensor, and its scales where it has some."""
Fitted = Mapping[tuple[str, Storage], Stored]
"""Of a weight in a storage, where it is rounded otherwise than to the nearest."""


def weights_of(model: bytes) -> tuple[Weight, ...]:
    """The weights of a float model that may be stored otherwise, in the order of computation."""
    return _weights(unpacked(model))


def with_storage(model: bytes, plan: Plan, fitted: Fitted | None = None) -> bytes:
    """The float model with its weights stored as planned; itself where none is stored otherwise.

    Raises ValueError for a plan that does not fit it.
    """
    read = unpacked(model)
    weights = {weight.name: weight for weight in _weights(read)}
    for name, storage in plan.items():
        if name not in weights or storage not in weights[name].choices:
            raise ValueError(f"{name} cannot be stored as {storage}")
    if all(storage is Storage.FLOAT32 for storage in plan.values()):
        return model  # to the byte, so that it is seen to be the same
    edit = _Edit(read)
    for name, weight in weights.items():
        storage = plan.get(name, Storage.FLOAT32)
        given = (fitted or {}).get((name, storage))
        values = constant_of(read, weight.tensor)
        match storage:
            case Storage.FLOAT16:
                edit.expand(weight, given or (values.astype(np.float16), None), _DEQUANTIZE_FLOAT16)
            case Storage.INT8:
                edit.expand(weight, given or int8_of(values, weight.axis, weight.steps), _DEQUANTIZE_PER_CHANNEL)
            case Storage.HYBRID:
                edit.hybrid_dense(weight, weight.steps)
    return edit.finish()


def dynamic_range(model: bytes) -> bytes:
    """TFLite's plain dynamic range quantization: dense kernels (a scale a row) and LSTM kernels (one scale) in int8."""
    read = unpacked(model)
    edit = _Edit(read)
    for weight in _weights(read, smallest=1):
        if Storage.HYBRID in weight.choices:
            edit.hybrid_dense(weight)
    edit.hybrid_lstms()
    return edit.finish()


def int8_of(values: Float32, axis: int | None, steps: int = 1) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Counts and scales, value = scale * count: symmetric, a scale for each slice of the axis, or one for all.

    steps > 1: the kernel (out, steps * channels) of a dense layer over a flattened sequence. What rounding leaves over
    at one step is added to the next one's weight of the same channel, as in error diffusion (Floyd and Steinberg, 1976)
    and first-order sigma-delta modulation. A sequence changes little from step to step, so the errors cancel in the
    sum: of the reference model's first dense layer a tenth remains. A count may so be off by 1.5 rather than 0.5.
    """
    scale = int8_scale(values, axis)
    shape = [1] * values.ndim
    if axis is not None:
        shape[axis] = -1
    exact = values / scale.astype(np.float64).reshape(shape)
    if steps == 1:
        return np.clip(np.rint(exact), -INT8_MAX, INT8_MAX).astype(np.int8), scale
    sequence = exact.reshape(len(exact), steps, -1)
    counts = np.empty(sequence.shape, np.int8)
    left_over = np.zeros_like(sequence[:, 0])
    for step in range(steps):
        wanted = sequence[:, step] + _DIFFUSED * left_over
        counts[:, step] = np.clip(np.rint(wanted), -INT8_MAX, INT8_MAX)
        left_over = np.clip(wanted - counts[:, step], -0.5, 0.5)  # what the range cuts off is not carried on
    return counts.reshape(values.shape), scale


def int8_scale(values: NDArray[np.floating[Any]], axis: int | None) -> NDArray[np.float32]:
    """A scale for each slice of the axis, or one for all, (n,): its largest number becomes 127."""
    others = None if axis is None else tuple(number for number in range(values.ndim) if number != axis)
    largest = np.abs(values.astype(np.float64)).max(axis=others)
    return np.atleast_1d((np.where(largest > 0, largest, 1.0) / INT8_MAX).astype(np.float32))


def builtin_of(read: Any, operator: Any) -> int:
    return int(read.operatorCodes[operator.opcodeIndex].builtinCode)


def constant_of(read: Any, tensor: int) -> Float32:
    entry = read.subgraphs[0].tensors[tensor]
    return np.asarray(read.buffers[entry.buffer].data).view(np.float32).reshape(entry.shape)


def _weights(read: Any, smallest: int = WEIGHT_SIZE_MIN) -> tuple[Weight, ...]:
    graph = read.subgraphs[0]
    used_by: dict[int, list[tuple[int, int]]] = defaultdict(list)  # tensor: its operators' builtin, and which input
    for operator in graph.operators:
        for place, tensor in enumerate(operator.inputs):
            used_by[int(tensor)].append((builtin_of(read, operator), place))
    buffers = Counter(tensor.buffer for tensor in graph.tensors)

    def is_weight(tensor: int) -> bool:
        entry = graph.tensors[tensor]
        data = read.buffers[entry.buffer].data
        is_float = entry.type == schema.TensorType.FLOAT32 and not entry.isVariable
        return is_float and data is not None and buffers[entry.buffer] == 1 and len(entry.shape) >= 2

    found: list[Weight] = []
    seen: set[int] = set()
    for operator in graph.operators:
        inputs = tuple(int(tensor) for tensor in operator.inputs)
        lstm = builtin_of(read, operator) == schema.BuiltinOperator.UNIDIRECTIONAL_SEQUENCE_LSTM
        groups = [inputs[_LSTM_KERNELS], inputs[LSTM_RECURRENT]] if lstm else [(tensor,) for tensor in inputs]
        for group in groups:
            members = tuple(tensor for tensor in group if tensor >= 0 and tensor not in seen and is_weight(tensor))
            size = sum(int(np.prod(graph.tensors[tensor].shape)) for tensor in members)
            if not members or size < smallest:  # an LSTM's gates are small or large together
                continue
            seen.update(members)
            found += [_weight(read, tensor, used_by[tensor], {weight.name for weight in found}) for tensor in members]
    return tuple(found)


def _weight(read: Any, tensor: int, used_by: list[tuple[int, int]], names: set[str]) -> Weight:
    entry = read.subgraphs[0].tensors[tensor]
    name = (entry.name.decode() if isinstance(entry.name, bytes) else str(entry.name)) or f"tensor {tensor}"
    if name in names:
        name = f"{name} {tensor}"
    largest = float(np.abs(constant_of(read, tensor)).max())
    out_first = any(builtin in _OUT_CHANNELS_FIRST for builtin, _ in used_by)
    dense = all(use == (schema.BuiltinOperator.FULLY_CONNECTED, 1) for use in used_by)
    choices = [Storage.FLOAT32]
    if largest <= float(np.finfo(np.float16).max):
        choices.append(Storage.FLOAT16)
    choices.append(Storage.INT8)
    if dense:
        choices.append(Storage.HYBRID)
    shape = tuple(int(side) for side in entry.shape)
    steps = _flattened_steps(read, tensor) if dense else 1
    return Weight(name, tensor, shape, 0 if out_first else len(shape) - 1, steps, tuple(choices))


def _flattened_steps(read: Any, kernel: int) -> int:
    """Of the sequence (1, steps, channels) that the kernel's layer takes flattened; 1 where it takes anything else."""
    graph = read.subgraphs[0]
    inputs = {int(operator.inputs[0]) for operator in graph.operators if kernel in operator.inputs}
    if len(inputs) != 1:
        return 1
    at = inputs.pop()
    for operator in graph.operators:
        if at in operator.outputs and builtin_of(read, operator) == schema.BuiltinOperator.RESHAPE:
            before = [int(side) for side in graph.tensors[int(operator.inputs[0])].shape]
            after = [int(side) for side in graph.tensors[at].shape]
            if len(before) == 3 and before[0] == 1 and after == [1, before[1] * before[2]]:
                return before[1]
    return 1


class _Edit:
    def __init__(self, read: Any) -> None:
        self._read = read
        self._graph = read.subgraphs[0]
        self._first: list[Any] = []

    def expand(self, weight: Weight, stored: Stored, version: int) -> None:
        """The weight becomes what DEQUANTIZE gives of its stored form; who uses it sees no difference."""
        entry = self._graph.tensors[weight.tensor]
        kept = schema.TensorT()
        kept.name, kept.shape, kept.hasRank, kept.buffer = b"", entry.shape, True, entry.buffer
        entry.buffer = 0
        self._fill(kept, *stored, weight.axis)
        self._graph.tensors.append(kept)
        made = schema.OperatorT()
        made.opcodeIndex = operator_code(self._read, schema.BuiltinOperator.DEQUANTIZE, version)
        made.builtinOptionsType = schema.BuiltinOptions.DequantizeOptions
        made.builtinOptions = schema.DequantizeOptionsT()
        made.inputs, made.outputs = [len(self._graph.tensors) - 1], [weight.tensor]
        self._first.append(made)

    def hybrid_dense(self, weight: Weight, steps: int = 1) -> None:
        dense = schema.BuiltinOperator.FULLY_CONNECTED
        counts, scale = int8_of(constant_of(self._read, weight.tensor), 0, steps)
        self._fill(self._graph.tensors[weight.tensor], counts, scale, 0)
        for operator in self._graph.operators:
            if weight.tensor in operator.inputs:
                operator.opcodeIndex = operator_code(self._read, dense, _DENSE_HYBRID_PER_ROW)
                operator.builtinOptions.asymmetricQuantizeInputs = True

    def hybrid_lstms(self) -> None:
        lstm = schema.BuiltinOperator.UNIDIRECTIONAL_SEQUENCE_LSTM
        for operator in self._graph.operators:
            if builtin_of(self._read, operator) != lstm:
                continue
            for tensor in (*operator.inputs[_LSTM_KERNELS], *operator.inputs[LSTM_RECURRENT]):
                if tensor >= 0 and self._graph.tensors[tensor].type == schema.TensorType.FLOAT32:
                    self._fill(self._graph.tensors[tensor], *int8_of(constant_of(self._read, tensor), None), 0)
            operator.opcodeIndex = operator_code(self._read, lstm, _LSTM_HYBRID)
            operator.builtinOptions.asymmetricQuantizeInputs = True

    def _fill(self, entry: Any, values: NDArray[Any], scale: NDArray[np.float32] | None, axis: int) -> None:
        self._read.buffers[entry.buffer].data = np.frombuffer(values.tobytes(), np.uint8)
        if scale is None:
            entry.type = schema.TensorType.FLOAT16
            return
        entry.type = schema.TensorType.INT8
        entry.quantization = schema.QuantizationParametersT()
        entry.quantization.scale, entry.quantization.zeroPoint = scale, np.zeros(len(scale), np.int64)
        entry.quantization.quantizedDimension = axis

    def finish(self) -> bytes:
        self._graph.operators = [*self._first, *self._graph.operators]
        used = {operator.opcodeIndex for operator in self._graph.operators}
        kept = sorted(used)
        self._read.operatorCodes = [self._read.operatorCodes[number] for number in kept]
        for operator in self._graph.operators:
            operator.opcodeIndex = kept.index(operator.opcodeIndex)
        return packed(self._read)
