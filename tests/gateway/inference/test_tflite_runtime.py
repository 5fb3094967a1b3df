"""Both model runtimes, every way of storing weights: what loads, and that no window knows of another.

The predecessor of the runtime has an environment of its own: Python 3.11 and numpy below 2.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from converter.gate import LITERT, TFLITE_RUNTIME, runtimes_of
from gateway.bundle import load_bundle
from gateway.inference import load_predictor

REPOSITORY = Path(__file__).resolve().parents[3]
DEMO = REPOSITORY / "models" / "demo"
EVERY_ORDER = Path(__file__).with_name("every_order.py")


def asked(python: Path | str, folder: Path, models: dict[str, bytes], windows: np.ndarray) -> tuple[dict, dict]:
    """What the runtime of this Python says of itself, and its answers by model and order."""
    for name, content in models.items():
        (folder / f"{name}.tflite").write_bytes(content)
    np.save(folder / "windows.npy", windows)
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([python, EVERY_ORDER, folder], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    answers: dict[str, dict[str, np.ndarray]] = {}
    with np.load(folder / "answers.npz") as file:
        for key in file:
            name, _, order = key.partition(": ")
            answers.setdefault(name, {})[order] = file[key]
    return json.loads(done.stdout), answers


def varied(count: int, *shape: int) -> np.ndarray:
    """Rest, walks of every size, and both ends of what a number can be: (count, *shape), float32."""
    rng = np.random.default_rng(5)
    walks = np.cumsum(rng.normal(size=(count, *shape)), axis=1) * np.geomspace(0.01, 30, count)[:, None, None]
    walks[:4] = np.array([0.0, 9.81, 1e6, -1e6])[:, None, None]
    return walks.astype(np.float32)


def hold_apart(answers: dict[str, dict[str, np.ndarray]]) -> None:
    for name, orders in answers.items():
        assert len(orders) == 10, name
        for order, answered in orders.items():
            np.testing.assert_array_equal(answered, orders["alone"], err_msg=f"{name}: {order}")


@pytest.fixture(params=["ai_edge_litert", "tflite_runtime"])
def runtime(request) -> tuple[str, Callable[..., tuple[dict, dict]]]:
    """Its package, and `asked` by it."""
    old = request.param == "tflite_runtime"
    python = request.getfixturevalue("tflite_runtime_python") if old else sys.executable
    return request.param, lambda *given: asked(python, *given)


def test_a_window_s_answer_depends_on_no_other_in_every_variant_and_runtime(runtime, every_variant, tmp_path):
    """Forwards, backwards, shuffled, and from two threads that share a model or have one each: the same bits."""
    package, ask = runtime
    told, answers = ask(tmp_path, every_variant, varied(16, 40, 6))
    assert told["runtime"] == package
    claim = TFLITE_RUNTIME if package == "tflite_runtime" else LITERT
    claimed = {name for name, content in every_variant.items() if claim in runtimes_of(content)}
    assert claimed == set(answers) == set(every_variant) - set(told["refused"])
    assert {"float32", "float16", "mixed_expanded"} <= set(answers)
    hold_apart(answers)
    assert all(len(np.unique(orders["alone"], axis=0)) > 8 for orders in answers.values())


def test_the_demo_s_variants_answer_alike_in_both_runtimes(tflite_runtime_python, tmp_path):
    demo = load_bundle(DEMO)
    models = {name: demo.model_file(name) for name in demo.manifest.variants}
    rng = np.random.default_rng(1)
    windows = rng.normal(0, [6, 4, 3, 50, 15, 14], (20, 200, 6)).astype(np.float32)
    told, answers = asked(tflite_runtime_python, tmp_path, models, windows)
    assert told["numpy"].startswith("1.")
    hold_apart(answers)
    claimed = {name for name, content in models.items() if TFLITE_RUNTIME in runtimes_of(content)}
    assert claimed == set(answers)
    for name, orders in answers.items():
        tolerance = 1e-5 if name == "float32" else 0.05
        expected = load_predictor(demo, name).predict(windows)
        assert np.abs(orders["alone"] - expected).max() <= tolerance


@pytest.mark.real_data
def test_the_real_model_s_variants_hold_windows_apart_in_both_runtimes(runtime, real_data, tmp_path):
    """Every way of storing its weights at once, and each that the search may choose."""
    from converter.folding import fold_affines
    from converter.keras_file import read_keras_file
    from converter.lowering import lower
    from converter.parity import random_windows
    from converter.quantize import Storage, dynamic_range, weights_of, with_storage
    from converter.training_config import read_training_config

    package, ask = runtime
    network = read_keras_file(real_data / "model" / "pretrained_1dcnn_bilstm.keras").network
    config = read_training_config(real_data / "model" / "config.json", window=200, channels=6, classes=11)
    exact = lower(fold_affines([config.scaler(), *network.layers]), window=200, channels=6)
    weights = weights_of(exact)
    models = {"float32": exact, "dynamic": dynamic_range(exact)}
    for storage in (Storage.FLOAT16, Storage.INT8, Storage.HYBRID):
        plan = {weight.name: storage for weight in weights if storage in weight.choices}
        models[f"all {storage}"] = with_storage(exact, plan)
    turns = {weight.name: weight.choices[at % len(weight.choices)] for at, weight in enumerate(weights)}
    models["mixed"] = with_storage(exact, turns)
    windows = random_windows(12, window=200, config=config, seed=11)
    windows[:3] = [[[0.0]], [[1e5]], [[-1e5]]]
    told, answers = ask(tmp_path, models, windows)
    claim = TFLITE_RUNTIME if package == "tflite_runtime" else LITERT
    claimed = {name for name, content in models.items() if claim in runtimes_of(content)}
    assert claimed == set(answers) == set(models) - set(told["refused"])
    hold_apart(answers)
