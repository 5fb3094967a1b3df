"""Does the converted model say what the Keras model says? Measured on windows far wider than the training's."""

import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.errors import ConversionFailed, InputShapeRejected, ModelRejected
from converter.keras_model import load_keras
from converter.training_config import TrainingConfig
from gateway.bundle.manifest import Parity
from gateway.inference.interpreter import LiteRtInterpreter
from gateway.motion.samples import Float32

FLOAT_DP_MAX = 1e-4
"""What rounding may cost the float32 variant, in probability, on any window; the reference model needs 1e-5."""
CLEAR_MARGIN = 0.05
"""Where Keras's first class leads by more, another top class is no near tie."""
PARITY_WINDOWS_MAX = 100_000
"""Half a gigabyte of windows as the reference model takes them; several times that while they are made."""
CLASS_WINDOWS_MIN = 200
"""Windows that Keras must name a class on before its agreement says something: two that differ are then 1 %."""
_KERAS_BATCH = 256
_VARIANT_BATCH = 50
"""Windows that a thread answers in one go."""


def random_windows(count: int, *, window: int, config: TrainingConfig, seed: int) -> Float32:
    """(count, window, channels), raw units: walks with jumps of place, size and roughness between windows.

    In units of the training's standard deviation: each channel of a window starts anywhere within some 3 of the
    mean, drifts by steps of 0.003 to 0.3, and shakes by 0.01 to 3; a tenth of the windows is ten times as large again.
    """
    rng = np.random.default_rng(seed)
    channels = len(config.mean)

    def log_uniform(low: float, high: float, *shape: int) -> NDArray[np.float64]:
        return np.array(np.exp(rng.uniform(np.log(low), np.log(high), shape)))

    place = rng.normal(0, 1.5, (count, 1, channels))
    walk = np.cumsum(rng.normal(size=(count, window, channels)), axis=1) * log_uniform(0.003, 0.3, count, 1, channels)
    shaking = rng.normal(size=(count, window, channels)) * log_uniform(0.01, 3, count, 1, 1)
    size = np.where(rng.random((count, 1, 1)) < 0.1, 10.0, 1.0)
    raw: NDArray[np.float64] = np.array(config.mean) + (place + walk + shaking) * size * np.array(config.scale)
    return raw.astype(np.float32)


def keras_probabilities(model: Path, windows: Float32, config: TrainingConfig, *, softmax: bool = False) -> Float32:
    """What the model as it was saved answers, the scaler applied outside: (n, classes).

    softmax: the model answers logits. Raises ModelRejected; InputShapeRejected where it takes windows of another shape.
    """
    loaded = load_keras(model)
    _name_as_scopes(loaded)
    taken, given = tuple(loaded.input_shape[1:]), windows.shape[1:]
    if taken != given:
        raise InputShapeRejected(f"{model}: it takes windows of {taken}, not of {given}")
    scaled = ((windows.astype(np.float64) - np.array(config.mean)) / np.array(config.scale)).astype(np.float32)
    probabilities = np.asarray(loaded.predict(scaled, batch_size=_KERAS_BATCH, verbose=0), np.float32)
    if softmax:
        shifted = np.exp(probabilities.astype(np.float64) - probabilities.max(axis=1, keepdims=True))
        probabilities = (shifted / shifted.sum(axis=1, keepdims=True)).astype(np.float32)
    if not np.isfinite(probabilities).all():
        hint = "Its weights are too large for float32; train again with smaller steps."
        raise ModelRejected(f"{model}: Keras itself answers NaN to some windows", hint=hint)
    return probabilities


def _name_as_scopes(model: Any) -> None:
    """Keras takes any text as a name, TensorFlow some letters only (tensorflow/python/framework/ops.py, name_scope)."""
    for layer in model._flatten_layers():
        layer.name = re.sub(r"[^A-Za-z0-9.>-]", ".", layer.name)


Advanced = Callable[[int, int], None]
"""Told how far a step has come: done, of how many."""


def silent(_done: int, _total: int) -> None:
    """Nobody is told."""


def variant_probabilities(model: bytes, windows: Float32, *, advanced: Advanced = silent) -> Float32:
    """What a .tflite file answers, window by window, on every core: (n, classes)."""
    cores = os.cpu_count() or 1
    free: SimpleQueue[LiteRtInterpreter] = SimpleQueue()
    for _ in range(cores):
        free.put(LiteRtInterpreter(model))

    def answered(start: int) -> Float32:
        interpreter = free.get()
        try:
            return np.stack([interpreter.run(each[np.newaxis])[0] for each in windows[start : start + _VARIANT_BATCH]])
        finally:
            free.put(interpreter)

    parts = []
    with ThreadPoolExecutor(cores) as threads:
        for number, part in enumerate(threads.map(answered, range(0, len(windows), _VARIANT_BATCH)), 1):
            parts.append(part)
            advanced(min(number * _VARIANT_BATCH, len(windows)), len(windows))
    return np.concatenate(parts)


