import csv
import os
import pty
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from firmware_sim.synthesis import synthesize
from gateway.bundle import load_bundle
from gateway.cli import main
from gateway.cli.output import write_whole
from gateway.inference import load_predictor
from gateway.motion.samples import CHANNELS

ROOT = Path(__file__).resolve().parents[3]
DEMO = ROOT / "models" / "demo"
G = 9.80665


@pytest.fixture(scope="module")
def motion() -> np.ndarray:
    """30 s, (1500, 6): 14 windows."""
    return synthesize([("nail_biting", 15), ("sitting", 15)], wearer=3, seed=1)


def write_csv(path: Path, values: np.ndarray, timestamps_s: np.ndarray | None = None) -> Path:
    timestamps_s = np.arange(len(values)) / 50 if timestamps_s is None else timestamps_s
    lines = [",".join([f"{t:.3f}", *map(str, row)]) for t, row in zip(timestamps_s, values, strict=True)]
    path.write_text("\n".join([",".join(("timestamp_s", *CHANNELS)), *lines]) + "\n")
    return path


@pytest.fixture
def recording(tmp_path: Path, motion: np.ndarray) -> Path:
    return write_csv(tmp_path / "wrist.csv", motion)


def score(*words: object) -> int:
    return main(["score", *map(str, words), "--bundle", str(DEMO)])


