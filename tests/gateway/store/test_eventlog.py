"""Reads of the event log beside a writer at work."""

import pytest

from gateway.store import EventLog, StoreSettings
from gateway.store.errors import StoreUnavailable
from gateway.store.rows import Derived
from tests.gateway.store.conftest import Opened, event


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


@pytest.mark.parametrize(
    ("seq", "span_s", "back_to"),
    [(8, 25.0, 5), (8, 0.0, 7), (8, 1e9, 2), (3, 10.0, 2), (2, 10.0, 2)],
    ids=["within the span", "no span", "further than the log", "near its beginning", "before its beginning"],
)
async def test_going_back_by_time_ends_at_the_oldest_event_within_the_span(
    opened: Opened, seq: int, span_s: float, back_to: int
) -> None:
    """Events 3 to 10 exist, created every 10 s; 1 and 2 have been deleted."""
    opened.writer.derived(Derived(None, tuple(event(n, created_s=10.0 * n) for n in range(1, 11))))
    await opened.writer.flush()
    opened.store.connection.execute("DELETE FROM event WHERE seq < 3")
    log = opened.store.events()
    assert log.seq_before(seq, span_s) == back_to
    log.close()


def test_a_log_that_is_not_there_is_an_error_in_words(settings: StoreSettings) -> None:
    with pytest.raises(StoreUnavailable, match="unable to open database file"):
        EventLog(settings.path)
