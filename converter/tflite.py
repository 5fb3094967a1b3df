"""A TFLite flatbuffer, written tensor by tensor, and read back.

Written directly after the public schema (tensorflow/lite/schema/schema.fbs, as ai_edge_litert.schema_py_generated)
rather than by TensorFlow's converter: that one sets cell_clip to 10 in every fused LSTM, which Keras does not have, and
leaves the choice of operator versions and quantized tensors to itself.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from converter.errors import ConversionFailed

_FILE_IDENTIFIER = b"TFL3"
_SCHEMA_VERSION = 3
_BUFFER_ALIGNMENT = 16  # kernels load weights by SIMD words straight out of the file

_FLOAT32 = np.dtype(np.float32)
_TYPES = {_FLOAT32: "FLOAT32", np.dtype(np.int8): "INT8", np.dtype(np.int32): "INT32", np.dtype(bool): "BOOL"}
IN_PLACE = frozenset({"ADD", "SUB", "MUL", "DIV", "SOFTMAX"})
"""Operators that ai-edge-litert 2.3 computes in the memory of an input that nothing else takes."""
_OPERATOR_NAMES = {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
ABSENT = -1
"""Stands for an optional input that an operator does without."""


class _AlignedBuffer(schema.BufferT):  # type: ignore[misc]
    """The generated Pack aligns to 4 bytes only."""

    def Pack(self, builder: flatbuffers.Builder) -> int:
        vector = None
        if self.data is not None:
            data = self.data.tobytes()
            builder.StartVector(1, len(data), _BUFFER_ALIGNMENT)
            builder.head -= len(data)
            builder.Bytes[builder.head : builder.head + len(data)] = data
            vector = builder.EndVector()
        schema.BufferStart(builder)
        if vector is not None:
            schema.BufferAddData(builder, vector)
        return int(schema.BufferEnd(builder))


class _SharingBuilder(flatbuffers.Builder):  # type: ignore[misc]
    """Equal vectors are stored once: each scale of an int8 weight has a zero point of 8 bytes, all of them 0, and the
    runtime takes no tensor without them."""

    def __init__(self, initial_size: int) -> None:
        super().__init__(initial_size)
        self._stored: dict[tuple[str, bytes], int] = {}

    def CreateNumpyVector(self, x: NDArray[Any]) -> int:
        key = (x.dtype.str, x.tobytes())
        if key not in self._stored:
            self._stored[key] = int(super().CreateNumpyVector(x))
        return self._stored[key]


class Graph:
    """One subgraph in the making; tensors are known by their index."""

    def __init__(self) -> None:
        self._tensors: list[Any] = []
        self._buffers: list[Any] = [_AlignedBuffer()]  # buffer 0 is the empty one, of every computed tensor
        self._operators: list[Any] = []
        self._codes: list[tuple[int, int]] = []
        self._scalars: dict[float, int] = {}
        self._steps = 0

    def scalar(self, value: float) -> int:
        """A float32 constant of shape (1,), stored once however often it is asked for."""
        if value not in self._scalars:
            self._scalars[value] = self.constant(f"scalar{len(self._scalars)}", np.array([value], np.float64))
        return self._scalars[value]

    def constant(self, name: str, values: NDArray[Any]) -> int:
        """float64 becomes float32; int32 stays."""
        if values.dtype == np.float64:
            with np.errstate(over="ignore"):  # infinite weights show in the parity figures
                values = values.astype(np.float32)
        return self._stored(name, values, None)

    def _stored(self, name: str, values: NDArray[Any], quantization: Any) -> int:
        buffer = _AlignedBuffer()
        buffer.data = values
        self._buffers.append(buffer)
        return self._tensor(name, values.shape, values.dtype, len(self._buffers) - 1, quantization)

    def computed(self, name: str, shape: Sequence[int], dtype: np.dtype[Any] = _FLOAT32) -> int:
        return self._tensor(name, shape, dtype, 0, None)

    def variable(self, name: str, shape: Sequence[int]) -> int:
        """Keeps its value from one invoke to the next, until the interpreter resets it to zero."""
        index = self._tensor(name, shape, _FLOAT32, 0, None)
        self._tensors[index].isVariable = True
        return index

    def _tensor(self, name: str, shape: Sequence[int], dtype: np.dtype[Any], buffer: int, quantization: Any) -> int:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.buffer = name, [int(side) for side in shape], buffer
        tensor.type = getattr(schema.TensorType, _TYPES[dtype])
        tensor.quantization = quantization
        tensor.hasRank = True
        self._tensors.append(tensor)
        return len(self._tensors) - 1

    def rename(self, tensor: int, name: str) -> None:
        self._tensors[tensor].name = name

    def shape(self, tensor: int) -> tuple[int, ...]:
        return tuple(self._tensors[tensor].shape)

    def operate(
        self,
        operator: str,
        inputs: Sequence[int],
        shape: Sequence[int],
        *,
        version: int = 1,
        options: str = "",
        name: str = "",
        dtype: np.dtype[Any] = _FLOAT32,
        **values: object,
    ) -> int:
        """Adds a builtin operator with one output of this shape, which it returns. values: fields of its options."""
        (output,) = self.operate_many(
            operator, inputs, [shape], version=version, options=options, name=name, dtype=dtype, **values
        )
        return output

    def operate_many(
        self,
        operator: str,
        inputs: Sequence[int],
        shapes: Sequence[Sequence[int]],
        *,
        version: int = 1,
        options: str = "",
        name: str = "",
        dtype: np.dtype[Any] = _FLOAT32,
        **values: object,
    ) -> list[int]:
        """Like operate, with an output for each shape."""
        code = (getattr(schema.BuiltinOperator, operator), version)
        if code not in self._codes:
            self._codes.append(code)
        made = schema.OperatorT()
        made.opcodeIndex, made.inputs = self._codes.index(code), list(inputs)
        if options:
            made.builtinOptionsType = getattr(schema.BuiltinOptions, options)
            made.builtinOptions = getattr(schema, options + "T")(**values)
        self._steps += 1
        prefix = name or f"{self._steps}_{operator.lower()}"
        names = [prefix] if len(shapes) == 1 else [f"{prefix}_{number}" for number in range(len(shapes))]
        made.outputs = [self.computed(name, shape, dtype) for name, shape in zip(names, shapes, strict=True)]
        self._operators.append(made)
        return list(made.outputs)

    def _keep_apart(self, outputs: Iterable[int]) -> None:
        """Copies what a RESHAPE takes where its memory would be overwritten while it is still to be read.

        LiteRT's planner lets a RESHAPE share its input's memory, and some operators overwrite an input's. Before that
        it looks at who else takes the input, and the tensor whose memory that first was, but at none between the two.
        """
        made, self._operators = self._operators, []
        kinds = {id(operator): self._kind(operator) for operator in made}
        makers = {output: kinds[id(operator)] for operator in made for output in operator.outputs}
        uses, takers = Counter(outputs), defaultdict[int, set[str]](set)
        for operator in made:
            uses.update(operator.inputs)
            for tensor in operator.inputs:
                takers[tensor].add(kinds[id(operator)])
        for operator in made:
            source, output = operator.inputs[0], operator.outputs[0]
            in_place = kinds[id(operator)] == "RESHAPE" and makers.get(source) in IN_PLACE and takers[output] & IN_PLACE
            if in_place and uses[source] > 1:
                shape = self.shape(source)
                begin = self.constant(f"begin{output}", np.zeros(len(shape), np.int32))
                size = self.constant(f"size{output}", np.array(shape, np.int32))
                operator.inputs[0] = self.operate("SLICE", [source, begin, size], shape, options="SliceOptions")
            self._operators.append(operator)

    def _kind(self, operator: Any) -> str:
        return str(_OPERATOR_NAMES[self._codes[operator.opcodeIndex][0]])

    def finish(self, inputs: Mapping[str, int], outputs: Mapping[str, int], *, description: str) -> bytes:
        """The file. inputs and outputs: names in the signature, and their tensors."""
        self._keep_apart(outputs.values())
        graph = schema.SubGraphT()
        graph.tensors, graph.operators = self._tensors, self._operators
        graph.inputs, graph.outputs = list(inputs.values()), list(outputs.values())
        graph.name = "main"
        signature = schema.SignatureDefT()
        signature.signatureKey = "serving_default"
        signature.inputs, signature.outputs = _tensor_map(inputs), _tensor_map(outputs)
        model = schema.ModelT()
        model.version, model.description = _SCHEMA_VERSION, description
        model.operatorCodes = [_operator_code(*code) for code in self._codes]
        model.subgraphs, model.buffers, model.signatureDefs = [graph], self._buffers, [signature]
        return packed(model)


def unpacked(model: bytes) -> Any:
    """A file as the schema's ModelT, to be changed and packed again."""
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(model, 0))


