"""What is deleted, and when, a bounded pass at a time.

First what nobody needs any more: observations that a snapshot covers, events that all have acknowledged, each once its
retention is over, or earlier where the store is above a bound. Then, where that is not enough and the policy is
drop_oldest, the oldest of what is still needed; that is counted for ever in the table `dropped`.
"""

import os
import sqlite3
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from gateway.clock import Instant
from gateway.store.age import age_s
from gateway.store.batch import Batch, boot_number
from gateway.store.blocks import observations
from gateway.store.bounds import CONTENTS, LIVE_BEYOND, ROW_BYTES, STORED_BYTES, Content, Limit, limit_of
from gateway.store.journal import BLOCKS, block_of
from gateway.store.latest import cursors, given
from gateway.store.messages import copy_dictionaries, drop_dictionaries
from gateway.store.rows import Cursor, Dropped
from gateway.store.settings import StoreSettings

ROWS_A_PASS = 5000
"""Rows that a pass looks at in each table: some 100 ms on a Raspberry Pi, during which nothing is committed."""
MARKS = 24
"""Times of acknowledgement and of logging remembered for each span: what is deleted is late by at most this part."""
BYTES_A_PASS = 2 * 1024 * 1024
"""Free pages given back to the file system in a pass."""
FREE_KEPT = 8
"""One part in so many of the file stays free for what comes next: giving a page back moves another one into it."""


@dataclass(frozen=True, slots=True)
class Going:
    """A row that is deleted. bytes: that it takes; count: of observations in it."""

    key: int
    bytes: int
    count: int = 1


