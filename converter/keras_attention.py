"""Keras' attention layers, without masks but for the causal one, as dense layers, products and a softmax.

Definitions: keras/src/layers/attention. Vaswani et al. (2017); Luong et al. (2015); Bahdanau et al. (2015).
"""

import math

import numpy as np

from converter.keras_merging import merged
from converter.keras_reading import Building, Read, Reading, Tensor, Unsupported, natural, require
from converter.layers import Activate, Activation, Dense, Float64, MatMul, MergeConstant, Reduce, Shape

_EXCLUDED = -1e9
"""Added to a score: its share is then exp(-1e9) = 0, as with Keras' own."""


def _causal(reading: Reading) -> bool:
    """use_causal_mask, the one option that changes what comes out and is known."""
    others = sorted(set(reading.options) - {"use_causal_mask"})
    if others:
        raise Unsupported(f"it is called with {', '.join(others)}, expected its inputs alone")
    return bool(reading.options.get("use_causal_mask"))


def _weighed(building: Building, scores: Tensor, values: Tensor, *, causal: bool) -> Tensor:
    """softmax(scores) @ values. scores: (..., queries, keys); values: (..., keys, width)"""
    *outer, queries, keys = scores.shape
    if causal:
        future = np.where(np.arange(keys) > np.arange(queries)[:, np.newaxis], _EXCLUDED, 0.0)
        scores = building.alike(MergeConstant("add", future.reshape((1,) * len(outer) + future.shape)), scores)
    shares = building.alike(Activate("softmax"), scores)
    return building.add(MatMul(), [shares, values], (*outer, queries, values.shape[-1]))


def _sequences(inputs: tuple[Tensor, ...]) -> None:
    for tensor in inputs:
        if len(tensor.shape) != 2:
            raise Unsupported(f"its input {tensor.shape} is no sequence")


def read_multi_head_attention(reading: Reading) -> Read:
    config, building = reading.config, reading.building
    causal = _causal(reading)
    if len(reading.inputs) not in (2, 3):
        raise Unsupported(f"it takes {len(reading.inputs)} inputs, expected query, value and maybe key")
    query, value, *other = reading.inputs
    key = other[0] if other else value
    _sequences((query, value, key))
    if config.get("attention_axes") not in (None, [1], 1):
        raise Unsupported(f"attention_axes={config['attention_axes']!r}, expected 1")
    require(config, sliding_window=None)
    heads, width = natural(config, "num_heads"), natural(config, "key_dim")
    value_width = width if config.get("value_dim") is None else natural(config, "value_dim")
    out = query.shape[1] if config.get("output_shape") is None else natural(config, "output_shape")
    if key.shape[0] != value.shape[0]:
        raise Unsupported(f"its key {key.shape} and value {value.shape} differ in steps")

    def projected(at: Tensor, part: str, side: int, activation: Activation = "linear", scale: float = 1.0) -> Tensor:
        """(steps, heads * side)"""
        kernel, *bias = reading.weights.take(_shapes(reading, (at.shape[1], heads, side), (heads, side)), f"{part}/")
        flat = kernel.reshape(at.shape[1], heads * side) * scale
        added = bias[0].reshape(-1) * scale if bias else np.zeros(heads * side)
        return building.add(Dense(flat, added, activation), [at], (at.shape[0], heads * side))

    def by_head(at: Tensor, side: int) -> Tensor:
        return building.permuted(building.reshaped(at, (at.shape[0], heads, side)), (1, 0, 2))

    queries = projected(query, "query_dense", width, scale=1 / math.sqrt(width))
    keys = projected(key, "key_dense", width)
    gated = reading.flag("use_gate", False)
    gate = projected(query, "_gate_dense", value_width, "sigmoid") if gated else None
    values = projected(value, "value_dense", value_width)
    kernel, *bias = reading.weights.take(_shapes(reading, (heads, value_width, out), (out,)), "output_dense/")
    pair = [by_head(queries, width), by_head(keys, width)]
    scores = building.add(MatMul(turned=True), pair, (heads, query.shape[0], key.shape[0]))
    at = _weighed(building, scores, by_head(values, value_width), causal=causal)
    at = building.reshaped(building.permuted(at, (1, 0, 2)), (query.shape[0], heads * value_width))
    if gate is not None:
        at = merged(building, "multiply", [at, gate])
    last = Dense(kernel.reshape(heads * value_width, out), bias[0] if bias else np.zeros(out), "linear")
    line = f"MultiHeadAttention({heads}, {width}{', causal' if causal else ''})"
    return Read([building.add(last, [at], (query.shape[0], out))], line)


