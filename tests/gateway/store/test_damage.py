"""Databases that were damaged: set aside, what can be read taken over, and told; media that are full or read-only."""

import asyncio
import contextlib
import errno
import json
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.store import Committer, Store, StoreSettings
from gateway.store.batch import Batch, write
from gateway.store.blocks import blocks
from gateway.store.connection import PAGE_BYTES, suspected
from gateway.store.damage import ROW_NUMBERS_SKIPPED
from gateway.store.errors import StoreCorrupt, StoreFailed, StoreUnavailable
from gateway.store.rows import Cursor, Derived, JournalRow, Parked
from gateway.store.store import LOST_LOG
from gateway.store.trimming import Trimmer
from tests.gateway.store.conftest import Opened, at, event, journalled, logged, noise, write_alone

NOW = at(1_000_000, utc_s=1_800_000_000)
ASIDE = "gateway.db.damaged-20270115T080000Z"
COUNT = 2000


def said(number: int) -> bytes:
    """Longer than a page, every third of them."""
    return json.dumps({"id": f"event-{number}", "data": noise(number, 900 if number % 3 == 0 else 90).hex()}).encode()


def observed(number: int) -> bytes:
    return b"%d %s" % (number, noise(number, 100))


def filled(settings: StoreSettings, *, count: int = COUNT) -> None:
    """Rows that can be told from one another, and one of everything else."""
    with Store.open(settings) as store:
        batch = Batch(
            journal=[JournalRow(n, "left", "frame", observed(n), at(n)) for n in range(1, count + 1)],
            events=[event(n, payload=said(n)) for n in range(1, count + 1)],
            progress={"left": b"progress"},
            snapshots={"left": (7, 3, b"state")},
            cursors={"broker": Cursor("broker", 9, ((11, 12),))},
            parked=[Parked("broker", 5, "Not authorized")],
        )
        write_alone(store.connection, batch, 0)
        Trimmer.of(store.connection, settings, None).trim(store.connection, at(0))


