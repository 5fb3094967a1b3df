"""Which storage each weight of a model can bear: found by measuring, the largest saving for the least loss first.

Each storage of each weight is measured alone, on some windows, and all of them are put into an order. How far to go in
that order is found on many more windows, which neither the order nor the rounding was made for, with whole plans: what
weights cost alone does not add up, and of many figures the best ones are too good.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from converter.parity import CLEAR_MARGIN, Advanced, margins, silent
from converter.quantize import Fitted, Plan, Storage, Weight, weights_of, with_storage
from gateway.motion.samples import Float32

SEARCH_WINDOWS = 600
"""That each storage is measured on alone."""
CHECK_WINDOWS = 6000
"""That plans are measured on."""
MEASUREMENTS_MAX = 120
"""Of storages alone; those that are left over are not considered. The reference model takes 69."""
_BUDGET = 0.35
"""Of the disagreement that is allowed, what a plan may be expected to use: 3,000 fresh windows will judge it, and where
2.1 of them are expected to differ, no more than the 6 do that are allowed in 994 of 1,000 cases (Poisson)."""
_CONFIDENCE = 0.95
"""That a plan's true disagreement is below the bound that its count gives."""
_CHECKS_EXPECTED = 3
"""For the progress that is told; few where losses add up as expected, else about twice the logarithm of the steps."""
_SWAPS_MAX = 3
"""Of int8 for hybrid, tried at the end, the largest weights first."""
_TIE = 1e-30
"""Probabilities below are no margin any more."""
_NEAR_TIE = 0.3
"""Margins (natural log of the ratio of two probabilities) up to which their density is taken; further up it falls."""
_FALL_MAX = 1.0
"""A margin that falls by more is counted as this much: one window may not outweigh hundreds."""
_COMPARABLE, _COMPARABLE_MIN = 3.0, 50
"""Margins up to which a window's change tells of near ties; all windows where fewer than that many have such ones."""

Answer = Callable[[bytes, Float32], Float32]
"""What a .tflite file answers to windows (n, window, channels): (n, classes) probabilities."""


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """windows: (n, window, channels); reference: (n, classes), what Keras answers to them."""

    windows: Float32
    reference: Float32


@dataclass(frozen=True, slots=True)
class Cost:
    """agreement: share of the windows with Keras's top class; clear_agreement: of those that are no near tie."""

    agreement: float
    clear_agreement: float
    disagreement_expected: float
    dp_p99: float


@dataclass(frozen=True, slots=True)
class Found:
    """plan: for every weight; cost: of the whole plan on the windows to check on; alone: of each storage by itself."""

    weights: tuple[Weight, ...]
    plan: dict[str, Storage]
    cost: Cost
    alone: dict[str, dict[Storage, Cost]]
    model: bytes


def cost_of(probabilities: Float32, reference: Float32) -> Cost:
    """Both (n, classes).

    The expected disagreement is finer than the count: margins are close to evenly spread near 0, so the share of
    windows that get another top class is their density there times the mean by which margins fall.
    """
    before, after = _log_margins(reference, reference), _log_margins(probabilities, reference)
    density = max(float(np.mean(before < _NEAR_TIE)), 1 / len(before)) / _NEAR_TIE
    comparable = before < _COMPARABLE
    falls = np.clip(before - after, 0, _FALL_MAX)[comparable if comparable.sum() >= _COMPARABLE_MIN else slice(None)]
    same = probabilities.argmax(axis=1) == reference.argmax(axis=1)
    clear = margins(reference) > CLEAR_MARGIN
    return Cost(
        agreement=float(same.mean()),
        clear_agreement=float(same[clear].mean()) if clear.any() else 1.0,
        disagreement_expected=density * float(falls.mean()),
        dp_p99=float(np.quantile(np.abs(probabilities.astype(np.float64) - reference).max(axis=1), 0.99)),
    )


def _log_margins(probabilities: Float32, reference: Float32) -> NDArray[np.float64]:
    """(n,): by how much the reference's top class leads every other one; negative where another one leads."""
    logs = np.log(np.maximum(probabilities.astype(np.float64), _TIE))
    rows, top = np.arange(len(logs)), reference.argmax(axis=1)
    leads = logs[rows, top]
    logs[rows, top] = -np.inf
    return np.asarray(leads - logs.max(axis=1))


def differing_max(windows: int, disagreement: float) -> int:
    """How many of so many windows may differ so that fewer than this share of all windows do, with _CONFIDENCE.

    The upper end of the one-sided interval of Clopper and Pearson (Biometrika 26, 1934, 404): so many or fewer of the
    windows differ in less than 1 - _CONFIDENCE of all cases, where the share is as high as `disagreement`. 0 where even
    that many windows cannot tell.
    """
    chance, most = 0.0, 0
    for count in range(windows):
        log_ways = math.lgamma(windows + 1) - math.lgamma(count + 1) - math.lgamma(windows - count + 1)
        chance += math.exp(log_ways + count * math.log(disagreement) + (windows - count) * math.log1p(-disagreement))
        if chance > 1 - _CONFIDENCE:
            break
        most = count
    return most


