"""Models put together at random, each held against Keras: it converts faithfully, or is refused in a sentence.

A few always; `make soak` goes on for FIDGET_SOAK seconds (600), from FIDGET_SEED (1000) on. A failure names its seed,
which FIDGET_SEED then tries first.
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.errors import ModelRejected
from converter.folding import fold_affines
from converter.keras_file import read_keras_file
from converter.layers import Affine
from converter.lowering import lower
from gateway.inference.interpreter import LiteRtInterpreter

TOLERANCE = 1e-4
SEEDS = range(20)
_SIDE_MAX, _RECURRENT_STEPS_MAX, _ATTENDED_STEPS_MAX = 20_000, 40, 60
_NAMES = ("linear", "relu", "tanh", "sigmoid", "elu", "gelu", "silu", "softplus", "hard_sigmoid", "softmax", "celu")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


class Architect:
    """A model for each seed. A step takes a tensor and gives another; one that Keras refuses is left out."""

    def __init__(self, seed: int) -> None:
        from keras import layers

        self.layers, self.rng = layers, np.random.default_rng(seed)

    def one(self, *choices: Any) -> Any:
        return choices[self.rng.integers(len(choices))]

    def count(self, most: int) -> int:
        return int(self.rng.integers(1, most + 1))

    def model(self) -> Any:
        import keras

        steps, channels = self.one(37, 1, 2, 500, 50, 24, 30), self.one(1, 3, 6, 9)
        entry = keras.Input((steps, channels))
        x = self.body(entry, self.count(8))
        if len(x.shape) == 4:
            x = self.layers.Reshape((x.shape[1], -1))(x)
        if len(x.shape) == 3 and x.shape[1] <= _RECURRENT_STEPS_MAX and self.one(True, False):
            x = self.recurrent(sequences=False)(x)
        if len(x.shape) == 3:
            pools = (self.layers.GlobalAveragePooling1D, self.layers.GlobalMaxPooling1D, self.layers.Flatten)
            x = self.one(*pools)()(x)
        return keras.Model(entry, self.layers.Dense(int(self.rng.integers(2, 21)), activation="softmax")(x))

    def body(self, x: Any, count: int) -> Any:
        for _ in range(count):
            try:
                made = self.step(x)
            except ValueError:
                continue
            if 0 < np.prod(made.shape[1:]) <= _SIDE_MAX:
                x = made
        return x

    def step(self, x: Any) -> Any:
        ranks: dict[int, tuple[Callable[[Any], Any], ...]] = {
            2: (self.dense, self.elementwise, self.normalized, self.lengthened),
            3: (
                *(self.convolved, self.convolved, self.pooled, self.normalized, self.elementwise, self.merged),
                *(self.reshaped, self.dense, self.recurred, self.attended, self.nested, self.imaged, self.calculated),
            ),
            4: (self.convolved_2d, self.pooled_2d, self.normalized, self.elementwise, self.each_step, self.merged),
        }
        return self.one(*ranks[len(x.shape)])(x)

    def laid(self) -> dict[str, Any]:
        stride, dilation = self.one((1, 1), (2, 1), (3, 1), (1, 2), (1, 4))
        settings = {"strides": stride, "dilation_rate": dilation, "padding": self.one("valid", "same", "same")}
        return settings | {"use_bias": self.one(True, False), "activation": self.activation()}

    def activation(self) -> Any:
        return self.one(*_NAMES, self.layers.LeakyReLU(0.15), self.layers.ReLU(max_value=2.0))

    def convolved(self, x: Any) -> Any:
        filters, taps, multiplier, laid = 2 * self.count(5), self.count(7), self.count(2), self.laid()
        causal = laid | {"padding": "causal"}
        return self.one(
            lambda: self.layers.Conv1D(filters, taps, groups=self.one(1, 1, 2), **self.one(laid, causal)),
            lambda: self.layers.SeparableConv1D(filters, taps, depth_multiplier=multiplier, **self.one(laid, causal)),
            lambda: self.layers.DepthwiseConv1D(taps, depth_multiplier=multiplier, **laid),
            lambda: self.layers.Conv1DTranspose(filters, taps, **laid | {"dilation_rate": 1}),
        )()(x)

    def convolved_2d(self, x: Any) -> Any:
        filters, taps = self.count(6), self.one((3, 1), (3, 3), (1, 2), (4, 2))
        laid = self.laid() | {"strides": self.one(1, 2), "dilation_rate": 1}
        return self.one(
            lambda: self.layers.Conv2D(filters, taps, **laid | {"strides": self.one(1, (2, 1))}),
            lambda: self.layers.SeparableConv2D(filters, taps, depth_multiplier=self.count(2), **laid),
            lambda: self.layers.DepthwiseConv2D(taps, depth_multiplier=self.count(2), **laid),
        )()(x)

    def pooled(self, x: Any) -> Any:
        settings = {"strides": self.one(None, 1, 2, 3), "padding": self.one("valid", "same")}
        return self.one(self.layers.MaxPooling1D, self.layers.AveragePooling1D)(self.count(4), **settings)(x)

    def pooled_2d(self, x: Any) -> Any:
        settings = {"strides": self.one(None, 1, (2, 1)), "padding": self.one("valid", "same")}
        pool = self.one(self.layers.MaxPooling2D, self.layers.AveragePooling2D)
        return self.one(
            lambda: pool(self.one((2, 1), (2, 2), (3, 1)), **settings),
            lambda: self.layers.ZeroPadding2D(self.one(1, (1, 0), ((0, 2), (1, 0)))),
            lambda: self.layers.Cropping2D(((1, 0), (0, 0))),
            lambda: self.layers.UpSampling2D((2, 1)),
            self.layers.GlobalAveragePooling2D,
            self.layers.GlobalMaxPooling2D,
        )()(x)

    def normalized(self, x: Any) -> Any:
        axis = self.one(-1, -1, *range(1, len(x.shape)))
        return self.one(
            lambda: self.layers.BatchNormalization(axis=axis, scale=self.one(True, True, False)),
            lambda: self.layers.LayerNormalization(
                axis=axis, center=self.one(True, False), epsilon=self.one(1e-3, 0.1)
            ),
            lambda: self.layers.GroupNormalization(self.one(1, 2, 3, -1)),
            self.layers.UnitNormalization,
            self.layers.RMSNormalization,
            lambda: self.layers.Rescaling(self.rng.normal(size=x.shape[-1]).tolist(), offset=0.3),
        )()(x)

    def elementwise(self, x: Any) -> Any:
        return self.one(
            lambda: self.layers.Activation(self.activation()),
            lambda: self.layers.PReLU(shared_axes=self.one(None, [1])),
            lambda: self.layers.Softmax(axis=self.one(-1, 1)),
            lambda: self.layers.ELU(self.one(1.0, 1.7)),
            lambda: self.one(self.layers.Dropout, self.layers.GaussianNoise, self.layers.AlphaDropout)(0.2),
        )()(x)

    def dense(self, x: Any) -> Any:
        return self.layers.Dense(self.count(12), activation=self.activation(), use_bias=self.one(True, False))(x)

    def lengthened(self, x: Any) -> Any:
        return self.layers.RepeatVector(self.count(5))(x)

    def reshaped(self, x: Any) -> Any:
        return self.one(
            lambda: self.layers.ZeroPadding1D((self.count(3), 0)),
            lambda: self.layers.Cropping1D((0, 1)),
            lambda: self.layers.UpSampling1D(2),
            lambda: self.layers.Permute((2, 1)),
            lambda: self.layers.Reshape((-1, self.one(1, 2, 3, 4))),
            lambda: self.layers.Reshape((self.one(2, 3, 5), -1, x.shape[2])),
        )()(x)

    def imaged(self, x: Any) -> Any:
        return self.layers.Reshape(self.one((*x.shape[1:], 1), (x.shape[1], 1, x.shape[2])))(x)

    def each_step(self, x: Any) -> Any:
        layer = self.one(
            self.layers.Conv1D(4, 3, padding="same"), self.layers.Flatten(), self.layers.LayerNormalization()
        )
        return self.layers.TimeDistributed(layer)(x)

    def merged(self, x: Any) -> Any:
        kinds = (
            self.layers.Add,
            self.layers.Multiply,
            self.layers.Average,
            self.layers.Maximum,
            self.layers.Concatenate,
        )
        branches = [x, self.normalized(x), self.layers.Dense(x.shape[-1], activation=self.activation())(x)]
        return self.one(*kinds)()([branches[number] for number in self.rng.permutation(3)[: self.one(2, 3)]])

    def recurrent(self, *, sequences: bool) -> Any:
        units, back = self.count(6), self.one(False, True)
        settings = {"return_sequences": sequences, "use_bias": self.one(True, False), "dropout": 0.1}
        layer = self.one(
            lambda: self.layers.LSTM(units, go_backwards=back, activation=self.one("tanh", "softsign"), **settings),
            lambda: self.layers.GRU(units, go_backwards=back, reset_after=self.one(True, False), **settings),
            lambda: self.layers.SimpleRNN(units, go_backwards=back, **settings),
            lambda: self.layers.RNN([self.layers.GRUCell(units), self.layers.LSTMCell(2)], return_sequences=sequences),
        )()
        both = self.one(True, False) and hasattr(layer, "units") and not layer.go_backwards
        return self.layers.Bidirectional(layer, merge_mode=self.one("concat", "sum", "mul", "ave")) if both else layer

    def recurred(self, x: Any) -> Any:
        return self.recurrent(sequences=True)(x) if x.shape[1] <= _RECURRENT_STEPS_MAX else x

    def attended(self, x: Any) -> Any:
        if x.shape[1] > _ATTENDED_STEPS_MAX:
            return x
        causal, other = self.one(True, False), self.layers.Conv1D(x.shape[2], 2, padding="same")(x)
        return self.one(
            lambda: self.layers.MultiHeadAttention(self.count(3), self.count(5))(x, other, use_causal_mask=causal),
            lambda: self.layers.Attention(use_scale=causal)([other, x], use_causal_mask=causal),
            lambda: self.layers.AdditiveAttention()([x, other]) if x.shape[2] < 10 else x,
            lambda: self.layers.Dot(axes=self.one(1, 2), normalize=causal)([x, other]),
        )()

    def calculated(self, x: Any) -> Any:
        from keras import ops

        return self.one(
            lambda: x * 0.5 + x[:, :, :1],
            lambda: 1.0 - ops.tanh(x) * ops.sigmoid(ops.mean(x, axis=1, keepdims=True)),
            lambda: ops.concatenate([x, ops.abs(x)], axis=self.one(1, 2)),
            lambda: x + np.linspace(-1, 1, x.shape[1] * x.shape[2]).reshape(x.shape[1:]).astype(np.float32),
            lambda: ops.flip(ops.maximum(x, -0.3), axis=1)[:, 1:],
        )()

    def nested(self, x: Any) -> Any:
        import keras

        entry = keras.Input(x.shape[1:])
        return keras.Model(entry, self.layers.BatchNormalization()(self.body(entry, 2)))(x)


def disturbed(model: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        shape, path = variable.shape, variable.path
        values = rng.normal(0, 1.2 / np.sqrt(max(np.prod(shape[:-1]), 1)), shape)
        if "variance" in path:
            values = np.exp(rng.normal(0, 1.5, shape))
        elif "gamma" in path:
            values = rng.normal(0.3, 1, shape)
        elif "beta" in path or "moving_mean" in path or "bias" in path:
            values = rng.normal(0, 1.2, shape)
        elif "recurrent_kernel" in path:
            values = rng.normal(0, (1 + 2 * (seed % 2)) / np.sqrt(shape[0]), shape)
        if "float" in str(variable.dtype):
            variable.assign(values)


def scaled_windows(model: Any, seed: int) -> np.ndarray:
    _, steps, channels = model.inputs[0].shape
    rng, shape = np.random.default_rng(seed), (10, steps, channels)
    walks = np.cumsum(rng.normal(size=shape), axis=1) * 0.2 + rng.normal(size=(10, 1, channels)) * 2
    return np.concatenate([walks, rng.normal(size=(3, 1, channels)) + np.zeros(shape)[:3], 15 * walks[:3]]).astype("f4")


def in_float64(model: Any, windows: np.ndarray) -> np.ndarray:
    """The same model without rounding to speak of."""
    import keras

    try:
        keras.config.set_dtype_policy("float64")
        exact = keras.Model.from_config(json.loads(json.dumps(model.get_config()).replace('"float32"', '"float64"')))
        for own, given in zip(exact.variables, model.variables, strict=True):
            own.assign(given.numpy())
        return np.asarray(exact(windows.astype(np.float64), training=False))
    finally:
        keras.config.set_dtype_policy("float32")


def held_against_keras(seed: int, folder: Path) -> str:
    """What became of the model: converted, refused, or nothing that Keras itself can compute."""
    import keras

    keras.backend.clear_session()
    model = Architect(seed).model()
    disturbed(model, seed)
    windows = scaled_windows(model, seed)
    try:
        expected = np.asarray(model(windows, training=False))
    except Exception:  # whatever a kernel of TensorFlow's does not do
        return "nothing"
    if not np.isfinite(expected).all():
        return "nothing"
    path = folder / "model.keras"
    model.save(path)
    try:
        network = read_keras_file(path).network
    except ModelRejected as error:
        return "refused" if error.hint else "refused without a hint"
    scale, mean = np.exp(np.random.default_rng(seed).normal(size=(2, network.channels)))
    layers = fold_affines([Affine(1 / scale, -mean / scale, ("scaler",)), *network.layers])
    content = lower(layers, window=network.window, channels=network.channels)
    interpreter, raw = LiteRtInterpreter(content), (windows * scale + mean).astype(np.float32)
    found = np.stack([interpreter.run(window[None])[0] for window in raw])
    again = np.stack([interpreter.run(window[None])[0] for window in raw[::-1]])[::-1]
    np.testing.assert_array_equal(again, found, f"seed {seed}: an answer depends on the windows before")
    if np.abs(found - expected).max() > TOLERANCE:
        exact = in_float64(model, (raw - mean) / scale)
        rounding = np.abs(np.asarray(model((raw - mean) / scale, training=False)) - exact).max()
        np.testing.assert_allclose(found, exact, atol=max(TOLERANCE, 5 * rounding), err_msg=f"seed {seed}")
    return "converted"


def test_a_random_model_says_what_keras_says(tmp_path):
    outcomes = [held_against_keras(seed, tmp_path) for seed in SEEDS]
    assert outcomes.count("converted") > len(SEEDS) * 0.8, outcomes


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_random_models_say_what_keras_says_for_as_long_as_asked(tmp_path):
    seed, until = int(os.environ.get("FIDGET_SEED", 1000)), time.monotonic() + float(os.environ.get("FIDGET_SOAK", 600))
    outcomes = []
    while time.monotonic() < until:
        outcomes.append(held_against_keras(seed, tmp_path))
        seed += 1
    told = {outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))}
    print(f"{len(outcomes)} random models: {told}")
    assert outcomes.count("converted") > len(outcomes) * 0.7, told
