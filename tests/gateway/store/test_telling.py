"""What is told of drops: at once, then seldom; to people for a day."""

from gateway.store.rows import Dropped
from gateway.store.telling import AGAIN_NS, RECENT_NS, Telling, report_of, sentence
from gateway.store.writer import Fill
from tests.gateway.store.conftest import at

HOUR_S = AGAIN_NS / 1e9
UTC = 1_800_000_000 * 10**9


def dropped(count: int) -> Dropped:
    return Dropped("prediction", "left", "bytes", count, 1_500_000, UTC, UTC + 3600 * 10**9)


def fill(*lost: Dropped, takes: bool = True) -> Fill:
    return Fill({"journal": 1, "event": 2}, {"journal": 10, "event": 20}, takes, takes, lost)


def test_a_drop_is_told_at_once_and_what_goes_on_once_an_hour_with_all_of_it() -> None:
    telling = Telling((), ())
    assert telling.due(fill(), at(0)) is None
    first = telling.due(fill(dropped(5)), at(10))
    assert first is not None
    assert first.dropped[0].model_dump() == {
        "kind": "prediction",
        "wearable": "left",
        "reason": "bytes",
        "count": 5,
        "bytes": 1_500_000,
        "oldest": "2027-01-15T08:00:00.000000Z",
        "newest": "2027-01-15T09:00:00.000000Z",
    }
    assert telling.due(fill(dropped(7)), at(20)) is None
    assert telling.due(fill(dropped(9)), at(9 + HOUR_S)) is None
    again = telling.due(fill(dropped(12)), at(11 + HOUR_S))
    assert again is not None
    assert again.dropped[0].count == 12
    assert telling.due(fill(dropped(12)), at(3 * HOUR_S)) is None


def test_being_full_and_being_so_no_longer_are_told_at_once() -> None:
    telling = Telling((), ())
    assert telling.due(fill(), at(0)) is None
    full = telling.due(fill(takes=False), at(1))
    assert full is not None
    assert full.status == "full"
    assert telling.due(fill(takes=False), at(2)) is None
    free = telling.due(fill(), at(3))
    assert free is not None
    assert free.status == "ok"


def test_what_an_earlier_start_has_told_is_not_told_again() -> None:
    telling = Telling((), (dropped(5),))
    assert telling.due(fill(dropped(5)), at(0)) is None
    assert telling.sentences(at(1)) == []
    assert telling.due(fill(dropped(6)), at(2)) is not None


def test_people_are_told_for_a_day_what_was_dropped_and_what_was_found() -> None:
    telling = Telling(("the database was corrupted",), ())
    state = telling.due(fill(), at(0))
    assert state is not None
    assert state.findings == ("the database was corrupted",)
    telling.due(fill(dropped(5)), at(10))
    said = "5 prediction events of left dropped for the bound of bytes, 1.5 MB, 2027-01-15T08:00 to 2027-01-15T09:00"
    assert telling.sentences(at(20)) == [said, "the database was corrupted"]
    assert telling.sentences(at(15 + RECENT_NS / 1e9)) == []


def test_the_report_is_what_the_store_holds() -> None:
    state = report_of(fill(takes=False), ())
    assert (state.status, state.used, state.bound) == ("full", {"journal": 1, "event": 2}, {"journal": 10, "event": 20})
    one = Dropped("observation", "gone", "age", 3, 100, UTC, UTC)
    assert sentence(one).startswith("3 observations of gone dropped for their age, 0.0 MB")
