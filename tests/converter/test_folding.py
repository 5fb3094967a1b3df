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
    Dense,
    Flatten,
    Float64,
    Layer,
    LstmCell,
    Merge,
    Node,
    Pad,
    Pool,
    Recurrent,
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
}


@pytest.mark.parametrize("where", STAYS)
def test_a_map_stays_where_it_does_not_fold_exactly(where):
    assert folding_report(STAYS[where], fold_affines(STAYS[where])).kept == ("bn",)


FOLDS = {
    "into the layer before": [a_dense(1, "linear"), a_map(), Activate("relu")],
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
