"""Folded layers to TFLite's builtin operators, with batch 1.

Operator inputs, their order and their versions: tensorflow/lite/kernels/{unidirectional_sequence_lstm,fully_connected,
conv,depthwise_conv,pooling}.cc and tensorflow/lite/tools/versioning/op_version.cc.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from converter.elementwise import activate, apply, binary, limited, scaled, shifted
from converter.layers import (
    Activate,
    Activation,
    Affine,
    Apply,
    Cell,
    Concatenate,
    Conv1d,
    Conv2d,
    Crop,
    CropChannels,
    Dense,
    Depthwise1d,
    Depthwise2d,
    Flatten,
    Float64,
    GlobalPool,
    Layer,
    LayerNorm,
    LstmCell,
    MatMul,
    Merge,
    MergeConstant,
    Node,
    Pad,
    Pair,
    Permute,
    Pool,
    Pool2d,
    Prelu,
    Recurrent,
    Reduce,
    Repeat,
    Reshape,
    Reverse,
    UnitNorm,
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
    "divide": "DIV",
    "maximum": "MAXIMUM",
    "minimum": "MINIMUM",
}

_REDUCERS = {"mean": "MEAN", "average": "MEAN", "sum": "SUM", "max": "REDUCE_MAX", "min": "REDUCE_MIN"}
_AXES_MAX = 5
_ADDED_IN_A_ROW_MAX = 64
"""Numbers; each costs a rounding error of 6e-8 at most."""

# Versions that a runtime looks an operator up by.
_DEPTHWISE, _DEPTHWISE_DILATED = 1, 2


def lower(layers: Iterable[Layer | Node], *, window: int, channels: int) -> bytes:
    """A .tflite file: `window` (1, window, channels) in; `probabilities` and `logits` (1, classes) out.

    layers end with softmax, as Dense has it or on its own.
    """
    entries = wired(layers)
    head = entries[-1][0] if entries else None
    if not isinstance(head, Dense | Activate) or head.activation != "softmax":
        raise ValueError("the last layer must be softmax, alone or of Dense")
    lowering = _Lowering()
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
    return graph.finish({"window": tensors[-1]}, outputs, description="fidget float32")


class _Lowering:
    def __init__(self) -> None:
        self.graph = Graph()
        self._named = 0
        self._reshaped: dict[int, int] = {}

    def layer(self, layer: Layer, inputs: Sequence[int]) -> int:
        at = inputs[0]
        match layer:
            case Conv1d():
                return self.conv1d(at, layer)
            case Conv2d():
                return self.conv(at, layer)
            case Depthwise1d():
                return self.depthwise1d(at, layer)
            case Depthwise2d():
                return self.depthwise(at, layer)
            case Dense():
                return self.dense(at, layer)
            case Recurrent():
                return self.recurrent(at, layer)
            case Affine():
                return self.affine(at, layer.scale, layer.shift)
            case LayerNorm():
                return self.layer_norm(at, layer)
            case UnitNorm():
                return self.unit_norm(at, layer)
            case Activate():
                return activate(self.graph, at, layer)
            case Apply():
                return apply(self.graph, at, layer.function)
            case Prelu():
                slope = self._constant("prelu", layer.slope[np.newaxis])
                return self.graph.operate("PRELU", [at, slope], self.graph.shape(at))
            case Pool():
                return self.pool1d(at, layer)
            case Pool2d():
                return self.pool(at, layer)
            case GlobalPool():
                last = len(self.graph.shape(at)) - 1
                return self.reduce(at, _REDUCERS[layer.kind], [*range(last - layer.dims, last)], keep=layer.keep)
            case Reduce():
                return self.reduce(at, _REDUCERS[layer.kind], [axis + 1 for axis in layer.axes], keep=layer.keep)
            case Merge():
                return self.merge(inputs, layer)
            case MergeConstant():
                constant = self._constant("constant", layer.values[np.newaxis])
                pair = [constant, at] if layer.first else [at, constant]
                return binary(self.graph, _MERGES[layer.kind], *pair)
            case MatMul():
                return self.matmul(*inputs, turned=layer.turned)
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
                return self.pad(at, {layer.axis + 1: (layer.before, layer.after)})
            case Crop():
                return self.crop(at, layer.axis + 1, layer.before, layer.after)
            case CropChannels():
                return self.crop(at, len(sides), layer.before, layer.after)
            case Repeat():
                before, side, after = sides[: layer.axis], sides[layer.axis], sides[layer.axis + 1 :]
                rows, columns = math.prod(before) * side, math.prod(after)
                at, times = self.reshape(at, (rows, 1, columns)), self._whole("times", [1, layer.times, 1])
                at = self.graph.operate("TILE", [at, times], (rows, layer.times, columns))
                return self.reshape(at, (1, *before, side * layer.times, *after))
            case Reverse():
                return self.reverse(at, layer.axis + 1)
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

    def pad(self, at: int, ends: Mapping[int, Pair]) -> int:
        """ends: zeros before and after, by axis."""
        sides = self.graph.shape(at)
        given = [ends.get(axis, (0, 0)) for axis in range(len(sides))]
        shape = [before + side + after for side, (before, after) in zip(sides, given, strict=True)]
        return self.graph.operate("PAD", [at, self._whole("padding", given)], shape, options="PadOptions")

    def crop(self, at: int, axis: int, before: int, after: int) -> int:
        shape = list(self.graph.shape(at))
        shape[axis] -= before + after
        begin, size = [before if number == axis else 0 for number in range(len(shape))], self._whole("size", shape)
        return self.graph.operate("SLICE", [at, self._whole("begin", begin), size], shape, options="SliceOptions")

    def reverse(self, at: int, axis: int = 1) -> int:
        axes = self._whole("axis", [axis])
        return self.graph.operate("REVERSE_V2", [at, axes], self.graph.shape(at), options="ReverseV2Options")

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

    def matmul(self, first: int, second: int, *, turned: bool) -> int:
        *outer, rows, _ = self.graph.shape(first)
        columns = self.graph.shape(second)[-2 if turned else -1]
        return self.graph.operate(
            "BATCH_MATMUL", [first, second], (*outer, rows, columns), options="BatchMatMulOptions", adjY=turned
        )

    # Normalization

    def affine(self, at: int, scale: Float64, shift: Float64) -> int:
        """scale, shift: broadcast over the tensor."""
        at = binary(self.graph, "MUL", at, self._constant("scale", scale))
        return binary(self.graph, "ADD", at, self._constant("shift", shift))

    def layer_norm(self, at: int, layer: LayerNorm) -> int:
        graph, axes = self.graph, [axis + 1 for axis in layer.axes]
        if layer.centred:
            at = binary(graph, "SUB", at, self.reduce(at, "MEAN", axes, keep=True))
        variance = self.reduce(binary(graph, "MUL", at, at), "MEAN", axes, keep=True)
        inverse = graph.operate("RSQRT", [shifted(graph, variance, layer.epsilon)], graph.shape(variance))
        at = binary(graph, "MUL", at, inverse)
        return self.affine(at, layer.scale[np.newaxis], layer.shift[np.newaxis])

    def unit_norm(self, at: int, layer: UnitNorm) -> int:
        graph, axes = self.graph, [axis + 1 for axis in layer.axes]
        squares = self.reduce(binary(graph, "MUL", at, at), "SUM", axes, keep=True)
        inverse = graph.operate("RSQRT", [squares], graph.shape(squares))
        return binary(graph, "MUL", at, limited(graph, inverse, above=1 / layer.epsilon))

    def reduce(self, at: int, operator: str, axes: list[int], *, keep: bool) -> int:
        """Sums and means of many numbers go in two steps: the runtime adds one after the other, and of a long sequence
        that hardly changes the rounding errors add up too. Keras adds in blocks.
        """
        sides = self.graph.shape(at)
        if operator not in ("MEAN", "SUM") or math.prod(sides[axis] for axis in axes) < _ADDED_IN_A_ROW_MAX:
            return self._reduced(at, operator, axes, keep=keep)
        for axis in axes:
            *before, side = self.graph.shape(at)[: axis + 1]
            after = sides[axis + 1 :]
            block = max(part for part in range(1, math.isqrt(side) + 1) if side % part == 0)
            if block > 1 and len(sides) < _AXES_MAX:
                at = self.reshape(at, (*before, side // block, block, *after))
                at = self._reduced(at, operator, [axis + 1], keep=False)
            at = self._reduced(at, operator, [axis], keep=True)
        kept = [side for axis, side in enumerate(self.graph.shape(at)) if keep or axis not in axes]
        return self.reshape(at, tuple(kept))

    def _reduced(self, at: int, operator: str, axes: list[int], *, keep: bool) -> int:
        shape = [1 if axis in axes else side for axis, side in enumerate(self.graph.shape(at))]
        if not keep:
            shape = [side for axis, side in enumerate(shape) if axis not in axes]
        over = self._whole("axes", axes)
        return self.graph.operate(operator, [at, over], shape, options="ReducerOptions", keepDims=keep)

    # Pooling

    def pool1d(self, at: int, layer: Pool) -> int:
        image = Pool2d(layer.kind, (1, layer.size), (1, layer.stride), layer.padding)
        return self._of_row(at, self.pool(self._as_row(at), image))

    def pool(self, at: int, layer: Pool2d) -> int:
        *outer, rows, columns, channels = self.graph.shape(at)
        same = layer.padding == "same"
        out = [
            -(-side // stride) if same else (side - size) // stride + 1
            for side, size, stride in zip((rows, columns), layer.size, layer.stride, strict=True)
        ]
        at = self.graph.operate(
            f"{layer.kind.upper()}_POOL_2D",
            [self.reshape(at, (math.prod(outer), rows, columns, channels))],
            (math.prod(outer), *out, channels),
            options="Pool2DOptions",
            padding=schema.Padding.SAME if same else schema.Padding.VALID,
            strideH=layer.stride[0],
            strideW=layer.stride[1],
            filterHeight=layer.size[0],
            filterWidth=layer.size[1],
        )
        return self.reshape(at, (*outer, *out, channels))

    # Convolutions and dense layers

    def _activate(self, at: int, activation: Activation) -> int:
        return at if activation in _FUSED else activate(self.graph, at, Activate(activation))

    def conv1d(self, at: int, layer: Conv1d) -> int:
        """As over one row."""
        stride, dilation, pad = (1, layer.stride), (1, layer.dilation), ((0, 0), layer.pad)
        image = Conv2d(layer.kernel[np.newaxis], layer.bias, layer.activation, stride, dilation, pad)
        return self._of_row(at, self.conv(self._as_row(at), image))

    def depthwise1d(self, at: int, layer: Depthwise1d) -> int:
        stride, dilation, pad = (1, layer.stride), (1, layer.dilation), ((0, 0), layer.pad)
        image = Depthwise2d(layer.kernel[np.newaxis], layer.bias, layer.activation, stride, dilation, pad)
        return self._of_row(at, self.depthwise(self._as_row(at), image))

    def _as_row(self, at: int) -> int:
        """Sequences as images of one row each."""
        *outer, steps, channels = self.graph.shape(at)
        return self.reshape(at, (math.prod(outer), 1, steps, channels))

    def _of_row(self, before: int, at: int) -> int:
        """What was made of the sequences `before`, as sequences."""
        return self.reshape(at, (*self.graph.shape(before)[:-2], *self.graph.shape(at)[-2:]))

    def _images(self, at: int, layer: Conv2d | Depthwise2d) -> tuple[int, list[int], list[int]]:
        """The padded input as images; the sides before their rows; the rows and columns that come out."""
        *outer, _, _, channels = self.graph.shape(at)
        if layer.pad != ((0, 0), (0, 0)):
            at = self.pad(at, {len(outer): layer.pad[0], len(outer) + 1: layer.pad[1]})
        sides = self.graph.shape(at)[-3:-1]
        out = [
            (side - (taps - 1) * dilation - 1) // stride + 1
            for side, taps, dilation, stride in zip(
                sides, layer.kernel.shape, layer.dilation, layer.stride, strict=False
            )
        ]
        return self.reshape(at, (math.prod(outer), *sides, channels)), outer, out

    def conv(self, at: int, layer: Conv2d) -> int:
        graph, name = self.graph, self._name("conv")
        filters = len(layer.bias)
        at, outer, out = self._images(at, layer)
        kernel = graph.constant(f"{name}/kernel", layer.kernel.transpose(3, 0, 1, 2))
        at = graph.operate(
            "CONV_2D",
            [at, kernel, graph.constant(f"{name}/bias", layer.bias)],
            (math.prod(outer), *out, filters),
            options="Conv2DOptions",
            padding=schema.Padding.VALID,
            strideH=layer.stride[0],
            strideW=layer.stride[1],
            dilationHFactor=layer.dilation[0],
            dilationWFactor=layer.dilation[1],
            fusedActivationFunction=_FUSED.get(layer.activation, _NOT_FUSED),
        )
        return self._activate(self.reshape(at, (*outer, *out, filters)), layer.activation)

    def depthwise(self, at: int, layer: Depthwise2d) -> int:
        graph, name = self.graph, self._name("depthwise")
        *taps, _, multiplier = layer.kernel.shape
        width = len(layer.bias)
        at, outer, out = self._images(at, layer)
        kernel = graph.constant(f"{name}/kernel", layer.kernel.reshape(1, *taps, width))
        at = graph.operate(
            "DEPTHWISE_CONV_2D",
            [at, kernel, graph.constant(f"{name}/bias", layer.bias)],
            (math.prod(outer), *out, width),
            version=_DEPTHWISE_DILATED if max(layer.dilation) > 1 else _DEPTHWISE,
            options="DepthwiseConv2DOptions",
            padding=schema.Padding.VALID,
            strideH=layer.stride[0],
            strideW=layer.stride[1],
            depthMultiplier=multiplier,
            dilationHFactor=layer.dilation[0],
            dilationWFactor=layer.dilation[1],
            fusedActivationFunction=_FUSED.get(layer.activation, _NOT_FUSED),
        )
        return self._activate(self.reshape(at, (*outer, *out, width)), layer.activation)

    def dense(self, at: int, layer: Dense) -> int:
        shape = self.graph.shape(at)
        name = self._name("dense")
        kernel = self.graph.constant(f"{name}/kernel", layer.kernel.T)
        bias = self.graph.constant(f"{name}/bias", layer.bias)
        if len(shape) != 2:
            at = self.reshape(at, (int(np.prod(shape[:-1])), shape[-1]))
        at = self.product(at, kernel, bias, layer.activation)
        if len(shape) != 2:
            at = self.reshape(at, (*shape[:-1], len(layer.bias)))
        return self._activate(at, layer.activation)

    def rows(self, kind: str, kernel: Float64) -> int:
        """A constant for product. kernel: (in, out)"""
        return self.graph.constant(f"{self._name(kind)}/kernel", kernel.T)

    def product(self, at: int, kernel: int, bias: int, activation: Activation = "linear") -> int:
        """x @ kernel + bias for each row of x, (rows, in), with the activation only where it is fused."""
        return self.graph.operate(
            "FULLY_CONNECTED",
            [at, kernel, bias],
            (self.graph.shape(at)[0], self.graph.shape(kernel)[0]),
            options="FullyConnectedOptions",
            fusedActivationFunction=_FUSED.get(activation, _NOT_FUSED),
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
            return self.reshape(self.crop(at, 1, steps - 1, 0), (1, len(cell.recurrent)))
        return self.reverse(at) if reverse and turn else at

    def _fused_lstm(self, at: int, cell: LstmCell) -> int:
        graph, name = self.graph, self._name("lstm")
        _, steps, _ = graph.shape(at)
        units = len(cell.recurrent)

        def gates(part: str, values: Float64) -> list[int]:
            split = {f"{name}/{part}_{gate}": rows for gate, rows in zip("ifco", np.split(values.T, 4), strict=True)}
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
            options="UnidirectionalSequenceLSTMOptions",
            fusedActivationFunction=schema.ActivationFunctionType.TANH,
            cellClip=0.0,
            projClip=0.0,
            timeMajor=False,
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
