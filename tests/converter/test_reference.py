"""The drift reference from files of three kinds, and what says nothing that drift could be measured against."""

import hashlib
import json
import re
import zipfile
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasketches import kll_floats_sketch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from converter.reference import read_reference, reference_entries, reference_in_words
from converter.training_config import TrainingConfig, read_training_config
from gateway.errors import InputRejected
from gateway.monitoring.drift import DriftPeriod, DriftSettings, Reference
from gateway.monitoring.features import FEATURES, window_features
from gateway.motion.samples import CHANNELS
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
    assert tuple(recorded.features) == FEATURES
    for name, entry in recorded.features.items():
        same = array.features[name]
        assert entry.count == 119
        assert (entry.mean, entry.std) == pytest.approx((same.mean, same.std), abs=1e-5)
    gyro = np.linalg.norm(windows_of(values)[:, :, 3:].astype(float), axis=2).max(axis=1)
    assert array.features["gyro_norm_max_deg_s"].mean == pytest.approx(gyro.mean())
    assert list(recorded.channels) == ["Ax", "Ay", "Az", "Gx", "Gy", "Gz"]
    assert recorded.channels["Gy"].count == array.channels["Gy"].count == 119 * 50
    assert array.channels["Gy"].std == pytest.approx(windows_of(values)[:, :, 4].std(), rel=1e-4)
    for name, known, source in (("r.csv", recorded, "recording"), ("w.npy", array, "windows")):
        sha256 = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        assert (known.windows, known.source, known.source_sha256) == (119, source, (sha256,))
        assert known.label_shares is None
        assert {kll_floats_sketch.deserialize(content).n for content in known.sketches.values()} == {119}


def test_statistics_of_channels_give_the_means_alone_and_say_so(tmp_path):
    (tmp_path / "s.json").write_text(json.dumps(statistics()))
    known = read_reference([tmp_path / "s.json"], **SHAPE)
    assert list(known.features) == list(FEATURES[:6])
    az = motion(1000)[:, 2].astype(np.float64)
    entry = known.features["Az_mean_m_s2"]
    assert (entry.of, entry.count) == ("samples", 39 * 50)
    assert (entry.mean, entry.std) == pytest.approx((az.mean(), az.std()))
    assert [q for q, _ in entry.quantiles] == [0.05, 0.5, 0.95]
    assert known.channels["Az"].model_dump() == entry.model_dump(exclude={"of"})
    assert (known.windows, known.source, known.sketches, known.label_shares) == (39, "statistics", {}, None)


def test_without_percentiles_the_ends_of_the_range_are_known(tmp_path):
    (tmp_path / "s.json").write_text(json.dumps(statistics(per_channel=IN_M_S2)))
    known = read_reference([tmp_path / "s.json"], **SHAPE)
    assert known.features["Ay_mean_m_s2"].quantiles == known.channels["Ay"].quantiles == ((0.0, -20), (1.0, 20))


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
    six = read_reference([tmp_path / "six.npy"], **SHAPE).features
    acc = read_reference([tmp_path / "acc.npy"], window=50, config=ACC).features
    gyro = read_reference([tmp_path / "gyro.npy"], window=50, config=GYRO).features
    assert set(acc) | set(gyro) == set(FEATURES)
    assert all(name.startswith(("A", "acc_")) for name in acc)
    assert all(name.startswith(("G", "gyro_")) for name in gyro)
    assert acc | gyro == six
    recorded = read_reference([tmp_path / "r.csv"], window=50, config=ACC)
    assert tuple(recorded.features) == FEATURES
    assert list(recorded.channels) == ["Az", "Ax", "Ay"]
    assert recorded.channels["Ay"].mean == pytest.approx(windows_of(values)[:, :, 1].mean(), abs=1e-5)
    stated = read_reference([tmp_path / "s.json"], window=50, config=GYRO)
    assert (list(stated.features), list(stated.channels)) == (list(FEATURES[3:6]), ["Gx", "Gy", "Gz"])


