"""What a conversion promises of its default variant, on the real model and windows that nothing has seen: minutes."""

from pathlib import Path

import numpy as np
import pytest

from converter.convert import VariantName, convert
from converter.parity import CLEAR_MARGIN, keras_probabilities, margins, random_windows, variant_probabilities
from converter.training_config import TrainingConfig, read_training_config
from gateway.motion.samples import Float32

pytestmark = [
    pytest.mark.soak,
    pytest.mark.real_data,
    pytest.mark.timeout(3600),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

BYTES_MAX = {0: 580_000}
"""With the windows that a conversion searches on unless it is told otherwise."""
BYTES_MAX_OTHERS = 600_000
"""With others chance decides of a weight of 20 kB more or less."""
AGREEMENT_MIN = 0.998
FRESH_WINDOWS, FRESH_SEED = 3000, 990_001


@pytest.fixture(scope="module")
def model(real_data: Path) -> Path:
    return real_data / "model" / "pretrained_1dcnn_bilstm.keras"


@pytest.fixture(scope="module")
def config(real_data: Path) -> TrainingConfig:
    return read_training_config(real_data / "model" / "config.json", window=200, channels=6, classes=11)


@pytest.fixture(scope="module")
def fresh(model: Path, config: TrainingConfig) -> tuple[Float32, Float32]:
    """Walks of a seed that no conversion uses, and what Keras answers to them."""
    windows = random_windows(FRESH_WINDOWS, window=200, config=config, seed=FRESH_SEED)
    return windows, keras_probabilities(model, windows, config)


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 4])
def test_the_default_variant_is_small_and_says_what_keras_says(seed, model, real_data, fresh, tmp_path):
    """Whichever windows the search was made on."""
    bundle = convert(model, real_data / "model" / "config.json", tmp_path / "bundle", seed=seed)
    assert bundle.manifest.default_variant == VariantName.MIXED, bundle.manifest.default_reason
    assert bundle.manifest.variants[VariantName.MIXED].size <= BYTES_MAX.get(seed, BYTES_MAX_OTHERS)
    windows, keras = fresh
    same = variant_probabilities(bundle.model_file(), windows).argmax(axis=1) == keras.argmax(axis=1)
    assert same[margins(keras) > CLEAR_MARGIN].all()
    assert np.mean(same) >= AGREEMENT_MIN
