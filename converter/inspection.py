"""What is in a Keras file, a .tflite file or a bundle: layers, operators, tensors, work and memory of a window."""

import hashlib
import math
import zipfile
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from converter.errors import ModelRejected
from converter.keras_archive import checked_content
from converter.keras_model import load_keras
from converter.memory import measured_bytes
from converter.reference import reference_in_words
from gateway.bundle import Bundle, load_bundle
from gateway.bundle.reading import MANIFEST_FILE
from gateway.errors import InputRejected

_ARENA_ALIGNMENT = 64  # tensorflow/lite/simple_memory_arena.h, kDefaultArenaAlignment
_IDENTIFIER = b"TFL3"
_TFLITE_BYTES_MAX = (2 << 30) - 1  # of any flatbuffer
_HINT = "Give a Keras model (.keras, .h5), a .tflite file, or a bundle."


@dataclass(frozen=True, slots=True)
class LayerEntry:
    """macs: multiply-accumulates a window; None where they are not known for this kind of layer."""

    name: str
    kind: str
    output: tuple[int | None, ...]
    parameters: int
    macs: int | None


@dataclass(frozen=True, slots=True)
class KerasInspection:
    """stored: numbers in the file, with the optimizer's slots where it has them. macs: of the layers that know."""

    path: str
    sha256: str
    size: int
    inputs: tuple[tuple[int | None, ...], ...]
    outputs: tuple[tuple[int | None, ...], ...]
    layers: tuple[LayerEntry, ...]
    parameters: int
    trainable: int
    stored: int | None
    macs: int


@dataclass(frozen=True, slots=True)
class OperatorEntry:
    number: int
    name: str
    version: int
    output: tuple[int, ...]
    macs: int


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """kind: input, output, constant, variable or computed. scales: of a quantized one, on `axis`, else 0."""

    number: int
    name: str
    kind: str
    type: str
    shape: tuple[int, ...]
    size: int
    scales: int
    axis: int | None


@dataclass(frozen=True, slots=True)
class TfliteInspection:
    """Sizes in bytes. parameters: numbers in constants that are not shapes or indices.

    arena: what the computed tensors need when they share memory as TFLite's planner lets them (greedy by size), without
    the kernels' own scratch. variables: state beside it. memory: what a process grows by, measured, file included.
    """

    size: int
    sha256: str
    operators: tuple[OperatorEntry, ...]
    tensors: tuple[TensorEntry, ...]
    parameters: int
    macs: int
    arena: int
    variables: int
    memory: int | None

    def counted(self) -> dict[str, int]:
        """Operators and how often each stands in the graph."""
        return dict(sorted(Counter(operator.name for operator in self.operators).items()))


@dataclass(frozen=True, slots=True)
class BundleInspection:
    path: str
    digest: str
    manifest: dict[str, Any]
    drift_reference: str
    """In words: of what, and from what."""
    variants: dict[str, TfliteInspection] = field(default_factory=dict)


Inspection = KerasInspection | TfliteInspection | BundleInspection


def inspect(path: str | Path, *, progress: Callable[[str], None] = lambda _: None) -> Inspection:
    """A .keras or .h5 file, a .tflite file, or a bundle (folder or .zip). progress: told what takes seconds.

    Raises InputRejected.
    """
    path = Path(path)
    if path.suffix.lower() in (".keras", ".h5", ".hdf5") and not (path / MANIFEST_FILE).exists():
        return inspect_keras(path, progress=progress)
    if path.is_dir() or path.suffix.lower() == ".zip":
        return inspect_bundle(load_bundle(path))
    if path.exists() and not path.is_file():
        raise InputRejected(f"{path} is no file", hint=_HINT)
    try:
        with path.open("rb") as file:
            content = file.read(_TFLITE_BYTES_MAX + 1)
    except OSError as error:
        raise InputRejected(f"{path}: {error.strerror}", hint=_HINT) from None
    if len(content) > _TFLITE_BYTES_MAX:
        raise InputRejected(f"{path} has more than {_TFLITE_BYTES_MAX} bytes", hint=_HINT)
    return inspect_tflite(content, str(path))


