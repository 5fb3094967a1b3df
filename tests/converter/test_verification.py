"""`converter verify` and `converter pack`: a bundle that holds, and what each thing that does not hold looks like."""

import base64
import json
import shutil

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from datasketches import kll_floats_sketch

from converter.cli import main
from converter.convert import convert
from converter.reference import sketches_file
from converter.verification import verify
from gateway.bundle import load_bundle, write_bundle
from gateway.bundle.manifest import Manifest
from gateway.bundle.writing import member
from gateway.inference import load_predictor, self_test
from gateway.monitoring.features import FEATURES, window_features
from gateway.monitoring.kll import kll_floats_sketch_of
from gateway.monitoring.reference import DriftReference

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

MEAN, SCALE = [3.2, 1.3, -3.5, 0.6, 0.2, 0.1], [6.6, 4.4, 3.2, 49.9, 14.8, 14.2]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    content = {
        "step_size": 12,
        "target_hz": 50,
        "scaler_mean": MEAN,
        "scaler_scale": SCALE,
        "label_to_activity": dict(enumerate("abcd")),
    }
    path = tmp_path_factory.mktemp("config") / "config.json"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(scope="module")
def made(small_keras, config, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "bundle"
    return convert(small_keras, config, out, variants=["float32", "dynamic"], parity_windows=300)


def failing(verification):
    return {check.what: check.found for check in verification.checks if not check.passed}


def rewritten(made, out, change, files=None):
    """The bundle with a changed manifest (a dict, changed in place) and changed files, its digests right again."""
    content = json.loads(made.manifest.model_dump_json())
    contents = {name: data for name, data in made.files().items() if name != "manifest.json"} | (files or {})
    sketches = [content["reference_data"]["sketches"]] if content["reference_data"] else []
    for entry in (*content["variants"].values(), content["model_card"], content["self_test"], *sketches):
        entry |= member(entry["file"], contents[entry["file"]]).model_dump()
    change(content)
    return write_bundle(out, Manifest.model_validate_json(json.dumps(content)), contents)


def test_a_fresh_bundle_holds_against_its_model_and_scaler(made, small_keras, config):
    done = verify(made.path, against=small_keras, scaler=config, windows=400)
    assert failing(done) == {}
    told = {check.what: check.found for check in done.checks}
    assert told["scaler"] == "the same file"
    for variant in made.manifest.variants:
        assert told[f"{variant}: self-test"].startswith("12 windows")
        assert "of 400 windows" in told[f"{variant}: agrees with Keras"]
    assert "same top class on 100.00%" in told["float32: agrees with Keras"]


def test_every_conversion_puts_in_a_self_test(made):
    for variant in made.manifest.variants:
        assert self_test(load_predictor(made, variant), made, variant).dp_max < 1e-5


def test_a_bundle_without_self_test_holds(made, tmp_path):
    content = json.loads(made.manifest.model_dump_json()) | {"self_test": None}
    files = {name: data for name, data in made.files().items() if name not in ("manifest.json", "self_test.npy")}
    old = write_bundle(tmp_path / "old", Manifest.model_validate_json(json.dumps(content)), files)
    done = verify(old.path)
    assert done.passed
    assert "the bundle has none" in {check.found for check in done.checks}


def test_a_cell_that_clips_fails(made, tmp_path):
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(made.model_file("float32"), 0))
    options = [operator.builtinOptions for operator in model.subgraphs[0].operators]
    next(o for o in options if isinstance(o, schema.UnidirectionalSequenceLSTMOptionsT)).cellClip = 0.5
    import flatbuffers

    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    clipped = rewritten(made, tmp_path / "clipped", lambda _: None, {"float32.tflite": bytes(builder.Output())})
    found = failing(verify(clipped.path))
    assert "clips its cell state at 0.5" in found["float32: builtin operators, no cell clipping"]
    assert "a probability is off by" in found["float32: self-test"]
    assert set(found) == {"float32: builtin operators, no cell clipping", "float32: self-test"}


def test_exchanged_variants_fail(made, tmp_path):
    exchanged = {"float32.tflite": made.model_file("dynamic")}
    found = failing(verify(rewritten(made, tmp_path / "exchanged", lambda _: None, exchanged).path))
    assert set(found) == {"float32: self-test"}


def test_bytes_that_are_no_model_fail(made, tmp_path):
    for number, content in enumerate((b"", b"\x1c\0\0\0TFL3", bytes(64))):
        broken = rewritten(made, tmp_path / str(number), lambda _: None, {"dynamic.tflite": content})
        found = failing(verify(broken.path))
        assert set(found) == {"dynamic: builtin operators, no cell clipping", "dynamic: loads"}
        assert "\n" not in "".join(found.values())


