"""Activations as TFLite's builtin operators.

Definitions: keras/src/activations/activations.py. Where TFLite has no operator of its own for one, it is put together
so that no intermediate value overflows: exp is taken of what is not positive only (but for exponential itself).
"""

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from converter.layers import Activate, Activation, Function
from converter.tflite import Graph

_OWN: dict[Activation, tuple[str, str]] = {
    "relu": ("RELU", ""),
    "relu6": ("RELU6", ""),
    "tanh": ("TANH", ""),
    "sigmoid": ("LOGISTIC", ""),
    "gelu": ("GELU", "GeluOptions"),
    "exponential": ("EXP", "ExpOptions"),
    "log_softmax": ("LOG_SOFTMAX", "LogSoftmaxOptions"),
}
_SHRINK = 0.5
"""Keras' default, which no name of an activation can change."""
_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946  # Klambauer (2017)


def activate(graph: Graph, at: int, layer: Activate) -> int:
    """Of the same shape as `at`."""
    own = _OWN.get(layer.activation)
    if own is not None and (layer.ceiling, layer.threshold, layer.negative) == (None, 0.0, 0.0):
        operator, options = own
        return graph.operate(operator, [at], graph.shape(at), options=options)
    match layer.activation:
        case "linear":
            return at
        case "softmax":
            return graph.operate("SOFTMAX", [at], graph.shape(at), options="SoftmaxOptions", beta=1.0)
        case "relu":
            return _relu(graph, at, layer)
        case "leaky_relu":
            return graph.operate("LEAKY_RELU", [at], graph.shape(at), options="LeakyReluOptions", alpha=layer.slope)
        case "elu":
            return _elu(graph, at, layer.alpha)
        case "celu":
            return _elu(graph, at, 1.0)
        case "selu":
            return scaled(graph, _elu(graph, at, _SELU_ALPHA), _SELU_SCALE)
        case "silu":
            return binary(graph, "MUL", at, _one(graph, "LOGISTIC", at))
        case "hard_sigmoid":
            return _hard_sigmoid(graph, at)
        case "hard_silu":
            return binary(graph, "MUL", at, _hard_sigmoid(graph, at))
        case "hard_tanh":
            return limited(graph, at, below=-1.0, above=1.0)
        case "softplus":
            return _softplus(graph, at)
        case "log_sigmoid":
            return _one(graph, "NEG", _softplus(graph, _one(graph, "NEG", at)))
        case "mish":
            return binary(graph, "MUL", at, _one(graph, "TANH", _softplus(graph, at)))
        case "softsign":
            return binary(graph, "DIV", at, shifted(graph, _one(graph, "ABS", at), 1.0))
        case "squareplus":
            root = _one(graph, "SQRT", shifted(graph, _one(graph, "SQUARE", at), 4.0))
            return scaled(graph, binary(graph, "ADD", at, root), 0.5)
        case "soft_shrink":
            return binary(graph, "SUB", at, limited(graph, at, below=-_SHRINK, above=_SHRINK))
        case "hard_shrink":
            return binary(graph, "MUL", at, _above(graph, _one(graph, "ABS", at), _SHRINK))
        case "tanh_shrink":
            return binary(graph, "SUB", at, _one(graph, "TANH", at))
        case "sparse_sigmoid":
            return scaled(graph, shifted(graph, limited(graph, at, below=-1.0, above=1.0), 1.0), 0.5)
        case "sparse_plus":  # a parabola between -1 and 1, then a line
            curve = _one(graph, "SQUARE", shifted(graph, limited(graph, at, below=-1.0, above=1.0), 1.0))
            return binary(graph, "ADD", scaled(graph, curve, 0.25), _one(graph, "RELU", shifted(graph, at, -1.0)))
    raise ValueError(f"no operators for {layer.activation}")


def apply(graph: Graph, at: int, function: Function) -> int:
    if function == "gelu_tanh":
        return graph.operate("GELU", [at], graph.shape(at), options="GeluOptions", approximate=True)
    return _one(graph, _FUNCTIONS[function], at)


