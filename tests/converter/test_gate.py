import pytest

from converter.gate import choose_default
from gateway.bundle.manifest import Parity, Variant


def parity(agreement: float, windows: int = 3000, **changes: object) -> Parity:
    return Parity(windows=windows, seed=1, top1_agreement=agreement, dp_max=0, dp_p99=0, dp_mean=0, **changes)


def variant(size: int, walks: Parity, **probes: Parity) -> Variant:
    return Variant(file="v.tflite", sha256="0" * 64, size=size, parity=walks, probes=probes, operators={})


EXACT = variant(2000, parity(1), extremes=parity(1, 1000))
POOR = variant(500, parity(0.97), extremes=parity(0.9, 1000))
POOR_CLASS = {"worst_class": "nail_biting", "worst_class_windows": 250, "worst_class_agreement": 0.988}
DEFAULTS = [  # what it shows, variants beside float32, the default, words of the reason
    ("float32 alone", {}, "float32", "the only variant"),
    ("good enough", {"mixed": variant(580, parity(0.998))}, "mixed", "agrees with Keras on 99.80% of 3000 walks"),
    (
        "the smallest of two",
        {"float16": variant(1000, parity(1)), "mixed": variant(580, parity(0.999))},
        "mixed",
        "99.90% of 3000 walks",
    ),
    (
        "the smallest that passes",
        {"mixed": variant(580, parity(0.999)), "dynamic": POOR},
        "mixed",
        "dynamic: agrees with Keras on 97.00% of 3000 walks, 99.8% are asked for",
    ),
    ("none but float32", {"dynamic": POOR}, "float32", "dynamic: agrees with Keras on 97.00% of 3000 walks"),
    (
        "poorer on one set alone",
        {"mixed": variant(580, parity(1), recording=parity(0.997, 1800))},
        "float32",
        "99.70% of 1800 recording, 99.8% are asked for",
    ),
    (
        "poorer in one class alone",
        {"mixed": variant(580, parity(0.999, **POOR_CLASS))},
        "float32",
        "agrees on 98.80% of the walks that are nail_biting, 99% are asked for",
    ),
    ("too few to tell", {"mixed": variant(580, parity(1, 999))}, "float32", "measured on 999 walks, 1000 or more"),
]


@pytest.mark.parametrize(("shows", "others", "default", "words"), DEFAULTS, ids=[row[0] for row in DEFAULTS])
def test_the_gate_picks_the_default(shows, others, default, words):
    name, reason = choose_default({"float32": EXACT, **others})
    assert name == default
    assert words in reason


def test_where_none_passes_the_reason_says_so_and_each_lack_once():
    _, reason = choose_default({"float32": variant(2000, parity(1, 300)), "mixed": variant(580, parity(1, 300))})
    lacks = "measured on 300 walks, 1000 or more are asked for"
    assert reason == f"float32 is the most exact one, and none passes. mixed, float32: {lacks}"
    poor = {
        "float32": variant(2000, parity(1, 300)),
        "mixed": variant(580, parity(0.9)),
        "dynamic": variant(500, parity(1, 300)),
    }
    less = "agrees with Keras on 90.00% of 3000 walks, 99.8% are asked for"
    assert choose_default(poor)[1].endswith(f"none passes. dynamic, float32: {lacks}. mixed: {less}")


def test_what_is_asked_for_can_be_changed():
    variants = {"float32": EXACT, "mixed": variant(580, parity(0.996)), "dynamic": variant(500, parity(0.97))}
    assert [choose_default(variants, min_agreement=least)[0] for least in (0.998, 0.996, 0.97)] == (
        ["float32", "mixed", "dynamic"]
    )
