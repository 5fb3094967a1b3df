"""The whole path under a seeded mix of all that can go wrong: what is received is what the samples made ask for.

A seed that fails is played again by itself: `pytest tests/sim/whole -k "seed-17"`.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sim.whole.world import Whole

SEEDS = range(32)
HOURS, WEARABLES = 0.8, 3
SOAK_SEEDS = range(1000, 2000)
SOAK_HOURS, SOAK_WEARABLES = 1.8, 5
"""9 wearable-hours a seed, 9,000 in all: more than a year."""


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory where the system has room for files there: what a crash leaves is decided here, not by the disk."""
    memory = Path("/dev/shm")
    made = Path(tempfile.mkdtemp(prefix="fidget-sim-", dir=memory if os.access(memory, os.W_OK) else None))
    yield made
    shutil.rmtree(made)


def played(seed: int, folder: Path, hours: float = HOURS, wearables: int = WEARABLES) -> Whole:
    whole = Whole(seed, folder, hours=hours, wearables=wearables)
    whole.run()
    return whole


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: f"seed-{seed}")
def test_what_is_received_is_what_the_samples_ask_for(seed: int, folder: Path) -> None:
    whole = played(seed, folder)
    print(f"seed {seed}: {dict(whole.mix)}")
    assert whole.mix["windows"] > 0


def test_a_seed_plays_the_same_again(folder: Path) -> None:
    """Also in a process in which sets have another order."""
    first = played(5, folder / "here")
    program = (
        "from pathlib import Path; from tests.sim.whole.test_whole import played; "
        f"print(played(5, Path({str(folder / 'there')!r})).digest.hexdigest())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, env=environment
    )
    assert done.stdout.split() == [first.digest.hexdigest()], done.stderr
    assert first.clock.steps > 1000


@pytest.mark.soak
@pytest.mark.timeout(6 * 3600)
def test_a_year_of_a_thousand_seeds(folder: Path) -> None:
    mix: Counter[str] = Counter()
    failed: dict[int, str] = {}
    began_s, began_cpu_s = time.monotonic(), time.process_time()
    for seed in SOAK_SEEDS:
        try:
            whole = played(seed, folder / str(seed), SOAK_HOURS, SOAK_WEARABLES)
        except AssertionError as error:
            failed[seed] = str(error).partition("\n")[0]
            print(f"seed {seed}: {failed[seed]}")
            continue
        finally:
            shutil.rmtree(folder / str(seed), ignore_errors=True)
        mix += whole.mix
    hours = SOAK_HOURS * SOAK_WEARABLES * len(SOAK_SEEDS)
    wall_min, cpu_min = (time.monotonic() - began_s) / 60, (time.process_time() - began_cpu_s) / 60
    print(f"{len(SOAK_SEEDS)} seeds, {hours:.0f} wearable-hours: {hours / wall_min:.0f} a minute, ", end="")
    print(f"{hours / cpu_min:.0f} a minute of processor time; {dict(sorted(mix.items()))}")
    assert not failed
