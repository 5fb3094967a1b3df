"""Events as they are stored: one is much like those before it, so that it is kept as what it differs in.

A packed message is a zlib stream (RFC 1950) of topic, source, id and payload, a line each, with a preset dictionary:
messages of the same store, kept in its table `dictionary` under their Adler-32, by which the stream names it (DICTID).
The Adler-32 at its end finds what has been damaged. What is retained is rare, and stands there as it is.
"""

import sqlite3
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gateway.store.rows import LoggedEvent

DICTIONARY_BYTES_MAX = 4096
LEARN_UP_TO_BYTES = DICTIONARY_BYTES_MAX // 2
"""A longer one would leave no room for what is there, and resembles itself enough."""
LEARN_ABOVE = 0.35
"""A message that takes more of its length than this is unlike the dictionary, and becomes part of the next."""
LEARN_AFTER = 500
"""Messages between two dictionaries: some resemble nothing."""
DICTIONARIES_KNOWN = 64
"""By a reader, in memory: events are read in their order, so that most need the same few."""
_WINDOW_BITS = 13
"""Twice the dictionary: a message still reaches all of it."""

COLUMNS = (
    "e.kind, e.wearable, e.source, e.id, e.topic, e.payload, e.created_ns, b.id, e.retain, e.seq "
    "FROM event e JOIN boot b USING (boot)"
)


class StoredEvent(NamedTuple):
    """Columns of an event that differ from what it says: names are within the payload where that is packed."""

    source: str
    id: str
    topic: str
    payload: bytes


@dataclass(slots=True)
class Packer:
    """Of one writer. dictionary: the newest of its store."""

    dictionary: bytes = b""
    _since: int = field(default=0, init=False)

    @classmethod
    def of(cls, connection: sqlite3.Connection) -> "Packer":
        row = connection.execute("SELECT content FROM dictionary ORDER BY since DESC LIMIT 1").fetchone()
        return cls(bytes(row[0]) if row else b"")

    def pack(self, events: Iterable[LoggedEvent]) -> tuple[list[StoredEvent], dict[int, bytes]]:
        """As they are to be stored, and new dictionaries by the place of the first event that needs each."""
        stored: list[StoredEvent] = []
        learnt: dict[int, bytes] = {}
        for event in events:
            text = _text(event)
            if text is None:
                stored.append(StoredEvent(event.source, event.id, event.topic, event.payload))
                continue
            packed = _deflated(text, self.dictionary)
            self._since += 1
            unlike = len(packed) > LEARN_ABOVE * len(text) and self._since >= LEARN_AFTER
            if (unlike or not self.dictionary) and len(text) <= LEARN_UP_TO_BYTES:
                self.dictionary, self._since = (self.dictionary + text)[-DICTIONARY_BYTES_MAX:], 0
                learnt[len(stored)] = self.dictionary
                packed = _deflated(text, self.dictionary)
            stored.append(StoredEvent("", "", "", packed))
        return stored, learnt


def copy_dictionaries(connection: sqlite3.Connection) -> None:
    """Those that have none yet. Some time after they were made, so that the copy lies elsewhere in the file."""
    connection.execute(
        "INSERT INTO dictionary_copy SELECT * FROM dictionary WHERE since NOT IN (SELECT since FROM dictionary_copy)"
    )


def drop_dictionaries(connection: sqlite3.Connection) -> None:
    """Those that the next one had followed before the oldest event that is left."""
    for table in ("dictionary", "dictionary_copy"):
        connection.execute(
            f"DELETE FROM {table} WHERE since < (SELECT max(since) FROM dictionary WHERE since <= "
            "(SELECT min(seq) FROM event))"
        )


class Messages:
    """Reads events of one connection; knows the dictionaries that it has needed last."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._dictionaries: dict[int, bytes] = {}

    def read(self, sql: str, *values: Any) -> list[LoggedEvent]:
        """sql: asks for COLUMNS. Raises ValueError where a message is damaged; sqlite3.Error."""
        # as a whole: once they are deleted by a writer so is their dictionary
        self._connection.execute("BEGIN")
        try:
            return [self.event(row) for row in self._connection.execute(sql, values).fetchall()]
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def event(self, row: Any) -> LoggedEvent:
        """Of a row of COLUMNS. Raises ValueError where its message is damaged; sqlite3.Error."""
        kind, wearable, source, identity, topic, payload, created_ns, boot_id, retain, seq = row
        if not topic:
            topic, source, identity, payload = self.unpacked(payload)
        return LoggedEvent(kind, wearable, source, identity, topic, payload, created_ns, boot_id, bool(retain), seq)

    def unpacked(self, packed: bytes) -> tuple[str, str, str, bytes]:
        """Topic, source, id and payload."""
        dictionary = self._dictionary(int.from_bytes(packed[2:6], "big")) if _names_one(packed) else b""
        try:
            inflation = zlib.decompressobj(zdict=dictionary)
            text = inflation.decompress(packed)
        except zlib.error as error:
            raise ValueError(f"a message that is damaged: {error}") from error
        if not inflation.eof or inflation.unused_data:
            raise ValueError("a message that is cut off")
        topic, source, identity, payload = text.split(b"\n", 3)
        return topic.decode(), source.decode(), identity.decode(), payload

    def _dictionary(self, number: int) -> bytes:
        dictionary = self._dictionaries.get(number)
        if dictionary is None:
            row = self._connection.execute("SELECT content FROM dictionary WHERE id = ?", (number,)).fetchone()
            if row is None:
                raise ValueError("a message whose dictionary is not there")
            if len(self._dictionaries) >= DICTIONARIES_KNOWN:
                del self._dictionaries[next(iter(self._dictionaries))]
            dictionary = self._dictionaries[number] = bytes(row[0])
        return dictionary


def dictionary_id(dictionary: bytes) -> int:
    """As zlib computes it (RFC 1950, DICTID)."""
    return zlib.adler32(dictionary)


def _text(event: LoggedEvent) -> bytes | None:
    """None where it stays as it is."""
    names = event.topic, event.source, event.id
    if event.retain or not event.topic or any("\n" in name for name in names):
        return None
    return b"\n".join((*(name.encode() for name in names), event.payload))


def _names_one(packed: bytes) -> bool:
    """FDICT of RFC 1950; not set where the dictionary is empty."""
    return len(packed) > 1 and bool(packed[1] & 0x20)


def _deflated(text: bytes, dictionary: bytes) -> bytes:
    deflation = zlib.compressobj(wbits=_WINDOW_BITS, zdict=dictionary)
    return deflation.compress(text) + deflation.flush()
