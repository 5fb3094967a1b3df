"""Models of any channels: what they are called, and the whole way from Keras to answers on a recording."""

import csv
import json

import numpy as np
import pytest

from converter.channels import channel_names, channel_units
from converter.cli import main as converter_main
from converter.convert import convert
from converter.errors import ScalerRejected
from converter.verification import verify
from gateway.cli import main as gateway_main
from gateway.errors import InputRejected
from gateway.inference import load_predictor
from gateway.monitoring.features import FEATURES
from gateway.motion.samples import CHANNELS

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SIX = ["Ax_w", "Ay_w", "Az_w", "Gx_w", "Gy_w", "Gz_w"]


@pytest.mark.parametrize(
    ("shows", "count", "given_names", "columns", "expected"),
    [
        ("six without names are a wearable's", 6, None, None, CHANNELS),
        ("the training's columns", 3, None, SIX[:3], ("Ax", "Ay", "Az")),
        ("in their order", 6, None, SIX[3:] + SIX[:3], ("Gx", "Gy", "Gz", "Ax", "Ay", "Az")),
        ("given ones come first", 2, ["Ay", "p"], SIX, ("Ay", "p")),
    ],
)
def test_channels_are_named_by_the_training_or_by_hand(shows, count, given_names, columns, expected):
    assert channel_names(count, given=given_names, columns=columns, path="c.json") == expected


NAMES_REFUSED = [  # what it shows, count, given, columns, the message, words of the way out
    ("three without names", 3, None, None, "c.json names no channels, and the model takes 3", "--channels Ax,Ay,Az or"),
    ("four without names", 4, None, None, "c.json names no channels, and the model takes 4", "with --channels"),
    ("one too few", 3, ["Ax", "Ay"], None, "--channels: Ax, Ay: 2, the model takes 3 channels", "Name each once"),
    ("other columns", 3, None, SIX, "c.json: sensor_cols: Ax, Ay, Az, Gx, Gy, Gz: 6, the model takes 3", "each once"),
    ("twice", 2, None, ["Ax", "Ax_w"], "c.json: sensor_cols: Ax more than once", "Name each once"),
    ("no name", 2, None, ["Ax", "_w"], "c.json: sensor_cols: a name of 0 characters, expected 1 to 100", "each once"),
    ("a long one", 2, ["Ax", "n" * 101], None, "--channels: a name of 101 characters, expected 1 to 100", "each once"),
]


@pytest.mark.parametrize(
    ("count", "given_names", "columns", "message", "way_out"),
    [row[1:] for row in NAMES_REFUSED],
    ids=[row[0] for row in NAMES_REFUSED],
)
def test_names_that_do_not_fit_are_refused_with_the_way_out(count, given_names, columns, message, way_out):
    with pytest.raises(ScalerRejected) as caught:
        channel_names(count, given=given_names, columns=columns, path="c.json")
    assert str(caught.value).startswith(message)
    assert way_out in caught.value.hint
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("shows", "names", "given_units", "expected"),
    [
        ("a wearable's are known", ["Gz", "Ax"], [], ("deg/s", "m/s^2")),
        ("one for each", ["Ax", "p"], ["m/s^2", "hPa"], ("m/s^2", "hPa")),
        ("by name", ["p", "Ax", "Mx"], ["Mx = uT", "p=hPa"], ("hPa", "m/s^2", "uT")),
    ],
)
def test_units_are_known_or_given(shows, names, given_units, expected):
    assert channel_units(names, given_units) == expected


UNITS_REFUSED = [  # what it shows, names, given, the message
    ("none of an unknown one", ["Ax", "Mx"], [], "no unit is known of the channel Mx"),
    ("none of two", ["Mx", "My"], [], "no unit is known of the channels Mx, My"),
    ("one too few", ["Ax", "Ay"], ["m/s^2"], "--units: m/s^2: 1, the model takes 2 channels"),
    ("both ways", ["Mx", "My"], ["uT", "My=uT"], "--units: uT names no channel"),
    ("of no channel", ["Ax"], ["Mx=uT"], "--units: Mx is none of Ax"),
    ("twice", ["Mx"], ["Mx=uT", "Mx=nT"], "--units: Mx more than once"),
    ("another than wearables give", ["Ax"], ["g"], "--units: Ax in g, expected m/s^2"),
    ("an empty one", ["Mx"], ["Mx="], "--units: Mx: a unit of 0 characters, expected 1 to 100"),
    ("a long one", ["Mx"], ["u" * 101], "--units: Mx: a unit of 101 characters, expected 1 to 100"),
    ("a line break", ["M\nx"], [], "no unit is known of the channel M\\nx"),
]


@pytest.mark.parametrize(
    ("names", "given_units", "message"), [row[1:] for row in UNITS_REFUSED], ids=[row[0] for row in UNITS_REFUSED]
)
def test_units_that_do_not_fit_are_refused(names, given_units, message):
    with pytest.raises(ScalerRejected) as caught:
        channel_units(names, given_units)
    assert str(caught.value) == message
    assert caught.value.hint