def test_operators_that_were_counted_otherwise_fail(made, tmp_path):
    changed = rewritten(made, tmp_path / "x", lambda content: content["variants"]["float32"]["operators"].update(ADD=1))
    assert "not those that the manifest counts" in "".join(failing(verify(changed.path)).values())


def test_another_keras_model_fails(made, save, tmp_path):
    from keras import layers

    other = save([layers.Flatten(), layers.Dense(4, activation="softmax")], seed=5)
    found = failing(verify(made.path, against=other, windows=100))
    assert set(found) == {"Keras file", "float32: agrees with Keras", "dynamic: agrees with Keras"}
    assert made.manifest.model.keras_sha256[:12] in found["Keras file"]
    fewer = save([layers.Flatten(), layers.Dense(3, activation="softmax")], seed=5)
    assert set(failing(verify(made.path, against=fewer, windows=100))) == {"Keras file", "outputs"}
    longer = save([layers.Flatten(), layers.Dense(4, activation="softmax")], seed=5, shape=(30, 3))
    found = failing(verify(made.path, against=longer, windows=100))
    assert set(found) == {"Keras file", "windows"}
    assert "it takes windows of (30, 3), not of (24, 6)" in found["windows"]


def test_figures_that_promise_too_much_fail(made, small_keras, tmp_path):
    dynamic = {"windows": 10_000, "top1_agreement": 1.0, "dp_max": 1e-5}

    def promise(content):
        content["variants"]["dynamic"]["parity"] |= dynamic

    def scale(content):
        content["preprocessing"]["scale"][3] /= 3

    promising = rewritten(made, tmp_path / "promising", promise)
    assert set(failing(verify(promising.path, against=small_keras, windows=300))) == {"dynamic: agrees with Keras"}
    wrong_scale = rewritten(made, tmp_path / "scale", scale)
    assert "float32: agrees with Keras" in failing(verify(wrong_scale.path, against=small_keras, windows=100))


def test_another_scaler_fails_and_says_in_what(made, config, tmp_path):
    content = json.loads(config.read_text())
    other = tmp_path / "other.json"
    other.write_text(json.dumps(content | {"scaler_mean": [0] * 6, "step_size": 6}))
    assert failing(verify(made.path, scaler=other)) == {"scaler": f"{other}: another mean, hop than the bundle's"}
    other.write_text(json.dumps(content | {"note": "more"}))
    told = {check.what: check.found for check in verify(made.path, scaler=other).checks}
    assert told["scaler"] == "another file with the same scaler"


@pytest.fixture(scope="module")
def referenced(small_keras, config, tmp_path_factory):
    """With a drift reference of 300 windows."""
    windows = np.random.default_rng(3).normal([0, 0, 9.81, 0, 0, 0], 0.3, (300, 24, 6)).astype(np.float32)
    out = tmp_path_factory.mktemp("referenced") / "bundle"
    known = DriftReference.of_windows(windows, label_counts={"a": 150, "b": 50, "c": 50, "d": 50})
    return convert(small_keras, config, out, variants=["float32"], parity_windows=300, drift_reference=known)


FEATURE = "acc_norm_mean_m_s2"


def other_sketch(values):
    return lambda sketches: sketches | {FEATURE: kll_floats_sketch_of(np.asarray(values))}


SKETCHES_FAIL = [  # what it shows, what becomes of the sketches, words of what is found
    ("of fewer values", other_sketch([9.8] * 299), "of 299 values, the manifest states 300"),
    (
        "of other values",
        other_sketch(np.linspace(9, 11, 300)),
        f"the sketch of {FEATURE}: from 9 to 11, the manifest states",
    ),
    ("no sketch", lambda sketches: sketches | {FEATURE: b"KLL"}, f"the sketch of {FEATURE}: not readable: 3 bytes"),
    ("another's", lambda sketches: sketches | {FEATURE: sketches["Ax_mean_m_s2"]}, "the manifest states"),
    ("one too few", lambda sketches: {k: v for k, v in sketches.items() if k != FEATURE}, "found 16 of other features"),
]


@pytest.mark.parametrize(("change", "words"), [row[1:] for row in SKETCHES_FAIL], ids=[row[0] for row in SKETCHES_FAIL])
def test_sketches_that_say_something_else_than_the_manifest_fail(change, words, referenced, tmp_path):
    content = sketches_file(change(referenced.drift_sketches()))
    wrong = rewritten(referenced, tmp_path / "wrong", lambda _: None, {"drift_sketches.json": content})
    found = failing(verify(wrong.path))
    assert set(found) == {"drift reference"}
    assert words in found["drift reference"]


