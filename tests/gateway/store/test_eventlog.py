"""Reads of the event log beside a writer at work."""

import pytest

from gateway.store import EventLog, StoreSettings
from gateway.store.errors import StoreUnavailable
from gateway.store.rows import Checkpoint, Cursor, Derived
from tests.gateway.store.conftest import Opened, at, event


async def test_events_come_in_their_order_and_whole(opened: Opened) -> None:
    submitted = [event(n, wearable="left" if n % 2 else "right", created_s=n) for n in range(1, 8)]
    for made in submitted:
        opened.writer.derived(Derived(made.wearable, (made,)))
    await opened.writer.flush()
    log = opened.store.events()
    found = log.after(0, 100)
    assert [(e.id, e.payload, e.topic, e.source, e.wearable, e.created_ns, e.boot_id) for e in found] == [
        (e.id, e.payload, e.topic, e.source, e.wearable, e.created_ns, e.boot_id) for e in submitted
    ]
    assert [e.seq for e in log.after(2, 3)] == [3, 4, 5]
    assert [e.seq for e in log.of([6, 99, 1])] == [1, 6]
    assert log.last_seq() == 7
    log.close()


async def test_a_reader_sees_what_is_committed_later_and_nothing_before_it_is(opened: Opened) -> None:
    log = opened.store.events()
    opened.writer.derived(Derived(None, (event(1),)))
    assert log.after(0, 10) == []
    await opened.writer.flush()
    assert len(log.after(0, 10)) == 1
    log.close()


async def test_checkpoints_are_replaced_as_a_whole_with_the_cursor_of_their_destination(opened: Opened) -> None:
    first, second = Checkpoint(4, at(1.0)), Checkpoint(7, at(2.0, "another boot", synced=False))
    opened.writer.cursor(Cursor("a", 4), [first])
    opened.writer.cursor(Cursor("a", 5))  # says nothing of checkpoints
    opened.writer.cursor(Cursor("b", 9), [Checkpoint(9, at(3.0))])
    await opened.writer.flush()
    log = opened.store.events()
    assert (log.cursor("a"), log.checkpoints("a")) == (Cursor("a", 5), [first])
    opened.writer.cursor(Cursor("a", 7), [first, second])
    await opened.writer.flush()
    assert log.checkpoints("a") == [first, second]
    opened.writer.cursor(Cursor("a", 4), [first])
    await opened.writer.flush()
    assert (log.checkpoints("a"), log.checkpoints("b")) == ([first], [Checkpoint(9, at(3.0))])
    log.close()


def test_a_log_that_is_not_there_is_an_error_in_words(settings: StoreSettings) -> None:
    with pytest.raises(StoreUnavailable, match="unable to open database file"):
        EventLog(settings.path)
