"""In whatever frame a sensor sits: with the right mounting declared the same answers, without one no certain answer.

The daemon is run on a store that holds a recording's frames 24 times, once for each way in which a case can be turned.
"""

import asyncio
import os
import shutil
import signal
from collections import defaultdict

import numpy as np
import pytest

from firmware_sim.encoding import (
    Config,
    FrameType,
    SessionEntry,
    address_frame,
    encode_config,
    encode_frame,
    encode_info,
)
from firmware_sim.encoding import quantize as counts_of
from firmware_sim.synthesis import synthesize
from gateway import events
from gateway.bundle import load_bundle
from gateway.cli.demo import demo_bundle
from gateway.clock import Clock
from gateway.config import load_config
from gateway.daemon import run_daemon
from gateway.inference import load_predictor
from gateway.motion.axes import ROTATIONS, axes_text, rotate
from gateway.profiles import PROFILES
from gateway.profiles.conversation import Kind
from gateway.profiles.reference import ReferenceProfile
from gateway.recording import read_recording
from gateway.store import EventLog, Store, Writer

SESSION = 0xABCD_0000_1111_2222
COUNTS = Config()
FRAMES = [axes_text(rotation) for rotation in ROTATIONS]


def configuration(folder, bundle, wearables):
    """wearables: what stands in the table of each."""
    tables = [
        f'[[wearable]]\nid = "w{n}"\naddress = "C0:FF:EE:00:00:{n:02X}"\n{table}\n' for n, table in enumerate(wearables)
    ]
    file = folder / "gateway.toml"
    file.write_text(
        f'[gateway]\nid = "g1"\nstate_dir = "{folder}"\n[radio]\nbackend = "bumble"\n'
        f'transport = "tcp-client:127.0.0.1:1"\n[bundle]\npath = "{bundle}"\n[sync]\nhost = "127.0.0.1"\nport = 1\n'
        "[store]\ncommit_interval_s = 0.1\nqueue_bytes_max = 1000000000\n" + "".join(tables)
    )
    return load_config(file)


def observations(motion):
    """What a wearable of the reference profile tells of (n, 6) at 50 Hz, in the axes of its sensor."""
    info = encode_info(
        firmware=(1, 0),
        tick_hz=32768,
        capacity=500_000,
        serial=7,
        sensor_frame=(1, 2, 3),
        battery_percent=None,
        rates_mhz=[50_000],
        sessions=[SessionEntry(SESSION, 0, len(motion), 0, 0)],
    )
    yield Kind.CONNECTED, b""
    yield Kind.INFO, info
    yield Kind.CONFIG, encode_config(COUNTS)
    counts, saturated = counts_of(motion, COUNTS)
    assert not saturated.any()
    for first in range(0, len(motion), COUNTS.samples_a_frame):
        part = counts[first : first + COUNTS.samples_a_frame]
        tick = round(first * 32768 / 50)
        stored = encode_frame(part, cfg_id=1, session=SESSION, first=first, tick=tick, saturated=False)
        yield Kind.FRAME, address_frame(stored, FrameType.LIVE, 0)


async def answers(config, motions, windows):
    """By wearable the records of its windows, in order, once all are committed. windows: of each."""
    with Store.open(config.store, destinations=[config.sync.destination]) as store:
        writer = Writer(store, asyncio.get_running_loop(), lambda _: None)
        now = Clock().now()
        for wearable, motion in zip(config.wearables, motions, strict=True):
            for kind, payload in observations(motion):
                writer.journal(wearable.id, kind, payload, now)
        await writer.close()
    daemon = asyncio.create_task(run_daemon(config, clock=Clock()))
    log = EventLog(config.store.path)
    records, seen, missing = defaultdict(list), 0, windows * len(motions)
    async with asyncio.timeout(1800):
        while missing and not daemon.done():
            await asyncio.sleep(0.1)  # another thread's commits: nothing here could be awaited
            for event in log.after(seen, 1000):
                seen = event.seq
                if event.kind == "prediction":
                    records[event.wearable] += events.decode(event.payload).data.windows
                    missing -= 1
        os.kill(os.getpid(), signal.SIGTERM)
        await daemon
    log.close()
    return [records[wearable.id] for wearable in config.wearables]


def probabilities(records):
    return np.array([list(record.probabilities.values()) for record in records])


