"""What drift is measured against: the distribution of each window feature over windows of the training's kind."""

from collections.abc import Collection

import numpy as np

from gateway.bundle.manifest import FeatureReference
from gateway.monitoring.features import FEATURES, features_of, window_features
from gateway.motion.samples import CHANNELS, Float32

QUANTILES = (0.01, 0.025, *(round(0.05 * step, 2) for step in range(1, 20)), 0.975, 0.99)


def drift_reference(windows: Float32, known: Collection[str] = CHANNELS) -> dict[str, FeatureReference]:
    """windows: (n, length, 6), m/s² and deg/s, n of 1 or more. Each of FEATURES over all of them, as far as the known
    channels are enough for it; the others may hold anything finite."""
    told = features_of(known)
    features = np.array([window_features(window) for window in windows])
    return {
        name: FeatureReference(
            count=len(column),
            mean=float(column.mean()),
            std=float(column.std()),
            min=float(column.min()),
            max=float(column.max()),
            quantiles=tuple(
                (q, float(value)) for q, value in zip(QUANTILES, np.quantile(column, QUANTILES), strict=True)
            ),
        )
        for name, column in zip(FEATURES, features.T, strict=True)
        if name in told
    }