@dataclass(slots=True)
class Trimmer:
    """usage: bytes that each content takes, about. Remembers where its last pass over the journal ended, so that rows
    still needed are not looked at each time."""

    settings: StoreSettings
    destinations: Collection[str] | None = None
    """For whom events are kept: one that has acknowledged nothing yet needs them all, one that is no longer served
    none. None: for all that ever acknowledged or refused one."""
    free_bytes: Callable[[Path], int] = lambda folder: _free_bytes(folder)
    usage: dict[Content, int] = field(default_factory=lambda: dict.fromkeys(CONTENTS, 0))
    limits: dict[Content, Limit] = field(default_factory=dict)
    more: bool = False
    """The last pass has left something that is due."""
    early: int = 0
    """Rows that went before their retention was over, since the start; nobody needed them."""
    looked_at: int = 0

    @classmethod
    def of(
        cls, connection: sqlite3.Connection, settings: StoreSettings, destinations: Collection[str] | None
    ) -> "Trimmer":
        """Knows what is there: of most of it the table `usage` tells, so that only the newest rows are looked at."""
        trimmer = cls(settings, destinations)
        for content in CONTENTS:
            up_to, known = connection.execute("SELECT up_to, bytes FROM usage WHERE content = ?", (content,)).fetchone()
            key = _KEY[content]
            since = connection.execute(
                f"SELECT coalesce(sum({STORED_BYTES[content]}), 0) FROM {content} WHERE {key} > ?",
                (up_to,),
            ).fetchone()[0]
            trimmer.usage[content] = known + since
        trimmer._measure()
        return trimmer

    def added(self, batch: Batch) -> None:
        """It has been committed."""
        assert batch.packed is not None
        for content in CONTENTS:
            self.usage[content] += batch.packed.bytes(content)

    def over(self, content: Content) -> int:
        """Bytes above the bound, as it was at the last pass; 0 below."""
        return max(0, self.usage[content] - self.limits[content].bytes)

    @property
    def crowded(self) -> bool:
        return any(map(self.over, CONTENTS))

    @property
    def fetches(self) -> bool:
        """Whether there is room for a backlog."""
        return self.settings.when_full == "drop_oldest" or not self.crowded

    @property
    def takes(self) -> bool:
        """Whether observations are taken at all."""
        return self.settings.when_full == "drop_oldest" or all(
            self.usage[content] <= LIVE_BEYOND * self.limits[content].bytes for content in CONTENTS
        )

    def trim(self, connection: sqlite3.Connection, now: Instant) -> int:
        """Deletes what is due and returns how many rows went. Raises sqlite3.Error; then nothing was deleted."""
        before = dict(self.usage)
        early = self.early
        self.more = False
        connection.execute("BEGIN IMMEDIATE")
        try:
            self._measure()
            deleted = self._journal(connection, now) + self._events(connection, now)
            copy_dictionaries(connection)
            self._remember(connection)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            self.usage, self.early, self.looked_at = before, early, 0
            raise
        if not self.more:  # else what is moved to the front now would be deleted there by the next pass
            self._give_back(connection)
        return deleted

    def _measure(self) -> None:
        """Raises OSError."""
        # as the disk has it: pages that were given back are free there only after the next checkpoint
        path = self.settings.path
        file_bytes, free_bytes = path.stat().st_size, self.free_bytes(path.parent)
        self.limits = {content: limit_of(content, self.settings, file_bytes, free_bytes) for content in CONTENTS}

    def _remember(self, connection: sqlite3.Connection) -> None:
        for content in CONTENTS:
            connection.execute(
                "UPDATE usage SET up_to = ?, bytes = ? WHERE content = ?",
                (given(connection, content), self.usage[content], content),
            )

    def _give_back(self, connection: sqlite3.Connection) -> None:
        """Free pages beyond those that are kept; a page a step, without a row: execute() would take one step only."""
        spare = _pragma(connection, "freelist_count") - _pragma(connection, "page_count") // FREE_KEPT
        pages = min(spare, BYTES_A_PASS // _pragma(connection, "page_size"))
        if pages > 0:
            connection.executescript(f"PRAGMA incremental_vacuum({pages})")
            self.more |= spare > pages

    # Observations.

    def _journal(self, connection: sqlite3.Connection, now: Instant) -> int:
        """Rows come in the order of time, so a young one ends it, where nothing has to go early."""
        covered = dict(connection.execute("SELECT wearable, row FROM snapshot").fetchall())
        rows = _journal_rows(connection, self.looked_at)
        crowded = self.over("journal") > 0
        due: list[Going] = []
        dropped: list[Dropped] = []
        looked_at, ended = self.looked_at, len(rows) < ROWS_A_PASS
        needed = _Needed(connection, covered)
        for row, wearable, at, size, count in rows:
            age = age_s(at, now)
            if age < self.settings.journal_retention_s and not self.over("journal"):
                ended = True
                break
            looked_at = row
            if row <= covered.get(wearable, 0):
                self.early += count if age < self.settings.journal_retention_s else 0
            elif age >= self.settings.journal_age_max_s:
                dropped.append(_observed(wearable, "age", at, size, needed.count(row, wearable, count)))
            else:
                continue
            self._goes("journal", due, Going(row, size + ROW_BYTES["journal"], count))
        if ended and not due and self.over("journal") and self.settings.when_full == "drop_oldest":
            for row, wearable, at, size, count in _journal_rows(connection, 0):
                if not self.over("journal"):
                    break
                reason = self.limits["journal"].reason
                dropped.append(_observed(wearable, reason, at, size, needed.count(row, wearable, count)))
                self._goes("journal", due, Going(row, size + ROW_BYTES["journal"], count))
        self.looked_at = 0 if ended else looked_at
        self.more |= not ended or (crowded and bool(due) and self.over("journal") > 0)
        return _delete(connection, "journal", due, dropped)

    # Events.

    def _events(self, connection: sqlite3.Connection, now: Instant) -> int:
        """Those that one destination has refused are needed: they are tried again. What it took at a later try may be
        asked for again while its checkpoints have not passed that.

        What is acknowledged but may be asked for again by a broker that forgets stays below the bound alone: its
        checkpoints pass it only when more is acknowledged, and above the bound of a store that takes nothing more
        nothing more ever would be.
        """
        acknowledged = acknowledged_by_all(connection, self.destinations)
        due = self._acknowledged_long_ago(connection, settled_by_all(connection, self.destinations), now)
        expired = self._logged_long_ago(connection, now)
        names = self.destinations
        served = "" if names is None else f" WHERE destination IN ({', '.join('?' * len(names))})"
        refused, retaken = (
            {seq for (seq,) in connection.execute(f"SELECT seq FROM {table}{served}", (*(names or ()),)).fetchall()}
            for table in ("parked", "retaken")
        )
        going: list[Going] = []
        dropped: list[Dropped] = []
        for seq, _, _, _, _, taken in _event_rows(connection, 0, acknowledged, refused | retaken):
            if seq > due and not self.over("event"):
                break
            self.early += seq > due
            self._goes("event", going, Going(seq, taken))
        forced = not going and self.over("event") > 0 and self.settings.when_full == "drop_oldest"
        if forced or expired:
            needed = self._still_needed(connection)
            gone = {one.key for one in going}
            for seq, kind, wearable, created_ns, size, taken in _event_rows(connection, 0, None, gone):
                if seq > expired and not (forced and self.over("event")):
                    break
                if needed(seq) or seq in refused:
                    reason = "age" if seq <= expired else self.limits["event"].reason
                    dropped.append(Dropped(kind, wearable, reason, 1, size, created_ns, created_ns))
                elif not forced:
                    continue
                self._goes("event", going, Going(seq, taken))
        self.more |= len(going) >= ROWS_A_PASS or (bool(going) and self.over("event") > 0)
        if dropped:
            connection.executemany("DELETE FROM parked WHERE seq = ?", ((one.key,) for one in going))
        if len(going) < ROWS_A_PASS:
            connection.execute("DELETE FROM acknowledged WHERE position < ?", (due,))
            connection.execute("DELETE FROM logged WHERE position < ?", (expired,))
        deleted = _delete(connection, "event", going, dropped)
        if deleted:
            drop_dictionaries(connection)
        return deleted

    def _acknowledged_long_ago(self, connection: sqlite3.Connection, acknowledged: int, now: Instant) -> int:
        """The last event that every destination had acknowledged event_retention_s ago."""
        # a cursor that went back has not acknowledged what lies before it any more
        connection.execute("UPDATE OR REPLACE acknowledged SET position = ?1 WHERE position > ?1", (acknowledged,))
        return _mark(connection, "acknowledged", acknowledged, self.settings.event_retention_s, now)

    def _logged_long_ago(self, connection: sqlite3.Connection, now: Instant) -> int:
        """The last event that was in the log event_age_max_s ago; its own time may be that of a wrong clock."""
        return _mark(connection, "logged", given(connection, "event"), self.settings.event_age_max_s, now)

    def _still_needed(self, connection: sqlite3.Connection) -> Callable[[int], bool]:
        """Whether some destination has not acknowledged an event."""
        known = cursors(connection)
        served = known if self.destinations is None else self.destinations
        states = [known.get(name) or Cursor(name, 0) for name in served] or [Cursor("", 0)]
        return lambda seq: not all(seq <= c.position or any(a <= seq <= b for a, b in c.beyond) for c in states)

    def _goes(self, content: Content, going: list[Going], one: Going) -> None:
        going.append(one)
        self.usage[content] -= one.bytes


_KEY: dict[Content, str] = {"journal": "row", "event": "seq"}


def _journal_rows(connection: sqlite3.Connection, after: int) -> list[tuple[int, str, Instant, int, int]]:
    rows = connection.execute(
        "SELECT j.row, j.wearable, b.id, j.mono_ns, j.utc_ns, j.utc_synced, length(j.payload), j.count "
        "FROM journal j JOIN boot b USING (boot) WHERE j.row > ? ORDER BY j.row LIMIT ?",
        (after, ROWS_A_PASS),
    ).fetchall()
    return [
        (row, name, Instant(boot, mono, utc, bool(synced)), size, count)
        for row, name, boot, mono, utc, synced, size, count in rows
    ]


def _event_rows(
    connection: sqlite3.Connection, after: int, up_to: int | None, without: Collection[int]
) -> Iterable[tuple[int, str, str | None, int, int, int]]:
    rows = connection.execute(
        f"SELECT seq, kind, wearable, created_ns, length(payload), {STORED_BYTES['event']} FROM event "
        "WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?",
        (after, (1 << 62) if up_to is None else up_to, ROWS_A_PASS + len(without)),
    ).fetchall()
    return [row for row in rows if row[0] not in without][:ROWS_A_PASS]


@dataclass(slots=True)
class _Needed:
    """How many observations of a block no snapshot covers: it goes as a whole, and a snapshot may end within it."""

    connection: sqlite3.Connection
    covered: dict[str, int]
    _seen: set[str] = field(default_factory=set)

    def count(self, row: int, wearable: str, count: int) -> int:
        """Blocks of a wearable are asked of in their order, and only those that are not covered as a whole."""
        if wearable in self._seen or wearable not in self.covered:
            return count
        self._seen.add(wearable)
        block = block_of(self.connection.execute(f"SELECT {BLOCKS} WHERE j.row = ?", (row,)).fetchone())
        return sum(one.row > self.covered[wearable] for one in observations(block))


def _observed(wearable: str, reason: str, at: Instant, size: int, count: int) -> Dropped:
    return Dropped("observation", wearable, reason, count, size, at.utc_ns, at.utc_ns)


def _delete(connection: sqlite3.Connection, content: Content, going: list[Going], dropped: Iterable[Dropped]) -> int:
    connection.executemany(f"DELETE FROM {content} WHERE {_KEY[content]} = ?", ((one.key,) for one in going))
    sums: dict[tuple[str, str | None, str], Dropped] = {}
    for one in dropped:
        name = one.kind, one.wearable, one.reason
        sums[name] = sums[name].plus(one) if name in sums else one
    connection.executemany(
        "INSERT INTO dropped VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (kind, wearable, reason) DO UPDATE SET "
        "count = count + excluded.count, bytes = bytes + excluded.bytes, "
        "oldest_ns = min(oldest_ns, excluded.oldest_ns), newest_ns = max(newest_ns, excluded.newest_ns)",
        ((d.kind, d.wearable or "", d.reason, d.count, d.bytes, d.oldest_ns, d.newest_ns) for d in sums.values()),
    )
    return sum(one.count for one in going)


def _mark(connection: sqlite3.Connection, table: str, position: int, span_s: float, now: Instant) -> int:
    """Remembers in the table that this position was reached now, if that is due; the last that was span_s ago."""
    marks = [
        (marked, age_s(Instant(boot_id, mono_ns, utc_ns, bool(synced)), now))
        for marked, boot_id, mono_ns, utc_ns, synced in connection.execute(
            f"SELECT a.position, b.id, a.mono_ns, a.utc_ns, a.utc_synced FROM {table} a JOIN boot b USING (boot) "
            "ORDER BY a.position"
        ).fetchall()
    ]
    newest = marks[-1] if marks else (0, span_s)
    if newest[0] < position and newest[1] * MARKS >= span_s:
        connection.execute(
            f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?, ?, ?)",
            (position, boot_number(connection, now.boot_id), now.mono_ns, now.utc_ns, now.utc_synced),
        )
    return max((marked for marked, age in marks if age >= span_s), default=0)


