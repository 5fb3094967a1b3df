"""The real recording, read once."""

from pathlib import Path

import pytest

from gateway.motion.grid import Grid
from gateway.recording import read_recording


@pytest.fixture(scope="session")
def real_grid(real_data: Path) -> Grid:
    """At 50 Hz."""
    return read_recording(sorted((real_data / "recording").glob("*.xlsx"))).on_grid(50.0)
