"""Who goes first, and how fast what is not new may go."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.sync.lanes import BURST_S, IN_ORDER_MAX, RANGES_MAX, Pace, is_backlog, replay_room

RATES = st.none() | st.floats(0.5, 1000)


@given(
    messages_s=RATES,
    bytes_s=st.none() | st.floats(100, 1e6),
    steps=st.lists(st.tuples(st.floats(0, 3), st.integers(1, 60_000)), min_size=1, max_size=60),
)
def test_no_span_of_time_has_more_than_its_share_whatever_the_sizes_and_pauses(
    messages_s: float | None, bytes_s: float | None, steps: list[tuple[float, int]]
) -> None:
    pace, now_s, gone = Pace(messages_s, bytes_s), 100.0, list[tuple[float, int]]()
    for pause_s, size in steps:
        now_s = max(now_s + pause_s, pace.due_s())
        pace.spent(now_s, size)
        gone.append((now_s, size))
    for first, (since_s, _) in enumerate(gone):
        for last in range(first, len(gone)):
            span_s, part = gone[last][0] - since_s, gone[first : last + 1]
            if messages_s is not None:
                assert len(part) <= (span_s + BURST_S) * messages_s + 1 + 1e-6
            if bytes_s is not None:
                assert sum(size for _, size in part[:-1]) <= (span_s + BURST_S) * bytes_s + 1e-3


def test_without_a_limit_all_may_go_at_once_and_with_one_it_is_used_to_the_full() -> None:
    free, paced = Pace(), Pace(messages_s=50)
    now_s = 7.0
    for _ in range(1000):
        free.spent(now_s, 10**6)
    assert free.due_s() <= now_s
    for _ in range(500):
        now_s = max(now_s, paced.due_s())
        paced.spent(now_s, 1)
    assert 500 / 50 - BURST_S - 0.04 <= now_s - 7.0 <= 500 / 50


@pytest.mark.parametrize(
    ("waiting", "ranges", "messages_s", "bytes_s", "is_one"),
    [
        (IN_ORDER_MAX, 0, None, None, False),
        (IN_ORDER_MAX + 1, 0, None, None, True),
        (10**6, RANGES_MAX, None, None, True),
        (10**6, RANGES_MAX + 1, None, None, False),
        (101, 0, 100.0, None, True),
        (100, 0, 100.0, None, False),
        (6, 0, None, 5000.0, True),
        (IN_ORDER_MAX + 1, 0, 10_000.0, None, True),
    ],
)
def test_many_that_wait_let_newer_ones_pass_unless_the_cursor_would_grow(
    waiting: int, ranges: int, messages_s: float | None, bytes_s: float | None, is_one: bool
) -> None:
    assert is_backlog(waiting, ranges, messages_s, bytes_s) is is_one


@given(window=st.integers(1, 1000), under_way=st.integers(0, 1000))
def test_what_is_new_always_finds_room_but_for_what_is_new_itself(window: int, under_way: int) -> None:
    room = max(0, window - under_way)
    may = replay_room(room, window)
    assert may <= room
    if window > 1 and may > 0:
        assert room - may >= max(1, window // 10)
    if under_way == 0:
        assert may >= min(1, 0.8 * window if window > 2 else 1)
