"""A Keras 3 .keras or .h5 file to a Network, without loading it into Keras: no code of the file can run.

A .keras file is a zip of metadata.json, config.json (the layers) and model.weights.h5. In the latter each layer has a
group under `layers`, named by its class in snake case and counted per class (not by the layer's own name), with its
variables as datasets vars/0, vars/1 ... in the order of their creation (keras/src/saving/saving_lib.py). An .h5 file
has the same configuration as an attribute, and each layer's variables in a group of its name, in the order of the
attribute weight_names (keras/src/legacy/saving/legacy_h5_format.py).
"""

import hashlib
import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import numpy as np

from converter.errors import ModelRejected
from converter.keras_archive import CORRUPT_ZIP, HDF5, SAVE_AGAIN, WEIGHTS_FILE, checked_content, no_intact
from converter.keras_layers import READERS, check_plain, for_each_step, one_step
from converter.keras_operations import is_operation, read_operation
from converter.keras_reading import (
    NO_CODE_RUNS,
    Building,
    Reading,
    Tensor,
    Unsupported,
    Weights,
    check_float32,
    snake_case,
)
from converter.layers import Activate, Dense, Float64, Layer, Network, Shape, unwired

_CORRUPT_CONTENT = (OSError, RuntimeError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError)
"""What taking a config or HDF5 file for something else than it is comes to."""
_OTHERS_CONVERT = (
    'Put another layer or setting in its place: docs/bundle.md lists those that convert, under "Making one".'
)
_WINDOW_MAX = 100_000
"""Of a bundle's manifest."""
_NESTED = ("Sequential", "Functional", "Model")


@dataclass(frozen=True, slots=True, eq=False)
class KerasFile:
    network: Network
    sha256: str
    keras_version: str | None
    saved: str | None
    """When Keras saved it, in its own words."""


def read_keras_file(path: str | Path, *, add_softmax: bool = False) -> KerasFile:
    """add_softmax: the model answers logits; its network gets a softmax at the end (Network.softmax_added).

    Raises ModelRejected: missing or corrupt file, a layer or setting that is not supported, weights not finite, other
    than one input and one output of classes.
    """
    import h5py

    path = Path(path)
    content = checked_content(path)
    is_hdf5 = content.startswith(HDF5)
    try:
        config, metadata, weights = _hdf5_parts(content) if is_hdf5 else _zip_parts(content)
        if not isinstance(config, dict) or not isinstance(metadata, dict):
            raise ValueError("config.json and metadata.json must hold objects")
    except CORRUPT_ZIP as error:
        raise no_intact(path, str(error.args[0]) if error.args else type(error).__name__) from None
    if config.get("class_name") not in _NESTED or config.get("registered_name") not in (None, "Functional"):
        hint = "Only keras.Sequential and functional keras.Model are supported; a class of one's own is not run."
        raise ModelRejected(f"{path}: the model is a {config.get('class_name')}", hint=hint)
    try:
        with h5py.File(io.BytesIO(weights), "r") as file:
            store = _Listed(file) if is_hdf5 else _Tree(file)
            network = _Model(path, store).read(config, add_softmax=add_softmax)
        foreign = next(_foreign(config["config"]), None)
    except _CORRUPT_CONTENT as error:
        raise no_intact(path, f"{type(error).__name__}: {error}") from None
    if foreign is not None:
        raise ModelRejected(f"{path}: it holds {foreign}, whose code the converter does not run", hint=NO_CODE_RUNS)
    version, saved = metadata.get("keras_version"), metadata.get("date_saved")
    text = [value if isinstance(value, str) else None for value in (version, saved)]
    return KerasFile(network, hashlib.sha256(content).hexdigest(), *text)


def _foreign(value: Any) -> Iterator[str]:
    """What in a configuration would make Keras run code of the file's or of another package, in a model or below."""
    if isinstance(value, list):
        for entry in value:
            yield from _foreign(entry)
    elif isinstance(value, dict):
        kind, module = value.get("class_name"), value.get("module")
        if kind in ("Lambda", "__lambda__", "function"):
            yield f"a {kind}"
        elif isinstance(kind, str) and module is not None and not re.match(r"keras(\.|$)", str(module)):
            yield f"{kind} of {module}"
        for entry in value.values():
            yield from _foreign(entry)


