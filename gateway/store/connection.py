"""SQLite connections of the store, and errors in words."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gateway.store.errors import StoreCorrupt, StoreUnavailable

BUSY_TIMEOUT_MS = 5000
"""A checkpoint by the writer is the longest that a reader waits for; one takes well under a second."""
WAL_BYTES_KEPT = 4 * 1024 * 1024
"""The write-ahead log's file is cut back to this after a checkpoint, which is due when it holds so much."""
PAGE_BYTES = 512
"""Of a new database. Each commit writes a few pages as a whole, most of them for a row or two."""


def connect(path: Path, *, read_only: bool, immutable: bool = False) -> sqlite3.Connection:
    """A connection in autocommit mode, which the caller serialises. Raises sqlite3.Error.

    Writers sync the log at every commit (synchronous=FULL): in WAL mode NORMAL may lose the last commits at a power
    cut (https://www.sqlite.org/pragma.html#pragma_synchronous), and these have been acknowledged to wearables.
    """
    mode = "ro" if read_only else "rwc"
    uri = f"{path.absolute().as_uri()}?mode={mode}{'&immutable=1' if immutable else ''}"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    return connection


def tune_for_writing(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES_KEPT}")
    page_bytes = connection.execute("PRAGMA page_size").fetchone()[0]
    connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_BYTES_KEPT // page_bytes}")
    # Debian's SQLite overwrites what is deleted with zeros; this leaves pages alone that are freed as a whole
    connection.execute("PRAGMA secure_delete = FAST")


SENSELESS = (TypeError, ValueError)
"""What comes of content that is not what was written."""


@contextmanager
def errors_in_words(path: Path) -> Iterator[None]:
    """For opening and reading: turns SQLite's errors into StoreUnavailable or StoreCorrupt."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if is_damage(error):
            suspect(path)
        elif isinstance(error, sqlite3.OperationalError):
            raise StoreUnavailable(path, error) from error
        raise StoreCorrupt(path, error) from error
    except SENSELESS as error:
        suspect(path)
        raise StoreCorrupt(path, f"its content makes no sense ({error})") from error


def is_damage(error: BaseException) -> bool:
    """Whether SQLite says so of the file, and not of the medium or of who may use it; or Python of a text in it."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return isinstance(error, sqlite3.OperationalError) and str(error).startswith("Could not decode to UTF-8")
    return code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def suspected(path: Path) -> Path:
    """Where it lies, the next opening looks at the whole database."""
    return path.with_name(path.name + ".suspect")


def suspect(path: Path) -> None:
    """SQLite has found damage in it; a medium that takes no note of that takes nothing else either."""
    with suppress(OSError):
        suspected(path).touch()
