"""The cursor against a set of acknowledged numbers."""

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
            state = CursorState.of("broker", state.cursor())
        assert {n for n in range(1, 40) if state.has(n)} == known
        assert state.position + 1 not in known
        assert all(n > state.position + 1 for n in state.beyond)
        assert state.waiting(40) == 40 - len(known)


def test_the_cursor_that_is_stored_has_position_and_what_lies_beyond() -> None:
    state = CursorState("broker")
    for seq in (1, 2, 4, 7):
        state.acknowledge(seq)
    assert state.cursor() == Cursor("broker", 2, frozenset({4, 7}))
    state.acknowledge(3)
    assert state.cursor() == Cursor("broker", 4, frozenset({7}))


def test_a_destination_without_a_cursor_has_acknowledged_nothing() -> None:
    assert CursorState.of("broker", None).cursor() == Cursor("broker", 0)