def _zip_parts(content: bytes) -> tuple[Any, Any, bytes]:
    """config.json, metadata.json, the weights' HDF5 file."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        config, metadata = (json.loads(archive.read(name)) for name in ("config.json", "metadata.json"))
        return config, metadata, archive.read(WEIGHTS_FILE)


def _hdf5_parts(content: bytes) -> tuple[Any, Any, bytes]:
    import h5py

    with h5py.File(io.BytesIO(content), "r") as file:
        config = json.loads(file.attrs["model_config"])
        return config, {"keras_version": file.attrs.get("keras_version")}, content


# Weights


class _Store(Protocol):
    """The weights of a model's layers; asked for each layer of the configuration once, in order."""

    def layer(self, entry: Mapping[str, Any]) -> Callable[[], Weights]: ...

    def inside(self, entry: Mapping[str, Any], below: str = "") -> "_Store":
        """Of a model that is a layer, or that stands in a layer: the part `below` of it."""
        ...


def _values(file: Any, parent: Any, key: str, name: str, shape: Shape) -> Float64:
    """One variable, finite and stored in this file itself."""
    import h5py

    hard = isinstance(parent.get(key, getlink=True), h5py.HardLink)
    dataset = parent[key]
    elsewhere = not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual
    if not hard or elsewhere or dataset.file.filename != file.filename:
        raise Unsupported(f"{name} is not stored in the file itself", SAVE_AGAIN)
    if dataset.shape != shape or dataset.dtype.kind not in ("f" if shape else "fiu"):
        raise Unsupported(f"{name} is {dataset.dtype} {dataset.shape}, expected float {shape}", SAVE_AGAIN)
    values = np.asarray(dataset[()], np.float64)
    if not np.isfinite(values).all():
        raise Unsupported(f"{name} holds NaN or infinity", "Its training diverged: train again with smaller steps.")
    return values


class _Tree:
    """Of a .keras file."""

    def __init__(self, file: Any, above: str = "") -> None:
        self._file, self._above = file, above
        self._counted: Counter[str] = Counter()
        self._groups: dict[str, str] = {}

    def _group(self, entry: Mapping[str, Any]) -> str:
        name = entry["config"]["name"]
        if name not in self._groups:
            group = snake_case("Functional" if entry["class_name"] == "Model" else entry["class_name"])
            self._counted[group] += 1
            number = self._counted[group] - 1
            self._groups[name] = f"{self._above}layers/{group}" + (f"_{number}" if number else "")
        return self._groups[name]

    def layer(self, entry: Mapping[str, Any]) -> Callable[[], Weights]:
        group = self._group(entry)
        return lambda: _GroupWeights(self._file, group)

    def inside(self, entry: Mapping[str, Any], below: str = "") -> "_Tree":
        return _Tree(self._file, f"{self._group(entry)}/{below}")


@dataclass(frozen=True, slots=True)
class _GroupWeights:
    file: Any
    group: str

    def take(self, shapes: Mapping[str, Shape], below: str = "") -> list[Float64]:
        group = self.file.get(f"{self.group}/{below}vars", default={})
        if len(group) != len(shapes):
            raise Unsupported(f"{len(group)} weights in the file, expected {', '.join(shapes) or 'none'}", SAVE_AGAIN)
        return [_values(self.file, group, str(at), name, shape) for at, (name, shape) in enumerate(shapes.items())]