def compare(probabilities: Float32, reference: Float32, *, seed: int, labels: Sequence[str] | None = None) -> Parity:
    """Both (n, classes). labels: to name the class that fares worst."""
    worst = np.abs(probabilities.astype(np.float64) - reference).max(axis=1)
    named = reference.argmax(axis=1)
    same = probabilities.argmax(axis=1) == named
    clear = margins(reference) > CLEAR_MARGIN
    counts = np.bincount(named, minlength=reference.shape[1])
    told = {
        number: float(same[named == number].mean())
        for number in range(len(counts))
        if counts[number] >= CLASS_WINDOWS_MIN
    }
    fares_worst = min(told, key=lambda number: told[number]) if told and labels is not None else None
    return Parity(
        windows=len(reference),
        seed=seed,
        top1_agreement=float(np.mean(same)),
        clear_windows=int(clear.sum()),
        clear_agreement=float(same[clear].mean()) if clear.any() else None,
        worst_class=None if fares_worst is None or labels is None else labels[fares_worst],
        worst_class_windows=None if fares_worst is None else int(counts[fares_worst]),
        worst_class_agreement=None if fares_worst is None else told[fares_worst],
        dp_max=rounded(worst.max()),
        dp_p99=rounded(np.quantile(worst, 0.99)),
        dp_mean=rounded(worst.mean()),
    )


def margins(probabilities: Float32) -> NDArray[np.float64]:
    """(n, classes) to (n,): how far the top class is before the second one."""
    ordered = np.partition(probabilities.astype(np.float64), -2, axis=1)
    return np.asarray(ordered[:, -1] - ordered[:, -2])


def rounded(value: float) -> float:
    """More digits say nothing and make a manifest hard to read."""
    return float(f"{value:.3g}")


ISOLATION_WINDOWS = 100
"""Of a set of windows, asked once more in another order."""


def not_apart(answer: Callable[[Float32], Float32], windows: Float32, answers: Float32) -> tuple[int, int]:
    """On how many windows the answer depends on the windows before it, and of how many.

    answers: (n, classes), what `answer` said to windows (n, window, channels); some are asked again, in the opposite
    order and among other neighbours, and must get the same bits.
    """
    chosen = np.linspace(0, len(windows) - 1, min(len(windows), ISOLATION_WINDOWS)).round().astype(int)[::-1]
    return int((answer(windows[chosen]) != answers[chosen]).any(axis=1).sum()), len(chosen)


def require_isolation(name: str, answer: Callable[[Float32], Float32], windows: Float32, answers: Float32) -> None:
    """Raises ConversionFailed where a window's answer depends on those before it; see not_apart."""
    differing, asked = not_apart(answer, windows, answers)
    if differing:
        raise ConversionFailed(
            f"the {name} variant answers {differing} of {asked} windows otherwise after other windows; "
            "nothing was written"
        )


@dataclass(frozen=True, slots=True)
class FloatDifference:
    """differing: windows with another top class than Keras's, where Keras itself does not see the first two closer than
    the tolerance."""

    differing: int
    dp_max: float
    tolerance: float

    @property
    def is_rounding(self) -> bool:
        return not self.differing and self.dp_max <= self.tolerance


def float_difference(probabilities: Float32, reference: Float32, tolerance: float = FLOAT_DP_MAX) -> FloatDifference:
    """Both (n, classes); NaN is no rounding."""
    dp_max = float(np.abs(probabilities.astype(np.float64) - reference).max())
    another = probabilities.argmax(axis=1) != reference.argmax(axis=1)
    return FloatDifference(int((another & (margins(reference) > tolerance)).sum()), dp_max, tolerance)


def require_float_parity(
    probabilities: Float32, reference: Float32, *, where: str = "walks", tolerance: float = FLOAT_DP_MAX
) -> None:
    """Raises ConversionFailed where the float32 model is not the Keras model up to rounding. Both (n, classes)."""
    found = float_difference(probabilities, reference, tolerance)
    if not found.is_rounding:
        raise ConversionFailed(
            f"the float32 variant differs from Keras: another top class on {found.differing} of {len(reference)} "
            f"windows ({where}), max |dp| {found.dp_max:.3g} (at most {tolerance:g}); nothing was written"
        )
