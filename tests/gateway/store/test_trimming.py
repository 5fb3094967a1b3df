"""Retention: nothing that is still needed goes, everything else does in time, a bounded part at once."""

import shutil
import sqlite3
from pathlib import Path

import pytest

from gateway.store import Store, StoreSettings
from gateway.store.batch import Batch, write
from gateway.store.bounds import CONTENTS, ROW_BYTES
from gateway.store.rows import Checkpoint, Cursor, Derived, JournalRow, Parked
from gateway.store.trimming import MARKS, ROWS_A_PASS, Trimmer, read_dropped, used_bytes
from tests.gateway.store.conftest import Opened, at, event, noise, write_alone

DAY_S = 86400.0


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(StoreSettings(path=tmp_path / "gateway.db"))


def fill(store: Store, batch: Batch) -> None:
    write_alone(store.connection, batch, store.last_seq())


def kept(connection: sqlite3.Connection, table: str, key: str) -> list[int]:
    return [row[0] for row in connection.execute(f"SELECT {key} FROM {table} ORDER BY {key}")]


def rows(numbers: range, wearable: str, seconds: float) -> list[JournalRow]:
    return [JournalRow(number, wearable, "frame", b"", at(seconds)) for number in numbers]


def test_observations_go_once_a_snapshot_covers_them_and_they_are_old(store: Store) -> None:
    journal = rows(range(1, 5), "left", 0) + rows(range(5, 7), "right", 0) + rows(range(7, 9), "left", DAY_S)
    fill(store, Batch(journal=journal, snapshots={"left": (3, 1, b""), "right": (0, 1, b"")}))
    trimmer = Trimmer.of(store.connection, store.settings, None)
    assert trimmer.trim(store.connection, at(DAY_S - 1)) == 0
    assert trimmer.trim(store.connection, at(DAY_S + 1)) == 3
    assert kept(store.connection, "journal", "row") == [4, 5, 6, 7, 8]


def test_a_wearable_without_a_snapshot_keeps_everything_and_holds_up_nobody(store: Store) -> None:
    many = ROWS_A_PASS + 10
    journal = rows(range(1, many), "right", 0) + rows(range(many, many + 5), "left", 0)
    fill(store, Batch(journal=journal, snapshots={"left": (many + 5, 1, b"")}))
    trimmer = Trimmer.of(store.connection, store.settings, None)
    assert trimmer.trim(store.connection, at(2 * DAY_S)) == 0
    assert trimmer.trim(store.connection, at(2 * DAY_S)) == 5
    assert len(kept(store.connection, "journal", "row")) == many - 1


def test_a_pass_is_bounded_and_the_next_goes_on(store: Store) -> None:
    count = 2 * ROWS_A_PASS + 7
    fill(store, Batch(journal=rows(range(1, count + 1), "left", 0), snapshots={"left": (count, 1, b"")}))
    trimmer = Trimmer.of(store.connection, store.settings, None)
    assert [trimmer.trim(store.connection, at(2 * DAY_S)) for _ in range(4)] == [ROWS_A_PASS, ROWS_A_PASS, 7, 0]


def test_events_go_a_retention_after_every_destination_has_acknowledged_them(store: Store) -> None:
    events = [event(number) for number in range(1, 11)]
    fill(store, Batch(events=events, cursors={"a": Cursor("a", 6), "b": Cursor("b", 4, ((6, 7),))}))
    trimmer, began = Trimmer(store.settings), 1000.0
    assert trimmer.trim(store.connection, at(began)) == 0  # acknowledged, as far as anybody knows, only now
    fill(store, Batch(cursors={"b": Cursor("b", 10), "a": Cursor("a", 10)}))
    later = began + DAY_S / MARKS
    assert trimmer.trim(store.connection, at(later)) == 0
    assert trimmer.trim(store.connection, at(began + DAY_S - 1)) == 0
    assert trimmer.trim(store.connection, at(began + DAY_S)) == 4
    assert kept(store.connection, "event", "seq") == [5, 6, 7, 8, 9, 10]
    assert trimmer.trim(store.connection, at(later + DAY_S)) == 6


