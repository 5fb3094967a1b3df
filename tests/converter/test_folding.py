"""Folding is exact: held against the same layers computed one after the other in float64."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converter.folding import fold_affines, folding_report
from converter.layers import (
    Activate,
    Affine,
    Conv1d,
    Conv2d,
    Crop,
    CropChannels,
    Dense,
    Depthwise2d,
    Flatten,
    Float64,
    Layer,
    LstmCell,
    Merge,
    Node,
    Pad,
    Permute,
    Pool,
    Pool2d,
    Recurrent,
    Reshape,
)


def relu_or_not(values: Float64, activation: str) -> Float64:
    return np.maximum(values, 0) if activation == "relu" else values


def computed(layers: list[Layer], x: Float64) -> Float64:
    """Straight from the layers' definitions."""
    for layer in layers:
        match layer:
            case Affine():
                x = x * layer.scale + layer.shift
            case Conv1d():
                taps = len(layer.kernel)
                rows = [np.tensordot(x[i : i + taps], layer.kernel, 2) + layer.bias for i in range(len(x) - taps + 1)]
                x = relu_or_not(np.array(rows), layer.activation)
            case Flatten():
                x = x.reshape(-1)
            case Dense():
                x = relu_or_not(x @ layer.kernel + layer.bias, layer.activation)
            case Recurrent():
                x = lstm(layer.forward, x)
    return x


