"""When samples were taken, as events say it, against the simulator's own clock."""

import pytest

from firmware_sim.faults import parse_faults
from gateway.stream.stream import WindowReady
from tests.sim.families import Reference
from tests.sim.world import SECOND, Events, World

WITHIN_NS, AT_FIRST_NS = 5 * 10**6, 10 * 10**6
FROM_S, SETTLED_S = 30, 900
"""By the first the clock has been read once, in a hundred round trips of up to 0.3 s each; by the second the skew, too,
is known well enough not to matter until the next reading."""
HOP_S, RATE_HZ = 2.0, 50.0


@pytest.mark.parametrize("ppm", [-50, 50])
@pytest.mark.parametrize("hours", [0.5, pytest.param(24, marks=pytest.mark.soak)])
def test_windows_of_a_wearable_that_is_asked_its_time_are_placed_within_5_ms(
    ppm: int, hours: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    labelled: list[WindowReady] = []
    made = Events.prediction

    def prediction(self, window, answer):
        labelled.append(window)
        return made(self, window, answer)

    monkeypatch.setattr(Events, "prediction", prediction)
    worn = Reference("wrist", 1)
    world = World([(worn, parse_faults(f"drift={ppm}, jitter=0.1"))], abs(ppm) + (ppm > 0))
    world.run(hours * 3600)
    assert len(labelled) > (hours * 3600 - FROM_S) / HOP_S - 20
    for window in labelled:
        first_s = window.number * HOP_S
        taken_ns = first_s * SECOND / (1 + ppm * 1e-6)
        off_ns = window.taken.mono_ns - taken_ns
        assert abs(off_ns) <= window.taken.uncertainty_ns, f"at {first_s:g} s"
        if first_s >= FROM_S:
            within_ns = WITHIN_NS if first_s >= SETTLED_S else AT_FIRST_NS
            assert abs(off_ns) <= within_ns, f"at {first_s:g} s: {off_ns / 1e6:.1f} ms"