# The whole way.

MEAN = {"Ax": 3.2, "Ay": 1.3, "Az": -3.5, "Gx": 0.6, "Gy": 0.2, "Gz": 0.1, "Mx": 20, "My": -5, "p": 1013}
SCALE = {"Ax": 6.6, "Ay": 4.4, "Az": 3.2, "Gx": 49.9, "Gy": 14.8, "Gz": 14.2, "Mx": 30, "My": 30, "p": 4}


@pytest.fixture
def made(save, write_config, tmp_path):
    """made(taken, columns=..., **arguments of convert): the Keras file, the JSON, the bundle."""

    def make(taken, window=50, columns=None, **arguments):
        from keras import layers

        model = save(
            [
                layers.Conv1D(8, 3, activation="relu"),
                layers.LSTM(6, return_sequences=True),
                layers.Flatten(),
                layers.Dense(4, activation="softmax"),
            ],
            shape=(window, len(taken)),
        )
        config = write_config(
            window=window,
            sensor_cols=columns,
            scaler_mean=[MEAN[name] for name in taken],
            scaler_scale=[SCALE[name] for name in taken],
        )
        out = tmp_path / "bundle"
        bundle = convert(model, config, out, variants=["float32", "dynamic"], parity_windows=300, **arguments)
        return model, config, bundle

    return make


@pytest.fixture
def motion():
    """20 s at 50 Hz of the six channels, m/s² and deg/s: quiet enough that gravity shows."""
    rng = np.random.default_rng(4)
    quiet = np.tile([0.0, 0.0, 9.80665, 0.0, 0.0, 0.0], (3000, 1)) + rng.normal(size=(3000, 6)) * 0.05
    return quiet + rng.normal(size=(3000, 6)) * [2, 2, 2, 40, 40, 40] * (np.arange(3000) % 500 > 250)[:, np.newaxis]


@pytest.fixture
def recording(tmp_path, motion):
    path = tmp_path / "wrist.csv"
    rows = np.column_stack([np.arange(len(motion)) / 50, motion])
    np.savetxt(path, rows, delimiter=",", header="timestamp_s,Ax,Ay,Az,Gx,Gy,Gz", comments="", fmt="%.9g")
    return path


