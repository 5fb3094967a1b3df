"""The drift reference from files of three kinds, and what says nothing that drift could be measured against."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from converter.reference import read_reference
from converter.training_config import TrainingConfig
from gateway.errors import InputRejected
from gateway.monitoring.drift import DriftPeriod, DriftSettings, Reference
from gateway.monitoring.features import FEATURES, window_features
from gateway.recording import read_recording

CONFIG = TrainingConfig((0,) * 6, (1,) * 6, ("a", "b"), 25, 50.0, "0" * 64)
SHAPE = {"window": 50, "config": CONFIG}


def motion(samples, seed=1):
    """A wrist that rests but for some shaking: (samples, 6), m/s² and deg/s."""
    rng = np.random.default_rng(seed)
    quiet = np.tile([0, 0, 9.80665, 0, 0, 0], (samples, 1)) + rng.normal(size=(samples, 6)) * 0.02
    return (quiet + rng.normal(size=(samples, 6)) * (np.arange(samples) % 500 > 250)[:, None]).astype(np.float32)


def windows_of(values):
    return np.lib.stride_tricks.sliding_window_view(values, 50, axis=0)[::25].transpose(0, 2, 1)


def statistics(**changes):
    values = motion(1000).astype(np.float64)
    channels = {
        name: {"mean": column.mean(), "std": column.std(), "min": column.min(), "max": column.max()}
        | {f"p{p}": float(np.percentile(column, p)) for p in (5, 50, 95)}
        for name, column in zip(("Ax", "Ay", "Az", "Gx", "Gy", "Gz"), values.T, strict=True)
    }
    return {"per_channel": channels, "metadata": {"n_windows": 39, "window_size": 50}, "per_class": {}} | changes


def test_a_recording_and_its_windows_say_the_same(tmp_path):
    values = motion(3000)
    rows = np.hstack([np.arange(3000)[:, None] / 50, values])
    np.savetxt(tmp_path / "r.csv", rows, delimiter=",", header="timestamp_s,Ax,Ay,Az,Gx,Gy,Gz", comments="", fmt="%.9g")
    np.save(tmp_path / "w.npy", windows_of(values))
    recorded, array = (read_reference([tmp_path / name], **SHAPE) for name in ("r.csv", "w.npy"))
    assert tuple(recorded) == FEATURES
    for name, entry in recorded.items():
        assert entry.count == 119
        assert (entry.mean, entry.std) == pytest.approx((array[name].mean, array[name].std), abs=1e-5)
    gyro = np.linalg.norm(windows_of(values)[:, :, 3:].astype(float), axis=2).max(axis=1)
    assert array["gyro_norm_max_deg_s"].mean == pytest.approx(gyro.mean())


def test_statistics_of_channels_give_the_means_alone_and_say_so(tmp_path):
    (tmp_path / "s.json").write_text(json.dumps(statistics()))
    reference = read_reference([tmp_path / "s.json"], **SHAPE)
    assert list(reference) == list(FEATURES[:6])
    az = motion(1000)[:, 2].astype(np.float64)
    entry = reference["Az_mean_m_s2"]
    assert (entry.of, entry.count) == ("samples", 39 * 50)
    assert (entry.mean, entry.std) == pytest.approx((az.mean(), az.std()))
    assert [q for q, _ in entry.quantiles] == [0.05, 0.5, 0.95]


def test_without_percentiles_the_ends_of_the_range_are_known(tmp_path):
    (tmp_path / "s.json").write_text(json.dumps(statistics(per_channel=IN_M_S2)))
    assert read_reference([tmp_path / "s.json"], **SHAPE)["Ay_mean_m_s2"].quantiles == ((0.0, -20), (1.0, 20))


ACC = replace(CONFIG, mean=(0,) * 3, scale=(1,) * 3, channels=("Az", "Ax", "Ay"), units=("m/s^2",) * 3)
GYRO = replace(ACC, channels=("Gx", "Gy", "Gz"), units=("deg/s",) * 3)


def test_a_model_of_fewer_channels_gets_the_features_that_they_are_enough_for(tmp_path):
    """From windows in its own order; a recording has all six whatever the model takes."""
    values = motion(3000)
    rows = np.hstack([np.arange(3000)[:, None] / 50, values])
    np.savetxt(tmp_path / "r.csv", rows, delimiter=",", header="timestamp_s,Ax,Ay,Az,Gx,Gy,Gz", comments="", fmt="%.9g")
    np.save(tmp_path / "six.npy", windows_of(values))
    np.save(tmp_path / "acc.npy", windows_of(values)[:, :, [2, 0, 1]])
    np.save(tmp_path / "gyro.npy", windows_of(values)[:, :, 3:])
    (tmp_path / "s.json").write_text(json.dumps(statistics()))
    six = read_reference([tmp_path / "six.npy"], **SHAPE)
    acc = read_reference([tmp_path / "acc.npy"], window=50, config=ACC)
    gyro = read_reference([tmp_path / "gyro.npy"], window=50, config=GYRO)
    assert set(acc) | set(gyro) == set(FEATURES)
    assert all(name.startswith(("A", "acc_")) for name in acc)
    assert all(name.startswith(("G", "gyro_")) for name in gyro)
    assert acc | gyro == six
    assert tuple(read_reference([tmp_path / "r.csv"], window=50, config=ACC)) == FEATURES
    assert list(read_reference([tmp_path / "s.json"], window=50, config=GYRO)) == list(FEATURES[3:6])


def test_what_a_model_s_channels_need_is_asked_for_by_name(tmp_path):
    (tmp_path / "s.json").write_text(json.dumps(statistics()))
    other = replace(ACC, channels=("Ax", "Mx", "M\ny"), units=("m/s^2", "uT", "uT"))
    with pytest.raises(InputRejected, match=r"s\.json: per_channel lacks Mx, M\\ny"):
        read_reference([tmp_path / "s.json"], window=50, config=other)
    np.save(tmp_path / "w.npy", windows_of(motion(3000)))
    with pytest.raises(InputRejected, match=r"holds float32 \(119, 50, 6\), expected windows \(n, 50, 3\)"):
        read_reference([tmp_path / "w.npy"], window=50, config=ACC)


def rejected(path, words):
    with pytest.raises(InputRejected, match=re.escape(words)) as caught:
        read_reference([path], **SHAPE)
    assert (caught.value.exit_code, "\n" in str(caught.value)) == (2, False)


IN_G = {n: {"mean": 0.5, "std": 0.3, "min": -2, "max": 2} for n in ("Ax", "Ay", "Az", "Gx", "Gy", "Gz")}
IN_M_S2 = {n: {"mean": 5, "std": 3, "min": -20, "max": 20} for n in IN_G}
STATISTICS = [
    ("no object", "[]", "content"),
    ("no JSON", "{", "is no JSON"),
    ("a channel short", statistics(per_channel={"Ax": IN_G["Ax"]}), "lacks Ay, Az, Gx, Gy, Gz"),
    ("no statistics", statistics(per_channel={"Ax": {"mean": 1}}), "per_channel.Ax.std: Field required"),
    ("NaN", statistics(per_channel=IN_G | {"Ax": {**IN_G["Ax"], "mean": float("nan")}}), "per_channel.Ax.mean"),
    ("in g", statistics(per_channel=IN_G), "expected near 9.81"),
    ("no count", statistics(metadata={}), "metadata.n_windows: Field required"),
    ("percentiles that fall", {"p5": 3, "p95": 1}, "quantiles must ascend"),
    ("a key with a line break", statistics(per_channel={"A\nx": {}}), "per_channel.A\\nx.mean"),
    ("a percentile in words", {"p5": "low"}, "per_channel:"),
]


@pytest.mark.parametrize(("shows", "content", "words"), STATISTICS, ids=[row[0] for row in STATISTICS])
def test_statistics_that_say_nothing_are_refused(shows, content, words, tmp_path):
    if "p5" in content:
        kept = {key: value for key, value in statistics()["per_channel"]["Az"].items() if not key.startswith("p")}
        channels = statistics()["per_channel"]
        content = statistics(per_channel=channels | {"Az": kept | content})
    (tmp_path / "s.json").write_text(content if isinstance(content, str) else json.dumps(content))
    rejected(tmp_path / "s.json", words)


def test_windows_that_do_not_fit_are_refused(tmp_path):
    good = windows_of(motion(3000))
    for name, array, words in [
        ("few", good[:49], "49 windows without a gap, expected 50 or more"),
        ("mg", good * 1000, "at rest the acceleration is"),
        ("short", good[:, :40], "expected windows (n, 50, 6)"),
        ("flat", good[0], "expected windows (n, 50, 6)"),
        ("text", np.full((60, 50, 6), "a"), "expected windows (n, 50, 6)"),
        ("infinite", np.where(good == good[0, 0, 0], np.inf, good), "no finite number"),
        ("pickle", np.array([{}]), "not an .npy file of numbers"),
    ]:
        np.save(tmp_path / f"{name}.npy", array)
        rejected(tmp_path / f"{name}.npy", words)
    (tmp_path / "bytes.npy").write_bytes(b"\x93NUMPY")
    rejected(tmp_path / "bytes.npy", "not an .npy file of numbers")
    for missing in ("none.npy", "none.json", "none.csv"):
        rejected(tmp_path / missing, "No such file or directory")
    rejected(tmp_path / "x.txt", "not a recording that can be read")


@pytest.mark.real_data
def test_the_real_recording_lies_far_from_the_real_training_data(real_data):
    """Its wearer sat with the watch face down: gravity all on -z, where training had -3.5 on the mean."""
    reference = {
        name: Reference.of(entry.model_dump())
        for name, entry in read_reference(
            [real_data / "model" / "training_baseline.json"], window=200, config=CONFIG
        ).items()
    }
    grid = read_recording(sorted((real_data / "recording").glob("*.xlsx"))).on_grid(50.0)
    period = DriftPeriod(DriftSettings())
    for window in grid.windows(200, 100)[grid.whole(200, 100)]:
        period.add(window_features(window))
    az = period.summary(0.0, reference).features["Az_mean_m_s2"]
    assert az.distance is None
    assert az.shift == pytest.approx((az.mean + 3.5296) / 3.2362, abs=1e-3)
    assert az.shift < -1.5