class _Listed:
    """Of an .h5 file."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def layer(self, entry: Mapping[str, Any]) -> Callable[[], Weights]:
        group, names = self._group(entry)
        return lambda: _ListedWeights(self._file, group, names)

    def inside(self, entry: Mapping[str, Any], below: str = "") -> "_ListedInside":
        model = entry["config"]["layer"] if below else entry
        return _ListedInside(self._file, *self._group(entry), model)

    def _group(self, entry: Mapping[str, Any]) -> tuple[Any, list[str]]:
        group = self._file["model_weights"].get(entry["config"]["name"])
        names = [] if group is None else group.attrs["weight_names"]
        return group, [name.decode() if isinstance(name, bytes) else str(name) for name in names]


class _ListedInside:
    """Of a model in an .h5 file that is a layer: all its variables in one group, the trainable ones first.

    Which layer one belongs to only its path says, so each path must name one layer and no other.
    """

    def __init__(self, file: Any, group: Any, names: list[str], model: Mapping[str, Any]) -> None:
        self._file, self._group = file, group
        leaves = list(_leaf_layers(model))
        self._names: dict[str, list[str]] = {}
        for name in names:
            parts = set(name.split("/")[:-1])
            owners = [own for own, aliases in leaves if parts & aliases]
            if len(owners) != 1:
                raise Unsupported(
                    f"weight {name!r} belongs to {len(owners)} layers of the model; save it as .keras", SAVE_AGAIN
                )
            self._names.setdefault(owners[0], []).append(name)

    def layer(self, entry: Mapping[str, Any]) -> Callable[[], Weights]:
        names = self._names.get(entry["config"]["name"], [])
        return lambda: _ListedWeights(self._file, self._group, [*names])

    def inside(self, entry: Mapping[str, Any], below: str = "") -> "_ListedInside":
        model = entry["config"]["layer"] if below else entry
        names = [name for own, _ in _leaf_layers(model) for name in self._names.get(own, [])]
        if below:
            names = self._names.get(entry["config"]["name"], [])
        return _ListedInside(self._file, self._group, names, model)


def _leaf_layers(model: Mapping[str, Any]) -> Iterator[tuple[str, set[str]]]:
    """The layers of a model and of the models in it, each with the names that its variables' paths may have."""
    for entry in model["config"]["layers"]:
        if entry["class_name"] in _NESTED:
            yield from _leaf_layers(entry)
        else:
            yield entry["config"]["name"], set(_names(entry))


def _names(entry: Mapping[str, Any]) -> Iterator[str]:
    yield str(entry["config"]["name"])
    inner = entry["config"].get("layer")
    for one in [inner] if isinstance(inner, dict) else []:
        yield from _names(one)
        for below in one["config"].get("layers", []):
            yield from _names(below)


class _ListedWeights:
    def __init__(self, file: Any, group: Any, names: list[str]) -> None:
        self._file, self._group, self._names = file, group, names

    def take(self, shapes: Mapping[str, Shape], below: str = "") -> list[Float64]:
        taken, self._names = self._names[: len(shapes)], self._names[len(shapes) :]
        if len(taken) != len(shapes) or (self._names and not below):
            found = len(taken) + len(self._names)
            raise Unsupported(f"{found} weights in the file, expected {', '.join(shapes) or 'none'}", SAVE_AGAIN)
        named = zip(taken, shapes.items(), strict=True)
        return [_values(self._file, self._group, key, name, shape) for key, (name, shape) in named]


# Models


def _input_shape(batch_shape: list[int | None]) -> Shape:
    if len(batch_shape) != 3 or not all(isinstance(side, int) and side > 0 for side in batch_shape[1:]):
        hint = "Build the model with an input of fixed size: keras.Input((window, channels))."
        raise Unsupported(f"input shape {batch_shape}, expected [null, window, channels] with fixed sizes", hint)
    if batch_shape[1] > _WINDOW_MAX:  # type: ignore[operator]
        raise Unsupported(
            f"a window of {batch_shape[1]} samples, expected at most {_WINDOW_MAX}", "Use a shorter window."
        )
    return cast("Shape", tuple(batch_shape[1:]))


class _Key(NamedTuple):
    """A tensor in a functional configuration: layer, which of its calls, which of that one's outputs."""

    layer: str
    call: int
    output: int