def inspect_bundle(bundle: Bundle) -> BundleInspection:
    manifest = bundle.manifest
    variants = {name: inspect_tflite(bundle.model_file(name), name) for name in manifest.variants}
    reference = reference_in_words(manifest.drift_reference, manifest.reference_data)
    return BundleInspection(str(bundle.path), bundle.digest, manifest.model_dump(mode="json"), reference, variants)


# Keras


def inspect_keras(path: Path, *, progress: Callable[[str], None] = lambda _: None) -> KerasInspection:
    """Raises ModelRejected."""
    content = checked_content(path)
    progress(f"loading {path} into Keras")
    model = load_keras(path)
    if not model.built or not model.inputs:
        hint = "Build it, model.build((None, window, channels)), and save it again."
        raise ModelRejected(f"{path}: the shape of its input is not in the file", hint=hint)
    layers = tuple(
        LayerEntry(layer.name, _kind(layer), _output(layer), int(layer.count_params()), _macs_of(layer))
        for layer in model.layers
    )
    trainable = sum(_count(variable) for variable in model.trainable_variables)
    return KerasInspection(
        path=str(path),
        sha256=hashlib.sha256(content).hexdigest(),
        size=len(content),
        inputs=tuple(tuple(entry.shape) for entry in model.inputs),
        outputs=tuple(tuple(entry.shape) for entry in model.outputs),
        layers=layers,
        parameters=int(model.count_params()),
        trainable=trainable,
        stored=_stored(path),
        macs=sum(layer.macs or 0 for layer in layers),
    )


def _kind(layer: Any) -> str:
    inner = getattr(layer, "layer", None) or getattr(layer, "forward_layer", None)
    return type(layer).__name__ + (f"({type(inner).__name__})" if inner is not None else "")


def _output(layer: Any) -> tuple[int | None, ...]:
    try:
        return tuple(layer.output.shape)
    except (AttributeError, ValueError):  # several outputs, or a layer that was called twice
        return ()


def _macs_of(layer: Any) -> int | None:
    """Products of weights and inputs, and of inputs with each other in attention; element-wise work (activations,
    normalizations, gates) does not count."""
    kind, output = type(layer).__name__, _output(layer)
    steps = math.prod(int(side or 1) for side in output[1:-1])
    if kind == "Bidirectional":
        both = [_recurrent_macs(inner, layer.input.shape[1]) for inner in (layer.forward_layer, layer.backward_layer)]
        return None if None in both else sum(value or 0 for value in both)
    if kind == "TimeDistributed":
        inner = _macs_of(layer.layer)
        return None if inner is None else int(output[1] or 1) * inner
    if hasattr(layer, "cell"):
        return _recurrent_macs(layer, layer.input.shape[1])
    if kind in ("Dense", "Conv1D", "DepthwiseConv1D", "Conv2D", "DepthwiseConv2D"):
        return steps * _count(layer.kernel)
    if kind in ("SeparableConv1D", "SeparableConv2D"):
        return steps * (_count(layer.depthwise_kernel) + _count(layer.pointwise_kernel))
    if kind in ("MultiHeadAttention", "Attention", "AdditiveAttention"):
        calls = [_attention_macs(layer, _query_value_key(layer, node.arguments)) for node in layer._inbound_nodes]
        return None if None in calls else sum(value or 0 for value in calls)
    return 0 if all(len(weight.shape) < 2 for weight in layer.weights) else None


def _query_value_key(layer: Any, arguments: Any) -> list[tuple[int | None, ...]]:
    """Shapes of what one call of an attention layer was given; the values are the keys where no others are."""
    bound = signature(layer.call).bind(*arguments.args, **arguments.kwargs).arguments
    given = bound["inputs"] if "inputs" in bound else [bound["query"], bound["value"], bound.get("key")]
    query, value, *keys = (tuple(tensor.shape) for tensor in given if tensor is not None)
    return [query, value, keys[0] if keys else value]


