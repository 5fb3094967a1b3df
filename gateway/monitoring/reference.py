"""What drift is measured against: how the features of windows, and the samples of channels, are distributed in data of
the training's kind."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from gateway.bundle.manifest import Distribution, FeatureReference, ReferenceSource
from gateway.monitoring.features import FEATURES, features_of, window_features
from gateway.monitoring.kll import kll_floats_sketch_of
from gateway.motion.channels import six_wide
from gateway.motion.samples import CHANNELS, Float32

QUANTILES = (0.01, 0.025, *(round(0.05 * step, 2) for step in range(1, 20)), 0.975, 0.99)


@dataclass(frozen=True, slots=True)
class DriftReference:
    """windows: how many it was made of. channels: of each channel's samples, by name. features: by name of FEATURES;
    sketches: of the same, as serialized kll_floats_sketch. label_shares: by label, together 1; None where unknown.
    source, source_sha256: what it was made from, and the digests (hex) of the files.
    """

    windows: int
    channels: Mapping[str, Distribution]
    features: Mapping[str, FeatureReference]
    sketches: Mapping[str, bytes]
    label_shares: Mapping[str, float] | None = None
    source: ReferenceSource = "windows"
    source_sha256: tuple[str, ...] = ()

    @classmethod
    def of_windows(
        cls,
        windows: Float32,
        channels: Sequence[str] = CHANNELS,
        *,
        wide: Float32 | None = None,
        wide_channels: Sequence[str] = CHANNELS,
        label_counts: Mapping[str, int] | None = None,
    ) -> Self:
        """windows: (n, length, channels), n of 1 or more, raw units. The features are those that these channels are
        enough for; wide: the same windows six wide, where more is known, and wide_channels: which of CHANNELS that is.
        label_counts: windows of each label."""
        known = channels if wide is None else wide_channels
        features = _features(six_wide(windows, channels) if wide is None else wide, known)
        return cls(
            windows=len(windows),
            channels={
                name: distribution(windows[:, :, place].ravel().astype(np.float64))
                for place, name in enumerate(channels)
            },
            features={name: FeatureReference(**distribution(values).model_dump()) for name, values in features.items()},
            sketches={name: kll_floats_sketch_of(values) for name, values in features.items()},
            label_shares=None if label_counts is None else shares(label_counts),
        )


def _features(wide: Float32, known: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    told = features_of(known)
    rows = np.array([window_features(window) for window in wide])
    return {name: values for name, values in zip(FEATURES, rows.T, strict=True) if name in told}


def distribution(values: NDArray[np.float64]) -> Distribution:
    """values: (n,), n of 1 or more."""
    return Distribution(
        count=len(values),
        mean=float(values.mean()),
        std=float(values.std()),
        min=float(values.min()),
        max=float(values.max()),
        quantiles=tuple((q, float(value)) for q, value in zip(QUANTILES, np.quantile(values, QUANTILES), strict=True)),
    )


def shares(counts: Mapping[str, int]) -> dict[str, float]:
    """Of the whole, which must be 1 or more."""
    whole = sum(counts.values())
    return {name: count / whole for name, count in counts.items()}
