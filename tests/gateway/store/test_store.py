"""Opening: new, old, newer, foreign, damaged and occupied databases; numbers that are never given twice."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from gateway.clock import Instant
from gateway.errors import GatewayError
from gateway.store import Store, StoreSettings
from gateway.store.bounds import NAMES_BYTES, ROW_BYTES
from gateway.store.connection import suspected
from gateway.store.errors import StoreCorrupt, StoreForeign, StoreInUse, StoreTooNew, StoreUnavailable
from gateway.store.rows import Checkpoint, Cursor, Derived, Dropped
from gateway.store.store import APPLICATION_ID, SCHEMA_VERSION
from gateway.store.trimming import Trimmer, read_dropped
from tests.gateway.store.conftest import Opened, at, event

DATABASES = Path(__file__).parent / "databases"


def pragma(path: Path, name: str) -> object:
    with sqlite3.connect(path) as connection:
        return connection.execute(f"PRAGMA {name}").fetchone()[0]


def test_a_new_store_is_made_with_its_folder_durable_and_ours(settings: StoreSettings) -> None:
    with Store.open(settings) as store:
        assert store.last_row() == store.last_seq() == 0
        assert store.connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    assert pragma(settings.path, "journal_mode") == "wal"
    assert pragma(settings.path, "auto_vacuum") == 2  # INCREMENTAL
    assert pragma(settings.path, "user_version") == SCHEMA_VERSION
    assert pragma(settings.path, "application_id") == APPLICATION_ID


def test_the_file_of_a_new_store_says_at_once_whose_it_is(settings: StoreSettings) -> None:
    with Store.open(settings):
        header = settings.path.read_bytes()[:100]
        assert int.from_bytes(header[68:72], "big") == APPLICATION_ID
        assert int.from_bytes(header[60:64], "big") == SCHEMA_VERSION


def test_each_opening_is_counted(settings: StoreSettings) -> None:
    for start in (1, 2, 3):
        with Store.open(settings) as store:
            assert store.start == start


def test_a_second_process_is_kept_out_until_the_first_ends(settings: StoreSettings) -> None:
    with Store.open(settings), pytest.raises(StoreInUse, match=r"gateway\.db: in use by another process"):
        Store.open(settings)
    Store.open(settings).close()


def test_a_newer_database_is_refused_and_left_as_it_is(settings: StoreSettings) -> None:
    Store.open(settings).close()
    with sqlite3.connect(settings.path) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    before = settings.path.read_bytes()
    with pytest.raises(StoreTooNew, match=f"schema version {SCHEMA_VERSION + 1}, this program knows up to") as refused:
        Store.open(settings)
    assert refused.value.exit_code == 2
    assert "later" in refused.value.hint
    assert settings.path.read_bytes() == before


def test_a_newer_database_is_left_as_it_is_also_with_a_log_and_a_suspicion(settings: StoreSettings) -> None:
    Store.open(settings).close()
    newer = sqlite3.connect(settings.path)
    with newer:
        newer.execute("DROP TABLE event")
        newer.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    parts = [settings.path, settings.path.with_name("gateway.db-wal")]
    before = [part.read_bytes() for part in parts]
    newer.close()
    for part, content in zip(parts, before, strict=True):  # as a power cut leaves it
        part.write_bytes(content)
    suspected(settings.path).touch()
    with pytest.raises(StoreTooNew):
        Store.open(settings, mend=at(0))
    assert [part.read_bytes() for part in parts] == before


def test_another_programs_database_is_refused_and_left_as_it_is(settings: StoreSettings) -> None:
    settings.path.parent.mkdir()
    with sqlite3.connect(settings.path) as connection:
        connection.execute("CREATE TABLE moz_places (url)")
    connection.close()
    before = settings.path.read_bytes()
    with pytest.raises(StoreForeign, match="an SQLite database that another program made") as refused:
        Store.open(settings)
    assert refused.value.exit_code == 2
    assert settings.path.read_bytes() == before


def test_what_is_no_database_is_refused_with_a_way_out(settings: StoreSettings) -> None:
    settings.path.parent.mkdir()
    settings.path.write_bytes(b"not a database at all, but long enough to be looked at" * 100)
    with pytest.raises(StoreCorrupt, match="file is not a database") as refused:
        Store.open(settings)
    assert "Move the file" in refused.value.hint


def test_a_path_that_cannot_be_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable, match=r"File exists|Not a directory"):
        Store.open(StoreSettings(path=tmp_path / "file" / "gateway.db"))
    (tmp_path / "folder.db").mkdir()
    with pytest.raises(StoreUnavailable, match="unable to open database file"):
        Store.open(StoreSettings(path=tmp_path / "folder.db"))


class Content(bytes):
    def __repr__(self) -> str:
        return f"{len(self)} bytes"


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Content:
    path = tmp_path_factory.mktemp("store") / "gateway.db"
    with Store.open(StoreSettings(path=path)) as store:
        for number in range(1, 30):
            store.connection.execute("INSERT OR IGNORE INTO boot VALUES (1, 'b')")
            store.connection.execute(
                "INSERT INTO journal VALUES (?, 'left', 'frame', ?, 1, 0, 0, 0, 1)", (number, bytes(99))
            )
    return Content(path.read_bytes())


@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_database_is_an_error_in_words_or_read(
    tmp_path: Path, database: Content, data: st.DataObject
) -> None:
    damaged = bytearray(database[: data.draw(st.integers(0, len(database)))])
    for _ in range(data.draw(st.integers(0, 5))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "gateway.db"
    for beside in tmp_path.iterdir():
        beside.unlink()
    path.write_bytes(damaged)
    refused = None
    try:
        with Store.open(StoreSettings(path=path)) as store:
            store.stream("left")
            list(store.journal_after("left", 0))
    except GatewayError as error:  # either is right; any other error is not
        refused = error
    if refused is not None:
        assert str(path) in str(refused)
        assert refused.hint


async def test_numbers_are_not_given_again_when_the_rows_are_gone(settings: StoreSettings) -> None:
    opened = Opened(settings)
    for number in (1, 2, 3):
        opened.writer.journal("left", "frame", b"", at(number))
        opened.writer.derived(Derived("left", (event(number),)))
    await opened.close()
    with sqlite3.connect(settings.path) as connection:
        connection.execute("DELETE FROM journal")
        connection.execute("DELETE FROM event")
    connection.close()
    opened = Opened(settings)
    assert opened.writer.journal("left", "frame", b"", at(4)) == 4
    opened.writer.derived(Derived("left", (event(4),)))
    await opened.close()
    with Store.open(settings) as store:
        assert (store.last_row(), store.last_seq()) == (4, 4)


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION + 1))
def test_a_database_of_each_version_opens_with_all_that_was_in_it(settings: StoreSettings, version: int) -> None:
    settings.path.parent.mkdir()
    with sqlite3.connect(settings.path) as connection:
        connection.executescript((DATABASES / f"version_{version}.sql").read_text())
    connection.close()
    with Store.open(settings) as store:
        assert store.start == 5
        record = store.stream("left")
        assert record is not None
        assert (record.snapshot_row, record.snapshot_version, record.snapshot, record.progress) == (1, 1, b"{}", b"{}")
        (row,) = store.journal_after("left", 1)
        assert (row.row, row.kind, row.payload) == (2, "frame", bytes.fromhex("0102"))
        assert (row.at.boot_id, row.at.mono_ns, row.at.utc_ns, row.at.utc_synced) == ("boot-a", 20, 30, True)
        assert store.cursor("broker") == Cursor("broker", 1, ((3, 3),))
        log = store.events()
        assert [(e.seq, e.id, e.payload, e.retain) for e in log.after(0, 9)] == [(1, "e1", b"{}", False)]
        assert (log.parked("broker", 9), log.last_seq()) == ([1], 1)
        assert log.checkpoints("broker") == [Checkpoint(1, Instant("boot-a", 10, 20, True))]
        assert log.connecting("broker") == (version >= 3)
        assert log.retaken("broker") == ({2: 1} if version >= 3 else {})
        log.close()
        usage = Trimmer.of(store.connection, settings, None).usage
        assert usage == {"journal": 2 * ROW_BYTES["journal"] + 3, "event": ROW_BYTES["event"] + NAMES_BYTES + 2}
        lost = () if version < 2 else (Dropped("prediction", "left", "bytes", 3, 300, 1000, 2000),)
        assert read_dropped(store.connection) == lost
    assert pragma(settings.path, "user_version") == SCHEMA_VERSION


@pytest.mark.parametrize("version", range(1, 4))
def test_what_rows_of_earlier_versions_took_is_counted_no_more_once_they_are_gone(
    settings: StoreSettings, version: int
) -> None:
    settings.path.parent.mkdir()
    with sqlite3.connect(settings.path) as connection:
        connection.executescript((DATABASES / f"version_{version}.sql").read_text())
    connection.close()
    with Store.open(settings) as store:
        trimmer = Trimmer.of(store.connection, settings.model_copy(update={"event_age_max_s": 1.0}), ["broker"])
        for seconds in (1e9, 1e9 + 1, 2e9):
            trimmer.trim(store.connection, at(seconds, "boot-b"))
        left = store.connection.execute("SELECT (SELECT count(*) FROM journal), (SELECT count(*) FROM event)")
        assert left.fetchone() == (0, 0)
        assert trimmer.usage == {"journal": 0, "event": 0}


def test_sqlite_utils_is_imported_only_when_a_migration_is_due(settings: StoreSettings) -> None:
    Store.open(settings).close()
    script = (
        "import sys; from pathlib import Path; from gateway.store import Store, StoreSettings\n"
        "Store.open(StoreSettings(path=Path(sys.argv[1]))).close(); print('sqlite_utils' in sys.modules)"
    )
    for path, imported in ((settings.path, "False"), (settings.path.with_name("new.db"), "True")):
        done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == imported
