from hypothesis import given
from hypothesis import strategies as st

from gateway.demo.faults import DOWN_S_MAX, Fault, schedule

LISTS = st.lists(st.sampled_from(Fault), unique=True)
DURATIONS_S = st.floats(5, 3600)


@given(LISTS, DURATIONS_S)
def test_faults_follow_one_another_in_the_order_asked_for_and_leave_time_to_recover(
    faults: list[Fault], duration_s: float
) -> None:
    outages = schedule(faults, duration_s)
    assert [outage.fault for outage in outages] == faults
    last_s = 0.45 * duration_s  # about half-way
    for outage in outages:
        assert last_s <= outage.begin_s + 1e-9 * duration_s
        assert outage.begin_s < outage.end_s
        last_s = outage.end_s
    assert last_s <= 0.9 * duration_s


@given(DURATIONS_S)
def test_a_killed_daemon_is_started_again_soon(duration_s: float) -> None:
    (outage,) = schedule([Fault.KILL], duration_s)
    assert outage.end_s - outage.begin_s <= DOWN_S_MAX + 1e-9 * duration_s
