"""Windows that share an event: which, and when it is finished. Pure.

Windows of a session fall into slots of `span` on the grid of its own time. Of each slot go out together those that
follow each other and give the same answer: as soon as nothing can be added to them, or once the slot is due. Which
these are is a function of the journal alone: whatever order samples come in, whole slots are cut alike; and deriving
again after a crash cuts what is not committed as it would have been. For an event is committed as a whole, so what is
held after a crash belongs to events that were not; and of its neighbours none is known earlier than before but
those that are committed, which can only make an event go out earlier, never change its windows.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from gateway.clock import Instant
from gateway.events import WINDOWS_MAX, WindowRecord

OPEN_MAX = 16
"""Slots of one wearable that wait at a time; a further one finishes the oldest. 16 hold up to 480 windows."""


def span_of(coalesce_s: float, hop_s: float) -> int:
    """Windows in a slot; 1 where each is an event of its own."""
    return max(1, min(WINDOWS_MAX, int(coalesce_s / hop_s + 1e-9)))


@dataclass(frozen=True, slots=True)
class SlotDue:
    """What is held of this slot goes out: it is whole, its session has ended, or it has waited for long enough."""

    session: int
    slot: int


@dataclass(slots=True)
class OpenSlots:
    """On the side of the stream: slots of which windows have come out and others may come yet.

    wait_ns: in the stream's own time, after the first of a slot's windows.
    """

    span: int
    wait_ns: int
    opened_ns: dict[tuple[int, int], int] = field(default_factory=dict)
    """By session and slot, in the order of opening."""

    def came_out(self, session: int, number: int, elapsed_ns: int) -> list[SlotDue]:
        if self.span == 1:
            return []
        self.opened_ns.setdefault((session, number // self.span), elapsed_ns)
        return [self._due(*next(iter(self.opened_ns)))] if len(self.opened_ns) > OPEN_MAX else []

    def settled(self, session: int, missing: Callable[[int, int], Collection[object]]) -> list[SlotDue]:
        """missing: what of the windows first to end (exclusive) is not final."""
        span, mine = self.span, [slot for number, slot in self.opened_ns if number == session]
        return [self._due(session, slot) for slot in mine if not missing(slot * span, (slot + 1) * span)]

    def ended(self, session: int) -> list[SlotDue]:
        return [self._due(*key) for key in list(self.opened_ns) if key[0] == session]

    def passed(self, elapsed_ns: int) -> list[SlotDue]:
        late = [key for key, opened_ns in self.opened_ns.items() if elapsed_ns >= opened_ns + self.wait_ns]
        return [self._due(*key) for key in late]

    @property
    def due_ns(self) -> int | None:
        """When `passed` will have something, if nothing else comes."""
        return min(self.opened_ns.values()) + self.wait_ns if self.opened_ns else None

    def _due(self, session: int, slot: int) -> SlotDue:
        del self.opened_ns[session, slot]
        return SlotDue(session, slot)

    def state(self) -> list[Any]:
        """JSON values."""
        return [self.span, [[*key, opened_ns] for key, opened_ns in self.opened_ns.items()]]

    def restore(self, state: list[Any]) -> None:
        """Slots of another length are none of these."""
        span, opened = state
        if span == self.span:
            self.opened_ns = {(session, slot): opened_ns for session, slot, opened_ns in opened}


@dataclass(frozen=True, slots=True)
class Held:
    """An answered window that waits for its event; at: of the journal row that completed it."""

    record: WindowRecord
    at: Instant

    def follows(self, before: "Held") -> bool:
        """Whether both stand in one event: one answer, and one boot and clock to date them by."""
        mine, its = self.record, before.record
        return (
            mine.number == its.number + 1
            and (mine.decision, mine.reasons, mine.activity) == (its.decision, its.reasons, its.activity)
            and (mine.taken_mono_us is None) == (its.taken_mono_us is None)
            and (self.at.boot_id, self.at.utc_synced) == (before.at.boot_id, before.at.utc_synced)
        )


@dataclass(frozen=True, slots=True)
class Run:
    """The windows of one event, in order."""

    session: int
    windows: tuple[Held, ...]

    @property
    def at(self) -> Instant:
        """Of the row that completed the last of them to be complete."""
        return max((held.at for held in self.windows), key=lambda at: at.mono_ns)


class Coalescer:
    """On the side of the answers. committed: whether this window of a session stands in an event already."""

    def __init__(self, span: int, committed: Callable[[int, int], bool]) -> None:
        self.span, self._committed = span, committed
        self._held: dict[tuple[int, int], dict[int, Held]] = {}
        """By session and slot, then by number."""

    def __bool__(self) -> bool:
        return bool(self._held)

    def add(self, session: int, held: Held) -> list[Run]:
        """What can be added to no more, now that this window is known."""
        slot = held.record.number // self.span
        windows = self._held.setdefault((session, slot), {})
        windows[held.record.number] = held
        finished = [run for run in _runs(session, windows) if self._bounded(run, slot, windows)]
        for run in finished:
            for one in run.windows:
                del windows[one.record.number]
        if not windows:
            del self._held[session, slot]
        return finished

    def due(self, slot: SlotDue) -> list[Run]:
        return list(_runs(slot.session, self._held.pop((slot.session, slot.slot), {})))

    def all_due(self) -> list[Run]:
        """Where what is held was answered otherwise than what is to come."""
        return [run for key in list(self._held) for run in self.due(SlotDue(*key))]

    def _bounded(self, run: Run, slot: int, windows: dict[int, Held]) -> bool:
        first, last = run.windows[0].record.number, run.windows[-1].record.number
        return all(
            number // self.span != slot or number in windows or self._committed(run.session, number)
            for number in (first - 1, last + 1)
        )

    def state(self) -> list[Any]:
        """JSON values."""
        return [
            [session, held.record.model_dump(mode="json", exclude_none=True), _instant_state(held.at)]
            for (session, _), windows in self._held.items()
            for held in windows.values()
        ]

    def restore(self, state: list[Any]) -> None:
        """But for what has been committed since."""
        for session, record, at in state:
            held = Held(WindowRecord.model_validate(record), Instant(*at))
            if not self._committed(session, held.record.number):
                self._held.setdefault((session, held.record.number // self.span), {})[held.record.number] = held


def _instant_state(at: Instant) -> list[Any]:
    return [at.boot_id, at.mono_ns, at.utc_ns, at.utc_synced]


def _runs(session: int, windows: dict[int, Held]) -> Iterator[Run]:
    """The longest there are."""
    run: list[Held] = []
    for number in sorted(windows):
        if run and not windows[number].follows(run[-1]):
            yield Run(session, tuple(run))
            run = []
        run.append(windows[number])
    if run:
        yield Run(session, tuple(run))
