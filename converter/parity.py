"""Does the converted model say what the Keras model says? Measured on windows far wider than the training's."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from converter.errors import ConversionFailed, ModelRejected
from converter.training_config import TrainingConfig
from gateway.bundle.manifest import Parity
from gateway.motion.samples import Float32

FLOAT_DP_MAX = 1e-4
"""What rounding may cost the float32 variant, in probability, on any window; the reference model needs 1e-5."""
DEFAULT_AGREEMENT_MIN = 0.998
DEFAULT_WINDOWS_MIN = 1000
"""A smaller variant becomes the default only on this evidence: 300 windows cannot tell 99.8 % from 99 %."""
_KERAS_BATCH = 256


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


def keras_probabilities(model: Path, windows: Float32, config: TrainingConfig) -> Float32:
    """What the model as it was saved answers, the scaler applied outside: (n, classes). Raises ModelRejected."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _silent_stderr():
        import keras
    try:
        loaded = keras.saving.load_model(model, compile=False, safe_mode=True)
    except Exception as error:  # whatever its layers raise; the file is a person's input
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        hint = f"Save it again with the Keras it was made with; this one is {keras.__version__}."
        raise ModelRejected(f"{model}: Keras cannot load it: {reason}", hint=hint) from error
    scaled = ((windows.astype(np.float64) - np.array(config.mean)) / np.array(config.scale)).astype(np.float32)
    probabilities = np.asarray(loaded.predict(scaled, batch_size=_KERAS_BATCH, verbose=0), np.float32)
    if not np.isfinite(probabilities).all():
        hint = "Its weights are too large for float32; train again with smaller steps."
        raise ModelRejected(f"{model}: Keras itself answers NaN to some windows", hint=hint)
    return probabilities


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """TensorFlow's C++ logs to the descriptor before any setting of its own can stop it."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def compare(probabilities: Float32, reference: Float32, *, seed: int) -> Parity:
    """Both (n, classes)."""
    worst = np.abs(probabilities.astype(np.float64) - reference).max(axis=1)
    return Parity(
        windows=len(reference),
        seed=seed,
        top1_agreement=float(np.mean(probabilities.argmax(axis=1) == reference.argmax(axis=1))),
        dp_max=_rounded(worst.max()),
        dp_p99=_rounded(np.quantile(worst, 0.99)),
        dp_mean=_rounded(worst.mean()),
    )


def _rounded(value: float) -> float:
    """More digits say nothing and make a manifest hard to read."""
    return float(f"{value:.3g}")


def require_float_parity(parity: Parity) -> None:
    """Raises ConversionFailed where the float32 model is not the Keras model up to rounding."""
    differing = round((1 - parity.top1_agreement) * parity.windows)
    if differing or not parity.dp_max <= FLOAT_DP_MAX:
        raise ConversionFailed(
            f"the float32 variant differs from Keras: another top class on {differing} of {parity.windows} windows, "
            f"max |dp| {parity.dp_max:g} (at most {FLOAT_DP_MAX:g}); nothing was written"
        )


def choose_default(parities: dict[str, Parity]) -> tuple[str, str]:
    """Which variant to run where nobody chooses, and why: the smallest that is as good as float32.

    parities: by name, the most exact variant first.
    """
    first, *others = parities
    reasons = []
    for name in others:
        parity = parities[name]
        measured = f"{name} agrees with Keras on {parity.top1_agreement:.2%} of {parity.windows} windows"
        if parity.windows >= DEFAULT_WINDOWS_MIN and parity.top1_agreement >= DEFAULT_AGREEMENT_MIN:
            return name, measured
        reasons.append(f"{measured}; {DEFAULT_AGREEMENT_MIN:.1%} of {DEFAULT_WINDOWS_MIN} or more are asked for")
    return first, ". ".join(reasons) or "the only variant"
