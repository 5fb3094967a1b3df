"""Age where the clock may have been wrong."""

import pytest

from gateway.store.age import age_s
from tests.gateway.store.conftest import at

NOW = at(100, "now", utc_s=5000)
CASES = [  # what it shows, then, seconds
    ("the same boot goes by monotonic time, whatever UTC said", at(40, "now", utc_s=9e9), 60),
    ("the same boot needs no trusted clock", at(40, "now", synced=False, utc_s=0), 60),
    ("another boot goes by UTC where it was trusted both times", at(70_000, "old", utc_s=1000), 4000),
    ("another boot of unknown time is as old as this boot at least", at(70_000, "old", synced=False, utc_s=1000), 100),
    ("another boot cannot be younger than this one", at(70_000, "old", utc_s=4990), 100),
]


@pytest.mark.parametrize(("shows", "then", "seconds"), CASES, ids=[case[0] for case in CASES])
def test_age(shows: str, then: object, seconds: float) -> None:
    assert age_s(then, NOW) == pytest.approx(seconds)  # type: ignore[arg-type]


def test_where_this_boots_clock_is_not_trusted_only_its_own_length_counts() -> None:
    assert age_s(at(0, "old", utc_s=0), at(7, "now", synced=False, utc_s=9e9)) == pytest.approx(7)
