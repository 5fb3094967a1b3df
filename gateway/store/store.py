"""Opening the database, and what is read from it at the start. Everything is written by the Writer."""

import fcntl
import logging
import os
import sqlite3
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from gateway.clock import Instant
from gateway.errors import GatewayError
from gateway.store.connection import (
    PAGE_BYTES,
    SENSELESS,
    WAL_BYTES_KEPT,
    connect,
    errors_in_words,
    is_damage,
    suspected,
    tune_for_writing,
)
from gateway.store.damage import (
    clear,
    is_cut_off,
    logged,
    looks_whole,
    mended,
    mending,
    salvage,
    set_aside,
    skip_row_numbers,
)
from gateway.store.errors import StoreCorrupt, StoreForeign, StoreInUse, StoreTooNew, StoreTooOld, StoreUnavailable
from gateway.store.eventlog import EventLog, read_cursor
from gateway.store.journal import Journal
from gateway.store.latest import check_given
from gateway.store.rows import Cursor, JournalRow, StreamRecord
from gateway.store.settings import StoreSettings
from gateway.store.trimming import acknowledged_by_all

log = logging.getLogger(__name__)

SCHEMA_VERSION = 4
APPLICATION_ID = 0x46444754
"""The letters FDGT in the header (https://www.sqlite.org/fileformat.html, 1.3.15), to know another program's file."""
_RUNS = b"a writer is at work"
LOST_LOG = (
    "the write-ahead log of a run that did not end is gone: what had been committed since its last checkpoint, up to "
    f"{WAL_BYTES_KEPT // 2**20} MiB, is lost"
)
_MAGIC = b"SQLite format 3\0"


