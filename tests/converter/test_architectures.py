"""Whole models of the kinds that are used on motion windows, each held against Keras itself.

Normalizations far from their defaults, recurrent states that saturate, windows that are small, large, constant and
beyond the training range; each with its own window length, channels and classes.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.folding import fold_affines, folding_report
from converter.keras_file import read_keras_file
from converter.layers import Affine
from converter.lowering import lower
from converter.quantize import dynamic_range
from converter.tflite import checked_operators
from gateway.inference.interpreter import LiteRtInterpreter

TOLERANCE = 1e-4


def deep_conv_lstm(x: Any) -> Any:
    from keras import layers

    for _ in range(3):
        x = layers.Conv1D(12, 5, activation="relu")(x)
    x = layers.LSTM(10, return_sequences=True)(layers.Dropout(0.5)(x))
    return layers.LSTM(10)(layers.Dropout(0.5)(x))


def temporal_convolutions(x: Any) -> Any:
    """Bai, Kolter and Koltun (2018): residual blocks of causal dilated convolutions."""
    from keras import layers

    for filters, dilation in ((8, 1), (8, 2), (10, 4)):
        skip = x if x.shape[-1] == filters else layers.Conv1D(filters, 1)(x)
        for _ in range(2):
            x = layers.Conv1D(filters, 3, padding="causal", dilation_rate=dilation)(x)
            x = layers.SpatialDropout1D(0.2)(layers.ReLU()(layers.BatchNormalization()(x)))
        x = layers.ReLU()(layers.Add()([x, skip]))
    return layers.Flatten()(layers.Cropping1D((x.shape[1] - 1, 0))(x))


def inception(x: Any) -> Any:
    """Ismail Fawaz et al. (2020), with operators between tensors in place of layers."""
    from keras import layers

    for _ in range(2):
        narrow = layers.Conv1D(5, 1, padding="same", use_bias=False)(x)
        branches = [layers.Conv1D(4, taps, padding="same", use_bias=False)(narrow) for taps in (19, 9, 3)]
        branches.append(layers.Conv1D(4, 1)(layers.MaxPooling1D(3, strides=1, padding="same")(x)))
        joined = layers.ReLU()(layers.BatchNormalization()(layers.Concatenate()(branches)))
        x = layers.Activation("relu")(joined + layers.BatchNormalization()(layers.Conv1D(16, 1)(x)))
    return layers.GlobalAveragePooling1D()(0.5 * x - 1)


def cnn_gru_layer_norm(x: Any) -> Any:
    from keras import layers

    x = layers.LayerNormalization()(layers.Conv1D(10, 5, strides=2, activation="gelu")(x))
    x = layers.LayerNormalization(epsilon=1e-5)(layers.GRU(12, return_sequences=True)(x))
    return layers.Concatenate()([layers.GlobalAveragePooling1D()(x), layers.GlobalMaxPooling1D()(x)])


def squeeze_and_excite(x: Any) -> Any:
    from keras import layers

    x = layers.Conv1D(8, 5, padding="same", activation="silu")(x)
    weights = layers.Dense(3, activation="relu")(layers.GlobalAveragePooling1D()(x))
    weights = layers.Dense(8, activation="hard_sigmoid")(weights)
    x = layers.Multiply()([x, layers.Reshape((1, 8))(weights)])
    return layers.Flatten()(layers.AveragePooling1D(7, strides=4, padding="same")(x))


def residual_before_activation(x: Any) -> Any:
    """He et al. (2016): the normalization before a padded convolution, after a sum: it cannot fold."""
    from keras import layers

    x = layers.Conv1D(8, 3, padding="same")(x)
    for number in range(2):
        inner = layers.BatchNormalization(name=f"stays{number}")(x)
        inner = layers.Conv1D(8, 5, padding="same", name=f"padded{number}")(inner)
        inner = layers.BatchNormalization(name=f"folds{number}")(inner)
        x = layers.Add()([x, layers.Activation("relu")(inner)])
    return layers.GlobalMaxPooling1D()(layers.BatchNormalization(name="stays2")(x))


def separable(x: Any) -> Any:
    from keras import layers

    x = layers.BatchNormalization()(layers.SeparableConv1D(9, 5, strides=2, depth_multiplier=2)(x))
    x = layers.DepthwiseConv1D(3, padding="same", dilation_rate=2)(layers.ReLU(max_value=6)(x))
    x = layers.SeparableConv1D(8, 3, padding="same", activation="elu")(layers.BatchNormalization()(x))
    return layers.GlobalMaxPooling1D()(layers.DepthwiseConv1D(4, strides=2, depth_multiplier=2)(x))


def lstm_merges(x: Any) -> Any:
    from keras import layers

    for mode in ("sum", "mul", "ave", "concat"):
        x = layers.Bidirectional(layers.LSTM(7, return_sequences=mode != "concat"), merge_mode=mode)(x)
    return x


def gru_merges(x: Any) -> Any:
    from keras import layers

    for mode in ("concat", "mul", "sum"):
        x = layers.Bidirectional(layers.GRU(7, return_sequences=True), merge_mode=mode)(x)
    return layers.Bidirectional(layers.GRU(5, reset_after=False), merge_mode="ave")(x)


def two_ways_apart(x: Any) -> Any:
    from keras import layers

    ahead, back = layers.Bidirectional(layers.GRU(6, return_sequences=True), merge_mode=None)(x)
    return layers.SimpleRNN(6)(layers.Subtract()([ahead, layers.Maximum()([back, ahead])]))


def gru_backwards(x: Any) -> Any:
    from keras import layers

    x = layers.GRU(8, go_backwards=True, return_sequences=True, reset_after=False, use_bias=False)(x)
    x = layers.LSTM(8, go_backwards=True, return_sequences=True)(layers.BatchNormalization()(x))
    return layers.GRU(8, go_backwards=True, recurrent_activation="hard_sigmoid")(x)


def simple_recurrent(x: Any) -> Any:
    from keras import layers

    x = layers.Bidirectional(layers.SimpleRNN(6, return_sequences=True))(layers.BatchNormalization()(x))
    return layers.SimpleRNN(6, activation="softsign", go_backwards=True)(layers.AlphaDropout(0.1)(x))


def other_lstm(x: Any) -> Any:
    from keras import layers

    x = layers.LSTM(6, recurrent_activation="hard_sigmoid", return_sequences=True)(x)
    return layers.LSTM(6, activation="softsign", go_backwards=True, use_bias=False)(x)


def mixer(x: Any) -> Any:
    """Tolstikhin et al. (2021): dense layers over time and over channels in turn."""
    from keras import layers

    steps, channels = x.shape[1:]
    for _ in range(2):
        turned = layers.Permute((2, 1))(layers.LayerNormalization(axis=[1, 2])(x))
        turned = layers.Dense(steps)(layers.Dense(9, activation="gelu")(turned))
        x = layers.Add()([x, layers.Permute((2, 1))(turned)])
        inner = layers.TimeDistributed(layers.Dense(8, activation="mish"))(layers.LayerNormalization()(x))
        x = layers.Average()([x, layers.Dense(channels)(inner), x])
    return layers.Flatten()(x)


def down_and_up(x: Any) -> Any:
    """An hourglass (U-Net) over time."""
    from keras import layers

    top = layers.Conv1D(6, 3, padding="same", activation="leaky_relu")(layers.ZeroPadding1D((1, 2))(x))
    low = layers.Conv1D(6, 3, padding="same", strides=2)(layers.BatchNormalization()(top))
    low = layers.UpSampling1D(2)(layers.PReLU(shared_axes=[1])(low))
    low = layers.Cropping1D((0, low.shape[1] - top.shape[1]))(low)
    x = layers.Concatenate(axis=1)([top, low])
    return layers.Flatten()(layers.MaxPooling1D(3, strides=2, padding="same")(layers.BatchNormalization()(x)))


def weighted_pooling(x: Any) -> Any:
    from keras import layers

    x = layers.Conv1D(8, 4, activation="tanh")(layers.GaussianNoise(0.3)(x))
    weights = layers.Softmax(axis=1)(layers.Dense(1)(x))
    return layers.GlobalAveragePooling1D()(layers.Multiply()([x, weights]) * 20.0)


def many_activations(x: Any) -> Any:
    from keras import layers

    names = ("selu", "softplus", "softsign", "log_sigmoid", "hard_silu", "hard_tanh", "mish", "relu6", "elu", "softmax")
    names += ("celu", "squareplus", "soft_shrink", "tanh_shrink", "sparse_plus", "sparse_sigmoid", "log_softmax")
    x = layers.Concatenate()([layers.Conv1D(4, 2, activation=name)(x) for name in names])
    x = layers.LayerNormalization(center=False)(layers.Dense(8)(x))
    x = layers.Minimum()([layers.LeakyReLU(0.2)(x), layers.ELU(1.7)(x), layers.PReLU()(x)])
    return layers.Flatten()(layers.Activation("exponential")(layers.ReLU(max_value=1.5, negative_slope=0.0)(x)))


def pooled_normalizations(x: Any) -> Any:
    """Normalizations that can move past pooling, cropping and flattening into what is linear."""
    from keras import layers

    x = layers.BatchNormalization()(layers.Conv1D(8, 3, activation="relu")(x))
    x = layers.Conv1D(8, 3, activation="relu")(layers.AveragePooling1D(3)(x))
    x = layers.Cropping1D((1, 2))(layers.BatchNormalization()(x))
    return layers.BatchNormalization()(layers.Flatten()(layers.GaussianDropout(0.2)(x)))


def parts_of_a_window(x: Any) -> Any:
    """CNN-LSTM: each part of the window through the same convolutions, then a recurrence over the parts."""
    from keras import layers

    def each(layer: Any, x: Any) -> Any:
        return layers.TimeDistributed(layer)(x)

    x = layers.Reshape((4, 10, 6))(layers.BatchNormalization()(x))
    x = each(layers.Conv1D(8, 3, activation="relu"), x)
    x = each(layers.SeparableConv1D(8, 3, padding="same"), each(layers.BatchNormalization(), x))
    x = each(layers.MaxPooling1D(2), each(layers.LayerNormalization(), each(layers.ReLU(), x)))
    long, short = each(layers.Flatten(), x), each(layers.GlobalAveragePooling1D(), x)
    return layers.LSTM(8)(layers.Concatenate()([long, each(layers.Dense(4, activation="tanh"), short)]))


def twins(x: Any) -> Any:
    """One model for both of two views, groups of channels apart; a model inside the model."""
    import keras
    from keras import layers

    view = keras.Sequential(
        [
            keras.Input(x.shape[1:]),
            layers.Conv1D(8, 3, groups=2, activation="relu"),
            layers.BatchNormalization(),
            layers.Dense(6),
            layers.GlobalAveragePooling1D(),
        ]
    )
    return layers.Concatenate()([view(x), view(layers.Conv1D(x.shape[2], 3, padding="same")(x))])


def around_a_shape(x: Any) -> Any:
    """Elementwise on another shape of a tensor that is still to be read: its memory must not be overwritten."""
    from keras import layers

    x = layers.GRU(5, return_sequences=True)(layers.Conv1D(5, 2)(x))
    flat = layers.Activation("tanh")(layers.BatchNormalization()(layers.Flatten()(x)))
    x = layers.Add()([layers.Reshape(x.shape[1:])(flat), x])
    same = layers.Reshape(x.shape[1:])(x) + x
    return layers.Flatten()(layers.Average()([layers.GRU(5, return_sequences=True)(x), same]) + x)


def deep_conv_lstm_2d(x: Any) -> Any:
    """Ordóñez and Roggen (2016) as published: convolutions over time of each channel, as of an image one pixel deep."""
    from keras import layers

    steps, channels = x.shape[1:]
    x = layers.Reshape((steps, channels, 1))(layers.BatchNormalization(name="stays")(x))
    for _ in range(3):
        x = layers.Conv2D(6, (5, 1), activation="relu")(x)
        x = layers.BatchNormalization()(x)
    x = layers.AveragePooling2D((2, 1))(layers.Dropout(0.5)(x))
    x = layers.LSTM(10, return_sequences=True)(layers.Reshape((x.shape[1], -1))(x))
    return layers.LSTM(8)(x)


def padded_image(x: Any) -> Any:
    """Where zeros at the edges, in time or across channels, must stay zeros of what is normalized."""
    from keras import layers

    x = layers.Reshape((*x.shape[1:], 1))(x)
    x = layers.BatchNormalization(name="stays0")(x)
    x = layers.Conv2D(6, 3, padding="same", strides=(2, 1), groups=1)(x)
    x = layers.BatchNormalization(name="folds0")(x)
    x = layers.SpatialDropout2D(0.2)(layers.LeakyReLU(0.1)(x))
    x = layers.BatchNormalization(name="folds1")(layers.AveragePooling2D((3, 2), strides=2, padding="same")(x))
    x = layers.DepthwiseConv2D((3, 1), depth_multiplier=2, activation="tanh")(x)
    x = layers.BatchNormalization(name="stays1")(x)
    x = layers.SeparableConv2D(8, (3, 2), padding="same", activation="elu")(layers.ZeroPadding2D(((2, 1), (0, 1)))(x))
    x = layers.Cropping2D(((0, 1), (1, 0)))(layers.UpSampling2D((2, 1))(x))
    x = layers.Conv2D(8, (2, 1), dilation_rate=(2, 1), groups=4)(layers.BatchNormalization(name="folds2")(x))
    return layers.Concatenate()([layers.GlobalMaxPooling2D()(x), layers.GlobalAveragePooling2D()(x)])


def transformer(x: Any) -> Any:
    """Vaswani et al. (2017), with sines and cosines as positions; the second attention causal, of three inputs."""
    from keras import layers

    steps, width = x.shape[1], 8
    place = np.arange(steps)[:, np.newaxis] / 100 ** (np.arange(width) // 2 * 2 / width)
    x = layers.Dense(width)(x) + np.where(np.arange(width) % 2, np.cos(place), np.sin(place)).astype(np.float32)
    inner = layers.LayerNormalization(epsilon=1e-6)(x)
    x = x + layers.MultiHeadAttention(3, 5, dropout=0.1)(inner, inner)
    inner = layers.Dense(12, activation="gelu")(layers.LayerNormalization(epsilon=1e-6)(x))
    x = layers.LayerNormalization()(layers.Add()([x, layers.Dropout(0.1)(layers.Dense(width)(inner))]))
    attend = layers.MultiHeadAttention(2, 4, value_dim=3, use_bias=False, output_shape=6)
    return attend(query=x, value=layers.Conv1D(5, 3, padding="same")(x), key=inner, use_causal_mask=True)[:, -1]


def attentions(x: Any) -> Any:
    from keras import layers

    x = layers.Bidirectional(layers.LSTM(4, return_sequences=True))(x)
    short = layers.MaxPooling1D(3)(x)
    found = [
        layers.Attention(use_scale=True)([x, short]),
        layers.Attention(score_mode="concat", use_scale=True)([x, short, layers.Dense(8)(short)]),
        layers.AdditiveAttention()([x, x], use_causal_mask=True),
        layers.MultiHeadAttention(2, 4, use_gate=True)(x, short),
        layers.AdditiveAttention(use_scale=False)([x, short]),
    ]
    x = layers.Concatenate()(found)
    weights = layers.Softmax()(layers.Flatten()(layers.Dense(1, activation="tanh")(x)))
    return layers.Dot(axes=1)([weights, x])


def other_normalizations(x: Any) -> Any:
    from keras import layers

    x = layers.Normalization(mean=[1.0, -2.0, 0.5, 3.0], variance=[4.0, 0.3, 2.0, 1.0])(x)
    x = layers.Conv1D(12, 3)(layers.Rescaling([0.5, 2.0, 1.0, 0.1], offset=-0.3)(x))
    x = layers.GroupNormalization(4)(layers.BatchNormalization(axis=1)(x))
    x = layers.Conv1D(6, 3, activation=layers.ReLU(max_value=1.5))(layers.UnitNormalization()(x))
    x = layers.RMSNormalization()(layers.GroupNormalization(-1, scale=False)(x))
    return layers.Flatten()(layers.UnitNormalization(axis=[1, 2])(layers.Identity()(x)) * 5.0)


def transposed(x: Any) -> Any:
    """An autoencoder's shape: down with strides, up again with transposed convolutions."""
    from keras import layers

    skip = layers.Conv1D(8, 5, strides=3, padding="same", activation="relu")(layers.BatchNormalization()(x))
    x = layers.Conv1D(6, 3, strides=2, padding="same")(skip)
    x = layers.Conv1DTranspose(8, 4, strides=2, padding="same", activation="elu")(layers.BatchNormalization()(x))
    x = layers.Cropping1D((0, x.shape[1] - skip.shape[1]))(x)
    x = layers.Conv1DTranspose(5, 2, strides=3)(layers.BatchNormalization()(layers.Add()([x, skip])))
    return layers.GlobalMaxPooling1D()(layers.Conv1DTranspose(7, 3, output_padding=0, use_bias=False)(x))