def predictions(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def probabilities(rows: list[dict[str, str]]) -> np.ndarray:
    return np.array([[float(v) for k, v in row.items() if k.startswith("p_")] for row in rows], np.float32)


@pytest.fixture(scope="module")
def expected(motion: np.ndarray) -> np.ndarray:
    """(14, 11): what the model says of the windows, cut by hand."""
    predictor = load_predictor(load_bundle(DEMO))
    return predictor.predict(np.stack([motion[k : k + 200] for k in range(0, 1301, 100)]))


def test_a_recording_gives_a_line_for_each_window(tmp_path, recording, expected, capsys):
    out = tmp_path / "predictions.csv"
    assert score(recording, "--out", out) == 0
    rows = predictions(out)
    labels = load_bundle(DEMO).manifest.labels
    assert list(rows[0]) == ["start_s", "end_s", "activity", "confidence", *(f"p_{label}" for label in labels)]
    assert [(float(row["start_s"]), float(row["end_s"])) for row in rows] == [(2.0 * k, 2.0 * k + 4) for k in range(14)]
    assert np.array_equal(probabilities(rows), expected)
    for row, answer in zip(rows, expected, strict=True):
        assert row["activity"] == labels[answer.argmax()]
        assert np.float32(row["confidence"]) == answer.max()
    summary = dict(
        line.split(maxsplit=1) for line in capsys.readouterr().out.replace("rows on the grid", "rows").splitlines()
    )
    assert summary["rows"] == "1500 at 50 Hz (30.0 s)"
    assert summary["windows"].startswith("14 of 200 samples")
    assert f"{expected.max(axis=1).mean():.3f}" in summary["mean"]
    for label, count in Counter(row["activity"] for row in rows).items():
        assert f"{label} {count} (" in summary["classes"]


def test_windows_give_probabilities(tmp_path, motion, expected):
    np.save(tmp_path / "windows.npy", np.stack([motion[k : k + 200] for k in range(0, 1301, 100)]))
    assert score(tmp_path / "windows.npy", "--out", tmp_path / "answers.npy") == 0
    answers = np.load(tmp_path / "answers.npy")
    assert answers.dtype == np.float32
    assert np.array_equal(answers, expected)


@pytest.mark.parametrize("form", ["csv", "npy"])
def test_units_and_frame_of_the_input_are_turned_into_the_models(tmp_path, motion, expected, form):
    """The same motion in g and rad/s, by a sensor whose x points along the model's -y, gives the same answers."""
    foreign = np.hstack([motion[:, :3] / G, np.radians(motion[:, 3:])])[:, [1, 0, 2, 4, 3, 5]] * [1, -1, 1, 1, -1, 1]
    options = ["--acc-unit", "g", "--gyro-unit", "rad_s", "--frame", "-y,x,z", "--out", tmp_path / f"out.{form}"]
    if form == "csv":
        assert score(write_csv(tmp_path / "foreign.csv", foreign), *options) == 0
        answers = probabilities(predictions(tmp_path / "out.csv"))
    else:
        np.save(tmp_path / "foreign.npy", np.stack([foreign[k : k + 200] for k in range(0, 1301, 100)]))
        assert score(tmp_path / "foreign.npy", *options) == 0
        answers = np.load(tmp_path / "out.npy")
    assert np.abs(answers - expected).max() < 1e-4


def means(windows: np.ndarray) -> np.ndarray:
    """What the bundles of bundle_of answer: softmax of the channels' means."""
    powers = np.exp(windows.mean(axis=1))
    return powers / powers.sum(axis=1, keepdims=True)


TAKEN = [  # what it shows, the model's channels, where they stand in a recording
    ("the accelerometer alone", ["Ax", "Ay", "Az"], [0, 1, 2]),
    ("another order", ["Gz", "Az", "Gy", "Ay", "Gx", "Ax"], [5, 2, 4, 1, 3, 0]),
    ("two of them", ["Gy", "Az"], [4, 2]),
]


@pytest.mark.parametrize("form", ["csv", "npy"])
@pytest.mark.parametrize(("channels", "places"), [row[1:] for row in TAKEN], ids=[row[0] for row in TAKEN])
def test_a_model_gets_its_own_channels_in_its_own_order(tmp_path, motion, bundle_of, channels, places, form):
    """In its units, too: the input is in g and rad/s."""
    calm = np.hstack([motion[:, :3], motion[:, 3:] / 100])
    bundle = bundle_of(channels, ["m/s^2" if name[0] == "A" else "deg/s" for name in channels])
    foreign = np.hstack([calm[:, :3] / G, np.radians(calm[:, 3:])])
    windows = np.stack([calm[k : k + 200] for k in range(0, 1301, 100)])[..., places]
    options = ["--acc-unit", "g", "--gyro-unit", "rad_s", "--bundle", str(bundle.path), "--out"]
    if form == "csv":
        source = write_csv(tmp_path / "foreign.csv", foreign)
        assert main(["score", str(source), *options, str(tmp_path / "out.csv")]) == 0
        answers = probabilities(predictions(tmp_path / "out.csv"))
    else:
        np.save(tmp_path / "w.npy", np.stack([foreign[k : k + 200] for k in range(0, 1301, 100)])[..., places])
        assert main(["score", str(tmp_path / "w.npy"), *options, str(tmp_path / "out.npy")]) == 0
        answers = np.load(tmp_path / "out.npy")
    np.testing.assert_allclose(answers, means(windows), atol=1e-4)


def test_a_frame_turns_the_input_before_the_channels_are_chosen(tmp_path, motion, bundle_of, capsys):
    """The model's x is the input's -y: a recording has it, windows of the model's channels may not."""
    bundle = bundle_of(["Ax", "Gz"], ["m/s^2", "deg/s"])
    calm = np.hstack([motion[:, :3], motion[:, 3:] / 100])
    options = ["--frame", "-y,x,z", "--bundle", str(bundle.path), "--out", str(tmp_path / "out.csv")]
    assert main(["score", str(write_csv(tmp_path / "r.csv", calm)), *options]) == 0
    windows = np.stack([calm[k : k + 200] for k in range(0, 1301, 100)])
    expected = means(np.stack([-windows[..., 1], windows[..., 5]], axis=-1))
    np.testing.assert_allclose(probabilities(predictions(tmp_path / "out.csv")), expected, atol=1e-4)
    np.save(tmp_path / "w.npy", windows[..., [0, 5]])
    capsys.readouterr()
    assert main(["score", str(tmp_path / "w.npy"), *options[:-1], str(tmp_path / "out.npy")]) == 2
    refusal = "--frame -y,x,z: the model's Ax is the input's Ay, which windows for this bundle do not have"
    assert refusal in said(capsys)


def test_gravity_is_looked_for_where_the_model_takes_accelerations(tmp_path, motion, bundle_of, capsys):
    in_g = write_csv(tmp_path / "g.csv", np.hstack([motion[:, :3] / G, motion[:, 3:] / 100]))
    for channels, units, code in ((["Gx", "Gy"], ["deg/s"] * 2, 0), (["Gx", "Ay"], ["deg/s", "m/s^2"], 2)):
        bundle = bundle_of(channels, units)
        words = ["score", str(in_g), "--bundle", str(bundle.path), "--out", str(tmp_path / "out.csv")]
        assert main(words) == code
        shutil.rmtree(bundle.path)
    assert "give --acc-unit g" in said(capsys)


def test_a_model_that_no_wearable_can_feed_is_refused_in_a_sentence(tmp_path, recording, bundle_of, capsys):
    for channels, units, words in (
        (["Ax", "Mx"], ["m/s^2", "uT"], "the model takes Mx, which no wearable gives"),
        (["Gx", "Ax"], ["deg/s", "g"], "the model takes Ax in g, a wearable gives it in m/s^2"),
    ):
        bundle = bundle_of(channels, units)
        command = ["score", str(recording), "--bundle", str(bundle.path), "--out", str(tmp_path / "out.csv")]
        assert main(command) == 2
        assert said(capsys).splitlines()[0] == f"error: bundle {bundle.path}: {words}"
        shutil.rmtree(bundle.path)
    assert not (tmp_path / "out.csv").exists()


def test_the_variant_that_is_named_answers(tmp_path, recording, motion):
    assert score(recording, "--out", tmp_path / "out.csv", "--variant", "dynamic") == 0
    dynamic = load_predictor(load_bundle(DEMO), "dynamic").predict(motion[None, :200])
    assert np.array_equal(probabilities(predictions(tmp_path / "out.csv"))[:1], dynamic)


def test_windows_over_a_gap_are_left_out_and_counted(tmp_path, motion, expected, capsys):
    kept = np.r_[0:650, 680:1500]  # 0.6 s are missing from 13.0 s on
    recording = write_csv(tmp_path / "wrist.csv", motion[kept], kept / 50)
    assert score(recording, "--out", tmp_path / "out.csv") == 0
    rows = predictions(tmp_path / "out.csv")
    assert [float(row["start_s"]) for row in rows] == [0, 2, 4, 6, 8, 14, 16, 18, 20, 22, 24, 26]
    assert np.array_equal(probabilities(rows), np.delete(expected, [5, 6], axis=0))
    assert "1, 2 windows left out for them" in capsys.readouterr().out


def said(capsys) -> str:
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.err


@pytest.mark.parametrize(
    ("option", "factor", "way_out"),
    [("m_s2", 1000 / G, "--acc-unit mg"), ("m_s2", 1 / G, "--acc-unit g"), ("mg", 1.0, "--acc-unit m_s2")],
)
def test_gravity_that_contradicts_the_unit_is_refused_with_the_way_out(
    tmp_path, motion, capsys, option, factor, way_out
):
    values = np.hstack([motion[:, :3] * factor, motion[:, 3:]])
    recording = write_csv(tmp_path / "wrist.csv", values)
    assert score(recording, "--out", tmp_path / "out.csv", "--acc-unit", option) == 2
    error = said(capsys)
    assert "at rest the acceleration is" in error
    assert f"give {way_out}" in error
    assert not (tmp_path / "out.csv").exists()
    np.save(tmp_path / "w.npy", values[None, :200])
    assert score(tmp_path / "w.npy", "--out", tmp_path / "out.npy", "--acc-unit", option) == 2
    assert f"give {way_out}" in said(capsys)


def test_made_up_windows_can_be_scored_all_the_same(tmp_path, capsys):
    np.save(tmp_path / "w.npy", np.random.default_rng(1).normal(0, 1, (2, 200, 6)).astype(np.float32))
    assert score(tmp_path / "w.npy", "--out", tmp_path / "out.npy") == 2
    assert "--any-gravity" in said(capsys)
    assert score(tmp_path / "w.npy", "--out", tmp_path / "out.npy", "--any-gravity") == 0
    assert np.load(tmp_path / "out.npy").shape == (2, 11)


BAD_ARRAYS = [  # what is wrong, the array, what is said
    ("two axes", np.zeros((200, 6), np.float32), "float32 of shape (200, 6), expected float32 of shape (n, 200, 6)"),
    ("five channels", np.zeros((3, 200, 5)), "(3, 200, 5), expected float32 of shape (n, 200, 6)"),
    ("text", np.full((1, 200, 6), "a"), "expected float32"),
    ("objects", np.full((1, 200, 6), None), "not an .npy file of numbers"),
    ("none", np.zeros((0, 200, 6), np.float32), "no windows in it"),
    (
        "NaN",
        np.where(np.arange(70)[:, None, None] == 66, np.nan, np.ones((70, 200, 6))),
        "window 66: a value that is no",
    ),
    ("too large for float32", np.full((1, 200, 6), 1e39), "window 0: a value that is no finite float32"),
]


@pytest.mark.parametrize(("array", "message"), [b[1:] for b in BAD_ARRAYS], ids=[b[0] for b in BAD_ARRAYS])
def test_bad_windows_are_one_clear_line(tmp_path, capsys, array, message):
    np.save(tmp_path / "w.npy", array)
    assert score(tmp_path / "w.npy", "--out", tmp_path / "out.npy") == 2
    assert message in said(capsys)
    assert os.listdir(tmp_path) == ["w.npy"]


def test_a_file_that_is_no_npy_is_refused(tmp_path, capsys):
    (tmp_path / "w.npy").write_bytes(b"not numpy")
    assert score(tmp_path / "w.npy", "--out", tmp_path / "out.npy") == 2
    assert "w.npy: not an .npy file" in said(capsys)
    assert score(tmp_path / "absent.npy", "--out", tmp_path / "out.npy") == 2
    assert "absent.npy: No such file" in said(capsys)


def test_a_recording_shorter_than_a_window_is_refused(tmp_path, motion, capsys):
    assert score(write_csv(tmp_path / "wrist.csv", motion[:199]), "--out", tmp_path / "out.csv") == 2
    assert "shorter than one window (199 rows on the grid, 3.98 s; one window is 200 samples, 4 s)" in said(capsys)


def test_a_recording_of_gaps_only_is_refused(tmp_path, motion, capsys):
    slow = write_csv(tmp_path / "wrist.csv", motion[:200], np.arange(200) / 2)  # 2 Hz
    assert score(slow, "--out", tmp_path / "out.csv") == 2
    assert "every window has a gap in it" in said(capsys)


def test_where_the_output_cannot_go_is_said_before_the_work(tmp_path, recording, capsys):
    for out, message in [
        (tmp_path / "absent" / "out.csv", "cannot be written there"),
        (tmp_path / "out.npy", "expected a name that ends in .csv"),
        (recording, "that is the input"),
    ]:
        assert score(recording, "--out", out) == 2
        assert message in said(capsys)
    assert os.listdir(tmp_path) == ["wrist.csv"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--frame", "x,y,y"], "axes 'x,y,y': expected three different axes"),
        (["--frame", "-x,y,z"], "a mirror image"),
        (["--variant", "float99"], "float99"),
    ],
)
def test_a_bad_option_is_one_clear_line(tmp_path, recording, capsys, words, message):
    assert score(recording, "--out", tmp_path / "out.csv", *words) == 2
    assert message in said(capsys)
    assert not (tmp_path / "out.csv").exists()


