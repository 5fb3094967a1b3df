"""What lasts is told, and once."""

import pytest

from gateway.link.trouble import LASTING_S, Obstacle, Patience, Trouble

AWAY, BLOCKED = Trouble(Obstacle.ADAPTER_AWAY, "no adapter"), Trouble(Obstacle.ADAPTER_AWAY, "rfkill blocks it")
REFUSED = Trouble(Obstacle.REFUSED, "forgotten")


def told(*found: tuple[float, Trouble | None], before: Trouble | None = None) -> list[tuple[float, Trouble | None]]:
    """What is told when, of what is found at these times, in s."""
    patience, last, tellings = Patience(), before, []
    for now_s, trouble in found:
        if patience.is_due(trouble, last, now_s):
            last = trouble
            tellings.append((now_s, trouble))
    return tellings


@pytest.mark.parametrize("obstacle", ["adapter_away", "adapter_full", "held", "unheard"])
def test_what_passes_by_itself_is_told_once_it_has_lasted(obstacle):
    trouble = Trouble(Obstacle(obstacle), "so")
    seconds = [(float(s), trouble) for s in range(200)]
    assert told(*seconds) == [(LASTING_S, trouble)]
    assert told(*seconds[:60]) == []


@pytest.mark.parametrize("obstacle", ["refused", "unpaired", "quarantined"])
def test_what_has_lasted_already_is_told_at_once(obstacle):
    trouble = Trouble(Obstacle(obstacle), "so")
    assert told((3.0, trouble), (4.0, trouble), (900.0, trouble)) == [(3.0, trouble)]


def test_an_adapter_that_comes_and_goes_is_no_news():
    assert told(*((s, AWAY if s % 59 else None) for s in map(float, range(1000)))) == []


def test_what_is_over_is_told_once_that_has_lasted_too():
    gone = [(10.0 + s, None) for s in range(100)]
    assert told((0.0, REFUSED), *gone) == [(0.0, REFUSED), (10.0 + LASTING_S, None)]
    assert told((0.0, REFUSED), (10.0, None), (60.0, REFUSED), (80.0, None)) == [(0.0, REFUSED)]


def test_another_reason_is_told_anew():
    seconds = [(float(s), AWAY if s < 100 else BLOCKED) for s in range(200)]
    assert told(*seconds) == [(60.0, AWAY), (160.0, BLOCKED)]


def test_what_was_told_before_a_restart_is_not_told_again():
    assert told(*((float(s), AWAY) for s in range(100)), before=AWAY) == []
    assert told(*((float(s), None) for s in range(100)), before=AWAY) == [(60.0, None)]