def test_a_sketch_of_another_middle_fails(referenced, tmp_path):
    """Count and both ends are as stated, the values between are not."""
    stated = referenced.manifest.drift_reference[FEATURE]
    values = np.r_[stated.min, np.full(298, stated.min), stated.max]
    content = sketches_file(referenced.drift_sketches() | {FEATURE: kll_floats_sketch_of(values)})
    wrong = rewritten(referenced, tmp_path / "wrong", lambda _: None, {"drift_sketches.json": content})
    found = failing(verify(wrong.path))["drift reference"]
    assert f"the sketch of {FEATURE}: " in found
    assert "has the rank" in found
    assert failing(verify(referenced.path)) == {}


def test_a_sketch_that_datasketches_wrote_holds_too(referenced, tmp_path):
    """Another program may make a bundle's sketches as a stream: other bytes, the same values."""
    values = np.random.default_rng(3).normal([0, 0, 9.81, 0, 0, 0], 0.3, (300, 24, 6)).astype(np.float32)
    stream = kll_floats_sketch(200)
    stream.update(np.float32([window_features(window)[FEATURES.index(FEATURE)] for window in values]))
    content = sketches_file(referenced.drift_sketches() | {FEATURE: stream.serialize()})
    other = rewritten(referenced, tmp_path / "other", lambda _: None, {"drift_sketches.json": content})
    assert failing(verify(other.path)) == {}


def test_the_command_tells_and_its_exit_code_says_which_kind_of_wrong(made, tmp_path, capsys):
    assert main(["verify", str(made.path)]) == 0
    out = capsys.readouterr().out
    assert "float32: windows apart" in out
    assert made.digest in out
    assert "FAILS" not in out
    exchanged = {"float32.tflite": made.model_file("dynamic")}
    wrong = rewritten(made, tmp_path / "wrong", lambda _: None, exchanged)
    assert main(["verify", str(wrong.path), "--json"]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["passed"] is False
    assert "1 of 11 checks fail: do not use this bundle" in captured.err
    shutil.copytree(made.path, tmp_path / "damaged")
    (tmp_path / "damaged" / "model_card.md").write_text("another")
    assert main(["verify", str(tmp_path / "damaged")]) == 2
    assert "model_card.size" in capsys.readouterr().err
    assert main(["verify", str(made.path), "--against", str(tmp_path / "none.keras")]) == 2
    assert "No such file or directory" in capsys.readouterr().err
    assert main(["verify", str(made.path), "--windows", "0"]) == 2


def test_pack_makes_a_zip_that_verifies(made, tmp_path, capsys):
    out = tmp_path / "b.zip"
    assert main(["pack", str(made.path), str(out)]) == 0
    assert made.digest in capsys.readouterr().out
    assert load_bundle(out).digest == made.digest
    assert main(["verify", str(out)]) == 0
    assert main(["pack", str(made.path), str(out)]) == 2
    assert "--force" in capsys.readouterr().err
    assert main(["pack", str(made.path), str(out), "--force"]) == 0


def test_a_conversion_takes_its_drift_reference_from_a_file(small_keras, config, tmp_path, capsys):
    rng = np.random.default_rng(3)
    windows = np.tile([0, 0, 9.81, 0, 0, 0], (60, 24, 1)) + rng.normal(0, 0.05, (60, 24, 6))
    np.save(tmp_path / "w.npy", windows)
    arguments = ["convert", str(small_keras), "--scaler", str(config), "--parity-windows", "300", "--out"]
    given = ["--variants", "float32", "--reference", str(tmp_path / "w.npy")]
    assert main([*arguments, str(tmp_path / "b"), *given]) == 0
    bundle = load_bundle(tmp_path / "b")
    entry = bundle.manifest.drift_reference["Az_mean_m_s2"]
    assert (entry.count, entry.mean) == (60, pytest.approx(windows[:, :, 2].mean(), abs=1e-4))
    sketch = kll_floats_sketch.deserialize(
        base64.b64decode(json.loads(bundle.files()["drift_sketches.json"])["Az_mean_m_s2"])
    )
    assert (sketch.n, sketch.get_max_value()) == (60, np.float32(entry.max))
    assert bundle.manifest.reference_data.channels["Az"].count == 60 * 24
    assert failing(verify(bundle.path)) == {}
    told = {check.what: check.found for check in verify(bundle.path).checks}["drift reference"]
    assert told.startswith("17 window features of 60 windows; 6 channels of 1,440 samples; KLL sketches; from windows")
    assert main(["inspect", str(tmp_path / "b")]) == 0
    assert f"drift reference: {told}" in " ".join(capsys.readouterr().out.split())
    np.save(tmp_path / "w.npy", windows / 9.81)
    assert main([*arguments, str(tmp_path / "c"), *given]) == 2
    assert "Give it in m/s²." in capsys.readouterr().err
    assert not (tmp_path / "c").exists()
