-- A database as version 4 of the schema left it. Never changed: what newer versions must open.
PRAGMA page_size = 512;
PRAGMA auto_vacuum = 2;
PRAGMA application_id = 1178879828;
PRAGMA user_version = 4;
BEGIN TRANSACTION;
CREATE TABLE "_sqlite_migrations" (
   "id" INTEGER PRIMARY KEY,
   "migration_set" TEXT,
   "name" TEXT,
   "applied_at" TEXT
);
INSERT INTO "_sqlite_migrations" VALUES(1,'gateway.store','version_1','2026-11-23 21:21:29.023203+00:00');
INSERT INTO "_sqlite_migrations" VALUES(2,'gateway.store','version_2','2026-11-28 12:53:12.261886+00:00');
INSERT INTO "_sqlite_migrations" VALUES(3,'gateway.store','version_3','2026-11-28 16:40:12.261886+00:00');
INSERT INTO "_sqlite_migrations" VALUES(4,'gateway.store','version_4','2026-11-28 16:43:44.400593+00:00');
CREATE TABLE acknowledged (
  position INTEGER PRIMARY KEY,
  boot INTEGER NOT NULL REFERENCES boot,
  mono_ns INTEGER NOT NULL,
  utc_ns INTEGER NOT NULL,
  utc_synced INTEGER NOT NULL
);
INSERT INTO "acknowledged" VALUES(1,1,10,20,1);
CREATE TABLE boot (
  boot INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE
);
INSERT INTO "boot" VALUES(1,'boot-a');
CREATE TABLE checkpoint (
  destination TEXT NOT NULL,
  position INTEGER NOT NULL,
  boot INTEGER NOT NULL REFERENCES boot,
  mono_ns INTEGER NOT NULL,
  utc_ns INTEGER NOT NULL,
  utc_synced INTEGER NOT NULL,
  PRIMARY KEY (destination, position)
) WITHOUT ROWID;
INSERT INTO "checkpoint" VALUES('broker',1,1,10,20,1);
CREATE TABLE connecting (
  destination TEXT PRIMARY KEY
) WITHOUT ROWID;
INSERT INTO "connecting" VALUES('broker');
CREATE TABLE daemon (
  starts INTEGER NOT NULL
);
INSERT INTO "daemon" VALUES(4);
CREATE TABLE dictionary (
  since INTEGER PRIMARY KEY,
  id INTEGER NOT NULL,
  content BLOB NOT NULL
);
INSERT INTO "dictionary" VALUES(1,3216643692,X'6669646765742F76312F686F6D652F6C6566742F70726564696374696F6E0A75726E3A6669646765743A7765617261626C653A6C6566740A65310A7B7D');
CREATE TABLE dictionary_copy (
  since INTEGER PRIMARY KEY,
  id INTEGER NOT NULL,
  content BLOB NOT NULL
);
INSERT INTO "dictionary_copy" VALUES(1,3216643692,X'6669646765742F76312F686F6D652F6C6566742F70726564696374696F6E0A75726E3A6669646765743A7765617261626C653A6C6566740A65310A7B7D');
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
INSERT INTO "dropped" VALUES('prediction','left','bytes',3,300,1000,2000);
CREATE TABLE event (
  seq INTEGER PRIMARY KEY,
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
INSERT INTO "event" VALUES(1,'prediction','left','','','',X'58A4BFBA166C4BA3443300BFBA166C',5,1,0);
CREATE TABLE journal (
  row INTEGER PRIMARY KEY,
  wearable TEXT NOT NULL,
  kind TEXT NOT NULL,
  payload BLOB NOT NULL,
  boot INTEGER NOT NULL REFERENCES boot,
  mono_ns INTEGER NOT NULL,
  utc_ns INTEGER NOT NULL,
  utc_synced INTEGER NOT NULL
, count INTEGER NOT NULL DEFAULT 1);
INSERT INTO "journal" VALUES(1,'left','',X'789C6364C9CC4BCB67C00618410400306201B3',1,10,20,0,1);
INSERT INTO "journal" VALUES(2,'left','',X'789C63644D2B4ACC4D65C0069880989109003E4A0217',1,20,30,1,1);
CREATE TABLE latest (
  kind TEXT NOT NULL,
  name TEXT NOT NULL,
  value NOT NULL,
  PRIMARY KEY (kind, name)
) WITHOUT ROWID;
INSERT INTO "latest" VALUES('cursor','broker','1 3');
INSERT INTO "latest" VALUES('given','event',1);
INSERT INTO "latest" VALUES('given','journal',2);
INSERT INTO "latest" VALUES('progress','left',X'7B7D');
CREATE TABLE logged (
  position INTEGER PRIMARY KEY,
  boot INTEGER NOT NULL REFERENCES boot,
  mono_ns INTEGER NOT NULL,
  utc_ns INTEGER NOT NULL,
  utc_synced INTEGER NOT NULL
);
INSERT INTO "logged" VALUES(1,1,10,20,1);
CREATE TABLE parked (
  destination TEXT NOT NULL,
  seq INTEGER NOT NULL,
  reason TEXT NOT NULL,
  PRIMARY KEY (destination, seq)
) WITHOUT ROWID;
INSERT INTO "parked" VALUES('broker',1,'Not authorized');
CREATE TABLE retaken (
  destination TEXT NOT NULL,
  seq INTEGER NOT NULL,
  position INTEGER NOT NULL,
  PRIMARY KEY (destination, seq)
) WITHOUT ROWID;
INSERT INTO "retaken" VALUES('broker',2,1);
CREATE TABLE snapshot (
  wearable TEXT PRIMARY KEY,
  row INTEGER NOT NULL,
  version INTEGER NOT NULL,
  state BLOB NOT NULL
);
INSERT INTO "snapshot" VALUES('left',1,1,X'7B7D');
CREATE TABLE usage (
  content TEXT PRIMARY KEY,
  up_to INTEGER NOT NULL,
  bytes INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO "usage" VALUES('event',1,132);
INSERT INTO "usage" VALUES('journal',2,103);
CREATE UNIQUE INDEX "idx__sqlite_migrations_migration_set_name"
    ON "_sqlite_migrations" ("migration_set", "name");
COMMIT;
