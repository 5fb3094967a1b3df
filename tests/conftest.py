"""Fixtures of every test: where the real recording and model are."""

import os
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("any machine", deadline=None)  # one example says nothing of time where others run beside it
settings.load_profile("any machine")

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the real recording and model; skips where it is absent."""
    folder = Path(os.environ.get("FIDGET_REAL_DATA", REPOSITORY / ".." / "shared" / "data")).resolve()
    if not (folder / "recording").is_dir() or not (folder / "model").is_dir():
        pytest.skip(f"real recording and model not found in {folder} (set FIDGET_REAL_DATA)")
    return folder


@pytest.fixture(scope="session")
def real_bundle(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real model, converted now."""
    folder = tmp_path_factory.mktemp("converted") / "bundle"
    model, scaler = real_data / "model" / "pretrained_1dcnn_bilstm.keras", real_data / "model" / "config.json"
    words = ("convert", str(model), "--scaler", str(scaler), "--out", str(folder), "--variants", "float32")
    program = "from converter.cli import main; raise SystemExit(main())"
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


TFLITE_RUNTIME = ("tflite-runtime==2.14.0", "numpy<2", "pydantic>=2.9")


@pytest.fixture(scope="session")
def tflite_runtime_python() -> Path:
    """A Python with the predecessor of the model runtime, made once; skips where that cannot be had."""
    if sys.version_info[:2] != (3, 11):
        pytest.skip("tflite-runtime 2.14 has wheels for Python 3.11 only")
    folder = REPOSITORY / "build" / "tflite-runtime"
    python = folder / "bin" / "python"
    if not (folder / ".installed").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *TFLITE_RUNTIME]
        done = subprocess.run(install, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"pip cannot install {TFLITE_RUNTIME[0]}: {done.stderr.strip().splitlines()[-1]}")
        (folder / ".installed").touch()
    return python


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where tests are spread over processes, those of the whole path stay in one: they wait for real time, and two of
    them at once would take each other's cores. So do those that would make the same environment."""
    for item in items:
        if "tflite_runtime_python" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("tflite-runtime"))
        if item.path.is_relative_to(REPOSITORY / "tests" / "e2e"):
            item.add_marker(pytest.mark.xdist_group("e2e"))
        if "image" in getattr(item, "fixturenames", ()) and item.path.is_relative_to(REPOSITORY / "tests" / "vm"):
            item.add_marker(pytest.mark.arm if item.path.name == "test_arm.py" else pytest.mark.vm)


# What a run says of itself at its end: the time of each area, and what became of the tests that need something.

_NEEDS = {"real_data": "the real recording and model (FIDGET_REAL_DATA)", "mosquitto": "the mosquitto broker"}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [r for group in terminalreporter.stats.values() for r in group if isinstance(r, pytest.TestReport)]
    seconds: Counter[str] = Counter()
    tests: dict[str, set[str]] = defaultdict(set)
    for report in reports:
        area = "/".join(Path(report.nodeid.split("::")[0]).parts[1:-1][:2]) or "layout"
        seconds[area] += report.duration
        tests[area].add(report.nodeid.partition("@")[0])
    terminalreporter.section("time per area")
    for area, spent in seconds.most_common():
        terminalreporter.line(f"{spent:8.1f} s  {len(tests[area]):5d} tests  {area}")
    for mark, what in _NEEDS.items():
        outcomes: dict[str, set[str]] = defaultdict(set)
        for report in reports:
            if mark in report.keywords and (report.skipped or report.when == "call"):
                outcomes["left out" if report.skipped else "ran"].add(report.nodeid.partition("@")[0])
        if outcomes:
            terminalreporter.section(f"tests that need {what}")
        for outcome, names in sorted(outcomes.items()):
            terminalreporter.line(f"{outcome}: {len(names)}")
            for name in sorted(names):
                terminalreporter.line(f"  {name}")
