"""Drift of a wearer's motion from what the model learnt on, period by period of device time.

A period's windows go, feature by feature, into KLL sketches (Karnin, Lang, Liberty: Optimal Quantile Approximation in
Streams, FOCS 2016) in Apache DataSketches' serialized `kll_floats_sketch` form, so that whoever receives them can merge
periods, wearables and gateways without this program. Each is compared with the bundle's reference.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from datasketches import kll_floats_sketch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from gateway.monitoring.features import FEATURES
from gateway.monitoring.kll import KLL_K


class DriftSettings(BaseModel):
    """period_s: of device time, counted from the start of a session."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    period_s: float = Field(900.0, ge=10)


@dataclass(frozen=True, slots=True)
class Reference:
    """One feature in the training data: its moments and quantiles as (rank in 0 to 1, value), ascending.

    quantiles: none where only a channel's samples are known, which spread otherwise than the windows' features.
    """

    mean: float
    std: float
    quantiles: tuple[tuple[float, float], ...]

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Self:
        of_windows = entry.get("of", "windows") == "windows"
        return cls(entry["mean"], entry["std"], tuple((q, v) for q, v in entry["quantiles"] if of_windows))


@dataclass(frozen=True, slots=True)
class FeatureSummary:
    """sketch: base64 of a serialized kll_floats_sketch. shift and distance: None without a reference of it."""

    sketch: str
    minimum: float
    maximum: float
    mean: float
    shift: float | None
    """Of the mean, in standard deviations of the reference."""
    distance: float | None
    """The largest difference of the two distribution functions at the reference's quantiles (Kolmogorov), 0 to 1."""


@dataclass(frozen=True, slots=True)
class DriftSummary:
    start_s: float
    end_s: float
    windows: int
    features: dict[str, FeatureSummary]


@dataclass(slots=True)
class DriftPeriod:
    """Gathers the features of one period's windows."""

    settings: DriftSettings
    windows: int = 0
    _sums: NDArray[np.float64] = field(default_factory=lambda: np.zeros(len(FEATURES)))
    _sketches: list[Any] = field(default_factory=lambda: [kll_floats_sketch(KLL_K) for _ in FEATURES])

    def add(self, features: NDArray[np.float64]) -> None:
        """features: (len(FEATURES),) of one window."""
        self.windows += 1
        self._sums = self._sums + features
        for sketch, value in zip(self._sketches, features, strict=True):
            sketch.update(float(value))

    def summary(self, start_s: float, reference: Mapping[str, Reference] | None = None) -> DriftSummary:
        """The period that began at start_s of the session. It must hold a window."""
        features = {}
        for name, sketch, total in zip(FEATURES, self._sketches, self._sums, strict=True):
            known = (reference or {}).get(name)
            mean = float(total) / self.windows
            features[name] = FeatureSummary(
                sketch=base64.b64encode(sketch.serialize()).decode(),
                minimum=sketch.get_min_value(),
                maximum=sketch.get_max_value(),
                mean=mean,
                shift=None if known is None else standardised_shift(mean, known),
                distance=kolmogorov_distance(sketch, known.quantiles) if known and known.quantiles else None,
            )
        return DriftSummary(start_s, start_s + self.settings.period_s, self.windows, features)

    def state(self) -> dict[str, Any]:
        sketches = [base64.b64encode(sketch.serialize()).decode() for sketch in self._sketches]
        return {"windows": self.windows, "sums": self._sums.tolist(), "sketches": sketches}

    @classmethod
    def restore(cls, settings: DriftSettings, state: Mapping[str, Any]) -> Self:
        sketches = [kll_floats_sketch.deserialize(base64.b64decode(text)) for text in state["sketches"]]
        return cls(settings, state["windows"], np.array(state["sums"]), sketches)


def standardised_shift(mean: float, reference: Reference) -> float:
    """How many of the reference's standard deviations the mean lies off; of a constant feature, off by how much."""
    return (mean - reference.mean) / (reference.std or 1.0)


def kolmogorov_distance(sketch: Any, quantiles: Sequence[tuple[float, float]]) -> float:
    """sup |F - G| over the reference's quantile points, F from the sketch (values up to and including the point)."""
    ranks: dict[float, float] = {}
    for rank, exact in quantiles:  # of equal values the highest rank is the distribution function there
        value = float(np.float32(exact))  # as the sketch keeps its own, or an atom would lie beside itself
        ranks[value] = max(rank, ranks.get(value, 0.0))
    return max(abs(float(sketch.get_rank(value, True)) - rank) for value, rank in ranks.items())
