"""Keras' normalizations, and its layers that scale. Definitions: keras/src/layers/normalization, preprocessing."""

import math
from typing import Any

import numpy as np

from converter.keras_reading import Config, Read, Reading, Tensor, Unsupported, axes, axis, natural, number, require
from converter.layers import Float64, LayerNorm, MergeConstant, Shape, UnitNorm

_UNIT_EPSILON = 1e-12
_DEVIATION_MIN = 1e-7
"""keras.config.epsilon(), unless a training changed it, which no file says."""


def _taken(reading: Reading, shape: Shape) -> tuple[Float64, Float64]:
    """gamma and beta."""
    names = ("gamma",) * reading.flag("scale") + ("beta",) * reading.flag("center")
    values = dict(zip(names, reading.weights.take(dict.fromkeys(names, shape)), strict=True))
    return values.get("gamma", np.ones(shape)), values.get("beta", np.zeros(shape))


def _epsilon(config: Config, default: float) -> float:
    epsilon = number(config, "epsilon", default)
    if epsilon < 0:
        raise Unsupported(f"epsilon={epsilon}")
    return epsilon


def read_batch_normalization(reading: Reading) -> Read:
    config, shape = reading.config, reading.input.shape
    at = axis(config, shape)
    require(config, renorm=False)
    names = ("gamma",) * reading.flag("scale") + ("beta",) * reading.flag("center")
    names += ("moving_mean", "moving_variance")
    values = dict(zip(names, reading.weights.take(dict.fromkeys(names, (shape[at],))), strict=True))
    spread = values["moving_variance"] + number(config, "epsilon", 1e-3)
    if not (spread > 0).all():
        raise Unsupported("moving_variance is negative")
    scale = values.get("gamma", np.ones(shape[at])) / np.sqrt(spread)
    shift = values.get("beta", np.zeros(shape[at])) - values["moving_mean"] * scale
    made = reading.building.on_last_axis(reading.input, at, lambda turned: reading.affine(turned, scale, shift))
    return Read([made], "BatchNormalization" + (f"(axis={at + 1})" if at != len(shape) - 1 else ""))


def read_layer_normalization(reading: Reading) -> Read:
    config, shape = reading.config, reading.input.shape
    require(config, rms_scaling=False)
    over = axes(config, shape)
    gamma, beta = _taken(reading, tuple(shape[one] for one in over))
    layer = LayerNorm(over, _epsilon(config, 1e-3), _broadcast(gamma, over, shape), _broadcast(beta, over, shape))
    return reading.only(layer, shape, "LayerNormalization")


def _broadcast(values: Float64, over: tuple[int, ...], shape: Shape) -> Float64:
    return values.reshape(tuple(side if one in over else 1 for one, side in enumerate(shape)))


def read_group_normalization(reading: Reading) -> Read:
    """Mean and variance over all that belongs to a group of channels, in time too."""
    config, shape = reading.config, reading.input.shape
    at = axis(config, shape)
    channels = shape[at]
    groups = channels if config.get("groups", 32) == -1 else natural(config, "groups", default=32)
    if channels % groups:
        raise Unsupported(f"groups={groups} do not divide {channels} channels")
    if at != len(shape) - 1:
        raise Unsupported(f"axis={config.get('axis')!r}, expected the last one")
    own = (1, groups, channels // groups)
    gamma, beta = (values.reshape(own) for values in _taken(reading, (channels,)))
    layer = LayerNorm((0, 2), _epsilon(config, 1e-3), gamma, beta)
    building = reading.building
    grouped = building.reshaped(reading.input, (math.prod(shape[:-1]), groups, channels // groups))
    return Read([building.reshaped(building.alike(layer, grouped), shape)], f"GroupNormalization({groups})")


def read_rms_normalization(reading: Reading) -> Read:
    config, shape = reading.config, reading.input.shape
    over = axes(config, shape)
    (scale,) = reading.weights.take({"scale": tuple(shape[one] for one in over)})
    if over != tuple(range(len(shape) - len(over), len(shape))):  # Keras itself would lay the scale along the last
        raise Unsupported(f"axis={config.get('axis')!r}, expected the last one or ones")
    layer = LayerNorm(over, _epsilon(config, 1e-6), _broadcast(scale, over, shape), np.zeros((1,) * len(shape)), False)
    return reading.only(layer, shape, "RMSNormalization")


def read_unit_normalization(reading: Reading) -> Read:
    shape = reading.input.shape
    return reading.only(UnitNorm(axes(reading.config, shape), _UNIT_EPSILON), shape, "UnitNormalization")


def read_rescaling(reading: Reading) -> Read:
    scale, offset = _array(reading.config, "scale", 1.0), _array(reading.config, "offset", 0.0)
    return Read([scaled(reading, reading.input, scale, offset)], "Rescaling")


def read_normalization(reading: Reading) -> Read:
    """(x - mean) / deviation, or back; mean and variance given, or learned by adapt()."""
    config, shape = reading.config, reading.input.shape
    given = config.get("axis", -1)
    kept = () if given is None or given in ([], ()) else axes(config, shape)
    own = tuple(shape[one] for one in kept)
    if config.get("mean") is None:
        mean, variance, _ = reading.weights.take({"mean": own, "variance": own, "count": ()})
    else:
        mean, variance = _array(config, "mean", 0.0), _array(config, "variance", 1.0)
    try:
        mean, variance = (np.broadcast_to(values, own) for values in (mean, variance))
    except ValueError:
        raise Unsupported(f"mean and variance do not fit an input {shape}") from None
    if (variance < 0).any():
        raise Unsupported("variance is negative")
    deviation = np.maximum(np.sqrt(variance), _DEVIATION_MIN)
    scale, shift = (deviation, mean) if reading.flag("invert", False) else (1 / deviation, -mean / deviation)
    made = scaled(reading, reading.input, _broadcast(scale, kept, shape), _broadcast(shift, kept, shape))
    return Read([made], "Normalization")


def scaled(reading: Reading, at: Tensor, scale: Float64, shift: Float64) -> Tensor:
    """at * scale + shift, both broadcast over it; as a map that can fold where they differ along the last axis only."""
    shape = at.shape
    try:
        fits = np.broadcast_shapes(shape, scale.shape, shift.shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise Unsupported(f"numbers of shape {scale.shape} and {shift.shape} do not fit an input {shape}")
    width = shape[-1:]
    if all(math.prod(values.shape[:-1]) == 1 for values in (scale, shift)):
        return reading.affine(
            at, *(np.broadcast_to(values.reshape(values.shape[-1:]), width) for values in (scale, shift))
        )
    at = reading.building.alike(MergeConstant("multiply", _of_rank(scale, len(shape))), at)
    return reading.building.alike(MergeConstant("add", _of_rank(shift, len(shape))), at)


def _of_rank(values: Float64, rank: int) -> Float64:
    return values.reshape((1,) * (rank - values.ndim) + values.shape)


def _array(config: Config, key: str, default: float) -> Float64:
    value: Any = config.get(key, default)
    if isinstance(value, dict):
        value = value.get("config", {}).get("value")
    try:
        values = np.asarray(value, np.float64)
    except (ValueError, TypeError):
        raise Unsupported(f"{key}={value!r}, expected numbers") from None
    if not np.isfinite(values).all():
        raise Unsupported(f"{key} holds NaN or infinity")
    return values
