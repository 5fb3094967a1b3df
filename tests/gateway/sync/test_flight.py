"""What the broker's answers mean for what is on its way."""

import pytest

from gateway.store.rows import LoggedEvent
from gateway.sync.flight import SLOW_MAX_S, SLOW_MIN_S, TRIES_MAX, Flight, Verdict


def event(seq: int) -> LoggedEvent:
    return LoggedEvent("prediction", "left", "urn:left", str(seq), "t", b"", 0, "boot", seq=seq)


@pytest.fixture
def flight() -> Flight:
    made = Flight()
    made.connected(8)
    return made


CODES = [  # MQTT 5, 3.4.2.1
    (0x00, "success", Verdict.DONE),
    (0x10, "no matching subscribers", Verdict.DONE),
    (0x80, "unspecified error", Verdict.AGAIN),
    (0x83, "implementation specific error", Verdict.AGAIN),
    (0x87, "not authorized", Verdict.REFUSED),
    (0x90, "topic name invalid", Verdict.REFUSED),
    (0x91, "packet identifier in use", Verdict.AGAIN),
    (0x97, "quota exceeded", Verdict.SLOW_DOWN),
    (0x99, "payload format invalid", Verdict.REFUSED),
]


@pytest.mark.parametrize(("code", "name", "verdict"), CODES, ids=[name for _, name, _ in CODES])
def test_each_reason_code_has_its_meaning(flight: Flight, code: int, name: str, verdict: Verdict) -> None:
    flight.sent(5, event(1))
    answer = flight.answered(5, code, 0.0)
    assert answer == (event(1), verdict)
    assert list(flight.again) == ([event(1)] if verdict in (Verdict.AGAIN, Verdict.SLOW_DOWN) else [])
    assert flight.answered(5, 0, 0.0) is None


def test_no_more_is_sent_than_the_window_takes(flight: Flight) -> None:
    for token in range(8):
        assert flight.room(0.0) == 8 - token
        flight.sent(token, event(token))
    assert flight.room(0.0) == 0
    flight.answered(3, 0, 0.0)
    assert flight.room(0.0) == 1


def test_a_broker_over_its_quota_gets_half_and_a_pause_that_doubles_and_ends_with_success(flight: Flight) -> None:
    pauses, now_s = [], 0.0
    for token in range(8):
        flight.sent(token, event(1))
        flight.answered(token, 0x97, now_s)
        assert flight.room(flight.not_before_s - 0.01) == 0
        assert flight.room(flight.not_before_s) == max(1, 8 >> (token + 1))
        pauses.append(flight.not_before_s - now_s)
        now_s = flight.not_before_s
    assert pauses == [min(SLOW_MIN_S * 2**n, SLOW_MAX_S) for n in range(8)]
    for token in range(100):
        flight.sent(token, event(token))
        flight.answered(token, 0, now_s)
    assert flight.room(now_s) == 8
    flight.sent(0, event(1))
    flight.answered(0, 0x97, now_s)
    assert flight.not_before_s - now_s == SLOW_MIN_S


def test_an_event_that_fails_again_and_again_is_refused_in_the_end(flight: Flight) -> None:
    verdicts = []
    for token in range(TRIES_MAX):
        flight.again.clear()
        flight.sent(token, event(1))
        answer = flight.answered(token, 0x80, 0.0)
        assert answer is not None
        verdicts.append(answer[1])
    assert verdicts == [Verdict.AGAIN] * (TRIES_MAX - 1) + [Verdict.REFUSED]
    assert not flight.again


def test_a_new_connection_begins_with_nothing_on_its_way_and_its_own_window(flight: Flight) -> None:
    flight.sent(1, event(1))
    flight.sent(2, event(2))
    flight.answered(2, 0x97, 0.0)
    flight.connected(3)
    assert (flight.room(0.0), dict(flight.under_way), list(flight.again)) == (3, {}, [])
    assert flight.answered(1, 0, 0.0) is None


def test_what_was_on_its_way_when_the_quota_was_reached_counts_as_one_answer(flight: Flight) -> None:
    for token in range(8):
        flight.sent(token, event(token))
    for token in range(8):
        flight.answered(token, 0x97, 0.0)
    assert (flight.not_before_s, flight.room(SLOW_MIN_S)) == (SLOW_MIN_S, 4)


NOT_AUTHORIZED, TOO_LARGE, SHUTTING_DOWN = 0x87, 0x95, 0x8B


def test_an_event_that_was_alone_when_the_broker_disconnected_over_one_is_the_one(flight: Flight) -> None:
    flight.sent(1, event(1))
    assert flight.cut(TOO_LARGE) == event(1)


def test_several_go_one_by_one_until_it_is_known_which(flight: Flight) -> None:
    for token in (1, 2, 3):
        flight.sent(token, event(token))
    assert flight.cut(NOT_AUTHORIZED) is None
    flight.connected(8)
    flight.sent(1, event(1))
    assert flight.room(0.0) == 0
    flight.answered(1, 0, 0.0)
    flight.sent(2, event(2))
    assert flight.cut(NOT_AUTHORIZED) == event(2)
    flight.connected(8)
    flight.sent(1, event(3))
    assert flight.room(0.0) == 0
    flight.answered(1, 0, 0.0)
    assert flight.room(0.0) == 8


@pytest.mark.parametrize("code", [None, SHUTTING_DOWN])
def test_a_broker_that_hangs_up_without_saying_why_is_blamed_on_an_event_only_after_many_times(
    flight: Flight, code: int | None
) -> None:
    for _ in range(TRIES_MAX - 1):
        flight.sent(1, event(1))
        assert flight.cut(code) is None
        flight.connected(8)
    flight.sent(1, event(1))
    assert flight.cut(code) == event(1)


def test_a_connection_on_which_something_was_answered_is_no_such_time(flight: Flight) -> None:
    for _ in range(3 * TRIES_MAX):
        flight.sent(1, event(1))
        flight.sent(2, event(2))
        flight.answered(2, 0, 0.0)
        assert flight.cut(None) is None
        flight.connected(8)


def test_suspects_that_never_come_again_do_not_slow_everything_for_ever(
    flight: Flight, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.sync.flight.ALONE_MAX", 5)
    for token in (1, 2):
        flight.sent(token, event(token))
    flight.cut(TOO_LARGE)
    flight.connected(8)
    for number in range(3, 8):
        assert flight.room(0.0) == 1
        flight.sent(number, event(number))
        flight.answered(number, 0, 0.0)
    assert flight.room(0.0) == 8