def cells(x: Any) -> Any:
    from keras import layers

    several = [layers.LSTMCell(5), layers.SimpleRNNCell(4, activation="relu6"), layers.LSTMCell(6)]
    x = layers.RNN(several, return_sequences=True, go_backwards=True)(x)
    return layers.Flatten()(layers.RNN(layers.GRUCell(6, reset_after=False), return_sequences=True)(x))


def between_layers(x: Any) -> Any:
    from keras import activations, layers, ops

    x = layers.Conv1D(8, 3, padding="same")(x)
    gate = ops.sigmoid(ops.mean(x, axis=1, keepdims=True) / 2.0)
    x = ops.maximum(x * gate, -0.5) + ops.square(x[:, ::1, 2:3]) * 0.1
    x = activations.gelu(ops.concatenate([x, 1.0 - ops.abs(x), ops.tanh(-x)], axis=-1))
    scores = ops.softmax(ops.matmul(x, ops.transpose(x, (0, 2, 1))) / 8.0)
    x = ops.expand_dims(scores @ x, axis=-1)[:, 1:-1, ..., 0]
    x = ops.stack([ops.std(x, axis=1), ops.max(x, axis=1), x[:, -1], ops.clip(x[:, 0], -1.0, 2.0)], axis=1)
    return ops.reshape(ops.swapaxes((ops.relu(x) + 0.1) ** 0.5, 1, 2), (-1, 4 * 24))


