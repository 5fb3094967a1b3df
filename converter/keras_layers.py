"""Each Keras layer: its configuration and weights to the converter's layers.

What a layer computes is written down in its class under keras/src/layers; here stands which settings of it the
converter knows. A setting that is not known is refused, never passed over.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast, get_args

import numpy as np

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
    GruCell,
    Layer,
    LayerNorm,
    LstmCell,
    Merge,
    MergeKind,
    Pad,
    Permute,
    Pool,
    Prelu,
    Recurrent,
    Repeat,
    Reshape,
    Reverse,
    Shape,
    SimpleCell,
)

ACTIVATIONS: tuple[str, ...] = get_args(Activation)
_ALIASES = {"swish": "silu", "hard_swish": "hard_silu", "exp": "exponential"}
_ELEMENTS_MAX = 1 << 24
"""Of one layer's output; a corrupt size must not fill the memory."""

Config = Mapping[str, Any]


class Unsupported(Exception):
    """A layer is not as the converter needs it; the message says in which respect."""


class Weights(Protocol):
    """The variables of one layer in the file."""

    def take(self, shapes: Mapping[str, Shape], below: str = "") -> list[Float64]:
        """The variables of the part `below` ("": the layer's own) that have these names' shapes in this order."""
        ...


@dataclass(frozen=True, slots=True)
class Tensor:
    """index: the number of the layer that makes it in the network; -1 is the window. shape: without the batch."""

    index: int
    shape: Shape


class Building:
    """Where the readers put their layers; the number of a layer is its place."""

    def __init__(self) -> None:
        self.layers: list[tuple[Layer, tuple[int, ...]]] = []
        self.shapes: list[Shape] = []

    def add(self, layer: Layer, inputs: Sequence[Tensor], shape: Shape) -> Tensor:
        if min(shape, default=1) < 1 or math.prod(shape) > _ELEMENTS_MAX:
            raise Unsupported(f"its output would be {shape}")
        self.layers.append((layer, tuple(tensor.index for tensor in inputs)))
        self.shapes.append(shape)
        return Tensor(len(self.layers) - 1, shape)


@dataclass(frozen=True, slots=True)
class Reading:
    """One layer of the file, as a reader is given it."""

    name: str
    config: Config
    inputs: Sequence[Tensor]
    weights: Weights
    building: Building

    @property
    def input(self) -> Tensor:
        if len(self.inputs) != 1:
            raise Unsupported(f"it takes {len(self.inputs)} inputs, expected one")
        return self.inputs[0]

    def sequence(self) -> tuple[int, int]:
        shape = self.input.shape
        if len(shape) != 2:
            raise Unsupported(f"its input {shape} is no sequence")
        return shape[0], shape[1]

    def flag(self, key: str, default: bool = True) -> bool:
        value = self.config.get(key, default)
        if not isinstance(value, bool):
            raise Unsupported(f"{key}={value!r}, expected true or false")
        return value

    def only(self, layer: Layer, shape: Shape, line: str) -> "Read":
        return Read([self.building.add(layer, [self.input], shape)], line)

    def nothing(self, line: str) -> "Read":
        return Read([self.input], line)

    def activated(self, at: Tensor, activation: Activation) -> Tensor:
        return at if activation == "linear" else self.building.add(Activate(activation), [at], at.shape)


@dataclass(frozen=True, slots=True)
class Read:
    """line: for people."""

    outputs: list[Tensor]
    line: str


def check_plain(entry: Config) -> None:
    """Raises Unsupported for what is no layer of Keras itself, or computes in another type than float32."""
    if entry["class_name"] not in READERS:
        raise Unsupported("not supported")
    module = entry.get("module", "keras.layers")  # the older .h5 names no modules
    if module not in ("keras.layers", "keras") or entry.get("registered_name") is not None:
        raise Unsupported(f"a custom class of {entry.get('module')}, whose code the converter does not run")
    check_float32(entry["config"])


