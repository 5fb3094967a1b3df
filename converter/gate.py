"""Which variant runs where nobody chooses, and which runtimes load it: decided by what was measured, not by habit."""

import platform
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from converter.probes import WALKS
from gateway.bundle.manifest import Parity, Variant
from gateway.inference.interpreter import LiteRtInterpreter
from gateway.motion.samples import Float32

MIN_AGREEMENT = 0.998
CLASS_AGREEMENT_MIN = 0.99
DEFAULT_WINDOWS_MIN = 1000
"""Walks that a smaller variant must have been measured on: 300 windows cannot tell 99.8 % from 99 %."""

LITERT, TFLITE_RUNTIME = "ai-edge-litert", "tflite-runtime 2.14"
_TFLITE_RUNTIME_VERSIONS = {
    "FULLY_CONNECTED": 11,
    "DEPTHWISE_CONV_2D": 7,
    "DEQUANTIZE": 6,
    "UNIDIRECTIONAL_SEQUENCE_LSTM": 4,
}
"""tflite-runtime 2.14's newest version of an operator (tensorflow/lite/core/kernels/register.cc of that release); the
others are written here in their first one, which it has, but for those of full int8, which has not been tried in it."""

_TIMED_CALLS = 40
_COLD_BYTES = 64 << 20


def choose_default(variants: Mapping[str, Variant], *, min_agreement: float = MIN_AGREEMENT) -> tuple[str, str]:
    """The smallest variant that passes the gate, and why. variants: by name, the most exact one first.

    Passing is: agreement with Keras's top class of min_agreement on every set of windows, and of CLASS_AGREEMENT_MIN in
    the worst of the classes that Keras names often enough to tell. Where none passes it is the most exact one.
    """
    if len(variants) == 1:
        return next(iter(variants)), "the only variant"
    failures: dict[str, str] = {}
    for name, variant in sorted(variants.items(), key=lambda item: item[1].size):
        failure = next(_failures(variant, min_agreement), None)
        if failure is None:
            sets = {WALKS: variant.parity, **variant.probes}.items()
            figures = ", ".join(f"{parity.top1_agreement:.2%} of {parity.windows} {label}" for label, parity in sets)
            reason = f"{name} is the smallest that is good enough: it agrees with Keras on {figures}"
            return name, ". ".join([reason, *(f"{other}: {why}" for other, why in failures.items())])
        failures[name] = failure
    first = next(iter(variants))
    reason = f"{first} is the most exact one, and none passes"
    alike: dict[str, list[str]] = {}
    for name, why in failures.items():
        alike.setdefault(why, []).append(name)
    return first, ". ".join([reason, *(f"{', '.join(named)}: {why}" for why, named in alike.items())])


def _failures(variant: Variant, min_agreement: float) -> Iterator[str]:
    if variant.parity.windows < DEFAULT_WINDOWS_MIN:
        yield f"measured on {variant.parity.windows} walks, {DEFAULT_WINDOWS_MIN} or more are asked for"
    parity: Parity
    for label, parity in {WALKS: variant.parity, **variant.probes}.items():
        if parity.top1_agreement < min_agreement:
            agrees = f"agrees with Keras on {parity.top1_agreement:.2%} of {parity.windows} {label}"
            yield f"{agrees}, {min_agreement:.1%} are asked for"
        if parity.worst_class_agreement is not None and parity.worst_class_agreement < CLASS_AGREEMENT_MIN:
            agrees = f"agrees on {parity.worst_class_agreement:.2%} of the {label} that are {parity.worst_class}"
            yield f"{agrees}, {CLASS_AGREEMENT_MIN:.0%} are asked for"


def runtimes_of(model: bytes) -> tuple[str, ...]:
    """Which runtimes have the operators of this file, in their versions."""
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    root = schema.Model.GetRootAs(model, 0)
    codes = [root.OperatorCodes(number) for number in range(root.OperatorCodesLength())]
    older = all(code.Version() <= _TFLITE_RUNTIME_VERSIONS.get(names[code.BuiltinCode()], 1) for code in codes)
    return (LITERT, TFLITE_RUNTIME) if older else (LITERT,)


@dataclass(frozen=True, slots=True)
class Times:
    """Medians of one window on one thread of this machine. cold: after 64 MB were touched, as other programs do."""

    warm_ms: float
    cold_ms: float


def processor_name() -> str:
    """Of this machine, as Linux tells it (https://man7.org/linux/man-pages/man5/proc_cpuinfo.5.html)."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.lower().startswith(("model name", "model\t")))
    return next(filter(None, named), platform.machine() or "unknown")[:100]


def window_times(model: bytes, windows: Float32) -> Times:
    """windows: (n, window, channels); some of them are run."""
    interpreter = LiteRtInterpreter(model)
    other = np.zeros(_COLD_BYTES, np.uint8)

    def median_ms(cold: bool) -> float:
        spent = []
        for number in range(_TIMED_CALLS):
            window = windows[number % len(windows)][np.newaxis]
            if cold:
                np.add(other, 1, out=other)
            started_s = time.perf_counter()
            interpreter.run(window)
            spent.append(time.perf_counter() - started_s)
        return float(np.median(spent)) * 1e3

    return Times(median_ms(False), median_ms(True))
