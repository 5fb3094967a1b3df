"""A network as the converter holds it: typed layers with float64 weights, in the order of computation.

Shapes are without the batch: (steps, channels) for a sequence, (channels,) for a vector. Layers that do nothing at
inference (dropout, noise) have none here. A layer computes with what the one before it made; one that takes something
else, or more than one thing, stands in a Node.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Activation = Literal[
    "linear",
    "relu",
    "tanh",
    "sigmoid",
    "softmax",
    "relu6",
    "elu",
    "selu",
    "gelu",
    "silu",
    "mish",
    "softplus",
    "softsign",
    "exponential",
    "hard_sigmoid",
    "hard_silu",
    "hard_tanh",
    "log_sigmoid",
    "leaky_relu",
    "celu",
    "squareplus",
    "soft_shrink",
    "hard_shrink",
    "tanh_shrink",
    "sparse_plus",
    "sparse_sigmoid",
    "log_softmax",
]
"""Keras 3's names and definitions (keras/src/activations/activations.py); over the last axis where over one."""
Shape = tuple[int, ...]
Pair = tuple[int, int]
MergeKind = Literal["add", "subtract", "multiply", "divide", "average", "maximum", "minimum"]
Function = Literal["negative", "absolute", "square", "sqrt", "rsqrt", "exp", "log", "gelu_tanh"]
"""Of one number; gelu_tanh is the approximation of gelu (Hendrycks et al., 2016)."""
Reduction = Literal["mean", "sum", "max", "min"]


@dataclass(frozen=True, slots=True, eq=False)
class Affine:
    """x * scale + shift on the last axis: a scaler, or a batch normalization at inference. scale, shift: (channels,)

    names: of the Keras layers that it stands for.
    """

    scale: Float64
    shift: Float64
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Conv1d:
    """kernel: (taps, in, out); bias: (out,); pad: zeros before and after the sequence."""

    kernel: Float64
    bias: Float64
    activation: Activation
    stride: int = 1
    dilation: int = 1
    pad: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True, eq=False)
class Depthwise1d:
    """Each channel for itself. kernel: (taps, in, multiplier); bias: (in * multiplier,), multiplier fastest."""

    kernel: Float64
    bias: Float64
    activation: Activation
    stride: int = 1
    dilation: int = 1
    pad: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True, eq=False)
class Conv2d:
    """kernel: (rows, columns, in, out); bias: (out,); the rest for rows and columns, pad: zeros before and after."""

    kernel: Float64
    bias: Float64
    activation: Activation
    stride: Pair = (1, 1)
    dilation: Pair = (1, 1)
    pad: tuple[Pair, Pair] = ((0, 0), (0, 0))


@dataclass(frozen=True, slots=True, eq=False)
class Depthwise2d:
    """Like Depthwise1d, over rows and columns. kernel: (rows, columns, in, multiplier)"""

    kernel: Float64
    bias: Float64
    activation: Activation
    stride: Pair = (1, 1)
    dilation: Pair = (1, 1)
    pad: tuple[Pair, Pair] = ((0, 0), (0, 0))


@dataclass(frozen=True, slots=True, eq=False)
class LstmCell:
    """Gates in Keras' order i, f, c, o. kernel: (in, 4 units); recurrent: (units, 4 units); bias: (4 units,)"""

    kernel: Float64
    recurrent: Float64
    bias: Float64
    activation: Activation = "tanh"
    gate: Activation = "sigmoid"


@dataclass(frozen=True, slots=True, eq=False)
class GruCell:
    """Gates in Keras' order z, r, h. kernel: (in, 3 units); recurrent: (units, 3 units); bias: (3 units,)

    recurrent_bias: (3 units,), added to the recurrent product, which the reset gate then multiplies (reset_after);
    without one the reset gate multiplies the state before that product.
    """

    kernel: Float64
    recurrent: Float64
    bias: Float64
    recurrent_bias: Float64 | None
    activation: Activation = "tanh"
    gate: Activation = "sigmoid"


@dataclass(frozen=True, slots=True, eq=False)
class SimpleCell:
    """h = activation(x @ kernel + h @ recurrent + bias). kernel: (in, units); recurrent: (units, units)"""

    kernel: Float64
    recurrent: Float64
    bias: Float64
    activation: Activation = "tanh"


Cell = LstmCell | GruCell | SimpleCell


@dataclass(frozen=True, slots=True, eq=False)
class Recurrent:
    """From a zero state. backward: reads the sequence from its end; outputs are concatenated step by step.

    sequences: one output a step; else each direction's last one. reverse: forward reads the sequence from its end, and
    its outputs stay in the order in which they were computed (Keras' go_backwards); without backward only.
    """

    forward: Cell
    backward: Cell | None
    sequences: bool
    reverse: bool = False


@dataclass(frozen=True, slots=True)
class Flatten:
    """(steps, channels) to (steps * channels,), channels fastest; steps: all that is not channels, as one."""

    steps: int


@dataclass(frozen=True, slots=True, eq=False)
class Dense:
    """On the last axis. kernel: (in, out); bias: (out,)"""

    kernel: Float64
    bias: Float64
    activation: Activation


@dataclass(frozen=True, slots=True)
class Activate:
    """slope: of leaky_relu, below zero; ceiling: of relu, above which it is cut off; alpha: of elu.

    threshold: of relu, below which it is negative * (x - threshold).
    """

    activation: Activation
    slope: float = 0.2
    alpha: float = 1.0
    ceiling: float | None = None
    threshold: float = 0.0
    negative: float = 0.0


