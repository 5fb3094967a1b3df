"""Recurrences step by step, where TFLite has no operator that computes exactly what Keras does.

The state is a plain tensor, zero before the first step, so nothing stays from one invoke to the next. Definitions:
keras/src/layers/rnn/{lstm,gru,simple_rnn}.py.
"""

from collections.abc import Iterable
from typing import Protocol

import numpy as np

from converter.elementwise import activate, binary
from converter.layers import Activate, Activation, Cell, Float64, GruCell, LstmCell, SimpleCell
from converter.tflite import ABSENT, Graph


class Products(Protocol):
    """How weights are stored and multiplied, and where the operators go."""

    graph: Graph

    def rows(self, kind: str, kernel: Float64) -> int:
        """A constant for product. kernel: (in, out)"""
        ...

    def product(self, at: int, kernel: int, bias: int) -> int:
        """x @ kernel + bias for each row of x, (rows, in)."""
        ...


def unrolled(products: Products, at: int, cell: Cell, order: Iterable[int]) -> list[int]:
    """The outputs (1, units) of the steps of `at` (steps, channels), in this order of computation."""
    graph = products.graph
    state = graph.constant(f"zero{at}", np.zeros((1, len(cell.recurrent)), np.float64))
    match cell:
        case LstmCell():
            return _lstm(products, at, cell, order, state)
        case GruCell():
            return _gru(products, at, cell, order, state)
        case SimpleCell():
            return _simple(products, at, cell, order, state)


def _activated(graph: Graph, at: int, activation: Activation) -> int:
    return activate(graph, at, Activate(activation))


def _split(graph: Graph, at: int, parts: int) -> list[int]:
    _, width = graph.shape(at)
    axis = graph.constant(f"axis{at}", np.array(1, np.int32))
    return graph.operate_many(
        "SPLIT", [axis, at], [(1, width // parts)] * parts, options="SplitOptions", numSplits=parts
    )


class _Projected:
    """x @ kernel + bias of all steps at once, each of which is (1, width)."""

    def __init__(self, products: Products, at: int, kernel: Float64, bias: Float64) -> None:
        graph = products.graph
        made = products.product(at, products.rows("input", kernel), graph.constant(f"input_bias{at}", bias))
        steps, width = graph.shape(made)
        target = graph.constant(f"shape{made}", np.array([steps, 1, width], np.int32))
        shape = [steps, 1, width]
        made = graph.operate("RESHAPE", [made, target], shape, options="ReshapeOptions", newShape=shape)
        self.steps = graph.operate_many(
            "UNPACK", [made], [(1, width)] * steps, options="UnpackOptions", num=steps, axis=0
        )


def _lstm(products: Products, at: int, cell: LstmCell, order: Iterable[int], state: int) -> list[int]:
    graph, projected = products.graph, _Projected(products, at, cell.kernel, cell.bias)
    recurrent, memory, outputs = products.rows("recurrent", cell.recurrent), state, []
    for number in order:
        together = binary(graph, "ADD", products.product(state, recurrent, ABSENT), projected.steps[number])
        into, kept, candidate, out = _split(graph, together, 4)
        into, kept, out = (_activated(graph, gate, cell.gate) for gate in (into, kept, out))
        candidate = _activated(graph, candidate, cell.activation)
        memory = binary(graph, "ADD", binary(graph, "MUL", kept, memory), binary(graph, "MUL", into, candidate))
        state = binary(graph, "MUL", out, _activated(graph, memory, cell.activation))
        outputs.append(state)
    return outputs


def _gru(products: Products, at: int, cell: GruCell, order: Iterable[int], state: int) -> list[int]:
    """h' = z h + (1 - z) candidate, as candidate + z (h - candidate)."""
    graph, units = products.graph, len(cell.recurrent)
    gates, candidates = np.s_[..., : 2 * units], np.s_[..., 2 * units :]
    gate_input = _Projected(products, at, cell.kernel[gates], cell.bias[gates])
    candidate_input = _Projected(products, at, cell.kernel[candidates], cell.bias[candidates])
    gate_kernel = products.rows("recurrent_gates", cell.recurrent[gates])
    kernel = products.rows("recurrent_candidate", cell.recurrent[candidates])
    gate_bias = bias = ABSENT
    if cell.recurrent_bias is not None:
        gate_bias = graph.constant(f"gate_bias{kernel}", cell.recurrent_bias[gates])
        bias = graph.constant(f"candidate_bias{kernel}", cell.recurrent_bias[candidates])
    outputs = []
    for number in order:
        both = binary(graph, "ADD", products.product(state, gate_kernel, gate_bias), gate_input.steps[number])
        update, reset = _split(graph, _activated(graph, both, cell.gate), 2)
        if cell.recurrent_bias is not None:
            inner = binary(graph, "MUL", reset, products.product(state, kernel, bias))
        else:
            inner = products.product(binary(graph, "MUL", reset, state), kernel, bias)
        candidate = _activated(graph, binary(graph, "ADD", inner, candidate_input.steps[number]), cell.activation)
        change = binary(graph, "MUL", update, binary(graph, "SUB", state, candidate))
        state = binary(graph, "ADD", candidate, change)
        outputs.append(state)
    return outputs


def _simple(products: Products, at: int, cell: SimpleCell, order: Iterable[int], state: int) -> list[int]:
    graph, projected = products.graph, _Projected(products, at, cell.kernel, cell.bias)
    recurrent, outputs = products.rows("recurrent", cell.recurrent), []
    for number in order:
        together = binary(graph, "ADD", products.product(state, recurrent, ABSENT), projected.steps[number])
        state = _activated(graph, together, cell.activation)
        outputs.append(state)
    return outputs
