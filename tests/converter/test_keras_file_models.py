"""Functional models and .h5 files that are refused, and in which words."""

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
from converter.folding import fold_affines
from converter.keras_file import read_keras_file
from converter.lowering import lower

pytestmark = pytest.mark.filterwarnings("ignore:You are saving", "ignore:__array__ implementation:DeprecationWarning")


def refusal(path: Path, **options: Any) -> ModelRejected:
    with pytest.raises(ModelRejected) as caught:
        read_keras_file(path, **options)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert caught.value.hint
    return caught.value


def entry() -> Any:
    import keras

    return keras.Input((12, 3), name="window")


def head(x: Any, **settings: Any) -> Any:
    from keras import layers

    return layers.Dense(3, **{"activation": "softmax", "name": "head"} | settings)(layers.Flatten()(x))


def two_inputs() -> Any:
    import keras

    first, second = entry(), keras.Input((12, 3), name="other")
    return keras.Model([first, second], head(keras.layers.Add()([first, second])))


def two_outputs() -> Any:
    import keras

    x = entry()
    return keras.Model(x, [head(x), head(x, name="second")])


def of(body: Callable[[Any], Any]) -> Callable[[], Any]:
    def make() -> Any:
        import keras

        x = entry()
        return keras.Model(x, body(x))

    return make


def layer(kind: str, **settings: Any) -> Callable[[], Any]:
    def body(x: Any) -> Any:
        from keras import layers

        return head(getattr(layers, kind)(**settings, name="it")(x))

    return of(body)


def attention(**called: Any) -> Callable[[Any], Any]:
    def body(x: Any) -> Any:
        from keras import layers

        made = layers.MultiHeadAttention(2, 3, name="it")(x, x, **called)
        return head(made[0] if isinstance(made, tuple) else made)

    return body


def masked_attention(x: Any) -> Any:
    from keras import layers, ops

    return head(layers.MultiHeadAttention(2, 3, name="it")(x, x, attention_mask=ops.ones((1, 12, 12))))


def of_one_s_own(x: Any) -> Any:
    """A recurrence over a cell that Keras does not have."""
    import keras

    class Cell(keras.layers.GRUCell):
        pass

    return head(keras.layers.RNN(Cell(3), name="it")(x))


def each_step(x: Any) -> Any:
    from keras import layers

    return head(layers.TimeDistributed(layers.LSTM(2), name="it")(layers.Reshape((3, 4, 3))(x)))


def with_ops(make: Callable[[Any, Any], Any]) -> Callable[[], Any]:
    def body(x: Any) -> Any:
        from keras import ops

        return head(make(ops, x))

    return of(body)


def with_state(x: Any) -> Any:
    from keras import layers

    return head(layers.GRU(3, name="it")(x, initial_state=layers.GlobalMaxPooling1D()(x)))


def image() -> Any:
    import keras

    x = keras.Input((12, 3, 1), name="window")
    return keras.Model(x, head(x))


def long(x: Any) -> Any:
    from keras import layers

    return head(layers.GRU(2, name="it")(layers.UpSampling1D(200)(x)))


def half(x: Any) -> Any:
    import keras
    from keras import layers

    inner = keras.Sequential([keras.Input((12, 3)), layers.Conv1D(2, 3, dtype="mixed_float16", name="it")], name="in")
    return head(inner(x))


