"""Retention: nothing that is still needed goes, everything else does in time, a bounded part at once."""

import sqlite3
from pathlib import Path

import pytest

from gateway.store import Store, StoreSettings
from gateway.store.batch import Batch, write
from gateway.store.rows import Cursor, Derived, JournalRow, Parked
from gateway.store.trimming import MARKS, ROWS_A_PASS, Trimmer, used_bytes
from tests.gateway.store.conftest import Opened, at, event

DAY_S = 86400.0


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(StoreSettings(path=tmp_path / "gateway.db"))


def fill(store: Store, batch: Batch) -> None:
    write(store.connection, batch, store.last_seq())


def kept(connection: sqlite3.Connection, table: str, key: str) -> list[int]:
    return [row[0] for row in connection.execute(f"SELECT {key} FROM {table} ORDER BY {key}")]


def rows(numbers: range, wearable: str, seconds: float) -> list[JournalRow]:
    return [JournalRow(number, wearable, "frame", b"", at(seconds)) for number in numbers]


def test_observations_go_once_a_snapshot_covers_them_and_they_are_old(store: Store) -> None:
    journal = rows(range(1, 5), "left", 0) + rows(range(5, 7), "right", 0) + rows(range(7, 9), "left", DAY_S)
    fill(store, Batch(journal=journal, snapshots={"left": (3, 1, b""), "right": (0, 1, b"")}))
    trimmer = Trimmer(store.settings)
    assert trimmer.trim(store.connection, at(DAY_S - 1)) == 0
    assert trimmer.trim(store.connection, at(DAY_S + 1)) == 3
    assert kept(store.connection, "journal", "row") == [4, 5, 6, 7, 8]


def test_a_wearable_without_a_snapshot_keeps_everything_and_holds_up_nobody(store: Store) -> None:
    many = ROWS_A_PASS + 10
    journal = rows(range(1, many), "right", 0) + rows(range(many, many + 5), "left", 0)
    fill(store, Batch(journal=journal, snapshots={"left": (many + 5, 1, b"")}))
    trimmer = Trimmer(store.settings)
    assert trimmer.trim(store.connection, at(2 * DAY_S)) == 0
    assert trimmer.trim(store.connection, at(2 * DAY_S)) == 5
    assert len(kept(store.connection, "journal", "row")) == many - 1


def test_a_pass_is_bounded_and_the_next_goes_on(store: Store) -> None:
    count = 2 * ROWS_A_PASS + 7
    fill(store, Batch(journal=rows(range(1, count + 1), "left", 0), snapshots={"left": (count, 1, b"")}))
    trimmer = Trimmer(store.settings)
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
    trimmer = Trimmer(store.settings)
    for day in range(1, 20):
        assert trimmer.trim(store.connection, at(day * DAY_S)) == 0
    fill(store, Batch(cursors={"a": Cursor("a", 1)}))
    for day in range(20, 23):
        trimmer.trim(store.connection, at(day * DAY_S))
    assert kept(store.connection, "event", "seq") == [2]


def test_what_a_destination_has_refused_stays(store: Store) -> None:
    parked = [Parked("a", 2, "Not authorized")]
    fill(store, Batch(events=[event(1), event(2), event(3)], cursors={"a": Cursor("a", 3)}, parked=parked))
    trimmer = Trimmer(store.settings)
    trimmer.trim(store.connection, at(0))
    assert trimmer.trim(store.connection, at(DAY_S)) == 2
    assert kept(store.connection, "event", "seq") == [2]


def test_a_cursor_that_went_back_keeps_what_it_will_send_again(store: Store) -> None:
    fill(store, Batch(events=[event(n) for n in range(1, 6)], cursors={"a": Cursor("a", 5)}))
    trimmer = Trimmer(store.settings)
    trimmer.trim(store.connection, at(0))
    fill(store, Batch(cursors={"a": Cursor("a", 2)}))
    assert trimmer.trim(store.connection, at(DAY_S)) == 2
    assert kept(store.connection, "event", "seq") == [3, 4, 5]


def test_a_destination_that_is_no_longer_served_holds_up_nothing(store: Store) -> None:
    parked = [Parked("old", 1, "Not authorized"), Parked("new", 2, "Not authorized")]
    cursors = {"old": Cursor("old", 2), "new": Cursor("new", 5)}
    fill(store, Batch(events=[event(n) for n in range(1, 7)], cursors=cursors, parked=parked))
    trimmer = Trimmer(store.settings, ["new"])
    trimmer.trim(store.connection, at(0))
    assert trimmer.trim(store.connection, at(DAY_S)) == 4
    assert kept(store.connection, "event", "seq") == [2, 6]


async def test_a_destination_with_a_new_name_gets_all_and_keeps_it_for_the_whole_retention(
    settings: StoreSettings,
) -> None:
    with Store.open(settings, ["old"]) as store:
        fill(store, Batch(events=[event(n) for n in range(1, 6)], cursors={"old": Cursor("old", 5)}))
        Trimmer(settings, ["old"]).trim(store.connection, at(0))
    with Store.open(settings, ["new"]) as store:
        trimmer = Trimmer(settings, ["new"])
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


def test_above_its_size_the_store_gives_up_retention_but_nothing_that_is_needed(tmp_path: Path) -> None:
    store = Store.open(StoreSettings(path=tmp_path / "gateway.db", bytes_max=1024 * 1024))
    events = [event(n, payload=bytes(10_000)) for n in range(1, 201)]
    fill(store, Batch(events=events, cursors={"a": Cursor("a", 150)}))
    before = used_bytes(store.connection)
    assert before > store.settings.bytes_max
    assert Trimmer(store.settings).trim(store.connection, at(0)) == 150
    assert kept(store.connection, "event", "seq") == list(range(151, 201))
    assert used_bytes(store.connection) < before / 2
    store.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    assert store.settings.path.stat().st_size < before / 2  # given back to the file system too


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
