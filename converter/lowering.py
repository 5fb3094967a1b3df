"""Folded layers to TFLite's builtin operators, with batch 1.

Operator inputs, their order and their versions: tensorflow/lite/kernels/{unidirectional_sequence_lstm,fully_connected,
conv}.cc and tensorflow/lite/tools/versioning/op_version.cc.
"""

from collections.abc import Iterable
from enum import StrEnum

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from converter.layers import Activation, Conv1d, Dense, Flatten, Float64, Linear, Lstm, LstmCell
from converter.tflite import ABSENT, Graph

_FUSED = {"relu": schema.ActivationFunctionType.RELU}
"""Activations that are a part of the operator; the others are one of their own."""
_OPERATORS: dict[Activation, str] = {"tanh": "TANH", "sigmoid": "LOGISTIC"}

# Versions that a runtime looks an operator up by.
_LSTM_FLOAT, _LSTM_HYBRID = 1, 3
_DENSE_FLOAT, _DENSE_HYBRID_PER_ROW = 1, 12


class WeightFormat(StrEnum):
    """How the weights of LSTM and Dense are stored. Convolutions stay float32: they are a few kilobytes.

    DYNAMIC is TFLite's dynamic range quantization: int8 weights (symmetric; an LSTM's with one scale a gate, a dense
    layer's with one a row), activations quantized by the kernel as they come, biases and state float32.
    """

    FLOAT32 = "float32"
    DYNAMIC = "dynamic"


def lower(layers: Iterable[Linear], *, window: int, channels: int, weights: WeightFormat) -> bytes:
    """A .tflite file: `window` (1, window, channels) in; `probabilities` and `logits` (1, classes) out.

    layers end with Dense and softmax.
    """
    *body, head = layers
    if not isinstance(head, Dense) or head.activation != "softmax":
        raise ValueError("the last layer must be Dense with softmax")
    lowering = _Lowering(weights)
    graph = lowering.graph
    first = at = graph.computed("window", (1, window, channels))
    for layer in body:
        match layer:
            case Conv1d():
                at = lowering.conv1d(at, layer)
            case Lstm():
                at = lowering.lstm(at, layer)
            case Flatten():
                at = lowering.reshape(at, (1, int(np.prod(graph.shape(at)))))
            case Dense():
                at = lowering.dense(at, layer)
    logits = lowering.dense(at, Dense(head.kernel, head.bias, "linear"), name="logits")
    probabilities = lowering.softmax(logits, name="probabilities")
    outputs = {"probabilities": probabilities, "logits": logits}
    return graph.finish({"window": first}, outputs, description=f"fidget {weights}")


class _Lowering:
    def __init__(self, weights: WeightFormat) -> None:
        self.graph = Graph()
        self._weights = weights
        self._named = 0

    def _name(self, kind: str) -> str:
        self._named += 1
        return f"{kind}{self._named}"

    def reshape(self, at: int, shape: tuple[int, ...]) -> int:
        target = self.graph.constant(self._name("shape"), np.array(shape, np.int32))
        return self.graph.operate("RESHAPE", [at, target], shape, options="ReshapeOptions", newShape=list(shape))

    def softmax(self, at: int, name: str = "") -> int:
        shape = self.graph.shape(at)
        return self.graph.operate("SOFTMAX", [at], shape, options="SoftmaxOptions", beta=1.0, name=name)

    def _activate(self, at: int, activation: Activation) -> int:
        if activation == "softmax":
            return self.softmax(at)
        if activation in _OPERATORS:
            return self.graph.operate(_OPERATORS[activation], [at], self.graph.shape(at))
        return at

    def conv1d(self, at: int, layer: Conv1d) -> int:
        """As a two-dimensional convolution over one row."""
        graph, name = self.graph, self._name("conv")
        _, steps, channels = graph.shape(at)
        taps, _, filters = layer.kernel.shape
        out = (steps - (taps - 1) * layer.dilation - 1) // layer.stride + 1
        kernel = graph.constant(f"{name}/kernel", layer.kernel.transpose(2, 0, 1)[:, np.newaxis])
        bias = graph.constant(f"{name}/bias", layer.bias)
        at = graph.operate(
            "CONV_2D",
            [self.reshape(at, (1, 1, steps, channels)), kernel, bias],
            (1, 1, out, filters),
            options="Conv2DOptions",
            padding=schema.Padding.VALID,
            strideW=layer.stride,
            strideH=1,
            dilationWFactor=layer.dilation,
            fusedActivationFunction=_FUSED.get(layer.activation, schema.ActivationFunctionType.NONE),
        )
        return self.reshape(self._activate(at, layer.activation), (1, out, filters))

    def dense(self, at: int, layer: Dense, name: str = "") -> int:
        graph, prefix = self.graph, self._name("dense")
        hybrid = self._weights is WeightFormat.DYNAMIC
        rows = layer.kernel.T
        kernel = (
            graph.int8_constant(f"{prefix}/kernel", rows, per_row=True)
            if hybrid
            else graph.constant(f"{prefix}/kernel", rows)
        )
        at = graph.operate(
            "FULLY_CONNECTED",
            [at, kernel, graph.constant(f"{prefix}/bias", layer.bias)],
            (1, len(rows)),
            version=_DENSE_HYBRID_PER_ROW if hybrid else _DENSE_FLOAT,
            options="FullyConnectedOptions",
            name=name,
            fusedActivationFunction=_FUSED.get(layer.activation, schema.ActivationFunctionType.NONE),
            asymmetricQuantizeInputs=hybrid,
        )
        return self._activate(at, layer.activation)

    def lstm(self, at: int, layer: Lstm) -> int:
        """Each direction is one fused operator; the backward one between two reversals of the sequence."""
        graph = self.graph
        _, steps, _ = graph.shape(at)
        outputs = [self._direction(at, layer.forward)]
        if layer.backward is not None:
            outputs.append(self._direction(self._reverse(at), layer.backward))
        if not layer.sequences:
            outputs = [self._last(output, steps) for output in outputs]
        elif layer.backward is not None:
            outputs[1] = self._reverse(outputs[1])
        if len(outputs) == 1:
            return outputs[0]
        *outer, width = graph.shape(outputs[0])
        return graph.operate(
            "CONCATENATION", outputs, (*outer, 2 * width), options="ConcatenationOptions", axis=len(outer)
        )

    def _reverse(self, at: int) -> int:
        axis = self.graph.constant(self._name("axis"), np.array([1], np.int32))
        return self.graph.operate("REVERSE_V2", [at, axis], self.graph.shape(at), options="ReverseV2Options")

    def _last(self, at: int, steps: int) -> int:
        units = self.graph.shape(at)[-1]
        begin = self.graph.constant(self._name("begin"), np.array([0, steps - 1, 0], np.int32))
        size = self.graph.constant(self._name("size"), np.array([1, 1, units], np.int32))
        at = self.graph.operate("SLICE", [at, begin, size], (1, 1, units), options="SliceOptions")
        return self.reshape(at, (1, units))

    def _direction(self, at: int, cell: LstmCell) -> int:
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
