"""Full-integer quantization as TensorFlow does it: weights and activations in int8, after a calibration on windows.

TensorFlow's own calibrator and quantizer work here (tensorflow.lite.python.optimize.calibrator) on our float graph. The
graph begins behind the scaler, as the Keras model does: int8 has one scale for a whole tensor, and one for m/s² and
deg/s together would leave a few counts of the acceleration. The scaler is put before it in float afterwards.

Three things around the calibrator decide whether its result is the model that went in:

- It does not reset an LSTM's state between windows, so ranges would depend on their order: its interpreter is prepared
  again before each window, which does.
- An operator may write its output over its input (tensorflow/lite/arena_planner.cc), and the calibrator looks at inputs
  once more after the operator has run (LoggingEval in tensorflow/lite/tools/optimize/calibration/calibrator.cc). So an
  LSTM before an addition would get the range of the sum. Outputs of the graph are never written over: all tensors
  are outputs while ranges are taken.
- The LSTM kernel has a tanh for cell states up to 2^6; with a wider range it computes none at all and says nothing
  (PortableApplyTanh in tensorflow/lite/kernels/internal/reference/portable_tensor_utils.cc). Ranges of cell states end
  there, and the state saturates at it, where tanh has long been 1.

The runtime resets an int8 state to its zero point (ResetVariableTensor in tensorflow/lite/core/api/tensor_utils.cc), an
int16 state, which is symmetric, to 0: both are the zero that a window begins with.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from converter.errors import CalibrationRejected, Int8Rejected
from converter.folding import fold_affines
from converter.keras_model import silent_stderr
from converter.layers import Affine, Float64, Layer, Node
from converter.lowering import lower
from converter.parity import Advanced, silent
from converter.probes import recorded_windows
from converter.reference import ReferenceRejected, npy_windows
from converter.tflite import operator_code, packed, unpacked
from converter.training_config import TrainingConfig
from gateway.inference.interpreter import LiteRtInterpreter
from gateway.motion.samples import Float32

CALIBRATION_WINDOWS = 500
"""What TensorFlow's guide asks for at most (https://ai.google.dev/edge/litert/models/post_training_quantization: around
100 to 500 samples). Ranges are extremes: they change little after that, and it takes seconds."""
CELL_STATE_MAX = 64.0
"""2^6, where the kernel's tanh ends."""
_LSTM_CELL_STATE = 19
"""Which input of UNIDIRECTIONAL_SEQUENCE_LSTM (tensorflow/lite/kernels/unidirectional_sequence_lstm.cc)."""
_REFUSED_OPERATOR = re.compile(r"Quantization not yet supported for op: '(\w+)'")


def calibration_windows(files: Sequence[str | Path], *, window: int, config: TrainingConfig) -> Float32:
    """(n, window, channels), raw units: at most CALIBRATION_WINDOWS of them, evenly spread over what the files hold.

    files: those of one recording, or .npy files of windows, which join. Raises CalibrationRejected, RecordingRejected.
    """
    paths = [Path(file) for file in files]
    named = ", ".join(map(str, paths))
    if paths and all(path.suffix.lower() == ".npy" for path in paths):
        try:
            windows = np.concatenate([npy_windows(path, window, config) for path in paths])
        except ReferenceRejected as error:
            raise CalibrationRejected(str(error)) from None
    else:
        windows = recorded_windows(paths, window=window, config=config)
    if not len(windows):
        raise CalibrationRejected(f"{named}: holds no window to calibrate on")
    chosen = np.linspace(0, len(windows) - 1, min(len(windows), CALIBRATION_WINDOWS)).round().astype(int)
    return np.ascontiguousarray(windows[chosen])


