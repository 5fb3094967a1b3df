"""What every reader of a Keras layer is given and gives back, and how settings of a configuration are taken.

A setting that is not known is refused, never passed over.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast, get_args

from converter.layers import Activate, Activation, Affine, Float64, Kernel, Layer, Permute, Reshape, Shape

ACTIVATIONS: tuple[str, ...] = get_args(Activation)
_ALIASES = {"swish": "silu", "hard_swish": "hard_silu", "exp": "exponential"}
_REFUSED_ACTIVATIONS = {
    "sparsemax": ", which Keras does not compute as it is published",
    "glu": ", which halves its input",
}
_ELEMENTS_MAX = 1 << 24
"""Of one layer's output; a corrupt size must not fill the memory."""
AXES_MAX = 4
"""Without the batch: TensorFlow Lite's operators take five axes at most."""

Config = Mapping[str, Any]


class Unsupported(Exception):
    """A layer is not as the converter needs it; the message says in which respect. hint: what would mend it, where that
    is no other layer or setting."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


NO_CODE_RUNS = (
    "No code of the file is run: write it with Keras' own layers and keras.ops in a functional keras.Model, carry the "
    "weights over with set_weights, and save that."
)


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
        if min(shape, default=1) < 1 or math.prod(shape) > _ELEMENTS_MAX or len(shape) > AXES_MAX:
            raise Unsupported(f"its output would be {shape}")
        self.layers.append((layer, tuple(tensor.index for tensor in inputs)))
        self.shapes.append(shape)
        return Tensor(len(self.layers) - 1, shape)

    def alike(self, layer: Layer, at: Tensor) -> Tensor:
        """A layer that keeps the shape."""
        return self.add(layer, [at], at.shape)

    def reshaped(self, at: Tensor, shape: Shape) -> Tensor:
        return at if shape == at.shape else self.add(Reshape(shape), [at], shape)

    def permuted(self, at: Tensor, axes: Sequence[int]) -> Tensor:
        if [*axes] == [*range(len(axes))]:
            return at
        return self.add(Permute(tuple(axes)), [at], tuple(at.shape[one] for one in axes))

    def on_last_axis(self, at: Tensor, axis: int, do: Callable[[Tensor], Tensor]) -> Tensor:
        """do, which keeps the shape and works on the last axis, on another one."""
        turn = [*range(len(at.shape))]
        turn[axis], turn[-1] = turn[-1], turn[axis]
        return self.permuted(do(self.permuted(at, turn)), turn)


@dataclass(frozen=True, slots=True)
class Reading:
    """One layer of the file, as a reader is given it.

    arguments: what it is called with, lists and constants among them; inputs: the tensors of it; options: keywords.
    """

    name: str
    config: Config
    inputs: Sequence[Tensor]
    weights: Weights
    building: Building
    arguments: Sequence[Any] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

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

    def image(self) -> tuple[int, int, int]:
        shape = self.input.shape
        if len(shape) != 3:
            raise Unsupported(f"its input {shape} is no image (rows, columns, channels)")
        return shape[0], shape[1], shape[2]

    def flag(self, key: str, default: bool = True) -> bool:
        value = self.config.get(key, default)
        if not isinstance(value, bool):
            raise Unsupported(f"{key}={value!r}, expected true or false")
        return value

    def only(self, layer: Layer, shape: Shape, line: str) -> "Read":
        return Read([self.building.add(layer, [self.input], shape)], line)

    def nothing(self, line: str) -> "Read":
        return Read([self.input], line)

    def kernel(self, make: Callable[[Activation], Kernel], at: Tensor, shape: Shape) -> Tensor:
        """A layer with a kernel, and the activation that its configuration gives it."""
        activate = activation(self.config)
        plain = activate == Activate(activate.activation)
        at = self.building.add(make(activate.activation if plain else "linear"), [at], shape)
        return at if plain else self.building.alike(activate, at)

    def affine(self, at: Tensor, scale: Float64, shift: Float64) -> Tensor:
        return self.building.alike(Affine(scale, shift, (self.name,)), at)

    def with_bias(self, shapes: dict[str, Shape], width: int) -> dict[str, Shape]:
        return shapes | ({"bias": (width,)} if self.flag("use_bias") else {})


@dataclass(frozen=True, slots=True)
class Read:
    """line: for people."""

    outputs: list[Tensor]
    line: str


Reader = Callable[[Reading], Read]


# Settings


def snake_case(name: str) -> str:
    """Keras' own rule for the names of groups (keras/src/utils/naming.py)."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def check_own(entry: Config) -> None:
    """Raises Unsupported for what is no class of Keras itself, or computes in another type than float32."""
    if is_foreign(entry):
        raise Unsupported(
            f"a custom class of {entry.get('module')}, whose code the converter does not run", NO_CODE_RUNS
        )
    check_float32(entry["config"])


