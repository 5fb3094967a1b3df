"""What is submitted is committed in order, many at a time, or reported; a crash leaves a prefix."""

import asyncio
import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from gateway.store import Store, StoreSettings, Writer
from gateway.store.batch import Batch, write
from gateway.store.errors import StoreFailed, StoreFull
from gateway.store.rows import Checkpoint, Cursor, Derived, Parked
from tests.gateway.store.conftest import Opened, at, event, journalled, logged, noise

TOTAL = 40


def rows(settings: StoreSettings, sql: str) -> list[Any]:
    """Read by SQLite alone, past the code under test."""
    with sqlite3.connect(f"file:{settings.path}?mode=ro", uri=True) as connection:
        return connection.execute(sql).fetchall()


async def test_rows_are_numbered_at_once_and_durable_after_flush(opened: Opened, settings: StoreSettings) -> None:
    numbers = [opened.writer.journal("left", "frame", b"%d" % n, at(n)) for n in range(5)]
    assert numbers == [1, 2, 3, 4, 5]
    assert rows(settings, "SELECT count(*) FROM journal") == [(0,)]
    await opened.writer.flush()
    assert [(row.row, row.payload) for row in journalled(settings.path)] == [(n + 1, b"%d" % n) for n in range(5)]


async def test_everything_submitted_meanwhile_is_one_transaction(opened: Opened) -> None:
    for number in range(1, TOTAL + 1):
        opened.writer.journal("left", "frame", b"x", at(number))
        opened.writer.derived(Derived("left", (event(number),), progress=b"%d" % number))
    await opened.writer.flush()
    await opened.until(lambda: bool(opened.commits))
    assert opened.writer.counters.commits == 1
    assert (opened.commits[-1].journal_row, opened.commits[-1].event_seq) == (TOTAL, TOTAL)


async def test_what_waits_is_committed_after_the_interval_without_being_asked(tmp_path: Path) -> None:
    opened = Opened(StoreSettings(path=tmp_path / "gateway.db", commit_interval_s=0.05))
    opened.writer.journal("left", "frame", b"x", at(0))
    await opened.until(lambda: bool(opened.commits))
    assert opened.commits[-1].journal_row == 1
    await opened.close()


async def test_a_commit_is_forced_when_much_waits(tmp_path: Path) -> None:
    opened = Opened(StoreSettings(path=tmp_path / "gateway.db", commit_interval_s=60, queue_bytes_max=64 * 1024))
    for number in range(20):
        opened.writer.journal("left", "frame", bytes(1000), at(number))
    await opened.until(lambda: bool(opened.commits))
    await opened.close()


async def test_the_stream_finds_its_newest_progress_and_snapshot_and_the_rows_behind_it(
    opened: Opened, settings: StoreSettings
) -> None:
    assert opened.store.stream("left") is None
    for number in range(1, 6):
        opened.writer.journal("left", "frame", b"l%d" % number, at(number, synced=number > 2))
        opened.writer.journal("right", "frame", b"r%d" % number, at(number))
        opened.writer.derived(Derived("left", (event(number),), progress=b"progress %d" % number))
    await opened.writer.flush()
    record = opened.store.stream("left")
    assert record is not None
    assert (record.snapshot_row, record.snapshot, record.progress) == (0, b"", b"progress 5")
    opened.writer.derived(Derived("left", progress=b"", snapshot=(5, 3, b"state")))
    await opened.writer.flush()
    record = opened.store.stream("left")
    assert record is not None
    assert (record.snapshot_row, record.snapshot_version, record.snapshot, record.progress) == (5, 3, b"state", b"")
    behind = list(opened.store.journal_after("left", 5))
    assert [(row.row, row.payload, row.at) for row in behind] == [(7, b"l4", at(4)), (9, b"l5", at(5))]
    first = next(iter(opened.store.journal_after("left", 0)))
    assert first.at == at(1, synced=False)


async def test_a_long_journal_is_read_whole_and_in_order(opened: Opened) -> None:
    for number in range(1, 1203):
        opened.writer.journal("left" if number % 3 else "right", "frame", b"", at(number))
    await opened.writer.flush()
    assert [row.row for row in opened.store.journal_after("left", 10)] == [n for n in range(11, 1203) if n % 3]