REFUSED = {  # what it shows: model, words of the message after the path
    "two inputs": (two_inputs, "the model has 2 inputs, expected one"),
    "two outputs": (two_outputs, "the model has 2 outputs, expected one"),
    "an image": (image, "'window' (InputLayer): input shape [None, 12, 3, 1], expected [null, window, channels]"),
    "an attention's scores": (
        of(attention(return_attention_scores=True)),
        "layer 1 'it' (MultiHeadAttention): it is called with return_attention_scores, expected",
    ),
    "an attention's mask": (of(masked_attention), "'it' (MultiHeadAttention): it is called with attention_mask"),
    "attention in training": (of(attention(training=True)), "it is called with training, expected its input alone"),
    "a cell of one's own": (of(of_one_s_own), "'it' (RNN): a custom class of "),
    "a recurrence for each part": (of(each_step), "'it' (TimeDistributed): it wraps a recurrence, which takes one"),
    "an initial state": (of(with_state), "'it' (GRU): it is called with initial_state, expected its input alone"),
    "an operation": (with_ops(lambda ops, x: ops.sin(x)), "(Sin): an operation between tensors that is not supported"),
    "every other step": (with_ops(lambda ops, x: x[:, ::2]), "(GetItem): an operation between tensors that is not"),
    "the mean of all": (with_ops(lambda ops, x: x - ops.mean(x)), "(Mean): axis=None is over the batch too"),
    "another power": (with_ops(lambda ops, x: ops.power(x, 3)), "(Power): an operation between tensors that is not"),
    "a type": (with_ops(lambda ops, x: ops.cast(x, "float16")), "(Cast): dtype='float16', expected 'float32'"),
    "masking": (layer("Masking"), "layer 1 'it' (Masking): not supported: steps that are left out would need every"),
    "adaptive pooling": (layer("AdaptiveMaxPooling1D", output_size=3), "'it' (AdaptiveMaxPooling1D): not supported"),
    "groups over time": (layer("GroupNormalization", groups=3, axis=1), "'it' (GroupNormalization): axis=1, expected"),
    "RMS over time": (layer("RMSNormalization", axis=[1]), "'it' (RMSNormalization): axis=[1], expected the last"),
    "RMS": (layer("LayerNormalization", rms_scaling=True), "'it' (LayerNormalization): rms_scaling=True"),
    "softmax in a cell": (layer("GRU", units=2, activation="softmax"), "'it' (GRU): activation='softmax'"),
    "thousands of steps": (of(long), "'it' (GRU): 2400 steps, each of which needs operators of its own; at most 2048"),
    "half precision inside": (of(half), "'in' (Sequential): layer 1 'it' (Conv1D): computes in mixed_float16"),
    "a sequence out": (of(lambda x: x), "the model ends with Input(12, 3), of shape (12, 3)"),
    "sigmoid out": (of(lambda x: head(x, activation="sigmoid")), "the model ends with Dense(3, sigmoid)"),
}


@pytest.mark.parametrize("shows", REFUSED)
def test_what_cannot_be_converted_is_named(shows, tmp_path):
    make, words = REFUSED[shows]
    make().save(tmp_path / "model.keras")
    assert words in str(refusal(tmp_path / "model.keras"))


def test_outputs_that_are_no_logits_get_no_softmax(tmp_path):
    for activation in ("sigmoid", "softmax"):
        of(lambda x, activation=activation: head(x, activation=activation))().save(tmp_path / "model.keras")
        assert "ends with" in str(refusal(tmp_path / "model.keras", add_softmax=True))


def test_one_class_is_no_classification(tmp_path):
    import keras

    x = entry()
    keras.Model(x, keras.layers.Dense(1, activation="softmax")(keras.layers.Flatten()(x))).save(tmp_path / "m.keras")
    assert "ends with Dense(1, softmax), of shape (1,)" in str(refusal(tmp_path / "m.keras"))


def test_a_model_of_a_class_of_one_s_own_is_refused_unrun(tmp_path):
    import keras

    @keras.saving.register_keras_serializable("mine")
    class Mine(keras.Model):
        pass

    x = entry()
    Mine(x, head(x)).save(tmp_path / "model.keras")
    assert "the model is a Mine" in str(refusal(tmp_path / "model.keras"))


def test_a_lambda_is_refused_unrun_wherever_it_stands(tmp_path):
    """In the older files nothing stops Keras itself from running one."""
    import keras
    from keras import layers

    for name in ("model.keras", "model.h5"):
        model = keras.Sequential(
            [entry(), layers.Lambda(lambda x: 2 * x), layers.Flatten(), layers.Dense(2, "softmax")]
        )
        model.save(tmp_path / name)
        assert "(Lambda): not supported" in str(refusal(tmp_path / name))


def plain(tmp_path: Path, name: str = "model.h5") -> Path:
    import keras
    from keras import layers

    model = keras.Sequential(
        [entry(), layers.GRU(4, name="gru"), layers.BatchNormalization(), layers.Dense(2, "softmax")]
    )
    model.save(tmp_path / name)
    return tmp_path / name


def test_code_in_a_setting_that_the_converter_does_not_read_is_refused(tmp_path):
    import h5py

    path = plain(tmp_path)
    for setting, words in (
        ({"class_name": "Lambda", "config": {}}, "it holds a Lambda, whose code the converter does not run"),
        ({"class_name": "Mine", "module": "os.path", "config": {}}, "it holds Mine of os.path, whose code"),
    ):
        with h5py.File(path, "r+") as file:
            config = json.loads(file.attrs["model_config"])
            config["config"]["layers"][1]["config"]["kernel_initializer"] = setting
            file.attrs["model_config"] = json.dumps(config)
        assert words in str(refusal(path))


def test_an_axis_that_keras_forgets_in_an_h5_file_is_refused(tmp_path):
    """Keras 3.15 itself normalizes over the last axis alone when it loads the file."""
    layer("UnitNormalization", axis=[1, 2])().save(tmp_path / "model.h5")
    assert "'it' (UnitNormalization): axis=[1, 2], which Keras forgets" in str(refusal(tmp_path / "model.h5"))


