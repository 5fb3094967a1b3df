"""Windows in, probabilities out: what a bundle's model answers, each window for itself."""

import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gateway.bundle import Bundle, BundleRejected
from gateway.errors import GatewayError, InputRejected
from gateway.inference.interpreter import Interpreter, LiteRtInterpreter
from gateway.motion.samples import Float32


class WindowsRejected(InputRejected):
    """Windows that the model cannot be asked about."""

    hint = "The model takes finite float32 values in m/s² and deg/s, in the bundle's order of channels."


@dataclass(frozen=True, slots=True, eq=False)
class Outputs:
    """probabilities and logits: (n, labels), float32."""

    probabilities: Float32
    logits: Float32


class Predictor:
    """Safe to share between threads: an own lock lets one window through at a time.

    labels, channels: names, in the model's order. window: samples of one window.
    """

    def __init__(
        self, interpreter: Interpreter, *, window: int, channels: tuple[str, ...], labels: tuple[str, ...]
    ) -> None:
        self.window, self.channels, self.labels = window, channels, labels
        self._interpreter = interpreter
        self._lock = threading.Lock()

    def predict(self, windows: ArrayLike) -> Float32:
        """(n, window, channels), m/s² and deg/s, to (n, labels) probabilities, float32. Raises WindowsRejected."""
        return self.outputs(windows).probabilities

    def outputs(self, windows: ArrayLike) -> Outputs:
        """Like predict, with the logits as well."""
        checked = self._checked(windows)
        probabilities = np.empty((len(checked), len(self.labels)), np.float32)
        logits = np.empty_like(probabilities)
        for i in range(len(checked)):
            with self._lock:
                probabilities[i], logits[i] = self._interpreter.run(checked[i : i + 1])
        finite = np.isfinite(logits).all(axis=1) & np.isfinite(probabilities).all(axis=1)
        if not finite.all():
            first = int(np.argmin(finite))
            largest = float(np.abs(checked[first]).max())
            raise WindowsRejected(f"window {first} is beyond what float32 can compute: values up to {largest:.3g}")
        return Outputs(probabilities, logits)

    def _checked(self, windows: ArrayLike) -> Float32:
        values: NDArray[np.float32] | NDArray[np.float64] = np.asarray(windows)
        expected = (self.window, len(self.channels))
        if values.ndim != 3 or values.shape[1:] != expected:
            raise WindowsRejected(f"windows have the shape {values.shape}, expected (n, {expected[0]}, {expected[1]})")
        if values.dtype.kind not in "fiu":
            raise WindowsRejected(f"windows hold {values.dtype}, expected float32")
        with np.errstate(over="ignore"):
            checked = np.ascontiguousarray(values, np.float32)
        if not np.isfinite(checked).all():
            window, sample, channel = (int(i[0]) for i in np.nonzero(~np.isfinite(checked)))
            found = f"{self.channels[channel]} is {values[window, sample, channel]}"
            raise WindowsRejected(f"window {window}, sample {sample}: {found}, which is no finite float32")
        return checked


def load_predictor(bundle: Bundle, variant: str | None = None, *, threads: int = 1) -> Predictor:
    """The bundle's variant (None: its default) in an interpreter. Raises BundleRejected."""
    name, _ = bundle.variant(variant)
    manifest = bundle.manifest
    try:
        interpreter = LiteRtInterpreter(bundle.model_file(name), threads=threads)
    except ImportError as error:
        hint = "pip install ai-edge-litert (its wheels need a 64-bit operating system)."
        raise GatewayError(f"the model runtime LiteRT cannot be loaded: {error}", hint=hint) from None
    except (ValueError, RuntimeError) as error:
        raise BundleRejected(f"variants.{name}", str(error), "a model that LiteRT runs", bundle=bundle.path) from None
    expected = (1, manifest.window, len(manifest.channels))
    if interpreter.input_shape != expected:
        raise BundleRejected(f"variants.{name}: input", interpreter.input_shape, expected, bundle=bundle.path)
    if interpreter.classes != len(manifest.labels):
        found, wanted = interpreter.classes, len(manifest.labels)
        raise BundleRejected(f"variants.{name}: number of outputs", found, wanted, bundle=bundle.path)
    return Predictor(interpreter, window=manifest.window, channels=manifest.channels, labels=manifest.labels)