class Store:
    """One process at a time has a store open (a lock file beside it); EventLog and Journal read it from anywhere."""

    def __init__(
        self,
        settings: StoreSettings,
        connection: sqlite3.Connection,
        lock: IO[bytes],
        destinations: Collection[str] | None,
    ) -> None:
        self.settings, self.destinations = settings, destinations
        self.connection = connection
        """The one that writes; the Writer's alone once there is one."""
        self._journal = Journal(settings.path)
        connection.execute("UPDATE daemon SET starts = starts + 1")
        self.start: int = connection.execute("SELECT starts FROM daemon").fetchone()[0]
        """How many times this store has been opened to write, this time included; on the medium already."""
        check_given(connection)
        # when another destination had it all says nothing of one that has less
        acknowledged = acknowledged_by_all(connection, destinations)
        connection.execute("DELETE FROM acknowledged WHERE position > ?", (acknowledged,))
        self._lock = lock
        self.findings: tuple[str, ...] = ()
        """What was wrong when it was opened, and what became of it, in words."""
        _note(lock, _RUNS)

    @classmethod
    def open(
        cls,
        settings: StoreSettings,
        destinations: Collection[str] | None = None,
        *,
        mend: Instant | None = None,
        on_mending: Callable[[], None] = lambda: None,
    ) -> Self:
        """Creates the database or brings it to this version's schema.

        destinations: for whom events are kept; without them, for all that ever acknowledged or refused one.
        mend: the time; with it a damaged database is set aside under a name with the date, and a new one is begun with
        what can be read of it (findings tell of it). on_mending: called before what may take minutes.
        Raises StoreTooNew or StoreForeign (the file is untouched), StoreInUse, StoreUnavailable; without `mend`
        StoreCorrupt.
        """
        path = settings.path
        lock = _lock(path)
        try:
            with errors_in_words(path):
                ran = lock.read() == _RUNS
                lost_log = ran and path.exists() and path.stat().st_size > 0 and not logged(path)
                if ran and not lost_log:
                    _note(lock, b"")  # from here on it may end well, and the database be opened again
                findings = [LOST_LOG] if lost_log else []
                if mended(path).exists():
                    findings.append(_put_in_place(path, mend, "what can be read of it was saved"))
                _refuse_newer(path)
                if mend is not None and _is_damaged(path, on_mending):
                    findings.append(_mend(path, mend, on_mending))
                try:
                    store = cls._begun(settings, lock, destinations)
                except (sqlite3.DatabaseError, *SENSELESS) as error:
                    medium = isinstance(error, sqlite3.OperationalError) and not is_damage(error)
                    if mend is None or medium:
                        raise
                    findings.append(_mend(path, mend, on_mending))
                    store = cls._begun(settings, lock, destinations)
                if lost_log:
                    skip_row_numbers(store.connection)
                store.findings = tuple(findings)
                return store
        except BaseException:
            lock.close()
            raise

    @classmethod
    def _begun(cls, settings: StoreSettings, lock: IO[bytes], destinations: Collection[str] | None) -> Self:
        connection = _open(settings.path)
        try:
            return cls(settings, connection, lock, destinations)
        except BaseException:
            connection.close()
            raise

    def check_whole(self) -> None:
        """Raises StoreCorrupt once somebody has found damage in it."""
        if suspected(self.settings.path).exists():
            raise StoreCorrupt(self.settings.path, "SQLite has found damage in it; the next start sets it aside")

    def last_row(self) -> int:
        """The highest journal row ever given; 0 before the first."""
        return self._journal.last("journal")

    def last_seq(self) -> int:
        """The highest event number ever given; 0 before the first."""
        return self._journal.last("event")

    def stream(self, wearable: str) -> StreamRecord | None:
        """None before anything of this wearable was derived. Without a snapshot yet its row and version are 0."""
        return self._journal.stream(wearable)

    def journal_after(self, wearable: str, row: int) -> Iterator[JournalRow]:
        """This wearable's rows behind `row`, in order; read piece by piece, so that a long journal needs no memory."""
        return self._journal.after(wearable, row)

    def cursor(self, destination: str) -> Cursor | None:
        return read_cursor(self._journal.connection, self.settings.path, destination)

    def events(self) -> EventLog:
        """A reader with a connection of its own, which the caller closes."""
        return EventLog(self.settings.path)

    def close(self) -> None:
        """After the Writer has been closed."""
        _note(self._lock, b"")  # before its log goes
        self._journal.close()
        self.connection.close()
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _lock(path: Path) -> IO[bytes]:
    """Two writers would give the same row numbers. The lock ends with the process, however that ends."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.with_name(path.name + ".lock")
        file.touch()
        lock = file.open("r+b")
    except OSError as error:
        raise StoreUnavailable(path, error.strerror) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise StoreInUse(path) from None
    return lock


def _note(lock: IO[bytes], state: bytes) -> None:
    """Whether a writer is at work, for the opening after the next power cut."""
    lock.seek(0)
    lock.truncate()
    lock.write(state)
    lock.flush()
    os.fsync(lock.fileno())


def _refuse_newer(path: Path) -> None:
    """Before anything writes, if only what lies in its log. Raises StoreTooNew."""
    if not path.exists():
        return
    try:
        check_database(path)
    except StoreTooNew:
        raise
    except GatewayError:  # is met again, and told or mended
        return


def _is_damaged(path: Path, on_mending: Callable[[], None]) -> bool:
    """Looks at all of it only where there is reason to."""
    if not path.exists() or path.stat().st_size == 0:
        return False
    if not suspected(path).exists() and not is_cut_off(path):
        return False
    on_mending()
    whole = looks_whole(path)
    if whole:
        suspected(path).unlink(missing_ok=True)
    return not whole


def _mend(path: Path, now: Instant, on_mending: Callable[[], None]) -> str:
    """Makes a new one with what can be read of it, and sets it aside. Raises OSError or sqlite3.Error.

    Whoever is killed meanwhile has the next start begin anew with the damaged one, or go on with the new one.
    """
    log.warning("store %s: damaged; what can be read of it is taken over, which may take minutes", path)
    on_mending()
    new = mending(path)
    clear(new)
    with closing(_open(new)) as connection:
        saved = salvage(path, connection)
        busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if busy or logged(new):
        raise StoreUnavailable(new, "what was saved does not reach it")
    new.rename(mended(path))
    _sync_folder(path.parent)
    return _put_in_place(path, now, str(saved))


def _put_in_place(path: Path, now: Instant | None, saved: str) -> str:
    """In words. Raises OSError; StoreCorrupt without the time."""
    if now is None:
        raise StoreCorrupt(path, "it is being mended, which a start of the daemon ends")
    aside = set_aside(path, now)
    _sync_folder(path.parent)
    mended(path).rename(path)
    _sync_folder(path.parent)
    kept = f"kept as {aside.name}" if aside.exists() else "set aside"  # by the start before
    return f"the database was damaged and is {kept}; {saved}"


def _open(path: Path) -> sqlite3.Connection:
    connection = connect(path, read_only=False)
    try:
        version, empty = _known(path, connection)
        if empty:  # only before the first table is made
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        tune_for_writing(connection)
        if version < SCHEMA_VERSION:
            from gateway.store.migrations import migrate

            migrate(connection, APPLICATION_ID)
            # what looks at the file alone, such as file(1), knows from now on whose it is
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            _sync_folder(path.parent)
    except BaseException:
        connection.close()
        raise
    return connection


def _known(path: Path, connection: sqlite3.Connection) -> tuple[int, bool]:
    """Version and whether nothing is in it yet. Raises StoreForeign or StoreTooNew."""
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    application_id = int(connection.execute("PRAGMA application_id").fetchone()[0])
    empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    if not empty and application_id != APPLICATION_ID:
        raise StoreForeign(path)
    if version > SCHEMA_VERSION:
        raise StoreTooNew(path, version, SCHEMA_VERSION)
    return version, empty


def check_database(path: Path) -> int:
    """Whether a daemon can open the file, which may be in use; its version. Nothing is changed.

    Where a write-ahead log lies beside it, that may hold a newer header. Where none does, SQLite is told that nobody
    writes (https://www.sqlite.org/uri.html, "immutable"), so that it makes no files beside it.
    Raises StoreForeign, StoreTooNew, StoreCorrupt or StoreUnavailable.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(len(_MAGIC))
        immutable = not logged(path)
    except OSError as error:
        raise StoreUnavailable(path, error.strerror) from error
    if magic not in (b"", _MAGIC):
        raise StoreForeign(path)
    with errors_in_words(path), closing(connect(path, read_only=True, immutable=immutable)) as connection:
        return _known(path, connection)[0]


def check_readable(path: Path) -> None:
    """Whether it can be read as it is, too. Raises StoreTooOld, and what check_database raises."""
    version = check_database(path)
    if version < SCHEMA_VERSION:
        raise StoreTooOld(path, version, SCHEMA_VERSION)


def _sync_folder(folder: Path) -> None:
    """A new file's name is on the medium only when its folder is (fsync(2))."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