def a_model_for_each_part(x: Any) -> Any:
    import keras
    from keras import layers

    entry = keras.Input((10, 6))
    y = layers.Conv1D(6, 3, padding="same", activation="relu")(entry)
    y = layers.Add()([entry, layers.BatchNormalization()(layers.ZeroPadding1D((1, 0))(layers.Cropping1D((0, 1))(y)))])
    y = layers.MultiHeadAttention(2, 3)(y, y)
    y = layers.Concatenate()([layers.GlobalMaxPooling1D()(y), layers.Flatten()(layers.Permute((2, 1))(y)), y[:, 0] * 2])
    x = layers.TimeDistributed(keras.Model(entry, layers.Dense(7, activation="tanh")(y)))(layers.Reshape((4, 10, 6))(x))
    return layers.GRU(6)(layers.TimeDistributed(layers.PReLU())(x))


def models_in_models(x: Any) -> Any:
    """Variables of several layers in one group of an .h5 file, the moments of all normalizations behind the rest."""
    import keras
    from keras import layers

    def block(shape: Any, *inner: Any) -> Any:
        each = [layers.Conv1D(4, 3, padding="same"), layers.BatchNormalization(), *inner]
        return keras.Sequential([keras.Input(shape), *each, layers.Dense(4, "tanh"), layers.BatchNormalization()])

    shape = x.shape[1:]
    frozen = block(shape)
    frozen.layers[1].trainable = False
    x = block(shape, layers.Bidirectional(layers.GRU(2, return_sequences=True)), block(shape), frozen)(x)
    return layers.Flatten()(layers.TimeDistributed(block((6, 4)))(layers.Reshape((4, 6, 4))(x)))


