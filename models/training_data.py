"""Synthetic windows with labels, from wearers that are kept apart."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from firmware_sim.synthesis import ACTIVITIES, synthesize
from gateway.motion.samples import Float32

RATE_HZ = 50.0
WINDOW, HOP = 200, 100
SEGMENT_S = 20.0
"""Each segment is one performance: tempo, effort and pose of the day are drawn anew."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelledWindows:
    """windows: (n, 200, 6) float32, m/s² and deg/s. labels: (n,), index into ACTIVITIES."""

    windows: Float32
    labels: NDArray[np.int64]

    def counts(self) -> dict[str, int]:
        """Windows of each activity."""
        counted = np.bincount(self.labels, minlength=len(ACTIVITIES))
        return {name: int(count) for name, count in zip(ACTIVITIES, counted, strict=True)}


def labelled_windows(wearers: Sequence[int], *, seed: int, segments: int) -> LabelledWindows:
    """So many segments of SEGMENT_S of each activity by each wearer, cut into overlapping windows."""
    windows, labels = [], []
    for wearer in wearers:
        for label, activity in enumerate(ACTIVITIES):
            for segment in range(segments):
                motion = synthesize([(activity, SEGMENT_S)], wearer=wearer, seed=seed + segment, rate_hz=RATE_HZ)
                cut = sliding_window_view(motion, WINDOW, axis=0)[::HOP].transpose(0, 2, 1)
                windows.append(cut)
                labels += [label] * len(cut)
    return LabelledWindows(np.concatenate(windows), np.array(labels))


def confusion(labels: NDArray[np.int64], predicted: NDArray[np.int64]) -> NDArray[np.int64]:
    """(11, 11) counts: row the true activity, column the predicted one."""
    counts = np.zeros((len(ACTIVITIES), len(ACTIVITIES)), np.int64)
    np.add.at(counts, (labels, predicted), 1)
    return counts