def full_int8(
    layers: Iterable[Layer | Node], windows: Float32, config: TrainingConfig, *, advanced: Advanced = silent
) -> bytes:
    """A .tflite file that takes raw windows, float32 at both ends and int8 between the scaler and the answers.

    layers: of the model, without the scaler, which `config` has. windows: (n, window, channels), raw units.
    Raises Int8Rejected where TensorFlow cannot quantize the model, CalibrationRejected where the windows are beyond
    what it can compute; ModuleNotFoundError without TensorFlow.
    """
    _, window, channels = windows.shape
    with np.errstate(over="ignore"):  # what becomes infinite is refused with the ranges
        scaled = ((windows.astype(np.float64) - np.array(config.mean)) / np.array(config.scale)).astype(np.float32)
    exact = lower(fold_affines(layers), window=window, channels=channels)
    made = _with_scaler(_quantized(_with_ranges(exact, scaled, advanced)), config.scaler())
    try:
        LiteRtInterpreter(made).run(windows[:1])
    except (ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise Int8Rejected(f"int8 cannot be made of this model: LiteRT does not run the result: {reason}") from None
    return made


def _calibrator(model: bytes) -> Any:
    with silent_stderr():
        from tensorflow.lite.python.optimize.calibrator import Calibrator

        return Calibrator(model)


def _with_ranges(exact: bytes, windows: Float32, advanced: Advanced) -> bytes:
    """The float model with the range of each tensor on these windows. windows: (n, window, channels), as it takes
    them."""
    with silent_stderr():
        from tensorflow.lite.python.optimize.calibrator import add_intermediate_tensors

    watched = unpacked(add_intermediate_tensors(exact))  # what an LSTM adds up within a step
    _prepare_products(watched)
    graph, signatures = watched.subgraphs[0], watched.signatureDefs
    outputs, watched.signatureDefs = list(graph.outputs), None
    computed = {int(tensor) for operator in graph.operators for tensor in operator.outputs}
    graph.outputs = sorted({*map(int, outputs), *computed})
    calibrator = _calibrator(packed(watched))

    def one_by_one() -> Iterator[list[Float32]]:
        for number, window in enumerate(windows):
            if number:
                calibrator._calibrator.Prepare()  # resets the states; before the first one it is prepared anyway
            yield [window[np.newaxis]]
            advanced(number + 1, len(windows))

    made = unpacked(calibrator.calibrate(one_by_one))
    graph = made.subgraphs[0]
    graph.outputs, made.signatureDefs = outputs, signatures
    ranges = [tensor.quantization for tensor in graph.tensors if _has_range(tensor)]
    largest = np.finfo(np.float32).max  # where the calibrator writes what is infinite
    if not all((np.abs([*each.min, *each.max]) < largest).all() for each in ranges):
        raise CalibrationRejected("the calibration's windows are beyond what the model can compute in float32")
    for operator in graph.operators:
        if made.operatorCodes[operator.opcodeIndex].builtinCode == schema.BuiltinOperator.UNIDIRECTIONAL_SEQUENCE_LSTM:
            cell = graph.tensors[operator.inputs[_LSTM_CELL_STATE]].quantization
            cell.min, cell.max = (np.clip(end, -CELL_STATE_MAX, CELL_STATE_MAX) for end in (cell.min, cell.max))
    return packed(made)


def _prepare_products(read: Any) -> None:
    """A bias of its own, and a range of the zero state, for each product of a recurrence that is written step by step.

    The quantizer rounds a bias once, to the scale of the first product that takes it, and the others take it for their
    own. A constant that is all zero would get the scale 0, and the bias beside it none.
    """
    graph, seen = read.subgraphs[0], set()
    for operator in graph.operators:
        if read.operatorCodes[operator.opcodeIndex].builtinCode != schema.BuiltinOperator.FULLY_CONNECTED:
            continue
        at, _, bias = (int(tensor) for tensor in operator.inputs)
        if bias in seen:
            entry = graph.tensors[bias]
            values = np.asarray(read.buffers[entry.buffer].data).view(np.float32)
            bias = _tensor(read, f"{entry.name.decode()}/{len(graph.tensors)}", entry.shape, values)
            operator.inputs = [*operator.inputs[:2], bias]
        elif bias >= 0:
            seen.add(bias)
        data = read.buffers[graph.tensors[at].buffer].data
        if data is not None and not np.any(data):
            quantization = graph.tensors[at].quantization = schema.QuantizationParametersT()
            quantization.min, quantization.max = np.array([-1.0], np.float32), np.array([1.0], np.float32)


def _has_range(tensor: Any) -> bool:
    return tensor.quantization is not None and tensor.quantization.min is not None


def _quantized(with_ranges: bytes) -> bytes:
    from tensorflow import float32

    try:
        made: bytes = _calibrator(with_ranges).calibrate_and_quantize(
            lambda: iter(()), input_type=float32, output_type=float32, allow_float=False
        )
    except (ValueError, RuntimeError) as error:
        refused = sorted(set(_REFUSED_OPERATOR.findall(str(error))))
        reason = (
            f"TensorFlow's quantizer does not know {', '.join(refused)}"
            if refused
            else f"TensorFlow's quantizer: {(str(error).splitlines() or [type(error).__name__])[0]}"
        )
        raise Int8Rejected(f"int8 cannot be made of this model: {reason}") from None
    return made


def _with_scaler(model: bytes, scaler: Affine) -> bytes:
    """The scaler between the model's input, which keeps its name, and whatever takes it."""
    read = unpacked(model)
    graph = read.subgraphs[0]
    entry = int(graph.inputs[0])
    shape, takers = graph.tensors[entry].shape, list(graph.operators)
    at, first = entry, []
    for name, builtin, values in (("scale", "MUL", scaler.scale), ("shift", "ADD", scaler.shift)):
        constant = _tensor(read, f"scaler/{name}", values.shape, values)
        made = schema.OperatorT()
        made.opcodeIndex = operator_code(read, getattr(schema.BuiltinOperator, builtin), 1)
        options = f"{builtin.capitalize()}Options"
        made.builtinOptionsType = getattr(schema.BuiltinOptions, options)
        made.builtinOptions = getattr(schema, f"{options}T")()
        made.inputs, made.outputs = [at, constant], [_tensor(read, f"scaler/{builtin.lower()}", shape)]
        (at,) = made.outputs
        first.append(made)
    for operator in takers:
        operator.inputs = [at if int(tensor) == entry else int(tensor) for tensor in operator.inputs]
    graph.operators = [*first, *takers]
    return packed(read)


def _tensor(read: Any, name: str, shape: Sequence[int], values: Float64 | Float32 | None = None) -> int:
    """The index of a new float32 tensor: a constant, or one that is computed."""
    made = schema.TensorT()
    made.name, made.shape, made.hasRank, made.type = (
        name,
        [int(side) for side in shape],
        True,
        schema.TensorType.FLOAT32,
    )
    made.buffer = 0
    if values is not None:
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(values.astype(np.float32).tobytes(), np.uint8)
        read.buffers.append(buffer)
        made.buffer = len(read.buffers) - 1
    read.subgraphs[0].tensors.append(made)
    return len(read.subgraphs[0].tensors) - 1