async def test_a_commit_that_went_through_behind_an_error_is_not_done_twice(
    opened: Opened, settings: StoreSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = []

    def hides_its_success(connection: sqlite3.Connection, batch: Batch, last_seq: int) -> int:
        last_seq = write(connection, batch, last_seq)
        if len(hidden) < 2:
            hidden.append(last_seq)
            raise sqlite3.OperationalError("disk I/O error")
        return last_seq

    monkeypatch.setattr("gateway.store.writer.write", hides_its_success)
    monkeypatch.setattr("gateway.store.writer.RETRY_MIN_S", 0.01)
    for number in (1, 2):
        opened.writer.journal("left", "frame", b"x", at(number))
        opened.writer.derived(Derived("left", (event(number),)))
    await opened.writer.flush()
    opened.writer.derived(Derived(None, (event(3),)))
    await opened.writer.flush()
    assert len(hidden) == 2
    assert [row.row for row in journalled(settings.path)] == [1, 2]
    assert [(e.seq, e.id) for e in logged(settings.path)] == [(1, "event-1"), (2, "event-2"), (3, "event-3")]


@pytest.mark.parametrize("asked", [True, False])
async def test_a_change_of_activity_is_committed_at_once_where_that_is_asked_for(tmp_path: Path, asked: bool) -> None:
    opened = Opened(StoreSettings(path=tmp_path / "gateway.db", commit_interval_s=1, commit_on_change=asked))
    began = time.monotonic()
    opened.writer.derived(Derived("left", (event(1),)))
    opened.writer.derived(Derived("left", (event(2),), changes=True))
    await opened.until(lambda: bool(opened.commits))
    assert opened.commits[-1].event_seq == 2
    assert (time.monotonic() - began < 1) == asked
    await opened.close()


async def test_above_its_bounds_with_stop_backlog_nothing_is_fetched_then_nothing_taken_until_events_have_left(
    tmp_path: Path,
) -> None:
    settings = StoreSettings(
        path=tmp_path / "gateway.db", commit_interval_s=60, event_bytes_max=1024 * 1024, when_full="stop_backlog"
    )
    opened = Opened(settings, ["broker"])
    opened.writer.trim(at(0))
    await opened.writer.flush()
    opened.writer.derived(Derived("left", tuple(event(n, payload=noise(n)) for n in range(1, 106))))
    await opened.writer.flush()
    assert opened.writer.room() == 0
    assert opened.writer.journal("left", "frame", b"live", at(1)) == 1
    opened.writer.derived(Derived("left", tuple(event(n, payload=noise(n)) for n in range(106, 120))))
    await opened.writer.flush()
    with pytest.raises(StoreFull, match="full to its bounds, and when_full is stop_backlog"):
        opened.writer.journal("left", "frame", b"live", at(2))
    opened.writer.cursor(Cursor("broker", 100))
    opened.writer.trim(at(3))
    await opened.writer.flush()
    await opened.writer.flush()
    assert opened.writer.room() == settings.queue_bytes_max
    assert opened.writer.journal("left", "frame", b"live", at(4)) == 2
    assert opened.writer.fill.dropped == ()
    await opened.close()


async def test_above_its_bound_what_is_oldest_goes_behind_each_commit_and_is_told(tmp_path: Path) -> None:
    settings = StoreSettings(path=tmp_path / "gateway.db", commit_interval_s=60, event_bytes_max=1024 * 1024)
    opened = Opened(settings, ["broker"])
    opened.writer.trim(at(0))
    await opened.writer.flush()
    for first in range(1, 2001, 100):  # nobody asks for trimming meanwhile
        opened.writer.derived(
            Derived("left", tuple(event(n, payload=noise(n, 5000)) for n in range(first, first + 100)))
        )
        await opened.writer.flush()
    await opened.close()
    with Store.open(settings) as store:
        log = store.events()
        left = [e.seq for e in log.after(0, 3000)]
        log.close()
    assert left == list(range(left[0], 2001))
    assert settings.path.stat().st_size < 2 * 1024 * 1024
    (dropped,) = opened.writer.fill.dropped
    assert (dropped.kind, dropped.wearable, dropped.reason) == ("prediction", "left", "bytes")
    assert (dropped.count, dropped.bytes / dropped.count) == (left[0] - 1, pytest.approx(5000, rel=0.03))


async def test_the_newest_cursor_and_parking_are_kept(opened: Opened) -> None:
    for position in range(5):
        opened.writer.cursor(Cursor("broker", position, ((position + 2, position + 2), (position + 9, position + 9))))
    opened.writer.park(Parked("broker", 3, "Not authorized"))
    opened.writer.park(Parked("broker", 4, "Not authorized"))
    opened.writer.park(Parked("broker", 3, None))
    await opened.writer.flush()
    assert opened.store.cursor("broker") == Cursor("broker", 4, ((6, 6), (13, 13)))
    assert opened.store.cursor("another") is None
    log = opened.store.events()
    assert (log.parked("broker"), log.refusal("broker"), log.parked("another")) == ([4], "Not authorized", [])
    log.close()


async def test_what_was_taken_after_a_refusal_is_remembered_until_the_checkpoints_have_passed_it(
    opened: Opened,
) -> None:
    log = opened.store.events()
    for seq in (3, 4):
        opened.writer.park(Parked("broker", seq, "Not authorized"))
    for seq, position in ((3, 90), (4, 100)):
        opened.writer.park(Parked("broker", seq, None, position))
    opened.writer.cursor(Cursor("broker", 110), [Checkpoint(90, at(0)), Checkpoint(110, at(60))])
    await opened.writer.flush()
    assert (log.parked("broker"), log.retaken("broker")) == ([], {3: 90, 4: 100})
    opened.writer.cursor(Cursor("broker", 120), [Checkpoint(95, at(30)), Checkpoint(120, at(90))])
    await opened.writer.flush()
    assert (log.retaken("broker"), log.retaken("another")) == ({4: 100}, {})
    opened.writer.park(Parked("broker", 4, "Not authorized"))
    await opened.writer.flush()
    assert (log.parked("broker"), log.retaken("broker")) == ([4], {})
    log.close()


async def test_a_connection_that_is_being_made_is_on_the_medium_until_it_is_told_to_be_over(opened: Opened) -> None:
    log = opened.store.events()
    for under_way in (True, True, False, True):
        opened.writer.connecting("broker", under_way)
        await opened.writer.flush()
        assert (log.connecting("broker"), log.connecting("another")) == (under_way, False)
    log.close()


async def test_that_a_connection_is_made_can_be_written_without_waiting_for_the_interval(tmp_path: Path) -> None:
    opened = Opened(StoreSettings(path=tmp_path / "gateway.db", commit_interval_s=60))
    opened.writer.connecting("broker", False, soon=True)
    await opened.until(lambda: len(opened.commits) == 1)
    await opened.close()


async def test_closing_commits_and_what_comes_later_is_refused(settings: StoreSettings) -> None:
    opened = Opened(settings)
    opened.writer.journal("left", "frame", b"last", at(0))
    await opened.close()
    assert [row.payload for row in journalled(settings.path)] == [b"last"]
    with pytest.raises(StoreFailed, match="the writer has ended"):
        opened.writer.journal("left", "frame", b"later", at(1))
    with pytest.raises(StoreFailed, match="the writer has ended"):
        await opened.writer.flush()


async def test_a_full_queue_takes_no_observation_and_loses_none_that_it_took(tmp_path: Path) -> None:
    settings = StoreSettings(path=tmp_path / "gateway.db", commit_interval_s=60, queue_bytes_max=64 * 1024)
    opened = Opened(settings)
    blocker = sqlite3.connect(settings.path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")  # what a medium that hangs looks like to the writer
    taken = 0
    while opened.writer.room() >= 1200:
        taken = opened.writer.journal("left", "frame", bytes(1000), at(taken))
    assert taken > 40
    with pytest.raises(StoreFull, match="bytes wait to be written, of at most 65536"):
        opened.writer.journal("left", "frame", bytes(1000), at(taken))
    blocker.execute("ROLLBACK")
    blocker.close()
    await opened.writer.flush()
    assert opened.writer.room() == settings.queue_bytes_max
    assert opened.writer.journal("left", "frame", bytes(1000), at(taken)) == taken + 1
    await opened.close()
    assert [row.row for row in journalled(settings.path)] == list(range(1, taken + 2))


async def test_a_medium_that_fails_is_reported_and_nothing_is_lost_or_reordered(opened: Opened, settings: Any) -> None:
    opened.writer.journal("left", "frame", b"before", at(0))
    await opened.writer.flush()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (256 * 1024, hard))
    try:
        for number in range(1, TOTAL + 1):
            opened.writer.journal("left", "frame", noise(number, 20_000), at(number))
            opened.writer.derived(Derived("left", (event(number),), progress=b"%d" % number))
        flushed = asyncio.ensure_future(opened.writer.flush())
        await opened.until(lambda: bool(opened.troubles))
        assert opened.writer.trouble is not None
        assert "OperationalError" in opened.writer.trouble
        opened.writer.journal("left", "frame", b"meanwhile", at(99))
        assert not flushed.done()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    await opened.until(lambda: opened.troubles[-1] is None)
    await flushed
    await opened.writer.flush()
    assert opened.writer.trouble is None
    assert [row.row for row in journalled(settings.path)] == list(range(1, TOTAL + 3))
    assert [e.id for e in logged(settings.path)] == [f"event-{n}" for n in range(1, TOTAL + 1)]
    assert opened.commits[-1].journal_row == TOTAL + 2


TABLES = {"journal": 1, "event": 1, "dictionary": 1, "latest": 4, "snapshot": 1, "parked": 1}
"""Rows of the commit below: latest has a progress, a cursor and two numbers."""


@pytest.mark.parametrize("table", TABLES)
async def test_a_commit_that_fails_half_way_leaves_nothing_of_itself(
    opened: Opened, settings: StoreSettings, table: str
) -> None:
    other = sqlite3.connect(settings.path, isolation_level=None)
    other.execute(f"CREATE TRIGGER fails BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'half-way'); END")
    opened.writer.journal("left", "frame", b"x", at(1))
    opened.writer.derived(Derived("left", (event(1),), progress=b"1", snapshot=(1, 1, b"1")))
    opened.writer.cursor(Cursor("broker", 1))
    opened.writer.park(Parked("broker", 1, "no"))
    flushed = asyncio.ensure_future(opened.writer.flush())
    await opened.until(lambda: bool(opened.troubles))
    assert "half-way" in str(opened.writer.trouble)
    assert [rows(settings, f"SELECT count(*) FROM {name}") for name in TABLES] == [[(0,)]] * len(TABLES)
    other.execute("DROP TRIGGER fails")
    other.close()
    await flushed
    assert {name: rows(settings, f"SELECT count(*) FROM {name}")[0][0] for name in TABLES} == TABLES


async def test_closing_on_a_medium_that_fails_ends_and_says_what_was_not_written(settings: StoreSettings) -> None:
    opened = Opened(settings)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (256 * 1024, hard))
    try:
        for number in range(TOTAL):
            opened.writer.journal("left", "frame", noise(number, 20_000), at(number))
        with pytest.raises(StoreFailed, match=f"{TOTAL} observations and 0 events not written: OperationalError"):
            await opened.writer.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    opened.store.close()


