"""A network as the converter holds it: typed layers with float64 weights, in the order of computation.

Shapes are without the batch: (steps, channels) for a sequence, (channels,) for a vector. Dropout does nothing at
inference, so it has no layer here.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Activation = Literal["linear", "relu", "tanh", "sigmoid", "softmax"]


@dataclass(frozen=True, slots=True, eq=False)
class Affine:
    """x * scale + shift on the last axis: a scaler, or a batch normalization at inference. scale, shift: (channels,)"""

    scale: Float64
    shift: Float64


@dataclass(frozen=True, slots=True, eq=False)
class Conv1d:
    """Without padding. kernel: (taps, in, out); bias: (out,)"""

    kernel: Float64
    bias: Float64
    activation: Activation
    stride: int = 1
    dilation: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class LstmCell:
    """Gates in Keras' order i, f, c, o. kernel: (in, 4 units); recurrent: (units, 4 units); bias: (4 units,)"""

    kernel: Float64
    recurrent: Float64
    bias: Float64


@dataclass(frozen=True, slots=True, eq=False)
class Lstm:
    """tanh and sigmoid, from a zero state. backward: reads the sequence from its end; outputs are concatenated.

    sequences: one output a step; else each direction's last one.
    """

    forward: LstmCell
    backward: LstmCell | None
    sequences: bool


@dataclass(frozen=True, slots=True)
class Flatten:
    """(steps, channels) to (steps * channels,), channels fastest."""

    steps: int


@dataclass(frozen=True, slots=True, eq=False)
class Dense:
    """kernel: (in, out); bias: (out,)"""

    kernel: Float64
    bias: Float64
    activation: Activation


Linear = Conv1d | Lstm | Flatten | Dense
"""What is left when every Affine is folded."""
Layer = Affine | Linear


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """(window, channels) in, (classes,) probabilities out."""

    window: int
    channels: int
    classes: int
    layers: tuple[Layer, ...]
    architecture: tuple[str, ...]
    """One line for each layer of the Keras file."""
