import numpy as np
import pytest

from converter.errors import ConversionFailed
from converter.parity import choose_default, compare, random_windows, require_float_parity
from converter.training_config import TrainingConfig
from gateway.bundle.manifest import Parity

CONFIG = TrainingConfig(
    mean=(3.2, 1.3, -3.5, 0.6, 0.2, 0.1),
    scale=(6.6, 4.4, 3.2, 49.9, 14.8, 14.2),
    labels=("a", "b"),
    hop=100,
    rate_hz=50.0,
    sha256="0" * 64,
)


def parity(agreement: float, windows: int = 1000, dp_max: float = 1e-6) -> Parity:
    return Parity(windows=windows, seed=1, top1_agreement=agreement, dp_max=dp_max, dp_p99=0, dp_mean=0)


def test_random_windows_range_far_beyond_the_training_s_and_also_rest():
    windows = random_windows(1000, window=200, config=CONFIG, seed=1)
    assert (windows.shape, windows.dtype) == ((1000, 200, 6), np.float32)
    scaled = (windows - np.array(CONFIG.mean)) / np.array(CONFIG.scale)
    farthest = np.abs(scaled).max(axis=(1, 2))
    assert np.quantile(farthest, 0.1) > 1.5
    assert (farthest > 10).mean() > 0.1
    assert farthest.max() > 30
    still = scaled.std(axis=1).min(axis=1)
    assert (still < 0.1).mean() > 0.1
    assert (np.abs(np.median(scaled, axis=(0, 1))) < 0.3).all()


def test_random_windows_are_those_of_their_seed():
    first, again, other = (random_windows(3, window=20, config=CONFIG, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_parity_figures():
    reference = np.array([[0.6, 0.4], [0.6, 0.4], [0.1, 0.9], [0.5, 0.5]], np.float32)
    ours = np.array([[0.6, 0.4], [0.4, 0.6], [0.1, 0.9], [0.52, 0.48]], np.float32)
    figures = compare(ours, reference, seed=7)
    assert (figures.windows, figures.seed, figures.top1_agreement) == (4, 7, 0.75)
    assert figures.dp_max == pytest.approx(0.2, rel=1e-2)
    assert figures.dp_mean == pytest.approx((0.2 + 0.02) / 4, rel=1e-2)
    assert 0.19 < figures.dp_p99 <= 0.2


def test_a_float_model_that_differs_fails():
    require_float_parity(parity(1.0, dp_max=1e-4))
    with pytest.raises(ConversionFailed, match=r"another top class on 0 of 1000 windows, max \|dp\| 0.0002") as caught:
        require_float_parity(parity(1.0, dp_max=2e-4))
    assert caught.value.exit_code == 1
    with pytest.raises(ConversionFailed, match="another top class on 1 of 1000 windows"):
        require_float_parity(parity(0.999))


DEFAULTS = [  # what it shows, parities, the default, words of the reason
    ("float32 alone", {"float32": parity(1)}, "float32", "the only variant"),
    ("dynamic alone", {"dynamic": parity(0.9)}, "dynamic", "the only variant"),
    ("dynamic as good", {"float32": parity(1), "dynamic": parity(0.998)}, "dynamic", "agrees with Keras on 99.80%"),
    ("dynamic poorer", {"float32": parity(1), "dynamic": parity(0.997)}, "float32", "99.70% of 1000 windows; 99.8% of"),
    ("too few to tell", {"float32": parity(1), "dynamic": parity(1, 300)}, "float32", "of 300 windows; 99.8% of 1000"),
]


@pytest.mark.parametrize(("shows", "parities", "default", "words"), DEFAULTS, ids=[row[0] for row in DEFAULTS])
def test_a_gate_picks_the_default(shows, parities, default, words):
    name, reason = choose_default(parities)
    assert name == default
    assert words in reason
