"""Which wearable may be connected, by what is remembered and what the stack holds."""

import pytest

from gateway.link.bonds import Held, Remembered, learnt, may_pair_by_itself, refusal

NONE, YES, NO, UNTOLD = Held(False), Held(True, True), Held(True, False), Held(True, None)
NUMBER, JUST_WORKS, UNKNOWN, FORGOTTEN = Remembered

GONE, DIGITS, ENDED = "the bond is gone from this machine", "paired without digits", "forgotten, and not connected"
CASES = [  # remembered, held, allow_just_works, why not
    (None, NONE, False, None),  # never paired: a wearable that protects nothing
    (None, YES, False, None),
    (None, UNTOLD, False, None),
    (None, NO, False, DIGITS),
    (None, NO, True, None),
    (NUMBER, YES, False, None),
    (NUMBER, UNTOLD, False, None),
    (NUMBER, NONE, False, GONE),
    (NUMBER, NONE, True, GONE),
    (JUST_WORKS, NONE, True, GONE),
    (JUST_WORKS, UNTOLD, False, DIGITS),
    (JUST_WORKS, UNTOLD, True, None),
    (JUST_WORKS, YES, False, None),  # paired again since, by whom the stack vouches for
    (UNKNOWN, UNTOLD, False, None),
    (UNKNOWN, NONE, False, GONE),
    (FORGOTTEN, NONE, True, ENDED),
    (FORGOTTEN, YES, False, ENDED),  # it was paired behind the gateway's back
]


@pytest.mark.parametrize(("remembered", "held", "allowed", "why"), CASES)
def test_who_is_refused_and_why(remembered: Remembered | None, held: Held, allowed: bool, why: str | None) -> None:
    refused = refusal(remembered, held, allowed)
    if why is None:
        assert refused is None
    else:
        assert refused is not None
        assert why in refused
        assert "`gateway pair left`" in refused.format(name="left")


@pytest.mark.parametrize(("held", "known"), [(NONE, None), (YES, NUMBER), (NO, JUST_WORKS), (UNTOLD, UNKNOWN)], ids=str)
def test_a_bond_that_was_made_otherwise_is_remembered_from_now_on(held: Held, known: Remembered | None) -> None:
    assert learnt(None, held) is known
    assert learnt(FORGOTTEN, held) is FORGOTTEN
    assert learnt(NUMBER, held) is NUMBER


def test_only_what_was_never_paired_may_pair_without_an_operator() -> None:
    assert may_pair_by_itself(None, True)
    assert not may_pair_by_itself(None, False)
    assert not any(may_pair_by_itself(remembered, True) for remembered in Remembered)
