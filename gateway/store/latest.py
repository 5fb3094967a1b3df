"""The small values that almost every commit changes.

They lie in one table, so that a commit writes one page for all of them: the progress of each stream (by wearable), the
cursor of each destination, and the highest number ever given (by content).
"""

import sqlite3
from collections.abc import Iterable
from typing import Any, Literal

from gateway.store.bounds import Content
from gateway.store.rows import Cursor

Kind = Literal["progress", "cursor", "given"]


def put(connection: sqlite3.Connection, kind: Kind, values: Iterable[tuple[str, object]]) -> None:
    connection.executemany(
        "INSERT OR REPLACE INTO latest (kind, name, value) VALUES (?, ?, ?)",
        ((kind, name, value) for name, value in values),
    )


def latest(connection: sqlite3.Connection, kind: Kind) -> dict[str, Any]:
    """By name, in their order."""
    rows = connection.execute("SELECT name, value FROM latest WHERE kind = ? ORDER BY name", (kind,)).fetchall()
    return dict(rows)


def given(connection: sqlite3.Connection, content: Content) -> int:
    """The highest number ever given, also where its row is gone; 0 before the first."""
    return int(latest(connection, "given").get(content, 0))


def cursors(connection: sqlite3.Connection) -> dict[str, Cursor]:
    """Raises ValueError where one makes no sense."""
    return {name: Cursor.of(name, text) for name, text in latest(connection, "cursor").items()}