def test_a_missing_bundle_is_refused(tmp_path, recording, capsys):
    words = ["score", str(recording), "--bundle", str(tmp_path / "none"), "--out", str(tmp_path / "out.csv")]
    assert main(words) == 2
    assert "none" in said(capsys)


def test_an_output_that_fails_half_way_leaves_what_was_there(tmp_path, monkeypatch):
    out = tmp_path / "out.csv"
    out.write_text("before")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Exception, match="No space left on device"):
        write_whole(out, b"after", named="--out")
    assert out.read_text() == "before"
    assert os.listdir(tmp_path) == ["out.csv"]


def test_on_a_terminal_it_shows_how_far_it_is_and_ctrl_c_leaves_nothing(tmp_path, motion):
    recording = write_csv(tmp_path / "wrist.csv", np.tile(motion, (40, 1)))
    out = tmp_path / "out.csv"
    words = [sys.executable, "-m", "gateway", "score", str(recording), "--bundle", str(DEMO), "--out", str(out)]
    ours, theirs = pty.openpty()
    process = subprocess.Popen(words, stderr=theirs, stdout=subprocess.DEVNULL, cwd=ROOT)
    os.close(theirs)
    shown = b""
    while b"of 599 windows" not in shown:
        shown += os.read(ours, 4096)
    process.send_signal(signal.SIGINT)
    drained = threading.Thread(target=lambda: [*iter(lambda: _read(ours), b"")], daemon=True)
    drained.start()
    assert process.wait(30) == 130
    drained.join(10)
    os.close(ours)
    assert b"reading wrist.csv" in shown
    assert b"[#" in shown or b"[-" in shown
    assert os.listdir(tmp_path) == ["wrist.csv"]


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # Linux says EIO when the other side is gone
        return b""


