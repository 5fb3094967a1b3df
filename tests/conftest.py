"""Fixtures of every test: where the real recording and model are."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the real recording and model; skips where it is absent."""
    folder = Path(os.environ.get("FIDGET_REAL_DATA", REPOSITORY / ".." / "shared" / "data")).resolve()
    if not (folder / "recording").is_dir() or not (folder / "model").is_dir():
        pytest.skip(f"real recording and model not found in {folder} (set FIDGET_REAL_DATA)")
    return folder
