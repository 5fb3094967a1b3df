"""The one thing that a model runtime has to do here, and LiteRT's way of doing it."""

from typing import Protocol

import numpy as np

from gateway.motion.samples import Float32

PROBABILITIES, LOGITS = "probabilities", "logits"
"""Names of the model's output tensors."""


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
    """ai-edge-litert's Interpreter (its CompiledModel refuses the fused LSTM's variable tensors).

    A fused LSTM keeps its hidden and cell state in variable tensors from one invoke to the next, so they are reset
    before every window: else a window's answer would depend on the one before it, maybe of another wearer.
    Raises ImportError without the runtime; ValueError or RuntimeError for a model that it cannot run.
    """

    def __init__(self, model: bytes, *, threads: int = 1) -> None:
        from ai_edge_litert.interpreter import Interpreter as LiteRt
        from ai_edge_litert.interpreter import OpResolverType

        self._model = model  # the runtime reads the weights from these bytes for as long as it lives
        # XNNPACK, the default delegate, does not take the LSTMs, which are nine tenths of the work; for the rest it
        # would copy the weights, log to stderr and round more coarsely (max |dp| 9e-6 against 2e-6).
        resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        self._litert = LiteRt(model_content=model, num_threads=threads, experimental_op_resolver_type=resolver)
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
