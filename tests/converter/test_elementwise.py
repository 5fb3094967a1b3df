"""Each activation against Keras itself, number by number, far into both tails."""

import inspect

import numpy as np
import pytest

from converter.keras_layers import READERS
from converter.keras_reading import ACTIVATION_LAYERS, ACTIVATIONS
from converter.layers import Activate, Affine, Apply, Flatten, Layer
from converter.lowering import lower
from gateway.inference.interpreter import LiteRtInterpreter

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

STEPS, CHANNELS = 20, 5
REFUSED_ACTIVATIONS = {"glu", "sparsemax", "threshold"}
"""It halves its input; Keras does not compute it as published; it cannot be given by name."""


def values(largest: float) -> np.ndarray:
    rng = np.random.default_rng(2)
    some = np.concatenate([[0.0, -1.0, 1.0, 3.0, -3.0, largest, -largest], rng.normal(0, 2, 53)])
    return np.concatenate([some, rng.uniform(-largest, largest, 40)]).reshape(STEPS, CHANNELS).astype(np.float32)


def computed(layer: Layer, x: np.ndarray) -> np.ndarray:
    """Between two other operators: what stands alone gets its memory otherwise."""
    last = [Flatten(STEPS), Affine(np.ones(STEPS * CHANNELS), np.zeros(STEPS * CHANNELS)), Activate("softmax")]
    model = lower([layer, *last], window=STEPS, channels=CHANNELS)
    return LiteRtInterpreter(model).run(x[None])[1].reshape(STEPS, CHANNELS)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_that_of_keras(name):
    from keras import activations

    x = values(15.0 if name == "exponential" else 60.0)
    expected = np.asarray(activations.get(name)(x))
    np.testing.assert_allclose(computed(Activate(name), x), expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("name", ["softplus", "log_sigmoid", "mish", "sigmoid", "silu", "elu", "selu", "exponential"])
def test_an_activation_keeps_its_digits_where_it_is_nearly_zero(name):
    """A normalization after it may make the tail as large as anything."""
    from keras import activations

    x = np.linspace(-40, -0.01, STEPS * CHANNELS, dtype=np.float32).reshape(STEPS, CHANNELS)
    x = -x if name == "log_sigmoid" else x
    np.testing.assert_allclose(computed(Activate(name), x), np.asarray(activations.get(name)(x)), rtol=1e-5)


@pytest.mark.parametrize("negative_slope", [0.0, 0.3])
@pytest.mark.parametrize("max_value", [None, 1.5, 6.0])
@pytest.mark.parametrize("threshold", [0.0, 0.7, -0.7])
def test_a_rectifier_with_limits_is_that_of_keras(negative_slope, max_value, threshold):
    from keras import activations

    given, x = {"negative_slope": negative_slope, "max_value": max_value, "threshold": threshold}, values(60.0)
    expected = np.asarray(activations.relu(x, **given))
    np.testing.assert_allclose(computed(ACTIVATION_LAYERS["ReLU"](given), x), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["negative", "absolute", "square", "sqrt", "rsqrt", "exp", "log", "gelu_tanh"])
def test_a_function_is_that_of_keras(name):
    from keras import ops

    x = values(15.0) if name not in ("sqrt", "rsqrt", "log") else np.abs(values(60.0)) + np.float32(1e-3)
    expected = ops.gelu(x, approximate=True) if name == "gelu_tanh" else getattr(ops, name)(x)
    np.testing.assert_allclose(computed(Apply(name), x), np.asarray(expected), rtol=2e-6, atol=2e-6)


def test_every_activation_of_keras_is_converted_or_known_to_be_refused():
    import keras

    found = {name for name, one in vars(keras.activations).items() if inspect.isfunction(one)}
    found -= {"get", "serialize", "deserialize", "swish", "hard_swish"}
    assert found - set(ACTIVATIONS) == REFUSED_ACTIVATIONS


def test_the_documentation_names_every_layer_that_is_converted():
    from pathlib import Path

    page = (Path(__file__).parents[2] / "docs" / "bundle.md").read_text()
    assert [name for name in READERS if name != "InputLayer" and name not in page] == []
