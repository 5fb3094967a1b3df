"""Keras models with random weights (batch normalizations too), saved as .keras once a session, and their JSON.

Keras is imported in the fixtures only: it takes seconds.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

WINDOW = 24


def randomize(model: Any, seed: int) -> None:
    """Weights as large as training makes them, and moments that no fresh normalization has."""
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        values = rng.normal(0, 1.5 / np.sqrt(max(variable.shape[-2:][0], 4)), variable.shape)
        if "variance" in variable.name:
            values = np.exp(rng.normal(0, 2, variable.shape))
        elif "gamma" in variable.name:
            values = rng.normal(1, 0.5, variable.shape)
        elif variable.dtype != "float32":
            continue
        variable.assign(values)


@pytest.fixture(scope="session")
def save(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """save(layers, seed=1): a Sequential of these keras layers, randomized, as a .keras file."""
    folder = tmp_path_factory.mktemp("keras")

    def saved(layers: list[Any], seed: int = 1, shape: tuple[int, int] = (WINDOW, 6)) -> Path:
        import keras

        model = keras.Sequential([keras.Input(shape), *layers])
        randomize(model, seed)
        path = folder / f"{len(list(folder.iterdir()))}.keras"
        model.save(path)
        return path

    return saved


@pytest.fixture(scope="session")
def small_keras(save: Callable[..., Path]) -> Path:
    """The reference's kinds of layers, smaller; four classes."""
    from keras import layers

    return save(
        [
            layers.Conv1D(8, 2, activation="relu"),
            layers.BatchNormalization(),
            layers.Dropout(0.1),
            layers.Bidirectional(layers.LSTM(6, return_sequences=True)),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(5, activation="relu"),
            layers.BatchNormalization(),
            layers.Dense(4, activation="softmax"),
        ]
    )


@pytest.fixture(scope="session")
def reference_keras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference architecture with random weights."""
    from converter.architecture import reference_architecture

    model = reference_architecture(11)
    randomize(model, 2)
    path = tmp_path_factory.mktemp("reference") / "reference.keras"
    model.save(path)
    return path


@pytest.fixture(scope="session")
def small_float() -> bytes:
    """A float32 .tflite of the reference's kinds of layers over (24, 6), with every weight large enough to be stored
    otherwise but those of the convolution and the head."""
    from converter.layers import Conv1d, Dense, Flatten, LstmCell, Recurrent
    from converter.lowering import lower

    rng = np.random.default_rng(7)

    def weights(*shape: int) -> np.ndarray:
        return rng.normal(0, 1 / np.sqrt(shape[-2] if len(shape) > 1 else 1), shape)

    cells = [LstmCell(weights(8, 64), weights(16, 64), weights(64)) for _ in range(2)]
    layers = [
        Conv1d(weights(2, 6, 8) / 3, weights(8), "relu"),
        Recurrent(*cells, sequences=True),
        Flatten(23),
        Dense(weights(32 * 23, 12), weights(12), "relu"),
        Dense(weights(12, 4), weights(4), "softmax"),
    ]
    return lower(layers, window=24, channels=6)


def config_of(classes: int = 4, window: int = WINDOW, **changes: object) -> dict[str, object]:
    labels = [f"activity_{number}" for number in range(classes)]
    content = {
        "window_size": window,
        "step_size": window // 2,
        "target_hz": 50,
        "sensor_cols": ["Ax_w", "Ay_w", "Az_w", "Gx_w", "Gy_w", "Gz_w"],
        "scaler_mean": [3.2, 1.3, -3.5, 0.6, 0.2, 0.1],
        "scaler_scale": [6.6, 4.4, 3.2, 49.9, 14.8, 14.2],
        "label_to_activity": {str(number): name for number, name in enumerate(labels)},
        "activity_to_label": {name: number for number, name in enumerate(labels)},
        "created_at": "another key of the pipeline",
    } | changes
    return {key: value for key, value in content.items() if value is not None}


@pytest.fixture
def write_config(tmp_path: Path) -> Callable[..., Path]:
    """write_config(classes=4, window=..., key=value): the training's JSON; a key that is None is left out."""

    def write(classes: int = 4, window: int = WINDOW, **changes: object) -> Path:
        path = tmp_path / "config.json"
        path.write_text(json.dumps(config_of(classes, window, **changes)))
        return path

    return write
