"""What a functional model computes between layers: `x + y`, `0.5 * x`, `x[:, -1]`, keras.ops.mean(x, axis=1) ...

Each is saved with the name of its class under keras/src/ops, its settings, and what it was called with.
"""

import math
from collections.abc import Callable, Mapping
from types import EllipsisType
from typing import Any

import numpy as np

from converter.keras_merging import concatenated, merged
from converter.keras_normalization import scaled
from converter.keras_reading import (
    ACTIVATION_LAYERS,
    Building,
    Config,
    Read,
    Reading,
    Tensor,
    Unsupported,
    axes,
    axis,
    natural,
    number,
    require,
)
from converter.layers import (
    Activate,
    Activation,
    Apply,
    Crop,
    CropChannels,
    Dense,
    Float64,
    Function,
    MatMul,
    MergeConstant,
    MergeKind,
    Reduce,
    Reduction,
    Repeat,
    Reverse,
    UnitNorm,
)

_NOT_SUPPORTED = "an operation between tensors that is not supported; put a layer in its place"
_DEFAULT_EPSILON = 1e-7

_MERGES: dict[str, MergeKind] = {
    "Add": "add",
    "Subtract": "subtract",
    "Multiply": "multiply",
    "Divide": "divide",
    "TrueDivide": "divide",
    "Maximum": "maximum",
    "Minimum": "minimum",
}
_FUNCTIONS: dict[str, Function] = {
    "Negative": "negative",
    "Absolute": "absolute",
    "Abs": "absolute",
    "Square": "square",
    "Sqrt": "sqrt",
    "Rsqrt": "rsqrt",
    "Exp": "exp",
    "Log": "log",
}
_POWERS: dict[float, Function] = {2.0: "square", 0.5: "sqrt", -0.5: "rsqrt"}
_ACTIVATIONS: dict[str, Activation] = {
    "Relu": "relu",
    "Relu6": "relu6",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "Silu": "silu",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "Selu": "selu",
    "HardSigmoid": "hard_sigmoid",
    "HardSilu": "hard_silu",
    "HardTanh": "hard_tanh",
    "LogSigmoid": "log_sigmoid",
    "TanhShrink": "tanh_shrink",
    "SparsePlus": "sparse_plus",
    "SparseSigmoid": "sparse_sigmoid",
    "Mish": "mish",
}
_REDUCTIONS: dict[str, Reduction] = {"Mean": "mean", "Sum": "sum", "Max": "max", "Min": "min"}


def is_operation(entry: Config) -> bool:
    """Whether an entry of a functional configuration is no layer, but an operation of Keras itself."""
    return str(entry.get("module", "")).startswith(("keras.src.ops.", "keras.src.activations."))


def read_operation(kind: str, reading: Reading) -> Read:
    if reading.options:
        raise Unsupported(f"{_NOT_SUPPORTED} (called with {', '.join(sorted(reading.options))})")
    return Read(_operation(kind, reading), _line(kind, reading))


def _line(kind: str, reading: Reading) -> str:
    numbers = [f"{one:g}" for one in reading.arguments if isinstance(one, int | float)]
    return f"{kind}({', '.join(numbers)})" if numbers else kind


def _operation(kind: str, reading: Reading) -> list[Tensor]:
    building, config = reading.building, reading.config
    if kind in _MERGES:
        return [_merge(_MERGES[kind], reading)]
    if kind == "Power":
        return [_power(reading)]
    if kind in ("Concatenate", "Stack"):
        return [_joined(kind, reading)]
    if kind == "Matmul":
        return [_product(reading)]
    if kind == "GetItem":
        return [_part(reading)]
    if len(reading.arguments) != 1:
        raise Unsupported(_NOT_SUPPORTED)
    at = reading.input
    if kind in _FUNCTIONS:
        return [building.alike(Apply(_FUNCTIONS[kind]), at)]
    if kind in _ACTIVATIONS:
        return [building.alike(Activate(_ACTIVATIONS[kind]), at)]
    if kind in _REDUCTIONS:
        require(config, initial=None)
        return [_reduced(building, _REDUCTIONS[kind], at, _axes(config, at), keep=reading.flag("keepdims", False))]
    if kind in _OTHERS:
        return [_OTHERS[kind](building, at, config)]
    raise Unsupported(_NOT_SUPPORTED)