class _Model:
    """The file's model: its layers, in the order of computation, and a line for each."""

    def __init__(self, path: Path, store: _Store) -> None:
        self._path, self._store = path, store
        self._building = Building()
        self._lines: list[str] = []
        self._window: Tensor | None = None

    def read(self, config: Mapping[str, Any], *, add_softmax: bool) -> Network:
        try:
            outputs = self._model(config, None, self._store, "")
        except Unsupported as error:
            raise ModelRejected(f"{self._path}: {error}", hint=error.hint or _OTHERS_CONVERT) from None
        if self._window is None:
            raise ModelRejected(f"{self._path}: the model has no layers", hint=SAVE_AGAIN)
        window, channels = self._window.shape
        output = outputs[0]
        layers = _reachable(self._building.layers, output.index)
        last = layers[-1][0] if layers else None
        ends = isinstance(last, Dense | Activate) and last.activation == "softmax"
        line = self._lines[-1]
        if len(output.shape) != 1 or output.shape[0] < 2 or last is None:
            hint = "It must end with softmax over two or more classes, such as Dense(n, softmax)."
            raise ModelRejected(f"{self._path}: the model ends with {line}, of shape {output.shape}", hint=hint)
        if add_softmax and ends:
            raise ModelRejected(f"{self._path}: the model ends with softmax already", hint="Ask for no second one.")
        linear = not isinstance(last, Activate) and getattr(last, "activation", "linear") == "linear"
        if not ends and not (add_softmax and linear):
            hint = "It must end with Dense(n, softmax)."
            hint += " Where these are logits, have a softmax added: --softmax." if linear and not add_softmax else ""
            raise ModelRejected(f"{self._path}: the model ends with {line}", hint=hint)
        if add_softmax:
            layers.append((Activate("softmax"), (len(layers) - 1,)))
        return Network(
            window, channels, output.shape[0], tuple(unwired(layers)), tuple(self._lines), softmax_added=add_softmax
        )

    def _model(self, entry: Mapping[str, Any], inputs: list[Tensor] | None, store: _Store, above: str) -> list[Tensor]:
        """inputs: None for the file's own model, whose input is the window."""
        config = entry["config"]
        if entry["class_name"] == "Sequential":
            return self._sequential(config, inputs, store, above)
        return self._functional(config, inputs, store, above)

    def _sequential(
        self, config: Mapping[str, Any], inputs: list[Tensor] | None, store: _Store, above: str
    ) -> list[Tensor]:
        at = inputs
        entries = list(config["layers"])
        for number, entry in enumerate(entries):
            where = f"{above}layer {number} {entry['config'].get('name')!r} ({entry['class_name']})"
            try:
                if at is None:
                    at = [self._open(entry, config.get("build_input_shape"))]
                if len(at) != 1:
                    raise Unsupported(f"it takes {len(at)} inputs, expected one")
            except Unsupported as error:
                raise _at(where, error) from None
            weights = _Deferred(store, entry)
            at = self._call(where, entry, _Call(at, {}), weights, above)
        return at or []

    def _open(self, entry: Mapping[str, Any], build_shape: Any) -> Tensor:
        """The window, from the input layer or, where the first layer is another, from the shape it was built for."""
        own = entry["config"]
        shape = own.get("batch_shape") or own.get("batch_input_shape") or build_shape
        if shape is None:
            hint = "Build the model, model.build((None, window, channels)), and save it again."
            raise Unsupported("the shape of its input is not in the file", hint)
        self._window = Tensor(-1, _input_shape(shape))
        return self._window

    def _functional(
        self, config: Mapping[str, Any], inputs: list[Tensor] | None, store: _Store, above: str
    ) -> list[Tensor]:
        into, out = _keys(config["input_layers"]), _keys(config["output_layers"])
        for what, keys in (("inputs", into), ("outputs", out)):
            if len(keys) != 1:
                hint = "Save a part of the model that has one of each: keras.Model(input, output).save('name.keras')."
                raise Unsupported(f"{above}the model has {len(keys)} {what}, expected one", hint)
        values: dict[_Key, Tensor] = {}
        waiting = []
        for number, entry in enumerate(config["layers"]):
            name = entry.get("name") or entry["config"]["name"]
            where = f"{above}layer {number} {name!r} ({entry['class_name']})"
            if name == into[0][0]:
                try:
                    values[_Key(name, 0, 0)] = inputs[0] if inputs is not None else self._open(entry, None)
                    if inputs is not None and len(inputs) != 1:
                        raise Unsupported(f"it takes {len(inputs)} inputs, expected one")
                    check_plain(entry)
                except Unsupported as error:
                    raise _at(where, error) from None
                if inputs is None:
                    self._lines.append(f"Input{values[_Key(name, 0, 0)].shape}")
            else:
                weights = _Deferred(store, entry)
                calls = entry["inbound_nodes"]
                waiting += [(where, name, entry, call, _Call.read(node), weights) for call, node in enumerate(calls)]
        previous = into[0]
        while waiting:
            ready = [one for one in waiting if all(key in values for key in one[4].keys)]
            if not ready:
                raise Unsupported(f"{waiting[0][0]}: takes what no layer makes")
            for where, name, entry, call, node, weights in ready:
                outputs = self._call(where, entry, node.with_tensors(values), weights, above)
                if node.keys != [previous] and self._lines:
                    self._lines[-1] += " of " + ", ".join(dict.fromkeys(key[0] for key in node.keys))
                values |= {_Key(name, call, number): tensor for number, tensor in enumerate(outputs)}
                previous = _Key(name, call, 0)
            waiting = [one for one in waiting if one not in ready]
        return [values[out[0]]]

    def _call(
        self, where: str, entry: Mapping[str, Any], call: "_Call", weights: "_Deferred", above: str
    ) -> list[Tensor]:
        kind, config = entry["class_name"], entry["config"]
        try:
            inputs = list(_tensors(call.arguments))
            if not isinstance(self._store, _Tree):
                _check_older(config)
            if is_operation(entry):
                at = Reading(
                    str(config.get("name")), config, inputs, _NONE, self._building, call.arguments, call.keywords
                )
                read = read_operation(kind, at)
            elif kind in _NESTED:
                _check_model(entry)
                return self._model(entry, call.alone(), weights.inside(), f"{where}: ")
            elif kind == "TimeDistributed" and config["layer"]["class_name"] in _NESTED:
                check_plain(entry)
                return self._model_for_each_step(where, config["layer"], call.alone(), weights.inside("layer/"))
            else:
                check_plain(entry)
                given, options = call.of_layer(kind)
                read = READERS[kind](
                    Reading(config["name"], config, given, weights.layer(), self._building, given, options)
                )
        except Unsupported as error:
            raise _at(where, error) from None
        if not (above and kind == "InputLayer"):
            self._lines.append(read.line)
        return read.outputs

    def _model_for_each_step(
        self, where: str, model: Mapping[str, Any], inputs: list[Tensor], store: _Store
    ) -> list[Tensor]:
        _check_model(model)
        if len(inputs) != 1:
            raise Unsupported(f"it takes {len(inputs)} inputs, expected one")
        inner = _Model(self._path, store)
        outputs = inner._model(model, [Tensor(-1, one_step(inputs[0]))], store, f"{where}: ")
        self._lines += [f"TimeDistributed({line})" for line in inner._lines]
        return for_each_step(self._building, inputs[0], inner._building, outputs)


