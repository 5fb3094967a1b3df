"""One wearable's way through the daemon: observation -> journal -> stream -> inference -> events, in one order.

Whatever is submitted to the writer is committed in the order of submission, so every state that a crash can leave is a
prefix of what is done here. Journal rows go first, then what the stream makes of them, then a snapshot of the stream
as it was when the last of these was made.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from gateway.clock import Instant
from gateway.motion.samples import Float32
from gateway.profiles.conversation import Durable, Event, Kind, Room
from gateway.store.rows import Derived, JournalRow, LoggedEvent
from gateway.stream.coalescing import Coalescer, Held, Run, SlotDue
from gateway.stream.outcome import Answer, EventMaker, Head
from gateway.stream.progress import Progress
from gateway.stream.stream import (
    SNAPSHOT_VERSION,
    Acknowledge,
    DriftReady,
    StateReady,
    Stream,
    WindowReady,
    held_in,
    with_held,
)

log = logging.getLogger(__name__)

Infer = Callable[[Float32], Awaitable[Float32]]
"""(n, length, 6) float32, m/s² and deg/s, to (n, labels) probabilities."""

BATCH_WINDOWS = 32
"""Windows that go to the interpreter in one call; also how long others may have to wait for it."""
WAITING_MAX = 512
"""Windows that wait for inference; above it the wearable gets no more credit. 512 windows are 2.5 MB."""


class Writer(Protocol):
    """What a pipeline asks of the store's writer."""

    def journal(self, wearable: str, kind: str, payload: bytes, at: Instant) -> int: ...
    def derived(self, derived: Derived) -> None: ...
    def room(self) -> int: ...


@dataclass(frozen=True, slots=True)
class _Snapshot:
    row: int
    state: bytes


_Step = WindowReady | SlotDue | DriftReady | StateReady | _Snapshot


@dataclass(slots=True)
class Shown:
    """What people are shown of a wearable: the newest answer, and counts since the daemon's start."""

    answer: Answer | None = None
    faults: dict[str, int] = field(default_factory=dict)