def test_what_nobody_has_acknowledged_stays_for_ever(store: Store) -> None:
    fill(store, Batch(events=[event(1), event(2)]))
    trimmer = Trimmer.of(store.connection, store.settings, None)
    for day in range(1, 20):
        assert trimmer.trim(store.connection, at(day * DAY_S)) == 0
    fill(store, Batch(cursors={"a": Cursor("a", 1)}))
    for day in range(20, 23):
        trimmer.trim(store.connection, at(day * DAY_S))
    assert kept(store.connection, "event", "seq") == [2]


def test_what_a_destination_has_refused_stays(store: Store) -> None:
    parked = [Parked("a", 2, "Not authorized")]
    fill(store, Batch(events=[event(1), event(2), event(3)], cursors={"a": Cursor("a", 3)}, parked=parked))
    trimmer = Trimmer.of(store.connection, store.settings, None)
    trimmer.trim(store.connection, at(0))
    assert trimmer.trim(store.connection, at(DAY_S)) == 2
    assert kept(store.connection, "event", "seq") == [2]


def test_what_a_destination_took_at_a_later_try_stays_while_it_may_be_asked_for_again(store: Store) -> None:
    events, cursors = [event(1), event(2), event(3)], {"a": Cursor("a", 3)}
    fill(store, Batch(events=events, cursors=cursors, parked=[Parked("a", 2, None, 3)]))
    trimmer = Trimmer.of(store.connection, store.settings, None)
    trimmer.trim(store.connection, at(0))
    assert trimmer.trim(store.connection, at(DAY_S)) == 2
    assert kept(store.connection, "event", "seq") == [2]
    fill(store, Batch(events=[event(4)], cursors={"a": Cursor("a", 4)}, checkpoints={"a": (Checkpoint(4, at(DAY_S)),)}))
    assert trimmer.trim(store.connection, at(DAY_S)) == 1
    assert kept(store.connection, "event", "seq") == [4]


def test_a_cursor_that_went_back_keeps_what_it_will_send_again(store: Store) -> None:
    fill(store, Batch(events=[event(n) for n in range(1, 6)], cursors={"a": Cursor("a", 5)}))
    trimmer = Trimmer.of(store.connection, store.settings, None)
    trimmer.trim(store.connection, at(0))
    fill(store, Batch(cursors={"a": Cursor("a", 2)}))
    assert trimmer.trim(store.connection, at(DAY_S)) == 2
    assert kept(store.connection, "event", "seq") == [3, 4, 5]


def test_what_a_broker_may_ask_for_again_stays_however_long_it_is_away(store: Store) -> None:
    """It has lost what it got last, and comes back long after the retention."""
    events = [event(number) for number in range(1, 11)]
    checkpoints = {"a": (Checkpoint(4, at(0)), Checkpoint(10, at(1800)))}
    fill(store, Batch(events=events, cursors={"a": Cursor("a", 10)}, checkpoints=checkpoints))
    trimmer = Trimmer(store.settings)
    trimmer.trim(store.connection, at(1800))
    assert trimmer.trim(store.connection, at(1800 + 10 * DAY_S)) == 4
    assert kept(store.connection, "event", "seq") == [5, 6, 7, 8, 9, 10]


def test_a_destination_that_is_no_longer_served_holds_up_nothing(store: Store) -> None:
    parked = [Parked("old", 1, "Not authorized"), Parked("new", 2, "Not authorized")]
    cursors = {"old": Cursor("old", 2), "new": Cursor("new", 5)}
    fill(store, Batch(events=[event(n) for n in range(1, 7)], cursors=cursors, parked=parked))
    trimmer = Trimmer.of(store.connection, store.settings, ["new"])
    trimmer.trim(store.connection, at(0))
    assert trimmer.trim(store.connection, at(DAY_S)) == 4
    assert kept(store.connection, "event", "seq") == [2, 6]


