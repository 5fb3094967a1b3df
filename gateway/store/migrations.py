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

    migrations.apply(Database(connection))


def _execute(db: Any, statements: str) -> None:
    """Within the migration's transaction, which executescript() would end."""
    for statement in statements.split(";\n"):
        if statement.strip():
            db.conn.execute(statement)