def windows_of(values, window=50):
    return np.stack([values[first : first + window] for first in range(0, len(values) - window + 1, window // 2)])


def keras_answers(model, windows, channels):
    import keras

    scaled = (windows - [MEAN[name] for name in channels]) / [SCALE[name] for name in channels]
    loaded = keras.saving.load_model(model, compile=False)
    return np.asarray(loaded(scaled.astype(np.float32), training=False))


def scored(bundle, file, out):
    assert gateway_main(["score", str(file), "--bundle", str(bundle.path), "--out", str(out)]) == 0
    if out.suffix == ".npy":
        return np.load(out)
    with out.open(newline="") as table:
        return np.array(
            [[float(row[f"p_{label}"]) for label in bundle.manifest.labels] for row in csv.DictReader(table)]
        )


WEARABLE_S = [  # what it shows, the channels as the training names them, where each stands in the recording, unit
    ("the accelerometer alone", ["Ax_w", "Ay_w", "Az_w"], [0, 1, 2], ["m/s^2"] * 3),
    ("the gyroscope alone", ["Gx", "Gy", "Gz"], [3, 4, 5], ["deg/s"] * 3),
    ("the gyroscope first", SIX[3:] + SIX[:3], [3, 4, 5, 0, 1, 2], ["deg/s"] * 3 + ["m/s^2"] * 3),
    ("one axis", ["Gy"], [4], ["deg/s"]),
]


@pytest.mark.parametrize(("columns", "places", "units"), [r[1:] for r in WEARABLE_S], ids=[r[0] for r in WEARABLE_S])
def test_a_model_of_some_of_a_wearable_s_channels_answers_a_recording_as_keras_does(
    columns, places, units, made, motion, recording, tmp_path, capsys
):
    channels = [column.removesuffix("_w") for column in columns]
    model, config, bundle = made(channels, columns=columns, probe=[recording], reference=[recording])
    manifest = bundle.manifest
    assert (list(manifest.channels), list(manifest.units)) == (channels, units)
    assert manifest.variants["float32"].probes["recording"].windows == 119
    assert (
        f"| {channels[0]} | {MEAN[channels[0]]:g} | {SCALE[channels[0]]:g} |"
        in (bundle.path / "model_card.md").read_text()
    )
    windows = windows_of(motion)[:, :, places].astype(np.float32)
    expected = keras_answers(model, windows, channels)
    np.testing.assert_allclose(scored(bundle, recording, tmp_path / "out.csv"), expected, atol=1e-3)
    np.save(tmp_path / "w.npy", windows)
    np.testing.assert_allclose(scored(bundle, tmp_path / "w.npy", tmp_path / "out.npy"), expected, atol=1e-3)
    done = verify(bundle.path, against=model, scaler=config, windows=200)
    assert [check for check in done.checks if not check.passed] == []
    assert {check.what: check.found for check in done.checks}["channels"] == ", ".join(channels)


@pytest.mark.parametrize(("taken", "place"), [(CHANNELS[:3], 0), (CHANNELS[3:], 3)], ids=["accelerometer", "gyroscope"])
def test_a_recording_of_the_one_sensor_that_the_model_takes_is_enough(taken, place, made, motion, tmp_path):
    rows = np.column_stack([np.arange(len(motion)) / 50, motion[:, place : place + 3]])
    path, header = tmp_path / "one.csv", ",".join(("timestamp_s", *taken))
    np.savetxt(path, rows, delimiter=",", header=header, comments="", fmt="%.9g")
    model, _, bundle = made(taken, channels=taken, probe=[path], reference=[path])
    assert bundle.manifest.variants["float32"].probes["recording"].windows == 119
    own = ("A", "acc_") if taken == CHANNELS[:3] else ("G", "gyro_")
    assert set(bundle.manifest.drift_reference) == {name for name in FEATURES if name.startswith(own)}
    windows = windows_of(motion)[..., place : place + 3].astype(np.float32)
    expected = keras_answers(model, windows, taken)
    np.testing.assert_allclose(scored(bundle, path, tmp_path / "out.csv"), expected, atol=1e-3)


def test_a_model_for_other_sensors_converts_and_the_gateway_refuses_it_in_words(made, recording, tmp_path, capsys):
    channels = [*CHANNELS, "Mx", "My", "p"]
    training = np.random.default_rng(2).normal([0, 0, 9.8, 0, 0, 0, 20, -5, 1013], 0.3, (60, 50, 9))
    np.savez(tmp_path / "training.npz", windows=training, labels=np.arange(60) % 4)
    units = ["Mx=uT", "My=uT", "p=hPa"]
    model, config, bundle = made(channels, channels=channels, units=units, reference=[tmp_path / "training.npz"])
    assert bundle.manifest.units[6:] == ("uT", "uT", "hPa")
    assert bundle.manifest.reference_data.channels["p"].mean == pytest.approx(1013, abs=0.1)
    assert set(bundle.manifest.drift_reference) == set(bundle.drift_sketches()) == set(FEATURES)
    windows = np.random.default_rng(1).normal(size=(20, 50, 9)) * [SCALE[c] for c in channels] + [
        MEAN[c] for c in channels
    ]
    expected = keras_answers(model, windows.astype(np.float32), channels)
    np.testing.assert_allclose(load_predictor(bundle, "float32").predict(windows), expected, atol=1e-4)
    done = verify(bundle.path, against=model, scaler=config, windows=200)
    assert [check for check in done.checks if not check.passed] == []
    refusal = "the gateway refuses it: the model takes Mx, My, p, which no wearable gives"
    assert {check.what: check.found for check in done.checks}["channels"] == refusal
    words = ["score", str(recording), "--bundle", str(bundle.path), "--out", str(tmp_path / "out.csv")]
    assert gateway_main(words) == 2
    error = capsys.readouterr().err
    assert f"bundle {bundle.path}: the model takes Mx, My, p, which no wearable gives" in error
    assert len(error.splitlines()) == 2
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize("given_to", ["probe", "reference"])
def test_a_recording_that_cannot_give_a_channel_is_refused_by_its_name(given_to, made, recording):
    named = {"channels": ["Ax", "Mx"], "units": ["Mx=uT"]}
    with pytest.raises(InputRejected, match=r"wrist\.csv: the model takes Mx, which no wearable gives"):
        made(["Ax", "Mx"], **named, **{given_to: [recording]})


def test_the_command_names_channels_and_units(save, write_config, tmp_path, capsys):
    from keras import layers

    model = save([layers.Flatten(), layers.Dense(4, activation="softmax")], shape=(50, 3))
    config = write_config(window=50, sensor_cols=None, scaler_mean=[0] * 3, scaler_scale=[1] * 3)
    command = ["convert", str(model), "--scaler", str(config), "--out", str(tmp_path / "b"), "--parity-windows", "300"]
    command += ["--variants", "float32"]
    assert converter_main(command) == 2
    error = capsys.readouterr().err.splitlines()
    assert error[-2].startswith(f"error: {config} names no channels, and the model takes 3")
    assert error[-1] == "  Accelerometer or gyroscope? Give --channels Ax,Ay,Az or --channels Gx,Gy,Gz."
    assert converter_main([*command, "--channels", "Az,Gx,p"]) == 2
    assert "no unit is known of the channel p\n  Give --units p=UNIT, or" in capsys.readouterr().err
    assert converter_main([*command, "--channels", "Az, Gx, p", "--units", "p=hPa"]) == 0
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    assert (manifest["channels"], manifest["units"]) == (["Az", "Gx", "p"], ["m/s^2", "deg/s", "hPa"])
