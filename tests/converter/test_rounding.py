"""Rounding that makes up for its own errors, against rounding to the nearest and against trying everything."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converter.layers import Conv1d, Dense, Flatten, GruCell, Recurrent
from converter.lowering import lower
from converter.parity import variant_probabilities
from converter.quantize import Storage, weights_of, with_storage
from converter.rounding import compensated, fitted_weights


def walks(count: int, seed: int, shape: tuple[int, int] = (24, 6)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (np.cumsum(rng.normal(size=(count, *shape)), axis=1) * rng.uniform(0.1, 2, (count, 1, 1))).astype(np.float32)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1))
def test_inputs_that_have_nothing_to_do_with_each_other_are_rounded_to_the_nearest(seed):
    values = np.random.default_rng(seed).normal(0, 30, (7, 12))
    np.testing.assert_array_equal(compensated(values, np.diag(np.arange(1.0, 13.0)), np.rint), np.rint(values))


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1))
def test_what_correlated_inputs_give_changes_several_times_less(seed):
    """On rows that the rounding has not seen: 12 inputs that share 3 causes."""
    rng = np.random.default_rng(seed)
    causes, noise = rng.normal(size=(3, 12)), 0.1
    rows, fresh = (rng.normal(size=(2000, 3)) @ causes + noise * rng.normal(size=(2000, 12)) for _ in range(2))
    values = rng.normal(0, 30, (40, 12))
    made = compensated(values, rows.T @ rows, np.rint)
    assert np.array_equal(made, np.rint(made))

    def error(rounded: np.ndarray) -> float:
        return float(((fresh @ (rounded - values).T) ** 2).mean())

    assert error(made) < error(np.rint(values)) / 3


def test_of_all_ways_to_round_it_finds_a_good_one():
    """Tried: up or down for each of 8 weights. Better than 95 of 100 of them, for every output."""
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(500, 2)) @ rng.normal(size=(2, 8)) + 0.2 * rng.normal(size=(500, 8))
    values = rng.normal(0, 10, (20, 8))
    made = compensated(values, rows.T @ rows, np.rint)
    for wanted, found in zip(values, made, strict=True):
        every = np.floor(wanted) + np.array(list(itertools.product((0, 1), repeat=8)))
        errors = (((every - wanted) @ rows.T) ** 2).sum(axis=1)
        assert (((found - wanted) @ rows.T) ** 2).sum() <= np.quantile(errors, 0.05)


def gru_after_convolution() -> bytes:
    """Its recurrent kernels are shared by the operators of all steps; the convolution has strides and dilation."""
    rng = np.random.default_rng(11)

    def weights(*shape: int) -> np.ndarray:
        return rng.normal(0, 1 / np.sqrt(np.prod(shape[:-1]) if len(shape) > 1 else 1), shape)

    gru = GruCell(weights(32, 96), weights(32, 96), weights(96), weights(96))
    layers = [
        Conv1d(weights(3, 6, 32) / 3, weights(32), "relu", stride=2, dilation=2),
        Recurrent(gru, None, sequences=True),
        Flatten(10),
        Dense(weights(320, 12), weights(12), "relu"),
        Dense(weights(12, 4), weights(4), "softmax"),
    ]
    return lower(layers, window=24, channels=6)


@pytest.mark.parametrize("storage", [Storage.FLOAT16, Storage.INT8])
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_each_fitted_weight_costs_less_than_when_rounded_to_the_nearest(kind, storage, small_float):
    """On windows of another seed; over all weights, and none more than half as much again."""
    model = small_float if kind == "lstm" else gru_after_convolution()
    fitted = fitted_weights(model, walks(150, 1))
    fresh = walks(150, 2)
    exact = variant_probabilities(model, fresh)

    def cost(name: str, given: object) -> float:
        answers = variant_probabilities(with_storage(model, {name: storage}, given), fresh)
        return float(np.sqrt(((answers - exact) ** 2).mean()))

    names = [weight.name for weight in weights_of(model) if (weight.name, storage) in fitted]
    assert len(names) == (16 if kind == "lstm" else 6)
    ratios = [cost(name, fitted) / cost(name, None) for name in names]
    assert max(ratios) < 1.5
    assert np.exp(np.mean(np.log(ratios))) < 0.85


def test_a_layer_over_a_whole_sequence_is_left_to_the_carrying_of_errors(small_float):
    fitted = fitted_weights(small_float, walks(30, 1))
    (dense,) = (weight for weight in weights_of(small_float) if Storage.HYBRID in weight.choices)
    assert (dense.name, Storage.INT8) not in fitted


def test_weights_that_only_ever_multiply_zero_are_rounded_to_the_nearest():
    """A channel without motion: nothing can be told from it, and nothing fails."""
    rng = np.random.default_rng(2)
    layers = [
        Conv1d(np.zeros((1, 6, 32)), np.full(32, -1.0), "relu"),
        Flatten(2),
        Dense(rng.normal(size=(64, 16)), rng.normal(size=16), "relu"),
        Dense(rng.normal(size=(16, 4)), np.zeros(4), "softmax"),
    ]
    model = lower(layers, window=2, channels=6)
    assert fitted_weights(model, walks(10, 1, (2, 6))) == {}