def overwrite(path: Path, first: float, last: float, content: bytes = b"\xa5") -> None:
    """These parts of the file, 0 its beginning and 1 its end."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(int(size * first))
        file.write(content * int(size * (last - first)))


def found(store: Store) -> tuple[set[int], set[int]]:
    """Numbers of the rows and events that are there with their own content."""
    rows, events = journalled(store.settings.path), logged(store.settings.path)
    assert all(row.payload == observed(row.row) for row in rows)
    assert all(e.payload == said(e.seq) for e in events)
    return {row.row for row in rows}, {e.seq for e in events}


def test_a_store_with_damaged_pages_goes_on_with_what_lies_on_both_sides_of_them(settings: StoreSettings) -> None:
    filled(settings)
    overwrite(settings.path, 0.6, 0.7)
    damaged = settings.path.read_bytes()
    suspected(settings.path).touch()  # as a reader that met the damage leaves it
    with Store.open(settings, mend=NOW) as store:
        rows, events = found(store)
        assert store.start == 2
        assert (store.last_row(), store.last_seq()) == (COUNT + ROW_NUMBERS_SKIPPED, COUNT)
        record = store.stream("left")
        assert record is not None
        assert (record.snapshot_row, record.snapshot, record.progress) == (7, b"state", b"progress")
        assert store.cursor("broker") == Cursor("broker", 9, ((11, 12),))
        (told,) = store.findings
    assert {1, COUNT} <= rows
    assert {1, COUNT} <= events
    assert 0.75 * 2 * COUNT < len(rows) + len(events) < 2 * COUNT
    assert told.startswith(f"the database was damaged and is kept as {ASIDE}; {len(rows)} observations, ")
    assert f"{len(events)} events, 1 snapshots were saved; parts of event" in told
    assert (settings.path.parent / ASIDE).read_bytes() == damaged
    with Store.open(settings, mend=NOW) as store:
        assert store.findings == ()


def test_events_are_read_by_the_copy_of_their_dictionary_where_that_is_damaged(settings: StoreSettings) -> None:
    filled(settings, count=20)
    content = settings.path.read_bytes()
    page = content.index(said(1)[:100]) // PAGE_BYTES  # the first message is the first dictionary
    settings.path.write_bytes(content[: page * PAGE_BYTES] + b"\xa5" * PAGE_BYTES + content[(page + 1) * PAGE_BYTES :])
    suspected(settings.path).touch()
    with Store.open(settings, mend=NOW) as store:
        assert found(store)[1] == set(range(1, 21))


@pytest.mark.parametrize("content", ["journal", "event"])
def test_a_bit_that_flips_within_a_row_costs_that_row_alone(settings: StoreSettings, content: str) -> None:
    """SQLite has no checksums for its pages."""
    filled(settings, count=20)
    key = {"journal": "row", "event": "seq"}[content]
    with contextlib.closing(sqlite3.connect(settings.path)) as connection:
        (payload,) = connection.execute(f"SELECT payload FROM {content} WHERE {key} = 7").fetchone()
    whole = settings.path.read_bytes()
    at_ = whole.index(payload) + len(payload) // 2
    settings.path.write_bytes(whole[:at_] + bytes((whole[at_] ^ 16,)) + whole[at_ + 1 :])
    with Store.open(settings, mend=NOW) as store:
        assert store.findings == ()  # nobody has read it yet
        with pytest.raises(StoreCorrupt, match="makes no sense"):
            found(store)
        with pytest.raises(StoreCorrupt, match="the next start sets it aside"):
            store.check_whole()
    with Store.open(settings, mend=NOW) as store:
        left = {"journal": found(store)[0], "event": found(store)[1]}
        assert left[content] == set(range(1, 21)) - {7}
        assert left["event" if content == "journal" else "journal"] == set(range(1, 21))
        assert f"parts of {content} were not" in store.findings[0]


def begin(settings: StoreSettings) -> tuple[str, ...]:
    """What the daemon does at its start, and a reader beside it; the findings."""
    with Store.open(settings, mend=NOW) as store:
        Committer(store, lambda _: None)
        store.stream("left")
        assert store.cursor("broker") in (None, Cursor("broker", 9, ((11, 12),)))
        found(store)
        return store.findings


LATEST = "UPDATE latest SET value = {} WHERE kind = '{}'"
NO_TEXT = "CAST(X'6C65FF74' AS TEXT)"


@pytest.mark.parametrize(
    "damage",
    [
        LATEST.format("'9 11-1\x7f'", "cursor"),
        LATEST.format("''", "cursor"),
        LATEST.format("9", "cursor"),
        LATEST.format("'many'", "given"),
        LATEST.format("2.5", "given"),
        LATEST.format("X'07'", "given"),
        LATEST.format("7", "progress"),
        "UPDATE latest SET kind = 'givem' WHERE kind = 'given'",
        "UPDATE journal SET payload = 7 WHERE row = 7",
        "UPDATE journal SET payload = 'seven' WHERE row = 7",
        "UPDATE event SET payload = 'seven' WHERE seq = 7",
        f"UPDATE journal SET wearable = {NO_TEXT} WHERE row = 7",
        f"UPDATE event SET kind = {NO_TEXT} WHERE seq = 7",
        f"UPDATE snapshot SET wearable = {NO_TEXT}",
        "UPDATE dropped SET count = 'one'",
        "UPDATE daemon SET starts = 'twice'",
        "DELETE FROM usage",
        "DELETE FROM daemon",
        "DELETE FROM dictionary",
        "UPDATE dictionary SET content = X'00'",
        "DROP TABLE parked",
    ],
)
def test_whatever_is_damaged_the_second_start_goes_on_at_the_latest(settings: StoreSettings, damage: str) -> None:
    filled(settings, count=20)
    with contextlib.closing(sqlite3.connect(settings.path)) as connection:
        connection.execute("INSERT INTO dropped VALUES ('prediction', 'left', 'bytes', 1, 2, 3, 4)")
        connection.execute(damage)
        connection.commit()
    try:
        told = begin(settings)
    except StoreCorrupt:
        told = begin(settings)
    assert begin(settings) == ()
    assert len(told) <= 1  # what nothing comes of need not be found
    with Store.open(settings, mend=NOW) as store:
        assert len(found(store)[0]) >= 19
        assert len(found(store)[1]) >= 19
        assert store.last_row() >= 20
        assert store.last_seq() == 20


def test_no_number_is_given_again_that_anything_tells_of_though_the_events_are_lost(settings: StoreSettings) -> None:
    for naming, highest in (
        ("INSERT INTO latest VALUES ('cursor', 'broker', '3 8 11-44')", 44),
        ("UPDATE latest SET value = '45' WHERE kind = 'cursor'", 45),
        ("INSERT INTO parked VALUES ('broker', 46, 'Not authorized')", 46),
        ("INSERT INTO retaken VALUES ('broker', 47, 48)", 47),
        ("INSERT INTO checkpoint VALUES ('broker', 48, 1, 2, 3, 1)", 48),
        ("INSERT INTO logged VALUES (49, 1, 2, 3, 1)", 49),
        ("INSERT INTO dictionary VALUES (50, 1, X'')", 50),
    ):
        with Store.open(settings) as store:
            store.connection.execute(naming)
            store.connection.execute("DELETE FROM latest WHERE kind = 'given'")
            store.connection.execute("UPDATE usage SET bytes = 'many'")
        suspected(settings.path).touch()
        with Store.open(settings, mend=NOW) as store:
            assert store.last_seq() == highest


@pytest.mark.parametrize(
    ("of", "to"),
    [
        ("boot INTEGER PRIMARY KEY", "boot INTEGER PRIMIRY KEY"),
        ("row INTEGER PRIMARY KEY", "row INTEGER PRIMIRY KEY"),
        ("payload BLOB NOT NULL", "paylobd BLOB NOT NULL"),
        ("state BLOB NOT NULL", "state BLOC NOT NULL"),
        ("reason TEXT NOT NULL", "reasom TEXT NOT NULL"),
    ],
)
def test_a_bit_that_flips_in_the_schema_costs_nothing_that_was_stored(
    settings: StoreSettings, of: str, to: str
) -> None:
    filled(settings, count=20)
    content = settings.path.read_bytes()
    settings.path.write_bytes(content.replace(of.encode(), to.encode()))
    suspected(settings.path).touch()
    begin(settings)
    assert begin(settings) == ()
    with Store.open(settings, mend=NOW) as store:
        assert found(store) == (set(range(1, 21)), set(range(1, 21)))
        record = store.stream("left")
        assert record is not None
        assert (record.snapshot, record.progress) == (b"state", b"progress")


async def test_numbers_that_are_damaged_while_the_writer_is_at_work_end_it_and_the_next_start_mends(
    settings: StoreSettings,
) -> None:
    filled(settings, count=20)
    opened = Opened(settings)
    with contextlib.closing(sqlite3.connect(settings.path)) as connection:
        connection.execute(LATEST.format("'many'", "given"))
        connection.commit()
    opened.writer.derived(Derived("left", (event(21, payload=said(21)),)))
    with pytest.raises(StoreFailed, match="not written: ValueError: given of event: 'many'"):
        await opened.writer.flush()
    with pytest.raises(StoreCorrupt, match="the next start sets it aside"):
        opened.store.check_whole()
    with contextlib.suppress(StoreFailed):
        await opened.writer.close()
    opened.store.close()
    assert "the database was damaged" in begin(settings)[0]
    assert begin(settings) == ()


def test_a_damaged_store_of_an_earlier_version_is_taken_over_into_a_new_one(settings: StoreSettings) -> None:
    settings.path.parent.mkdir()
    older = Path(__file__).parent / "databases" / "version_2.sql"
    with contextlib.closing(sqlite3.connect(settings.path)) as connection:
        connection.executescript(older.read_text())
        connection.execute('UPDATE event SET payload = CAST(\'{"id": "e1"}\' AS BLOB)')
        connection.commit()
        page_bytes, pages = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_size", "page_count"))
    whole = settings.path.read_bytes()
    assert len(whole) == page_bytes * pages
    settings.path.write_bytes(whole + b"\xa5" * page_bytes)
    with settings.path.open("r+b") as file:
        file.seek(28)
        file.write((pages + 1).to_bytes(4, "big"))  # a page that belongs to nothing
    suspected(settings.path).touch()
    with Store.open(settings, mend=NOW) as store:
        assert store.findings[0].endswith("2 observations, 1 events, 1 snapshots were saved")
        record = store.stream("left")
        assert record is not None
        assert record.progress == b"{}"
        assert store.cursor("broker") == Cursor("broker", 1, ((3, 3),))
        assert [row.payload for row in store.journal_after("left", 0)] == [b"\0", b"\1\2"]
        assert (store.last_row(), store.last_seq()) == (2 + ROW_NUMBERS_SKIPPED, 3)  # as its cursor says


@pytest.mark.parametrize("until", range(5))
def test_a_start_that_ends_while_it_mends_loses_nothing(
    settings: StoreSettings, tmp_path: Path, until: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each change of a name, and before the first."""
    filled(settings, count=100)
    with contextlib.closing(sqlite3.connect(settings.path)) as connection:
        connection.execute("UPDATE journal SET payload = X'' WHERE row = 50")
        connection.commit()
    with Store.open(settings) as store:
        write(store.connection, Batch(progress={"left": b"progress"}), 100)
        left = crashed(settings, tmp_path / "left")
    suspected(left.path).touch()
    left.path.with_name("gateway.db.mending").write_bytes(b"\xa5" * 999)
    left.path.with_name("gateway.db.mending-wal").write_bytes(b"\xa5" * 999)
    calls, rename = iter(range(5)), Path.rename

    def fail(path: Path, to: Path) -> Path:
        if next(calls) >= until:
            raise OSError(errno.EIO, "Input/output error")
        return rename(path, to)

    with monkeypatch.context() as patched, contextlib.suppress(OSError):
        patched.setattr(Path, "rename", fail)
        Store.open(left, mend=NOW).close()
    with Store.open(left, mend=NOW) as store:
        assert found(store) == (set(range(1, 101)) - {50}, set(range(1, 101)))
        assert (store.last_row(), store.last_seq()) == (100 + ROW_NUMBERS_SKIPPED, 100)
        assert store.cursor("broker") == Cursor("broker", 9, ((11, 12),))
        assert all(told.startswith("the database was damaged and is ") for told in store.findings)
    assert begin(left) == ()
    assert not list(left.path.parent.glob("gateway.db.mend*"))
    with contextlib.closing(sqlite3.connect(left.path.parent / ASIDE)) as connection:
        assert connection.execute("SELECT payload FROM journal WHERE row = 50").fetchone() == (b"",)


