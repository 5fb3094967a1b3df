"""Going back by time, against all that was acknowledged and when."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.clock import Instant
from gateway.store.rows import Checkpoint
from gateway.sync.checkpoints import MOST, Checkpoints

SPAN_S = 1800.0
STEPS = st.lists(
    st.tuples(
        st.floats(0, 4000),  # seconds until it
        st.integers(0, 50),  # events acknowledged then
        st.sampled_from(["", "", "", "boot", "lost"]),
        st.booleans(),  # whether UTC is right in a boot that begins
    ),
    max_size=60,
)


@given(STEPS)
def test_all_that_was_acknowledged_within_the_span_lies_above_whatever_the_clocks_say(
    steps: list[tuple[float, int, str, bool]],
) -> None:
    made, true_s, booted_s, boot, synced = Checkpoints(SPAN_S), 0.0, 0.0, 0, False
    acknowledged: dict[int, float] = {}
    position = 0

    def now() -> Instant:
        utc_s = 1_800_000_000 + true_s if synced else true_s - booted_s  # 1970 at the start of each boot
        return Instant(f"boot {boot}", int((true_s - booted_s) * 1e9), int(utc_s * 1e9), synced)

    made.take(0, now())
    for wait_s, count, what, right in steps:
        true_s += wait_s
        if what == "boot":
            boot, booted_s, synced = boot + 1, true_s, right
            made = Checkpoints(SPAN_S, made.kept())
        acknowledged |= dict.fromkeys(range(position + 1, position + count + 1), true_s)
        position += count
        if count:
            made.take(position, now())
        if what == "lost":
            back_to, last_s = made.go_back(), max(acknowledged.values(), default=0.0)
            assert all(seq > back_to for seq, s in acknowledged.items() if last_s - s < SPAN_S - 1e-3)
            acknowledged = {seq: s for seq, s in acknowledged.items() if seq <= back_to}
            position = back_to
    positions = [checkpoint.position for checkpoint in made.kept()]
    assert positions == sorted(set(positions))


def test_within_a_boot_it_goes_back_little_further_than_the_span_and_remembers_little() -> None:
    made = Checkpoints(SPAN_S)
    for second in range(0, 36_000, 2):
        made.take(second, Instant("boot", second * 10**9, 0, False))
    assert len(made.kept()) <= 33
    assert 36_000 - 1800 - 62 <= made.go_back() <= 36_000 - 1800


def test_what_was_acknowledged_before_a_trusted_clock_and_a_reboot_stays_acknowledged() -> None:
    known = [Checkpoint(10, Instant("before", 5, 1_800_000_000 * 10**9, True))]
    made = Checkpoints(SPAN_S, [Checkpoint(0, Instant("before", 0, 0, False)), *known])
    made.take(20, Instant("after", 10**9, 1_800_003_600 * 10**9, True))
    assert made.go_back() == 10


def test_a_broker_that_was_away_for_longer_than_the_span_has_lost_what_it_got_before_that() -> None:
    made = Checkpoints(SPAN_S)
    for second in range(0, 7200, 10):
        made.take(second, Instant("boot", second * 10**9, 0, False))
    made = Checkpoints(SPAN_S, made.kept())  # a restart while the broker is away, for hours
    assert 7200 - 1800 - 140 <= made.go_back() <= 7200 - 1800


def test_many_boots_without_a_clock_do_not_fill_the_memory() -> None:
    made = Checkpoints(SPAN_S)
    for boot in range(2000):
        for second in (0, 61, 122):
            made.take(boot * 200 + second, Instant(f"boot {boot}", second * 10**9, 0, False))
    assert len(made.kept()) <= MOST
    assert made.go_back() == 0
