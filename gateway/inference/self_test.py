"""Does the model on this machine say what it said where its bundle was made?"""

from dataclasses import dataclass

import numpy as np

from gateway.bundle import Bundle
from gateway.errors import GatewayError
from gateway.inference.predictor import Predictor


class SelfTestFailed(GatewayError):
    """The model runtime of this machine answers otherwise than that of the machine that made the bundle."""

    hint = "Its predictions cannot be trusted here: use another variant, or another version of the model runtime."


@dataclass(frozen=True, slots=True)
class SelfTested:
    """dp_max: the largest difference of a probability over these windows; at most the tolerance."""

    windows: int
    dp_max: float
    tolerance: float


def self_test(predictor: Predictor, bundle: Bundle, variant: str | None = None) -> SelfTested | None:
    """Runs the bundle's self-test windows; None where it has none. variant: the one that the predictor runs.

    Raises SelfTestFailed where a probability is off by more than the variant's tolerance; BundleRejected.
    """
    name, _ = bundle.variant(variant)
    test = bundle.manifest.self_test
    if test is None:
        return None
    expected, tolerance = np.array(test.probabilities[name]), test.tolerance[name]
    off = np.abs(predictor.predict(bundle.self_test_windows()) - expected).max(axis=1)
    worst = int(np.argmax(off))
    if not off[worst] <= tolerance:
        where = f"bundle {bundle.path}: variant {name}: self-test window {worst}"
        raise SelfTestFailed(f"{where}: a probability is off by {off[worst]:.2g}, expected at most {tolerance:g}")
    return SelfTested(len(off), float(off[worst]), tolerance)
