"""Which wearable may be connected, by what is remembered of its pairing and what the Bluetooth stack holds of it.

A wearable that was paired once is known by its bond. Without it, whoever answers at its address may be another device,
so it is refused until an operator pairs it again; only what nobody ever paired is taken for what its address says.
"""

from dataclasses import dataclass
from enum import StrEnum


class Remembered(StrEnum):
    """Of the last pairing. number: somebody typed, compared or was shown one. unknown: its bond was made elsewhere, and
    the stack does not tell how. forgotten: an operator ended it."""

    NUMBER = "number"
    JUST_WORKS = "just_works"
    UNKNOWN = "unknown"
    FORGOTTEN = "forgotten"


@dataclass(frozen=True, slots=True)
class Held:
    """What the stack holds of a wearable. authenticated: whether a number vouched for its bond; None: not told."""

    bonded: bool
    authenticated: bool | None = None


FORGOTTEN = "forgotten, and not connected until `gateway pair {name}`"
MISSING = (
    "it was paired, and the bond is gone from this machine, so nobody knows who answers at its address; "
    "`gateway pair {name}` near it pairs it again"
)
WITHOUT_NUMBER = (
    "it is paired without digits, so nobody knows who it is; `gateway forget {name}` and `gateway pair {name}`, or "
    "allow_just_works = true where that will do"
)
LOST = (
    "it does not know its bond any more: it was reset, or another device has its address; "
    "if it is yours, `gateway forget {name}` and `gateway pair {name}`"
)
"""Not a verdict of `refusal`: the wearable itself has shown it."""
UNANSWERED = (
    "it is heard, and no link to it comes about: it is at the edge of reach, or does not know its bond any more; "
    "if it was reset, `gateway forget {name}` and `gateway pair {name}`"
)
"""Nor this: a stack may show a lost bond by nothing but time-outs."""


def learnt(remembered: Remembered | None, held: Held) -> Remembered | None:
    """What is to be remembered from now on: a bond that was made otherwise counts like one that was made here."""
    if remembered is not None or not held.bonded:
        return remembered
    return {True: Remembered.NUMBER, False: Remembered.JUST_WORKS, None: Remembered.UNKNOWN}[held.authenticated]


def refusal(remembered: Remembered | None, held: Held, allow_just_works: bool) -> str | None:
    """Why it is not connected, with the way out, `{name}` for the wearable's id; None where it may be."""
    if remembered is Remembered.FORGOTTEN:
        return FORGOTTEN
    if not held.bonded:
        return None if remembered is None else MISSING
    without_number = held.authenticated is False or (held.authenticated is None and remembered is Remembered.JUST_WORKS)
    return WITHOUT_NUMBER if without_number and not allow_just_works else None


def may_pair_by_itself(remembered: Remembered | None, allow_just_works: bool) -> bool:
    """Without an operator, as the daemon does it: only one that was never paired before."""
    return allow_just_works and remembered is None
