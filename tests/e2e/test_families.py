"""Every wearable family end to end: the windows are those that `gateway score` makes of what the device has sent.

Its truth and what the daemon derives agree by the family's own means:

- thingy52, witmotion-bwt901ble: no stamps; the count of samples is the grid, so to the bit
- polar-verity-sense: stamps in ns, so but for the rounding of its times and of float32
- xsens-dot: stamps in whole microseconds, each smoothed by those before it
- movesense: stamps in whole milliseconds, rounded down, also the first, from which time counts: all of a session is
  shifted by at most 1 ms against the truth; beside the shift there is what is left of the stamps' jitter
"""

import asyncio
import csv
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from firmware_sim.playback import load
from firmware_sim.scenario import parse_wearable
from firmware_sim.simulation import make_device, motion_rate_hz
from firmware_sim.truth import truth_path
from gateway.cli import main
from gateway.motion.resample import kernel_period_ns, resample
from gateway.recording import Recording, read_recording
from tests.e2e.family_host import Host

DURATION_S = 120.0
SHIFTS_MS = np.linspace(-1, 1, 41)
SCHEDULE = "hand_tapping:30,nail_biting:30,sitting:30,smoking:30"


@dataclass(frozen=True)
class Family:
    """Largest differences of a window's values from the truth's, of a prediction's probabilities, and of time."""

    profile: str
    acc_m_s2: float
    gyro_deg_s: float
    probability: float
    shift_ms: float = 0.0


FAMILIES = [
    Family("movesense", 0.1, 1.0, 0.1, shift_ms=1.0),
    Family("polar-verity-sense", 1e-5, 1e-4, 1e-4),
    Family("witmotion-bwt901ble", 0.0, 0.0, 1e-5),
    Family("thingy52", 0.0, 0.0, 1e-5),
    Family("xsens-dot", 1e-3, 0.03, 1e-2),
]