Body = Callable[[Any], Any]
MODELS: dict[str, tuple[Body, tuple[int, int], int]] = {  # body, (window, channels), classes
    "DeepConvLSTM": (deep_conv_lstm, (48, 9), 5),
    "temporal convolutions": (temporal_convolutions, (64, 6), 4),
    "inception": (inception, (50, 6), 7),
    "CNN-GRU with layer normalization": (cnn_gru_layer_norm, (60, 3), 3),
    "squeeze and excite": (squeeze_and_excite, (33, 6), 11),
    "residual, normalized before": (residual_before_activation, (40, 6), 5),
    "separable": (separable, (51, 7), 4),
    "LSTM, merged each way": (lstm_merges, (30, 6), 4),
    "GRU, merged each way": (gru_merges, (20, 6), 4),
    "GRU, both ways apart": (two_ways_apart, (18, 4), 3),
    "backwards": (gru_backwards, (25, 6), 4),
    "simple recurrent": (simple_recurrent, (22, 6), 2),
    "LSTM with other activations": (other_lstm, (24, 6), 4),
    "mixer": (mixer, (16, 6), 4),
    "hourglass": (down_and_up, (31, 6), 4),
    "weighted pooling": (weighted_pooling, (40, 6), 4),
    "activations": (many_activations, (20, 6), 4),
    "normalizations and pooling": (pooled_normalizations, (40, 6), 4),
    "parts of a window": (parts_of_a_window, (40, 6), 4),
    "around a shape": (around_a_shape, (12, 6), 4),
    "twins": (twins, (30, 6), 4),
    "DeepConvLSTM over an image": (deep_conv_lstm_2d, (37, 9), 5),
    "padded image": (padded_image, (31, 6), 4),
    "transformer": (transformer, (25, 6), 6),
    "attentions": (attentions, (17, 3), 4),
    "other normalizations": (other_normalizations, (20, 4), 4),
    "transposed": (transposed, (37, 6), 3),
    "cells": (cells, (8, 3), 4),
    "between layers": (between_layers, (20, 6), 4),
    "a model for each part": (a_model_for_each_part, (40, 6), 4),
}
KEPT = {
    "DeepConvLSTM over an image": ("stays",),
    "padded image": ("stays0", "stays1"),
    "residual, normalized before": ("stays0", "stays1", "stays2"),
    "normalizations and pooling": (),
    "temporal convolutions": (),
}


