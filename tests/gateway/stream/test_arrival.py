"""The rate that people see is the sensor's, whenever they look and however samples are grouped into frames."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.stream.arrival import OVER_NS, ArrivalRate

FRAME, FRAME_NS = 19, 380_000_000  # 19 samples at 50 Hz


@given(frames=st.integers(2, 60), later_ns=st.integers(0, FRAME_NS))
def test_a_steady_stream_shows_its_rate_at_any_moment(frames: int, later_ns: int) -> None:
    rate = ArrivalRate()
    for n in range(frames):
        rate.observe(n * FRAME_NS, n * FRAME)
    assert abs(rate.hz((frames - 1) * FRAME_NS + later_ns) - 50) < 1e-9


def test_what_came_before_the_last_seconds_does_not_count() -> None:
    rate = ArrivalRate()
    for n in range(20):  # a backlog: ten times as fast
        rate.observe(n * FRAME_NS // 10, n * FRAME)
    began_ns = 19 * FRAME_NS // 10
    assert rate.hz(began_ns) > 400
    for n in range(1, 15):
        rate.observe(began_ns + n * FRAME_NS, (19 + n) * FRAME)
    assert abs(rate.hz(began_ns + 14 * FRAME_NS) - 50) < 1e-9


def test_what_brings_no_samples_is_no_arrival() -> None:
    rate = ArrivalRate()
    assert rate.hz(0) == 0
    rate.observe(0, 19)
    rate.observe(FRAME_NS // 2, 19)
    assert rate.hz(FRAME_NS // 2) == 0
    rate.observe(FRAME_NS, 38)
    rate.observe(FRAME_NS + 1, 38)
    assert rate.hz(FRAME_NS + 2) == 50


def test_a_stream_that_has_ended_has_no_rate() -> None:
    rate = ArrivalRate()
    for n in range(30):
        rate.observe(n * FRAME_NS, n * FRAME)
    assert rate.hz(29 * FRAME_NS + OVER_NS) == 0