class Pipeline:
    """deliver: hands an event to the wearable's conversation. infer: the interpreter, called with a batch."""

    def __init__(
        self,
        *,
        wearable: str,
        stream: Stream,
        progress: Progress,
        events: EventMaker,
        writer: Writer,
        infer: Infer,
        snapshot_rows: int,
        span: int = 1,
    ) -> None:
        """span: windows of a slot, within which they may share an event (gateway/stream/coalescing.py)."""
        self.wearable = wearable
        self.stream = stream
        self.shown = Shown()
        self._progress, self._events, self._writer, self._infer = progress, events, writer, infer
        self._snapshot_rows = snapshot_rows
        self._coalescer = Coalescer(span, progress.has_window)
        self._since_snapshot = 0
        self._steps: deque[_Step] = deque()
        self._stepped = asyncio.Event()
        self._acknowledgements: deque[Acknowledge] = deque()
        self._durable: dict[int, int] = {}
        self._activity: str | None = None
        self._deliver: Callable[[Event], None] = lambda _: None

    def restore(self, snapshot: bytes) -> None:
        """Takes up the answers that waited when this snapshot was taken. Where they do not fit those to come, since
        model or settings have changed, they go out as they are."""
        held = held_in(snapshot)
        if held is None:
            return
        head, span, waiting = held
        fits = head == self._events.head and span == self._coalescer.span
        waited = self._coalescer if fits else Coalescer(span, self._progress.has_window)
        waited.restore(waiting)
        if not fits:
            self._submit_runs(waited.all_due(), head)

    def replay(self, rows: Iterable[JournalRow]) -> None:
        """The journal since the snapshot, from before this start; what is committed already is not done again.

        All of it is on the medium. No snapshot is taken on the way: it would forget progress made beyond it.
        """
        for row in rows:
            self._advance(row)
        self._acknowledgements.clear()
        self._durable = self.stream.acknowledgeable()

    def attach(self, deliver: Callable[[Event], None]) -> None:
        """Connects the conversation that acknowledgements and credit go to, and tells it what is durable already.

        The stream may know of more: what it was told and the writer has not committed.
        """
        self._deliver = deliver
        for session, index in self._durable.items():
            deliver(Durable(session, index))

    def observe(self, kind: Kind, payload: bytes, at: Instant) -> None:
        """Journals an observation and derives from it. Raises StoreFull; then the observation is nowhere."""
        row = self._writer.journal(self.wearable, kind, payload, at)
        self._advance(JournalRow(row, self.wearable, kind, payload, at))
        if self._since_snapshot >= self._snapshot_rows:
            self.take_snapshot()

    def _advance(self, row: JournalRow) -> None:
        """A row that brings an error of this program to light costs itself: it is in the journal, and one that ended
        the daemon would end it again at each start."""
        try:
            outputs = self.stream.advance(row)
        except Exception:
            log.exception("%s: nothing can be derived from journal row %d; it is left out", self.wearable, row.row)
            self.shown.faults["underivable"] = self.shown.faults.get("underivable", 0) + 1
            outputs = []
        for output in outputs:
            if isinstance(output, Acknowledge):
                self._acknowledgements.append(output)
            else:
                self._steps.append(output)
        self._since_snapshot += 1
        if self._steps:
            self._stepped.set()

    def pass_time(self, now: Instant) -> None:
        """Journals that time has passed, where answers wait for it and nothing else comes."""
        if self.stream.waits_for_time(now):
            self.observe(Kind.PASSED, b"", now)

    def take_snapshot(self) -> None:
        """Goes behind the results it covers, so that it is committed after them."""
        if self._since_snapshot:
            self._since_snapshot = 0
            self._steps.append(_Snapshot(self.stream.row, self.stream.snapshot()))
            self._stepped.set()

    def committed(self, row: int) -> None:
        """All journal rows up to this one are on the medium: the wearable may erase what they hold."""
        newest: dict[int, int] = {}
        while self._acknowledgements and self._acknowledgements[0].row <= row:
            acknowledge = self._acknowledgements.popleft()
            newest[acknowledge.session] = acknowledge.index
        self._durable |= newest
        for session, index in newest.items():
            self._deliver(Durable(session, index))
        self._offer_room()

    def _offer_room(self) -> None:
        self._deliver(Room(self._writer.room() if len(self._steps) < WAITING_MAX else 0))

    async def run(self) -> None:
        """Turns what the stream gives into committed events, in order, until cancelled."""
        while True:
            await self._stepped.wait()
            self._stepped.clear()
            await self.drain()

    async def drain(self) -> None:
        """Submits all that waits."""
        while self._steps:
            was_full = len(self._steps) >= WAITING_MAX
            await self._step()
            if was_full and len(self._steps) < WAITING_MAX:
                self._offer_room()

    async def _step(self) -> None:
        step = self._steps[0]
        if isinstance(step, WindowReady):
            await self._predict()
            return
        self._steps.popleft()
        match step:
            case SlotDue():
                self._submit_runs(self._coalescer.due(step))
            case DriftReady():
                self._progress.add_period(step.session, step.number)
                self._submit(self._events.drift(step))
            case StateReady():
                self._progress.state_row = step.row
                self._submit(self._events.state(step, self.stream.counters))
            case _Snapshot(row, state):
                self._progress.windows.clear()
                self._progress.periods.clear()
                if self._coalescer:
                    state = with_held(state, [self._events.head, self._coalescer.span, self._coalescer.state()])
                snapshot = (row, SNAPSHOT_VERSION, state)
                self._writer.derived(Derived(self.wearable, progress=self._progress.encode(), snapshot=snapshot))

    async def _predict(self) -> None:
        batch: list[WindowReady] = []
        for step in self._steps:
            if not isinstance(step, WindowReady) or len(batch) == BATCH_WINDOWS:
                break
            batch.append(step)
        probabilities = await self._infer(np.stack([window.values for window in batch]))
        for window, row in zip(batch, probabilities, strict=True):
            self._steps.popleft()
            answer = self._events.answer(row)
            self.shown.answer = answer
            if self._coalescer.span > 1:
                held = Held(self._events.record(window, answer), window.at)
                self._submit_runs(self._coalescer.add(window.session, held))
                continue
            self._progress.add_window(window.session, window.number)
            self._submit(self._events.prediction(window, answer), changes=self._changes(answer.activity))

    def _submit_runs(self, runs: Sequence[Run], head: Head | None = None) -> None:
        """Each an event, all in one commit: so what is left after a crash is what one step or none of them made."""
        for run in runs:
            for held in run.windows:
                self._progress.add_window(run.session, held.record.number)
        if runs:
            changes = [self._changes(held.record.activity) for run in runs for held in run.windows]
            self._submit(*(self._events.run(run, head) for run in runs), changes=any(changes))

    def _changes(self, activity: str) -> bool:
        """Whether the events said another one before."""
        before, self._activity = self._activity, activity
        return before != activity

    def _submit(self, *events: LoggedEvent, changes: bool = False) -> None:
        progress = self._progress.encode()
        self._writer.derived(Derived(self.wearable, events=events, progress=progress, changes=changes))
