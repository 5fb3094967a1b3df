"""SQLite: the journal of observations, the event log with cursors, snapshots and progress; one writer thread."""

from gateway.store.eventlog import EventLog
from gateway.store.journal import Journal
from gateway.store.settings import StoreSettings
from gateway.store.store import Store
from gateway.store.writer import Committed, Committer, Writer

__all__ = ["Committed", "Committer", "EventLog", "Journal", "Store", "StoreSettings", "Writer"]
