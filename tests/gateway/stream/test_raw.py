"""Raw samples of every family, from its journal rows: against the truth of the simulated device."""

import csv
import random

import numpy as np
import pytest

from firmware_sim.playback import load
from firmware_sim.scenario import parse_wearable
from firmware_sim.simulation import make_device, motion_rate_hz
from firmware_sim.truth import truth_path
from gateway.motion.samples import CHANNELS
from gateway.profiles import profile_of
from gateway.profiles.conversation import Kind
from gateway.stream.raw import RawReader
from tests.e2e.family_host import STEP_NS, Host

FAMILIES = ["movesense", "polar-verity-sense", "witmotion-bwt901ble", "thingy52", "xsens-dot"]
DURATION_S = 30
BEGAN_NS = 10**12


@pytest.fixture(params=FAMILIES)
def host(request, tmp_path):
    """A wearable that has played for half a minute on one link, with a hop of no data in between."""
    spec = parse_wearable(f"name=left; profile={request.param}; duration_s={DURATION_S}; schedule=sitting:30; seed=7")
    host = Host(request.param, make_device(spec, random.Random(1)), tmp_path / "truth.csv")
    host.profile = profile_of(request.param)
    host.connect()
    host.play(load(spec, motion_rate_hz(spec)))
    host.lose_link()
    return host


def read(host, rows, reader=None):
    """By sensor, the samples in the order of their numbers."""
    reader = reader or RawReader(host.profile)
    found = {}
    for raw in [*(raw for row in rows for raw in reader.advance(row)), *reader.finish()]:
        found.setdefault(raw.sensor, []).append(raw)
    return reader, {sensor: sorted(raws, key=lambda raw: raw.first) for sensor, raws in found.items()}


def truth_of(host, sensor, tmp_path):
    file = truth_path(tmp_path / "truth.csv", sensor.columns)
    with file.open() as stream:
        table = [[float(cell) for cell in row.values()] for row in csv.DictReader(stream)]
    return np.array(table)


def test_each_sample_of_the_device_is_there_once_as_it_quantized_it(host, tmp_path):
    reader, found = read(host, host.rows)
    assert reader.frames_left_out == 0
    assert found
    for sensor, raws in found.items():
        truth = truth_of(host, sensor, tmp_path)
        numbers = np.concatenate([np.arange(raw.first, raw.first + len(raw.values)) for raw in raws])
        assert np.array_equal(numbers, np.arange(len(truth)))
        values = np.concatenate([raw.values for raw in raws])
        assert values.shape[1] == len(CHANNELS[sensor.columns])
        assert np.allclose(values, truth[:, 1:], rtol=1e-6, atol=1e-5)
        device_s = np.concatenate([raw.device_ns for raw in raws]) / 1e9
        # Movesense rounds its stamps down to whole milliseconds; two that keep no time are counted by nominal rate
        assert np.abs(device_s - device_s[0] - (truth[:, 0] - truth[0, 0])).max() < 0.002


def test_the_time_at_which_a_sample_was_taken_is_within_its_uncertainty(host, tmp_path):
    _, found = read(host, host.rows)
    for sensor, raws in found.items():
        truth = truth_of(host, sensor, tmp_path)
        for raw in raws:
            assert raw.taken_mono_ns is not None
            taken_ns = BEGAN_NS + truth[raw.first : raw.first + len(raw.values), 0] * 1e9
            # the host looks every 20 ms
            assert np.abs(raw.taken_mono_ns - taken_ns).max() <= raw.uncertainty_ns + STEP_NS


def test_what_began_before_the_first_row_is_left_out_until_the_next_link(host):
    cut = len(host.rows) // 2
    frames = sum(row.kind == Kind.FRAME for row in host.rows[cut:])
    reader, found = read(host, host.rows[cut:])
    assert found == {}
    assert reader.frames_left_out == frames