def _shapes(reading: Reading, kernel: Shape, bias: Shape) -> dict[str, Shape]:
    return {"kernel": kernel} | ({"bias": bias} if reading.flag("use_bias") else {})


def _query_value_key(reading: Reading) -> tuple[Tensor, Tensor, Tensor]:
    if len(reading.inputs) not in (2, 3):
        raise Unsupported(f"it takes {len(reading.inputs)} inputs, expected query, value and maybe key")
    query, value, *other = reading.inputs
    key = other[0] if other else value
    _sequences((query, value, key))
    if key.shape[1] != query.shape[1] or key.shape[0] != value.shape[0]:
        raise Unsupported(f"its query {query.shape}, value {value.shape} and key {key.shape} do not fit together")
    return query, value, key


def read_attention(reading: Reading) -> Read:
    config, building = reading.config, reading.building
    causal, (query, value, key) = _causal(reading), _query_value_key(reading)
    mode = config.get("score_mode", "dot")
    if mode not in ("dot", "concat"):
        raise Unsupported(f"score_mode={mode!r}")
    names = ("scale",) * reading.flag("use_scale", False) + ("concat_score_weight",) * (mode == "concat")
    taken = dict(zip(names, reading.weights.take(dict.fromkeys(names, ())), strict=True))
    scale, weight = taken.get("scale"), taken.get("concat_score_weight")
    shape = (query.shape[0], key.shape[0])
    if mode == "dot":
        scores = _times(building, building.add(MatMul(turned=True), [query, key], shape), scale)
    else:
        both = building.alike(Activate("tanh"), _times(building, _every_pair(building, query, key), scale))
        scores = _times(building, building.add(Reduce("sum", (2,)), [both], shape), weight)
    return Read([_weighed(building, scores, value, causal=causal)], f"Attention({mode}{', causal' if causal else ''})")


def _times(building: Building, at: Tensor, factor: Float64 | None) -> Tensor:
    if factor is None:
        return at
    return building.alike(MergeConstant("multiply", factor.reshape((1,) * len(at.shape))), at)


def _every_pair(building: Building, query: Tensor, key: Tensor) -> Tensor:
    """query + key: (queries, keys, channels)"""
    (queries, channels), (keys, _) = query.shape, key.shape
    rows = building.reshaped(query, (queries, 1, channels))
    return merged(building, "add", [rows, building.reshaped(key, (1, keys, channels))])


def read_additive_attention(reading: Reading) -> Read:
    building = reading.building
    causal, (query, value, key) = _causal(reading), _query_value_key(reading)
    shape, channels = (query.shape[0], key.shape[0]), query.shape[1]
    names = ("scale",) * reading.flag("use_scale")
    scale = [*reading.weights.take(dict.fromkeys(names, (channels,))), np.ones(channels)][0]
    both = building.alike(Activate("tanh"), _every_pair(building, query, key))
    summed = building.add(Dense(scale[:, np.newaxis], np.zeros(1), "linear"), [both], (*shape, 1))
    scores = building.reshaped(summed, shape)
    return Read([_weighed(building, scores, value, causal=causal)], f"AdditiveAttention{'(causal)' if causal else ''}")