def test_observations_that_share_a_row_are_counted_one_by_one(settings: StoreSettings) -> None:
    with Store.open(settings) as store:
        write(
            store.connection,
            Batch(journal=[JournalRow(n, "left", "frame", observed(n), at(n)) for n in range(1, 8)]),
            0,
        )
        store.connection.execute("DELETE FROM usage")
    suspected(settings.path).touch()
    with Store.open(settings, mend=NOW) as store:
        assert "; 7 observations, 0 events" in store.findings[0]


def test_where_there_is_no_room_to_mend_numbers_and_cursors_go_on_at_least(mounted: Path) -> None:
    settings = StoreSettings(path=mounted / "gateway.db")
    filled(settings)
    overwrite(settings.path, 0.6, 0.7)
    suspected(settings.path).touch()
    filler = mounted / "filler"
    room = os.statvfs(mounted)
    filler.write_bytes(bytes(room.f_bavail * room.f_frsize - 600_000))
    with Store.open(settings, mend=NOW) as store:
        assert "0 observations, 0 events, 0 snapshots were saved" in store.findings[0]
        assert (store.last_row(), store.last_seq()) == (COUNT + ROW_NUMBERS_SKIPPED, COUNT)
        assert store.cursor("broker") == Cursor("broker", 9, ((11, 12),))


