"""Affine maps (the input scaler, batch normalizations) into the kernel and bias of the layer that follows them.

Exact but for rounding: a layer that is linear in its input and pads nothing with zeros computes, of x * scale + shift,
kernel @ (x * scale + shift) + bias = (kernel * scale) @ x + (kernel @ shift + bias). Everything is float64 here.
"""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from converter.layers import Affine, Conv1d, Dense, Flatten, Layer, Linear, Lstm, LstmCell


def fold_affines(layers: Iterable[Layer]) -> list[Linear]:
    """The same function without any Affine. Raises ValueError for one that no layer follows."""
    folded: list[Linear] = []
    pending: Affine | None = None
    for layer in layers:
        if isinstance(layer, Affine):
            pending = layer if pending is None else _compose(pending, layer)
        elif pending is None:
            folded.append(layer)
        elif isinstance(layer, Flatten):
            pending = Affine(np.tile(pending.scale, layer.steps), np.tile(pending.shift, layer.steps))
            folded.append(layer)
        else:
            folded.append(_absorb(pending, layer))
            pending = None
    if pending is not None:
        raise ValueError("an affine map at the end of the network has no layer to go into")
    return folded


def _compose(first: Affine, second: Affine) -> Affine:
    return Affine(first.scale * second.scale, first.shift * second.scale + second.shift)


def _absorb(affine: Affine, layer: Conv1d | Lstm | Dense) -> Linear:
    if isinstance(layer, Lstm):
        backward = None if layer.backward is None else _absorb_cell(affine, layer.backward)
        return replace(layer, forward=_absorb_cell(affine, layer.forward), backward=backward)
    taps = layer.kernel if layer.kernel.ndim == 3 else layer.kernel[np.newaxis]
    bias = layer.bias + np.einsum("i,kio->o", affine.shift, taps)
    return replace(layer, kernel=layer.kernel * affine.scale[:, np.newaxis], bias=bias)


def _absorb_cell(affine: Affine, cell: LstmCell) -> LstmCell:
    kernel = cell.kernel * affine.scale[:, np.newaxis]
    return LstmCell(kernel, cell.recurrent, cell.bias + affine.shift @ cell.kernel)