# With one tensor


def _axes(config: Config, at: Tensor) -> tuple[int, ...]:
    if config.get("axis") is None:
        raise Unsupported("axis=None is over the batch too")
    return axes(config, at.shape)


def _reduced(building: Building, kind: Reduction, at: Tensor, over: tuple[int, ...], *, keep: bool) -> Tensor:
    shape = tuple(1 if one in over else side for one, side in enumerate(at.shape) if keep or one not in over)
    return building.add(Reduce(kind, over, keep), [at], shape)


def _variance(building: Building, at: Tensor, config: Config) -> Tensor:
    over, keep = _axes(config, at), bool(config.get("keepdims", False))
    centred = merged(building, "subtract", [at, _reduced(building, "mean", at, over, keep=True)])
    return _reduced(building, "mean", building.alike(Apply("square"), centred), over, keep=keep)


def _deviation(building: Building, at: Tensor, config: Config) -> Tensor:
    return building.alike(Apply("sqrt"), _variance(building, at, config))


def _gelu(building: Building, at: Tensor, config: Config) -> Tensor:
    return building.alike(Apply("gelu_tanh") if config.get("approximate", True) else Activate("gelu"), at)


def _relu(building: Building, at: Tensor, config: Config) -> Tensor:
    return building.alike(ACTIVATION_LAYERS["ReLU"](config), at)


def _leaky_relu(building: Building, at: Tensor, config: Config) -> Tensor:
    return building.alike(Activate("leaky_relu", slope=number(config, "negative_slope", 0.2)), at)


def _elu(building: Building, at: Tensor, config: Config) -> Tensor:
    return building.alike(Activate("elu", alpha=number(config, "alpha", 1.0)), at)


def _softmax(activation: Activation) -> Callable[[Building, Tensor, Config], Tensor]:
    def read(building: Building, at: Tensor, config: Config) -> Tensor:
        own = axis(config, at.shape)
        return building.on_last_axis(at, own, lambda turned: building.alike(Activate(activation), turned))

    return read


def _clip(building: Building, at: Tensor, config: Config) -> Tensor:
    low, high = (np.full((1,) * len(at.shape), number(config, key, math.nan)) for key in ("x_min", "x_max"))
    return building.alike(MergeConstant("minimum", high), building.alike(MergeConstant("maximum", low), at))


def _reshape(building: Building, at: Tensor, config: Config) -> Tensor:
    batch, *sides = config["newshape"]
    if batch not in (-1, None):
        raise Unsupported(f"newshape={config['newshape']!r}, expected -1 for the batch")
    return building.reshaped(at, resolved(sides, at, "newshape", config["newshape"]))