def test_a_number_that_is_damaged_and_far_too_high_keeps_nobody_from_mending(settings: StoreSettings) -> None:
    filled(settings, count=20)
    with contextlib.closing(sqlite3.connect(settings.path)) as connection:
        connection.execute("UPDATE event SET seq = 1 << 45 WHERE seq = 20")
        connection.commit()
    with Store.open(settings, mend=NOW) as store:
        told = store.findings
    assert "20 observations, 20 events" in told[0]
    with Store.open(settings, mend=NOW) as store:
        assert store.last_seq() == 1 << 45


def test_a_truncated_store_goes_on_with_what_is_left_of_it(settings: StoreSettings) -> None:
    filled(settings)
    size = settings.path.stat().st_size
    os.truncate(settings.path, size * 6 // 10)
    with Store.open(settings, mend=NOW) as store:
        rows, events = found(store)
        (told,) = store.findings
        assert store.last_row() >= max(rows)
    assert "were saved; parts of" in told
    assert len(rows) + len(events) > 0.4 * 2 * COUNT


@pytest.mark.parametrize("content", [b"", b"no database, but long enough to be looked at" * 50, b"SQLite format 3\0"])
def test_where_nothing_can_be_read_a_new_store_is_begun_and_the_file_kept(
    settings: StoreSettings, content: bytes
) -> None:
    filled(settings)
    with settings.path.open("r+b") as file:
        file.write(content or bytes(4096))
    kept = settings.path.read_bytes()
    with Store.open(settings, mend=NOW) as store:
        assert found(store)[0] in (set(), set(range(1, COUNT + 1)))
        assert len(store.findings) in (0, 1)
        if store.findings:
            assert (settings.path.parent / ASIDE).read_bytes() == kept
            assert "0 observations, 0 events, 0 snapshots were saved" in store.findings[0]


def test_two_damaged_databases_of_one_second_are_both_kept(settings: StoreSettings) -> None:
    for name in (ASIDE, f"{ASIDE}-2"):
        filled(settings, count=3)
        settings.path.write_bytes(b"\xa5" * 4096)
        with Store.open(settings, mend=NOW) as store:
            assert len(store.findings) == 1
        assert (settings.path.parent / name).read_bytes() == b"\xa5" * 4096
        for rest in settings.path.parent.glob("gateway.db"):
            rest.unlink()


def test_a_suspicion_that_does_not_hold_changes_nothing(settings: StoreSettings) -> None:
    filled(settings, count=10)
    suspected(settings.path).touch()
    with Store.open(settings, mend=NOW) as store:
        assert store.findings == ()
        assert store.last_row() == 10
    assert not suspected(settings.path).exists()
    assert not list(settings.path.parent.glob("*damaged*"))


def test_without_leave_to_mend_a_damaged_store_is_refused_and_left(settings: StoreSettings) -> None:
    settings.path.parent.mkdir()
    settings.path.write_bytes(b"\xa5" * 4096)
    with pytest.raises(StoreCorrupt, match="file is not a database"):
        Store.open(settings)
    assert settings.path.read_bytes() == b"\xa5" * 4096


async def test_damage_that_the_writer_meets_ends_it_and_the_next_start_mends(settings: StoreSettings) -> None:
    filled(settings)
    with Store.open(settings) as store:
        Trimmer.of(store.connection, settings, None).trim(store.connection, at(COUNT))  # what is there is known
    content = settings.path.read_bytes()
    (among_the_oldest,) = blocks([JournalRow(17, "left", "frame", observed(17), at(17))])
    page = content.index(among_the_oldest.payload) // PAGE_BYTES
    settings.path.write_bytes(content[: page * PAGE_BYTES] + b"\xa5" * PAGE_BYTES + content[(page + 1) * PAGE_BYTES :])
    opened = Opened(settings)
    opened.writer.trim(at(9e6))  # reads the oldest rows
    with contextlib.suppress(StoreFailed):  # the commit before it may have been told
        await opened.writer.flush()
    with pytest.raises(StoreFailed, match="the writer has ended: DatabaseError: database disk image is malformed"):
        await opened.until(lambda: bool(opened.troubles) and bool(opened.writer.check_open()))
    with pytest.raises(StoreCorrupt, match="SQLite has found damage in it; the next start sets it aside"):
        opened.store.check_whole()
    with contextlib.suppress(StoreFailed):
        await opened.writer.close()
    opened.store.close()
    with Store.open(settings, mend=NOW) as store:
        assert "the database was damaged" in store.findings[0]


def test_a_reader_that_meets_damage_has_the_next_start_look(settings: StoreSettings) -> None:
    filled(settings)
    overwrite(settings.path, 0.4, 0.9)  # the start reads the last page of each
    with Store.open(settings) as store:
        log = store.events()
        with pytest.raises(StoreCorrupt, match="malformed"):
            log.after(0, COUNT)
        log.close()
        with pytest.raises(StoreCorrupt, match="the next start sets it aside"):
            store.check_whole()


# A lost log.


def crashed(settings: StoreSettings, to: Path) -> StoreSettings:
    """Its files as a power cut leaves them, while a writer is at work."""
    to.mkdir()
    for part in settings.path.parent.iterdir():
        if not part.name.endswith("-shm"):
            shutil.copy(part, to / part.name)
    return settings.model_copy(update={"path": to / settings.path.name})


async def test_a_log_that_is_gone_is_told_and_numbers_are_not_given_again(
    settings: StoreSettings, tmp_path: Path
) -> None:
    opened = Opened(settings)
    for number in range(1, 6):
        opened.writer.journal("left", "frame", observed(number), at(number))
    await opened.writer.flush()
    whole, without = crashed(settings, tmp_path / "whole"), crashed(settings, tmp_path / "without")
    await opened.close()
    (without.path.parent / "gateway.db-wal").unlink()
    with Store.open(whole, mend=NOW) as store:
        assert (store.findings, found(store)[0], store.last_row()) == ((), {1, 2, 3, 4, 5}, 5)
    with Store.open(without, mend=NOW) as store:
        assert store.findings == (LOST_LOG,)
        assert found(store)[0] == set()
        given = write(store.connection, Batch(journal=[JournalRow(1_000_001, "left", "frame", b"", at(1))]), 0)
        assert given == 0
    with Store.open(settings, mend=NOW) as store:  # that was closed
        assert store.findings == ()


async def test_a_log_that_was_cut_off_leaves_what_was_committed_before_the_cut(
    settings: StoreSettings, tmp_path: Path
) -> None:
    opened = Opened(settings)
    sizes = []
    for number in range(1, 21):
        opened.writer.journal("left", "frame", observed(number), at(number))
        await opened.writer.flush()
        sizes.append((settings.path.parent / "gateway.db-wal").stat().st_size)
    for cut in (1, 7, 19):
        cut_off = crashed(settings, tmp_path / str(cut))
        os.truncate(cut_off.path.parent / "gateway.db-wal", sizes[cut] - 1)
        with Store.open(cut_off, mend=NOW) as store:
            assert found(store)[0] == set(range(1, cut + 1))
            assert store.findings == ()
    await opened.close()


# Media.


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MB."""
    where = tmp_path / "mounted"
    where.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "none", str(where)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"nothing may be mounted here: {done.stderr.strip()}")
    yield where
    subprocess.run(["umount", "-l", str(where)], check=True)


async def test_a_full_disk_stops_commits_and_nothing_is_lost_once_there_is_room(mounted: Path) -> None:
    opened = Opened(StoreSettings(path=mounted / "gateway.db", commit_interval_s=60))
    opened.writer.journal("left", "frame", observed(1), at(1))
    await opened.writer.flush()
    filler = mounted / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    for number in range(2, 41):
        opened.writer.journal("left", "frame", observed(number), at(number))
        opened.writer.derived(Derived("left", (event(number - 1, payload=said(number - 1)),)))
    flushed = asyncio.ensure_future(opened.writer.flush())
    await opened.until(lambda: bool(opened.troubles))
    assert opened.troubles[0] == "OperationalError: database or disk is full"
    assert opened.commits[-1].journal_row == 1  # nobody was told of more
    filler.unlink()
    await opened.until(lambda: opened.troubles[-1] is None)
    await flushed
    await opened.close()
    with Store.open(opened.store.settings, mend=NOW) as store:
        assert found(store) == (set(range(1, 41)), set(range(1, 40)))
        assert store.findings == ()


async def test_a_disk_that_others_fill_has_the_oldest_dropped_before_it_is_full(mounted: Path) -> None:
    settings = StoreSettings(path=mounted / "gateway.db", commit_interval_s=60, event_disk_share=0.25)
    opened = Opened(settings, ["broker"])
    for number in range(1, 201):
        opened.writer.derived(Derived("left", (event(number, payload=noise(number)),)))
        opened.writer.trim(at(number))
        await opened.writer.flush()
    assert opened.troubles == []
    (dropped,) = opened.writer.fill.dropped
    assert (dropped.reason, dropped.wearable) == ("disk", "left")
    assert opened.writer.fill.bytes["event"] <= 0.25 * 6 * 2**20
    await opened.close()


@pytest.fixture
def card(tmp_path: Path) -> Iterator[Path]:
    """An ext4 file system of its own, which turns read-only where the kernel meets an error."""
    image, where = tmp_path / "card.img", tmp_path / "card"
    where.mkdir()
    with image.open("wb") as file:
        file.truncate(16 * 2**20)
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    try:
        subprocess.run(["mkfs.ext4", "-q", "-e", "remount-ro", str(image)], check=True, capture_output=True)
        subprocess.run(["mount", "-o", "loop", str(image), str(where)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be made and mounted here: {error}")
    yield where
    subprocess.run(["umount", "-l", str(where)], check=True)


def turn_read_only(mounted: Path) -> None:
    """As a worn card does."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    device = next(line[0] for line in mounts if line[1] == str(mounted))
    trigger = Path("/sys/fs/ext4") / Path(device).name / "trigger_fs_error"
    if not trigger.exists():
        pytest.skip("this kernel cannot be asked for an error of a file system")
    trigger.write_text("an error")


async def test_a_file_system_that_turns_read_only_stops_commits_until_it_is_mended(card: Path) -> None:
    opened = Opened(StoreSettings(path=card / "gateway.db", commit_interval_s=60))
    opened.writer.journal("left", "frame", observed(1), at(1))
    await opened.writer.flush()
    turn_read_only(card)
    opened.writer.journal("left", "frame", observed(2), at(2))
    flushed = asyncio.ensure_future(opened.writer.flush())
    await opened.until(lambda: bool(opened.troubles))
    assert opened.troubles[0] in (
        "OperationalError: attempt to write a readonly database",
        "OperationalError: disk I/O error",
        "OperationalError: unable to open database file",
    )
    assert opened.commits[-1].journal_row == 1
    assert not flushed.done()
    with pytest.raises(StoreFailed, match="1 observations and 0 events not written"):
        await opened.writer.close()
    flushed.exception()
    with contextlib.suppress(OSError):
        opened.store.close()


def test_a_read_only_file_system_is_refused_with_words(mounted: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)
    with pytest.raises(StoreUnavailable, match="Read-only file system") as refused:
        Store.open(StoreSettings(path=mounted / "gateway.db"), mend=NOW)
    assert "be writable by this user" in refused.value.hint


def test_sqlite_reads_what_was_salvaged_without_us(settings: StoreSettings) -> None:
    filled(settings, count=200)
    overwrite(settings.path, 0.5, 0.6)
    suspected(settings.path).touch()
    Store.open(settings, mend=NOW).close()
    with contextlib.closing(sqlite3.connect(settings.path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
