"""Benchmarks are run by hand; that they still fit the code is seen here."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = sorted(Path(__file__).parent.glob("bench_*.py"))


@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda path: path.stem)
def test_a_benchmark_finds_all_that_it_imports(benchmark):
    load = f"import runpy; runpy.run_path({str(benchmark)!r}, run_name='loaded')"
    done = subprocess.run([sys.executable, "-c", load], capture_output=True, text=True, cwd=benchmark.parents[2])
    assert done.returncode == 0, done.stderr
