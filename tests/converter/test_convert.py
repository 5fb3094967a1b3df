"""The whole way, on models saved by Keras: a bundle, or nothing."""

import json
import zipfile
from datetime import UTC, datetime

import numpy as np
import pytest

from converter.bundling import Measured
from converter.convert import convert
from converter.errors import ConversionFailed, ModelRejected
from converter.folding import fold_affines
from gateway.bundle import TargetRejected, load_bundle
from gateway.errors import InputRejected
from gateway.inference import load_predictor
from gateway.monitoring.reference import DriftReference

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def test_the_bundle_answers_raw_windows_as_keras_answers_scaled_ones(reference_keras, write_config, tmp_path):
    """The scaler is inside: probabilities within 1e-4, and the logits are theirs."""
    import keras

    bundle = convert(
        reference_keras, write_config(11, 200), tmp_path / "bundle", variants=["float32"], parity_windows=300
    )
    config = json.loads((tmp_path / "config.json").read_text())
    mean, scale = np.array(config["scaler_mean"]), np.array(config["scaler_scale"])
    rng = np.random.default_rng(99)
    windows = (mean + scale * np.cumsum(rng.normal(0, 0.2, (50, 200, 6)), axis=1)).astype(np.float32)
    model = keras.saving.load_model(reference_keras, compile=False)
    expected = np.asarray(model(((windows - mean) / scale).astype(np.float32), training=False))
    outputs = load_predictor(bundle, "float32").outputs(windows)
    assert np.abs(outputs.probabilities - expected).max() < 1e-4
    shifted = outputs.logits - outputs.logits.max(axis=1, keepdims=True)
    np.testing.assert_allclose(np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True), expected, atol=1e-4)


def test_the_manifest_says_what_was_done(small_keras, write_config, tmp_path):
    steps: list[str] = []
    windows = np.random.default_rng(1).normal([0, 0, 9.8, 0, 0, 0], 0.1, (60, 24, 6)).astype(np.float32)
    reference = DriftReference.of_windows(windows, label_counts={"a": 30, "b": 15, "c": 15, "d": 0})
    bundle = convert(
        small_keras,
        write_config(),
        tmp_path / "bundle",
        name="small",
        frame="-y,x,z",
        wrist="left",
        labels=["a", "b", "c", "d"],
        card="# Learnt from random numbers\n",
        drift_reference=reference,
        created_utc=datetime(2026, 1, 2, tzinfo=UTC),
        parity_windows=300,
        progress=steps.append,
    )
    manifest = load_bundle(bundle.path).manifest
    assert manifest.labels == ("a", "b", "c", "d")
    assert (manifest.window, manifest.hop, manifest.rate_hz) == (24, 12, 50.0)
    assert manifest.channels == ("Ax", "Ay", "Az", "Gx", "Gy", "Gz")
    assert manifest.units == ("m/s^2", "m/s^2", "m/s^2", "deg/s", "deg/s", "deg/s")
    assert (manifest.frame, manifest.wrist, manifest.model.name) == ("-y,x,z", "left", "small")
    assert manifest.preprocessing.scale == (6.6, 4.4, 3.2, 49.9, 14.8, 14.2)
    assert manifest.drift_reference == reference.features
    assert manifest.reference_data.channels == reference.channels
    assert manifest.reference_data.label_shares == {"a": 0.5, "b": 0.25, "c": 0.25, "d": 0.0}
    assert (manifest.reference_data.source, manifest.reference_data.windows) == ("windows", 60)
    assert load_bundle(bundle.path).drift_sketches() == reference.sketches
    assert manifest.provenance.created_utc == datetime(2026, 1, 2, tzinfo=UTC)
    assert set(manifest.provenance.libraries) == {"numpy", "keras", "tensorflow", "ai-edge-litert"}
    assert (bundle.path / "model_card.md").read_text() == "# Learnt from random numbers\n"
    assert list(manifest.variants) == ["float32", "mixed", "dynamic"]
    for variant in manifest.variants.values():
        assert (variant.parity.windows, variant.probes["extremes"].windows) == (300, 100)
        assert variant.operators["UNIDIRECTIONAL_SEQUENCE_LSTM"] == 2
    assert manifest.variants["float32"].parity.top1_agreement == 1
    assert manifest.variants["float32"].parity.dp_max <= 1e-4 < manifest.variants["dynamic"].parity.dp_max
    scaler, *normalizations = manifest.model.folded  # Keras numbers them through the whole process
    assert (scaler, [name.startswith("batch_normalization") for name in normalizations]) == ("scaler", [True] * 3)
    assert (manifest.model.kept, manifest.model.softmax_added) == ((), False)
    mixed = manifest.variants["mixed"]
    assert manifest.variants["float32"].runtimes == ("ai-edge-litert", "tflite-runtime 2.14")
    assert manifest.variants["dynamic"].runtimes == ("ai-edge-litert",)
    assert mixed.size < manifest.variants["float32"].size
    assert all("int8" in weight.alone for weight in mixed.weights.values())
    assert "windows to compare on" in " ".join(steps)