def windows_of(shape: tuple[int, int]) -> np.ndarray:
    rng = np.random.default_rng(5)
    walks = np.cumsum(rng.normal(size=(24, *shape)), axis=1) * 0.2 + rng.normal(size=(24, 1, shape[1])) * 2
    constant = np.broadcast_to(rng.normal(size=(4, 1, shape[1])) * 3, (4, *shape))
    large = rng.normal(size=(8, *shape)) * 15
    return np.concatenate([walks, constant, large, np.zeros((1, *shape))]).astype(np.float32)


def disturbed(model: Any, windows: np.ndarray, seed: int) -> None:
    """Weights far from those of a fresh model, and a head whose logits differ between windows."""
    import keras

    rng = np.random.default_rng(seed)
    for variable in model.trainable_variables + model.non_trainable_variables:
        shape, path = variable.shape, variable.path
        values = rng.normal(0, 1 / np.sqrt(max(np.prod(shape[:-1]), 1)), shape)
        if variable.name in ("mean", "variance", "count"):  # of Normalization, which keeps them aside
            continue
        if "variance" in path:
            values = np.exp(rng.normal(0, 1.5, shape))
        elif "gamma" in path:
            values = rng.normal(0.3, 1, shape)
        elif "beta" in path or "moving_mean" in path or "bias" in path:
            values = rng.normal(0, 1.5, shape)
        elif "depthwise" in path:
            values = rng.normal(0, 1 / np.sqrt(shape[0]), shape)
        elif "recurrent_kernel" in path:
            values = rng.normal(0, 3 / np.sqrt(shape[0]), shape)
        variable.assign(values)
    head = model.layers[-1]
    features = np.asarray(keras.Model(model.inputs, head.input)(windows, training=False), np.float64)
    spread = features.std(axis=0)
    telling = spread > np.maximum(0.02 * np.abs(features).max(axis=0), 1e-3)
    kernel = rng.normal(0, 2 / np.sqrt(telling.sum()), head.kernel.shape)
    kernel *= np.where(telling, 1 / np.maximum(spread, 1e-3), 0)[:, np.newaxis]
    head.kernel.assign(kernel)
    head.bias.assign(-features.mean(axis=0) @ kernel)


