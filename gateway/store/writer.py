"""The one thread that writes: everything submitted is committed in the order of submission, many at a time.

So each state that a crash can leave is a prefix of the submissions. Submitting never waits: it appends to a batch in
memory, of which the thread takes all there is at each commit. A commit that fails is tried again, with all that it
held, before anything submitted later.
"""

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from gateway.clock import Instant
from gateway.store.batch import ROW_OVERHEAD_BYTES, Batch, write
from gateway.store.bounds import CONTENTS
from gateway.store.connection import SENSELESS, errors_in_words, is_damage, suspect
from gateway.store.errors import StoreBounded, StoreFailed, StoreFull
from gateway.store.messages import Packer
from gateway.store.rows import Checkpoint, Cursor, Derived, Dropped, JournalRow, Parked
from gateway.store.store import Store
from gateway.store.trimming import Trimmer, read_dropped

log = logging.getLogger(__name__)

RETRY_MIN_S, RETRY_MAX_S = 0.5, 30.0
"""Between tries of a commit that fails: a full disk is not freed by asking often."""
CLOSE_TRIES = 3
"""Of the last commit when closing; what it holds was never acknowledged to anyone."""


@dataclass(frozen=True, slots=True)
class Committed:
    """All journal rows up to journal_row and all events up to event_seq are on the medium."""

    journal_row: int
    event_seq: int


@dataclass(slots=True)
class WriterCounters:
    """Since the writer began."""

    commits: int = 0
    failures: int = 0
    trimmed: int = 0
    trimmed_early: int = 0
    """Of these, rows that nobody needed, before their retention was over: the store was above a bound."""


@dataclass(frozen=True, slots=True)
class Fill:
    """How full the store is. bytes, bound: of observations ("journal") and of events ("event"), about.

    fetches: there is room for what wearables hold; takes: for what they send live. dropped: what had to go though it
    was needed, since the store began.
    """

    bytes: dict[str, int]
    bound: dict[str, int]
    fetches: bool
    takes: bool
    dropped: tuple[Dropped, ...]