def test_a_weight_in_an_h5_file_that_may_be_of_two_layers_is_refused(tmp_path):
    import keras

    x = entry()
    deep = keras.Sequential([keras.Input((12, 3)), keras.layers.Dense(3, name="same")], name="deep")
    inner = keras.Sequential([keras.Input((12, 3)), keras.layers.Dense(3, name="same"), deep], name="inner")
    keras.Model(x, head(inner(x))).save(tmp_path / "model.h5")
    assert "weight 'inner/same/kernel' belongs to 2 layers of the model" in str(refusal(tmp_path / "model.h5"))


def test_a_damaged_h5_file_is_refused(tmp_path):
    import h5py

    path = plain(tmp_path)
    read_keras_file(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert "is no intact .h5 file" in str(refusal(path))
    path.write_bytes(content)
    with h5py.File(path, "r+") as file:
        (kernel, *_) = file["model_weights/gru"].attrs["weight_names"]
        file["model_weights/gru"][kernel][0, 0] = np.nan
    assert "'gru" in str(refusal(path))
    assert "kernel holds NaN or infinity" in str(refusal(path))
    with h5py.File(path, "r+") as file:
        file["model_weights/gru"].attrs["weight_names"] = []
    assert "0 weights in the file, expected kernel, recurrent_kernel, bias" in str(refusal(path))
    with h5py.File(path, "r+") as file:
        del file.attrs["model_config"]
    assert "holds weights without the architecture" in str(refusal(path))


@pytest.fixture(scope="module")
def functional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Branches, a model inside, an operation, two calls of one layer."""
    import keras
    from keras import layers

    x = entry()
    inner = keras.Sequential([keras.Input((12, 3)), layers.Conv1D(3, 3, padding="same"), layers.LayerNormalization()])
    twice = layers.TimeDistributed(layers.Dense(3))
    y = layers.Concatenate()([twice(inner(x)), twice(x), layers.Bidirectional(layers.GRU(2, return_sequences=True))(x)])
    path = tmp_path_factory.mktemp("functional") / "model.keras"
    keras.Model(x, head(layers.MaxPooling1D(2)(0.5 * y + y))).save(path)
    return path


@pytest.fixture(scope="module")
def attentive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Layers over rows and columns, attention, cells, constants and parts of tensors."""
    import keras
    from keras import layers, ops

    x = entry()
    y = layers.ZeroPadding2D(((1, 0), (0, 2)))(layers.Reshape((12, 3, 1))(x))
    y = layers.AveragePooling2D((2, 1))(layers.Conv2D(3, (3, 2), padding="same", activation=layers.ReLU(6.0))(y))
    y = layers.GroupNormalization(3)(ops.max(y[:, :, 1:], axis=2))
    y = layers.MultiHeadAttention(2, 2)(y, value=y, use_causal_mask=True) + np.ones((6, 3), np.float32)
    y = layers.Dot(axes=2)([layers.Attention(use_scale=True)([y, y]), ops.clip(y, -1.0, 1.0)])
    y = layers.RNN([layers.GRUCell(2), layers.LSTMCell(3)], return_sequences=True)(layers.Conv1DTranspose(2, 3)(y))
    y = layers.Normalization(mean=[0.0, 1.0, 2.0], variance=[1.0, 2.0, 3.0])(ops.transpose(y, (0, 2, 1))[..., :3])
    path = tmp_path_factory.mktemp("attentive") / "model.keras"
    keras.Model(x, head(y)).save(path)
    return path


SOMETHING = st.sampled_from(
    [None, True, -1, 0, 3, 1.5, float("nan"), "", "tanh", "window", [], [0], {}, {"config": {}}]
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_functional_config_is_read_or_refused_in_a_sentence(data, functional, attentive, tmp_path):
    """Whatever stands in place of one value of the configuration, however deep."""
    with zipfile.ZipFile(data.draw(st.sampled_from([functional, attentive]))) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(contents["config.json"])
    at: Any = config["config"]
    while True:
        key = data.draw(st.sampled_from(sorted(at)) if isinstance(at, dict) else st.integers(0, len(at) - 1))
        if not isinstance(at[key], dict | list) or not at[key] or data.draw(st.integers(0, 9)) == 0:
            break
        at = at[key]
    at[key] = data.draw(SOMETHING)
    path = tmp_path / "changed.keras"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (contents | {"config.json": json.dumps(config).encode()}).items():
            archive.writestr(name, content)
    try:
        network = read_keras_file(path).network
    except ModelRejected:
        refusal(path)
    else:
        lower(fold_affines(network.layers), window=12, channels=3)