def made(body: Body, shape: tuple[int, int], classes: int, *, seed: int = 1, activation: str = "softmax") -> Any:
    import keras

    entry = keras.Input(shape)
    model = keras.Model(entry, keras.layers.Dense(classes, activation=activation)(body(entry)))
    disturbed(model, windows_of(shape), seed)
    return model


def answers(model: bytes, windows: np.ndarray) -> np.ndarray:
    interpreter = LiteRtInterpreter(model)
    return np.stack([interpreter.run(window[None])[0] for window in windows])


def lowered(path: Path, **options: Any) -> bytes:
    network = read_keras_file(path, **options).network
    folded = fold_affines(network.layers)
    return lower(folded, window=network.window, channels=network.channels)


def faithful(found: np.ndarray, expected: np.ndarray) -> None:
    assert expected.std(axis=0).max() > 0.05, "the model answers all windows alike: the case shows nothing"
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)
    ordered = np.sort(expected, axis=1)
    clear = ordered[:, -1] - ordered[:, -2] > TOLERANCE
    assert clear.mean() > 0.7
    assert (found.argmax(axis=1) == expected.argmax(axis=1))[clear].all()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_model_says_what_keras_says(name, tmp_path):
    body, shape, classes = MODELS[name]
    model, windows = made(body, shape, classes, seed=list(MODELS).index(name)), windows_of(shape)
    path = tmp_path / "model.keras"
    model.save(path)
    network = read_keras_file(path).network
    assert (network.window, network.channels, network.classes) == (*shape, classes)
    expected = np.asarray(model(windows, training=False))
    content = lowered(path)
    found = answers(content, windows)
    faithful(found, expected)
    assert "CUSTOM" not in checked_operators(content)
    # A window's answer is its own: in another order, and after itself, it is the same to the last bit.
    turned = answers(content, np.repeat(windows[::-1], 2, axis=0))
    np.testing.assert_array_equal(turned[::2][::-1], found)
    np.testing.assert_array_equal(turned[1::2][::-1], found)
    if name in KEPT:
        report = folding_report(network.layers, fold_affines(network.layers))
        assert report.kept == KEPT[name]
        assert len(report.folded) + len(report.kept) == content_of(model, "BatchNormalization")


