"""The small values that almost every commit changes.

They lie in one table, so that a commit writes one page for all of them: the progress of each stream (by wearable), the
cursor of each destination, and the highest number ever given (by content).
"""

import sqlite3
from collections.abc import Iterable
from typing import Any, Literal

from gateway.store.bounds import CONTENTS, Content
from gateway.store.rows import Cursor

Kind = Literal["progress", "cursor", "given"]


def put(connection: sqlite3.Connection, kind: Kind, values: Iterable[tuple[str, object]]) -> None:
    connection.executemany(
        "INSERT OR REPLACE INTO latest (kind, name, value) VALUES (?, ?, ?)",
        ((kind, name, value) for name, value in values),
    )


def latest(connection: sqlite3.Connection, kind: Kind) -> dict[str, Any]:
    """By name, in their order. Raises ValueError where one makes no sense."""
    rows = connection.execute("SELECT name, value FROM latest WHERE kind = ? ORDER BY name", (kind,)).fetchall()
    return {name: checked(kind, name, value) for name, value in rows}


def checked(kind: str, name: str, value: Any) -> Any:
    """The value. Raises ValueError where it is none that is ever put there: the column takes any."""
    whole: dict[str, Any] = {"progress": bytes, "cursor": str, "given": int}
    if not isinstance(value, whole.get(kind, ())):
        raise ValueError(f"{kind} of {name}: {value!r}")
    if kind == "cursor":
        Cursor.of(name, value)
    return value


def given(connection: sqlite3.Connection, content: Content) -> int:
    """The highest number ever given, also where its row is gone; 0 before the first. Raises ValueError where it is no
    number."""
    return int(latest(connection, "given").get(content, 0))


def check_given(connection: sqlite3.Connection) -> None:
    """Raises ValueError where a number would be given again that a row has."""
    for content in CONTENTS:
        highest, there = given(connection, content), _highest(connection, _ROWS[content])
        if highest < there:
            raise ValueError(f"given of {content}: {highest}, and {there} is there")


def highest_named(connection: sqlite3.Connection, content: Content) -> int:
    """The highest number that anything tells of, however damaged the rest is. Raises ValueError as cursors()."""
    named = _highest(connection, (*_ROWS[content], *_NAMING[content]))
    ends = [0]
    if content == "event":
        for cursor in cursors(connection).values():
            ends += [cursor.position, *(last for _, last in cursor.beyond)]
    return max(named, *(end for end in ends if end < NUMBER_MAX))


NUMBER_MAX = 1 << 53
"""No store gives as many; one that is higher is damaged."""
_ROWS: dict[Content, tuple[str, ...]] = {
    "journal": ("max(row) FROM journal",),
    "event": ("max(seq) FROM event", "max(since) FROM dictionary"),
}
_NAMING: dict[Content, tuple[str, ...]] = {
    "journal": ("max(row) FROM snapshot",),
    "event": (
        "max(seq) FROM parked",
        "max(seq) FROM retaken",
        "max(position) FROM checkpoint",
        "max(position) FROM acknowledged",
        "max(position) FROM logged",
    ),
}


def _highest(connection: sqlite3.Connection, columns: Iterable[str]) -> int:
    # one by one: within a compound SQLite would read all of a table for the highest number in it
    found = [connection.execute(f"SELECT {column}").fetchone()[0] for column in columns]
    return max((number for number in found if number is not None and number < NUMBER_MAX), default=0)


def cursors(connection: sqlite3.Connection) -> dict[str, Cursor]:
    """Raises ValueError where one makes no sense."""
    return {name: Cursor.of(name, text) for name, text in latest(connection, "cursor").items()}
