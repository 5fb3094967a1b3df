"""A small bundle, whose .tflite files are any bytes: nothing in this room runs them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.bundle import Bundle, Manifest, write_bundle
from gateway.bundle.writing import member

FILES = {
    "float32.tflite": bytes(range(256)) * 3,
    "dynamic.tflite": b"\x00\x01",
    "model_card.md": b"# Learnt from nobody\n",
}
PARITY = {"windows": 300, "seed": 1, "top1_agreement": 1.0, "dp_max": 1e-05, "dp_p99": 5e-06, "dp_mean": 1e-06}


def content_of(**changes: object) -> dict[str, object]:
    def variant(file: str) -> dict[str, object]:
        return {**member(file, FILES[file]).model_dump(), "parity": PARITY, "operators": {"SOFTMAX": 1}}

    return {
        "model": {"name": "small", "architecture": ["Dense(2, softmax)"], "keras_sha256": "ab" * 32},
        "labels": ["sitting", "nail_biting"],
        "window": 200,
        "hop": 100,
        "rate_hz": 50.0,
        "channels": ["Ax", "Gx"],
        "units": ["m/s^2", "deg/s"],
        "frame": "-y,x,z",
        "preprocessing": {"mean": [0.25, -3.0], "scale": [6.5, 49.9], "source_sha256": "cd" * 32},
        "variants": {"float32": variant("float32.tflite"), "dynamic": variant("dynamic.tflite")},
        "default_variant": "float32",
        "model_card": member("model_card.md", FILES["model_card.md"]).model_dump(),
        "provenance": {"converter_version": "0.1.0", "libraries": {"numpy": "2.4"}},
    } | changes


DISTRIBUTION = {"count": 900, "mean": 0.0, "std": 1.0, "min": -3.0, "max": 3.0, "quantiles": [[0.5, 0.1]]}


def with_reference(sketches: bytes | None = None, **changes: object) -> dict[str, object]:
    """Changes to the content that give it a drift reference of two features, and of labelled data."""
    data: dict[str, object] = {
        "source": "windows",
        "windows": 9,
        "channels": {"Ax": DISTRIBUTION, "Gx": DISTRIBUTION},
        "label_shares": {"sitting": 0.75, "nail_biting": 0.25},
    }
    if sketches is not None:
        data["sketches"] = member("drift_sketches.json", sketches).model_dump()
    features = {"Ax_mean_m_s2": DISTRIBUTION, "Gx_mean_deg_s": DISTRIBUTION | {"of": "samples"}}
    return {"drift_reference": features, "reference_data": data | changes}


@pytest.fixture
def content() -> Callable[..., dict[str, object]]:
    """content(field=value): the manifest's content as plain values, with changes."""
    return content_of


@pytest.fixture
def files() -> dict[str, bytes]:
    return dict(FILES)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write_bundle(tmp_path / "bundle", Manifest.model_validate(content_of()), FILES)
