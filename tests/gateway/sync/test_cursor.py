"""The cursor against a set of acknowledged numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.store.rows import Cursor
from gateway.sync.cursor import CursorState

SEQS = st.integers(1, 30)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ack"), SEQS, st.none()),
        st.tuples(st.just("absent"), SEQS, st.integers(0, 6)),
        st.tuples(st.just("rewind"), SEQS, st.none()),
        st.tuples(st.just("store"), st.none(), st.none()),
    )
)


@given(STEPS)
def test_whatever_is_acknowledged_in_whatever_order_the_cursor_says_exactly_that(
    steps: list[tuple[str, int, int]],
) -> None:
    state, known = CursorState("broker"), set[int]()
    for step, seq, length in steps:
        if step == "ack":
            state.acknowledge(seq)
            known.add(seq)
        elif step == "absent":
            state.absent(seq, seq + length)
            known |= set(range(seq, seq + length))
        elif step == "rewind":
            known = {n for n in known if n <= seq}
            state.rewind(seq)
        else:
            cursor = state.cursor()
            state = CursorState.of("broker", Cursor.of("broker", cursor.text()))
        assert {n for n in range(1, 40) if state.has(n)} == known
        assert state.position + 1 not in known
        for n in range(1, 40):
            assert state.open_from(n) == next(m for m in range(n, 80) if m not in known)
        assert all(
            first > before + 1
            for before, (first, _) in zip([state.position, *[e for _, e in state.beyond]], state.beyond, strict=False)
        )
        assert state.acknowledged == len(known)
        assert state.waiting(40) == 40 - len(known)


def test_the_cursor_that_is_stored_has_position_and_the_ranges_beyond() -> None:
    state = CursorState("broker")
    for seq in (1, 2, 4, 5, 6, 8):
        state.acknowledge(seq)
    assert state.cursor() == Cursor("broker", 2, ((4, 6), (8, 8)))
    assert state.cursor().text() == "2 4-6 8"
    state.acknowledge(3)
    assert state.cursor() == Cursor("broker", 6, ((8, 8),))


def test_what_an_earlier_version_stored_is_numbers_alone() -> None:
    assert CursorState.of("broker", Cursor.of("broker", "2 4 5 6 8")).cursor() == Cursor("broker", 2, ((4, 6), (8, 8)))
    with pytest.raises(ValueError, match="invalid literal"):
        Cursor.of("broker", "2 4 five")


def test_many_acknowledged_out_of_order_are_stored_in_a_few_bytes() -> None:
    state = CursorState("broker", 10)
    for seq in range(100_000, 150_000):
        state.acknowledge(seq)
    for seq in range(12, 50_000):
        state.acknowledge(seq)
    assert state.cursor().text() == "10 12-49999 100000-149999"


def test_a_destination_without_a_cursor_has_acknowledged_nothing() -> None:
    assert CursorState.of("broker", None).cursor() == Cursor("broker", 0)