_FUNCTIONS: dict[Function, str] = {
    "negative": "NEG",
    "absolute": "ABS",
    "square": "SQUARE",
    "sqrt": "SQRT",
    "rsqrt": "RSQRT",
    "exp": "EXP",
    "log": "LOG",
}
_BINARY = {"ADD": "AddOptions", "SUB": "SubOptions", "MUL": "MulOptions", "DIV": "DivOptions"}


def binary(graph: Graph, operator: str, first: int, second: int) -> int:
    """ADD, SUB, MUL, DIV, MAXIMUM or MINIMUM, with sides of 1 broadcast."""
    shape = np.broadcast_shapes(graph.shape(first), graph.shape(second))
    return graph.operate(operator, [first, second], shape, options=_BINARY.get(operator, "MaximumMinimumOptions"))


def scaled(graph: Graph, at: int, factor: float) -> int:
    return binary(graph, "MUL", at, graph.scalar(factor))


def shifted(graph: Graph, at: int, offset: float) -> int:
    return binary(graph, "ADD", at, graph.scalar(offset))


def limited(graph: Graph, at: int, *, below: float | None = None, above: float | None = None) -> int:
    if below is not None:
        at = binary(graph, "MAXIMUM", at, graph.scalar(below))
    return at if above is None else binary(graph, "MINIMUM", at, graph.scalar(above))


_UNARY_OPTIONS = {"NEG": "NegOptions", "ABS": "AbsOptions", "EXP": "ExpOptions", "SQUARE": "SquareOptions"}


def _one(graph: Graph, operator: str, at: int) -> int:
    return graph.operate(operator, [at], graph.shape(at), options=_UNARY_OPTIONS.get(operator, ""))


def _above(graph: Graph, at: int, limit: float) -> int:
    """1 where it is above the limit, else 0."""
    shape = graph.shape(at)
    is_above = graph.operate(
        "GREATER", [at, graph.scalar(limit)], shape, options="GreaterOptions", dtype=np.dtype(bool)
    )
    types = {"inDataType": schema.TensorType.BOOL, "outDataType": schema.TensorType.FLOAT32}
    return graph.operate("CAST", [is_above], shape, options="CastOptions", **types)


def _relu(graph: Graph, at: int, layer: Activate) -> int:
    """x above the threshold, cut off at zero and the ceiling where there is one; beside it what lies below."""
    threshold, ceiling = layer.threshold, layer.ceiling
    kept = binary(graph, "MUL", at, _above(graph, at, threshold)) if threshold else _one(graph, "RELU", at)
    if ceiling is not None:
        kept = limited(graph, kept, below=0.0 if threshold < 0 else None, above=ceiling)
    if not layer.negative:
        return kept
    missing = _one(graph, "RELU", shifted(graph, _one(graph, "NEG", at), threshold))
    return binary(graph, "ADD", kept, scaled(graph, missing, -layer.negative))


def _elu(graph: Graph, at: int, alpha: float) -> int:
    """max(x, 0) + alpha * (exp(min(x, 0)) - 1)"""
    unit = _one(graph, "ELU", at)
    if alpha == 1:
        return unit
    below = scaled(graph, limited(graph, unit, above=0.0), alpha)
    return binary(graph, "ADD", _one(graph, "RELU", at), below)


def _hard_sigmoid(graph: Graph, at: int) -> int:
    """relu6(x + 3) / 6"""
    return scaled(graph, _one(graph, "RELU6", shifted(graph, at, 3.0)), 1 / 6)


def _softplus(graph: Graph, at: int) -> int:
    """max(x, 0) + log1p(exp(-|x|))"""
    small = _one(graph, "EXP", _one(graph, "NEG", _one(graph, "ABS", at)))
    return binary(graph, "ADD", _one(graph, "RELU", at), _log1p(graph, small))


def _log1p(graph: Graph, at: int) -> int:
    """u * log(w) / (w - 1) with w = 1 + u as it is rounded, for u from 0 on (Goldberg, 1991, theorem 4).

    Of log(w) alone nothing would be left below 6e-8, which a normalization after it may blow up. Where w is 1 the
    quotient is that of the next number.
    """
    above = limited(graph, shifted(graph, at, 1.0), below=1 + float(np.finfo(np.float32).eps))
    quotient = binary(graph, "DIV", _one(graph, "LOG", above), shifted(graph, above, -1.0))
    return binary(graph, "MUL", at, quotient)