async def test_a_destination_with_a_new_name_gets_all_and_keeps_it_for_the_whole_retention(
    settings: StoreSettings,
) -> None:
    with Store.open(settings, ["old"]) as store:
        fill(store, Batch(events=[event(n) for n in range(1, 6)], cursors={"old": Cursor("old", 5)}))
        Trimmer.of(store.connection, settings, ["old"]).trim(store.connection, at(0))
    with Store.open(settings, ["new"]) as store:
        trimmer = Trimmer.of(store.connection, settings, ["new"])
        fill(store, Batch(cursors={"new": Cursor("new", 4)}))
        assert trimmer.trim(store.connection, at(2 * DAY_S + 60)) == 0
        assert trimmer.trim(store.connection, at(3 * DAY_S + 120)) == 4
    opened = Opened(settings, ["new"])  # and the writer knows whom it serves
    opened.writer.cursor(Cursor("new", 5))
    opened.writer.trim(at(4 * DAY_S))
    await opened.writer.flush()
    opened.writer.trim(at(6 * DAY_S))
    await opened.close()
    assert opened.writer.counters.trimmed == 1


MIB = 1024 * 1024


def bounded(tmp_path: Path, **bounds: object) -> Store:
    return Store.open(StoreSettings.model_validate({"path": tmp_path / "gateway.db", **bounds}))


def trimmer_of(store: Store, free_bytes: int = 1 << 40) -> Trimmer:
    trimmer = Trimmer.of(store.connection, store.settings, None)
    trimmer.free_bytes = lambda _folder: free_bytes
    return trimmer


def test_above_its_bound_retention_ends_early_and_nothing_that_is_needed_goes_before_that(tmp_path: Path) -> None:
    store = bounded(tmp_path, event_bytes_max=MIB)
    events = [event(n, payload=noise(n)) for n in range(1, 201)]
    fill(store, Batch(events=events, cursors={"a": Cursor("a", 150)}))
    before = used_bytes(store.connection)
    assert before > store.settings.event_bytes_max
    trimmer = trimmer_of(store)
    deleted = trimmer.trim(store.connection, at(0))
    left = kept(store.connection, "event", "seq")
    assert left == list(range(deleted + 1, 201))
    assert 90 < deleted <= 150
    assert (trimmer.crowded, trimmer.early, read_dropped(store.connection)) == (False, deleted, ())
    assert used_bytes(store.connection) < MIB * 1.1
    store.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    assert store.settings.path.stat().st_size < before * 0.7  # given back to the file system too


def test_above_its_bound_the_oldest_events_are_dropped_and_accounted_for(tmp_path: Path) -> None:
    store = bounded(tmp_path, event_bytes_max=MIB)
    events = [
        event(n, wearable="left" if n % 2 else "right", payload=noise(n), created_s=1000.0 + n) for n in range(1, 201)
    ]
    parked = [Parked("a", 5, "Not authorized")]
    fill(store, Batch(events=events, cursors={"a": Cursor("a", 20, ((30, 30),))}, parked=parked))
    trimmer = trimmer_of(store)
    while trimmer.trim(store.connection, at(0)):
        pass
    left = kept(store.connection, "event", "seq")
    assert left == list(range(left[0], 201))
    assert 95 < len(left) < 105
    dropped = {d.wearable: d for d in read_dropped(store.connection)}
    gone = {5, *range(21, left[0])} - {30}  # what the destination had acknowledged was not needed, what it refused was
    for name, numbers in (("left", {n for n in gone if n % 2}), ("right", {n for n in gone if n % 2 == 0})):
        one = dropped[name]
        assert (one.kind, one.reason, one.count) == ("prediction", "bytes", len(numbers))
        assert one.bytes == pytest.approx(10_000 * len(numbers), rel=0.02)
        assert (one.oldest_ns, one.newest_ns) == ((1000 + min(numbers)) * 10**9, (1000 + max(numbers)) * 10**9)
    assert kept(store.connection, "parked", "seq") == []


def test_with_stop_backlog_nothing_needed_is_dropped_and_the_backlog_stops_before_what_is_live(tmp_path: Path) -> None:
    store = bounded(tmp_path, event_bytes_max=MIB, when_full="stop_backlog")
    trimmer = trimmer_of(store)
    told = []
    for seq in range(1, 111):
        batch = Batch(events=[event(seq, payload=noise(seq))], cursors={"a": Cursor("a", 0)})
        write(store.connection, batch, seq - 1)
        trimmer.added(batch)
        assert trimmer.trim(store.connection, at(seq)) == 0
        told.append((trimmer.fetches, trimmer.takes))
    assert [told.index(state) for state in ((True, True), (False, True), (False, False))] == [0, 103, 108]
    fill(store, Batch(cursors={"a": Cursor("a", 60)}))
    trimmer.trim(store.connection, at(200))
    assert (trimmer.fetches, trimmer.takes, read_dropped(store.connection)) == (True, True, ())
    assert kept(store.connection, "event", "seq")[-50:] == list(range(61, 111))


