"""Sets of sample indices against Python's own sets."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.motion.samples import Coverage

RANGES = st.tuples(st.integers(0, 60), st.integers(0, 60))


@given(steps=st.lists(st.tuples(st.booleans(), RANGES), max_size=20))
def test_adding_and_removing_ranges_is_that_of_sets(steps: list[tuple[bool, tuple[int, int]]]) -> None:
    coverage, expected = Coverage(), set()
    for adds, (first, end) in steps:
        if adds:
            coverage.add(first, end)
            expected |= set(range(first, end))
        else:
            coverage.remove(first, end)
            expected -= set(range(first, end))
        assert [i for low, high in coverage.ranges for i in range(low, high)] == sorted(expected)
        assert all(high < low for (_, high), (low, _) in zip(coverage.ranges, coverage.ranges[1:], strict=False))
