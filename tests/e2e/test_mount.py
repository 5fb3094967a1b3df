"""`gateway mount` beside a running daemon: what it feels is what each family's wearable is sending now."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import numpy as np

PROFILES = ("reference", "polar-verity-sense", "thingy52")
"""With a flash ring and an index; both sensors apart, in bursts; without a clock."""


def write_still_arm(file: Path, minutes: float) -> None:
    """An arm that hangs: up is -x, but for a tremor and 20° of tilt."""
    rng = np.random.default_rng(1)
    n = int(minutes * 60 * 50)
    tilt = np.radians(20)
    still = 9.80665 * np.array([-np.cos(tilt), np.sin(tilt), 0])
    values = np.hstack([still + rng.normal(0, 0.05, (n, 3)), rng.normal(0, 0.5, (n, 3))])
    table = np.column_stack([np.arange(n) / 50, values])
    np.savetxt(file, table, "%.6g", ",", header="timestamp_s,Ax,Ay,Az,Gx,Gy,Gz", comments="")


async def mount(path: Any, name: str) -> tuple[int, str, str]:
    words = ("mount", name, "--config", str(path.files.configuration), "--sim-time", path.sim_time)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", *words, "--countdown", "1", "--hold", "2"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_an_arm_that_only_hangs_is_felt_in_each_posture_by_every_family(path: Any, bundle: Path) -> None:
    recording = path.files.folder / "hanging.csv"
    write_still_arm(recording, 20)
    tables = [f'[[wearable]]\nname = "{p}"\nprofile = "{p}"\nrecording = "{recording}"\n' for p in PROFILES]
    path.files.scenario.write_text("\n".join(tables))
    await path.simulate_scenario(2.0)
    broker = await path.embedded_broker()
    await path.configure(broker, bundle, store={"commit_interval_s": 0.2})
    await path.start_daemon()
    await path.until(lambda: path.status() is not None, 60, "the daemon runs")
    before = path.files.configuration.read_text()
    for name, (code, out, err) in zip(PROFILES, await asyncio.gather(*(mount(path, p) for p in PROFILES)), strict=True):
        assert (code, out) == (1, ""), (name, err)
        assert err.count("still\n") == 3 + err.count("hold still\n"), (name, err)
        assert "error: arm hanging and palm up are the same posture (0° apart)" in err, (name, err)
    assert path.files.configuration.read_text() == before