def operator_code(model: Any, builtin: int, version: int) -> int:
    """The index of this operator in a schema.ModelT, which gets it where it does not have it."""
    for number, code in enumerate(model.operatorCodes):
        if (code.builtinCode, code.version) == (builtin, version):
            return number
    model.operatorCodes.append(_operator_code(builtin, version))
    return len(model.operatorCodes) - 1


def packed(model: Any) -> bytes:
    """The file of a schema.ModelT, every buffer aligned as kernels need it."""
    aligned = []
    for buffer in model.buffers:
        made = _AlignedBuffer()
        made.data = None if buffer.data is None else np.asarray(buffer.data)
        aligned.append(made)
    model.buffers = aligned
    builder = _SharingBuilder(1 << 20)
    builder.Finish(model.Pack(builder), file_identifier=_FILE_IDENTIFIER)
    return bytes(builder.Output())


def _tensor_map(tensors: Mapping[str, int]) -> list[Any]:
    made = []
    for name, index in tensors.items():
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = name, index
        made.append(entry)
    return made


def _operator_code(builtin: int, version: int) -> Any:
    code = schema.OperatorCodeT()
    code.builtinCode, code.version = builtin, version
    code.deprecatedBuiltinCode = min(builtin, 127)  # the older field is a byte; 127 says: read the newer one
    return code