@pytest.mark.parametrize("policy", ["stop_backlog", "drop_oldest"])
def test_above_its_bound_what_only_a_broker_that_forgets_would_ask_for_goes_and_counts_as_nothing_lost(
    tmp_path: Path, policy: str
) -> None:
    """After a long outage all is acknowledged within minutes, and no checkpoint can pass it."""
    store = bounded(tmp_path, event_bytes_max=MIB, when_full=policy)
    checkpoints = {"a": (Checkpoint(0, at(0)), Checkpoint(150, at(60)))}
    events = [event(n, payload=noise(n)) for n in range(1, 201)]
    fill(store, Batch(events=events, cursors={"a": Cursor("a", 150)}, checkpoints=checkpoints))
    trimmer = trimmer_of(store)
    while trimmer.trim(store.connection, at(120)):
        pass
    assert (trimmer.fetches, trimmer.takes, trimmer.crowded) == (True, True, False)
    assert read_dropped(store.connection) == ()
    left = kept(store.connection, "event", "seq")
    assert left == list(range(left[0], 201))
    assert 90 < left[0] <= 151
    assert trimmer.trim(store.connection, at(10 * DAY_S)) == 0, "below the bound they stay"


def test_a_disk_that_others_fill_lowers_the_bound(tmp_path: Path) -> None:
    store = bounded(tmp_path, event_disk_share=0.5)
    fill(store, Batch(events=[event(n, payload=noise(n)) for n in range(1, 401)]))
    file_bytes = used_bytes(store.connection)
    store.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    assert trimmer_of(store, free_bytes=2 * file_bytes).trim(store.connection, at(0)) == 0
    trimmer = trimmer_of(store)
    trimmer.free_bytes = lambda _folder: file_bytes - store.settings.path.stat().st_size
    while trimmer.trim(store.connection, at(0)):
        pass
    (dropped,) = read_dropped(store.connection)
    assert dropped.reason == "disk"
    assert 190 < dropped.count < 230


def test_the_share_of_the_disk_is_of_the_folders_own_disk(tmp_path: Path) -> None:
    store = bounded(tmp_path, event_disk_share=1e-9)
    trimmer = Trimmer.of(store.connection, store.settings, None)
    disk = shutil.disk_usage(tmp_path)
    assert trimmer.limits["event"].reason == "disk"
    assert trimmer.limits["event"].bytes == pytest.approx(disk.free * 1e-9, rel=0.5, abs=2)


def test_events_that_nobody_acknowledges_are_dropped_at_their_age_whatever_time_they_bear(
    tmp_path: Path,
) -> None:
    store = bounded(tmp_path, event_age_max_s=10 * DAY_S)
    trimmer = trimmer_of(store)
    fill(store, Batch(events=[event(1, created_s=-2e9), event(2, created_s=9e9)]))  # at whatever time it was thought
    for day in range(1, 10):
        assert trimmer.trim(store.connection, at(day * DAY_S)) == 0
        if day == 5:
            fill(store, Batch(events=[event(3)]))
    assert trimmer.trim(store.connection, at(11 * DAY_S)) == 2
    (dropped,) = read_dropped(store.connection)
    assert (dropped.kind, dropped.reason, dropped.count) == ("prediction", "age", 2)
    assert kept(store.connection, "event", "seq") == [3]


def test_a_clock_that_leaps_50_years_ages_nothing(tmp_path: Path) -> None:
    store = bounded(tmp_path, event_age_max_s=10 * DAY_S, journal_age_max_s=10 * DAY_S)
    fill(store, Batch(journal=rows(range(1, 5), "left", 0), events=[event(1)]))
    trimmer = trimmer_of(store)
    for seconds, utc_s in ((10, 0.0), (20, 3.4e9), (30, 1.8e9), (40, 3.4e9)):
        assert trimmer.trim(store.connection, at(seconds, utc_s=utc_s)) == 0


