"""What is committed together: everything submitted since the last commit, in the order of submission."""

import sqlite3
from dataclasses import dataclass, field

from gateway.clock import Instant
from gateway.store.blocks import Block, blocks
from gateway.store.bounds import NAMES_BYTES, ROW_BYTES, Content
from gateway.store.latest import given, put
from gateway.store.messages import Packer, StoredEvent, dictionary_id
from gateway.store.rows import Checkpoint, Cursor, Derived, JournalRow, LoggedEvent, Parked

ROW_OVERHEAD_BYTES = 200
"""What a row takes in memory beside its payload, about."""


@dataclass(slots=True)
class Batch:
    """One transaction: later progress, snapshots and cursors replace earlier ones, since all or nothing is kept."""

    journal: list[JournalRow] = field(default_factory=list)
    events: list[LoggedEvent] = field(default_factory=list)
    progress: dict[str, bytes] = field(default_factory=dict)
    snapshots: dict[str, tuple[int, int, bytes]] = field(default_factory=dict)
    cursors: dict[str, Cursor] = field(default_factory=dict)
    checkpoints: dict[str, tuple[Checkpoint, ...]] = field(default_factory=dict)
    """All that a destination has from now on."""
    parked: list[Parked] = field(default_factory=list)
    connecting: dict[str, bool] = field(default_factory=dict)
    trim: Instant | None = None
    bytes: int = 0
    packed: "Packed | None" = None
    """Once it is about to be written."""

    def __bool__(self) -> bool:
        """Whether there is something to commit; trimming is done behind the commit."""
        results = self.journal or self.events or self.progress or self.snapshots
        return bool(results or self.cursors or self.parked or self.connecting or self.trim)

    def pack(self, packer: Packer) -> "Packed":
        """Once: a commit that is tried again writes the same."""
        if self.packed is None:
            self.packed = Packed(blocks(self.journal), *packer.pack(self.events))
        return self.packed

    def add_row(self, row: JournalRow) -> None:
        self.journal.append(row)
        self.bytes += len(row.payload) + ROW_OVERHEAD_BYTES

    def add_derived(self, derived: Derived) -> None:
        self.events += derived.events
        self.bytes += sum(len(event.payload) + ROW_OVERHEAD_BYTES for event in derived.events)
        if derived.wearable is None:
            return
        if derived.progress is not None:
            self.bytes += len(derived.progress) - len(self.progress.get(derived.wearable, b""))
            self.progress[derived.wearable] = derived.progress
        if derived.snapshot is not None:
            replaced = self.snapshots.get(derived.wearable)
            self.bytes += len(derived.snapshot[2]) - (len(replaced[2]) if replaced else 0)
            self.snapshots[derived.wearable] = derived.snapshot


@dataclass(frozen=True, slots=True)
class Packed:
    """How a batch's observations and events are stored. dictionaries: that are new, by the place of the first event
    that needs it."""

    journal: list[Block]
    events: list[StoredEvent]
    dictionaries: dict[int, bytes]

    def bytes(self, content: Content) -> int:
        """On the disk, about."""
        if content == "journal":
            return sum(len(block.payload) + ROW_BYTES["journal"] for block in self.journal)
        return sum(len(e.payload) + ROW_BYTES["event"] + NAMES_BYTES * bool(e.topic) for e in self.events)


def boot_number(connection: sqlite3.Connection, boot_id: str) -> int:
    connection.execute("INSERT OR IGNORE INTO boot (id) VALUES (?)", (boot_id,))
    return int(connection.execute("SELECT boot FROM boot WHERE id = ?", (boot_id,)).fetchone()[0])


def write(connection: sqlite3.Connection, batch: Batch, last_seq: int) -> int:
    """Commits the batch as one transaction; its events are numbered on from last_seq. Returns the highest number now.

    Raises sqlite3.Error; then nothing of it is there. Safe to repeat: where an error hid a commit that went through,
    its first number, of a row or an event, has been given.
    """
    packed = batch.pack(Packer.of(connection)) if batch.packed is None else batch.packed
    boots = {row.at.boot_id for row in batch.journal} | {event.boot_id for event in batch.events}
    boots |= {checkpoint.at.boot_id for kept in batch.checkpoints.values() for checkpoint in kept}
    highest = last_seq + len(batch.events)
    connection.execute("BEGIN IMMEDIATE")
    try:
        if _is_there(connection, batch, last_seq):
            connection.execute("ROLLBACK")
            return highest
        numbers = {boot_id: boot_number(connection, boot_id) for boot_id in boots}
        connection.executemany(
            "INSERT INTO journal (row, wearable, kind, payload, boot, mono_ns, utc_ns, utc_synced, count) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                (
                    b.row,
                    b.wearable,
                    b.kind,
                    b.payload,
                    numbers[b.at.boot_id],
                    b.at.mono_ns,
                    b.at.utc_ns,
                    b.at.utc_synced,
                    b.count,
                )
                for b in packed.journal
            ),
        )
        connection.executemany(
            "INSERT INTO dictionary (since, id, content) VALUES (?, ?, ?)",
            ((last_seq + 1 + place, dictionary_id(text), text) for place, text in packed.dictionaries.items()),
        )
        connection.executemany(
            "INSERT INTO event (seq, kind, wearable, source, id, topic, payload, created_ns, boot, retain) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                (seq, e.kind, e.wearable, *stored, e.created_ns, numbers[e.boot_id], e.retain)
                for seq, (e, stored) in enumerate(zip(batch.events, packed.events, strict=True), last_seq + 1)
            ),
        )
        put(connection, "progress", batch.progress.items())
        put(connection, "cursor", ((c.destination, c.text()) for c in batch.cursors.values()))
        highest_given = {"journal": batch.journal[-1].row} if batch.journal else {}
        put(connection, "given", (highest_given | ({"event": highest} if batch.events else {})).items())
        connection.executemany(
            "INSERT OR REPLACE INTO snapshot VALUES (?, ?, ?, ?)",
            ((wearable, *snapshot) for wearable, snapshot in batch.snapshots.items()),
        )
        for destination, kept in batch.checkpoints.items():
            connection.execute("DELETE FROM checkpoint WHERE destination = ?", (destination,))
            connection.executemany(
                "INSERT INTO checkpoint VALUES (?, ?, ?, ?, ?, ?)",
                (
                    (destination, c.position, numbers[c.at.boot_id], c.at.mono_ns, c.at.utc_ns, c.at.utc_synced)
                    for c in kept
                ),
            )
            connection.execute(
                "DELETE FROM retaken WHERE destination = ? AND position < ?",
                (destination, kept[0].position if kept else 0),
            )
        for p in batch.parked:
            table, value = ("parked", p.reason) if p.reason is not None else ("retaken", p.retaken_at)
            other = "retaken" if table == "parked" else "parked"
            connection.execute(f"DELETE FROM {other} WHERE destination = ? AND seq = ?", (p.destination, p.seq))
            if value is not None:
                connection.execute(f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?)", (p.destination, p.seq, value))
        for destination, under_way in batch.connecting.items():
            connection.execute("DELETE FROM connecting WHERE destination = ?", (destination,))
            if under_way:
                connection.execute("INSERT INTO connecting VALUES (?)", (destination,))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return highest


def _is_there(connection: sqlite3.Connection, batch: Batch, last_seq: int) -> bool:
    if batch.journal:
        return given(connection, "journal") >= batch.journal[0].row
    return bool(batch.events) and given(connection, "event") > last_seq
