"""A bundle for any channels, whose answers are known without it."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from converter.layers import Dense, GlobalPool
from converter.lowering import lower
from gateway.bundle import Bundle, Manifest, write_bundle
from gateway.bundle.writing import member

PARITY = {"windows": 300, "seed": 1, "top1_agreement": 1.0, "dp_max": 0.0, "dp_p99": 0.0, "dp_mean": 0.0}


@pytest.fixture
def bundle_of(tmp_path: Path) -> Callable[..., Bundle]:
    """bundle_of(channels, units, window=200): one label a channel; the logits are the channels' means."""

    def write(channels: Sequence[str], units: Sequence[str], window: int = 200) -> Bundle:
        count = len(channels)
        layers = [GlobalPool("average"), Dense(np.eye(count), np.zeros(count), "softmax")]
        model = lower(layers, window=window, channels=count)
        files = {"float32.tflite": model, "model_card.md": b"# Means\n"}
        content = {
            "model": {"name": "means", "architecture": ["Dense"], "keras_sha256": "0" * 64},
            "labels": [f"most_{channel}" for channel in channels],
            "window": window,
            "hop": window // 2,
            "rate_hz": 50.0,
            "channels": channels,
            "units": units,
            "preprocessing": {"mean": [0] * count, "scale": [1] * count, "source_sha256": "0" * 64},
            "variants": {
                "float32": {**member("float32.tflite", model).model_dump(), "parity": PARITY, "operators": {}}
            },
            "default_variant": "float32",
            "model_card": member("model_card.md", files["model_card.md"]).model_dump(),
            "provenance": {"converter_version": "0", "libraries": {}},
        }
        return write_bundle(tmp_path / "means", Manifest.model_validate(content), files)

    return write