def check_float32(config: Config) -> None:
    dtype = config.get("dtype") or "float32"
    policy = dtype["config"]["name"] if isinstance(dtype, dict) else dtype
    if policy != "float32":
        raise Unsupported(f"computes in {policy}")


def _require(config: Config, **wanted: object) -> None:
    for key, value in wanted.items():
        if config.get(key, value) != value:
            raise Unsupported(f"{key}={config[key]!r}, expected {value!r}")


def _activation(config: Config, key: str = "activation", default: Activation = "linear") -> Activation:
    found = config.get(key, default)
    found = "linear" if found is None else found
    name = _ALIASES.get(found, found) if isinstance(found, str) else found
    if name not in ACTIVATIONS:
        raise Unsupported(f"{key}={found!r}")
    return cast("Activation", name)


def _natural(config: Config, key: str, *, least: int = 1, default: int | None = None) -> int:
    """A whole number, which may stand in a list of one."""
    value = config.get(key, default)
    if isinstance(value, list | tuple) and len(value) == 1:
        (value,) = value
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= _ELEMENTS_MAX:
        raise Unsupported(f"{key}={config.get(key)!r}, expected {least} or more")
    return value


def _number(config: Config, key: str, default: float) -> float:
    value = config.get(key, default)
    if isinstance(value, dict):  # an array of one, as Keras writes it
        value = value.get("config", {}).get("value")
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise Unsupported(f"{key}={config.get(key)!r}, expected a number")
    return float(value)


def _with_bias(reading: Reading, shapes: dict[str, Shape], width: int) -> dict[str, Shape]:
    return shapes | ({"bias": (width,)} if reading.flag("use_bias") else {})


# Nothing at inference


def _read_input(reading: Reading) -> Read:
    return reading.nothing(f"Input{reading.input.shape}")


def _read_dropout(kind: str, key: str | None) -> "Reader":
    def read(reading: Reading) -> Read:
        return reading.nothing(f"{kind}({reading.config.get(key)})" if key else kind)

    return read


# Convolutions and dense layers