def is_foreign(entry: Config) -> bool:
    """Whether its class is none of Keras itself."""
    module = entry.get("module") or "keras.layers"  # the older .h5 names no modules
    return module not in ("keras.layers", "keras") or entry.get("registered_name") is not None


def check_float32(config: Config) -> None:
    dtype = config.get("dtype") or "float32"
    policy = dtype["config"]["name"] if isinstance(dtype, dict) else dtype
    if policy != "float32":
        hint = "Build the model with the dtype policy float32, carry the weights over with set_weights, and save that."
        raise Unsupported(f"computes in {policy}", hint)


def require(config: Config, **wanted: object) -> None:
    for key, value in wanted.items():
        if config.get(key, value) != value:
            raise Unsupported(f"{key}={config[key]!r}, expected {value!r}")


def activation_name(config: Config, key: str = "activation", default: Activation = "linear") -> Activation:
    found = config.get(key, default)
    found = "linear" if found is None else found
    name = _ALIASES.get(found, found) if isinstance(found, str) else found
    if name not in ACTIVATIONS:
        reason = _REFUSED_ACTIVATIONS.get(name, "") if isinstance(name, str) else ""
        raise Unsupported(f"{key}={found!r}{reason}")
    return cast("Activation", name)


def activation(config: Config) -> Activate:
    """By name, or a layer (`activation=LeakyReLU(0.1)`)."""
    found = config.get("activation")
    if not isinstance(found, dict) or found.get("class_name") not in ACTIVATION_LAYERS:
        return Activate(activation_name(config))
    check_own(found)
    return ACTIVATION_LAYERS[found["class_name"]](found["config"])


def activation_line(config: Config) -> str:
    return activation(config).activation


def natural(config: Config, key: str, *, least: int = 1, default: int | None = None) -> int:
    """A whole number, which may stand in a list of one."""
    value = config.get(key, default)
    if isinstance(value, list | tuple) and len(value) == 1:
        (value,) = value
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= _ELEMENTS_MAX:
        raise Unsupported(f"{key}={config.get(key)!r}, expected {least} or more")
    return value


def naturals(config: Config, key: str, count: int, *, default: int | None = None) -> tuple[int, ...]:
    """As many whole numbers from 1 on; one stands for all."""
    value = config.get(key, default)
    given = value if isinstance(value, list | tuple) else [value] * count
    if len(given) != count:
        raise Unsupported(f"{key}={value!r}")
    try:
        return tuple(natural({key: one}, key) for one in given)
    except Unsupported:
        raise Unsupported(f"{key}={value!r}, expected 1 or more") from None


def number(config: Config, key: str, default: float) -> float:
    value = config.get(key, default)
    if isinstance(value, dict):  # an array of one, as Keras writes it
        value = value.get("config", {}).get("value")
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise Unsupported(f"{key}={config.get(key)!r}, expected a number")
    return float(value)


def axes(config: Config, shape: Shape, key: str = "axis", default: Any = -1) -> tuple[int, ...]:
    """Counted without the batch, sorted; Keras counts it as 0."""
    value = config.get(key, default)
    given = value if isinstance(value, list | tuple) else [value]
    if not given or not all(isinstance(one, int) and not isinstance(one, bool) for one in given):
        raise Unsupported(f"{key}={value!r}")
    found = sorted({one + len(shape) if one < 0 else one - 1 for one in given})
    if found[0] < 0 or found[-1] >= len(shape):
        raise Unsupported(f"{key}={value!r} of an input {shape}")
    return tuple(found)


def axis(config: Config, shape: Shape, key: str = "axis", default: Any = -1) -> int:
    found = axes(config, shape, key, default)
    if len(found) != 1:
        raise Unsupported(f"{key}={config.get(key)!r}, expected one axis")
    return found[0]


# Activations that are layers


def _relu(config: Config) -> Activate:
    ceiling = None if config.get("max_value") is None else number(config, "max_value", 0.0)
    slope, threshold = number(config, "negative_slope", 0.0), number(config, "threshold", 0.0)
    if slope and ceiling is None and not threshold:
        return Activate("leaky_relu", slope=slope)
    return Activate("relu", ceiling=ceiling, threshold=threshold, negative=slope)


def _leaky_relu(config: Config) -> Activate:
    return Activate("leaky_relu", slope=number(config, "alpha" if "alpha" in config else "negative_slope", 0.3))


def _elu(config: Config) -> Activate:
    return Activate("elu", alpha=number(config, "alpha", 1.0))


ACTIVATION_LAYERS: dict[str, Callable[[Config], Activate]] = {"ReLU": _relu, "LeakyReLU": _leaky_relu, "ELU": _elu}
