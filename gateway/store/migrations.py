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

event_name makes "no event twice" a rule of the database: progress prevents it already, in code that may have faults;
and a commit whose outcome an error has hidden can simply be done again. It costs 28 % more bytes on the medium (two
wearables, a commit every 2 s: 12.6 instead of 9.8 times the payload).
"""


def migrate(connection: sqlite3.Connection, application_id: int) -> None:
    """Brings a new or old database to the newest version."""
    from sqlite_utils import Database, Migrations

    migrations = Migrations("gateway.store")

    @migrations()
    def version_1(db: Any) -> None:
        for statement in VERSION_1.split(";\n"):
            if statement.strip():
                db.conn.execute(statement)
        db.conn.execute(f"PRAGMA application_id = {application_id}")
        db.conn.execute("PRAGMA user_version = 1")

    migrations.apply(Database(connection))
