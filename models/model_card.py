"""The demonstration model's card: written from what was measured, and read again to be held against."""

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from firmware_sim.synthesis import ACTIVITIES

FIRST_LINE = "This model learnt from synthetic motion and recognises nobody."
_ACCURACY = re.compile(r"^Held-out accuracy: ([0-9.]+) %", re.MULTILINE)


def demo_card(counts: NDArray[np.int64], *, trained_on: str, held_out: str) -> str:
    """Markdown. counts: (11, 11), row the true activity. trained_on, held_out: the data, in words."""
    accuracy = np.trace(counts) / counts.sum()
    head = "| true \\ predicted | " + " | ".join(str(n) for n in range(1, len(ACTIVITIES) + 1)) + " | recall |"
    rows = "\n".join(
        f"| {n} {name} | " + " | ".join(str(c) for c in row) + f" | {100 * row[n - 1] / row.sum():.1f} % |"
        for n, (name, row) in enumerate(zip(ACTIVITIES, counts, strict=True), 1)
    )
    return f"""{FIRST_LINE}

# Demonstration model
It shows the path of this project at work, from the simulated wearable to the subscriber, and its tests. Motion was made
from parameters (firmware_sim/synthesis.py); no person was measured. On real wrists its answers mean nothing, however
confident they are. It is no medical device and diagnoses nothing.

Input: windows of 200 samples at 50 Hz, accelerometer in m/s² and gyroscope in deg/s, in the frame of the watch's case:
x towards the crown (the hand), y towards 12 o'clock, z out of the dial. Output: probabilities of 11 activities;
whatever the wearer does, one of them is the highest.

## Data
Trained on {trained_on}.
Held out: {held_out}; none of them was seen in training.

`make demo-model` makes the same data again, trains, and holds the result against this card.

## Held-out wearers
Held-out accuracy: {100 * accuracy:.2f} % ({counts.sum()} windows)

{head}
|{"---|" * (len(ACTIVITIES) + 2)}
{rows}

How well the converted variants agree with the Keras model is in manifest.json; it also holds the distribution of each
window feature over the training windows, against which drift is measured.
"""


def accuracy_of(card: Path) -> float | None:
    """The held-out accuracy that a card states, 0 to 1; None where there is no card."""
    if not card.is_file():
        return None
    match = _ACCURACY.search(card.read_text())
    return float(match[1]) / 100 if match else None