async def test_a_fault_of_the_program_ends_the_writer_aloud(settings: StoreSettings) -> None:
    opened = Opened(settings)
    opened.writer.journal("left", "frame", b"", at(float(2**64)))  # no column holds it: not the medium's fault
    with pytest.raises(StoreFailed, match="not written: OverflowError"):
        await opened.writer.flush()
    with pytest.raises(StoreFailed, match="the writer has ended: OverflowError"):
        opened.writer.journal("left", "frame", b"", at(0))
    await opened.close()


SUBMITTER = """
import asyncio, sys
from pathlib import Path
from gateway.clock import Instant
from gateway.store import Store, StoreSettings, Writer
from gateway.store.batch import Batch, write
from gateway.store.rows import Cursor, Derived, LoggedEvent

async def main(path):
    store = Store.open(StoreSettings(path=Path(path), commit_interval_s=0.01))
    def durable(c):
        print(c.journal_row, c.event_seq, flush=True)
    writer = Writer(store, asyncio.get_running_loop(), durable)
    number = store.last_row()
    while True:
        for _ in range(7):
            number += 1
            assert writer.journal("left", "frame", b"%d" % number, Instant("b", number, 0, True)) == number
            event = LoggedEvent("prediction", "left", "urn:left", str(number), "t", b"%d" % number, 0, "b")
            snapshot = (number, 1, b"%d" % number) if number % 5 == 0 else None
            writer.derived(Derived("left", (event,), progress=b"%d" % number, snapshot=snapshot))
            writer.cursor(Cursor("broker", number))
        await asyncio.sleep(0.001)

asyncio.run(main(sys.argv[1]))
"""


