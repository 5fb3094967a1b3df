"""The one thing that a model runtime has to do here, and how LiteRT and its predecessor do it."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np

from gateway.motion.samples import Float32

PROBABILITIES, LOGITS = "probabilities", "logits"
"""Names of the model's output tensors."""

RUNTIMES = ("ai_edge_litert", "tflite_runtime")
"""The first that is installed is used. tflite-runtime 2.14 is the last of the older name: Python 3.11, numpy below 2,
and no dense layers that are quantized per channel (FULLY_CONNECTED version 12)."""


class Interpreter(Protocol):
    """One loaded model. Not thread-safe: one call at a time."""

    input_shape: tuple[int, ...]
    """(1, window, channels)"""
    classes: int
    """Probabilities a window gets."""

    def run(self, window: Float32) -> tuple[Float32, Float32]:
        """Probabilities and logits, (labels,) each, of one window of input_shape, from a fresh state."""
        ...


class LiteRtInterpreter:
    """The Interpreter of ai-edge-litert (whose CompiledModel refuses the fused LSTM's variables) or of tflite-runtime.

    A fused LSTM keeps its hidden and cell state in variable tensors from one invoke to the next, so they are reset
    before every window: else a window's answer would depend on the one before it, maybe of another wearer.
    Raises ImportError without the runtime; ValueError or RuntimeError for a model that it cannot run.
    """

    def __init__(self, model: bytes, *, threads: int = 1) -> None:
        runtime = _runtime()
        self._model = model  # the runtime reads the weights from these bytes for as long as it lives
        # XNNPACK, the default delegate, does not take the LSTMs, which are nine tenths of the work; for the rest it
        # would copy the weights, log to stderr and round more coarsely (max |dp| 9e-6 against 2e-6).
        resolver = runtime.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        self._litert = runtime.Interpreter(
            model_content=model, num_threads=threads, experimental_op_resolver_type=resolver
        )
        self._litert.allocate_tensors()
        (entry,) = self._litert.get_input_details()
        outputs = {detail["name"]: detail for detail in self._litert.get_output_details()}
        details = [entry, *(outputs.get(name) for name in (PROBABILITIES, LOGITS))]
        if any(detail is None or detail["dtype"] is not np.float32 for detail in details):
            raise ValueError(f"its outputs are {sorted(outputs)}, not {PROBABILITIES} and {LOGITS} in float32")
        self.input_shape = tuple(int(side) for side in entry["shape"])
        self.classes = int(outputs[LOGITS]["shape"][-1])
        self._input, self._probabilities, self._logits = (detail["index"] for detail in details)

    def run(self, window: Float32) -> tuple[Float32, Float32]:
        self._litert.reset_all_variables()
        self._litert.set_tensor(self._input, window)
        self._litert.invoke()
        return self._litert.get_tensor(self._probabilities)[0], self._litert.get_tensor(self._logits)[0]


def _runtime() -> Any:
    name = next((name for name in RUNTIMES if find_spec(name) is not None), RUNTIMES[0])
    return import_module(f"{name}.interpreter")