def content_of(model: Any, kind: str) -> int:
    return sum(type(layer).__name__ == kind for layer in model.layers)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_padding_with_zeros_keeps_the_scaler_an_operator(tmp_path):
    """Zeros at the edges are zeros of what is scaled; a scaler folded into the kernel would make them its mean."""
    from keras import layers

    model = made(lambda x: layers.Flatten()(layers.Conv1D(5, 5, padding="same")(x)), (20, 6), 3)
    path, windows = tmp_path / "model.keras", windows_of((20, 6))
    model.save(path)
    network = read_keras_file(path).network
    mean, scale = np.arange(1.0, 7), np.arange(2.0, 14, 2)
    before = [Affine(1 / scale, -mean / scale, ("scaler",)), *network.layers]
    folded = fold_affines(before)
    assert folding_report(before, folded).kept == ("scaler",)
    content = lower(folded, window=20, channels=6)
    raw = (windows * scale + mean).astype(np.float32)
    faithful(answers(content, raw), np.asarray(model((raw - mean) / scale, training=False)))


@pytest.mark.parametrize(
    "name", ["inception", "LSTM, merged each way", "separable", "twins", "attentions", "cells", "models in models"]
)
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning", "ignore:You are saving")
def test_the_older_h5_file_says_the_same(name, tmp_path):
    body, shape, classes = MODELS.get(name, (models_in_models, (24, 4), 3))
    body = body if name != "inception" else squeeze_and_excite
    model, windows = made(body, shape, classes), windows_of(shape)
    model.save(tmp_path / "model.h5")
    faithful(answers(lowered(tmp_path / "model.h5"), windows), np.asarray(model(windows, training=False)))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_model_of_logits_gets_its_softmax_only_when_asked(tmp_path):
    import keras

    from converter.errors import ModelRejected

    model, windows = made(squeeze_and_excite, (20, 6), 4, activation="linear"), windows_of((20, 6))
    path = tmp_path / "model.keras"
    model.save(path)
    with pytest.raises(ModelRejected, match=r"ends with Dense\(4, linear\)") as caught:
        read_keras_file(path)
    assert "logits" in caught.value.hint
    assert read_keras_file(path, add_softmax=True).network.softmax_added
    logits = model(windows, training=False)
    faithful(answers(lowered(path, add_softmax=True), windows), np.asarray(keras.ops.softmax(logits)))
    interpreter = LiteRtInterpreter(lowered(path, add_softmax=True))
    np.testing.assert_allclose(interpreter.run(windows[:1])[1], np.asarray(logits)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["DeepConvLSTM", "GRU, merged each way", "mixer"])
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_the_dynamic_variant_of_another_architecture_runs(name, tmp_path):
    body, shape, classes = MODELS[name]
    model, windows = made(body, shape, classes), windows_of(shape)
    model.save(tmp_path / "model.keras")
    exact = lowered(tmp_path / "model.keras")
    dynamic = dynamic_range(exact)
    assert len(dynamic) < len(exact)
    found, expected = answers(dynamic, windows), np.asarray(model(windows, training=False))
    assert np.isfinite(found).all()
    assert np.abs(found - expected).mean() < 0.2
