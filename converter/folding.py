"""Affine maps (the input scaler, batch normalizations) into the kernels and biases of the layers beside them.

Exact but for rounding. Forward: a layer that is linear in its input and pads nothing with zeros computes, of
x * scale + shift, kernel @ (x * scale + shift) + bias = (kernel * scale) @ x + (kernel @ shift + bias). Zeros at the
edges stand for themselves, not for shift: before a padded layer only a map without shift folds. Backward: into a
layer without activation whose output nothing else takes. Between the two a map moves past pooling and cropping, which
it commutes with. What folds into nothing stays. Everything is float64 here.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from converter.layers import (
    Affine,
    Cell,
    Conv1d,
    Conv2d,
    Crop,
    Dense,
    Depthwise1d,
    Depthwise2d,
    Flatten,
    GlobalPool,
    Kernel,
    Layer,
    Node,
    Permute,
    Pool,
    Pool2d,
    Recurrent,
    Repeat,
    Reshape,
    Reverse,
    unwired,
    wired,
)


@dataclass(frozen=True, slots=True)
class FoldingReport:
    """Names of the Keras layers ("scaler" is the input scaler), in order."""

    folded: tuple[str, ...]
    kept: tuple[str, ...]
    """Operators of their own in the graph."""


def folding_report(before: Iterable[Layer | Node], after: Iterable[Layer | Node]) -> FoldingReport:
    """before: what fold_affines was given; after: what it returned."""
    kept = _names(after)
    return FoldingReport(tuple(name for name in _names(before) if name not in kept), kept)


def _names(layers: Iterable[Layer | Node]) -> tuple[str, ...]:
    return tuple(name for layer, _ in wired(layers) if isinstance(layer, Affine) for name in layer.names)


def fold_affines(layers: Iterable[Layer | Node]) -> list[Layer | Node]:
    """The same function with as few Affines as can be. The last layer's output stays the network's."""
    graph = _Graph(layers)
    while graph.fold_one():
        pass
    return graph.layers()


class _Graph:
    def __init__(self, layers: Iterable[Layer | Node]) -> None:
        self._nodes = dict(enumerate(wired(layers)))

    def layers(self) -> list[Layer | Node]:
        place = {-1: -1} | {number: index for index, number in enumerate(self._nodes)}
        nodes = self._nodes.values()
        return unwired((layer, tuple(place[number] for number in inputs)) for layer, inputs in nodes)

    def _takers(self, number: int) -> list[int]:
        return [other for other, (_, inputs) in self._nodes.items() if number in inputs]

    def fold_one(self) -> bool:
        """Does one step with the first map that has one to do; False where none has."""
        last = max(self._nodes, default=-1)
        for number, (layer, (source, *_)) in self._nodes.items():
            if not isinstance(layer, Affine):
                continue
            if number == last:  # its output is the network's
                continue
            takers = self._takers(number)
            if self._backward(number, layer, source) or self._forward(number, layer, source, takers):
                return True
            if len(takers) == 1 and self._past(number, layer, source, takers[0]):
                return True
        return False

    def _backward(self, number: int, affine: Affine, source: int) -> bool:
        if source < 0 or len(self._takers(source)) != 1:
            return False
        before, inputs = self._nodes[source]
        if not isinstance(before, Kernel) or before.activation != "linear":
            return False
        self._nodes[source] = (_scaled(before, affine), inputs)
        self._remove(number, source)
        return True

    def _forward(self, number: int, affine: Affine, source: int, takers: list[int]) -> bool:
        """Into every layer that takes the map, or none: one that is left would need the map all the same."""
        absorbed = {taker: _absorb(affine, self._nodes[taker][0]) for taker in takers}
        if any(layer is None for layer in absorbed.values()):
            return False
        for taker, layer in absorbed.items():
            assert layer is not None
            self._nodes[taker] = (layer, self._nodes[taker][1])
        self._remove(number, source)
        return True

    def _past(self, number: int, affine: Affine, source: int, taker: int) -> bool:
        layer = self._nodes[taker][0]
        if isinstance(layer, Flatten):
            affine = _repeated(affine, layer.steps)
        elif isinstance(layer, Pool | Pool2d | GlobalPool):
            if layer.kind == "max" and not (affine.scale > 0).all():
                return False
        elif isinstance(layer, Reshape):
            times, left = divmod(layer.shape[-1], len(affine.scale))
            if left:
                return False
            affine = _repeated(affine, times)
        elif isinstance(layer, Permute):
            if layer.axes[-1] != len(layer.axes) - 1:
                return False
        elif not isinstance(layer, Crop | Repeat | Reverse):
            return False
        self._nodes[number] = (layer, (source,))
        self._nodes[taker] = (affine, (number,))
        return True

    def _remove(self, number: int, source: int) -> None:
        del self._nodes[number]
        for other, (layer, inputs) in self._nodes.items():
            self._nodes[other] = (layer, tuple(source if index == number else index for index in inputs))


def _repeated(affine: Affine, times: int) -> Affine:
    return replace(affine, scale=np.tile(affine.scale, times), shift=np.tile(affine.shift, times))


def _absorb(affine: Affine, layer: Layer) -> Layer | None:
    """The layer as it computes of the map's input what it computed of its output; None where there is none."""
    match layer:
        case Affine():
            names = affine.names + layer.names
            return Affine(affine.scale * layer.scale, affine.shift * layer.scale + layer.shift, names)
        case Recurrent():
            backward = None if layer.backward is None else _absorb_cell(affine, layer.backward)
            return replace(layer, forward=_absorb_cell(affine, layer.forward), backward=backward)
        case Conv1d() | Conv2d() | Dense():
            if not isinstance(layer, Dense) and np.any(layer.pad) and affine.shift.any():
                return None
            taps = layer.kernel.reshape(-1, *layer.kernel.shape[-2:])
            bias = layer.bias + np.einsum("i,kio->o", affine.shift, taps)
            return replace(layer, kernel=layer.kernel * affine.scale[:, np.newaxis], bias=bias)
        case Depthwise1d() | Depthwise2d():
            if np.any(layer.pad) and affine.shift.any():
                return None
            taps = layer.kernel.reshape(-1, *layer.kernel.shape[-2:])
            bias = layer.bias + np.einsum("i,kim->im", affine.shift, taps).reshape(-1)
            return replace(layer, kernel=layer.kernel * affine.scale[:, np.newaxis], bias=bias)
    return None


def _absorb_cell(affine: Affine, cell: Cell) -> Cell:
    kernel = cell.kernel * affine.scale[:, np.newaxis]
    return replace(cell, kernel=kernel, bias=cell.bias + affine.shift @ cell.kernel)


def _scaled(layer: Kernel, affine: Affine) -> Layer:
    """The layer and then the map."""
    each = isinstance(layer, Depthwise1d | Depthwise2d)
    scale = affine.scale.reshape(layer.kernel.shape[-2:]) if each else affine.scale
    return replace(layer, kernel=layer.kernel * scale, bias=layer.bias * affine.scale + affine.shift)
