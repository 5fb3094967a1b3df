"""Windows with known answers for a bundle, to be run again on the device."""

import io
from collections.abc import Mapping

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from converter.parity import margins
from converter.sensors import at_rest, full_scale
from converter.training_config import TrainingConfig
from gateway.bundle.manifest import SelfTest
from gateway.bundle.writing import member
from gateway.inference.interpreter import LiteRtInterpreter
from gateway.motion.samples import Float32
from gateway.motion.units import STANDARD_GRAVITY_M_S2

SELF_TEST_FILE = "self_test.npy"
_CHOSEN_MARGIN = 0.2
"""Between the two best classes: on a window that is nearly a tie, rounding alone would tell another class."""
RANDOM_WINDOWS = 8
FLOAT_TOLERANCE = 1e-3
"""Of graphs that compute in float: another processor's order of summation, with room."""
HYBRID_TOLERANCE = 0.05
"""Of kernels that quantize activations as they come: a value at a rounding edge may fall to the other side."""


def make_self_test(
    windows: Float32, reference: Float32, config: TrainingConfig, models: Mapping[str, bytes]
) -> tuple[bytes, SelfTest]:
    """The file and its entry in the manifest. windows, reference, config: as self_test_windows takes them; models:
    .tflite files by variant."""
    chosen = self_test_windows(windows, reference, config)
    answers, tolerance = self_test_answers(chosen, models)
    finite = [i for i in range(len(chosen)) if np.isfinite([rows[i] for rows in answers.values()]).all()]
    content = self_test_file(chosen[finite])
    kept = {name: tuple(tuple(rows[i]) for i in finite) for name, rows in answers.items()}
    file = member(SELF_TEST_FILE, content)
    return content, SelfTest(**file.model_dump(), probabilities=kept, tolerance=tolerance)


def self_test_windows(windows: Float32, reference: Float32, config: TrainingConfig) -> Float32:
    """A choice of windows (n, window, channels) whose classes Keras tells clearly, and extremes: (m, window, channels).

    reference: (n, classes), Keras' probabilities. As many classes as there are, in turn. The extremes (rest, all zero,
    both ends of what its sensors measure) come between them, so that a runtime that keeps its state from one window to
    the next is found out.
    """
    clear = margins(reference) >= _CHOSEN_MARGIN
    top = reference.argmax(axis=1)
    turns: list[tuple[int, int]] = []  # (how many of its class came before it, where it stands)
    seen: dict[int, int] = {}
    for i in np.flatnonzero(clear):
        turns.append((seen.setdefault(int(top[i]), 0), int(i)))
        seen[int(top[i])] += 1
    chosen = [windows[i] for _, i in sorted(turns)[:RANDOM_WINDOWS]]
    rest = at_rest(config)
    middle, full = full_scale(config, acc_m_s2=16 * STANDARD_GRAVITY_M_S2, gyro_deg_s=2000, spreads=32)
    rows = (middle + full, rest, middle - full, np.zeros_like(full))
    extremes = [np.broadcast_to(row, windows.shape[1:]) for row in rows]
    mixed = [window for pair in zip(extremes, chosen, strict=False) for window in pair]
    return np.array([*mixed, *chosen[len(extremes) :], *extremes[len(chosen) :]], np.float32)


def self_test_answers(
    windows: Float32, models: Mapping[str, bytes]
) -> tuple[dict[str, list[list[float]]], dict[str, float]]:
    """By variant: probabilities of each window, and the tolerance. models: .tflite files by variant."""
    answers, tolerance = {}, {}
    for name, content in models.items():
        interpreter = LiteRtInterpreter(content)
        answers[name] = [[_short(p) for p in interpreter.run(window[np.newaxis])[0]] for window in windows]
        tolerance[name] = HYBRID_TOLERANCE if quantizes_activations(content) else FLOAT_TOLERANCE
    return answers, tolerance


def quantizes_activations(model: bytes) -> bool:
    """Whether an operator other than DEQUANTIZE reads an int8 tensor."""
    graph = schema.Model.GetRootAs(model, 0)
    codes = [graph.OperatorCodes(i).BuiltinCode() for i in range(graph.OperatorCodesLength())]
    main = graph.Subgraphs(0)
    for number in range(main.OperatorsLength()):
        operator = main.Operators(number)
        if codes[operator.OpcodeIndex()] == schema.BuiltinOperator.DEQUANTIZE:
            continue
        inputs = [operator.Inputs(i) for i in range(operator.InputsLength())]
        if any(i >= 0 and main.Tensors(i).Type() == schema.TensorType.INT8 for i in inputs):
            return True
    return False


def self_test_file(windows: Float32) -> bytes:
    content = io.BytesIO()
    np.save(content, windows.astype("<f4"))
    return content.getvalue()


def _short(probability: np.float32) -> float:
    """Six digits: a hundred times finer than any tolerance."""
    return float(f"{float(probability):.6g}")
