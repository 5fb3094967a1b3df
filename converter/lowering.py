"""Folded layers to TFLite's builtin operators, with batch 1.

Operator inputs, their order and their versions: tensorflow/lite/kernels/{unidirectional_sequence_lstm,fully_connected,
conv,depthwise_conv,pooling}.cc and tensorflow/lite/tools/versioning/op_version.cc.
"""

import math
from collections.abc import Iterable, Sequence
from enum import StrEnum

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from converter.elementwise import activate, binary, scaled, shifted
from converter.layers import (
    Activate,
    Activation,
    Affine,
    Cell,
    Concatenate,
    Conv1d,
    Crop,
    Dense,
    Depthwise1d,
    Flatten,
    Float64,
    GlobalPool,
    Layer,
    LayerNorm,
    LstmCell,
    Merge,
    Node,
    Pad,
    Permute,
    Pool,
    Prelu,
    Recurrent,
    Repeat,
    Reshape,
    Reverse,
    wired,
)
from converter.recurrence import unrolled
from converter.tflite import ABSENT, Graph

_FUSED = {
    "relu": schema.ActivationFunctionType.RELU,
    "relu6": schema.ActivationFunctionType.RELU6,
}
"""Activations that are a part of the operator; the others are one of their own."""
_NOT_FUSED = schema.ActivationFunctionType.NONE
_MERGES = {
    "add": "ADD",
    "average": "ADD",
    "subtract": "SUB",
    "multiply": "MUL",
    "maximum": "MAXIMUM",
    "minimum": "MINIMUM",
}

# Versions that a runtime looks an operator up by.
_LSTM_FLOAT, _LSTM_HYBRID = 1, 3
_DENSE_FLOAT, _DENSE_HYBRID_PER_ROW = 1, 12
_DEPTHWISE, _DEPTHWISE_DILATED = 1, 2


class WeightFormat(StrEnum):
    """How the weights of recurrent and dense layers are stored. Convolutions stay float32: they are a few kilobytes.

    DYNAMIC is TFLite's dynamic range quantization: int8 weights (symmetric; an LSTM's with one scale a gate, a dense
    layer's with one a row), activations quantized by the kernel as they come, biases and state float32.
    """

    FLOAT32 = "float32"
    DYNAMIC = "dynamic"


def lower(layers: Iterable[Layer | Node], *, window: int, channels: int, weights: WeightFormat) -> bytes:
    """A .tflite file: `window` (1, window, channels) in; `probabilities` and `logits` (1, classes) out.

    layers end with softmax, as Dense has it or on its own.
    """
    entries = wired(layers)
    head = entries[-1][0] if entries else None
    if not isinstance(head, Dense | Activate) or head.activation != "softmax":
        raise ValueError("the last layer must be softmax, alone or of Dense")
    lowering = _Lowering(weights)
    graph = lowering.graph
    tensors = {-1: graph.computed("window", (1, window, channels))}
    for number, (layer, inputs) in enumerate(entries[:-1]):
        tensors[number] = lowering.layer(layer, [tensors[index] for index in inputs])
    logits = tensors[entries[-1][1][0]]
    if isinstance(head, Dense):
        logits = lowering.dense(logits, Dense(head.kernel, head.bias, "linear"))
    graph.rename(logits, "logits")
    probabilities = activate(graph, logits, Activate("softmax"))
    graph.rename(probabilities, "probabilities")
    outputs = {"probabilities": probabilities, "logits": logits}
    return graph.finish({"window": tensors[-1]}, outputs, description=f"fidget {weights}")


