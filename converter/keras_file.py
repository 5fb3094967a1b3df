"""A Keras 3 .keras file to a Network, without loading it into Keras: no code of the file can run.

The file is a zip of metadata.json, config.json (the layers) and model.weights.h5. In the latter each layer has a
group under `layers`, named by its class in snake case and counted per class (not by the layer's own name), with its
variables as datasets vars/0, vars/1 ... in the order of their creation (keras/src/saving/saving_lib.py).
"""

import hashlib
import io
import json
import lzma
import math
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from converter.errors import ModelRejected
from converter.layers import (
    Activation,
    Affine,
    Conv1d,
    Dense,
    Flatten,
    Float64,
    Layer,
    Lstm,
    LstmCell,
    Network,
)

_MEMBER_BYTES_MAX = 512 << 20
"""A thousand times the reference model's weights; a zip may unpack to far more than it weighs."""
_CORRUPT_ZIP = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError),  # damaged
    RuntimeError,  # encrypted, an unknown compression, or JSON nested without end
    *(KeyError, ValueError),  # a member is missing, or no JSON
)
_CORRUPT_CONTENT = (OSError, RuntimeError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError)
"""What taking a config or HDF5 file for something else than it is comes to."""
_ACTIVATIONS = ("linear", "relu", "tanh", "sigmoid", "softmax")

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class KerasFile:
    network: Network
    sha256: str
    keras_version: str | None
    saved: str | None
    """When Keras saved it, in its own words."""


class _Unsupported(Exception):
    """A layer is not as the converter needs it; the message says in which respect."""


def read_keras_file(path: str | Path) -> KerasFile:
    """Raises ModelRejected: missing or corrupt file, a layer or setting that is not supported, weights not finite."""
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelRejected(f"{path}: {error.strerror}", hint="Give a model saved as .keras by Keras 3.") from None
    hint = "Save the model again with Keras 3: model.save('name.keras')."
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            config = json.loads(_member(archive, "config.json"))
            metadata = json.loads(_member(archive, "metadata.json"))
            weights = _member(archive, "model.weights.h5")
        if not isinstance(config, dict) or not isinstance(metadata, dict):
            raise ValueError("config.json and metadata.json must hold objects")
    except _CORRUPT_ZIP as error:
        reason = str(error.args[0]) if error.args else type(error).__name__
        raise ModelRejected(f"{path} is no intact .keras file: {reason}", hint=hint) from None
    network = _read_network(path, config, weights)
    version, saved = metadata.get("keras_version"), metadata.get("date_saved")
    text = [value if isinstance(value, str) else None for value in (version, saved)]
    return KerasFile(network, hashlib.sha256(content).hexdigest(), *text)


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).file_size > _MEMBER_BYTES_MAX:
        raise ValueError(f"{name} unpacks to more than {_MEMBER_BYTES_MAX} bytes")
    return archive.read(name)


def _read_network(path: Path, config: dict[str, Any], weights: bytes) -> Network:
    import h5py

    kind = config.get("class_name")
    if kind != "Sequential" or config.get("registered_name") is not None:
        hint = "Only keras.Sequential is supported; a model of one path can be saved as one."
        raise ModelRejected(f"{path}: the model is a {kind}, not a Sequential", hint=hint)
    try:
        with h5py.File(io.BytesIO(weights), "r") as file:
            return _read_layers(path, config["config"], file)
    except _CORRUPT_CONTENT as error:
        hint = "Save the model again with Keras 3: model.save('name.keras')."
        raise ModelRejected(f"{path} is no intact .keras file: {type(error).__name__}: {error}", hint=hint) from None


def _read_layers(path: Path, config: dict[str, Any], file: Any) -> Network:
    entries = list(config["layers"])
    shape: Shape | None = None
    if entries and entries[0]["class_name"] != "InputLayer" and config.get("build_input_shape"):
        shape = _input_shape(config["build_input_shape"])
    layers: list[Layer] = []
    architecture: list[str] = []
    window = channels = 0
    counted: Counter[str] = Counter()
    for number, entry in enumerate(entries):
        name, kind = entry["config"].get("name"), entry["class_name"]
        group = _snake_case(kind)
        counted[group] += 1
        if counted[group] > 1:
            group += f"_{counted[group] - 1}"
        try:
            _check_plain(entry)
            if kind == "InputLayer":
                shape = _input_shape(entry["config"]["batch_shape"])
            elif shape is None:
                raise _Unsupported("the shape of its input is not in the file")
            if not window:
                window, channels = cast("tuple[int, int]", shape)
            read = _READERS[kind](entry["config"], shape, _Weights(file, f"layers/{group}"))
        except _Unsupported as error:
            hint = "Supported: " + ", ".join(_READERS) + "; " + _LIMITS
            raise ModelRejected(f"{path}: layer {number} {name!r} ({kind}): {error}", hint=hint) from None
        layers += read.layers
        shape = read.shape
        architecture.append(read.line)
    last = layers[-1] if layers else None
    if not isinstance(last, Dense) or last.activation != "softmax" or shape is None:
        last_line = architecture[-1] if architecture else "nothing"
        raise ModelRejected(f"{path}: the model ends with {last_line}", hint="It must end with Dense(n, softmax).")
    return Network(window, channels, shape[0], tuple(layers), tuple(architecture))


