"""A small network with the reference's kinds of layers and random weights, in a real bundle."""

from pathlib import Path

import numpy as np
import pytest

from converter.layers import Conv1d, Dense, Flatten, LstmCell, Recurrent
from converter.lowering import lower
from converter.quantize import Storage, dynamic_range, weights_of, with_storage
from gateway.bundle import Bundle, Manifest, write_bundle
from gateway.bundle.writing import member

LABELS = ("sitting", "smoking", "nail_biting")
WINDOW = 40
PARITY = {"windows": 300, "seed": 1, "top1_agreement": 1.0, "dp_max": 0.0, "dp_p99": 0.0, "dp_mean": 0.0}


def small_network(units: int = 6) -> list[Conv1d | Recurrent | Flatten | Dense]:
    rng = np.random.default_rng(7)

    def weights(*shape: int) -> np.ndarray:
        return rng.normal(0, 1 / np.sqrt(shape[-2] if len(shape) > 1 else 1), shape)

    cells = [LstmCell(weights(8, 4 * units), weights(units, 4 * units), weights(4 * units)) for _ in range(2)]
    return [
        Conv1d(weights(2, 6, 8), weights(8), "relu"),
        Recurrent(*cells, sequences=True),
        Flatten(WINDOW - 1),
        Dense(weights(2 * units * (WINDOW - 1), 3), weights(3), "softmax"),
    ]


@pytest.fixture(scope="session")
def models() -> dict[str, bytes]:
    """.tflite files by the name of their variant."""
    exact = lower(small_network(), window=WINDOW, channels=6)
    return {"float32": exact, "dynamic": dynamic_range(exact)}


@pytest.fixture(scope="session")
def every_variant() -> dict[str, bytes]:
    """Likewise, of weights that are large enough to be stored otherwise.

    mixed: in every storage that there is; mixed_expanded: in those that the runtime expands as it loads them.
    """
    exact = lower(small_network(units=16), window=WINDOW, channels=6)
    weights = weights_of(exact)
    halves = {weight.name: Storage.FLOAT16 for weight in weights}
    mixed = {weight.name: weight.choices[-1] for weight in weights}
    mixed |= {weight.name: Storage.FLOAT16 for weight in weights[::2] if Storage.HYBRID not in weight.choices}
    assert set(mixed.values()) == {Storage.FLOAT16, Storage.INT8, Storage.HYBRID}
    expanded = {name: Storage.INT8 if storage is Storage.HYBRID else storage for name, storage in mixed.items()}
    stored = {
        "float16": with_storage(exact, halves),
        "mixed": with_storage(exact, mixed),
        "mixed_expanded": with_storage(exact, expanded),
    }
    return {"float32": exact, **stored, "dynamic": dynamic_range(exact)}


def write(path: Path, models: dict[str, bytes], **changes: object) -> Bundle:
    files = {f"{name}.tflite": content for name, content in models.items()} | {"model_card.md": b"# Random weights\n"}
    content: dict[str, object] = {
        "model": {"name": "small", "architecture": ["Conv1D", "Bidirectional", "Dense"], "keras_sha256": "0" * 64},
        "labels": LABELS,
        "window": WINDOW,
        "hop": WINDOW // 2,
        "rate_hz": 50.0,
        "channels": ["Ax", "Ay", "Az", "Gx", "Gy", "Gz"],
        "units": ["m/s^2"] * 3 + ["deg/s"] * 3,
        "preprocessing": {"mean": [0] * 6, "scale": [1] * 6, "source_sha256": "0" * 64},
        "variants": {
            name: {**member(f"{name}.tflite", data).model_dump(), "parity": PARITY, "operators": {}}
            for name, data in models.items()
        },
        "default_variant": "float32",
        "model_card": member("model_card.md", files["model_card.md"]).model_dump(),
        "provenance": {"converter_version": "0", "libraries": {}},
    }
    return write_bundle(path, Manifest.model_validate(content | changes), files)


@pytest.fixture
def write_small(tmp_path, models):
    """write_small(models=..., field=value): a bundle with other members or another manifest."""
    return lambda models=models, **changes: write(tmp_path / "changed", models, **changes)


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory, models) -> Bundle:
    return write(tmp_path_factory.mktemp("inference") / "small", models)
