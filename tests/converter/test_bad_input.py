"""What the command says of input that cannot be used: one line, the way out below it, exit code 2, nothing written."""

import os
import re
import resource
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from converter.cli import main
from gateway.bundle import load_bundle, pack_bundle

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

REPOSITORY = Path(__file__).resolve().parents[2]
DEMO = REPOSITORY / "models" / "demo"
STEPS = re.compile(r"\[ *\d+\.\d s\] |reading |checking |loading ")


def words_of(stderr: str) -> tuple[str, str]:
    """The error and the way out."""
    said = [line for line in stderr.splitlines() if not STEPS.match(line)]
    assert len(said) == 2, stderr
    assert said[0].startswith("error: ")
    assert said[1].startswith("  ")
    return said[0].removeprefix("error: "), said[1].strip()


@pytest.fixture
def refused(tmp_path, capfd, monkeypatch) -> Callable[..., tuple[str, str]]:
    """refused(words...): runs the command in a folder of its own, and gives the error and the way out."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def run(*words: str | Path) -> tuple[str, str]:
        before = set(tmp_path.rglob("*"))
        capfd.readouterr()
        try:
            code = main([str(word) for word in words])
        except SystemExit as left:
            code = left.code
        out, err = capfd.readouterr()
        assert (code, out) == (2, ""), err
        assert set(tmp_path.rglob("*")) == before
        return words_of(err)

    return run


@pytest.fixture
def convert(refused, small_keras, write_config) -> Callable[..., tuple[str, str]]:
    """convert(options..., model=..., scaler=...): of a conversion that would succeed otherwise."""

    def run(*options: str | Path, model: Path = small_keras, scaler: Path | None = None) -> tuple[str, str]:
        out = () if "--out" in options else ("--out", "bundle")
        return refused("convert", model, "--scaler", scaler or write_config(), *out, *options)

    return run


# Models


def of_layers(save: Any, *layers: Any, shape: tuple[int, ...] = (24, 6)) -> Path:
    return save([*layers], shape=shape)


def functional(save: Any, inputs: int, outputs: int) -> Path:
    import keras

    windows = [keras.Input((24, 6)) for _ in range(inputs)]
    flat = keras.layers.Flatten()(windows[0] if inputs == 1 else keras.layers.Add()(windows))
    heads = [keras.layers.Dense(4, activation="softmax")(flat) for _ in range(outputs)]
    path = save([keras.layers.Flatten()]).with_name(f"{inputs}_{outputs}.keras")
    keras.Model(windows, heads).save(path)
    return path


def own_class(save: Any) -> Path:
    import keras

    @keras.saving.register_keras_serializable("mine")
    class Doubled(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return 2 * x

    return of_layers(save, Doubled(), keras.layers.Flatten(), keras.layers.Dense(4, activation="softmax"))


def with_weights(save: Any, value: float) -> Path:
    import keras

    kernel = np.full((144, 4), value, np.float32)
    kernel[::2] *= -1
    model = keras.Sequential(
        [keras.Input((24, 6)), keras.layers.Flatten(), keras.layers.Dense(4, activation="softmax")]
    )
    model.layers[-1].set_weights([kernel, np.zeros(4, np.float32)])
    path = save([keras.layers.Flatten()]).with_name(f"{value}.keras")
    model.save(path)
    return path


def unbuilt(save: Any) -> Path:
    import keras

    path = save([keras.layers.Flatten()]).with_name("unbuilt.keras")
    with pytest.warns(UserWarning, match="not yet been built"):
        keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(4, activation="softmax")]).save(path)
    return path


def layer(name: str, *arguments: Any, **settings: Any) -> Any:
    import keras

    return getattr(keras.layers, name)(*arguments, **settings)


MODELS: list[tuple[str, Callable[[Any], Path], str, str]] = [  # what it shows, model, words of error and way out
    (
        "another rank",
        lambda save: of_layers(save, layer("Dense", 4, activation="softmax"), shape=(24,)),
        "input shape [None, 24], expected [null, window, channels]",
        "keras.Input((window, channels))",
    ),
    ("two inputs", lambda save: functional(save, 2, 1), "the model has 2 inputs, expected one", "Save a part"),
    ("two outputs", lambda save: functional(save, 1, 2), "the model has 2 outputs, expected one", "Save a part"),
    (
        "logits",
        lambda save: of_layers(save, layer("Flatten"), layer("Dense", 4)),
        "the model ends with Dense(4, linear)",
        "have a softmax added: --softmax.",
    ),
    (
        "one probability",
        lambda save: of_layers(save, layer("Flatten"), layer("Dense", 1, activation="sigmoid")),
        "the model ends with Dense(1, sigmoid), of shape (1,)",
        "softmax over two or more classes",
    ),
    (
        "a Lambda",
        lambda save: of_layers(save, layer("Lambda", abs), layer("Flatten"), layer("Dense", 4, activation="softmax")),
        "(Lambda): not supported",
        "write it with Keras' own layers and keras.ops in a functional keras.Model",
    ),
    ("a class of one's own", own_class, "(Doubled): not supported", "write it with Keras' own layers"),
    (
        "a layer that does not convert",
        lambda save: of_layers(save, layer("Masking"), layer("LSTM", 4), layer("Dense", 4, activation="softmax")),
        "(Masking): not supported",
        'docs/bundle.md lists those that convert, under "Making one"',
    ),
    (
        "another type",
        lambda save: of_layers(save, layer("Flatten"), layer("Dense", 4, activation="softmax", dtype="mixed_float16")),
        "(Dense): computes in mixed_float16",
        "with the dtype policy float32",
    ),
    ("NaN", lambda save: with_weights(save, np.nan), "kernel holds NaN or infinity", "train again with smaller steps"),
    ("never built", unbuilt, "the shape of its input is not in the file", "model.build("),
]


@pytest.mark.parametrize(("shows", "model", "words", "way_out"), MODELS, ids=[row[0] for row in MODELS])
def test_a_model_that_cannot_be_converted(shows, model, words, way_out, convert, save):
    error, hint = convert(model=model(save))
    assert words in error
    assert way_out in hint
    assert len(hint) < 250


def test_weights_so_large_that_keras_itself_overflows(convert, save):
    error, hint = convert("--parity-windows", "300", model=with_weights(save, 3e38))
    assert "Keras itself answers NaN to some windows" in error
    assert "train again with smaller steps" in hint


def rezipped(path: Path, target: Path, more: dict[str, bytes], *, deflated: bool = False) -> Path:
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()} | more
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return target


def claimed(small: Path, target: Path) -> Path:
    """An array that claims a thousand million numbers and holds none."""
    import h5py

    with zipfile.ZipFile(small) as archive:
        target.write_bytes(archive.read("model.weights.h5"))
    with h5py.File(target, "r+") as file:
        del file["layers/dense_1/vars/0"]
        file.create_dataset("layers/dense_1/vars/0", (10**9, 4), "f4", chunks=(1000, 4))
    return rezipped(small, target, {"model.weights.h5": target.read_bytes()})


def weights_alone(good: Path, new: Path) -> None:
    """As model.save_weights writes them, under a name that does not tell."""
    import keras

    model = keras.saving.load_model(good, compile=False)
    model.save_weights(written := new.with_name("x.weights.h5"))
    written.rename(new)


def folder(target: Path) -> Path:
    target.mkdir()
    return target


def pipe(target: Path) -> Path:
    os.mkfifo(target)
    return target


FILES: list[tuple[str, Callable[[Path, Path], object], str]] = [  # what it shows, (a good one, the file to make), words
    ("cut in the middle", lambda good, new: new.write_bytes(good.read_bytes()[:20_000]), "no intact .keras file"),
    ("cut by a byte", lambda good, new: new.write_bytes(good.read_bytes()[:-1]), "no intact .keras file"),
    ("empty", lambda good, new: new.write_bytes(b""), "no intact .keras file: File is not a zip file"),
    ("text", lambda good, new: new.write_text("hello"), "no intact .keras file: File is not a zip file"),
    ("an empty zip", lambda good, new: zipfile.ZipFile(new, "w").close(), "no intact .keras file"),
    ("a folder", lambda good, new: folder(new), "is a folder"),
    ("a pipe", lambda good, new: pipe(new), "is no file"),
    ("missing", lambda good, new: None, "No such file or directory"),
    ("a member above", lambda good, new: rezipped(good, new, {"../x": b""}), "its member '../x' lies outside of it"),
    ("a member at the root", lambda good, new: rezipped(good, new, {"/tmp/x": b""}), "'/tmp/x' lies outside of it"),
    ("a member of Windows", lambda good, new: rezipped(good, new, {"..\\x": b""}), "lies outside of it"),
    (
        "a bomb of weights",
        lambda good, new: rezipped(good, new, {"model.weights.h5": bytes(513 << 20)}, deflated=True),
        "model.weights.h5 unpacks to more than 536870912 bytes",
    ),
    (
        "a bomb of text",
        lambda good, new: rezipped(good, new, {"config.json": b" " * (33 << 20)}, deflated=True),
        "config.json unpacks to more than 33554432 bytes",
    ),
    ("an array that claims much", claimed, "its arrays have 40000"),
    ("weights alone", lambda good, new: weights_alone(good, new), "holds weights without the architecture"),
]


@pytest.mark.parametrize(("shows", "make", "words"), FILES, ids=[row[0] for row in FILES])
def test_a_keras_file_that_is_none(shows, make, words, refused, convert, small_keras, tmp_path):
    """By every command that takes one, before TensorFlow is loaded or anything is unpacked."""
    path = tmp_path / "x.keras"
    make(small_keras, path)
    for error, hint in (
        convert(model=path),
        refused("inspect", path),
        refused("verify", DEMO, "--against", path),
    ):
        assert words in error
        assert str(path) in error
        assert "model" in hint


CONVERTED: list[tuple[str, Callable[[Path], object], str]] = [  # what it shows, the file to make, words
    ("bundle", lambda new: shutil.copytree(DEMO, new), "is already a bundle"),
    ("bundle.zip", lambda new: pack_bundle(load_bundle(DEMO), new), "is already a bundle"),
    ("float32.tflite", lambda new: shutil.copy(DEMO / "float32.tflite", new), "is already a TFLite file"),
]


@pytest.mark.parametrize(("name", "make", "words"), CONVERTED, ids=[row[0] for row in CONVERTED])
def test_what_was_converted_before_is_recognised(name, make, words, refused, convert, tmp_path):
    path = tmp_path / name
    make(path)
    for error, hint in (convert(model=path), refused("verify", DEMO, "--against", path)):
        assert error == f"{path} {words}"
        assert "Give the Keras model (.keras, .h5) that it was made from; converter inspect shows" in hint


def test_a_model_that_was_never_built_cannot_be_counted(refused, save):
    error, hint = refused("inspect", unbuilt(save))
    assert "the shape of its input is not in the file" in error
    assert "model.build(" in hint


# Scaler and labels

CONFIGS: list[tuple[str, dict[str, object], str]] = [  # what it shows, changed keys, words
    (
        "fewer labels",
        {"label_to_activity": {"0": "a", "1": "b"}, "activity_to_label": None},
        "2 labels, the model has 4",
    ),
    (
        "more labels",
        {"label_to_activity": {str(n): f"a{n}" for n in range(5)}, "activity_to_label": None},
        "5 labels, the model has 4 outputs",
    ),
    ("another window", {"window_size": 25}, "window_size is 25, the model's window is 24"),
    ("means of other channels", {"scaler_mean": [0.0] * 5}, "scaler_mean has 5 channels, the model takes 6"),
    ("a zero scale", {"scaler_scale": [1, 1, 1, 0, 1, 1]}, "is 0, expected above 0"),
    ("NaN", {"scaler_mean": [0, 0, float("nan"), 0, 0, 0]}, "scaler_mean.2: Input should be a finite number"),
    ("contradicting labels", {"activity_to_label": {"activity_0": 1}}, "contradict each other"),
]


@pytest.mark.parametrize(("shows", "changes", "words"), CONFIGS, ids=[row[0] for row in CONFIGS])
def test_a_scaler_that_does_not_fit(shows, changes, words, convert, write_config):
    error, hint = convert(scaler=write_config(**changes))
    assert words in error
    assert hint


@pytest.mark.parametrize(
    ("content", "words"), [(b"", "is no JSON"), (b"\xff\x00", "is no JSON"), (None, "Is a directory")]
)
def test_a_scaler_that_is_none(content, words, convert, tmp_path):
    path = tmp_path / "x.json"
    path.mkdir() if content is None else path.write_bytes(content)
    error, _ = convert(scaler=path)
    assert words in error


# Options

OPTIONS: list[tuple[list[str], str]] = [
    (["--labels", "a,b"], "--labels: 2 labels, the model has 4 outputs"),
    (["--labels", "a,b,c,d,e"], "--labels: 5 labels, the model has 4 outputs"),
    (["--labels", "a,b,b,c"], "labels stand twice: a, b, b, c"),
    (["--labels", f"a,b,c,{'d' * 101}"], "--labels: 'dddddddddddddddddddd'... has 101 characters, expected 1 to 100"),
    (["--name", "x" * 101], "--name: 'xxxxxxxxxxxxxxxxxxxx'... has 101 characters, expected 1 to 100"),
    (["--name", os.fsdecode(b"\xff")], "--name: '\\udcff' is no text"),
    (["--frame-description", os.fsdecode(b"\xff")], "--frame-description: '\\udcff' is no text"),
    (["--parity-windows", "299"], "parity on 299 windows, expected 300 to 100000"),
    (["--parity-windows", "1000000000"], "parity on 1000000000 windows, expected 300 to 100000"),
    (["--seed", "-1"], "a seed of -1, expected 0 or more"),
    (["--min-agreement", "nan"], "an agreement of nan is asked for, expected above 0 and at most 1"),
    (["--variants", "float64"], "variant 'float64': expected one of float32"),
    (["--variants", ","], "no variant: expected some of float32"),
    (["--frame", "x,y"], "argument --frame: 'x,y' does not name each of x, y and z once"),
    (["--wrist", "third"], "argument --wrist: invalid choice: 'third'"),
    (["--sclaer", "x"], "unrecognized arguments: --sclaer x"),
    (["--model-card", "none.md"], "--model-card none.md: No such file or directory"),
    (["--model-card", sys.executable], "is no UTF-8 text"),
    (["--probe", "none.csv"], "none.csv: No such file or directory"),
    (["--reference", "none.npy"], "none.npy: No such file or directory"),
    (["--report", "none/r.html"], "--report none/r.html: its folder does not exist"),
    (["--report", "."], "--report .: exists and is no file"),
    (["--softmax"], "the model ends with softmax already"),
]


@pytest.mark.parametrize(("options", "words"), OPTIONS, ids=[" ".join(row[0])[:30] for row in OPTIONS])
def test_an_option_that_cannot_be(options, words, convert):
    error, hint = convert(*options)
    assert words in error
    assert hint


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--windows", "0"], "--windows 0: expected 1 to 100000"),
        (["--windows", "1000000"], "--windows 1000000: expected 1 to 100000"),
        (["--seed", "-1"], "--seed -1: expected 0 or more"),
        (["--scaler", "none.json"], "none.json: No such file or directory"),
    ],
)
def test_an_option_of_verify_that_cannot_be(options, words, refused):
    error, _ = refused("verify", DEMO, *options)
    assert words in error


def test_a_recording_of_nothing(convert, tmp_path):
    (tmp_path / "empty.csv").write_text("")
    for option in ("--probe", "--reference"):
        error, _ = convert(option, tmp_path / "empty.csv")
        assert "empty.csv" in error


# Bundles

BUNDLES: list[tuple[str, Callable[[Path, Path], object], str]] = [
    ("cut in the middle", lambda good, new: new.write_bytes(good.read_bytes()[:20_000]), "no intact zip"),
    ("empty", lambda good, new: new.write_bytes(b""), "no intact zip"),
    ("missing", lambda good, new: None, "found nothing"),
    ("a folder without manifest", lambda good, new: folder(new), "manifest.json: found No such file"),
    ("a member above", lambda good, new: rezipped(good, new, {"../x": b""}), "the member '../x'"),
    ("a member at the root", lambda good, new: rezipped(good, new, {"/etc/x": b""}), "the member '/etc/x'"),
    ("a member in a folder", lambda good, new: rezipped(good, new, {"a/x": b""}), "the member 'a/x'"),
    ("a bomb", lambda good, new: rezipped(good, new, {"x": bytes(257 << 20)}, deflated=True), "at most 268435456"),
    ("another digest", lambda good, new: rezipped(good, new, {"model_card.md": b"#"}), "model_card.size"),
]


@pytest.mark.parametrize(("shows", "make", "words"), BUNDLES, ids=[row[0] for row in BUNDLES])
def test_a_bundle_that_is_none(shows, make, words, refused, tmp_path):
    path = tmp_path / "x.zip"
    make(pack_bundle(load_bundle(DEMO), tmp_path / "good.zip").path, path)
    for words_given in (["inspect", path], ["verify", path], ["pack", path, "out.zip"]):
        error, hint = refused(*words_given)
        assert words in error
        assert str(path) in error
        assert hint


@pytest.mark.parametrize("make", [pipe, lambda path: path.write_text("TFL3"), lambda path: path.write_bytes(bytes(8))])
def test_a_tflite_file_that_is_none(make, refused, tmp_path):
    make(tmp_path / "x.tflite")
    error, hint = refused("inspect", tmp_path / "x.tflite")
    assert "x.tflite" in error
    assert hint == "Give a Keras model (.keras, .h5), a .tflite file, or a bundle."


# Places


def test_a_place_where_something_else_stands(refused, convert, tmp_path):
    (tmp_path / "file").write_text("mine")
    shutil.copytree(DEMO, tmp_path / "bundle")
    for out, words in {
        tmp_path: "exists and is no bundle",
        tmp_path / "file": "exists and is no bundle",
        tmp_path / "file" / "x": "file is no folder",
        tmp_path / "bundle": "bundle exists",
    }.items():
        error, hint = convert("--out", out)
        assert words in error
        assert hint.startswith("Choose another path")
    (tmp_path / "x.zip").write_text("mine")
    pipe(tmp_path / "pipe.zip")
    for out, words in {
        tmp_path / "x.zip": "x.zip exists",
        tmp_path / "x.tar": "expected a name that ends in .zip",
        tmp_path / "none" / "x.zip": "No such file or directory",
        tmp_path / "file" / "x.zip": "Not a directory",
        tmp_path / "pipe.zip": "exists and is no file",
    }.items():
        error, hint = refused("pack", DEMO, out)
        assert words in error
        assert hint.startswith("Choose another")
    assert (tmp_path / "file").read_text() == (tmp_path / "x.zip").read_text() == "mine"


def run_command(*words: str | Path, cwd: Path, prefix: tuple[str, ...] = (), file_bytes: int | None = None) -> Any:
    """In a process of its own; file_bytes: what the medium still takes of one file."""

    def limit() -> None:
        if file_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))

    return subprocess.run(
        [*prefix, sys.executable, "-m", "converter", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        preexec_fn=limit,
    )


def test_a_full_medium_leaves_nothing(small_keras, write_config, tmp_path):
    work = folder(tmp_path / "work")
    done = run_command("pack", DEMO, "demo.zip", cwd=work, file_bytes=100_000)
    assert (done.returncode, list(work.iterdir())) == (2, [])
    assert "demo.zip cannot be written: File too large" in words_of(done.stderr)[0]
    words = ["convert", small_keras, "--scaler", write_config(), "--parity-windows", "300", "--variants", "float32"]
    done = run_command(*words, "--out", "new/bundle", cwd=work, file_bytes=5_000)
    assert (done.returncode, list(work.iterdir())) == (2, [])
    assert "bundle cannot be written: File too large" in words_of(done.stderr)[0]


def test_a_medium_that_is_full_after_the_bundle_says_that_it_stands(small_keras, write_config, tmp_path):
    work = folder(tmp_path / "work")
    words = ["convert", small_keras, "--scaler", write_config(), "--parity-windows", "300"]
    words += ["--variants", "float32,dynamic"]  # their report is larger than either
    done = run_command(*words, "--out", "bundle", "--report", "r.html", cwd=work, file_bytes=20_000)
    assert (done.returncode, [path.name for path in work.iterdir()]) == (2, ["bundle"])
    error, hint = words_of(done.stderr)
    assert error == "--report r.html: File too large"
    assert hint.startswith("The bundle is written")
    load_bundle(work / "bundle")


@pytest.fixture
def unprivileged() -> tuple[str, ...]:
    """What goes before a command so that permissions hold, for root too."""
    if os.geteuid() != 0:
        return ()
    tool = shutil.which("setpriv")
    if tool is None:
        pytest.skip("root may read and write everywhere, and setpriv is not there")
    return (tool, "--bounding-set=-dac_override,-dac_read_search", "--")


def test_permissions_that_lack_are_said(unprivileged, small_keras, write_config, tmp_path):
    work, closed = folder(tmp_path / "work"), folder(tmp_path / "closed")
    secret = tmp_path / "secret.keras"
    shutil.copy(small_keras, secret)
    secret.chmod(0)
    closed.chmod(0o555)
    to = ["--scaler", write_config(), "--out"]
    for words, expected in (
        (["convert", secret, *to, "bundle"], "secret.keras: Permission denied"),
        (["inspect", secret], "secret.keras: Permission denied"),
        (["verify", DEMO, "--against", secret], "secret.keras: Permission denied"),
        (["convert", small_keras, *to, closed / "bundle"], f"no permission in {closed}"),
        (["convert", small_keras, *to, closed / "new" / "bundle"], f"no permission in {closed}"),
        (["convert", small_keras, *to, "bundle", "--report", closed / "r.html"], "no permission to write there"),
        (["pack", DEMO, closed / "demo.zip"], "demo.zip cannot be written: Permission denied"),
    ):
        done = run_command(*words, cwd=work, prefix=unprivileged)
        assert done.returncode == 2
        assert expected in words_of(done.stderr)[0]
    assert (list(work.iterdir()), list(closed.iterdir())) == ([], [])


# Damage


def damage(data: st.DataObject, content: bytes) -> bytes:
    changed = bytearray(content)
    if data.draw(st.integers(0, 4)) == 0:
        del changed[data.draw(st.integers(0, len(changed))) :]
    for _ in range(data.draw(st.integers(1, 6))):
        if changed:
            changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    return bytes(changed)


def said(capfd: Any, *words: str | Path) -> int:
    """The exit code; what fails is said in one line and the way out, and never a traceback."""
    capfd.readouterr()
    code = main([str(word) for word in words])
    _, err = capfd.readouterr()
    if code == 2:
        words_of(err)
    assert code in (0, 1, 2), err
    assert "Traceback" not in err
    return code


DAMAGED = {"suppress_health_check": [HealthCheck.function_scoped_fixture], "deadline": None}


@settings(max_examples=40, **DAMAGED)
@given(data=st.data())
def test_a_damaged_bundle_is_refused_in_a_sentence(data, tmp_path, capfd, packed_demo):
    path = tmp_path / "x.zip"
    path.write_bytes(damage(data, packed_demo))
    said(capfd, "pack", path, tmp_path / "out.zip", "--force")
    said(capfd, "verify", path)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@settings(max_examples=3000, **DAMAGED)
@given(data=st.data())
def test_many_damaged_bundles_are_refused_in_a_sentence(data, tmp_path, capfd, packed_demo):
    path = tmp_path / "x.zip"
    path.write_bytes(damage(data, packed_demo))
    said(capfd, "pack", path, tmp_path / "out.zip", "--force")
    said(capfd, "verify", path)


@pytest.fixture(scope="module")
def packed_demo(tmp_path_factory) -> bytes:
    return pack_bundle(load_bundle(DEMO), tmp_path_factory.mktemp("packed") / "demo.zip").path.read_bytes()


@settings(max_examples=25, **DAMAGED)
@given(data=st.data())
def test_a_damaged_keras_file_is_shown_or_refused_in_a_sentence(data, tmp_path, capfd, small_keras):
    path = tmp_path / "x.keras"
    path.write_bytes(damage(data, small_keras.read_bytes()))
    said(capfd, "inspect", path)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@settings(max_examples=1500, **DAMAGED)
@given(data=st.data())
def test_many_damaged_keras_files_are_refused_in_a_sentence(data, tmp_path, capfd, small_keras, write_config):
    path = tmp_path / "x.keras"
    path.write_bytes(damage(data, small_keras.read_bytes()))
    said(capfd, "inspect", path)
    words = ["convert", path, "--scaler", write_config(), "--out", tmp_path / "b", "--parity-windows", "300"]
    said(capfd, *words, "--variants", "float32", "--force")


@pytest.mark.parametrize("variant", ["float32", "dynamic"])
@settings(max_examples=15, **DAMAGED)
@given(data=st.data())
def test_a_damaged_tflite_file_is_shown_or_refused_in_a_sentence(variant, data, tmp_path, capfd):
    """What the runtime makes of it happens in another process, which it may take down."""
    path = tmp_path / "x.tflite"
    path.write_bytes(damage(data, (DEMO / f"{variant}.tflite").read_bytes()))
    said(capfd, "inspect", path)


def test_a_script_that_reads_json_gets_nothing_of_what_fails(refused, tmp_path):
    (tmp_path / "x.keras").write_bytes(b"")
    refused("inspect", tmp_path / "x.keras", "--json")
    refused("verify", tmp_path, "--json")