class _Lowering:
    def __init__(self, weights: WeightFormat) -> None:
        self.graph = Graph()
        self._weights = weights
        self._named = 0
        self._reshaped: dict[int, int] = {}

    def layer(self, layer: Layer, inputs: Sequence[int]) -> int:
        at = inputs[0]
        match layer:
            case Conv1d():
                return self.conv1d(at, layer)
            case Depthwise1d():
                return self.depthwise(at, layer)
            case Dense():
                return self.dense(at, layer)
            case Recurrent():
                return self.recurrent(at, layer)
            case Affine():
                return self.affine(at, layer.scale, layer.shift)
            case LayerNorm():
                return self.layer_norm(at, layer)
            case Activate():
                return activate(self.graph, at, layer)
            case Prelu():
                slope = self._constant("prelu", layer.slope[np.newaxis])
                return self.graph.operate("PRELU", [at, slope], self.graph.shape(at))
            case Pool():
                return self.pool(at, layer)
            case GlobalPool():
                return self.global_pool(at, layer)
            case Merge():
                return self.merge(inputs, layer)
            case Concatenate():
                return self.concatenate(inputs, layer.axis + 1)
        return self.shaping(at, layer)

    def _name(self, kind: str) -> str:
        self._named += 1
        return f"{kind}{self._named}"

    def _constant(self, kind: str, values: Float64) -> int:
        return self.graph.constant(self._name(kind), values)

    def _whole(self, kind: str, values: object) -> int:
        return self.graph.constant(self._name(kind), np.array(values, np.int32))

    # Shapes

    def shaping(self, at: int, layer: Layer) -> int:
        _, *sides = self.graph.shape(at)
        match layer:
            case Flatten():
                return self.reshape(at, (1, int(np.prod(sides))))
            case Reshape():
                return self.reshape(at, (1, *layer.shape))
            case Permute():
                turn = self._whole("axes", [0, *(axis + 1 for axis in layer.axes)])
                shape = (1, *(sides[axis] for axis in layer.axes))
                return self.graph.operate("TRANSPOSE", [at, turn], shape, options="TransposeOptions")
            case Pad():
                return self.pad(at, layer.before, layer.after)
            case Crop():
                return self.steps(at, layer.before, sides[0] - layer.before - layer.after)
            case Repeat():
                steps, channels = sides
                at, times = self.reshape(at, (1, steps, 1, channels)), self._whole("times", [1, 1, layer.times, 1])
                at = self.graph.operate("TILE", [at, times], (1, steps, layer.times, channels))
                return self.reshape(at, (1, steps * layer.times, channels))
            case Reverse():
                return self.reverse(at)
        raise ValueError(f"no operators for {type(layer).__name__}")

    def reshape(self, at: int, shape: tuple[int, ...]) -> int:
        """Never of a reshaped tensor, but of what that was made from.

        LiteRT's planner lets a RESHAPE share its input's memory and an elementwise operator overwrite its input's;
        over two RESHAPEs in a row it does not see that the first one's output is still to be read (ai-edge-litert 2.3).
        """
        if shape == self.graph.shape(at):
            return at
        source = self._reshaped.get(at, at)
        target = self._whole("shape", shape)
        made = self.graph.operate("RESHAPE", [source, target], shape, options="ReshapeOptions", newShape=list(shape))
        self._reshaped[made] = source
        return made

    def pad(self, at: int, before: int, after: int) -> int:
        *outer, steps, channels = self.graph.shape(at)
        ends = self._whole("padding", [*([0, 0] for _ in outer), [before, after], [0, 0]])
        return self.graph.operate("PAD", [at, ends], (*outer, before + steps + after, channels), options="PadOptions")

    def steps(self, at: int, first: int, count: int) -> int:
        _, _, channels = self.graph.shape(at)
        begin, size = self._whole("begin", [0, first, 0]), self._whole("size", [1, count, channels])
        return self.graph.operate("SLICE", [at, begin, size], (1, count, channels), options="SliceOptions")

    def reverse(self, at: int) -> int:
        axis = self._whole("axis", [1])
        return self.graph.operate("REVERSE_V2", [at, axis], self.graph.shape(at), options="ReverseV2Options")

    def concatenate(self, inputs: Sequence[int], axis: int) -> int:
        if len(inputs) == 1:
            return inputs[0]
        shape = list(self.graph.shape(inputs[0]))
        shape[axis] = sum(self.graph.shape(one)[axis] for one in inputs)
        return self.graph.operate("CONCATENATION", inputs, shape, options="ConcatenationOptions", axis=axis)

    def merge(self, inputs: Sequence[int], layer: Merge) -> int:
        rank = max(len(self.graph.shape(one)) for one in inputs)
        even = []
        for one in inputs:
            batch, *sides = self.graph.shape(one)
            missing = rank - 1 - len(sides)
            even.append(self.reshape(one, (batch, *(1,) * missing, *sides)) if missing else one)
        at, *others = even
        for other in others:
            at = binary(self.graph, _MERGES[layer.kind], at, other)
        return scaled(self.graph, at, 1 / len(inputs)) if layer.kind == "average" else at

    # Normalization

    def affine(self, at: int, scale: Float64, shift: Float64) -> int:
        """scale, shift: broadcast over the tensor."""
        at = binary(self.graph, "MUL", at, self._constant("scale", scale))
        return binary(self.graph, "ADD", at, self._constant("shift", shift))

    def layer_norm(self, at: int, layer: LayerNorm) -> int:
        graph, axes = self.graph, [axis + 1 for axis in layer.axes]
        centred = binary(graph, "SUB", at, self.mean(at, axes, keep=True))
        variance = self.mean(binary(graph, "MUL", centred, centred), axes, keep=True)
        inverse = graph.operate("RSQRT", [shifted(graph, variance, layer.epsilon)], graph.shape(variance))
        at = binary(graph, "MUL", centred, inverse)
        return self.affine(at, layer.scale[np.newaxis], layer.shift[np.newaxis])

    def mean(self, at: int, axes: list[int], *, keep: bool, operator: str = "MEAN") -> int:
        shape = [1 if axis in axes else side for axis, side in enumerate(self.graph.shape(at))]
        if not keep:
            shape = [side for axis, side in enumerate(shape) if axis not in axes]
        over = self._whole("axes", axes)
        return self.graph.operate(operator, [at, over], shape, options="ReducerOptions", keepDims=keep)

    # Pooling

    def pool(self, at: int, layer: Pool) -> int:
        *outer, steps, channels = self.graph.shape(at)
        rows = math.prod(outer)
        same = layer.padding == "same"
        out = -(-steps // layer.stride) if same else (steps - layer.size) // layer.stride + 1
        at = self.graph.operate(
            f"{layer.kind.upper()}_POOL_2D",
            [self.reshape(at, (rows, 1, steps, channels))],
            (rows, 1, out, channels),
            options="Pool2DOptions",
            padding=schema.Padding.SAME if same else schema.Padding.VALID,
            strideW=layer.stride,
            strideH=1,
            filterWidth=layer.size,
            filterHeight=1,
        )
        return self.reshape(at, (*outer, out, channels))

    def global_pool(self, at: int, layer: GlobalPool) -> int:
        over = [len(self.graph.shape(at)) - 2]
        return self.mean(at, over, keep=layer.keep, operator="MEAN" if layer.kind == "average" else "REDUCE_MAX")

    # Convolutions and dense layers

    def _activate(self, at: int, activation: Activation) -> int:
        return at if activation in _FUSED else activate(self.graph, at, Activate(activation))

    def _rows(self, at: int, layer: Conv1d | Depthwise1d) -> tuple[int, list[int], int]:
        """The padded sequences as images of one row each; the sides before the steps; how many steps come out."""
        if layer.pad != (0, 0):
            at = self.pad(at, *layer.pad)
        *outer, steps, channels = self.graph.shape(at)
        out = (steps - (len(layer.kernel) - 1) * layer.dilation - 1) // layer.stride + 1
        return self.reshape(at, (math.prod(outer), 1, steps, channels)), outer, out

    def conv1d(self, at: int, layer: Conv1d) -> int:
        """As a two-dimensional convolution over one row."""
        graph, name = self.graph, self._name("conv")
        filters = len(layer.bias)
        at, outer, out = self._rows(at, layer)
        kernel = graph.constant(f"{name}/kernel", layer.kernel.transpose(2, 0, 1)[:, np.newaxis])
        at = graph.operate(
            "CONV_2D",
            [at, kernel, graph.constant(f"{name}/bias", layer.bias)],
            (math.prod(outer), 1, out, filters),
            options="Conv2DOptions",
            padding=schema.Padding.VALID,
            strideW=layer.stride,
            strideH=1,
            dilationWFactor=layer.dilation,
            fusedActivationFunction=_FUSED.get(layer.activation, _NOT_FUSED),
        )
        return self._activate(self.reshape(at, (*outer, out, filters)), layer.activation)

    def depthwise(self, at: int, layer: Depthwise1d) -> int:
        graph, name = self.graph, self._name("depthwise")
        taps, _, multiplier = layer.kernel.shape
        width = len(layer.bias)
        at, outer, out = self._rows(at, layer)
        kernel = graph.constant(f"{name}/kernel", layer.kernel.reshape(1, 1, taps, width))
        at = graph.operate(
            "DEPTHWISE_CONV_2D",
            [at, kernel, graph.constant(f"{name}/bias", layer.bias)],
            (math.prod(outer), 1, out, width),
            version=_DEPTHWISE_DILATED if layer.dilation > 1 else _DEPTHWISE,
            options="DepthwiseConv2DOptions",
            padding=schema.Padding.VALID,
            strideW=layer.stride,
            strideH=1,
            depthMultiplier=multiplier,
            dilationWFactor=layer.dilation,
            dilationHFactor=1,
            fusedActivationFunction=_FUSED.get(layer.activation, _NOT_FUSED),
        )
        return self._activate(self.reshape(at, (*outer, out, width)), layer.activation)

    def dense(self, at: int, layer: Dense) -> int:
        shape = self.graph.shape(at)
        name = self._name("dense")
        kernel = self._kernel(f"{name}/kernel", layer.kernel)
        bias = self.graph.constant(f"{name}/bias", layer.bias)
        if len(shape) != 2:
            at = self.reshape(at, (int(np.prod(shape[:-1])), shape[-1]))
        at = self.product(at, kernel, bias, layer.activation)
        if len(shape) != 2:
            at = self.reshape(at, (*shape[:-1], len(layer.bias)))
        return self._activate(at, layer.activation)

    def rows(self, kind: str, kernel: Float64) -> int:
        """A constant for product. kernel: (in, out)"""
        return self._kernel(f"{self._name(kind)}/kernel", kernel)

    def _kernel(self, name: str, kernel: Float64) -> int:
        if self._weights is WeightFormat.DYNAMIC:
            return self.graph.int8_constant(name, kernel.T, per_row=True)
        return self.graph.constant(name, kernel.T)

    def product(self, at: int, kernel: int, bias: int, activation: Activation = "linear") -> int:
        """x @ kernel + bias for each row of x, (rows, in), with the activation only where it is fused."""
        hybrid = self._weights is WeightFormat.DYNAMIC
        return self.graph.operate(
            "FULLY_CONNECTED",
            [at, kernel, bias],
            (self.graph.shape(at)[0], self.graph.shape(kernel)[0]),
            version=_DENSE_HYBRID_PER_ROW if hybrid else _DENSE_FLOAT,
            options="FullyConnectedOptions",
            fusedActivationFunction=_FUSED.get(activation, _NOT_FUSED),
            asymmetricQuantizeInputs=hybrid,
        )

    # Recurrences

    def recurrent(self, at: int, layer: Recurrent) -> int:
        outputs = [self._direction(at, layer.forward, layer.sequences, layer.reverse, turn=False)]
        if layer.backward is not None:
            outputs.append(self._direction(at, layer.backward, layer.sequences, True, turn=True))
        return self.concatenate(outputs, len(self.graph.shape(outputs[0])) - 1)

    def _direction(self, at: int, cell: Cell, sequences: bool, reverse: bool, *, turn: bool) -> int:
        """turn: outputs of a reversed sequence in the order of the steps, not of computation."""
        fused = isinstance(cell, LstmCell) and (cell.activation, cell.gate) == ("tanh", "sigmoid")
        if not fused:
            return self._unrolled(at, cell, sequences, reverse, turn=turn)
        assert isinstance(cell, LstmCell)
        _, steps, _ = self.graph.shape(at)
        at = self._fused_lstm(self.reverse(at) if reverse else at, cell)
        if not sequences:
            return self.reshape(self.steps(at, steps - 1, 1), (1, len(cell.recurrent)))
        return self.reverse(at) if reverse and turn else at

    def _fused_lstm(self, at: int, cell: LstmCell) -> int:
        graph, name = self.graph, self._name("lstm")
        hybrid = self._weights is WeightFormat.DYNAMIC
        _, steps, _ = graph.shape(at)
        units = len(cell.recurrent)

        def gates(part: str, values: Float64) -> list[int]:
            split = {f"{name}/{part}_{gate}": rows for gate, rows in zip("ifco", np.split(values.T, 4), strict=True)}
            if hybrid and values.ndim == 2:
                return [graph.int8_constant(key, rows, per_row=False) for key, rows in split.items()]
            return [graph.constant(key, rows) for key, rows in split.items()]

        inputs = [
            at,
            *gates("kernel", cell.kernel),
            *gates("recurrent", cell.recurrent),
            *(ABSENT, ABSENT, ABSENT),  # peephole connections
            *gates("bias", cell.bias),
            *(ABSENT, ABSENT),  # projection
            graph.variable(f"{name}/h", (1, units)),
            graph.variable(f"{name}/c", (1, units)),
            *(ABSENT, ABSENT, ABSENT, ABSENT),  # layer normalization
        ]
        return graph.operate(
            "UNIDIRECTIONAL_SEQUENCE_LSTM",
            inputs,
            (1, steps, units),
            version=_LSTM_HYBRID if hybrid else _LSTM_FLOAT,
            options="UnidirectionalSequenceLSTMOptions",
            fusedActivationFunction=schema.ActivationFunctionType.TANH,
            cellClip=0.0,
            projClip=0.0,
            timeMajor=False,
            asymmetricQuantizeInputs=hybrid,
        )

    def _unrolled(self, at: int, cell: Cell, sequences: bool, reverse: bool, *, turn: bool) -> int:
        """Step by step: TFLite has no operator for these. The state is a plain tensor, zero before the first step."""
        graph = self.graph
        _, steps, channels = graph.shape(at)
        units = len(cell.recurrent)
        order = range(steps)[::-1] if reverse else range(steps)
        outputs = unrolled(self, self.reshape(at, (steps, channels)), cell, order)
        if not sequences:
            return outputs[-1]
        ordered = outputs[::-1] if reverse and turn else outputs
        return self.reshape(self.concatenate(ordered, 0), (1, steps, units))