def test_observations_of_a_wearable_that_nobody_derives_from_are_dropped_at_their_age(tmp_path: Path) -> None:
    store = bounded(tmp_path)
    age_s = store.settings.journal_age_max_s
    fill(store, Batch(journal=rows(range(1, 4), "gone", 0) + rows(range(4, 6), "gone", age_s)))
    trimmer = trimmer_of(store)
    assert trimmer.trim(store.connection, at(age_s - 1)) == 0
    assert trimmer.trim(store.connection, at(age_s + 1)) == 3
    (dropped,) = read_dropped(store.connection)
    assert (dropped.kind, dropped.wearable, dropped.reason, dropped.count) == ("observation", "gone", "age", 3)


def test_a_journal_above_its_bound_gives_up_what_snapshots_cover_and_then_the_oldest(tmp_path: Path) -> None:
    store = bounded(tmp_path, journal_bytes_max=MIB)
    journal = [JournalRow(n, "left" if n <= 100 else "gone", "frame", noise(n), at(n)) for n in range(1, 221)]
    fill(store, Batch(journal=journal, snapshots={"left": (100, 1, b"")}))
    trimmer = trimmer_of(store)
    assert trimmer.trim(store.connection, at(300)) == 100
    assert read_dropped(store.connection) == ()
    while trimmer.trim(store.connection, at(300)):
        pass
    left = kept(store.connection, "journal", "row")
    assert left == list(range(left[0], 221))
    assert 100 < len(left) < 106
    (dropped,) = read_dropped(store.connection)
    assert (dropped.kind, dropped.wearable, dropped.reason) == ("observation", "gone", "bytes")
    assert dropped.count == left[0] - 101


def test_what_the_store_holds_is_known_at_the_next_start_without_counting_it_all(tmp_path: Path) -> None:
    store = bounded(tmp_path)
    fill(store, Batch(journal=rows(range(1, 11), "left", 0), events=[event(n) for n in range(1, 6)]))
    first = trimmer_of(store)
    first.trim(store.connection, at(0))
    fill(store, Batch(journal=rows(range(11, 14), "left", 0), events=[event(6)]))
    store.connection.execute("UPDATE usage SET bytes = bytes + 1000000")  # what is counted again would not have it
    counted = {
        content: store.connection.execute(
            f"SELECT sum(length(payload) + {ROW_BYTES[content]}) FROM {content}"
        ).fetchone()[0]
        for content in CONTENTS
    }
    assert trimmer_of(store).usage == {content: found + 1_000_000 for content, found in counted.items()}


@pytest.mark.parametrize("bound", [{"journal_bytes_max": 50}, {"journal_age_max_s": 10.0}], ids=["bytes", "age"])
def test_of_observations_that_go_together_only_those_count_as_dropped_that_no_snapshot_covered(
    tmp_path: Path, bound: dict[str, float]
) -> None:
    store = bounded(tmp_path)
    for first in (1, 11):
        write(store.connection, Batch(journal=rows(range(first, first + 10), "left", 0)), 0)
    write(store.connection, Batch(snapshots={"left": (4, 1, b"")}), 0)
    trimmer = Trimmer.of(store.connection, store.settings.model_copy(update=bound), None)
    assert trimmer.trim(store.connection, at(DAY_S + 11)) == 20
    (dropped,) = read_dropped(store.connection)
    assert dropped.count == 16
    assert trimmer.usage["journal"] == 0


async def test_the_writer_trims_behind_a_commit_and_says_how_much(settings: StoreSettings) -> None:
    opened = Opened(settings)
    opened.writer.journal("left", "frame", b"", at(0))
    opened.writer.derived(Derived("left", progress=b"", snapshot=(1, 1, b"")))
    opened.writer.trim(at(2 * DAY_S))
    await opened.close()
    assert opened.writer.counters.trimmed == 1
    with Store.open(settings) as store:
        assert list(store.journal_after("left", 0)) == []
        assert store.last_row() == 1
