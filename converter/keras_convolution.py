"""Keras' convolutions and pooling, over time or over rows and columns.

What they compute: keras/src/layers/{convolutional,pooling}; zeros at the ends: tf.nn.convolution.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np

from converter.keras_reading import (
    Read,
    Reader,
    Reading,
    Tensor,
    Unsupported,
    activation_line,
    natural,
    naturals,
    require,
)
from converter.layers import (
    Conv1d,
    Conv2d,
    Crop,
    Dense,
    Depthwise1d,
    Depthwise2d,
    Float64,
    GlobalPool,
    Pad,
    Pair,
    Pool,
    Pool2d,
    Reshape,
    Shape,
)

_AXES = {1: "1D", 2: "2D"}


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a kernel is laid; all but out are the layer's settings."""

    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    pad: tuple[Pair, ...]
    out: tuple[int, ...]

    @property
    def settings(self) -> dict[str, Any]:
        """As the layer for so many axes has them."""
        if len(self.out) > 1:
            return {"stride": self.stride, "dilation": self.dilation, "pad": self.pad}
        return {"stride": self.stride[0], "dilation": self.dilation[0], "pad": self.pad[0]}


def _sides(reading: Reading, dims: int) -> tuple[tuple[int, ...], int]:
    require(reading.config, data_format="channels_last")
    *sides, channels = reading.sequence() if dims == 1 else reading.image()
    return tuple(sides), channels


