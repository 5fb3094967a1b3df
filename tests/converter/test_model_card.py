"""The card of a bundle whose maker gave none says what a reader must know before trusting it, and nothing invented."""

from converter.model_card import model_card
from gateway.bundle.manifest import Parity

PARITY = Parity(windows=3000, seed=1, top1_agreement=0.9987, dp_max=0.02, dp_p99=0.01, dp_mean=0.001)
SHAPE = {"name": "wrist", "labels": ("sitting", "smoking"), "window": 200, "rate_hz": 50.0}


def test_it_says_for_what_and_for_what_not():
    card = model_card(**SHAPE, frame="-y,x,z", parities={"float32": PARITY}, wrist="left")
    for words in (
        "It is no medical device:\nit diagnoses nothing",
        "Classes: sitting, smoking",
        "each window of 4 s (200 samples at 50 Hz",
        "Axes: `-y,x,z`. Wrist: left.",
        "there is no class for everything else",
        "| float32 | 99.87% | 0.02 | 0.01 | 0.001 |",
    ):
        assert words in card
    for section in ("## For what, and for what not", "## What it takes", "## What it learnt from", "## Limits"):
        assert card.count(section) == 1


def test_what_its_maker_did_not_say_is_said_to_be_unknown():
    card = model_card(**SHAPE, frame=None, parities={"float32": PARITY})
    assert "Axes: not stated" in card
    assert "Wrist: not stated" in card
    assert "its maker did not say" in card
    assert "| channel |" not in card


def test_what_the_files_tell_of_the_training_data_is_told():
    card = model_card(
        **SHAPE,
        frame=None,
        parities={"float32": PARITY},
        mean=[3.2199, 1, 2, 3, 4, 5],
        scale=[6.5666, 1, 1, 1, 1, 1],
        reference="17 window features of 3,852 windows",
        label_shares={"sitting": 0.25, "smoking": 0.75},
    )
    assert "| Ax | 3.22 | 6.57 |" in card
    assert "drift is measured against: 17 window features of 3,852 windows." in card
    assert "Labels in that data: sitting 25.0%, smoking 75.0%." in card
