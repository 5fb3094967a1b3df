"""What stands for the interpreter: an answer that any changed bit of a window changes, and that costs nothing."""

import zlib

import numpy as np

LABELS = ("resting", "tapping", "rubbing", "biting")
SHARES = 64
"""A probability is a number of these parts: exact in float32 and in the few digits of an event."""


def answer(window: np.ndarray) -> np.ndarray:
    """window: (length, 6) float32. (labels,) float32."""
    checksum = zlib.crc32(np.ascontiguousarray(window))
    parts = np.array([checksum >> shift & 15 for shift in (4, 8, 12, 16)], np.float32)
    top = 0 if checksum % 8 else checksum // 8 % len(LABELS)  # mostly the same, so that windows can share an event
    parts[top] = 0
    parts[top] = SHARES - parts.sum()
    return parts / SHARES