def test_a_softmax_is_added_where_it_is_asked_for(save, write_config, tmp_path):
    """The same weights with and without one in Keras: the same answers; and it is said."""
    import keras

    dense = keras.layers.Dense(4)
    path = save(
        [keras.layers.Conv1D(8, 3, padding="same"), keras.layers.BatchNormalization(), keras.layers.Flatten(), dense]
    )
    with pytest.raises(ModelRejected, match="the model ends with"):
        convert(path, write_config(), tmp_path / "bundle", parity_windows=300)
    bundle = convert(
        path, write_config(), tmp_path / "bundle", add_softmax=True, variants=["float32"], parity_windows=300
    )
    assert bundle.manifest.model.softmax_added
    assert bundle.manifest.model.kept == ("scaler",)
    window = np.random.default_rng(1).normal(0, 5, (1, 24, 6)).astype(np.float32)
    mean, scale = np.array(bundle.manifest.preprocessing.mean), np.array(bundle.manifest.preprocessing.scale)
    logits = keras.saving.load_model(path)(((window - mean) / scale).astype(np.float32), training=False)
    answer = load_predictor(bundle).predict(window)
    np.testing.assert_allclose(answer, np.asarray(keras.ops.softmax(logits)), atol=1e-4)


def test_a_bundle_without_a_card_of_its_own_says_that_it_diagnoses_nothing(small_keras, write_config, tmp_path):
    bundle = convert(small_keras, write_config(), tmp_path / "bundle", variants=["float32"], parity_windows=300)
    card = (bundle.path / "model_card.md").read_text()
    assert "no medical device" in card
    assert "| float32 | 100.00% |" in card
    assert list(bundle.manifest.variants) == ["float32"]
    assert bundle.manifest.provenance.created_utc is None


def test_the_same_input_makes_the_same_bundle(small_keras, write_config, tmp_path):
    """Its sketches too, of more values than they keep."""
    windows = np.random.default_rng(1).normal([0, 0, 9.8, 0, 0, 0], 0.3, (500, 24, 6))
    np.savez(tmp_path / "w.npz", windows=windows, labels=np.arange(500) % 4)
    given = {"parity_windows": 300, "reference": [tmp_path / "w.npz"]}
    first, again = (convert(small_keras, write_config(), tmp_path / name, **given) for name in ("first", "again"))
    assert first.digest == again.digest
    assert first.files() == again.files()
    assert len(first.drift_sketches()) == 17
    assert first.manifest.reference_data.label_shares == {f"activity_{number}": 0.25 for number in range(4)}


def test_times_stand_in_the_manifest_where_that_is_asked_for(small_keras, write_config, tmp_path):
    """They differ from run to run, so they are left out else; the table and the report have them anyway."""
    measured = Measured()
    arguments = {"variants": ["float32"], "parity_windows": 300, "measured": measured}
    kept = convert(small_keras, write_config(), tmp_path / "kept", keep_times=True, **arguments).manifest
    times = kept.variants["float32"].times
    assert times.warm_ms == pytest.approx(measured.times["float32"].warm_ms, rel=0.01)
    assert times.cold_ms == pytest.approx(measured.times["float32"].cold_ms, rel=0.01)
    assert kept.provenance.processor
    plain = convert(small_keras, write_config(), tmp_path / "plain", **arguments).manifest
    assert (plain.variants["float32"].times, plain.provenance.processor) == (None, None)


def test_a_model_that_does_not_say_what_keras_says_is_not_written(small_keras, write_config, tmp_path, monkeypatch):
    """As a fault of the converter would: here the scaler is forgotten."""
    monkeypatch.setattr("converter.convert.fold_affines", lambda layers: fold_affines(layers[1:]))
    with pytest.raises(ConversionFailed, match="the float32 variant differs from Keras: another top class on"):
        convert(small_keras, write_config(), tmp_path / "out" / "bundle", parity_windows=300)
    assert not (tmp_path / "out").exists()


