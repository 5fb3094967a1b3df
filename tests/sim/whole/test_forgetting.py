"""A broker forgets what it has acknowledged, and the gateway is killed at each step of what follows."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.sync import Publisher
from gateway.sync.session import Connection
from tests.sim.whole.broker import NOT_AUTHORIZED
from tests.sim.whole.gateway import Gateway, Parts, Terms
from tests.sim.whole.test_whole import folder
from tests.sim.whole.world import Whole
from tests.sim.world import SECOND

__all__ = ["folder"]

SEED = 1
REWIND_S = 300.0
STEPS = [*range(30), *range(30, 120, 6), *range(120, 300, 30)]
"""After the broker has begun the new session; the commit of what follows is among them."""


class Forgetful(Whole):
    """One wearable without a fault of its own and a subscriber that is away while the broker dies and forgets.

    crash_after: steps from the session that the broker begins then to a kill; None: no kill.
    """

    def __init__(self, folder: Path, parts: Parts | None = None, *, crash_after: int | None, refuses: bool) -> None:
        self.crash_after, self.refuses = crash_after, refuses
        self.died = False
        super().__init__(SEED, folder, hours=0.2, wearables=1, parts=parts)
        (self.gateway,) = self.gateways.values()

    gateway: Gateway

    def _faults(self, rng: object) -> str:
        return ""

    def _terms(self, handover: bool) -> Terms:
        terms = super()._terms(False)
        store: dict[str, Any] = {"commit_interval_s": 2.0}
        sync: dict[str, Any] = {"rewind_s": REWIND_S, "backoff_max_s": 5.0}
        return replace(terms, store=store, stream={}, sync=sync, in_flight_max=20)

    def _plan(self) -> None:
        mood = self.broker.mood
        self._at(50, lambda: self._subscriber(True))
        if self.refuses:  # all of it is tried again at 162 s, in vain, and at 222 s, less than rewind_s before the end
            mood.refused = 1.0
            self._at(100, lambda: setattr(mood, "refusing", NOT_AUTHORIZED))
            self._at(200, lambda: setattr(mood, "refusing", 0))
        self._at(515, self._dies)
        self._at(520, lambda: setattr(mood, "down", False))

    def _at(self, second: float, do: Callable[[], object]) -> None:
        self.clock.after(second * SECOND, do)

    def _dies(self) -> None:
        self.broker.restart(REWIND_S)
        self.broker.mood.down = self.died = True

    def _session_begins(self, name: str) -> None:
        if self.died and self.crash_after is not None:
            self.died = False
            self.clock.after_steps(self.crash_after, lambda: self.gateway.crash(power_cut=False))


def play(folder: Path, steps: int | None, parts: Parts | None = None, *, refuses: bool = False) -> Forgetful:
    """The oracle asks for every window."""
    whole = Forgetful(folder / str(steps), parts, crash_after=steps, refuses=refuses)
    whole.run()
    assert whole.broker.counts.lost_after_puback > 20
    assert whole.gateway.witness.counts["kills"] == (steps is not None)
    return whole


def play_all(folder: Path, parts: Parts | None = None) -> None:
    for steps in STEPS:
        play(folder, steps, parts)


def test_a_kill_at_any_step_after_the_session_was_found_lost_loses_nothing(folder: Path) -> None:
    play_all(folder)


@pytest.mark.parametrize("steps", [None, 10, 100])
def test_what_was_refused_and_taken_later_is_lost_neither(folder: Path, steps: int | None) -> None:
    whole = play(folder, steps, refuses=True)
    assert whole.gateway.witness.counts["refused"] > 5


class BelievesAnySession(Publisher):
    async def _begin(self, connection: Connection) -> None:
        self._session_unknown = False
        await super()._begin(connection)


class ForgetsWhatWasTakenLate(Publisher):
    def _take_back(self, seq: int, *, taken: bool) -> None:
        super()._take_back(seq, taken=False)


def test_a_publisher_that_believes_any_session_is_found(folder: Path) -> None:
    with pytest.raises(AssertionError, match="never received"):
        play_all(folder, Parts(publisher=BelievesAnySession))


def test_a_publisher_that_forgets_what_was_taken_late_is_found(folder: Path) -> None:
    with pytest.raises(AssertionError, match="never received"):
        play(folder, None, Parts(publisher=ForgetsWhatWasTakenLate), refuses=True)
