"""What time it was in UTC, from monotonic time: as far as clock events, and else the order of boots, tell. Pure.

Nothing here depends on the order in which events come, but for which store a start's number belongs to.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from gateway.events import Clock, Event, GatewayState, State, WindowRecord, rfc3339

BOOTS_MAX = 10_000
"""Boots remembered, of all gateways."""
TELLS_MAX = 1000
"""Clock events remembered of a boot; a clock that is set more often than that tells nothing."""
TIME_UNCERTAINTY_US = 100_000
"""Of an event's own `time`, where no clock event of its boot has said better: that of NTP over the Internet."""
CRYSTAL_PPM = 100
"""Monotonic time before the first clock event ran at the crystal's own rate, which may be off by so much."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class When:
    """A moment in UTC, in microseconds since 1970, between two bounds; None: nothing bounds that side.

    exact: the boot's clock was told, and the bounds are its uncertainty; else the order of boots alone bounds it.
    """

    earliest_us: int | None
    latest_us: int | None
    exact: bool

    @property
    def utc_us(self) -> int | None:
        """The middle; None unless exact."""
        if not self.exact or self.earliest_us is None or self.latest_us is None:
            return None
        return (self.earliest_us + self.latest_us) // 2

    @property
    def utc(self) -> datetime | None:
        return None if self.utc_us is None else _EPOCH + timedelta(microseconds=self.utc_us)

    @property
    def uncertainty_us(self) -> int | None:
        if self.earliest_us is None or self.latest_us is None:
            return None
        return (self.latest_us - self.earliest_us + 1) // 2

    def widened(self, by_us: int) -> "When":
        return When(_plus(self.earliest_us, -by_us), _plus(self.latest_us, by_us), self.exact)

    def __str__(self) -> str:
        """RFC 3339; where only bounds are known, those, such as 2026-03-01T12:00:00.000000Z..?"""
        if self.utc_us is not None:
            return _text(self.utc_us)
        if self.earliest_us is None and self.latest_us is None:
            return "?"
        return f"{_text(self.earliest_us)}..{_text(self.latest_us)}"


UNKNOWN = When(None, None, False)


@dataclass(frozen=True, slots=True, order=True)
class _Tell:
    mono_us: int
    offset_us: int
    uncertainty_us: int


@dataclass(slots=True)
class _Boot:
    told: list[_Tell] = field(default_factory=list)
    """By clock events, in monotonic order."""
    timed: list[_Tell] = field(default_factory=list)
    """By events' own `time`: the first and the last."""
    last_us: int = 0
    """The latest monotonic time that was heard of it."""


