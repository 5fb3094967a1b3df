import numpy as np
import pytest

from converter.parity import margins, variant_probabilities
from converter.quantize import Storage, with_storage
from converter.search import cost_of, search


@pytest.fixture(scope="module")
def windows() -> np.ndarray:
    rng = np.random.default_rng(3)
    return (np.cumsum(rng.normal(size=(200, 24, 6)), axis=1) * rng.uniform(0.1, 2, (200, 1, 1))).astype(np.float32)


@pytest.mark.parametrize("min_agreement", [0.95, 0.998])
def test_a_plan_is_never_worse_than_it_says(small_float, windows, min_agreement):
    """Measured again from its parts, on the search's windows."""
    reference = variant_probabilities(small_float, windows)
    steps: list[tuple[int, int]] = []
    found = search(
        small_float,
        reference,
        lambda model: variant_probabilities(model, windows),
        min_agreement=min_agreement,
        advanced=lambda done, total: steps.append((done, total)),
    )
    again = variant_probabilities(with_storage(small_float, found.plan), windows)
    same = again.argmax(axis=1) == reference.argmax(axis=1)
    assert found.cost == cost_of(again, reference)
    assert same.mean() == found.cost.agreement
    assert (~same).sum() <= np.ceil((1 - min_agreement) * len(windows))
    assert found.cost.disagreement_expected <= 1 - min_agreement
    assert same[margins(reference) > 0.05].all()
    assert len(found.model) < 0.7 * len(small_float)
    assert set(found.plan) == {weight.name for weight in found.weights}
    assert steps == sorted(steps)
    assert steps[-1][0] == steps[-1][1]


def test_where_no_loss_is_allowed_nothing_is_changed(small_float, windows):
    reference = variant_probabilities(small_float, windows)
    found = search(small_float, reference, lambda model: variant_probabilities(model, windows), min_agreement=1.0)
    assert set(found.plan.values()) == {Storage.FLOAT32}


def test_the_expected_disagreement_tells_how_often_near_ties_fall():
    """10,000 windows, margins spread evenly, every one shifted by noise: against counting."""
    rng = np.random.default_rng(1)
    margin = rng.uniform(0, 4, 10_000)

    def probabilities(margin: np.ndarray) -> np.ndarray:
        first = 1 / (1 + np.exp(-margin))
        return np.stack([first, 1 - first], axis=1).astype(np.float32)

    cost = cost_of(probabilities(margin + rng.normal(0, 0.2, 10_000)), probabilities(margin))
    assert cost.disagreement_expected == pytest.approx(1 - cost.agreement, rel=0.2)