def _placed(reading: Reading, taps: int, *, causal: bool) -> tuple[int, int, tuple[int, int], int]:
    """stride, dilation, zeros at the ends, steps out; TensorFlow's rule for 'same' (tf.nn.convolution)."""
    config = reading.config
    _require(config, data_format="channels_last")
    steps, _ = reading.sequence()
    stride, dilation = _natural(config, "strides", default=1), _natural(config, "dilation_rate", default=1)
    reach, padding = (taps - 1) * dilation + 1, config.get("padding", "valid")
    if padding == "valid":
        pad = (0, 0)
    elif padding == "same":
        missing = max(0, (math.ceil(steps / stride) - 1) * stride + reach - steps)
        pad = (missing // 2, missing - missing // 2)
    elif padding == "causal" and causal:
        pad = (reach - 1, 0)
    else:
        raise Unsupported(f"padding={padding!r}")
    out = (steps + sum(pad) - reach) // stride + 1
    if out < 1:
        raise Unsupported(f"its input of {steps} steps is shorter than its kernel")
    return stride, dilation, pad, out


def _placement(reading: Reading) -> str:
    """What differs from the default, for people."""
    parts = []
    for key in ("strides", "dilation_rate"):
        value = _natural(reading.config, key, default=1)
        parts += [f", {key}={value}"] if value > 1 else []
    padding = reading.config.get("padding", "valid")
    return "".join([*parts, f", {padding}" if padding != "valid" else ""])


def _read_conv1d(reading: Reading) -> Read:
    config = reading.config
    _, channels = reading.sequence()
    activation, filters, taps = _activation(config), _natural(config, "filters"), _natural(config, "kernel_size")
    groups = _natural(config, "groups", default=1)
    if channels % groups or filters % groups:
        raise Unsupported(f"groups={groups} do not divide {channels} channels and {filters} filters")
    stride, dilation, pad, out = _placed(reading, taps, causal=True)
    shapes: dict[str, Shape] = {"kernel": (taps, channels // groups, filters)}
    kernel, *bias = reading.weights.take(_with_bias(reading, shapes, filters))
    if groups > 1:
        kernel = _ungrouped(kernel, groups)
    layer = Conv1d(kernel, bias[0] if bias else np.zeros(filters), activation, stride, dilation, pad)
    grouped = f", groups={groups}" if groups > 1 else ""
    return reading.only(layer, (out, filters), f"Conv1D({filters}, {taps}, {activation}{_placement(reading)}{grouped})")


def _ungrouped(kernel: Float64, groups: int) -> Float64:
    """The same over all channels, with zeros for those of other groups."""
    taps, inner, filters = kernel.shape
    full = np.zeros((taps, inner * groups, filters))
    outer = filters // groups
    for group in range(groups):
        own = slice(group * outer, (group + 1) * outer)
        full[:, group * inner : (group + 1) * inner, own] = kernel[:, :, own]
    return full


def _read_depthwise(reading: Reading) -> Read:
    config = reading.config
    _, channels = reading.sequence()
    activation, taps = _activation(config), _natural(config, "kernel_size")
    multiplier = _natural(config, "depth_multiplier", default=1)
    stride, dilation, pad, out = _placed(reading, taps, causal=False)
    width = channels * multiplier
    shapes: dict[str, Shape] = {"kernel": (taps, channels, multiplier)}
    kernel, *bias = reading.weights.take(_with_bias(reading, shapes, width))
    layer = Depthwise1d(kernel, bias[0] if bias else np.zeros(width), activation, stride, dilation, pad)
    return reading.only(layer, (out, width), f"DepthwiseConv1D({taps}, {activation}{_placement(reading)})")


def _read_separable(reading: Reading) -> Read:
    config = reading.config
    _, channels = reading.sequence()
    activation, filters, taps = _activation(config), _natural(config, "filters"), _natural(config, "kernel_size")
    multiplier = _natural(config, "depth_multiplier", default=1)
    stride, dilation, pad, out = _placed(reading, taps, causal=True)
    width = channels * multiplier
    shapes: dict[str, Shape] = {"depthwise": (taps, channels, multiplier), "pointwise": (1, width, filters)}
    depthwise, pointwise, *bias = reading.weights.take(_with_bias(reading, shapes, filters))
    first = Depthwise1d(depthwise, np.zeros(width), "linear", stride, dilation, pad)
    at = reading.building.add(first, [reading.input], (out, width))
    second = Conv1d(pointwise, bias[0] if bias else np.zeros(filters), activation)
    line = f"SeparableConv1D({filters}, {taps}, {activation}{_placement(reading)})"
    return Read([reading.building.add(second, [at], (out, filters))], line)


def _read_dense(reading: Reading) -> Read:
    shape, activation, units = reading.input.shape, _activation(reading.config), _natural(reading.config, "units")
    if not shape:
        raise Unsupported("its input is a single number")
    shapes: dict[str, Shape] = {"kernel": (shape[-1], units)}
    kernel, *bias = reading.weights.take(_with_bias(reading, shapes, units))
    layer = Dense(kernel, bias[0] if bias else np.zeros(units), activation)
    return reading.only(layer, (*shape[:-1], units), f"Dense({units}, {activation})")


# Normalization


def _read_batch_normalization(reading: Reading) -> Read:
    config, shape = reading.config, reading.input.shape
    axis = config.get("axis", -1)
    axes = axis if isinstance(axis, list) else [axis]
    if axes not in ([-1], [len(shape)]):
        raise Unsupported(f"axis={axis!r}, expected the last one")
    _require(config, renorm=False)
    names = ("gamma",) * reading.flag("scale") + ("beta",) * reading.flag("center")
    names += ("moving_mean", "moving_variance")
    values = dict(zip(names, reading.weights.take(dict.fromkeys(names, shape[-1:])), strict=True))
    spread = values["moving_variance"] + _number(config, "epsilon", 1e-3)
    if not (spread > 0).all():
        raise Unsupported("moving_variance is negative")
    scale = values.get("gamma", np.ones(shape[-1])) / np.sqrt(spread)
    shift = values.get("beta", np.zeros(shape[-1])) - values["moving_mean"] * scale
    return reading.only(Affine(scale, shift, (reading.name,)), shape, "BatchNormalization")


def _read_layer_normalization(reading: Reading) -> Read:
    config, shape = reading.config, reading.input.shape
    _require(config, rms_scaling=False)
    axis = config.get("axis", -1)
    given = axis if isinstance(axis, list | tuple) else [axis]
    if not given or not all(isinstance(one, int) for one in given):
        raise Unsupported(f"axis={axis!r}")
    axes = sorted({one + len(shape) if one < 0 else one - 1 for one in given})
    if axes[0] < 0 or axes[-1] >= len(shape):
        raise Unsupported(f"axis={axis!r} of an input {shape}")
    own = tuple(shape[one] for one in axes)
    names = ("gamma",) * reading.flag("scale") + ("beta",) * reading.flag("center")
    values = dict(zip(names, reading.weights.take(dict.fromkeys(names, own)), strict=True))
    broadcast = tuple(side if one in axes else 1 for one, side in enumerate(shape))
    gamma, beta = values.get("gamma", np.ones(own)), values.get("beta", np.zeros(own))
    epsilon = _number(config, "epsilon", 1e-3)
    if epsilon < 0:
        raise Unsupported(f"epsilon={epsilon}")
    layer = LayerNorm(tuple(axes), epsilon, gamma.reshape(broadcast), beta.reshape(broadcast))
    return reading.only(layer, shape, "LayerNormalization")


# Activations


def _read_activation(reading: Reading) -> Read:
    activation = _activation(reading.config)
    return Read([reading.activated(reading.input, activation)], f"Activation({activation})")


def _read_relu(reading: Reading) -> Read:
    config, shape = reading.config, reading.input.shape
    if _number(config, "threshold", 0.0) != 0:
        raise Unsupported(f"threshold={config['threshold']!r}, expected 0")
    slope = _number(config, "negative_slope", 0.0)
    ceiling = None if config.get("max_value") is None else _number(config, "max_value", 0.0)
    if slope and ceiling is not None:
        raise Unsupported(f"negative_slope={slope} with max_value={ceiling}")
    layer = Activate("leaky_relu", slope=slope) if slope else Activate("relu", ceiling=ceiling)
    return reading.only(layer, shape, "ReLU" if ceiling is None else f"ReLU({ceiling:g})")


def _read_leaky_relu(reading: Reading) -> Read:
    key = "alpha" if "alpha" in reading.config else "negative_slope"
    slope = _number(reading.config, key, 0.3)
    return reading.only(Activate("leaky_relu", slope=slope), reading.input.shape, f"LeakyReLU({slope:g})")


def _read_elu(reading: Reading) -> Read:
    alpha = _number(reading.config, "alpha", 1.0)
    return reading.only(Activate("elu", alpha=alpha), reading.input.shape, f"ELU({alpha:g})")


def _read_prelu(reading: Reading) -> Read:
    shape, shared = reading.input.shape, reading.config.get("shared_axes") or []
    own = tuple(1 if axis + 1 in shared else side for axis, side in enumerate(shape))
    (slope,) = reading.weights.take({"alpha": own})
    return reading.only(Prelu(slope), shape, "PReLU")


def _read_softmax(reading: Reading) -> Read:
    axis, shape = reading.config.get("axis", -1), reading.input.shape
    at = axis + len(shape) if isinstance(axis, int) and axis < 0 else axis - 1 if isinstance(axis, int) else -1
    if not 0 <= at < len(shape):
        raise Unsupported(f"axis={axis!r} of an input {shape}")
    if at == len(shape) - 1:
        return Read([reading.activated(reading.input, "softmax")], "Softmax")
    turn = [*range(len(shape))]
    turn[at], turn[-1] = turn[-1], turn[at]
    turned, add = tuple(shape[one] for one in turn), reading.building.add
    inside = reading.activated(add(Permute(tuple(turn)), [reading.input], turned), "softmax")
    return Read([add(Permute(tuple(turn)), [inside], shape)], f"Softmax(axis={axis})")


# Pooling


def _read_pool(kind: Literal["max", "average"]) -> "Reader":
    def read(reading: Reading) -> Read:
        config = reading.config
        _require(config, data_format="channels_last")
        steps, channels = reading.sequence()
        size = _natural(config, "pool_size", default=2)
        stride = size if config.get("strides") is None else _natural(config, "strides")
        padding = config.get("padding", "valid")
        if padding not in ("valid", "same"):
            raise Unsupported(f"padding={padding!r}")
        out = math.ceil(steps / stride) if padding == "same" else (steps - size) // stride + 1
        layer = Pool(kind, size, stride, padding)
        line = f"{kind.capitalize()}Pooling1D({size}" + (f", strides={stride}" if stride != size else "")
        return reading.only(layer, (out, channels), line + (", same)" if padding == "same" else ")"))

    return read


def _read_global_pool(kind: Literal["max", "average"]) -> "Reader":
    def read(reading: Reading) -> Read:
        _require(reading.config, data_format="channels_last")
        _, channels = reading.sequence()
        keep = reading.flag("keepdims", False)
        line = f"Global{kind.capitalize()}Pooling1D"
        return reading.only(GlobalPool(kind, keep), (1, channels) if keep else (channels,), line)

    return read


# Shapes


def _read_flatten(reading: Reading) -> Read:
    _require(reading.config, data_format="channels_last")
    shape = reading.input.shape
    if len(shape) == 1:
        return reading.nothing("Flatten")
    return reading.only(Flatten(math.prod(shape[:-1])), (math.prod(shape),), "Flatten")


def _read_reshape(reading: Reading) -> Read:
    target, size = reading.config["target_shape"], math.prod(reading.input.shape)
    if not all(isinstance(side, int) and (side > 0 or side == -1) for side in target) or list(target).count(-1) > 1:
        raise Unsupported(f"target_shape={target!r}")
    known = math.prod(side for side in target if side != -1)
    shape = tuple(size // known if side == -1 else side for side in target)
    if math.prod(shape) != size or len(shape) > 4:
        raise Unsupported(f"target_shape={target!r} of an input {reading.input.shape}")
    return reading.only(Reshape(shape), shape, f"Reshape{shape}")


def _read_permute(reading: Reading) -> Read:
    dims, shape = reading.config["dims"], reading.input.shape
    if sorted(dims) != [*range(1, len(shape) + 1)]:
        raise Unsupported(f"dims={dims!r} of an input {shape}")
    axes = tuple(one - 1 for one in dims)
    return reading.only(Permute(axes), tuple(shape[one] for one in axes), f"Permute{tuple(dims)}")


def _both_ends(reading: Reading, key: str) -> tuple[int, int]:
    value = reading.config.get(key)
    ends = [value, value] if isinstance(value, int) else value
    if not isinstance(ends, list | tuple) or len(ends) != 2:
        raise Unsupported(f"{key}={value!r}")
    before, after = (_natural({key: end}, key, least=0) for end in ends)
    return before, after


def _read_zero_padding(reading: Reading) -> Read:
    _require(reading.config, data_format="channels_last")
    steps, channels = reading.sequence()
    before, after = _both_ends(reading, "padding")
    return reading.only(Pad(before, after), (before + steps + after, channels), f"ZeroPadding1D({before}, {after})")


def _read_cropping(reading: Reading) -> Read:
    steps, channels = reading.sequence()
    before, after = _both_ends(reading, "cropping")
    return reading.only(Crop(before, after), (steps - before - after, channels), f"Cropping1D({before}, {after})")


def _read_up_sampling(reading: Reading) -> Read:
    steps, channels = reading.sequence()
    times = _natural(reading.config, "size", default=2)
    return reading.only(Repeat(times), (steps * times, channels), f"UpSampling1D({times})")


def _read_repeat_vector(reading: Reading) -> Read:
    shape, times = reading.input.shape, _natural(reading.config, "n")
    if len(shape) != 1:
        raise Unsupported(f"its input {shape} is no vector")
    add = reading.building.add
    at = add(Reshape((1, *shape)), [reading.input], (1, *shape))
    return Read([add(Repeat(times), [at], (times, *shape))], f"RepeatVector({times})")


# Merges


def _read_merge(kind: MergeKind) -> "Reader":
    def read(reading: Reading) -> Read:
        if kind == "subtract" and len(reading.inputs) != 2:
            raise Unsupported(f"it takes {len(reading.inputs)} inputs, expected two")
        return Read([merged(reading.building, kind, reading.inputs)], kind.capitalize())

    return read


def merged(building: Building, kind: MergeKind, inputs: Sequence[Tensor]) -> Tensor:
    if len(inputs) < 2:
        raise Unsupported(f"it takes {len(inputs)} inputs, expected two or more")
    rank = max(len(tensor.shape) for tensor in inputs)
    shapes = [(1,) * (rank - len(tensor.shape)) + tensor.shape for tensor in inputs]
    try:
        shape = np.broadcast_shapes(*shapes)
    except ValueError:
        raise Unsupported(f"inputs {', '.join(str(tensor.shape) for tensor in inputs)} do not fit together") from None
    return building.add(Merge(kind), inputs, shape)


def _read_concatenate(reading: Reading) -> Read:
    shapes = [tensor.shape for tensor in reading.inputs]
    axis, rank = reading.config.get("axis", -1), len(shapes[0]) if shapes else 0
    at = axis + rank if isinstance(axis, int) and axis < 0 else axis - 1 if isinstance(axis, int) else -1
    if not 0 <= at < rank:
        raise Unsupported(f"axis={axis!r} of inputs {shapes}")
    if any(
        len(shape) != rank or shape[:at] + shape[at + 1 :] != shapes[0][:at] + shapes[0][at + 1 :] for shape in shapes
    ):
        raise Unsupported(f"inputs {', '.join(map(str, shapes))} do not fit together")
    if len(shapes) == 1:
        return reading.nothing("Concatenate")
    shape = (*shapes[0][:at], sum(shape[at] for shape in shapes), *shapes[0][at + 1 :])
    return Read([reading.building.add(Concatenate(at), reading.inputs, shape)], "Concatenate")


# Recurrences


def _cell(kind: str, config: Config, shape: tuple[int, int], weights: Weights, below: str) -> tuple[Cell, int]:
    """With its units. shape: (steps, channels) of its input."""
    steps, channels = shape
    _require(config, stateful=False, return_state=False, time_major=False)
    fused = kind == "LSTM" and (config.get("activation"), config.get("recurrent_activation")) == ("tanh", "sigmoid")
    if steps > _UNROLLED_STEPS_MAX and not fused:
        raise Unsupported(f"{steps} steps, each of which needs operators of its own; at most {_UNROLLED_STEPS_MAX}")
    units, use_bias = _natural(config, "units"), config.get("use_bias", True)
    activation = _activation(config, default="tanh")
    gate = "sigmoid" if kind == "SimpleRNN" else _activation(config, "recurrent_activation", "sigmoid")
    if "softmax" in (activation, gate):
        raise Unsupported("activation='softmax'")
    gates = {"LSTM": 4, "GRU": 3, "SimpleRNN": 1}[kind]
    width = gates * units
    reset_after = kind == "GRU" and bool(config.get("reset_after", True))
    shapes: dict[str, Shape] = {"kernel": (channels, width), "recurrent_kernel": (units, width)}
    if use_bias:
        shapes["bias"] = (2, width) if reset_after else (width,)
    kernel, recurrent, *given = weights.take(shapes, f"{below}cell/")
    bias = given[0] if given else np.zeros((2, width) if reset_after else width)
    if kind == "LSTM":
        return LstmCell(kernel, recurrent, bias, activation, gate), units
    if kind == "GRU":
        own, inner = (bias[0], bias[1]) if reset_after else (bias, None)
        return GruCell(kernel, recurrent, own, inner, activation, gate), units
    return SimpleCell(kernel, recurrent, bias, activation), units


def _recurrent_line(kind: str, config: Config) -> str:
    parts = [str(config["units"])]
    parts += ["sequences"] if config.get("return_sequences") else []
    parts += ["go_backwards"] if config.get("go_backwards") else []
    return f"{kind}({', '.join(parts)})"


def _read_recurrent(kind: str) -> "Reader":
    def read(reading: Reading) -> Read:
        steps, channels = reading.sequence()
        sequences, reverse = reading.flag("return_sequences", False), reading.flag("go_backwards", False)
        cell, units = _cell(kind, reading.config, (steps, channels), reading.weights, "")
        shape = (steps, units) if sequences else (units,)
        return reading.only(Recurrent(cell, None, sequences, reverse), shape, _recurrent_line(kind, reading.config))

    return read


_UNROLLED_STEPS_MAX = 2048
"""A minute at 34 Hz; each step is some 11 operators."""
_RECURRENT = ("LSTM", "GRU", "SimpleRNN")
_MERGE_MODES: dict[str, MergeKind] = {"sum": "add", "mul": "multiply", "ave": "average"}


def _read_bidirectional(reading: Reading) -> Read:
    steps, channels = reading.sequence()
    mode = reading.config.get("merge_mode", "concat")
    if mode not in (None, "concat", *_MERGE_MODES):
        raise Unsupported(f"merge_mode={mode!r}")
    entries = [reading.config["layer"], reading.config.get("backward_layer") or reading.config["layer"]]
    for inner in entries:
        if inner["class_name"] not in _RECURRENT:
            raise Unsupported(f"wraps {inner['class_name']}, expected {', '.join(_RECURRENT)}")
        check_plain(inner)
    configs = [entry["config"] for entry in entries]
    sequences = configs[0].get("return_sequences", False)
    _require(configs[1], return_sequences=sequences)
    ways = [bool(configs[0].get("go_backwards", False))]
    given = reading.config.get("backward_layer") is not None
    ways.append(bool(configs[1].get("go_backwards", False)) if given else not ways[0])
    if ways[0] == ways[1]:
        raise Unsupported("both of its layers read the sequence in the same direction")
    read = [
        _cell(entry["class_name"], config, (steps, channels), reading.weights, below)
        for entry, config, below in zip(entries, configs, ("forward_layer/", "backward_layer/"), strict=True)
    ]
    (forward, forward_units), (backward, backward_units) = read
    line = f"Bidirectional({_recurrent_line(entries[0]['class_name'], configs[0])}"
    line += ")" if mode == "concat" else f", {mode})"
    width = forward_units + backward_units
    if mode == "concat" and not ways[0]:
        both = Recurrent(forward, backward, bool(sequences))
        return reading.only(both, (steps, width) if sequences else (width,), line)
    add, outputs = reading.building.add, []
    shape: Shape
    for (cell, units), way in zip(read, ways, strict=True):
        shape = (steps, units) if sequences else (units,)
        outputs.append(add(Recurrent(cell, None, bool(sequences), way), [reading.input], shape))
    if sequences:  # Keras turns the second one round, whichever way it read
        outputs[1] = add(Reverse(), [outputs[1]], outputs[1].shape)
    if mode is None:
        return Read(outputs, line)
    if mode == "concat":
        shape = (*outputs[0].shape[:-1], width)
        return Read([add(Concatenate(len(shape) - 1), outputs, shape)], line)
    if forward_units != backward_units:
        raise Unsupported(f"merge_mode={mode!r} of {forward_units} and {backward_units} units")
    return Read([merged(reading.building, _MERGE_MODES[mode], outputs)], line)


def _read_time_distributed(reading: Reading) -> Read:
    """The inner layer is read for one step; what it becomes computes on the last axes, so all steps go through it."""
    inner, (steps, *shape) = reading.config["layer"], reading.input.shape
    if inner["class_name"] not in READERS or inner["class_name"] in _NOT_EACH_STEP:
        raise Unsupported(f"wraps {inner['class_name']}")
    check_plain(inner)
    if not shape:
        raise Unsupported(f"its input {reading.input.shape} has no steps")
    one = Building()
    below = _Below(reading.weights, "layer/")
    read = READERS[inner["class_name"]](Reading(reading.name, inner["config"], [Tensor(-1, tuple(shape))], below, one))
    at = reading.input
    for (layer, _), own in zip(one.layers, one.shapes, strict=True):
        at = reading.building.add(_each_step(layer, steps, own), [at], (steps, *own))
    return Read([at], f"TimeDistributed({read.line})")


_NOT_EACH_STEP = ("InputLayer", "TimeDistributed", "Bidirectional", "LSTM", "GRU", "SimpleRNN", "PReLU")


def _each_step(layer: Layer, steps: int, shape: Shape) -> Layer:
    """The layer with one more axis before those that it knows. shape: of its output for one step."""
    match layer:
        case Flatten() | Reshape():
            return Reshape((steps, *shape))
        case LayerNorm():
            axes = tuple(axis + 1 for axis in layer.axes)
            return LayerNorm(axes, layer.epsilon, layer.scale[np.newaxis], layer.shift[np.newaxis])
        case Affine() | Dense() | Activate() | Conv1d() | Depthwise1d() | Pool() | GlobalPool():
            return layer
    raise Unsupported(f"its layer becomes a {type(layer).__name__}, which takes one sequence")


@dataclass(frozen=True, slots=True)
class _Below:
    weights: Weights
    prefix: str

    def take(self, shapes: Mapping[str, Shape], below: str = "") -> list[Float64]:
        return self.weights.take(shapes, self.prefix + below)


Reader = Callable[[Reading], Read]

READERS: dict[str, Reader] = {
    "InputLayer": _read_input,
    "Conv1D": _read_conv1d,
    "SeparableConv1D": _read_separable,
    "DepthwiseConv1D": _read_depthwise,
    "Dense": _read_dense,
    "LSTM": _read_recurrent("LSTM"),
    "GRU": _read_recurrent("GRU"),
    "SimpleRNN": _read_recurrent("SimpleRNN"),
    "Bidirectional": _read_bidirectional,
    "TimeDistributed": _read_time_distributed,
    "BatchNormalization": _read_batch_normalization,
    "LayerNormalization": _read_layer_normalization,
    "Dropout": _read_dropout("Dropout", "rate"),
    "SpatialDropout1D": _read_dropout("SpatialDropout1D", "rate"),
    "GaussianDropout": _read_dropout("GaussianDropout", "rate"),
    "AlphaDropout": _read_dropout("AlphaDropout", "rate"),
    "GaussianNoise": _read_dropout("GaussianNoise", "stddev"),
    "ActivityRegularization": _read_dropout("ActivityRegularization", None),
    "Activation": _read_activation,
    "ReLU": _read_relu,
    "LeakyReLU": _read_leaky_relu,
    "PReLU": _read_prelu,
    "ELU": _read_elu,
    "Softmax": _read_softmax,
    "MaxPooling1D": _read_pool("max"),
    "AveragePooling1D": _read_pool("average"),
    "GlobalMaxPooling1D": _read_global_pool("max"),
    "GlobalAveragePooling1D": _read_global_pool("average"),
    "Flatten": _read_flatten,
    "Reshape": _read_reshape,
    "Permute": _read_permute,
    "ZeroPadding1D": _read_zero_padding,
    "Cropping1D": _read_cropping,
    "UpSampling1D": _read_up_sampling,
    "RepeatVector": _read_repeat_vector,
    "Add": _read_merge("add"),
    "Subtract": _read_merge("subtract"),
    "Multiply": _read_merge("multiply"),
    "Average": _read_merge("average"),
    "Maximum": _read_merge("maximum"),
    "Minimum": _read_merge("minimum"),
    "Concatenate": _read_concatenate,
}
