"""When the demo breaks what: a schedule in seconds from its start. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Fault(StrEnum):
    RANGE = "range"
    BROKER = "broker"
    KILL = "kill"


MEANING = {
    Fault.RANGE: "a wearable goes out of range and comes back",
    Fault.BROKER: "the way to the broker is cut and healed",
    Fault.KILL: "the daemon is killed (kill -9) and started again",
}
BEGIN, END = 0.45, 0.9
"""Faults begin about half-way; the last tenth of the time shows that all has recovered."""
ACTIVE = 0.6
"""Share of its slot that a fault lasts; recovery is seen in the rest."""
DOWN_S_MAX = 2.0
"""The daemon is started again after so long at most: what systemd does, RestartSec=1, and a moment to see it down."""


@dataclass(frozen=True, slots=True)
class Outage:
    fault: Fault
    begin_s: float
    end_s: float


def schedule(faults: Sequence[Fault], duration_s: float) -> tuple[Outage, ...]:
    """One after the other, none overlapping, in the order of `faults`."""
    if not faults:
        return ()
    slot_s = (END - BEGIN) * duration_s / len(faults)
    outages = []
    for place, fault in enumerate(faults):
        begin_s = BEGIN * duration_s + place * slot_s
        lasts_s = ACTIVE * slot_s
        outages.append(Outage(fault, begin_s, begin_s + (min(DOWN_S_MAX, lasts_s) if fault is Fault.KILL else lasts_s)))
    return tuple(outages)
