"""Model runtimes behind one protocol: windows in, probabilities out."""

from gateway.inference.predictor import Outputs, Predictor, WindowsRejected, load_predictor

__all__ = ["Outputs", "Predictor", "WindowsRejected", "load_predictor"]