def resolved(sides: Any, at: Tensor, key: str, given: Any) -> tuple[int, ...]:
    """A shape without the batch in which one side may be -1: what is left for it."""
    size = math.prod(at.shape)
    whole = all(isinstance(side, int) and not isinstance(side, bool) and (side > 0 or side == -1) for side in sides)
    if not whole or list(sides).count(-1) > 1:
        raise Unsupported(f"{key}={given!r}")
    known = math.prod(side for side in sides if side != -1)
    shape = tuple(size // known if side == -1 else side for side in sides)
    if math.prod(shape) != size:
        raise Unsupported(f"{key}={given!r} of an input {at.shape}")
    return shape


def _transpose(building: Building, at: Tensor, config: Config) -> Tensor:
    order = config.get("axes")
    if not isinstance(order, list | tuple) or sorted(order) != [*range(len(at.shape) + 1)] or order[0] != 0:
        raise Unsupported(f"axes={order!r} of an input {at.shape}")
    return building.permuted(at, [one - 1 for one in order[1:]])


def _swap(building: Building, at: Tensor, config: Config) -> Tensor:
    first, second = (axis(config, at.shape, key, None) for key in ("axis1", "axis2"))
    order = [*range(len(at.shape))]
    order[first], order[second] = second, first
    return building.permuted(at, order)


def _expand(building: Building, at: Tensor, config: Config) -> Tensor:
    own = axis(config, (*at.shape, 1), default=None)
    return building.reshaped(at, (*at.shape[:own], 1, *at.shape[own:]))


def _squeeze(building: Building, at: Tensor, config: Config) -> Tensor:
    over = _axes(config, at)
    if any(at.shape[one] != 1 for one in over):
        raise Unsupported(f"axis={config['axis']!r} of an input {at.shape}")
    return building.reshaped(at, tuple(side for one, side in enumerate(at.shape) if one not in over))


def _flip(building: Building, at: Tensor, config: Config) -> Tensor:
    for own in _axes(config, at):
        if own == len(at.shape) - 1:
            raise Unsupported(f"axis={config['axis']!r}, the channels")
        at = building.alike(Reverse(own), at)
    return at


def _repeat(building: Building, at: Tensor, config: Config) -> Tensor:
    times = natural(config, "repeats")
    own = axis(config, at.shape, default=None)
    if own == len(at.shape) - 1:
        raise Unsupported(f"axis={config['axis']!r}, the channels")
    return building.add(Repeat(times, own), [at], (*at.shape[:own], at.shape[own] * times, *at.shape[own + 1 :]))


def _cast(_building: Building, at: Tensor, config: Config) -> Tensor:
    require(config, dtype="float32")
    return at


def _normalize(building: Building, at: Tensor, config: Config) -> Tensor:
    require(config, order=2)
    epsilon = _DEFAULT_EPSILON if config.get("epsilon") is None else number(config, "epsilon", 0.0)
    if epsilon <= 0:
        raise Unsupported(f"epsilon={epsilon}")
    return building.alike(UnitNorm(_axes(config, at), epsilon), at)


_OTHERS: Mapping[str, Callable[[Building, Tensor, Config], Tensor]] = {
    "Var": _variance,
    "Std": _deviation,
    "Gelu": _gelu,
    "ReLU": _relu,
    "LeakyRelu": _leaky_relu,
    "Elu": _elu,
    "Softmax": _softmax("softmax"),
    "LogSoftmax": _softmax("log_softmax"),
    "Clip": _clip,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Swapaxes": _swap,
    "ExpandDims": _expand,
    "Squeeze": _squeeze,
    "Flip": _flip,
    "Repeat": _repeat,
    "Cast": _cast,
    "Normalize": _normalize,
}


# With another tensor, a number or an array


def _constant(value: Any, at: Tensor) -> Float64:
    """A number or an array that is laid over a tensor, without the batch."""
    values = np.asarray(value, np.float64)
    if values.ndim == len(at.shape) + 1 and values.shape[0] == 1:
        values = values[0]
    if values.ndim > len(at.shape) or not np.isfinite(values).all():
        raise Unsupported(f"{_NOT_SUPPORTED} (an array {values.shape} with a tensor {at.shape})")
    return values.reshape((1,) * (len(at.shape) - values.ndim) + values.shape)


def _is_constant(value: Any) -> bool:
    return isinstance(value, int | float | np.ndarray) and not isinstance(value, bool)


def _merge(kind: MergeKind, reading: Reading) -> Tensor:
    building = reading.building
    match reading.arguments:
        case [Tensor() as first, Tensor() as second] if len(first.shape) == len(second.shape):
            return merged(building, kind, [first, second])
        case [Tensor() as at, value] if _is_constant(value):
            return _with_constant(kind, reading, at, value, first=False)
        case [value, Tensor() as at] if _is_constant(value):
            return _with_constant(kind, reading, at, value, first=True)
    raise Unsupported(_NOT_SUPPORTED)


def _with_constant(kind: MergeKind, reading: Reading, at: Tensor, value: Any, *, first: bool) -> Tensor:
    values = _constant(value, at)
    shape = np.broadcast_shapes(at.shape, values.shape)
    zero, one = np.zeros((1,) * len(shape)), np.ones((1,) * len(shape))
    if shape == at.shape:
        match kind:
            case "add":
                return scaled(reading, at, one, values)
            case "subtract":
                return scaled(reading, at, -one if first else one, values if first else -values)
            case "multiply":
                return scaled(reading, at, values, zero)
            case "divide" if not first and values.all():
                return scaled(reading, at, 1 / values, zero)
    return reading.building.add(MergeConstant(kind, values, first), [at], shape)


def _power(reading: Reading) -> Tensor:
    match reading.arguments:
        case [Tensor() as at, int() | float() as exponent] if exponent in _POWERS:
            return reading.building.alike(Apply(_POWERS[exponent]), at)
    raise Unsupported(f"{_NOT_SUPPORTED} (powers but 2, 0.5 and -0.5)")


def _joined(kind: str, reading: Reading) -> Tensor:
    building, inputs = reading.building, [*reading.inputs]
    if len(reading.arguments) != 1 or len(inputs) != len(reading.arguments[0]) or not inputs:
        raise Unsupported(_NOT_SUPPORTED)
    if kind == "Concatenate":
        return concatenated(building, inputs, axis(reading.config, inputs[0].shape))
    own = axis(reading.config, (*inputs[0].shape, 1), default=0)
    return concatenated(building, [_expand(building, one, {"axis": own + 1}) for one in inputs], own)


def _product(reading: Reading) -> Tensor:
    building = reading.building
    match reading.arguments:
        case [Tensor() as at, np.ndarray() as values] if values.ndim == 2 and values.shape[0] == at.shape[-1]:
            kernel = values.astype(np.float64)
            if not np.isfinite(kernel).all():
                raise Unsupported("it multiplies by NaN or infinity")
            layer = Dense(kernel, np.zeros(kernel.shape[1]), "linear")
            return building.add(layer, [at], (*at.shape[:-1], kernel.shape[1]))
        case [Tensor() as first, Tensor() as second]:
            fits = len(first.shape) == len(second.shape) >= 2 and first.shape[:-2] == second.shape[:-2]
            if fits and first.shape[-1] == second.shape[-2]:
                return building.add(MatMul(), [first, second], (*first.shape[:-1], second.shape[-1]))
    raise Unsupported(_NOT_SUPPORTED)


def _part(reading: Reading) -> Tensor:
    """x[:, 1:, -1], from the axis of the batch on, which stays whole."""
    match reading.arguments:
        case [Tensor() as at, given]:
            keys = given if isinstance(given, list) else [given]
        case _:
            raise Unsupported(_NOT_SUPPORTED)
    if any(isinstance(key, EllipsisType) for key in keys):
        here = next(place for place, key in enumerate(keys) if isinstance(key, EllipsisType))
        missing = len(at.shape) + 1 - sum(key is not None for key in keys) + 1
        keys = [*keys[:here], *[slice(None)] * max(missing, 0), *keys[here + 1 :]]
    if not keys or not isinstance(keys[0], slice) or keys[0] != slice(None):
        raise Unsupported(f"{_NOT_SUPPORTED} (a part of the batch)")
    shape, own = list[int](), 0
    for key in keys[1:]:
        if key is None:
            shape.append(1)
            continue
        if own >= len(at.shape):
            raise Unsupported(_NOT_SUPPORTED)
        at, kept = _of_axis(reading.building, at, own, key)
        shape += [at.shape[own]] if kept else []
        own += 1
    return reading.building.reshaped(at, (*shape, *at.shape[own:]))


def _of_axis(building: Building, at: Tensor, own: int, key: Any) -> tuple[Tensor, bool]:
    """Of an index one is left, which then goes."""
    side = at.shape[own]
    if isinstance(key, int) and not isinstance(key, bool) and -side <= key < side:
        start, stop, step, kept = key % side, key % side + 1, 1, False
    elif isinstance(key, slice):
        (start, stop, step), kept = key.indices(side), True
        if step != 1:
            raise Unsupported(f"{_NOT_SUPPORTED} (every {step}th)")
    else:
        raise Unsupported(_NOT_SUPPORTED)
    if (start, stop) == (0, side):
        return at, kept
    last = own == len(at.shape) - 1
    layer = CropChannels(start, side - stop) if last else Crop(start, side - stop, own)
    return building.add(layer, [at], (*at.shape[:own], stop - start, *at.shape[own + 1 :])), kept
