"""What is refused, and in which words. What is read is held against Keras in test_lowering.py and test_convert.py."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from converter.errors import ModelRejected
from converter.keras_file import read_keras_file
from converter.layers import Affine, Conv1d, Dense, Flatten, Recurrent


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewritten(path: Path, target: Path, **changed: bytes | None) -> Path:
    """The same zip with other members: config, metadata, weights; None leaves one out."""
    names = {"config": "config.json", "metadata": "metadata.json", "weights": "model.weights.h5"}
    contents = members(path) | {names[key]: value for key, value in changed.items()}
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in contents.items():
            if content is not None:
                archive.writestr(name, content)
    return target


@pytest.fixture
def with_layer(small_keras: Path, tmp_path: Path) -> Callable[..., Path]:
    """with_layer(number, module=..., inner={...}, setting=value): the small model with another config of one layer."""

    def change(number: int, entry: dict[str, Any] | None = None, **settings: Any) -> Path:
        config = json.loads(members(small_keras)["config.json"])
        layer = config["config"]["layers"][number]
        layer |= entry or {}
        layer["config"] |= settings
        return rewritten(small_keras, tmp_path / "changed.keras", config=json.dumps(config).encode())

    return change


@pytest.fixture
def with_weight(small_keras: Path, tmp_path: Path) -> Callable[[str, Any], Path]:
    """with_weight(path, values): the small model with another dataset in its HDF5 file; None deletes it."""
    import h5py

    def change(name: str, values: Any) -> Path:
        file = io.BytesIO(members(small_keras)["model.weights.h5"])
        with h5py.File(file, "r+") as weights:
            del weights[name]
            if values is not None:
                weights[name] = values
        return rewritten(small_keras, tmp_path / "changed.keras", weights=file.getvalue())

    return change


def refusal(path: Path) -> ModelRejected:
    with pytest.raises(ModelRejected) as caught:
        read_keras_file(path)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return caught.value


def test_layers_come_in_order_with_a_line_for_people(small_keras):
    source = read_keras_file(small_keras)
    network = source.network
    assert (network.window, network.channels, network.classes) == (24, 6, 4)
    kinds = [type(layer) for layer in network.layers]
    assert kinds == [Conv1d, Affine, Recurrent, Affine, Flatten, Dense, Affine, Dense]
    assert network.architecture == (
        "Input(24, 6)",
        "Conv1D(8, 2, relu)",
        "BatchNormalization",
        "Dropout(0.1)",
        "Bidirectional(LSTM(6, sequences))",
        "BatchNormalization",
        "Flatten",
        "Dense(5, relu)",
        "BatchNormalization",
        "Dense(4, softmax)",
    )
    assert source.keras_version
    assert source.saved


SETTINGS = [  # what it shows, layer, change of its entry, settings, the message after the path
    ("an unknown layer", 1, {"class_name": "Conv3D"}, {}, "layer 1 'conv1d{}' (Conv3D): not supported"),
    (
        "a lambda",
        3,
        {"class_name": "Lambda"},
        {},
        "layer 3 'dropout{}' (Lambda): not supported: its code is in the file",
    ),
    (
        "a custom class",
        1,
        {"module": "my.layers", "registered_name": "my>Conv1D"},
        {},
        "layer 1 'conv1d{}' (Conv1D): a custom class of my.layers, whose code the converter does not run",
    ),
    ("padding", 1, {}, {"padding": "reflect"}, "(Conv1D): padding='reflect'"),
    ("groups", 1, {}, {"groups": 4}, "(Conv1D): groups=4 do not divide 6 channels and 8 filters"),
    ("channels first", 1, {}, {"data_format": "channels_first"}, "(Conv1D): data_format='channels_first'"),
    ("no stride", 1, {}, {"strides": [0]}, "(Conv1D): strides=[0], expected 1 or more"),
    ("an unknown activation", 1, {}, {"activation": "mine"}, "(Conv1D): activation='mine'"),
    ("sparsemax", 1, {}, {"activation": "sparsemax"}, "activation='sparsemax', which Keras does not compute as it is"),
    ("glu", 7, {}, {"activation": "glu"}, "(Dense): activation='glu', which halves its input"),
    (
        "a custom activation layer",
        7,
        {},
        {"activation": {"class_name": "ReLU", "module": "my.layers", "config": {}}},
        "(Dense): a custom class of my.layers, whose code the converter does not run",
    ),
    ("an activation of one's own", 7, {}, {"activation": {"module": "my"}}, "(Dense): activation={'module': 'my'}"),
    ("half precision", 7, {}, {"dtype": "mixed_float16"}, "(Dense): computes in mixed_float16"),
    ("another merge", 4, {}, {"merge_mode": "max"}, "(Bidirectional): merge_mode='max'"),
    ("another axis", 2, {}, {"axis": 3}, "(BatchNormalization): axis=3 of an input (23, 8)"),
    ("another size", 7, {}, {"units": 6}, "(Dense): kernel is float32 (276, 5), expected float (276, 6)"),
    ("a bias too few", 7, {}, {"use_bias": False}, "(Dense): 2 weights in the file, expected kernel"),
    ("a window too short", 0, {}, {"batch_shape": [None, 1, 6]}, "its input of 1 steps is shorter than its kernel"),
]


HINTS = {  # words of an error, words of the way out; the last one else
    "code": "No code of the file is run",
    "Lambda": "No code of the file is run",
    "computes in": "dtype policy float32",
    "in the file": "Save the model again",
    "is float32": "Save the model again",
    "": "docs/bundle.md lists those that convert",
}


@pytest.mark.parametrize(("shows", "number", "entry", "changes", "words"), SETTINGS, ids=[row[0] for row in SETTINGS])
def test_a_layer_that_cannot_be_converted_is_named(shows, number, entry, changes, words, with_layer):
    error = refusal(with_layer(number, entry, **changes))
    before, _, after = words.partition("{}")
    assert before in str(error)
    assert after in str(error)
    assert HINTS[next((key for key in HINTS if key in str(error)), "")] in error.hint
    assert len(error.hint) < 250


@pytest.mark.parametrize(
    ("shape", "words", "hint"),
    [
        ([None, None, 6], "input shape [None, None, 6], expected [null, window", "keras.Input((window, channels))"),
        ([None, 24], "input shape [None, 24], expected [null, window", "keras.Input((window, channels))"),
        ([None, 100_001, 6], "a window of 100001 samples, expected at most 100000", "Use a shorter window."),
    ],
)
def test_an_input_that_is_no_window_is_refused_with_what_would_be_one(shape, words, hint, with_layer):
    error = refusal(with_layer(0, batch_shape=shape))
    assert words in str(error)
    assert hint in error.hint


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"activation": "softmax"}, "activation='softmax'"),
        ({"recurrent_activation": "mine"}, "recurrent_activation='mine'"),
        ({"stateful": True}, "stateful=True, expected False"),
        ({"return_state": True}, "return_state=True, expected False"),
        ({"go_backwards": True}, "both of its layers read the sequence in the same direction"),
    ],
)
def test_an_lstm_that_cannot_be_converted_is_refused(setting, words, small_keras, tmp_path):
    config = json.loads(members(small_keras)["config.json"])
    config["config"]["layers"][4]["config"]["layer"]["config"] |= setting
    path = rewritten(small_keras, tmp_path / "changed.keras", config=json.dumps(config).encode())
    assert f"(Bidirectional): {words}" in str(refusal(path))


def test_real_lambdas_and_classes_of_one_s_own_are_refused_unrun(tmp_path):
    import keras

    @keras.saving.register_keras_serializable("mine")
    class Doubled(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return 2 * x

    for layer, words in ((keras.layers.Lambda(lambda x: 2 * x), "(Lambda): not supported"), (Doubled(), "(Doubled)")):
        model = keras.Sequential(
            [keras.Input((24, 6)), layer, keras.layers.Flatten(), keras.layers.Dense(2, "softmax")]
        )
        model.save(tmp_path / "model.keras")
        assert words in str(refusal(tmp_path / "model.keras"))


def test_a_model_without_softmax_at_the_end_is_refused(with_layer):
    error = refusal(with_layer(9, activation="linear"))
    assert "the model ends with Dense(4, linear)" in str(error)
    assert error.hint.startswith("It must end with Dense(n, softmax).")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(value, with_weight):
    kernel = np.zeros((5, 4), np.float32)
    kernel[3, 2] = value
    assert "layer 9 'dense" in str(refusal(with_weight("layers/dense_1/vars/0", kernel)))
    assert "(Dense): kernel holds NaN or infinity" in str(refusal(with_weight("layers/dense_1/vars/0", kernel)))


def test_weights_that_are_missing_or_elsewhere_are_refused(with_weight):
    import h5py

    name = "layers/dense_1/vars/0"
    assert "(Dense): 1 weights in the file, expected kernel, bias" in str(refusal(with_weight(name, None)))
    outside = with_weight(name, h5py.ExternalLink("/etc/other.h5", "/kernel"))
    assert "no intact .keras file" in str(refusal(outside)) or "not stored in the file itself" in str(refusal(outside))
    inside = with_weight(name, h5py.SoftLink("/layers/dense/vars/0"))
    assert "kernel is not stored in the file itself" in str(refusal(inside))
    assert "expected float (5, 4)" in str(refusal(with_weight(name, np.zeros((5, 4), np.int32))))


def test_a_variance_below_zero_is_refused(with_weight):
    path = with_weight("layers/batch_normalization/vars/3", np.full(8, -1, np.float32))
    assert "(BatchNormalization): moving_variance is negative" in str(refusal(path))


def test_a_missing_file_or_member_is_refused(tmp_path, small_keras):
    assert "No such file or directory" in str(refusal(tmp_path / "none.keras"))
    assert f"{tmp_path} is a folder" in str(refusal(tmp_path))
    for member in ("config", "metadata", "weights"):
        path = rewritten(small_keras, tmp_path / "changed.keras", **{member: None})
        assert "no intact .keras file: There is no item named" in str(refusal(path))


CONTENTS = [  # what it shows, changed members
    ("no HDF5", {"weights": b"not HDF5"}),
    ("an empty HDF5", {"weights": b""}),
    ("no JSON", {"config": b"{"}),
    ("JSON of another kind", {"config": b"[]"}),
    ("nested without end", {"config": b"[" * 100_000}),
    ("layers of another kind", {"config": b'{"class_name": "Sequential", "config": {"layers": 7}}'}),
    ("metadata of another kind", {"metadata": b'"3.12"'}),
]


@pytest.mark.parametrize(("shows", "changed"), CONTENTS, ids=[row[0] for row in CONTENTS])
def test_a_corrupt_member_is_refused(shows, changed, small_keras, tmp_path):
    error = refusal(rewritten(small_keras, tmp_path / "changed.keras", **changed))
    assert "no intact .keras file" in str(error)
    assert error.hint == "Save the model again with Keras 3: model.save('name.keras')."


def test_a_zip_that_would_fill_the_memory_is_refused(small_keras, monkeypatch):
    monkeypatch.setattr("converter.keras_archive._WEIGHTS_BYTES_MAX", 20_000)
    assert "model.weights.h5 unpacks to more than 20000 bytes" in str(refusal(small_keras))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused_in_a_sentence(data, small_keras, tmp_path):
    content = bytearray(small_keras.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    for _ in range(data.draw(st.integers(1, 4))):
        if content:
            content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path = tmp_path / "damaged.keras"
    path.write_bytes(content)
    try:
        read_keras_file(path)
    except ModelRejected:
        refusal(path)


SOMETHING = st.sampled_from([None, True, -1, 0, 3, 1.5, float("nan"), "", "tanh", [], [0], {}, {"config": {}}])


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_config_is_read_or_refused_in_a_sentence(data, small_keras, tmp_path):
    """Whatever stands in place of one value of the layers' configuration."""
    config = json.loads(members(small_keras)["config.json"])
    at: Any = config["config"]["layers"]
    while True:
        key = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
        if not isinstance(at[key], (dict, list)) or not at[key] or data.draw(st.integers(0, 9)) == 0:
            break
        at = at[key]
    at[key] = data.draw(SOMETHING)
    path = rewritten(small_keras, tmp_path / "changed.keras", config=json.dumps(config).encode())
    try:
        read_keras_file(path)
    except ModelRejected:
        refusal(path)