class Committer:
    """What is submitted, and its commits one by one; waits for nothing and has no thread of its own.

    on_commit and on_error are called through `_tell`; on_error: what is wrong with the medium, in words, at each failed
    try; None once a commit goes through again.
    """

    def __init__(
        self,
        store: Store,
        on_commit: Callable[[Committed], None],
        on_error: Callable[[str | None], None] = lambda _trouble: None,
    ) -> None:
        self._connection = store.connection
        self._settings = store.settings
        self._on_commit, self._on_error = on_commit, on_error
        self._row, self._seq = store.last_row(), store.last_seq()
        with errors_in_words(store.settings.path):
            self._trimmer = Trimmer.of(store.connection, store.settings, store.destinations)
            self._packer = Packer.of(store.connection)
            dropped = read_dropped(store.connection)
        self._trim_at: Instant | None = None
        self.fill = self._filled(dropped)
        """As of the last commit."""
        self._changed = threading.Condition()
        # Guarded by _changed:
        self._batch = Batch()
        self._committing_bytes = 0
        self._urgent = self._closing = self._ended = False
        self.trouble: str | None = None
        """What keeps commits from going through."""
        self.counters = WriterCounters()

    def journal(self, wearable: str, kind: str, payload: bytes, at: Instant) -> int:
        """Takes an observation and returns its row number.

        Raises StoreFull (also where the store is above its bounds and may drop nothing) or StoreFailed; then it is not
        taken.
        """
        with self._changed:
            self.check_open()
            if not self.fill.takes:
                raise StoreBounded(self._settings.path)
            waiting = self._batch.bytes + self._committing_bytes
            if waiting + len(payload) + ROW_OVERHEAD_BYTES > self._settings.queue_bytes_max:
                raise StoreFull(waiting, self._settings.queue_bytes_max)
            self._row += 1
            self._batch.add_row(JournalRow(self._row, wearable, kind, payload, at))
            self._submitted()
            return self._row

    def derived(self, derived: Derived) -> None:
        """Takes results, always: what they come from is bounded already. Raises StoreFailed once closed."""
        with self._changed:
            self.check_open()
            self._batch.add_derived(derived)
            self._urgent |= derived.changes and self._settings.commit_on_change
            self._submitted()

    def cursor(self, cursor: Cursor, checkpoints: Sequence[Checkpoint] | None = None) -> None:
        """A later one of the same destination replaces it before the commit; so do checkpoints, where given."""
        with self._changed:
            self.check_open()
            self._batch.cursors[cursor.destination] = cursor
            if checkpoints is not None:
                self._batch.checkpoints[cursor.destination] = tuple(checkpoints)
            self._submitted()

    def park(self, parked: Parked) -> None:
        """Goes before the cursor that has passed it, or in the same commit."""
        with self._changed:
            self.check_open()
            self._batch.parked.append(parked)
            self._submitted()

    def connecting(self, destination: str, under_way: bool, *, soon: bool = False) -> None:
        """Whether a connection to it is being made whose answer nobody has acted on; soon: does not wait for the
        interval."""
        with self._changed:
            self.check_open()
            self._batch.connecting[destination] = under_way
            self._urgent |= soon
            self._submitted()

    def trim(self, now: Instant) -> None:
        """Deletes what nobody needs any more, a bounded part of it, behind the next commit."""
        with self._changed:
            self.check_open()
            self._batch.trim = now
            self._submitted()

    def room(self) -> int:
        """Bytes of observations that are still taken before the next commit; 0 where nothing is to be fetched."""
        with self._changed:
            if not self.fill.fetches:
                return 0
            return max(0, self._settings.queue_bytes_max - self._batch.bytes - self._committing_bytes)

    def check_open(self) -> None:
        """Raises StoreFailed once nothing is taken any more."""
        if self._closing or self._ended:
            raise StoreFailed(f"store: the writer has ended{f': {self.trouble}' if self.trouble else ''}")

    def _submitted(self) -> None:
        if self._batch.bytes > self._settings.queue_bytes_max // 4:
            self._urgent = True
        self._changed.notify_all()

    def take(self) -> Batch:
        """All that was submitted since; what is taken is committed, or tried again, before the next is."""
        with self._changed:
            batch, self._batch = self._batch, Batch()
            self._committing_bytes = batch.bytes
            self._urgent = False
            return batch

    def attempt(self, batch: Batch) -> bool:
        """Whether it is on the medium now; where it is not, the reason is reported."""
        batch.pack(self._packer)
        try:
            last_seq = write(self._connection, batch, self._seq)
        except (sqlite3.Error, *SENSELESS) as error:
            self.counters.failures += 1
            self._raise_damage(error)
            self._report(f"{type(error).__name__}: {error}")
            return False
        self._went_through(batch, last_seq)
        return True

    def _went_through(self, batch: Batch, last_seq: int) -> None:
        self._seq = last_seq
        self.counters.commits += 1
        self._trimmer.added(batch)
        with self._changed:
            self._committing_bytes = 0
            row = self._row if not self._batch.journal else self._batch.journal[0].row - 1
        if self.trouble is not None:
            self._report(None)
        self._tell(self._on_commit, Committed(row, self._seq))
        self._trim(batch.trim)

    def _trim(self, asked: Instant | None) -> None:
        """When asked to, and behind each commit for as long as a pass leaves something or the store is above a bound.

        Where nothing may be dropped passes stay a matter of who asks: most find nothing.
        """
        dropped = self.fill.dropped
        self._trim_at = asked or self._trim_at
        idle = not self._trimmer.more and not (self._trimmer.crowded and self._trimmer.fetches)
        if self._trim_at is not None and (asked is not None or not idle):
            try:
                self.counters.trimmed += self._trimmer.trim(self._connection, self._trim_at)
                dropped = read_dropped(self._connection)
            except (sqlite3.Error, OSError, *SENSELESS) as error:  # nothing is lost; the next pass does it
                self._raise_damage(error)
                log.warning("trimming the store: %s", error)
            self.counters.trimmed_early = self._trimmer.early
        self.fill = self._filled(dropped)

    def _filled(self, dropped: tuple[Dropped, ...]) -> Fill:
        trimmer = self._trimmer
        return Fill(
            {content: trimmer.usage[content] for content in CONTENTS},
            {content: trimmer.limits[content].bytes for content in CONTENTS},
            trimmer.fetches,
            trimmer.takes,
            dropped,
        )

    def _raise_damage(self, error: Exception) -> None:
        """A damaged file does not heal by trying again: the writer ends, and the next start mends it."""
        if is_damage(error) or isinstance(error, SENSELESS):
            suspect(self._settings.path)
            raise error

    def _report(self, trouble: str | None) -> None:
        self.trouble = trouble
        self._tell(self._on_error, trouble)

    def _tell(self, callback: Callable[..., None], *values: object) -> None:
        callback(*values)