def checked_operators(model: bytes) -> dict[str, int]:
    """Reads a .tflite file back: its builtin operators and how often each stands in it, by name.

    Raises ConversionFailed where one is no builtin, where an LSTM clips its cell state or where a buffer is not
    aligned.
    """
    root = schema.Model.GetRootAs(model, 0)
    graph = root.Subgraphs(0)
    counted: Counter[str] = Counter()
    for number in range(graph.OperatorsLength()):
        operator = graph.Operators(number)
        code = root.OperatorCodes(operator.OpcodeIndex())
        name = _OPERATOR_NAMES[code.BuiltinCode()]
        if name == "CUSTOM" or code.CustomCode() is not None:
            raise ConversionFailed(f"operator {number} ({code.CustomCode()!r}) is no TFLite builtin")
        counted[name] += 1
        if name == "UNIDIRECTIONAL_SEQUENCE_LSTM":
            options = schema.UnidirectionalSequenceLSTMOptions()
            options.Init(operator.BuiltinOptions().Bytes, operator.BuiltinOptions().Pos)
            if options.CellClip() != 0 or options.ProjClip() != 0:
                raise ConversionFailed(f"operator {number} clips its cell state at {options.CellClip()}")
    for number in range(root.BuffersLength()):
        buffer = root.Buffers(number)
        if buffer.DataLength() and buffer._tab.Vector(buffer._tab.Offset(4)) % _BUFFER_ALIGNMENT:
            raise ConversionFailed(f"buffer {number} is not aligned to {_BUFFER_ALIGNMENT} bytes")
    return dict(sorted(counted.items()))