def _check_older(config: Mapping[str, Any]) -> None:
    axis = config.get("axis")
    if isinstance(axis, list) and len(axis) > 1:  # keras/src/legacy/saving/saving_utils.py
        raise Unsupported(f"axis={axis!r}, which Keras forgets when it loads an .h5 file; save it as .keras")


def _check_model(entry: Mapping[str, Any]) -> None:
    module = entry.get("module") or "keras"  # the older .h5 names no modules
    if entry.get("registered_name") not in (None, "Functional") or not str(module).startswith("keras"):
        raise Unsupported(f"a custom class of {module}, whose code the converter does not run", NO_CODE_RUNS)
    check_float32(entry["config"])


class _Named(Unsupported):
    """Its message names its layer already."""


def _at(where: str, error: Unsupported) -> Unsupported:
    return error if isinstance(error, _Named) else _Named(f"{where}: {error}", error.hint)


class _Deferred:
    """A layer's weights; its place among the others is taken now, as Keras counts them all."""

    def __init__(self, store: _Store, entry: Mapping[str, Any]) -> None:
        self._store, self._entry = store, entry
        self._weights = None if is_operation(entry) else store.layer(entry)

    def layer(self) -> Weights:
        assert self._weights is not None
        return self._weights()

    def inside(self, below: str = "") -> _Store:
        return self._store.inside(self._entry, below)


class _NoWeights:
    def take(self, shapes: Mapping[str, Shape], below: str = "") -> list[Float64]:  # noqa: ARG002
        raise Unsupported(f"no weights in the file, expected {', '.join(shapes)}")


_NONE = _NoWeights()
_KEYWORDS = {
    "MultiHeadAttention": ("query", "value", "key", "use_causal_mask"),
    "Attention": ("use_causal_mask",),
    "AdditiveAttention": ("use_causal_mask",),
}
"""What a layer may be called with but its inputs; the first ones may be inputs."""
_UNCHANGED = (None, False)
"""Keywords of these values change nothing: training=False, mask=None ..."""