def _placed(reading: Reading, sides: tuple[int, ...], taps: tuple[int, ...], *, causal: bool) -> _Place:
    config, dims = reading.config, len(sides)
    stride = naturals(config, "strides", dims, default=1)
    dilation = naturals(config, "dilation_rate", dims, default=1)
    padding, pads, out = config.get("padding", "valid"), [], []
    if padding not in ("valid", "same") and not (padding == "causal" and causal):
        raise Unsupported(f"padding={padding!r}")
    for side, own, step, gap in zip(sides, taps, stride, dilation, strict=True):
        reach = (own - 1) * gap + 1
        missing = max(0, (math.ceil(side / step) - 1) * step + reach - side)
        same = (missing // 2, missing - missing // 2)
        pads.append({"same": same, "causal": (reach - 1, 0)}.get(padding, (0, 0)))
        out.append((side + sum(pads[-1]) - reach) // step + 1)
    if min(out) < 1:
        raise Unsupported(f"its input of {_by(sides)} steps is shorter than its kernel")
    return _Place(stride, dilation, tuple(pads), tuple(out))


def _by(numbers: tuple[int, ...]) -> str:
    return "x".join(map(str, numbers))


def _placement(reading: Reading, dims: int) -> str:
    """What differs from the default, for people."""
    parts = []
    for key in ("strides", "dilation_rate"):
        value = naturals(reading.config, key, dims, default=1)
        parts += [f", {key}={_by(value)}"] if max(value) > 1 else []
    padding = reading.config.get("padding", "valid")
    return "".join([*parts, f", {padding}" if padding != "valid" else ""])


def read_convolution(dims: int) -> Reader:
    def read(reading: Reading) -> Read:
        config = reading.config
        sides, channels = _sides(reading, dims)
        filters, taps = natural(config, "filters"), naturals(config, "kernel_size", dims)
        groups = natural(config, "groups", default=1)
        if channels % groups or filters % groups:
            raise Unsupported(f"groups={groups} do not divide {channels} channels and {filters} filters")
        place, named = _placed(reading, sides, taps, causal=dims == 1), activation_line(config)
        shapes: dict[str, Shape] = {"kernel": (*taps, channels // groups, filters)}
        kernel, *bias = reading.weights.take(reading.with_bias(shapes, filters))
        full, added = _ungrouped(kernel, groups), bias[0] if bias else np.zeros(filters)
        kind = Conv1d if dims == 1 else Conv2d
        made = reading.kernel(
            lambda own: kind(full, added, own, **place.settings), reading.input, (*place.out, filters)
        )
        grouped = f", groups={groups}" if groups > 1 else ""
        line = f"Conv{_AXES[dims]}({filters}, {_by(taps)}, {named}{_placement(reading, dims)}{grouped})"
        return Read([made], line)

    return read


def _ungrouped(kernel: Float64, groups: int) -> Float64:
    """The same over all channels, with zeros for those of other groups."""
    if groups == 1:
        return kernel
    *taps, inner, filters = kernel.shape
    full = np.zeros((*taps, inner * groups, filters))
    outer = filters // groups
    for group in range(groups):
        own = slice(group * outer, (group + 1) * outer)
        full[..., group * inner : (group + 1) * inner, own] = kernel[..., own]
    return full


def read_depthwise(dims: int) -> Reader:
    def read(reading: Reading) -> Read:
        config = reading.config
        sides, channels = _sides(reading, dims)
        taps, multiplier = naturals(config, "kernel_size", dims), natural(config, "depth_multiplier", default=1)
        place, named, width = (
            _placed(reading, sides, taps, causal=False),
            activation_line(config),
            channels * multiplier,
        )
        shapes: dict[str, Shape] = {"kernel": (*taps, channels, multiplier)}
        kernel, *bias = reading.weights.take(reading.with_bias(shapes, width))
        added = bias[0] if bias else np.zeros(width)
        kind = Depthwise1d if dims == 1 else Depthwise2d
        made = reading.kernel(
            lambda own: kind(kernel, added, own, **place.settings), reading.input, (*place.out, width)
        )
        return Read([made], f"DepthwiseConv{_AXES[dims]}({_by(taps)}, {named}{_placement(reading, dims)})")

    return read


def read_separable(dims: int) -> Reader:
    def read(reading: Reading) -> Read:
        config = reading.config
        sides, channels = _sides(reading, dims)
        filters, taps = natural(config, "filters"), naturals(config, "kernel_size", dims)
        multiplier, named = natural(config, "depth_multiplier", default=1), activation_line(config)
        place, width = _placed(reading, sides, taps, causal=dims == 1), channels * multiplier
        point = (1,) * dims
        shapes: dict[str, Shape] = {"depthwise": (*taps, channels, multiplier), "pointwise": (*point, width, filters)}
        depthwise, pointwise, *bias = reading.weights.take(reading.with_bias(shapes, filters))
        kind = Depthwise1d if dims == 1 else Depthwise2d
        first = kind(depthwise, np.zeros(width), "linear", **place.settings)
        at = reading.building.add(first, [reading.input], (*place.out, width))
        kernel, added = pointwise.reshape(width, filters), bias[0] if bias else np.zeros(filters)
        made = reading.kernel(lambda own: Dense(kernel, added, own), at, (*place.out, filters))
        line = f"SeparableConv{_AXES[dims]}({filters}, {_by(taps)}, {named}{_placement(reading, dims)})"
        return Read([made], line)

    return read


def read_transposed(reading: Reading) -> Read:
    """As a convolution over the input with zeros between its steps, the kernel turned round (Dumoulin and Visin, 2016).

    How long the output is, and where it begins: keras/src/backend/common/backend_utils.py, tf.nn.conv_transpose.
    """
    config = reading.config
    (steps,), channels = _sides(reading, 1)
    filters, taps = natural(config, "filters"), natural(config, "kernel_size")
    stride, dilation = natural(config, "strides", default=1), natural(config, "dilation_rate", default=1)
    reach, spread = (taps - 1) * dilation + 1, (steps - 1) * stride + 1
    padding, named = config.get("padding", "valid"), activation_line(config)
    given = config.get("output_padding")
    more = None if given is None else natural(config, "output_padding", least=0)
    if padding == "valid":
        out = spread - 1 + reach + (max(reach, stride) - reach if more is None else more)
        left = reach - 1
    elif padding == "same":
        out = steps * stride if more is None else spread - 1 + reach % 2 + more
        left = reach - 1 - max(0, spread - 1 + reach - out) // 2
        if math.ceil(out / stride) != steps:
            raise Unsupported(f"output_padding={given!r} with padding='same' and strides={stride}")
    else:
        raise Unsupported(f"padding={padding!r}")
    shapes: dict[str, Shape] = {"kernel": (taps, filters, channels)}
    kernel, *bias = reading.weights.take(reading.with_bias(shapes, filters))
    turned, added = kernel[::-1].transpose(0, 2, 1), bias[0] if bias else np.zeros(filters)
    at = _spread(reading, stride)
    right = out - 1 + reach - left - spread
    if right < 0:
        at, right = reading.building.add(Crop(0, -right), [at], (spread + right, channels)), 0
    made = reading.kernel(
        lambda own: Conv1d(turned, added, own, dilation=dilation, pad=(left, right)), at, (out, filters)
    )
    return Read([made], f"Conv1DTranspose({filters}, {taps}, {named}{_placement(reading, 1)})")


def _spread(reading: Reading, stride: int) -> Tensor:
    """(steps, channels) to ((steps - 1) * stride + 1, channels), zeros between the steps."""
    at, add = reading.input, reading.building.add
    steps, channels = at.shape
    if stride == 1:
        return at
    at = add(Reshape((steps, 1, channels)), [at], (steps, 1, channels))
    at = add(Pad(0, stride - 1, axis=1), [at], (steps, stride, channels))
    at = add(Reshape((steps * stride, channels)), [at], (steps * stride, channels))
    return add(Crop(0, stride - 1), [at], ((steps - 1) * stride + 1, channels))


def read_dense(reading: Reading) -> Read:
    shape, named, units = reading.input.shape, activation_line(reading.config), natural(reading.config, "units")
    if not shape:
        raise Unsupported("its input is a single number")
    shapes: dict[str, Shape] = {"kernel": (shape[-1], units)}
    kernel, *bias = reading.weights.take(reading.with_bias(shapes, units))
    added = bias[0] if bias else np.zeros(units)
    made = reading.kernel(lambda own: Dense(kernel, added, own), reading.input, (*shape[:-1], units))
    return Read([made], f"Dense({units}, {named})")


# Pooling


def read_pool(kind: Literal["max", "average"], dims: int) -> Reader:
    def read(reading: Reading) -> Read:
        config = reading.config
        sides, channels = _sides(reading, dims)
        size = naturals(config, "pool_size", dims, default=2)
        stride = size if config.get("strides") is None else naturals(config, "strides", dims)
        padding = config.get("padding", "valid")
        if padding not in ("valid", "same"):
            raise Unsupported(f"padding={padding!r}")
        out = tuple(
            math.ceil(side / step) if padding == "same" else (side - own) // step + 1
            for side, own, step in zip(sides, size, stride, strict=True)
        )
        layer: Pool | Pool2d = Pool(kind, size[0], stride[0], padding)
        if dims == 2:
            layer = Pool2d(kind, cast("Pair", size), cast("Pair", stride), padding)
        line = f"{kind.capitalize()}Pooling{_AXES[dims]}({_by(size)}"
        line += f", strides={_by(stride)}" if stride != size else ""
        return reading.only(layer, (*out, channels), line + (", same)" if padding == "same" else ")"))

    return read


def read_global_pool(kind: Literal["max", "average"], dims: int) -> Reader:
    def read(reading: Reading) -> Read:
        _, channels = _sides(reading, dims)
        keep = reading.flag("keepdims", False)
        shape = (*(1,) * dims, channels) if keep else (channels,)
        return reading.only(GlobalPool(kind, keep, dims), shape, f"Global{kind.capitalize()}Pooling{_AXES[dims]}")

    return read