async def hold_in_all_frames(folder, bundle, motion):
    """Asserts what this module promises, of (n, 6) in the model's axes. Returns the top classes by undeclared frame."""
    model = load_bundle(bundle)
    window, hop = model.manifest.window, model.manifest.hop
    seen = (counts_of(motion, COUNTS)[0] * COUNTS.scales()).astype(np.float32)
    starts = range(0, len(motion) - window + 1, hop)
    expected = load_predictor(model).predict(np.stack([seen[first : first + window] for first in starts]))
    cases = [rotate(motion, rotation.T) for rotation in ROTATIONS]  # felt by a case whose mounting is that rotation
    (declared, undeclared) = folder / "declared", folder / "undeclared"
    declared.mkdir()
    undeclared.mkdir()

    config = configuration(declared, bundle, [f'mounting = "{axes}"' for axes in FRAMES])
    for axes, records in zip(FRAMES, await answers(config, cases, len(starts)), strict=True):
        assert [record.number for record in records] == list(range(len(starts))), axes
        assert {(record.decision, record.reasons) for record in records} == {("activity", ())}, axes
        np.testing.assert_allclose(probabilities(records), expected, atol=1e-6, err_msg=axes)

    tops = {}
    config = configuration(undeclared, bundle, [""] * len(FRAMES))
    for axes, records in zip(FRAMES, await answers(config, cases, len(starts)), strict=True):
        assert len(records) == len(starts), axes
        assert {record.decision for record in records} == {"uncertain"}, axes
        assert {record.reasons for record in records} == {(events.Reason.FRAME_UNKNOWN,)}, axes
        tops[axes] = {record.activity for record in records}
    return tops


async def test_synthetic_motion_in_all_frames(tmp_path):
    motion = synthesize([("nail_biting", 12), ("standing", 12)], wearer=3, seed=1)
    tops = await hold_in_all_frames(tmp_path, demo_bundle(), motion)
    assert len(set(map(frozenset, tops.values()))) > 3, "turned axes give other answers: that is why they are uncertain"


def real_motion(real_data):
    recording = read_recording(sorted((real_data / "recording").glob("*.xlsx")))
    return recording.on_grid(50.0).values


@pytest.mark.real_data
@pytest.mark.xdist_group("e2e")  # where the real model is converted already
async def test_the_real_recording_in_all_frames(tmp_path, real_data, real_bundle):
    """40 s of it; the classes that undeclared frames would answer are several."""
    motion = real_motion(real_data)[60_000:62_000]
    tops = await hold_in_all_frames(tmp_path, real_bundle, motion)
    assert len(set().union(*tops.values())) > 3


@pytest.mark.soak
@pytest.mark.real_data
async def test_the_whole_real_recording_in_all_frames(tmp_path, real_data, real_bundle):
    await hold_in_all_frames(tmp_path, real_bundle, real_motion(real_data))


async def test_a_sensor_frame_that_is_the_familys_own_is_applied(tmp_path, monkeypatch):
    class Turned(ReferenceProfile):
        name = "turned"
        sensor_frame = (2, -1, 3)  # the sensor's x points along the case's y, its y along -x

    monkeypatch.setitem(PROFILES, "turned", Turned())
    case = synthesize([("nail_biting", 8)], wearer=3, seed=1)
    sensor = case[:, [1, 0, 2, 4, 3, 5]] * np.float32([1, -1, 1, 1, -1, 1])
    config = configuration(tmp_path, demo_bundle(), ['mounting = "x,y,z"', 'mounting = "x,y,z"\nprofile = "turned"'])
    plain, turned = await answers(config, [case, sensor], 3)
    assert len(plain) == 3
    assert np.array_equal(probabilities(plain), probabilities(turned))


async def test_the_wrists_that_the_configuration_names_are_held_against_the_bundles(tmp_path, reworked):
    shutil.copytree(demo_bundle(), tmp_path / "bundle")
    reworked(tmp_path / "bundle", wrist="left")
    motion = synthesize([("nail_biting", 8)], wearer=3, seed=1)
    tables = ['mounting = "x,y,z"\nwrist = "left"', 'mounting = "x,y,z"\nwrist = "right"', 'mounting = "x,y,z"']
    config = configuration(tmp_path, tmp_path / "bundle", tables)
    same, other, unknown = await answers(config, [motion] * 3, 3)
    assert [record.reasons for record in same + unknown] == [()] * 6
    assert [(record.decision, record.reasons) for record in other] == [("uncertain", (events.Reason.OTHER_WRIST,))] * 3
    log = EventLog(config.store.path)
    derived = {e.wearable: e.id.rpartition("-")[2] for e in log.after(0, -1) if e.kind == "prediction"}
    log.close()
    assert derived["w0"] == derived["w2"] != derived["w1"], "the key of an answer changes with what changes the answer"