@dataclass(frozen=True, slots=True)
class _Call:
    """One call of a layer: with keys of tensors, or with the tensors themselves; constants, lists, slices too."""

    arguments: list[Any]
    keywords: dict[str, Any]

    @classmethod
    def read(cls, node: Any) -> "_Call":
        if isinstance(node, list):  # the older form: [[layer, call, output, keywords], ...]
            keywords = {key: value for entry in node if len(entry) > 3 for key, value in entry[3].items()}
            found: list[Any] = [_Key(str(entry[0]), int(entry[1]), int(entry[2])) for entry in node]
        else:
            keywords, found = node["kwargs"], [_argument(one) for one in node["args"]]
        given = {key: _argument(value) for key, value in keywords.items()}
        return cls(found, {key: value for key, value in given.items() if not _is_one_of(value, _UNCHANGED)})

    @property
    def keys(self) -> list["_Key"]:
        return [*_leaves(self.arguments, _Key), *_leaves([*self.keywords.values()], _Key)]

    def with_tensors(self, values: Mapping["_Key", Tensor]) -> "_Call":
        def put(value: Any) -> Any:
            if isinstance(value, _Key):
                return values[value]
            return [put(one) for one in value] if isinstance(value, list) else value

        return _Call(put(self.arguments), {key: put(value) for key, value in self.keywords.items()})

    def alone(self) -> list[Tensor]:
        """Its tensors, where there is nothing else."""
        return self.of_layer("")[0]

    def of_layer(self, kind: str) -> tuple[list[Tensor], dict[str, Any]]:
        """Tensors and options. Raises Unsupported for what a layer of this kind is not known to take."""
        known = _KEYWORDS.get(kind, ())
        others = sorted(set(self.keywords) - set(known))
        numbers = [one for one in _leaves(self.arguments, object) if not isinstance(one, Tensor) and one is not None]
        if others or numbers:
            told = ", ".join(others) or ", ".join(map(str, numbers))
            raise Unsupported(f"it is called with {told}, expected its input alone")
        named = [self.keywords[key] for key in known if isinstance(self.keywords.get(key), Tensor)]
        options = {key: value for key, value in self.keywords.items() if not isinstance(value, Tensor)}
        return [*_leaves(self.arguments, Tensor), *named], options


def _is_one_of(value: Any, few: tuple[Any, ...]) -> bool:
    return any(value is one for one in few)


def _leaves(value: Any, kind: type[Any]) -> Iterator[Any]:
    if isinstance(value, list):
        for entry in value:
            yield from _leaves(entry, kind)
    elif isinstance(value, kind):
        yield value


def _tensors(arguments: list[Any]) -> Iterator[Tensor]:
    yield from _leaves(arguments, Tensor)


def _argument(value: Any) -> Any:
    """As it stands in the configuration, to a key of a tensor, a number, an array, a slice, or a list of these."""
    if isinstance(value, list | tuple):
        return [_argument(one) for one in value]
    if not isinstance(value, dict):
        return value
    config: Any = value.get("config")
    match value.get("class_name"):
        case "__keras_tensor__":
            name, call, output = config["keras_history"]
            return _Key(str(name), int(call), int(output))
        case "__numpy__" | "__tensor__":
            return np.asarray(config["value"], np.float64)
        case "__slice__":
            ends = [config.get(key) for key in ("start", "stop", "step")]
            if not all(one is None or (isinstance(one, int) and not isinstance(one, bool)) for one in ends):
                raise ValueError(f"a part from {ends[0]} to {ends[1]}")
            return slice(*ends)
        case "__ellipsis__":
            return ...
        case kind:
            raise ValueError(f"a layer is called with a {kind}")


def _keys(value: Any) -> list[_Key]:
    """A model's inputs or outputs: [layer, call, output], or a list or an object of such."""
    entries = list(value.values()) if isinstance(value, dict) else [value] if _is_key(value) else list(value)
    return [_Key(str(name), int(call), int(output)) for name, call, output in entries]


def _is_key(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 3 and isinstance(value[0], str)


def _reachable(layers: list[tuple[Layer, tuple[int, ...]]], output: int) -> list[tuple[Layer, tuple[int, ...]]]:
    """Only what the output depends on; it comes last."""
    needed = {output}
    for number in range(output, -1, -1):
        if number in needed:
            needed |= set(layers[number][1])
    place = {-1: -1} | {number: index for index, number in enumerate(sorted(needed - {-1}))}
    return [(layers[number][0], tuple(place[one] for one in layers[number][1])) for number in sorted(needed - {-1})]
