"""What people see, in terminals as narrow as 80 columns: nothing is cut, nothing goes over the edge."""

import json

import pytest

from converter.cli import main
from converter.convert import convert
from converter.gate import Times
from converter.inspection import OperatorEntry, TensorEntry, TfliteInspection
from converter.tables import show_conversion, show_tflite
from gateway.bundle import load_bundle

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

WIDTHS = [80, 100, 130]


@pytest.fixture
def demo(request):
    return request.config.rootpath / "models" / "demo"


@pytest.fixture(params=WIDTHS)
def shown(request, capsys, monkeypatch):
    """shown(call): the lines that it prints on a terminal of so many columns."""

    def run(call):
        capsys.readouterr()
        with monkeypatch.context() as patched:
            patched.setattr("sys.stdout.isatty", lambda: True, raising=False)
            patched.setenv("COLUMNS", str(request.param))
            patched.setenv("TERM", "dumb")
            call()
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= request.param
        assert not any("…" in line for line in lines)
        return lines

    return run


def test_the_conversion_s_table_says_each_figure(shown, demo):
    bundle = load_bundle(demo)
    lines = shown(lambda: show_conversion(bundle, {name: Times(3.214, 5.678) for name in bundle.manifest.variants}))
    rows = [line.split() for line in lines]
    assert ["float32", "*", "2,000,896", "3.21", "5.68"] in rows
    assert ["dynamic", "514,992", "3.21", "5.68"] in rows
    parity = bundle.manifest.variants["dynamic"].parity
    shares = (parity.top1_agreement, parity.clear_agreement, parity.worst_class_agreement)
    figures = ["-" if share is None else f"{share:.2%}" for share in shares]
    figures += [f"{value:.1e}" for value in (parity.dp_max, parity.dp_p99, parity.dp_mean)]
    assert ["dynamic", f"{parity.windows:,}", "walks", *figures] in rows
    said = " ".join(" ".join(lines).split())
    assert "worst class: of those that Keras names on 200 windows or more; -: there are none" in said
    assert "mixed is" not in said


def test_a_mixed_variant_that_gains_nothing_is_explained(shown, save, write_config, tmp_path):
    from keras import layers

    model = save([layers.Flatten(), layers.Dense(4, activation="softmax")], shape=(8, 3))
    config = write_config(window=8, scaler_mean=[0] * 3, scaler_scale=[1] * 3, sensor_cols=["Ax", "Ay", "Az"])
    out = tmp_path / "small"
    bundle = convert(model, config, out, variants=["float32", "mixed"], parity_windows=300)
    assert (out / "mixed.tflite").read_bytes() == (out / "float32.tflite").read_bytes()
    lines = shown(lambda: show_conversion(bundle, {name: Times(1, 1) for name in bundle.manifest.variants}))
    said = " ".join(" ".join(lines).split())
    assert "mixed is the same as float32: no weight is large enough for smaller storage to gain anything" in said
    assert said.count("measured on 300 walks") == 1


def test_the_layers_of_a_keras_file_have_a_line_each(shown, reference_keras):
    lines = shown(lambda: main(["inspect", str(reference_keras)]))
    rows = [line.split() for line in lines]
    assert ["Bidirectional(LSTM)", "(198,", "128)", "49,664", "9,732,096"] in [row[1:] for row in rows]
    assert "parameters: 499,131, of which trainable 498,587" in lines
    assert "multiply-accumulates a window: 18,488,992 (18.5 M)" in lines


def test_a_total_that_leaves_layers_out_says_so(shown, tmp_path):
    import keras

    window = keras.Input((24, 6))
    mapped = keras.layers.EinsumDense("abc,cd->abd", output_shape=(24, 6))(window)
    keras.Model(window, keras.layers.Dense(3)(mapped)).save(tmp_path / "m.keras")
    lines = shown(lambda: main(["inspect", str(tmp_path / "m.keras")]))
    assert f"multiply-accumulates a window: at least {24 * 6 * 3} (0.0 M)" in lines


def test_a_bundle_is_summed_up_before_its_details(shown, demo):
    lines = shown(lambda: main(["inspect", str(demo)]))
    rows = [line.split() for line in lines]
    summary = next(row for row in rows if row[:2] == ["float32", "*"])
    dp_max = load_bundle(demo).manifest.variants["float32"].parity.dp_max
    assert (summary[2], summary[4:7]) == ("2,000,896", ["MB", "100.00%", f"{dp_max:.1e}"])
    assert ["lstm7/kernel_i,f,c,o", "const", "INT8", "(64,", "32)", "4", "x", "2,048", "1", "scale"] in rows
    assert ["UNIDIRECTIONAL_SEQUENCE_LSTM", "3", "(1,", "198,", "64)", "4,866,048"] in rows


def test_a_check_keeps_its_whole_digest(shown, demo):
    lines = shown(lambda: main(["verify", str(demo)]))
    assert load_bundle(demo).digest in "".join(line.strip() for line in lines)
    checks = 3 + 4 * len(load_bundle(demo).manifest.variants)  # of the whole; of each variant
    assert sum("holds" in line.split() for line in lines) == checks


def test_names_longer_than_the_terminal_go_on_in_the_next_line(shown):
    name = "model/" + "block_of_layers/" * 12 + "kernel"
    tensors = [TensorEntry(number, f"{name}{number}", "output", "FLOAT32", (8,), 32, 0, None) for number in (0, 1)]
    operators = (OperatorEntry(0, "ADD", 1, (1, 8), 0),)
    found = TfliteInspection(1, "0" * 64, operators, tuple(tensors), 8, 0, 0, 0, None)
    lines = shown(lambda: show_tflite("x.tflite", found))
    text = "".join(line.split()[0] for line in lines if line.strip())
    assert f"{name}0{name}1" in text


def test_in_a_pipe_a_sentence_stays_one_line(demo, capsys):
    assert main(["inspect", str(demo)]) == 0
    lines = capsys.readouterr().out.splitlines()
    (made_from,) = [line for line in lines if line.startswith("made from: ")]
    assert made_from.endswith("Dense(11, softmax)")


def test_json_has_all_that_is_known(demo, reference_keras, capsys):
    def printed(*words):
        assert main(["inspect", *map(str, words), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    keras = printed(reference_keras)
    assert {key for key in keras if not isinstance(keras[key], list)} == {
        *("path", "sha256", "size", "parameters", "trainable", "stored", "macs")
    }
    assert len(keras["layers"]) == 17
    assert set(keras["layers"][0]) == {"name", "kind", "output", "parameters", "macs"}
    tflite = printed(demo / "dynamic.tflite")
    assert len(tflite["operators"]) == 20
    assert {entry["kind"] for entry in tflite["tensors"]} == {"input", "output", "constant", "variable", "computed"}
    assert set(tflite) >= {"size", "sha256", "parameters", "macs", "arena", "variables", "memory"}
    bundle = printed(demo)
    assert bundle["manifest"]["labels"] == list(load_bundle(demo).manifest.labels)
    assert bundle["variants"]["dynamic"]["operators"] == tflite["operators"]