_LIMITS = (
    "Conv1D without padding and groups; LSTM with Keras' default activations, alone or in Bidirectional (concat); "
    "activations " + ", ".join(_ACTIVATIONS[:-1]) + ", and softmax at the end; float32."
)


def _snake_case(name: str) -> str:
    """Keras' own rule for the names of groups (keras/src/utils/naming.py)."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def _input_shape(batch_shape: list[int | None]) -> Shape:
    if len(batch_shape) != 3 or not all(isinstance(side, int) and side > 0 for side in batch_shape[1:]):
        raise _Unsupported(f"input shape {batch_shape}, expected [null, window, channels] with fixed sizes")
    return cast("Shape", tuple(batch_shape[1:]))


def _check_plain(entry: Mapping[str, Any]) -> None:
    """A layer of Keras itself, computing in float32."""
    if entry["class_name"] not in _READERS:
        raise _Unsupported("not supported")
    if entry.get("module") != "keras.layers" or entry.get("registered_name") is not None:
        raise _Unsupported(f"a custom class of {entry.get('module')}, whose code the converter does not run")
    dtype = entry["config"].get("dtype", "float32")
    policy = dtype["config"]["name"] if isinstance(dtype, dict) else dtype
    if policy != "float32":
        raise _Unsupported(f"computes in {policy}")


class _Weights:
    """The variables of one layer in the HDF5 file."""

    def __init__(self, file: Any, group: str) -> None:
        self._file, self._group = file, group

    def take(self, shapes: Mapping[str, Shape], below: str = "") -> list[Float64]:
        """All variables below this group, which must have these names' shapes in this order, and be finite."""
        import h5py

        group = self._file.get(f"{self._group}/{below}vars", default={})
        if len(group) != len(shapes):
            raise _Unsupported(f"{len(group)} weights in the file, expected {', '.join(shapes) or 'none'}")
        values = []
        for number, (name, shape) in enumerate(shapes.items()):
            dataset = group[str(number)]
            hard = isinstance(group.get(str(number), getlink=True), h5py.HardLink)
            if not hard or not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual:
                raise _Unsupported(f"{name} is not stored in the file itself")
            if dataset.shape != shape or dataset.dtype.kind != "f":
                raise _Unsupported(f"{name} is {dataset.dtype} {dataset.shape}, expected float {shape}")
            values.append(np.asarray(dataset[()], np.float64))
            if not np.isfinite(values[-1]).all():
                raise _Unsupported(f"{name} holds NaN or infinity")
        return values


@dataclass(frozen=True, slots=True)
class _Read:
    """layers: none for what does nothing at inference. shape: of the output. line: for people."""

    layers: list[Layer]
    shape: Shape
    line: str


def _require(config: Mapping[str, Any], **wanted: object) -> None:
    for key, value in wanted.items():
        if config.get(key, value) != value:
            raise _Unsupported(f"{key}={config[key]!r}, expected {value!r}")


def _activation(config: Mapping[str, Any]) -> Activation:
    activation = config.get("activation", "linear")
    if activation not in _ACTIVATIONS:
        raise _Unsupported(f"activation={activation!r}")
    return cast("Activation", activation)


def _sequence(shape: Shape) -> tuple[int, int]:
    if len(shape) != 2:
        raise _Unsupported(f"its input {shape} is no sequence")
    return shape[0], shape[1]


def _read_input(_config: Mapping[str, Any], shape: Shape, _weights: _Weights) -> _Read:
    return _Read([], shape, f"Input{shape}")


def _read_dropout(config: Mapping[str, Any], shape: Shape, _weights: _Weights) -> _Read:
    return _Read([], shape, f"Dropout({config['rate']})")


def _read_conv1d(config: Mapping[str, Any], shape: Shape, weights: _Weights) -> _Read:
    _require(config, padding="valid", data_format="channels_last", groups=1)
    steps, channels = _sequence(shape)
    activation = _activation(config)
    if activation == "softmax":
        raise _Unsupported("activation='softmax'")
    (taps,), (stride,), (dilation,) = config["kernel_size"], config["strides"], config["dilation_rate"]
    filters = config["filters"]
    if min(taps, stride, dilation) < 1:
        raise _Unsupported(f"kernel_size={taps}, strides={stride}, dilation_rate={dilation}, expected 1 or more")
    shapes: dict[str, Shape] = {"kernel": (taps, channels, filters)}
    if config["use_bias"]:
        shapes["bias"] = (filters,)
    kernel, *bias = weights.take(shapes)
    out = (steps - (taps - 1) * dilation - 1) // stride + 1
    if out < 1:
        raise _Unsupported(f"its input of {steps} steps is shorter than its kernel")
    layer = Conv1d(kernel, bias[0] if bias else np.zeros(filters), activation, stride, dilation)
    line = f"Conv1D({filters}, {taps}, {activation}" + (f", strides={stride}" if stride > 1 else "")
    return _Read([layer], (out, filters), line + (f", dilation_rate={dilation})" if dilation > 1 else ")"))