@pytest.fixture(scope="session")
def real_minutes(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The first ten of the real recording, at its own times; Excel takes long to read, so once."""
    recording = read_recording(sorted((real_data / "recording").glob("*.xlsx")))
    folder = tmp_path_factory.mktemp("real_minutes")
    for name, series, axes in (("acc", recording.acc, "Ax,Ay,Az"), ("gyro", recording.gyro, "Gx,Gy,Gz")):
        kept = series.timestamps_s <= 600
        table = np.column_stack([series.timestamps_s[kept], series.values[kept]])
        np.savetxt(folder / f"{name}.csv", table, "%.9g", ",", header=f"timestamp_s,{axes}", comments="")
    return folder / "acc.csv", folder / "gyro.csv"


@pytest.fixture(params=["synthetic", pytest.param("recorded", marks=pytest.mark.real_data)])
def motion(request: pytest.FixtureRequest) -> str:
    """Scenario keys: two minutes of the real recording's motion, or of the generator's."""
    if request.param == "synthetic":
        return f"schedule={SCHEDULE}; seed=7"
    acc, gyro = request.getfixturevalue("real_minutes")
    return f"accelerometer={acc}; gyroscope={gyro}"


def shifted(truth: Recording, rows: int, rate_hz: float, shift_ms: float) -> np.ndarray:
    """The truth on the grid, as if all of it had been taken so much later; (rows, 6)."""
    taken_ns = np.rint(truth.acc.timestamps_s * 1e9).astype(np.int64)
    values = np.concatenate([truth.acc.values, truth.gyro.values], axis=1).astype(np.float32)
    at_ns = np.clip(np.arange(rows) * 20_000_000 - round(shift_ms * 1e6), taken_ns[0], taken_ns[-1])
    return resample(taken_ns, values, at_ns, kernel_period_ns(rate_hz, 50.0))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.profile)
def test_the_windows_are_those_of_the_devices_truth(family: Family, motion: str, tmp_path: Path) -> None:
    spec = parse_wearable(f"name=left; profile={family.profile}; duration_s={DURATION_S}; {motion}")
    device = make_device(spec, random.Random(1))
    host = Host(family.profile, device, tmp_path / "truth.csv")
    host.connect()
    host.play(load(spec, motion_rate_hz(spec)))
    host.lose_link()
    assert host.faults == []
    assert (host.stream.counters.lost_samples, host.stream.counters.malformed) == (0, 0)

    truth = read_recording([truth_path(tmp_path / "truth.csv", sensor) for sensor in device.sensors])
    grid = truth.on_grid(50.0)
    due = grid.windows(200, 100)
    assert len(due) >= DURATION_S / 2 - 2
    assert sorted(host.windows) == list(range(len(due)))
    assert sum(window.interpolated for window in host.windows.values()) == 0
    found = np.stack([host.windows[number].values for number in range(len(due))])
    off = [np.abs(found - due)]
    if family.shift_ms:
        whole = slice(1, -1)  # at both ends the shift moves the motion out of the truth
        for shift_ms in SHIFTS_MS:
            rows = shifted(truth, len(grid.values), motion_rate_hz(spec), shift_ms)
            windows = np.stack([rows[first : first + 200] for first in range(0, 100 * len(due), 100)])
            off.append(np.abs(found - windows)[whole])
    best = min(off, key=lambda differences: float(differences.mean()))
    assert best[..., :3].max() <= family.acc_m_s2
    assert best[..., 3:].max() <= family.gyro_deg_s


# Over the virtual radio, as real processes.

TOGETHER = [  # one radio carries a thousand notifications a second, so those that send each sample alone run slower
    (12.0, ("movesense", "polar-verity-sense")),
    (4.0, ("witmotion-bwt901ble", "thingy52", "xsens-dot")),
]


def write_scenario(path: Any, profiles: tuple[str, ...], motion: str) -> None:
    """Each plays on until it is stopped; the wearable's name is its profile's."""
    keys = [part.strip().partition("=") for part in motion.split(";")]
    given = "".join(f"{key} = {value if value.isdigit() else repr(value)}\n" for key, _, value in keys)
    tables = [
        f'[[wearable]]\nname = "{profile}"\nprofile = "{profile}"\nduration_s = 1200\n'
        f'truth = "{path.files.truth(profile).name}"\n{given}'
        for profile in profiles
    ]
    path.files.scenario.write_text("\n".join(tables))


async def scored(path: Any, bundle: Path, profile: str) -> dict[int, dict[str, float]]:
    """By window number its probabilities, as `gateway score` has them of the truth."""
    truth = path.files.truth(profile)
    apart = [truth.with_stem(f"{truth.stem}-{sensor}") for sensor in ("acc", "gyro")]
    inputs = apart if apart[0].exists() else [truth]
    out = path.files.folder / f"scored-{profile}.csv"
    words = ["score", *map(str, inputs), "--bundle", str(bundle), "--out", str(out)]
    assert await asyncio.to_thread(main, words) == 0
    rows = list(csv.DictReader(out.open()))
    with inputs[0].open() as lines:  # where the grid begins: the first window may lie in a gap
        first_s = float(next(csv.DictReader(lines))["timestamp_s"])
    return {
        round((float(row["start_s"]) - first_s) / 2): {
            key.removeprefix("p_"): float(value) for key, value in row.items() if key.startswith("p_")
        }
        for row in rows
    }


def received(path: Any, profile: str) -> dict[int, dict[str, float]]:
    """By window number the probabilities that were published, of the session with the most."""
    sessions: dict[str, dict[int, dict[str, float]]] = {}
    for event in path.predictions():
        if event["source"] == f"urn:fidget:wearable:{profile}":
            windows = sessions.setdefault(event["data"]["session"], {})
            windows.update({window["number"]: window["probabilities"] for window in event["data"]["windows"]})
    return max(sessions.values(), key=len, default={})


@pytest.mark.parametrize(("speed", "profiles"), TOGETHER, ids=["in frames", "sample by sample"])
async def test_the_predictions_are_those_of_the_devices_truth(
    path: Any, request: pytest.FixtureRequest, motion: str, speed: float, profiles: tuple[str, ...]
) -> None:
    bundle: Path = request.getfixturevalue("real_bundle" if "accelerometer" in motion else "bundle")
    write_scenario(path, profiles, motion)
    await path.simulate_scenario(speed)
    broker = await path.embedded_broker()
    await path.subscribe(broker)
    await path.configure(broker, bundle)
    await path.start_daemon()
    for _ in range(600):
        made = await path.made()
        if all(wearable.made >= DURATION_S * 60 for wearable in made):
            break
        await asyncio.sleep(0.1)
    await path.control.stop_sampling()
    due = {profile: await scored(path, bundle, profile) for profile in profiles}
    await path.until(
        lambda: all(len(received(path, profile)) >= len(due[profile]) - 2 for profile in profiles),
        30,
        "all but the last windows are received",
    )
    for profile in profiles:
        await path.control.out_of_range(profile, on=True)  # the session's end completes the last window
    await path.until(
        lambda: all(len(received(path, profile)) >= len(due[profile]) for profile in profiles), 30, "all are received"
    )
    for family in FAMILIES:
        if family.profile not in profiles:
            continue
        found = received(path, family.profile)
        assert len(found) >= DURATION_S / 2 - 2
        assert found.keys() == due[family.profile].keys()
        off = {
            number: max(abs(probability - due[family.profile][number][label]) for label, probability in window.items())
            for number, window in found.items()
        }
        print(family.profile, len(off), max(off.values()), sorted(off.values())[len(off) // 2])
        assert max(off.values()) <= family.probability, (family.profile, off)
