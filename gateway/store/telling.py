"""What of the store is told: to people in sentences, to subscribers as its report; and when. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from gateway import events
from gateway.clock import Instant
from gateway.store.rows import Dropped
from gateway.store.writer import Fill

AGAIN_NS = 3600 * 10**9
"""While more goes on being dropped it is told so often: what tells of it is itself in the log that is full."""
RECENT_NS = 24 * AGAIN_NS
"""For so long people are told of it."""


def report_of(fill: Fill, findings: Sequence[str]) -> events.StoreReport:
    dropped = tuple(
        events.DroppedData(
            kind=one.kind,
            wearable=one.wearable,
            reason=one.reason,
            count=one.count,
            bytes=one.bytes,
            oldest=events.rfc3339(one.oldest_ns),
            newest=events.rfc3339(one.newest_ns),
        )
        for one in fill.dropped
    )
    status = "ok" if fill.takes else "full"
    return events.StoreReport(
        status=status, used=fill.bytes, bound=fill.bound, dropped=dropped, findings=tuple(findings)
    )


def sentence(one: Dropped) -> str:
    """For people."""
    what = f"{one.kind} events" if one.kind != "observation" else "observations"
    whose = f"of {one.wearable}" if one.wearable else "of the gateway"
    span = f"{events.rfc3339(one.oldest_ns)[:16]} to {events.rfc3339(one.newest_ns)[:16]}"
    why = {"bytes": "the bound of bytes", "age": "their age", "disk": "the share of the disk"}[one.reason]
    return f"{one.count} {what} {whose} dropped for {why}, {one.bytes / 1e6:.1f} MB, {span}"


@dataclass(slots=True)
class Telling:
    """Remembers what was told of drops and of fullness. findings: as the store was opened."""

    findings: Sequence[str]
    known: tuple[Dropped, ...]
    """As of the start: told by an earlier one."""
    _told: tuple[Dropped, ...] | None = None
    _told_ns: int = 0
    _seen: tuple[Dropped, ...] | None = None
    _seen_ns: int = 0
    _took: bool = True
    _began_ns: int | None = None

    def due(self, fill: Fill, now: Instant) -> events.StoreReport | None:
        """The report, where it has to be told now."""
        first = self._began_ns is None
        if first:
            self._began_ns, self._told, self._seen = now.mono_ns, self.known, self.known
        if fill.dropped != self._seen:
            self._seen, self._seen_ns = fill.dropped, now.mono_ns
        more = fill.dropped != self._told
        recently = self._told != self.known and now.mono_ns - self._told_ns < AGAIN_NS
        if not (more and not recently) and fill.takes == self._took and not (first and self.findings):
            return None
        self._told, self._told_ns, self._took = fill.dropped, now.mono_ns, fill.takes
        return report_of(fill, self.findings)

    def sentences(self, now: Instant) -> list[str]:
        """What people should know of: what was dropped lately, and what was found."""
        if self._began_ns is None:
            return list(self.findings)
        lines = list(self.findings) if now.mono_ns - self._began_ns < RECENT_NS else []
        if self._seen != self.known and now.mono_ns - self._seen_ns < RECENT_NS:
            lines += map(sentence, set(self._seen or ()) - set(self.known))
        return sorted(lines)