def _read_batch_normalization(config: Mapping[str, Any], shape: Shape, weights: _Weights) -> _Read:
    axis = config["axis"]
    axes = axis if isinstance(axis, list) else [axis]
    if axes not in ([-1], [len(shape)]):
        raise _Unsupported(f"axis={axis!r}, expected the last one")
    names = ("gamma",) * config["scale"] + ("beta",) * config["center"] + ("moving_mean", "moving_variance")
    values = dict(zip(names, weights.take(dict.fromkeys(names, shape[-1:])), strict=True))
    spread = values["moving_variance"] + config["epsilon"]
    if not (spread > 0).all():
        raise _Unsupported("moving_variance is negative")
    scale = values.get("gamma", np.ones(shape[-1])) / np.sqrt(spread)
    shift = values.get("beta", np.zeros(shape[-1])) - values["moving_mean"] * scale
    return _Read([Affine(scale, shift)], shape, "BatchNormalization")


def _lstm_cell(config: Mapping[str, Any], channels: int, weights: _Weights, below: str) -> LstmCell:
    _require(config, activation="tanh", recurrent_activation="sigmoid", stateful=False, return_state=False)
    units = config["units"]
    shapes: dict[str, Shape] = {"kernel": (channels, 4 * units), "recurrent_kernel": (units, 4 * units)}
    if config["use_bias"]:
        shapes["bias"] = (4 * units,)
    kernel, recurrent, *bias = weights.take(shapes, below)
    return LstmCell(kernel, recurrent, bias[0] if bias else np.zeros(4 * units))


def _read_lstm(config: Mapping[str, Any], shape: Shape, weights: _Weights) -> _Read:
    _require(config, go_backwards=False)
    steps, channels = _sequence(shape)
    layer = Lstm(_lstm_cell(config, channels, weights, "cell/"), None, bool(config["return_sequences"]))
    units = config["units"]
    return _Read([layer], (steps, units) if layer.sequences else (units,), _lstm_line(config))


def _lstm_line(config: Mapping[str, Any]) -> str:
    return f"LSTM({config['units']}, sequences)" if config["return_sequences"] else f"LSTM({config['units']})"


def _read_bidirectional(config: Mapping[str, Any], shape: Shape, weights: _Weights) -> _Read:
    _require(config, merge_mode="concat")
    steps, channels = _sequence(shape)
    forward, backward = config["layer"], config.get("backward_layer") or config["layer"]
    for inner in (forward, backward):
        if inner["class_name"] != "LSTM":
            raise _Unsupported(f"wraps {inner['class_name']}, expected LSTM")
        _check_plain(inner)
    _require(forward["config"], go_backwards=False)
    _require(backward["config"], units=forward["config"]["units"])
    if "backward_layer" in config:
        _require(backward["config"], go_backwards=True)
    layer = Lstm(
        _lstm_cell(forward["config"], channels, weights, "forward_layer/cell/"),
        _lstm_cell(backward["config"], channels, weights, "backward_layer/cell/"),
        bool(forward["config"]["return_sequences"]),
    )
    width = 2 * forward["config"]["units"]
    line = f"Bidirectional({_lstm_line(forward['config'])})"
    return _Read([layer], (steps, width) if layer.sequences else (width,), line)


def _read_flatten(config: Mapping[str, Any], shape: Shape, _weights: _Weights) -> _Read:
    _require(config, data_format="channels_last")
    return _Read([Flatten(*shape[:-1])] if len(shape) > 1 else [], (math.prod(shape),), "Flatten")


def _read_dense(config: Mapping[str, Any], shape: Shape, weights: _Weights) -> _Read:
    if len(shape) != 1:
        raise _Unsupported(f"its input {shape} is no vector; put Flatten before it")
    activation, units = _activation(config), config["units"]
    shapes: dict[str, Shape] = {"kernel": (shape[0], units)}
    if config["use_bias"]:
        shapes["bias"] = (units,)
    kernel, *bias = weights.take(shapes)
    layer = Dense(kernel, bias[0] if bias else np.zeros(units), activation)
    return _Read([layer], (units,), f"Dense({units}, {activation})")


_READERS: dict[str, Callable[[Mapping[str, Any], Shape, _Weights], _Read]] = {
    "InputLayer": _read_input,
    "Conv1D": _read_conv1d,
    "BatchNormalization": _read_batch_normalization,
    "Dropout": _read_dropout,
    "Bidirectional": _read_bidirectional,
    "LSTM": _read_lstm,
    "Flatten": _read_flatten,
    "Dense": _read_dense,
}