def test_without_a_terminal_there_is_no_progress(tmp_path, recording, capsys):
    assert score(recording, "--out", tmp_path / "out.csv") == 0
    assert capsys.readouterr().err == ""


@pytest.mark.real_data
def test_the_real_recording_through_the_real_model(real_data, tmp_path, capsys):
    """Some 15 s: the model is converted first, which needs TensorFlow."""
    from converter.convert import convert

    model, scaler = real_data / "model" / "pretrained_1dcnn_bilstm.keras", real_data / "model" / "config.json"
    convert(model, scaler, tmp_path / "bundle", variants=["float32"], parity_windows=300)
    capsys.readouterr()
    pair = sorted((real_data / "recording").glob("*.xlsx"))
    words = ["score", *map(str, pair), "--bundle", str(tmp_path / "bundle"), "--out", str(tmp_path / "out.csv")]
    assert main(words) == 0
    text = capsys.readouterr().out
    for line in (
        "rows on the grid  181700 at 50 Hz (3634.0 s)",
        "windows           1816 of 200 samples, one every 100",
        "gaps              0, 0 windows left out for them",
        "repeated samples  496 left out",  # 240 and 256 samples carry a time that was there before
        "classes           hand_tapping 1816 (100.0%)",
    ):
        assert line in text
    rows = predictions(tmp_path / "out.csv")
    assert len(rows) == 1816
    assert np.mean([float(row["confidence"]) for row in rows]) == pytest.approx(0.87, abs=0.005)
