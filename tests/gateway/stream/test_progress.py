"""What is committed since the snapshot survives its encoding."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.stream.progress import Progress

SESSIONS = st.integers(0, 2**64 - 1)


@given(st.lists(st.tuples(SESSIONS, st.integers(0, 50), st.booleans())), st.integers(0, 10**9))
def test_progress_tells_the_same_after_a_restart(done, state_row):
    progress = Progress(state_row=state_row)
    for session, number, window in done:
        (progress.add_window if window else progress.add_period)(session, number)
    again = Progress.decode(progress.encode())
    assert again.state_row == state_row
    for session, number, window in done:
        assert (again.has_window if window else again.has_period)(session, number)
    windows = {(s, n) for s, n, w in done if w}
    for session, _, _ in done:
        assert [n for n in range(51) if again.has_window(session, n)] == sorted(n for s, n in windows if s == session)


def test_nothing_is_committed_before_the_first_event():
    assert not Progress.decode(b"").has_window(1, 0)