def search(
    model: bytes,
    ranked_on: Asked,
    checked_on: Asked,
    answer: Answer,
    *,
    min_agreement: float,
    fitted: Fitted | None = None,
    advanced: Advanced = silent,
) -> Found:
    """The smallest plan that the windows to check on let pass.

    model: float32. ranked_on: for the order in which storages are taken. checked_on: other windows, which `fitted` was
    not made of either. fitted: weights that are rounded otherwise than to the nearest. Passing is: an expected
    disagreement well within what min_agreement leaves; no more windows with another top class than show, with 95 %
    confidence, that fewer than it leaves have one in truth; and none that is no near tie.
    """
    left = 1 - min_agreement
    most = differing_max(len(checked_on.windows), left) if left > 0 else 0
    weights = weights_of(model)
    alone_tried = _tried_alone(weights)
    asked, total = 0, len(alone_tried) * len(ranked_on.windows)

    def measured(plan: Plan, on: Asked) -> Cost:
        nonlocal asked
        cost = cost_of(answer(with_storage(model, plan, fitted), on.windows), on.reference)
        asked += len(on.windows)
        advanced(min(asked, total), total)
        return cost

    def passes(cost: Cost) -> bool:
        differing = round((1 - cost.agreement) * len(checked_on.windows))
        return differing <= most and cost.clear_agreement == 1 and cost.disagreement_expected <= _BUDGET * left

    alone: dict[str, dict[Storage, Cost]] = {}
    total += _CHECKS_EXPECTED * len(checked_on.windows)
    for name, storage in alone_tried:
        alone.setdefault(name, {})[storage] = measured({name: storage}, ranked_on)

    steps = _in_order(weights, alone)
    best = dict.fromkeys((weight.name for weight in weights), Storage.FLOAT32)
    cost = cost_of(checked_on.reference, checked_on.reference)
    passing, failing, stride = 0, len(steps) + 1, 1
    tried = max(1, _expected_to_pass(steps, alone, _BUDGET * left))
    while failing - passing > 1:
        plan = {**dict.fromkeys(best, Storage.FLOAT32), **dict(steps[:tried])}
        tried_cost = measured(plan, checked_on)
        if passes(tried_cost):
            passing, best, cost = tried, plan, tried_cost
        else:
            failing = tried
        if failing > len(steps):
            tried = min(passing + stride, len(steps))
        elif passing == 0:
            tried = max(failing - stride, 1)
        else:
            tried = (passing + failing) // 2
        stride *= 2
    for weight in sorted(weights, key=lambda weight: -weight.size)[:_SWAPS_MAX]:
        if best[weight.name] is Storage.INT8 and Storage.HYBRID in alone[weight.name]:
            plan = {**best, weight.name: Storage.HYBRID}
            tried_cost = measured(plan, checked_on)
            if passes(tried_cost):
                best, cost = plan, tried_cost
    advanced(total, total)
    return Found(weights, best, cost, alone, with_storage(model, best, fitted))


def _tried_alone(weights: tuple[Weight, ...]) -> list[tuple[str, Storage]]:
    """At most MEASUREMENTS_MAX, all of a weight or none; the largest weights first."""
    tried: list[tuple[str, Storage]] = []
    for weight in sorted(weights, key=lambda weight: -weight.size):
        some = [(weight.name, storage) for storage in weight.choices if storage is not Storage.FLOAT32]
        if len(tried) + len(some) > MEASUREMENTS_MAX:
            break
        tried += some
    return tried


def _in_order(weights: tuple[Weight, ...], alone: Mapping[str, Mapping[Storage, Cost]]) -> list[tuple[str, Storage]]:
    """Each step makes the file smaller; what saves most for what it loses comes first.

    Losses are compared by their squares: see _expected_to_pass. Hybrid is as large as int8 and no step.
    """
    now = dict.fromkeys(alone, Storage.FLOAT32)
    loss = dict.fromkeys(alone, 0.0)
    steps: list[tuple[str, Storage]] = []
    while True:
        offers = [
            (max(cost.disagreement_expected**2 - loss[weight.name], 0.0) / saved, -saved, weight.name, storage)
            for weight in weights
            for storage, cost in alone.get(weight.name, {}).items()
            if storage is not Storage.HYBRID
            and (saved := weight.size * (now[weight.name].bytes_each - storage.bytes_each)) > 0
        ]
        if not offers:
            return steps
        _, _, name, storage = min(offers)
        now[name], loss[name] = storage, alone[name][storage].disagreement_expected ** 2
        steps.append((name, storage))


def _expected_to_pass(
    steps: list[tuple[str, Storage]], alone: Mapping[str, Mapping[Storage, Cost]], disagreement: float
) -> int:
    """After how many steps this disagreement is expected: errors of different weights have nothing to do with each
    other, so that their variances add up. Of the reference model's plans it is within a tenth of what is measured."""
    losses: dict[str, float] = {}
    for count, (name, storage) in enumerate(steps):
        losses[name] = alone[name][storage].disagreement_expected
        if math.hypot(*losses.values()) > disagreement:
            return count
    return len(steps)
