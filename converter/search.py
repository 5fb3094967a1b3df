"""Which storage each weight of a model can bear: found by measuring, the largest saving for the least loss first."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from converter.parity import CLEAR_MARGIN, Advanced, margins, silent
from converter.quantize import Fitted, Plan, Storage, Weight, weights_of, with_storage
from gateway.motion.samples import Float32

SEARCH_WINDOWS = 600
MEASUREMENTS_MAX = 120
"""What is not decided by then stays as it is; the reference model takes about half of them."""
_BUDGET = 0.55
"""Of the disagreement that is allowed, what a plan may be expected to use: 3,000 fresh windows will judge it, and where
3.3 of them are expected to differ, no more than the 6 do that are allowed in 95 of 100 cases."""
_TIE = 1e-30
"""Probabilities below are no margin any more."""
_NEAR_TIE = 1.0
"""Margins (natural log of the ratio of two probabilities) up to which their density is taken."""
_COMPARABLE, _COMPARABLE_MIN = 3.0, 50
"""Margins up to which a window's change tells of near ties; all windows where fewer than that many have such ones."""

Answer = Callable[[bytes], Float32]
"""What a .tflite file answers to the search's windows: (n, classes) probabilities."""


@dataclass(frozen=True, slots=True)
class Cost:
    """agreement: share of the windows with Keras's top class; clear_agreement: of those that are no near tie."""

    agreement: float
    clear_agreement: float
    disagreement_expected: float
    dp_p99: float


@dataclass(frozen=True, slots=True)
class Found:
    """plan: for every weight; cost: of the whole plan on the search's windows; alone: of each storage by itself."""

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
    falls = np.clip(before - after, 0, _NEAR_TIE)[comparable if comparable.sum() >= _COMPARABLE_MIN else slice(None)]
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


def search(
    model: bytes,
    reference: Float32,
    answer: Answer,
    *,
    min_agreement: float,
    fitted: Fitted | None = None,
    advanced: Advanced = silent,
) -> Found:
    """The smallest plan that the search's windows let pass.

    model: float32. reference: what Keras answers to those windows. fitted: weights that are rounded otherwise than to
    the nearest. Passing is: an expected disagreement well within what min_agreement leaves, no more windows with
    another top class than it leaves (rounded up), and none that is no near tie.
    """
    left = 1 - min_agreement
    weights = weights_of(model)
    spent, total = 0, min(MEASUREMENTS_MAX, sum(2 * len(weight.choices) - 2 for weight in weights))

    def passes(cost: Cost) -> bool:
        differing = round((1 - cost.agreement) * len(reference))
        few = differing <= math.ceil(left * len(reference))  # a coarse count: what is expected is the finer measure
        return few and cost.clear_agreement == 1 and cost.disagreement_expected <= _BUDGET * left

    def measured(plan: Plan) -> Cost:
        nonlocal spent
        spent += 1
        advanced(min(spent, total), total)
        return cost_of(answer(with_storage(model, plan, fitted)), reference)

    alone: dict[str, dict[Storage, Cost]] = {}
    for weight in sorted(weights, key=lambda weight: -weight.size):
        if spent + len(weight.choices) - 1 > MEASUREMENTS_MAX // 2:
            break
        alone[weight.name] = {storage: measured({weight.name: storage}) for storage in weight.choices[1:]}

    plan: dict[str, Storage] = {weight.name: Storage.FLOAT32 for weight in weights}
    cost = cost_of(reference, reference)
    refused: set[tuple[str, Storage]] = set()
    while spent < total:
        step = _next_step(weights, plan, alone, refused)
        if step is None:
            break
        name, storage = step
        tried = measured({**plan, name: storage})
        if passes(tried):
            plan[name], cost = storage, tried
        else:
            refused.add(step)
    advanced(total, total)
    return Found(weights, plan, cost, alone, with_storage(model, plan, fitted))


def _next_step(
    weights: tuple[Weight, ...],
    plan: Plan,
    alone: Mapping[str, Mapping[Storage, Cost]],
    refused: set[tuple[str, Storage]],
) -> tuple[str, Storage] | None:
    """The storage that saves most for what it loses; of two as small, hybrid after int8 (it loses more, and is less
    memory), and only once all else is decided."""
    steps: list[tuple[float, int, str, Storage]] = []
    swaps: list[tuple[str, Storage]] = []
    for weight in weights:
        now = plan[weight.name]
        for storage, cost in alone.get(weight.name, {}).items():
            if (weight.name, storage) in refused:
                continue
            saved = weight.size * (now.bytes_each - storage.bytes_each)
            if storage is Storage.HYBRID:
                if now is Storage.INT8:
                    swaps.append((weight.name, storage))
            elif saved > 0:
                loses = cost.disagreement_expected
                if now in alone[weight.name]:
                    loses -= alone[weight.name][now].disagreement_expected
                steps.append((max(loses, 0.0) / saved, -saved, weight.name, storage))
    if steps:
        _, _, name, storage = min(steps)
        return name, storage
    return swaps[0] if swaps else None