def acknowledged_by_all(connection: sqlite3.Connection, destinations: Collection[str] | None) -> int:
    """Up to which event; destinations as for Trimmer."""
    positions = {name: cursor.position for name, cursor in cursors(connection).items()}
    served = positions if destinations is None else destinations
    return min((positions.get(destination, 0) for destination in served), default=0)


def settled_by_all(connection: sqlite3.Connection, destinations: Collection[str] | None) -> int:
    """Up to which event none of them asks again, not even where it has lost what it got last: its cursor may go back as
    far as its oldest checkpoint, however long ago that was."""
    oldest = dict(
        connection.execute("SELECT destination, min(position) FROM checkpoint GROUP BY destination").fetchall()
    )
    served = oldest if destinations is None else destinations
    acknowledged = acknowledged_by_all(connection, destinations)
    return min([acknowledged, *(int(oldest.get(destination, acknowledged)) for destination in served)])


def read_dropped(connection: sqlite3.Connection) -> tuple[Dropped, ...]:
    rows = connection.execute(
        "SELECT kind, wearable, reason, count, bytes, oldest_ns, newest_ns FROM dropped ORDER BY kind, wearable, reason"
    ).fetchall()
    return tuple(Dropped(kind, wearable or None, *rest) for kind, wearable, *rest in rows)


def used_bytes(connection: sqlite3.Connection) -> int:
    """Of the database's pages, those in use."""
    pages = _pragma(connection, "page_count") - _pragma(connection, "freelist_count")
    return pages * _pragma(connection, "page_size")


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _free_bytes(folder: Path) -> int:
    """What this process may still write to the disk of this folder (statvfs(3))."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize
