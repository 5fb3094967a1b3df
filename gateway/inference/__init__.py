"""Model runtimes behind one protocol: windows in, probabilities out."""

from gateway.inference.predictor import Outputs, Predictor, WindowsRejected, load_predictor
from gateway.inference.self_test import SelfTested, SelfTestFailed, self_test

__all__ = [
    "Outputs",
    "Predictor",
    "SelfTestFailed",
    "SelfTested",
    "WindowsRejected",
    "load_predictor",
    "self_test",
]