def test_of_channels_that_no_wearable_has_the_samples_alone_are_known(tmp_path):
    other = replace(ACC, channels=("p", "Mx"), units=("hPa", "uT"), mean=(0,) * 2, scale=(1,) * 2)
    np.save(tmp_path / "w.npy", windows_of(motion(3000))[:, :, :2] * 100)
    known = read_reference([tmp_path / "w.npy"], window=50, config=other)
    assert (list(known.channels), known.features, known.sketches) == (["p", "Mx"], {}, {})
    features, data, files = reference_entries(known)
    assert (features, data.sketches, files) == ({}, None, {})
    sha256 = hashlib.sha256((tmp_path / "w.npy").read_bytes()).hexdigest()
    assert reference_in_words(features, data) == f"2 channels of 5,950 samples; from windows, sha256 {sha256[:12]}"
    assert reference_in_words(None, None) == "none"


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
CLASSES = {"a": {"n_windows": 3}, "idle\n": {"n_windows": 1}}
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
    ("another class", statistics(per_class=CLASSES), "per_class: idle\\n: none of the model's 2 labels"),
    ("a class in words", statistics(per_class={"a": {"n_windows": "many"}}), "per_class.a.n_windows: Input should be"),
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


@pytest.mark.parametrize(
    ("per_class", "expected"),
    [
        ({"a": {"n_windows": 3, "mean": []}, "b": {"n_windows": 1}}, {"a": 0.75, "b": 0.25}),
        ({"b": {"n_windows": 5}}, {"a": 0.0, "b": 1.0}),
        ({"a": {"mean": []}, "b": {"n_windows": 1}}, None),
        ({"a": {"n_windows": 0}}, None),
    ],
    ids=["both", "one alone", "not counted", "none"],
)
def test_statistics_of_classes_give_the_labels_shares(per_class, expected, tmp_path):
    (tmp_path / "s.json").write_text(json.dumps(statistics(per_class=per_class)))
    assert read_reference([tmp_path / "s.json"], **SHAPE).label_shares == expected


LABELLED = [  # what it shows, the labels of 119 windows, 100 of the first class
    ("names", np.array(["a"] * 100 + ["b"] * 19)),
    ("bytes", np.array([b"a"] * 100 + [b"b"] * 19)),
    ("numbers", np.array([0] * 100 + [1] * 19)),
    ("numbers as text", np.array(["0"] * 100 + ["b"] * 19)),
]


@pytest.mark.parametrize("labels", [row[1] for row in LABELLED], ids=[row[0] for row in LABELLED])
def test_labelled_windows_give_the_labels_shares_too(labels, tmp_path):
    windows = windows_of(motion(3000))
    np.save(tmp_path / "w.npy", windows)
    np.savez(tmp_path / "w.npz", windows=windows, labels=labels, wearers=np.arange(119))
    plain, known = (read_reference([tmp_path / name], **SHAPE) for name in ("w.npy", "w.npz"))
    assert known.label_shares == {"a": pytest.approx(100 / 119), "b": pytest.approx(19 / 119)}
    assert (known.features, known.channels, known.sketches) == (plain.features, plain.channels, plain.sketches)


def test_a_recording_s_column_of_labels_gives_their_share_of_its_rows(tmp_path):
    values = motion(3000)
    labels = ["a"] * 2000 + [""] * 500 + ["1"] * 500
    lines = [
        f"{k / 50:.2f},{','.join(map(str, row))},{label}"
        for k, (row, label) in enumerate(zip(values, labels, strict=True))
    ]
    (tmp_path / "r.csv").write_text("\n".join(["timestamp_s,Ax,Ay,Az,Gx,Gy,Gz, label", *lines]))
    assert read_reference([tmp_path / "r.csv"], **SHAPE).label_shares == {"a": 0.8, "b": 0.2}
    (tmp_path / "r.csv").write_text((tmp_path / "r.csv").read_text().replace(",1\n", ",idle\n"))
    rejected(tmp_path / "r.csv", "r.csv: label: idle: none of the model's 2 labels")


@pytest.mark.parametrize(
    "labels",
    [
        pa.array(["a"] * 2000 + [""] * 500 + ["b"] * 500),
        pa.array(["a"] * 2000 + [None] * 500 + ["1"] * 500).dictionary_encode(),
        pa.array([0] * 2000 + [None] * 500 + [1] * 500),
        pa.array([0.0] * 2000 + [float("nan")] * 500 + [1.0] * 500),
    ],
    ids=["names", "categories", "numbers", "numbers as a data frame with gaps has them"],
)
def test_a_parquet_recording_s_labels_count_as_those_of_a_csv(tmp_path, labels):
    columns = dict(zip(("timestamp_s", *CHANNELS), [np.arange(3000) / 50, *motion(3000).T], strict=True))
    pq.write_table(pa.table(columns | {"label": labels}), tmp_path / "r.parquet")
    assert read_reference([tmp_path / "r.parquet"], **SHAPE).label_shares == {"a": 0.8, "b": 0.2}
    pq.write_table(pa.table(columns), tmp_path / "r.parquet")
    assert read_reference([tmp_path / "r.parquet"], **SHAPE).label_shares is None
    pq.write_table(pa.table(columns | {"label": pa.array(["idle"] * 3000)}), tmp_path / "r.parquet")
    rejected(tmp_path / "r.parquet", "r.parquet: label: idle: none of the model's 2 labels")