def _attention_macs(layer: Any, shapes: list[tuple[int | None, ...]]) -> int | None:
    """Of one call: the projections, the scores (queries x keys x width), and the values' weighted sum."""
    if any(len(shape) != 3 or None in shape[1:] for shape in shapes):
        return None
    (queries, _), (keys, value_width), (_, width) = (tuple(int(side or 0) for side in shape[1:]) for shape in shapes)
    match type(layer).__name__:
        case "MultiHeadAttention":
            config = layer.get_config()
            heads = config["num_heads"]
            width, value_width = heads * config["key_dim"], heads * (config["value_dim"] or config["key_dim"])
            of_query = [layer.query_dense, layer.output_dense, *([layer._gate_dense] if config["use_gate"] else [])]
            projections = queries * sum(_count(dense.kernel) for dense in of_query)
            projections += keys * (_count(layer.key_dense.kernel) + _count(layer.value_dense.kernel))
            return int(projections + queries * keys * (width + value_width))
        case "Attention" if layer.score_mode == "concat":  # its scores are sums, no products
            width = 0
        case "AdditiveAttention" if not layer.use_scale:
            width = 0
    return int(queries * keys * (width + value_width))


def _recurrent_macs(layer: Any, steps: int | None) -> int | None:
    cell = getattr(layer, "cell", None)
    kernels = [getattr(cell, name, None) for name in ("kernel", "recurrent_kernel")]
    if steps is None or any(kernel is None for kernel in kernels):
        return None
    return int(steps) * sum(_count(kernel) for kernel in kernels if kernel is not None)


def _count(variable: Any) -> int:
    return math.prod(int(side) for side in variable.shape)


def _stored(path: Path) -> int | None:
    """All numbers in the file's HDF5 part, the optimizer's among them."""
    import h5py

    counted = 0

    def add(_name: str, entry: Any) -> None:
        nonlocal counted
        if isinstance(entry, h5py.Dataset) and entry.dtype.kind in "fiu":
            counted += int(np.prod(entry.shape, dtype=np.int64))

    try:
        with ExitStack() as opened:
            place: Any = path
            if zipfile.is_zipfile(path):
                archive = opened.enter_context(zipfile.ZipFile(path))
                place = opened.enter_context(archive.open("model.weights.h5"))
            opened.enter_context(h5py.File(place, "r")).visititems(add)
    except (OSError, KeyError, zipfile.BadZipFile):
        return None
    return counted


# TFLite


def inspect_tflite(content: bytes, name: str) -> TfliteInspection:
    """name: of the file, for its errors. Raises InputRejected for what is no .tflite file."""
    if content[4:8] != _IDENTIFIER:
        raise InputRejected(f"{name}: found no TFLite file (its identifier TFL3 is missing)", hint=_HINT)
    try:
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
        graph = model.subgraphs[0]
        tensors = tuple(_tensor(model, graph, number) for number in range(len(graph.tensors)))
        operators = tuple(_operator(model, graph, number) for number in range(len(graph.operators)))
        arena = _arena(graph, tensors)
    except Exception as error:  # damaged bytes make the flatbuffer's reader raise anything
        raise InputRejected(f"{name}: found a damaged TFLite file ({type(error).__name__})", hint=_HINT) from None
    weights = [tensor for tensor in tensors if tensor.kind == "constant" and tensor.type not in ("INT32", "INT64")]
    return TfliteInspection(
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        operators=operators,
        tensors=tensors,
        parameters=sum(math.prod(tensor.shape) for tensor in weights),
        macs=sum(operator.macs for operator in operators),
        arena=arena,
        variables=sum(tensor.size for tensor in tensors if tensor.kind == "variable"),
        memory=measured_bytes(content),
    )


_TYPE_NAMES = {value: name for name, value in vars(schema.TensorType).items() if not name.startswith("_")}
_TYPE_BYTES = {"FLOAT32": 4, "INT32": 4, "FLOAT16": 2, "INT16": 2, "INT8": 1, "UINT8": 1, "BOOL": 1, "INT64": 8}
_OPERATOR_NAMES = {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}


