"""The schema and its history. Imported only when a database is new or old: sqlite-utils costs 135 ms.

A migration and its record commit together; each sets `PRAGMA user_version`, by which later starts see that none is due.
"""

import sqlite3
from typing import Any

VERSION_1 = """
CREATE TABLE boot (
  boot INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE
);
CREATE TABLE journal (
  row INTEGER PRIMARY KEY AUTOINCREMENT,
  wearable TEXT NOT NULL,
  kind TEXT NOT NULL,
  payload BLOB NOT NULL,
  boot INTEGER NOT NULL REFERENCES boot,
  mono_ns INTEGER NOT NULL,
  utc_ns INTEGER NOT NULL,
  utc_synced INTEGER NOT NULL
);
CREATE TABLE event (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  kind TEXT NOT NULL,
  wearable TEXT,
  source TEXT NOT NULL,
  id TEXT NOT NULL,
  topic TEXT NOT NULL,
  payload BLOB NOT NULL,
  created_ns INTEGER NOT NULL,
  boot INTEGER NOT NULL REFERENCES boot,
  retain INTEGER NOT NULL
);
CREATE UNIQUE INDEX event_name ON event (source, id);
CREATE TABLE progress (
  wearable TEXT PRIMARY KEY,
  progress BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE snapshot (
  wearable TEXT PRIMARY KEY,
  row INTEGER NOT NULL,
  version INTEGER NOT NULL,
  state BLOB NOT NULL
);
CREATE TABLE cursor (
  destination TEXT PRIMARY KEY,
  position INTEGER NOT NULL,
  beyond TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE checkpoint (
  destination TEXT NOT NULL,
  position INTEGER NOT NULL,
  boot INTEGER NOT NULL REFERENCES boot,
  mono_ns INTEGER NOT NULL,
  utc_ns INTEGER NOT NULL,
  utc_synced INTEGER NOT NULL,
  PRIMARY KEY (destination, position)
) WITHOUT ROWID;
CREATE TABLE parked (
  destination TEXT NOT NULL,
  seq INTEGER NOT NULL,
  reason TEXT NOT NULL,
  PRIMARY KEY (destination, seq)
) WITHOUT ROWID;
CREATE TABLE acknowledged (
  position INTEGER PRIMARY KEY,
  boot INTEGER NOT NULL REFERENCES boot,
  mono_ns INTEGER NOT NULL,
  utc_ns INTEGER NOT NULL,
  utc_synced INTEGER NOT NULL
);
CREATE TABLE daemon (
  starts INTEGER NOT NULL
);
INSERT INTO daemon VALUES (0);
"""
"""AUTOINCREMENT: a number is never given twice, also when the rows above it are gone. snapshot is apart from progress:
SQLite writes a row anew as a whole. acknowledged: when every destination had acknowledged all up to position.
checkpoint: when a destination's cursor stood where.
"""

VERSION_2 = """
DROP INDEX event_name;
CREATE TABLE usage (
  content TEXT PRIMARY KEY,
  up_to INTEGER NOT NULL,
  bytes INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO usage VALUES ('journal', 0, 0), ('event', 0, 0);
CREATE TABLE logged (
  position INTEGER PRIMARY KEY,
  boot INTEGER NOT NULL REFERENCES boot,
  mono_ns INTEGER NOT NULL,
  utc_ns INTEGER NOT NULL,
  utc_synced INTEGER NOT NULL
);
CREATE TABLE dropped (
  kind TEXT NOT NULL,
  wearable TEXT NOT NULL,
  reason TEXT NOT NULL,
  count INTEGER NOT NULL,
  bytes INTEGER NOT NULL,
  oldest_ns INTEGER NOT NULL,
  newest_ns INTEGER NOT NULL,
  PRIMARY KEY (kind, wearable, reason)
) WITHOUT ROWID;
"""
"""usage: bytes that the rows up to a number take, as of the last pass of trimming. logged: when the log had reached
which event. dropped: what had to go although it was needed, since the store began; wearable '' is the gateway itself.

event_name, an index of (source, id), wrote a third of all bytes. That no event is committed twice is what progress is
for, which commits with the event; and whether a commit went through whose outcome an error has hidden, the numbers in
sqlite_sequence tell.
"""

VERSION_3 = """
CREATE TABLE connecting (
  destination TEXT PRIMARY KEY
) WITHOUT ROWID;
CREATE TABLE retaken (
  destination TEXT NOT NULL,
  seq INTEGER NOT NULL,
  position INTEGER NOT NULL,
  PRIMARY KEY (destination, seq)
) WITHOUT ROWID;
"""
"""connecting: to whom a connection is being made; what was said of the session has not been acted on yet. retaken: what
was refused and taken later, with the cursor's position then.
"""


VERSION_4 = """
CREATE TABLE latest (
  kind TEXT NOT NULL,
  name TEXT NOT NULL,
  value NOT NULL,
  PRIMARY KEY (kind, name)
) WITHOUT ROWID;
INSERT INTO latest SELECT 'progress', wearable, progress FROM progress;
INSERT INTO latest SELECT 'cursor', destination, trim(position || ' ' || beyond) FROM cursor;
INSERT INTO latest SELECT 'given', name, seq FROM sqlite_sequence WHERE name IN ('journal', 'event');
DELETE FROM sqlite_sequence;
DROP TABLE progress;
DROP TABLE cursor;
CREATE TABLE dictionary (
  since INTEGER PRIMARY KEY,
  id INTEGER NOT NULL,
  content BLOB NOT NULL
);
CREATE TABLE dictionary_copy (
  since INTEGER PRIMARY KEY,
  id INTEGER NOT NULL,
  content BLOB NOT NULL
);
ALTER TABLE journal ADD COLUMN count INTEGER NOT NULL DEFAULT 1;
UPDATE sqlite_master SET sql = replace(sql, ' AUTOINCREMENT', '') WHERE name IN ('journal', 'event');
"""
"""latest: what almost every commit changes, on one page in place of three; "given" is for AUTOINCREMENT, which keeps a
page of its own. dictionary (since: the first event that needs it) and count: see messages.py and blocks.py.
dictionary_copy: made later, elsewhere in the file, since many events need each. Rows of before stay as they are, so
that a store of any size is brought up to date at once.

The schema's text is changed in place: a table with AUTOINCREMENT is laid out as one without.
"""


def migrate(connection: sqlite3.Connection, application_id: int) -> None:
    """Brings a new or old database to the newest version."""
    from sqlite_utils import Database, Migrations

    migrations = Migrations("gateway.store")

    @migrations()
    def version_1(db: Any) -> None:
        _execute(db, VERSION_1)
        db.conn.execute(f"PRAGMA application_id = {application_id}")
        db.conn.execute("PRAGMA user_version = 1")

    @migrations()
    def version_2(db: Any) -> None:
        _execute(db, VERSION_2)
        db.conn.execute("PRAGMA user_version = 2")

    @migrations()
    def version_3(db: Any) -> None:
        _execute(db, VERSION_3)
        db.conn.execute("PRAGMA user_version = 3")

    @migrations()
    def version_4(db: Any) -> None:
        _execute(db, VERSION_4)
        db.conn.execute("PRAGMA user_version = 4")

    connection.execute("PRAGMA writable_schema = ON")  # nothing but version_4 writes there
    try:
        migrations.apply(Database(connection))
    finally:
        connection.execute("PRAGMA writable_schema = RESET")


def _execute(db: Any, statements: str) -> None:
    """Within the migration's transaction, which executescript() would end."""
    for statement in statements.split(";\n"):
        if statement.strip():
            db.conn.execute(statement)