class Clocks:
    """heed every event, also those of other kinds and stored ones; then ask."""

    def __init__(self) -> None:
        self._boots: dict[str, _Boot] = {}
        self._eras: dict[str, list[dict[int, str]]] = {}
        """For each gateway, for each of its stores: the boots by a number that grows."""

    def heed(self, event: Event) -> None:
        mono_us = int(event.monons) // 1000
        boot = self._boot(event.bootid)
        boot.last_us = max(boot.last_us, mono_us)
        if isinstance(event, Clock):
            self.tell(event.data.boot, mono_us, event.data.offset_us, event.data.uncertainty_us)
        elif event.time is not None:
            offset_us = parsed_us(event.time) - mono_us
            boot.timed = _ends([*boot.timed, _Tell(mono_us, offset_us, TIME_UNCERTAINTY_US)])
        if isinstance(event, State) and isinstance(event.data, GatewayState):
            self.rank(event.gateway, event.data.start, event.bootid)

    def tell(self, boot_id: str, mono_us: int, offset_us: int, uncertainty_us: int) -> None:
        """As a clock event does: UTC is monotonic time + offset_us from mono_us on; before the first of them too."""
        boot, told = self._boot(boot_id), _Tell(mono_us, offset_us, uncertainty_us)
        boot.last_us = max(boot.last_us, mono_us)
        if told not in boot.told:
            boot.told = sorted([*boot.told, told])[:TELLS_MAX]

    def saw(self, boot_id: str, mono_us: int) -> None:
        """Something was made then."""
        boot = self._boot(boot_id)
        boot.last_us = max(boot.last_us, mono_us)

    def rank(self, gateway: str, number: int, boot_id: str) -> None:
        """The gateway's boots come in the order of these numbers. One that is not above those of earlier calls is of
        another store, whose boots nobody can put in order with these."""
        eras = self._eras.setdefault(gateway, [{}])
        if any(boot_id in era.values() for era in eras):
            return
        if eras[-1] and number <= max(eras[-1]):
            eras.append({})
        eras[-1][number] = boot_id

    def at(self, boot_id: str, mono_us: int) -> When:
        """When this boot's monotonic clock stood so."""
        boot = self._boots.get(boot_id)
        if boot is None:
            return self._between(boot_id, mono_us)
        return _exact(boot, mono_us) or self._between(boot_id, mono_us)

    def made(self, event: Event) -> When:
        """When the event was made; its own `time` comes first."""
        mono_us = int(event.monons) // 1000
        when = self.at(event.bootid, mono_us)
        if event.time is None:
            return when
        uncertainty_us = (when.uncertainty_us if when.exact else None) or TIME_UNCERTAINTY_US
        time_us = parsed_us(event.time)
        return When(time_us - uncertainty_us, time_us + uncertainty_us, True)

    def taken(self, event: Event, record: WindowRecord) -> When:
        """When the first sample of this window of the event was taken."""
        made = self.made(event)
        if record.taken_mono_us is None:
            return When(None, made.latest_us, False)
        if made.exact and event.time is not None:
            before_us = int(event.monons) // 1000 - record.taken_mono_us
            when = When(_plus(made.earliest_us, -before_us), _plus(made.latest_us, -before_us), True)
        else:
            when = self.at(event.bootid, record.taken_mono_us)
        return when.widened(record.taken_uncertainty_us or 0)

    def _boot(self, boot_id: str) -> _Boot:
        if boot_id not in self._boots:
            if len(self._boots) >= BOOTS_MAX:
                del self._boots[next(iter(self._boots))]
            self._boots[boot_id] = _Boot()
        return self._boots[boot_id]

    def _between(self, boot_id: str, mono_us: int) -> When:
        """After all that happened in the boots before, and before all that happened in those after it."""
        for eras in self._eras.values():
            for era in eras:
                boots = [era[number] for number in sorted(era)]
                if boot_id in boots:
                    place = boots.index(boot_id)
                    return self._bounds(boots[:place], boot_id, boots[place + 1 :], mono_us)
        return UNKNOWN

    def _bounds(self, before: list[str], boot_id: str, after: list[str], mono_us: int) -> When:
        begins_us: int | None = None
        for boot in map(self._boot, before):
            exact = _exact(boot, boot.last_us)
            if exact is not None and exact.earliest_us is not None:
                begins_us = max(exact.earliest_us, begins_us if begins_us is not None else exact.earliest_us)
            elif begins_us is not None:
                begins_us += boot.last_us
        ends_us: int | None = None
        for boot in map(self._boot, reversed(after)):
            exact = _exact(boot, 0)
            if exact is not None and exact.latest_us is not None:
                ends_us = min(exact.latest_us, ends_us if ends_us is not None else exact.latest_us)
            elif ends_us is not None:
                ends_us -= boot.last_us
        last_us = max(mono_us, self._boot(boot_id).last_us)
        earliest_us, latest_us = _plus(begins_us, mono_us), _plus(ends_us, mono_us - last_us)
        if earliest_us is not None and latest_us is not None and earliest_us > latest_us:
            return UNKNOWN  # some clock that was trusted was wrong
        return When(earliest_us, latest_us, False)


def _exact(boot: _Boot, mono_us: int) -> When | None:
    """By what was told last before that, or else first after it."""
    told = boot.told or boot.timed
    if not told:
        return None
    tell = next((one for one in reversed(told) if one.mono_us <= mono_us), told[0])
    uncertainty_us = tell.uncertainty_us + max(0, tell.mono_us - mono_us) * CRYSTAL_PPM // 1_000_000
    utc_us = mono_us + tell.offset_us
    return When(utc_us - uncertainty_us, utc_us + uncertainty_us, True)


def _ends(tells: list[_Tell]) -> list[_Tell]:
    return sorted({min(tells), max(tells)})


def _plus(us: int | None, more_us: int) -> int | None:
    return None if us is None else us + more_us


def parsed_us(time: str) -> int:
    """Of an event's `time`. Raises ValueError for one that no calendar has."""
    return (datetime.fromisoformat(time) - _EPOCH) // timedelta(microseconds=1)


def _text(us: int | None) -> str:
    if us is None:
        return "?"
    try:
        return rfc3339(us * 1000)
    except OverflowError:  # beyond the year 9999, or before 1
        return f"{us} us"