def test_kill_9_at_any_moment_leaves_a_prefix_that_holds_all_that_was_told_durable(settings: StoreSettings) -> None:
    rng = random.Random(7)
    for _ in range(8):
        child = subprocess.Popen(
            [sys.executable, "-c", SUBMITTER, str(settings.path)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        told = [child.stdout.readline() for _ in range(rng.randint(1, 20))]
        time.sleep(rng.uniform(0, 0.02))  # else each kill would follow a commit by the same moment
        os.kill(child.pid, signal.SIGKILL)
        told += child.stdout.readlines()
        child.wait()
        child.stdout.close()
        told_row, told_seq = max(tuple(map(int, line.split())) for line in told if line.endswith("\n"))
        journal = [int(row.payload) for row in journalled(settings.path)]
        events = [int(e.payload) for e in logged(settings.path)]
        assert journal == list(range(1, len(journal) + 1))
        assert events == list(range(1, len(events) + 1))
        # submitted as row, results, row, results: a prefix has as many results as rows, or one less
        assert len(journal) - len(events) in (0, 1)
        assert told_row <= len(journal)
        assert told_seq <= len(events)
        with Store.open(settings) as store:
            record, cursor = store.stream("left"), store.cursor("broker")
            assert record is not None
            assert cursor is not None
            assert int(record.progress) == len(events)
            assert record.snapshot_row == len(events) // 5 * 5
            assert cursor.position in (len(events), len(events) - 1)
            assert store.last_row() == len(journal)


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("journal"), st.sampled_from(["left", "right"]), st.binary(max_size=20)),
        st.tuples(st.just("derived"), st.sampled_from(["left", "right"]), st.integers(0, 12)),
        st.tuples(st.just("flush"), st.just(""), st.none()),
    ),
    max_size=30,
)


