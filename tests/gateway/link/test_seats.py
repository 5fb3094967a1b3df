"""How many wearables an adapter holds, and which adapter a wearable goes to."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.link.rules import FRESH_S
from gateway.link.seats import FULL_S, Seats, Sighting, choose


def test_an_adapter_has_room_up_to_its_limit() -> None:
    seats = Seats(limit=2, held={"a"})
    assert seats.room(0.0) == 1
    seats.held.add("b")
    assert seats.room(0.0) == 0


def test_a_controller_that_takes_no_more_is_believed_for_a_while_and_keeps_what_it_has() -> None:
    seats = Seats(limit=8, held={"a", "b", "one too many"})
    seats.refused("one too many", 100.0)
    seats.held.discard("one too many")
    assert seats.held == {"a", "b"}
    assert (seats.holds(100.0), seats.room(100.0)) == (2, 0)
    seats.held.discard("a")
    assert seats.room(101.0) == 1
    assert seats.room(100.0 + FULL_S) == 7


def test_a_controller_that_others_fill_is_tried_again_with_one() -> None:
    seats = Seats(limit=8, held={"first"})
    seats.refused("first", 0.0)
    seats.held.clear()
    assert seats.room(1.0) == 1


def test_the_adapter_that_hears_it_best_has_it_unless_it_is_full_or_has_heard_it_long_ago() -> None:
    near, far = Sighting("hci0", -40, 100.0), Sighting("hci1", -80, 100.0)
    assert choose([far, near], {"hci0": 1, "hci1": 1}, 100.0) == "hci0"
    assert choose([far, near], {"hci0": 0, "hci1": 1}, 100.0) == "hci1"
    assert choose([far, near], {"hci0": 0, "hci1": 0}, 100.0) is None
    old = Sighting("hci0", -40, 100.0 - FRESH_S - 0.1)
    assert choose([far, old], {"hci0": 1, "hci1": 1}, 100.0) == "hci1"
    assert choose([], {"hci0": 1}, 100.0) is None


@given(st.dictionaries(st.sampled_from("abc"), st.tuples(st.integers(-100, 0), st.integers(0, 3)), min_size=1))
def test_whoever_has_heard_it_and_has_room_takes_it(adapters: dict[str, tuple[int, int]]) -> None:
    sightings = [Sighting(name, rssi_dbm, 0.0) for name, (rssi_dbm, _) in adapters.items()]
    room = {name: left for name, (_, left) in adapters.items()}
    chosen = choose(sightings, room, 0.0)
    assert (chosen is not None) == any(room.values())
    if chosen is not None:
        assert room[chosen] > 0
        assert adapters[chosen][0] == max(rssi for rssi, left in adapters.values() if left)
