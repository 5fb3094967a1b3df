"""A verdict from a snapshot of facts. Pure: whoever gathers the facts also decides when to ask."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Level(StrEnum):
    """ok: all collects and is sent. degraded: something waits, is refused, doubtful, away, or had to be dropped.

    failed: nothing collects.
    """

    OK = "ok"
    DEGRADED = "degraded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class LinkFacts:
    """state: the link's state in words. why: what keeps it there, where waiting will not do."""

    state: str
    streaming: bool
    why: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the daemon knows at one moment; a fault is a sentence of the room that has it, None where there is none."""

    radio_fault: str | None = None
    radio_trouble: str | None = None
    """An adapter is away while another one works."""
    store_fault: str | None = None
    store_full: bool = False
    """It takes nothing more, since its policy is to drop nothing."""
    store_told: tuple[str, ...] = ()
    """What had to be dropped lately, and what was found wrong at the start."""
    broker_connected: bool = True
    broker: str = "connected"
    """The session's state in words."""
    events_waiting: int = 0
    events_dropped: int = 0
    """Since the start, from the store, before the broker had acknowledged them."""
    events_refused: int = 0
    refusal: str = ""
    """What the broker said to the last of them."""
    wearables: Mapping[str, LinkFacts] = field(default_factory=dict)
    doubts: Mapping[str, str] = field(default_factory=dict)
    """Of wearables: why what is told of one should not be relied on."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """reasons: why it is not ok, the gravest first."""

    level: Level
    reasons: tuple[str, ...]
    streaming: int
    wearables: int

    def __str__(self) -> str:
        """One line, as systemd and people show it."""
        links = f"{self.streaming} of {self.wearables} wearables streaming"
        return "; ".join([f"{self.level}: {links}", *self.reasons])


def judge(facts: Facts) -> Verdict:
    fatal, lesser = [], []
    if facts.store_fault is not None:
        fatal.append(f"store: {facts.store_fault}")
    if facts.store_full:
        fatal.append("store: full; wearables keep their samples until events are acknowledged, or it may hold more")
    if facts.radio_fault is not None:
        fatal.append(f"radio: {facts.radio_fault}")
    if not facts.broker_connected:
        waiting = f", {facts.events_waiting} events wait" if facts.events_waiting else ""
        lesser.append(f"broker: {facts.broker}{waiting}")
    if facts.events_dropped:
        lesser.append(f"broker: {facts.events_dropped} events were dropped before it had them")
    if facts.events_refused:
        lesser.append(f"broker refuses {facts.events_refused} events: {facts.refusal}")
    lesser += [f"store: {told}" for told in facts.store_told]
    if facts.radio_trouble is not None:
        lesser.append(f"radio: {facts.radio_trouble}")
    lesser += [
        f"{name}: {link.state}" + (f" ({link.why})" if link.why else "")
        for name, link in facts.wearables.items()
        if not link.streaming
    ]
    lesser += [f"{name}: {doubt}" for name, doubt in facts.doubts.items()]
    level = Level.FAILED if fatal else Level.DEGRADED if lesser else Level.OK
    streaming = sum(link.streaming for link in facts.wearables.values())
    return Verdict(level, (*fatal, *lesser), streaming, len(facts.wearables))
