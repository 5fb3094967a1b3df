"""What `converter inspect` counts, held against Keras, LiteRT and arithmetic by hand."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converter.cli import main
from converter.folding import fold_affines
from converter.inspection import inspect, inspect_tflite
from converter.keras_file import read_keras_file
from converter.lowering import lower
from gateway.bundle import load_bundle
from gateway.errors import InputRejected

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

REFERENCE_MACS = {  # taps x in x out x steps; (in + units) x 4 units x steps x directions; in x out
    "conv": 199 * 2 * 6 * 16 + 198 * 2 * 16 * 32,
    "lstm": 198 * 2 * 4 * 64 * (32 + 64) + 198 * 2 * 4 * 32 * (128 + 32),
    "dense": 198 * 64 * 32 + 32 * 11,
}


@pytest.fixture(scope="module")
def demo(request):
    return request.config.rootpath / "models" / "demo"


@pytest.fixture(scope="module")
def trained_keras(tmp_path_factory):
    """The reference architecture with Adam's slots, as after training; all of it trainable."""
    import keras

    from converter.architecture import reference_architecture

    model = reference_architecture(11)
    model.compile(keras.optimizers.Adam(), "sparse_categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)
    path = tmp_path_factory.mktemp("trained") / "trained.keras"
    model.save(path)
    model.save(path.with_suffix(".h5"))
    return path


def test_a_keras_model_is_counted_layer_by_layer(trained_keras):
    found = inspect(trained_keras)
    assert (found.parameters, found.stored) == (499_131, 1_496_307)
    assert found.trainable == 499_131 - 2 * (16 + 32 + 128 + 64 + 32)
    assert found.macs == sum(REFERENCE_MACS.values()) == 18_488_992
    assert (found.inputs, found.outputs) == (((None, 200, 6),), ((None, 11),))
    assert found.layers[6].output == (None, 198, 128)
    assert found.layers[6].kind == "Bidirectional(LSTM)"
    assert sum(layer.parameters for layer in found.layers) == found.parameters
    legacy = inspect(trained_keras.with_suffix(".h5"))
    assert (legacy.parameters, legacy.stored, legacy.macs) == (found.parameters, found.stored, found.macs)


def test_other_layers_are_counted_too(save):
    from keras import layers

    found = inspect(
        save(
            [
                layers.SeparableConv1D(8, 3),
                layers.DepthwiseConv1D(3, depth_multiplier=2),
                layers.GRU(5, return_sequences=True),
                layers.Bidirectional(layers.SimpleRNN(4, return_sequences=True)),
                layers.TimeDistributed(layers.Dense(9)),
                layers.Dense(7),
                layers.GlobalAveragePooling1D(),
                layers.Dense(4, activation="softmax"),
            ]
        )
    )
    by_hand = [
        22 * (3 * 6 + 6 * 8),
        20 * 3 * 16,
        20 * (16 * 15 + 5 * 15),
        20 * 2 * (5 * 4 + 4 * 4),
        20 * 8 * 9,
        20 * 9 * 7,
        0,
        7 * 4,
    ]
    assert [layer.macs for layer in found.layers] == by_hand


def test_work_over_rows_and_columns_is_known(save):
    from keras import layers

    inner = [
        layers.Reshape((24, 6, 1)),
        layers.Conv2D(8, (3, 2)),
        layers.SeparableConv2D(4, (5, 1)),
        layers.DepthwiseConv2D((2, 5)),
        layers.GlobalMaxPooling2D(),
    ]
    found = inspect(save([*inner, layers.Dense(4, activation="softmax")]))
    by_hand = [0, 22 * 5 * 3 * 2 * 8, 18 * 5 * (5 * 8 + 8 * 4), 17 * 2 * 5 * 4, 0, 4 * 4]
    assert [layer.macs for layer in found.layers] == by_hand


def _attended(save_functional, attend):
    """A window (24, 6) that attends to a sequence (11, 10) made of it; the Keras file, and what the layers say."""
    import keras
    from keras import layers

    window = keras.Input((24, 6))
    query, value = layers.Dense(10)(window), layers.Conv1D(10, 4, strides=2)(window)
    at = layers.GlobalAveragePooling1D()(attend(query, value))
    return save_functional(keras.Model(window, layers.Dense(4, activation="softmax")(at)))


def _multi_head(**settings):
    from keras import layers

    return lambda query, value: layers.MultiHeadAttention(3, 5, name="attends", **settings)(query, value)


ATTENTION = [  # what it shows, the layer called with queries (24, 10) and values (11, 10), by hand
    (
        "heads of one width",
        _multi_head(),
        24 * 10 * 15 + 2 * 11 * 10 * 15 + 3 * 24 * 11 * 5 + 3 * 24 * 11 * 5 + 24 * 15 * 10,
    ),
    (
        "values and outputs of other widths",
        _multi_head(value_dim=7, output_shape=9),
        24 * 10 * 15 + 11 * 10 * 15 + 11 * 10 * 21 + 3 * 24 * 11 * 5 + 3 * 24 * 11 * 7 + 24 * 21 * 9,
    ),
    (
        "a gate",
        _multi_head(use_gate=True),
        24 * 10 * 15 + 2 * 11 * 10 * 15 + 2 * (3 * 24 * 11 * 5) + 24 * 15 * 10 + 24 * 10 * 15,
    ),
    ("dot products", lambda q, v: _layer("Attention")([q, v]), 24 * 11 * 10 + 24 * 11 * 10),
    ("keys of their own", lambda q, v: _layer("Attention")([q, v, v * 2.0]), 24 * 11 * 10 + 24 * 11 * 10),
    ("sums", lambda q, v: _layer("AdditiveAttention")([q, v]), 24 * 11 * 10 + 24 * 11 * 10),
    ("sums of concatenations", lambda q, v: _layer("Attention", score_mode="concat")([q, v]), 24 * 11 * 10),
]


def _layer(kind, **settings):
    import keras

    return getattr(keras.layers, kind)(name="attends", **settings)


@pytest.mark.parametrize(("attend", "by_hand"), [row[1:] for row in ATTENTION], ids=[row[0] for row in ATTENTION])
def test_attention_is_counted_with_its_projections_scores_and_sums(attend, by_hand, tmp_path):
    """By hand, and as many as in the graph that is written of it."""
    path = tmp_path / "attends.keras"
    _attended(lambda model: model.save(path), attend)
    found = inspect(path)
    assert {layer.name: layer.macs for layer in found.layers}["attends"] == by_hand
    network = read_keras_file(path).network
    graph = inspect_tflite(lower(fold_affines(network.layers), window=24, channels=6), "attends")
    assert found.macs == graph.macs


def test_a_bundle_s_variants_are_counted_operator_by_operator(demo):
    found = inspect(demo)
    assert found.digest == load_bundle(demo).digest
    for name, variant in found.variants.items():
        assert variant.counted() == load_bundle(demo).manifest.variants[name].operators
        assert variant.size == load_bundle(demo).manifest.variants[name].size
        assert variant.macs == sum(REFERENCE_MACS.values())
        assert variant.variables == 2 * 2 * (64 + 32) * 4  # h and c, two directions
        assert 500_000 < variant.memory < 20_000_000
    assert found.variants["float32"].parameters == found.variants["dynamic"].parameters
    kernels = [t for t in found.variants["dynamic"].tensors if t.type == "INT8"]
    assert {(t.kind, t.scales) for t in kernels} == {("constant", 1), ("constant", 32), ("constant", 11)}
    assert [t.axis for t in kernels if t.scales > 1] == [0, 0]


def test_the_arena_is_the_largest_set_of_tensors_that_live_at_once(demo):
    """No plan can be smaller; the greedy one comes within a tenth of it here."""
    from ai_edge_litert import schema_py_generated as schema

    content = load_bundle(demo).model_file("float32")
    found = inspect_tflite(content, "x")
    graph = schema.Model.GetRootAs(content, 0).Subgraphs(0)
    uses = {}
    for number in range(graph.OperatorsLength()):
        operator = graph.Operators(number)
        for tensor in [*operator.InputsAsNumpy(), *operator.OutputsAsNumpy()]:
            uses.setdefault(int(tensor), []).append(number)
    shared = [t for t in found.tensors if t.kind in ("input", "output", "computed")]
    at_once = max(
        sum(t.size for t in shared if min(uses[t.number]) <= step <= max(uses[t.number]))
        for step in range(graph.OperatorsLength())
    )
    assert at_once <= found.arena <= 1.1 * at_once


def test_a_tflite_file_by_itself(demo):
    found = inspect(demo / "float32.tflite")
    assert found.sha256 == load_bundle(demo).manifest.variants["float32"].sha256


def test_what_is_no_model_is_refused_in_a_line(tmp_path, capsys):
    for name, content, words in [
        ("x.tflite", b"", "its identifier TFL3 is missing"),
        ("x.tflite", b"\xff\xff\xff\x7fTFL3" + bytes(40), "a damaged TFLite file"),
        ("x.keras", b"PK", "no intact .keras file"),
        ("x.h5", b"", "no intact .h5 file"),
        ("x.zip", b"", "no intact zip"),
        ("x", b"text", "its identifier TFL3 is missing"),
    ]:
        (tmp_path / name).write_bytes(content)
        assert main(["inspect", str(tmp_path / name)]) == 2
        error, *hint = capsys.readouterr().err.splitlines()
        assert words in error
        assert len(hint) == 1
    for name in ("none", "none.keras"):
        assert main(["inspect", str(tmp_path / name)]) == 2
        assert "No such file or directory" in capsys.readouterr().err


@settings(max_examples=100, deadline=None)
@given(cut=st.integers(8, 2000))
def test_a_truncated_file_is_refused(cut, demo):
    head = (demo / "dynamic.tflite").read_bytes()[:cut]
    with pytest.raises(InputRejected):
        inspect_tflite(head, "head")


def test_tables_for_people_and_json_for_scripts(trained_keras, demo, capsys):
    assert main(["inspect", str(trained_keras)]) == 0
    out = capsys.readouterr().out
    for words in ("499,131", "1,496,307", "18.5 M", "Bidirectional(LSTM)", "(198, 128)"):
        assert words in out
    assert main(["inspect", str(demo)]) == 0
    out = capsys.readouterr().out
    for words in (
        "17 window features of 7,920 windows",
        "UNIDIRECTIONAL_SEQUENCE_LSTM",
        "32 scales on axis 0",
        "the default",
        "INT8",
        "share an arena of",
    ):
        assert words in out
    assert main(["inspect", str(demo), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["variants"]["float32"]["macs"] == sum(REFERENCE_MACS.values())


@pytest.mark.real_data
def test_the_real_model_is_the_reference_architecture(real_data):
    """Its last layers alone were trained on at the end: the optimizer has slots for those 427 parameters."""
    found = inspect(real_data / "model" / "pretrained_1dcnn_bilstm.keras")
    assert (found.parameters, found.macs) == (499_131, 18_488_992)
    assert found.stored == 499_131 + 2 * found.trainable + 2