def test_the_float_model_is_held_against_keras_even_where_it_is_not_written(
    small_keras, write_config, tmp_path, monkeypatch
):
    monkeypatch.setattr("converter.convert.fold_affines", lambda layers: fold_affines(layers[1:]))
    with pytest.raises(ConversionFailed):
        convert(small_keras, write_config(), tmp_path / "bundle", variants=["dynamic"], parity_windows=300)


def test_a_target_is_refused_before_any_work(small_keras, tmp_path):
    steps: list[str] = []
    (tmp_path / "there").mkdir()
    for place in (tmp_path / "there", small_keras, small_keras / "below"):
        with pytest.raises(TargetRejected):
            convert(small_keras, tmp_path / "none.json", place, progress=steps.append)
    assert steps == []


def test_a_model_that_answers_nan_is_refused(save, write_config, tmp_path):
    import keras

    path = save([keras.layers.Flatten(), keras.layers.Dense(4, activation="softmax")])
    model = keras.saving.load_model(path, compile=False)
    model.layers[1].kernel.assign(np.full((144, 4), 3e38))
    model.save(tmp_path / "huge.keras")
    with pytest.raises(ModelRejected, match=r"huge\.keras: Keras itself answers NaN to some windows"):
        convert(tmp_path / "huge.keras", write_config(), tmp_path / "bundle", parity_windows=300)


def test_a_model_that_keras_cannot_load_is_refused(small_keras, write_config, tmp_path):
    """Read as data it looks well; Keras does not know one setting."""
    path = tmp_path / "odd.keras"
    with zipfile.ZipFile(small_keras) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name).replace(b'"use_bias": true', b'"use_bias": true, "odd": 1'))
    with pytest.raises(ModelRejected, match=r"odd\.keras: Keras cannot load it: ") as caught:
        convert(path, write_config(), tmp_path / "bundle", parity_windows=300)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "bundle").exists()


ARGUMENTS = [  # what it shows, arguments, the message
    ("an unknown variant", {"variants": ["int4"]}, "variant 'int4': expected one of float32, float16, mixed, dynamic"),
    ("no variant", {"variants": []}, "no variant: expected some of float32, float16, mixed"),
    ("more than all agreement", {"min_agreement": 1.1}, r"an agreement of 1\.1 is asked for, expected above 0"),
    ("too few windows", {"parity_windows": 299}, "parity on 299 windows, expected 300 to 100000"),
    ("a name too long", {"name": "n" * 101}, "'nnnnnnnnnnnnnnnnnnnn'... has 101 characters, expected 1 to 100"),
    ("axes that are none", {"frame": "x,y", "parity_windows": 300}, "frame must name each of x, y and z once"),
]


@pytest.mark.parametrize(("shows", "arguments", "message"), ARGUMENTS, ids=[row[0] for row in ARGUMENTS])
def test_an_argument_that_cannot_be_is_refused(shows, arguments, message, small_keras, write_config, tmp_path):
    with pytest.raises(InputRejected, match=message) as caught:
        convert(small_keras, write_config(), tmp_path / "bundle", **arguments)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "bundle").exists()


@pytest.mark.real_data
def test_the_real_model_becomes_small_and_keeps_its_answers(real_data, tmp_path):
    """Of 3,000 windows that no search has seen: float32 within 2e-5; the measured plan in 0.58 MB with 99.8 % of the
    top classes, every one that is no near tie, and so the default. The search takes a minute or two on idle cores."""
    model, recording = real_data / "model", sorted((real_data / "recording").glob("*.xlsx"))
    measured = Measured()
    bundle = convert(
        model / "pretrained_1dcnn_bilstm.keras",
        model / "config.json",
        tmp_path / "bundle",
        probe=recording,
        measured=measured,
    )
    exact, mixed = (bundle.manifest.variants[name] for name in ("float32", "mixed"))
    assert (exact.parity.windows, exact.parity.top1_agreement, exact.parity.clear_agreement) == (3000, 1.0, 1.0)
    assert exact.parity.dp_max <= 2e-5
    assert mixed.size <= 580_000
    figures = [mixed.parity, *mixed.probes.values()]
    for parity in figures:
        assert parity.top1_agreement >= 0.998
        assert parity.clear_agreement == 1
    assert bundle.manifest.default_variant == "mixed", bundle.manifest.default_reason
    assert mixed.probes["recording"].windows > 1000
    assert bundle.manifest.variants["dynamic"].parity.top1_agreement > 0.95
    assert set(measured.answers) == {"float32", "mixed", "dynamic"}
    for answers in measured.answers.values():
        assert set(answers) == {"walks", "extremes", "recording"}
    assert all(0 < times.warm_ms < 1000 for times in measured.times.values())
