"""Which of a wrist IMU's six channels a model takes, and in which order: any of them, in any.

From the wearable to the window everything is six channels wide; what a model takes is chosen by name, here and nowhere
else, when it is asked.
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from gateway.errors import InputRejected
from gateway.motion.samples import CHANNELS, UNITS

Number = TypeVar("Number", bound=np.generic)


class ChannelsRejected(InputRejected):
    """A model takes what no wearable gives."""

    hint = "Wearables give Ax, Ay, Az in m/s^2 and Gx, Gy, Gz in deg/s; a model may take any of these, in any order."


def columns_of(channels: Sequence[str], units: Sequence[str], *, where: str) -> list[int]:
    """The place of each channel in CHANNELS: six_wide[..., columns] is what the model takes.

    where: whose channels these are, or what should hold them; it begins the message. Raises ChannelsRejected.
    """
    if unknown := [repr(name)[1:-1] for name in channels if name not in CHANNELS]:
        raise ChannelsRejected(f"{where}: the model takes {', '.join(unknown)}, which no wearable gives")
    columns = [CHANNELS.index(name) for name in channels]
    for column, unit in zip(columns, units, strict=True):
        if unit != UNITS[column]:
            found = f"the model takes {CHANNELS[column]} in {repr(unit)[1:-1]}"
            raise ChannelsRejected(f"{where}: {found}, a wearable gives it in {UNITS[column]}")
    return columns


def six_wide(values: NDArray[Number], channels: Sequence[str]) -> NDArray[Number]:
    """(..., channels) to (..., 6): zeros where the model takes nothing; what no wearable gives is left out."""
    wide = np.zeros((*values.shape[:-1], len(CHANNELS)), values.dtype)
    for place, name in enumerate(channels):
        if name in CHANNELS:
            wide[..., CHANNELS.index(name)] = values[..., place]
    return wide
