"""The predecessor of the model runtime, in an environment of its own: Python 3.11 and numpy below 2."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gateway.bundle import load_bundle
from gateway.inference import load_predictor

REPOSITORY = Path(__file__).resolve().parents[3]
PACKAGES = ("tflite-runtime==2.14.0", "numpy<2", "pydantic>=2.9")

PREDICT = """
import json, sys
import numpy as np
from gateway.bundle import load_bundle
from gateway.inference import load_predictor
bundle, windows, out = sys.argv[1:]
windows = np.load(windows)
predictor = load_predictor(load_bundle(bundle), "float32")
answers = predictor.predict(windows)
np.save(out, np.stack([answers, predictor.predict(windows[::-1])[::-1]]))
import tflite_runtime
print(json.dumps({"litert": "ai_edge_litert" in sys.modules, "numpy": np.__version__}))
"""


@pytest.fixture(scope="module")
def old_python(tmp_path_factory):
    if sys.version_info[:2] != (3, 11):
        pytest.skip("tflite-runtime 2.14 has wheels for Python 3.11 only")
    folder = REPOSITORY / "build" / "tflite-runtime"
    python = folder / "bin" / "python"
    if not (folder / ".installed").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES]
        done = subprocess.run(install, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"pip cannot install {PACKAGES[0]}: {done.stderr.strip().splitlines()[-1]}")
        (folder / ".installed").touch()
    return python


def test_the_float_variant_gives_the_same_answers_from_tflite_runtime_in_any_order(old_python, tmp_path):
    rng = np.random.default_rng(1)
    windows = rng.normal(0, [6, 4, 3, 50, 15, 14], (40, 200, 6)).astype(np.float32)
    np.save(tmp_path / "windows.npy", windows)
    demo = REPOSITORY / "models" / "demo"
    words = [old_python, "-c", PREDICT, demo, tmp_path / "windows.npy", tmp_path / "answers.npy"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert not told["litert"]
    assert told["numpy"].startswith("1.")
    forward, backward = np.load(tmp_path / "answers.npy")
    assert np.array_equal(forward, backward)
    expected = load_predictor(load_bundle(demo), "float32").predict(windows)
    assert np.abs(forward - expected).max() <= 1e-5
