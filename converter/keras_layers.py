"""Each Keras layer: its configuration and weights to the converter's layers.

What a layer computes is written down in its class under keras/src/layers; here and in the modules beside stands which
settings of it the converter knows. A setting that is not known is refused, never passed over.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from converter.keras_attention import read_additive_attention, read_attention, read_multi_head_attention
from converter.keras_convolution import (
    read_convolution,
    read_dense,
    read_depthwise,
    read_global_pool,
    read_pool,
    read_separable,
    read_transposed,
)
from converter.keras_merging import read_concatenate, read_dot, read_merge
from converter.keras_normalization import (
    read_batch_normalization,
    read_group_normalization,
    read_layer_normalization,
    read_normalization,
    read_rescaling,
    read_rms_normalization,
    read_unit_normalization,
)
from converter.keras_operations import resolved
from converter.keras_reading import (
    ACTIVATION_LAYERS,
    NO_CODE_RUNS,
    Building,
    Config,
    Read,
    Reader,
    Reading,
    Tensor,
    Unsupported,
    Weights,
    activation,
    axes,
    check_own,
    is_foreign,
    natural,
    naturals,
    require,
)
from converter.keras_recurrence import read_bidirectional, read_cells, read_recurrent
from converter.layers import (
    Activate,
    Concatenate,
    Crop,
    Flatten,
    Float64,
    Layer,
    LayerNorm,
    Merge,
    MergeConstant,
    Pad,
    Pair,
    Permute,
    Prelu,
    Recurrent,
    Reduce,
    Repeat,
    Reshape,
    Reverse,
    Shape,
    UnitNorm,
)

_REFUSED = {
    "Masking": "steps that are left out would need every layer after it to know which; cut the window before the model",
    "Lambda": "its code is in the file, and the converter runs none",
    "TFSMLayer": "its code is in another file, and the converter runs none",
}
"""Why, of layers that people may expect."""


def check_plain(entry: Config) -> None:
    """Raises Unsupported for what is no layer of Keras itself, or computes in another type than float32."""
    kind = entry["class_name"]
    if kind not in READERS:
        hint = NO_CODE_RUNS if kind == "Lambda" or is_foreign(entry) else None
        raise Unsupported("not supported" + (f": {_REFUSED[kind]}" if kind in _REFUSED else ""), hint)
    check_own(entry)


# Nothing at inference


def _read_input(reading: Reading) -> Read:
    return reading.nothing(f"Input{reading.input.shape}")


def _read_nothing(kind: str, key: str | None = None) -> Reader:
    def read(reading: Reading) -> Read:
        return reading.nothing(f"{kind}({reading.config.get(key)})" if key else kind)

    return read


# Activations


def _read_activation(reading: Reading) -> Read:
    found = activation(reading.config)
    made = reading.input if found.activation == "linear" else reading.building.alike(found, reading.input)
    return Read([made], f"Activation({found.activation})")


def _read_activation_layer(kind: str) -> Reader:
    def read(reading: Reading) -> Read:
        layer = ACTIVATION_LAYERS[kind](reading.config)
        shown = {"ReLU": layer.ceiling, "LeakyReLU": layer.slope, "ELU": layer.alpha}[kind]
        return reading.only(layer, reading.input.shape, kind if shown is None else f"{kind}({shown:g})")

    return read


def _read_prelu(reading: Reading) -> Read:
    shape, shared = reading.input.shape, reading.config.get("shared_axes") or []
    own = tuple(1 if axis + 1 in shared else side for axis, side in enumerate(shape))
    (slope,) = reading.weights.take({"alpha": own})
    return reading.only(Prelu(slope), shape, "PReLU")


def _read_softmax(reading: Reading) -> Read:
    """Over one axis, or over several as over one."""
    building, shape, at = reading.building, reading.input.shape, reading.input
    over = axes(reading.config, shape)
    others = [one for one in range(len(shape)) if one not in over]
    order = [*others, *over]
    turned = building.permuted(at, order)
    flat = building.reshaped(turned, (*(shape[one] for one in others), math.prod(shape[one] for one in over)))
    at = building.reshaped(building.alike(Activate("softmax"), flat), turned.shape)
    made = building.permuted(at, [order.index(one) for one in range(len(shape))])
    last = over == (len(shape) - 1,)
    return Read([made], "Softmax" if last else f"Softmax(axis={reading.config['axis']})")


# Shapes


def _read_flatten(reading: Reading) -> Read:
    require(reading.config, data_format="channels_last")
    shape = reading.input.shape
    if len(shape) == 1:
        return reading.nothing("Flatten")
    return reading.only(Flatten(math.prod(shape[:-1])), (math.prod(shape),), "Flatten")


def _read_reshape(reading: Reading) -> Read:
    target = reading.config["target_shape"]
    shape = resolved(target, reading.input, "target_shape", target)
    return reading.only(Reshape(shape), shape, f"Reshape{shape}")


def _read_permute(reading: Reading) -> Read:
    dims, shape = reading.config["dims"], reading.input.shape
    if sorted(dims) != [*range(1, len(shape) + 1)]:
        raise Unsupported(f"dims={dims!r} of an input {shape}")
    turned = tuple(one - 1 for one in dims)
    return reading.only(Permute(turned), tuple(shape[one] for one in turned), f"Permute{tuple(dims)}")


def _ends(config: Config, key: str, dims: int) -> tuple[Pair, ...]:
    """For each axis what stands before and after."""
    value = config.get(key)
    each = value if isinstance(value, list | tuple) and dims > 1 else [value] * dims
    found = []
    for one in each:
        ends = [one, one] if isinstance(one, int) else one
        if not isinstance(ends, list | tuple) or len(ends) != 2 or len(each) != dims:
            raise Unsupported(f"{key}={value!r}")
        before, after = (natural({key: end}, key, least=0) for end in ends)
        found.append((before, after))
    return tuple(found)


def _read_ends(kind: str, dims: int) -> Reader:
    """ZeroPadding and Cropping: an axis after the other."""
    pads = kind == "ZeroPadding"
    key, sign = ("padding", 1) if pads else ("cropping", -1)

    def read(reading: Reading) -> Read:
        require(reading.config, data_format="channels_last")
        shape = list(reading.sequence() if dims == 1 else reading.image())
        at, ends = reading.input, _ends(reading.config, key, dims)
        for axis, (before, after) in enumerate(ends):
            shape[axis] += sign * (before + after)
            layer = Pad(before, after, axis) if pads else Crop(before, after, axis)
            at = reading.building.add(layer, [at], tuple(shape)) if before or after else at
        return Read([at], f"{kind}{dims}D({', '.join(f'{one}, {other}' for one, other in ends)})")

    return read


def _read_up_sampling(dims: int) -> Reader:
    def read(reading: Reading) -> Read:
        require(reading.config, data_format="channels_last", interpolation="nearest")
        shape = list(reading.sequence() if dims == 1 else reading.image())
        at, sizes = reading.input, naturals(reading.config, "size", dims, default=2)
        for axis, times in enumerate(sizes):
            shape[axis] *= times
            at = reading.building.add(Repeat(times, axis), [at], tuple(shape)) if times > 1 else at
        return Read([at], f"UpSampling{dims}D({', '.join(map(str, sizes))})")

    return read


def _read_repeat_vector(reading: Reading) -> Read:
    shape, times = reading.input.shape, natural(reading.config, "n")
    if len(shape) != 1:
        raise Unsupported(f"its input {shape} is no vector")
    add = reading.building.add
    at = add(Reshape((1, *shape)), [reading.input], (1, *shape))
    return Read([add(Repeat(times), [at], (times, *shape))], f"RepeatVector({times})")


# The same for each step


def _read_time_distributed(reading: Reading) -> Read:
    """The inner layer is read for one step."""
    inner, below = reading.config["layer"], _Below(reading.weights, "layer/")
    if inner["class_name"] not in READERS or inner["class_name"] in ("InputLayer", "TimeDistributed"):
        raise Unsupported(f"wraps {inner['class_name']}")
    check_plain(inner)
    one = Building()
    given = Tensor(-1, one_step(reading.input))
    read = READERS[inner["class_name"]](Reading(reading.name, inner["config"], [given], below, one))
    made = for_each_step(reading.building, reading.input, one, read.outputs)
    return Read(made, f"TimeDistributed({read.line})")


def one_step(at: Tensor) -> Shape:
    if len(at.shape) < 2:
        raise Unsupported(f"its input {at.shape} has no steps")
    return at.shape[1:]


def for_each_step(building: Building, at: Tensor, inner: Building, outputs: list[Tensor]) -> list[Tensor]:
    """What was built for one step (-1), built for all steps of `at`: with one more axis before the others."""
    steps, tensors = at.shape[0], {-1: at}
    for number, ((layer, inputs), shape) in enumerate(zip(inner.layers, inner.shapes, strict=True)):
        given = [tensors[one] for one in inputs]
        if isinstance(layer, Merge) and len({len(one.shape) for one in given}) > 1:
            raise Unsupported("it puts tensors of different ranks together for each step")
        tensors[number] = building.add(_each_step(layer, steps, shape), given, (steps, *shape))
    return [tensors[one.index] for one in outputs]


def _each_step(layer: Layer, steps: int, shape: Shape) -> Layer:
    """The layer with one more axis before those that it knows. shape: of its output for one step."""
    match layer:
        case Flatten() | Reshape():
            return Reshape((steps, *shape))
        case LayerNorm():
            wider = tuple(axis + 1 for axis in layer.axes)
            return replace(layer, axes=wider, scale=layer.scale[None], shift=layer.shift[None])
        case UnitNorm() | Reduce():
            return replace(layer, axes=tuple(axis + 1 for axis in layer.axes))
        case Permute():
            return Permute((0, *(axis + 1 for axis in layer.axes)))
        case Pad() | Crop() | Repeat() | Reverse() | Concatenate():
            return replace(layer, axis=layer.axis + 1)
        case Prelu():
            return Prelu(layer.slope[None])
        case MergeConstant():
            return replace(layer, values=layer.values[None])
        case Recurrent():
            raise Unsupported("it wraps a recurrence, which takes one sequence")
    return layer  # what computes on the last axes takes any before them


@dataclass(frozen=True, slots=True)
class _Below:
    weights: Weights
    prefix: str

    def take(self, shapes: Mapping[str, Shape], below: str = "") -> list[Float64]:
        return self.weights.take(shapes, self.prefix + below)


READERS: dict[str, Reader] = {
    "InputLayer": _read_input,
    "Conv1D": read_convolution(1),
    "SeparableConv1D": read_separable(1),
    "DepthwiseConv1D": read_depthwise(1),
    "Conv1DTranspose": read_transposed,
    "Conv2D": read_convolution(2),
    "SeparableConv2D": read_separable(2),
    "DepthwiseConv2D": read_depthwise(2),
    "Dense": read_dense,
    "LSTM": read_recurrent("LSTM"),
    "GRU": read_recurrent("GRU"),
    "SimpleRNN": read_recurrent("SimpleRNN"),
    "RNN": read_cells,
    "Bidirectional": read_bidirectional,
    "TimeDistributed": _read_time_distributed,
    "MultiHeadAttention": read_multi_head_attention,
    "Attention": read_attention,
    "AdditiveAttention": read_additive_attention,
    "BatchNormalization": read_batch_normalization,
    "LayerNormalization": read_layer_normalization,
    "GroupNormalization": read_group_normalization,
    "RMSNormalization": read_rms_normalization,
    "UnitNormalization": read_unit_normalization,
    "Normalization": read_normalization,
    "Rescaling": read_rescaling,
    "Dropout": _read_nothing("Dropout", "rate"),
    "SpatialDropout1D": _read_nothing("SpatialDropout1D", "rate"),
    "SpatialDropout2D": _read_nothing("SpatialDropout2D", "rate"),
    "GaussianDropout": _read_nothing("GaussianDropout", "rate"),
    "AlphaDropout": _read_nothing("AlphaDropout", "rate"),
    "GaussianNoise": _read_nothing("GaussianNoise", "stddev"),
    "ActivityRegularization": _read_nothing("ActivityRegularization"),
    "Identity": _read_nothing("Identity"),
    "Activation": _read_activation,
    "ReLU": _read_activation_layer("ReLU"),
    "LeakyReLU": _read_activation_layer("LeakyReLU"),
    "PReLU": _read_prelu,
    "ELU": _read_activation_layer("ELU"),
    "Softmax": _read_softmax,
    "MaxPooling1D": read_pool("max", 1),
    "AveragePooling1D": read_pool("average", 1),
    "MaxPooling2D": read_pool("max", 2),
    "AveragePooling2D": read_pool("average", 2),
    "GlobalMaxPooling1D": read_global_pool("max", 1),
    "GlobalAveragePooling1D": read_global_pool("average", 1),
    "GlobalMaxPooling2D": read_global_pool("max", 2),
    "GlobalAveragePooling2D": read_global_pool("average", 2),
    "Flatten": _read_flatten,
    "Reshape": _read_reshape,
    "Permute": _read_permute,
    "ZeroPadding1D": _read_ends("ZeroPadding", 1),
    "ZeroPadding2D": _read_ends("ZeroPadding", 2),
    "Cropping1D": _read_ends("Cropping", 1),
    "Cropping2D": _read_ends("Cropping", 2),
    "UpSampling1D": _read_up_sampling(1),
    "UpSampling2D": _read_up_sampling(2),
    "RepeatVector": _read_repeat_vector,
    "Add": read_merge("add"),
    "Subtract": read_merge("subtract"),
    "Multiply": read_merge("multiply"),
    "Average": read_merge("average"),
    "Maximum": read_merge("maximum"),
    "Minimum": read_merge("minimum"),
    "Concatenate": read_concatenate,
    "Dot": read_dot,
}