@hypothesis_settings(max_examples=40, deadline=None)
@given(OPERATIONS)
def test_the_store_holds_what_a_list_and_two_dictionaries_would(operations: list[tuple[str, str, Any]]) -> None:
    async def play(path: Path) -> None:
        with Store.open(StoreSettings(path=path, commit_interval_s=60)) as store:
            writer = Writer(store, asyncio.get_running_loop(), lambda committed: None)
            journal: list[tuple[str, bytes]] = []
            logged: dict[tuple[str, str], bytes] = {}
            progress: dict[str, bytes] = {}
            for step, (operation, wearable, value) in enumerate(operations):
                if operation == "journal":
                    journal.append((wearable, value))
                    writer.journal(wearable, "frame", value, at(step))
                elif operation == "derived":
                    made = event(step, wearable=wearable, payload=b"%d of %d" % (step, value))
                    logged[made.source, made.id] = made.payload
                    progress[wearable] = b"%d" % step
                    writer.derived(Derived(wearable, (made,), progress=progress[wearable]))
                else:
                    await writer.flush()
            await writer.close()
            for wearable in ("left", "right"):
                kept = [row.payload for row in store.journal_after(wearable, 0)]
                assert kept == [payload for of, payload in journal if of == wearable]
                record = store.stream(wearable)
                assert (record.progress if record else None) == progress.get(wearable)
            log = store.events()
            assert {(e.source, e.id): e.payload for e in log.after(0, 100)} == logged
            assert [e.seq for e in log.after(0, 100)] == list(range(1, len(logged) + 1))
            log.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(play(Path(folder) / "gateway.db"))