class Writer(Committer):
    """The thread. Methods are for the loop's thread; callbacks are called in the loop."""

    def __init__(
        self,
        store: Store,
        loop: asyncio.AbstractEventLoop,
        on_commit: Callable[[Committed], None],
        on_error: Callable[[str | None], None] = lambda _trouble: None,
    ) -> None:
        super().__init__(store, on_commit, on_error)
        self._loop = loop
        self._flushes: list[asyncio.Future[None]] = []  # guarded by _changed
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    async def flush(self) -> None:
        """Commits now; all submitted so far is on the medium when it returns.

        Waits for as long as commits fail. Raises StoreFailed where the writer ends before.
        """
        done: asyncio.Future[None] = self._loop.create_future()
        with self._changed:
            if self._ended:
                raise StoreFailed("store: the writer has ended")
            self._flushes.append(done)
            self._urgent = True
            self._changed.notify_all()
        await done

    async def close(self) -> None:
        """Commits what was submitted and ends the thread. Raises StoreFailed where that cannot be written."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        await self._loop.run_in_executor(None, self._thread.join)
        left = len(self._batch.journal), len(self._batch.events)
        if self._batch:
            raise StoreFailed(f"store: {left[0]} observations and {left[1]} events not written: {self.trouble}")

    # The thread.

    def _run(self) -> None:
        flushes: list[asyncio.Future[None]] = []
        try:
            while True:
                batch, flushes = self._due()
                if batch and not self._commit(batch):
                    break
                for flush in flushes:
                    self._tell(_resolve, flush, None)
                flushes = []
                with self._changed:
                    if self._closing and not self._batch:
                        break
        except Exception as error:  # the thread's edge: a fault of this program; nobody may go on as if it wrote
            log.exception("the store's writer has ended")
            self._report(f"{type(error).__name__}: {error}")
        finally:
            with self._changed:
                self._ended = True
                flushes += self._flushes
            for flush in flushes:
                self._tell(_resolve, flush, StoreFailed(f"store: not written: {self.trouble or 'closed'}"))

    def _due(self) -> tuple[Batch, list[asyncio.Future[None]]]:
        """Waits until something is due, and takes all that was submitted."""
        with self._changed:
            self._changed.wait_for(lambda: self._batch or self._urgent or self._closing)
            self._changed.wait_for(lambda: self._urgent or self._closing, timeout=self._settings.commit_interval_s)
            flushes, self._flushes = self._flushes, []
            return self.take(), flushes

    def _commit(self, batch: Batch) -> bool:
        """Until it goes through; False where the writer closes before. The batch is then what is left."""
        retry_s, tries = RETRY_MIN_S, 0
        while not self.attempt(batch):
            tries += 1
            with self._changed:
                tries = tries if self._closing else 0
                if tries >= CLOSE_TRIES:
                    self._batch, self._committing_bytes = _joined(batch, self._batch), 0
                    return False
                # once closing, the few tries left keep their distance too
                if self._closing:
                    self._changed.wait(RETRY_MIN_S)
                else:
                    self._changed.wait_for(lambda: self._closing, timeout=retry_s)
            retry_s = min(2 * retry_s, RETRY_MAX_S)
        return True

    def _tell(self, callback: Callable[..., None], *values: object) -> None:
        with suppress(RuntimeError):  # the loop has been closed: nobody is left to tell
            self._loop.call_soon_threadsafe(callback, *values)


def _resolve(future: asyncio.Future[None], error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


def _joined(first: Batch, later: Batch) -> Batch:
    """What is left of both, to count."""
    return Batch(first.journal + later.journal, first.events + later.events, first.progress | later.progress)