def test_labelled_windows_that_do_not_fit_are_refused(tmp_path):
    windows, labels = windows_of(motion(3000)), np.zeros(119, int)
    for name, held, words in [
        ("misnamed", {"window": windows, "labels": labels}, "misnamed.npz: holds window, labels, expected windows and"),
        ("unlabelled", {"windows": windows}, "holds windows, expected windows and labels"),
        ("empty", {}, "holds nothing, expected windows and labels"),
        ("short", {"windows": windows, "labels": labels[1:]}, "labels of shape (118,), expected (119,) as of windows"),
        ("onehot", {"windows": windows, "labels": np.eye(119)}, "labels of shape (119, 119), expected (119,)"),
        (
            "floats",
            {"windows": windows, "labels": labels * 1.0},
            "labels hold float64, expected names or whole numbers",
        ),
        ("beyond", {"windows": windows, "labels": labels + 2}, "labels: 2: none of the model's 2 labels"),
        ("negative", {"windows": windows, "labels": labels - 1}, "labels: -1: none of the model's 2 labels"),
        ("unknown", {"windows": windows, "labels": np.array(["a", "x\ny"] * 59 + ["c"])}, "labels: x\\ny, c: none of"),
        ("objects", {"windows": windows, "labels": np.array(["a", None] * 59 + ["b"])}, "not an .npz file of numbers"),
        ("in_mg", {"windows": windows * 1000, "labels": labels}, "at rest the acceleration is"),
        ("channels", {"windows": windows[:, :, :3], "labels": labels}, "expected windows (n, 50, 6)"),
    ]:
        np.savez(tmp_path / f"{name}.npz", **held)
        rejected(tmp_path / f"{name}.npz", words)
    with zipfile.ZipFile(tmp_path / "text.npz", "w") as archive:
        archive.writestr("windows.npy", "no array")
        archive.writestr("labels.npy", "no array")
    rejected(tmp_path / "text.npz", "not an .npz file of numbers")
    rejected(tmp_path / "none.npz", "No such file or directory")


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    edits=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=5), cut=st.floats(0, 1)
)
def test_a_damaged_archive_is_refused_in_a_line_or_read(edits, cut, tmp_path):
    np.savez_compressed(tmp_path / "w.npz", windows=np.round(windows_of(motion(3000))), labels=np.zeros(119, int))
    content = bytearray((tmp_path / "w.npz").read_bytes())
    for place, byte in edits:
        content[place % len(content)] = byte
    (tmp_path / "w.npz").write_bytes(content[: round(len(content) * min(1, cut * 1.5))])
    read, refusal = 119, ""
    try:
        read = read_reference([tmp_path / "w.npz"], **SHAPE).windows
    except InputRejected as error:
        refusal = str(error)
    assert (read, "\n" in refusal) == (119, False)


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
    baseline = real_data / "model" / "training_baseline.json"
    config = read_training_config(real_data / "model" / "config.json", window=200, channels=6, classes=11)
    known = read_reference([baseline], window=200, config=config)
    stated = json.loads(baseline.read_text())
    for name, channel in known.channels.items():
        assert channel.count == 3852 * 200
        told = {"mean": channel.mean, "std": channel.std, "min": channel.min, "max": channel.max}
        assert told | {f"p{q * 100:.0f}": value for q, value in channel.quantiles} == stated["per_channel"][name]
    counts = {name: entry["n_windows"] for name, entry in stated["per_class"].items()}
    assert known.label_shares == {name: count / 3852 for name, count in counts.items()}
    reference = {name: Reference.of(entry.model_dump()) for name, entry in known.features.items()}
    grid = read_recording(sorted((real_data / "recording").glob("*.xlsx"))).on_grid(50.0)
    period = DriftPeriod(DriftSettings())
    for window in grid.windows(200, 100)[grid.whole(200, 100)]:
        period.add(window_features(window))
    az = period.summary(0.0, reference).features["Az_mean_m_s2"]
    assert az.distance is None
    assert az.shift == pytest.approx((az.mean + 3.5296) / 3.2362, abs=1e-3)
    assert az.shift < -1.5