def lstm(cell: LstmCell, x: Float64) -> Float64:
    """Hochreiter and Schmidhuber (1997) with forget gates, as Keras computes it: gates i, f, c, o."""

    def sigmoid(v: Float64) -> Float64:
        return (1 + np.tanh(v / 2)) / 2

    h = c = np.zeros(len(cell.recurrent))
    outputs = []
    for row in x:
        i, f, g, o = np.split(row @ cell.kernel + h @ cell.recurrent + cell.bias, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        outputs.append(h)
    return np.array(outputs)


@given(seed=st.integers(0, 2**32 - 1), affines=st.lists(st.sampled_from(["first", "conv", "lstm", "flat"])))
def test_folding_changes_nothing_but_rounding(seed, affines):
    """Affine maps anywhere, several in a row, zero and negative scales among them."""
    rng = np.random.default_rng(seed)

    def affine(channels: int, place: str) -> list[Layer]:
        return [
            Affine(rng.normal(0, 3, channels) * rng.integers(0, 2, channels), rng.normal(0, 3, channels))
            for _ in range(affines.count(place))
        ]

    layers: list[Layer] = [
        *affine(3, "first"),
        Conv1d(rng.normal(size=(2, 3, 4)), rng.normal(size=4), "relu"),
        *affine(4, "conv"),
        Recurrent(LstmCell(rng.normal(size=(4, 8)), rng.normal(size=(2, 8)), rng.normal(size=8)), None, sequences=True),
        *affine(2, "lstm"),
        Flatten(5),
        *affine(10, "flat"),
        Dense(rng.normal(size=(10, 3)), rng.normal(size=3), "relu"),
        Dense(rng.normal(size=(3, 2)), rng.normal(size=2), "linear"),
    ]
    folded = fold_affines(layers)
    assert not any(isinstance(layer, Affine) for layer in folded)
    x = rng.normal(0, 5, (6, 3))
    np.testing.assert_allclose(computed(list(folded), x), computed(layers, x), rtol=1e-9, atol=1e-9)


def image_of(layer: Conv2d | Depthwise2d, x: Float64) -> Float64:
    """Straight from the definition of a two-dimensional convolution, pixel by pixel."""
    each = isinstance(layer, Depthwise2d)
    x = np.pad(x, (*layer.pad, (0, 0)))
    reach = [(taps - 1) * gap + 1 for taps, gap in zip(layer.kernel.shape, layer.dilation, strict=False)]
    rows, columns = ((side - own) // step + 1 for side, own, step in zip(x.shape, reach, layer.stride, strict=False))
    made = np.empty((rows, columns, len(layer.bias)))
    for row in range(rows):
        for column in range(columns):
            (top, left), (down, right) = (row * layer.stride[0], column * layer.stride[1]), layer.dilation
            seen = x[top : top + reach[0] : down, left : left + reach[1] : right]
            product = np.einsum("hwi,hwim->im" if each else "hwi,hwio->o", seen, layer.kernel)
            made[row, column] = product.reshape(-1) + layer.bias
    return relu_or_not(made, layer.activation)


@given(
    seed=st.integers(0, 2**32 - 1),
    each=st.booleans(),
    padded=st.booleans(),
    shifted=st.booleans(),
    stride=st.sampled_from([(1, 1), (2, 1), (1, 3)]),
    dilation=st.sampled_from([(1, 1), (2, 1)]),
)
def test_maps_around_a_two_dimensional_convolution_fold_exactly(seed, each, padded, shifted, stride, dilation):
    """The one before only where no zeros are padded, or none of them would become its shift; the one behind always."""
    rng = np.random.default_rng(seed)
    kind, width = (Depthwise2d, 12) if each else (Conv2d, 3)
    pad = ((1, 0), (2, 1)) if padded else ((0, 0), (0, 0))
    before = Affine(rng.normal(size=4), rng.normal(size=4) * shifted, ("before",))
    behind = Affine(rng.normal(size=width), rng.normal(size=width), ("behind",))
    convolution = kind(rng.normal(size=(3, 2, 4, 3)), rng.normal(size=width), "linear", stride, dilation, pad)
    folded = fold_affines([before, convolution, behind, Activate("relu")])
    x = rng.normal(size=(7, 5, 4))
    wanted = image_of(convolution, x * before.scale + before.shift) * behind.scale + behind.shift
    stays = padded and shifted
    assert [type(layer) for layer in folded] == [*[Affine] * stays, kind, Activate]
    at = x * before.scale + before.shift if stays else x
    np.testing.assert_allclose(image_of(folded[-2], at), wanted, rtol=1e-9, atol=1e-9)


def test_an_affine_map_at_the_end_stays():
    layers = fold_affines([Flatten(3), Affine(np.ones(2), np.zeros(2))])
    assert [type(layer) for layer in layers] == [Flatten, Affine]


def a_map() -> Affine:
    return Affine(np.array([2.0, -3.0]), np.array([1.0, 0.5]), ("bn",))


def a_dense(seed: int, activation: str = "relu") -> Dense:
    rng = np.random.default_rng(seed)
    return Dense(rng.normal(size=(2, 2)), rng.normal(size=2), activation)  # type: ignore[arg-type]


def test_a_map_that_two_layers_take_folds_into_both_or_stays():
    first, second = a_dense(1), a_dense(2)
    both = [a_map(), first, Node(second, (2,)), Node(Merge("add"), (1, 2))]
    folded = fold_affines(both)
    assert folding_report(both, folded).folded == ("bn",)
    x = np.array([[0.3, -2.0]])
    for one, alone in zip(folded[:2], (first, second), strict=True):
        layer = one.layer if isinstance(one, Node) else one
        np.testing.assert_allclose(computed([layer], x), computed([a_map(), alone], x))
    one_of_them = [a_map(), first, Node(Merge("add"), (1, 2))]
    assert folding_report(one_of_them, fold_affines(one_of_them)).kept == ("bn",)
    np.testing.assert_array_equal(fold_affines(one_of_them)[1].kernel, first.kernel)


STAYS = {
    "before zeros at the edges": [a_map(), Pad(1, 1), a_dense(1)],
    "before an activation": [a_map(), Activate("relu"), a_dense(1)],
    "after an activation, before another": [a_dense(1), a_map(), Activate("tanh")],
    "a maximum of what turns round": [a_map(), Pool("max", 2, 2), a_dense(1)],
    "a maximum over rows of what turns round": [a_map(), Pool2d("max", (2, 1), (2, 1)), a_dense(1)],
    "before channels are left out": [a_map(), CropChannels(0, 1), a_dense(1)],
    "before another axis comes last": [a_map(), Permute((1, 0)), a_dense(1)],
    "before a part of the channels comes last": [a_map(), Reshape((4, 1)), a_dense(1)],
    "before zeros along another axis": [a_map(), Pad(0, 1, axis=1), a_dense(1)],
}


@pytest.mark.parametrize("where", STAYS)
def test_a_map_stays_where_it_does_not_fold_exactly(where):
    assert folding_report(STAYS[where], fold_affines(STAYS[where])).kept == ("bn",)


FOLDS = {
    "into the layer before": [a_dense(1, "linear"), a_map(), Activate("relu")],
    "past a mean over rows": [a_map(), Pool2d("average", (2, 1), (1, 1), "same"), a_dense(1)],
    "past a crop of rows": [a_map(), Crop(1, 0, axis=1), a_dense(1)],
    "past a turn of what comes before": [a_map(), Permute((1, 0, 2)), a_dense(1)],
    "past channels side by side": [a_map(), Reshape((3, 4)), Dense(np.ones((4, 2)), np.zeros(2), "relu")],
    "past a mean": [a_map(), Pool("average", 2, 2, "same"), a_dense(1)],
    "past a maximum": [Affine(np.ones(2), np.ones(2), ("bn",)), Pool("max", 2, 2), a_dense(1)],
    "without a shift, before zeros": [
        Affine(np.array([2.0, -3.0]), np.zeros(2), ("bn",)),
        Conv1d(np.ones((3, 2, 2)), np.zeros(2), "relu", pad=(1, 1)),
    ],
}


@pytest.mark.parametrize("where", FOLDS)
def test_a_map_folds_where_that_is_exact(where):
    assert folding_report(FOLDS[where], fold_affines(FOLDS[where])).folded == ("bn",)
