"""The search: what it finds holds on windows that its order was not made from, whatever that order is."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binom

from converter.parity import margins, variant_probabilities
from converter.quantize import Storage, weights_of, with_storage
from converter.search import Asked, Cost, _in_order, cost_of, differing_max, search


def walks(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    walked = np.cumsum(rng.normal(size=(count, 24, 6)), axis=1)
    return (walked * rng.uniform(0.1, 2, (count, 1, 1))).astype(np.float32)


@pytest.fixture(scope="module")
def ranked_on(small_float) -> Asked:
    windows = walks(200, 3)
    return Asked(windows, variant_probabilities(small_float, windows))


@pytest.fixture(scope="module")
def checked_on(small_float) -> Asked:
    windows = walks(2000, 4)
    return Asked(windows, variant_probabilities(small_float, windows))


@pytest.mark.parametrize("min_agreement", [0.95, 0.998])
def test_a_plan_is_never_worse_than_it_says(small_float, ranked_on, checked_on, min_agreement):
    """Measured again from its parts, on the windows to check on."""
    steps: list[tuple[int, int]] = []
    found = search(
        small_float,
        ranked_on,
        checked_on,
        variant_probabilities,
        min_agreement=min_agreement,
        advanced=lambda done, total: steps.append((done, total)),
    )
    again = variant_probabilities(with_storage(small_float, found.plan), checked_on.windows)
    same = again.argmax(axis=1) == checked_on.reference.argmax(axis=1)
    assert found.cost == cost_of(again, checked_on.reference)
    assert same.mean() == found.cost.agreement
    assert beta.ppf(0.95, (~same).sum() + 1, same.sum()) <= 1 - min_agreement
    assert found.cost.disagreement_expected <= (1 - min_agreement) / 2
    assert same[margins(checked_on.reference) > 0.05].all()
    assert len(found.model) < 0.7 * len(small_float)
    assert set(found.plan) == {weight.name for weight in found.weights}
    assert steps == sorted(steps)
    assert steps[-1][0] == steps[-1][1]


def test_windows_on_which_everything_seems_to_cost_nothing_do_no_harm(small_float, ranked_on, checked_on):
    """One window two hundred times, which no rounding turns: the order is worth nothing, the plan is checked all the
    same. As good as with a true order it need not be."""
    still = np.zeros_like(ranked_on.windows)
    blind = Asked(still, variant_probabilities(small_float, still))
    found = search(small_float, blind, checked_on, variant_probabilities, min_agreement=0.998)
    again = variant_probabilities(with_storage(small_float, found.plan), checked_on.windows)
    differing = int((again.argmax(axis=1) != checked_on.reference.argmax(axis=1)).sum())
    assert beta.ppf(0.95, differing + 1, len(again) - differing) <= 0.002
    everything = {weight.name: Storage.INT8 for weight in weights_of(small_float)}
    assert found.plan != everything


def test_a_plan_goes_as_far_as_the_windows_to_check_on_allow(small_float, ranked_on, checked_on):
    """One step further in the same order, and it would not have passed."""
    found = search(small_float, ranked_on, checked_on, variant_probabilities, min_agreement=0.998)
    steps = _in_order(found.weights, found.alone)
    everything = {weight.name: Storage.FLOAT32 for weight in found.weights}
    plans = [everything | dict(steps[:count]) for count in range(len(steps) + 1)]
    further = plans[plans.index(found.plan) + 1]
    answers = variant_probabilities(with_storage(small_float, further), checked_on.windows)
    differing = int((answers.argmax(axis=1) != checked_on.reference.argmax(axis=1)).sum())
    expected = cost_of(answers, checked_on.reference).disagreement_expected
    assert beta.ppf(0.95, differing + 1, len(answers) - differing) > 0.002 or expected > 0.35 * 0.002


def test_where_no_loss_is_allowed_nothing_is_changed(small_float, ranked_on, checked_on):
    found = search(small_float, ranked_on, checked_on, variant_probabilities, min_agreement=1.0)
    assert set(found.plan.values()) == {Storage.FLOAT32}


def test_what_saves_most_for_what_it_loses_comes_first(small_float):
    """The kernel over the whole sequence is by far the largest; a gate that loses a hundred times more comes last."""
    weights = weights_of(small_float)
    bad = weights[2].name

    def loses(disagreement: float) -> Cost:
        return Cost(agreement=1.0, clear_agreement=1.0, disagreement_expected=disagreement, dp_p99=0.0)

    alone = {
        weight.name: {
            Storage.FLOAT16: loses(1e-5),
            Storage.INT8: loses(1e-2 if weight.name == bad else 1e-4),
        }
        for weight in weights
    }
    steps = _in_order(weights, alone)
    assert steps[0][0] == weights[-1].name
    assert steps[-1] == (bad, Storage.INT8)
    assert len(steps) == len(set(steps))
    assert dict(steps) == {weight.name: Storage.INT8 for weight in weights}


@given(windows=st.integers(1, 20_000), disagreement=st.floats(1e-4, 0.2))
def test_so_many_may_differ_as_the_interval_of_clopper_and_pearson_says(windows, disagreement):
    """Against scipy's beta quantiles."""
    most = differing_max(windows, disagreement)
    if most:
        assert beta.ppf(0.95, most + 1, windows - most) <= disagreement + 1e-12
    if most + 1 < windows:
        assert beta.ppf(0.95, most + 2, windows - most - 1) > disagreement - 1e-12


def test_a_plan_at_the_edge_is_let_pass_in_one_case_of_twenty():
    """Drawn: 6,000 windows of which 0.2 % differ in truth."""
    most = differing_max(6000, 0.002)
    assert most == 6
    assert binom.cdf(most, 6000, 0.002) <= 0.05 < binom.cdf(most + 1, 6000, 0.002)
    assert math.isclose(beta.ppf(0.95, most + 1, 6000 - most), 0.00197, abs_tol=1e-5)


def test_the_expected_disagreement_tells_how_often_near_ties_fall():
    """10,000 windows, margins spread evenly, every one shifted by noise: against counting."""
    rng = np.random.default_rng(1)
    margin = rng.uniform(0, 4, 10_000)

    def probabilities(margin: np.ndarray) -> np.ndarray:
        first = 1 / (1 + np.exp(-margin))
        return np.stack([first, 1 - first], axis=1).astype(np.float32)

    cost = cost_of(probabilities(margin + rng.normal(0, 0.2, 10_000)), probabilities(margin))
    assert cost.disagreement_expected == pytest.approx(1 - cost.agreement, rel=0.2)