def _tensor(model: Any, graph: Any, number: int) -> TensorEntry:
    tensor = graph.tensors[number]
    shape = tuple(int(side) for side in (tensor.shape if tensor.shape is not None else ()))
    type_name = _TYPE_NAMES[tensor.type]
    data = model.buffers[tensor.buffer].data
    quantization = tensor.quantization
    scales = 0 if quantization is None or quantization.scale is None else len(quantization.scale)
    if data is not None and len(data):
        kind, size = "constant", len(data)
    else:
        size = math.prod(shape) * _TYPE_BYTES.get(type_name, 4)
        kind = "variable" if tensor.isVariable else "computed"
        if number in graph.inputs:
            kind = "input"
        elif number in graph.outputs:
            kind = "output"
    axis = int(quantization.quantizedDimension) if scales > 1 else None
    return TensorEntry(number, (tensor.name or b"").decode(), kind, type_name, shape, size, scales, axis)


def _operator(model: Any, graph: Any, number: int) -> OperatorEntry:
    operator = graph.operators[number]
    code = model.operatorCodes[operator.opcodeIndex]
    name = _OPERATOR_NAMES[max(code.builtinCode, code.deprecatedBuiltinCode)]

    def shape(tensor: int) -> tuple[int, ...]:
        return tuple(int(side) for side in graph.tensors[tensor].shape)

    output = shape(operator.outputs[0])
    return OperatorEntry(number, name, int(code.version), output, _macs(name, [*operator.inputs], shape, output))


def _macs(name: str, inputs: list[int], shape: Callable[[int], tuple[int, ...]], output: tuple[int, ...]) -> int:
    match name:
        case "CONV_2D":  # kernel (out, height, width, in)
            return math.prod(output) * math.prod(shape(inputs[1])[1:])
        case "DEPTHWISE_CONV_2D":  # kernel (1, height, width, out)
            return math.prod(output) * math.prod(shape(inputs[1])[1:3])
        case "FULLY_CONNECTED":  # kernel (out, in)
            return math.prod(output[:-1]) * math.prod(shape(inputs[1]))
        case "BATCH_MATMUL":
            return math.prod(output) * shape(inputs[0])[-1]
        case "UNIDIRECTIONAL_SEQUENCE_LSTM":  # four kernels (units, in) and four (units, units)
            return output[-2] * sum(math.prod(shape(tensor)) for tensor in inputs[1:9] if tensor >= 0)
    return 0


def _arena(graph: Any, tensors: tuple[TensorEntry, ...]) -> int:
    """Greedy by size: the largest first, each at the lowest place where it meets no other that lives with it.

    (Pisarchyk, Lee: Efficient Memory Management for Deep Neural Net Inference, 2020; tensorflow/lite/arena_planner.cc)
    """
    end = len(graph.operators)
    lives: dict[int, tuple[int, int]] = {}
    for number, operator in enumerate(graph.operators):
        for tensor in [*operator.inputs, *operator.outputs]:
            first, _ = lives.get(int(tensor), (number, number))
            lives[int(tensor)] = (first, number)
    for tensor in graph.inputs:
        lives[int(tensor)] = (0, lives.get(int(tensor), (0, 0))[1])
    for tensor in graph.outputs:
        lives[int(tensor)] = (lives.get(int(tensor), (0, 0))[0], end)
    shared = [t for t in tensors if t.number in lives and t.kind in ("input", "output", "computed")]
    placed: list[tuple[int, int, int, int]] = []  # offset, size, first, last
    for tensor in sorted(shared, key=lambda t: -t.size):
        first, last = lives[tensor.number]
        offset = 0
        for other, size, begins, ends in sorted(placed):
            if begins <= last and first <= ends:
                if other - offset >= tensor.size:
                    break
                offset = max(offset, -(-(other + size) // _ARENA_ALIGNMENT) * _ARENA_ALIGNMENT)
        placed.append((offset, tensor.size, first, last))
    return max((offset + size for offset, size, _, _ in placed), default=0)