@dataclass(frozen=True, slots=True)
class Apply:
    """Element by element."""

    function: Function


@dataclass(frozen=True, slots=True, eq=False)
class Prelu:
    """slope: of the input's shape, or 1 where it is shared."""

    slope: Float64


@dataclass(frozen=True, slots=True)
class Pool:
    """Over steps. An average with 'same' padding counts only what it covers of the sequence."""

    kind: Literal["max", "average"]
    size: int
    stride: int
    padding: Literal["valid", "same"] = "valid"


@dataclass(frozen=True, slots=True)
class Pool2d:
    """Over rows and columns, otherwise like Pool."""

    kind: Literal["max", "average"]
    size: Pair
    stride: Pair
    padding: Literal["valid", "same"] = "valid"


@dataclass(frozen=True, slots=True)
class GlobalPool:
    """Over all steps, or over rows and columns. keep: leaves one of each; dims: how many axes before the channels."""

    kind: Literal["max", "average"]
    keep: bool = False
    dims: int = 1


@dataclass(frozen=True, slots=True)
class Reduce:
    """axes: counted without the batch. keep: leaves one of each."""

    kind: Reduction
    axes: tuple[int, ...]
    keep: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class LayerNorm:
    """(x - mean) / sqrt(variance + epsilon) * scale + shift; mean and variance over axes, counted without the batch.

    centred: else no mean is taken off, and the variance is that from zero (RMS normalization).
    scale, shift: broadcast over the input without the batch.
    """

    axes: tuple[int, ...]
    epsilon: float
    scale: Float64
    shift: Float64
    centred: bool = True


@dataclass(frozen=True, slots=True)
class UnitNorm:
    """x * min(1 / sqrt(sum of x²), 1 / epsilon), the sum over axes, counted without the batch."""

    axes: tuple[int, ...]
    epsilon: float


@dataclass(frozen=True, slots=True)
class Reshape:
    shape: Shape


@dataclass(frozen=True, slots=True)
class Permute:
    """axes: which axis of the input each of the output is, from 0, without the batch."""

    axes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Pad:
    """Zeros before and after the sequence, or along another axis, counted without the batch."""

    before: int
    after: int
    axis: int = 0


@dataclass(frozen=True, slots=True)
class Crop:
    """Steps left out at the start and the end, or what stands along another axis but the channels."""

    before: int
    after: int
    axis: int = 0


@dataclass(frozen=True, slots=True)
class CropChannels:
    """Channels left out at the start and the end."""

    before: int
    after: int


@dataclass(frozen=True, slots=True)
class Repeat:
    """Each step `times` times: (steps, channels) to (steps * times, channels); or along another axis but the last."""

    times: int
    axis: int = 0


@dataclass(frozen=True, slots=True)
class Reverse:
    """The sequence from its end, or what stands along another axis but the channels."""

    axis: int = 0


@dataclass(frozen=True, slots=True)
class Merge:
    """Element by element, with sides of 1 broadcast; inputs of fewer axes get them after the batch."""

    kind: MergeKind


@dataclass(frozen=True, slots=True, eq=False)
class MergeConstant:
    """Like Merge of the input with a constant, broadcast over the input without the batch. first: constant - x."""

    kind: MergeKind
    values: Float64
    first: bool = False


@dataclass(frozen=True, slots=True)
class Concatenate:
    """axis: counted without the batch."""

    axis: int


@dataclass(frozen=True, slots=True)
class MatMul:
    """The matrix product over the last two axes, for each of the others. turned: the second's two axes are swapped."""

    turned: bool = False


Kernel = Conv1d | Depthwise1d | Conv2d | Depthwise2d | Dense
Normalizing = Affine | LayerNorm | UnitNorm
Pooling = Pool | Pool2d | GlobalPool | Reduce
Shaping = Flatten | Reshape | Permute | Pad | Crop | CropChannels | Repeat | Reverse
Joining = Merge | MergeConstant | Concatenate | MatMul
Layer = Kernel | Recurrent | Activate | Apply | Prelu | Normalizing | Pooling | Shaping | Joining


@dataclass(frozen=True, slots=True)
class Node:
    """inputs: how many places back each of them stands: 1 is the layer before, one more than there are the window."""

    layer: Layer
    inputs: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """(window, channels) in, (classes,) probabilities out: the last layer's output."""

    window: int
    channels: int
    classes: int
    layers: tuple[Layer | Node, ...]
    architecture: tuple[str, ...]
    """One line for each layer of the Keras file."""
    softmax_added: bool = False
    """The file's model answers logits; the last layer, a softmax, is not its own."""


def wired(layers: Iterable[Layer | Node]) -> list[tuple[Layer, tuple[int, ...]]]:
    """Each layer with the numbers of those whose outputs it takes; -1 is the window.

    Raises ValueError for an input that is not there.
    """
    found: list[tuple[Layer, tuple[int, ...]]] = []
    for number, entry in enumerate(layers):
        node = entry if isinstance(entry, Node) else Node(entry, (1,))
        inputs = tuple(number - back for back in node.inputs)
        if not inputs or min(inputs) < -1 or max(inputs) >= number:
            raise ValueError(f"layer {number} takes {node.inputs}, which are not before it")
        found.append((node.layer, inputs))
    return found


def unwired(layers: Iterable[tuple[Layer, tuple[int, ...]]]) -> list[Layer | Node]:
    """The opposite of wired: a Node only where it is needed."""
    return [
        layer if inputs == (number - 1,) else Node(layer, tuple(number - index for index in inputs))
        for number, (layer, inputs) in enumerate(layers)
    ]
