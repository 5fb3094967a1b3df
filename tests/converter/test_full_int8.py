"""TensorFlow's full-integer quantization, held against the specification of int8, numpy, the float model and Keras."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from converter.cli import main
from converter.convert import convert
from converter.errors import CalibrationRejected, Int8Rejected
from converter.folding import fold_affines
from converter.full_int8 import CALIBRATION_WINDOWS, calibration_windows, full_int8
from converter.keras_file import read_keras_file
from converter.layers import Conv1d, Dense, Flatten, GruCell, Layer, LstmCell, Node, Recurrent
from converter.lowering import lower
from converter.parity import random_windows
from converter.self_test import quantizes_activations
from converter.tflite import checked_operators, unpacked
from converter.training_config import TrainingConfig, read_training_config
from gateway.errors import InputRejected
from gateway.inference.interpreter import LiteRtInterpreter

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

CONFIG = TrainingConfig(
    mean=(3.2, 1.3, -3.5, 0.6, 0.2, 0.1),
    scale=(6.6, 4.4, 3.2, 49.9, 14.8, 14.2),
    labels=("a", "b", "c", "d"),
    hop=12,
    rate_hz=50.0,
    sha256="0" * 64,
)
FLOAT32, INT8, INT16, INT32 = (getattr(schema.TensorType, name) for name in ("FLOAT32", "INT8", "INT16", "INT32"))
LSTM = "UNIDIRECTIONAL_SEQUENCE_LSTM"


def weights(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1 / np.sqrt(shape[-2] if len(shape) > 1 else 1), shape)


def lstm(seed: int, channels: int, units: int) -> LstmCell:
    parts = ((channels, 4 * units), (units, 4 * units), (4 * units,))
    return LstmCell(*(weights(seed + number, *shape) for number, shape in enumerate(parts)))


def head(seed: int, values: int) -> Dense:
    return Dense(weights(seed, values, 4), weights(seed + 1, 4), "softmax")


def walks(count: int = 40, *, window: int = 24, seed: int = 5) -> np.ndarray:
    """Raw units, far beyond the training's range."""
    return random_windows(count, window=window, config=CONFIG, seed=seed)


def exact(layers: list[Layer | Node], window: int = 24) -> bytes:
    """The float model, of raw windows."""
    folded = fold_affines([CONFIG.scaler(), *layers])
    return lower(folded, window=window, channels=6)


def answers(model: bytes, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and logits, (n, classes) each."""
    interpreter = LiteRtInterpreter(model)
    both = [interpreter.run(window[np.newaxis]) for window in windows]
    return np.stack([each[0] for each in both]), np.stack([each[1] for each in both])


def operators(model: bytes) -> list[tuple[str, list[Any], list[Any]]]:
    """Name, input tensors and output tensors, in the order of computation; without the inputs that are absent."""
    read = unpacked(model)
    graph, names = read.subgraphs[0], {value: name for name, value in vars(schema.BuiltinOperator).items()}
    return [
        (
            names[read.operatorCodes[each.opcodeIndex].builtinCode],
            [graph.tensors[tensor] for tensor in each.inputs if tensor >= 0],
            [graph.tensors[tensor] for tensor in each.outputs],
        )
        for each in graph.operators
    ]


def scale_of(tensor: Any) -> np.ndarray:
    return np.asarray(tensor.quantization.scale, np.float64)


@pytest.fixture(scope="module")
def both_ways() -> list[Layer | Node]:
    """The reference's kinds of layers, smaller; four classes."""
    return [
        Conv1d(weights(1, 2, 6, 8), weights(2, 8), "relu"),
        Recurrent(lstm(3, 8, 6), lstm(6, 8, 6), sequences=True),
        Flatten(23),
        Dense(weights(9, 23 * 12, 5), weights(10, 5), "relu"),
        head(11, 5),
    ]


@pytest.fixture(scope="module")
def made(both_ways) -> bytes:
    return full_int8(both_ways, walks(), CONFIG)


def test_between_the_scaler_and_the_answers_all_is_integer(made):
    found = operators(made)
    names = [name for name, _, _ in found]
    assert names[:3] == ["MUL", "ADD", "QUANTIZE"]
    assert names[-2:] == ["DEQUANTIZE"] * 2
    for name, inputs, outputs in found[2:]:
        floats = [tensor for tensor in (*inputs, *outputs) if tensor.type == FLOAT32]
        assert len(floats) == ((name, inputs[0].type) in (("QUANTIZE", FLOAT32), ("DEQUANTIZE", INT8)))
    kernels = [inputs[1] for name, inputs, _ in found if name in ("CONV_2D", "FULLY_CONNECTED", LSTM)]
    assert [kernel.type for kernel in kernels] == [INT8] * 5
    states = [tensor.type for name, inputs, _ in found if name == LSTM for tensor in inputs if tensor.isVariable]
    assert states == [INT8, INT16] * 2
    assert quantizes_activations(made)


def test_the_file_is_used_like_the_float_one(made, both_ways):
    """Names, float32 at both ends, the signature, no clipping, alignment."""
    assert checked_operators(made)[LSTM] == 2
    signatures = []
    for content in (made, exact(both_ways)):
        interpreter = Interpreter(model_content=content)
        runner = interpreter.get_signature_runner("serving_default")
        details = {**runner.get_input_details(), **runner.get_output_details()}
        signatures.append({name: (each["name"], tuple(each["shape"]), each["dtype"]) for name, each in details.items()})
    assert signatures[0] == signatures[1]
    assert {name: each[0] for name, each in signatures[0].items()} == {n: n for n in signatures[0]}
    assert set(signatures[0]) == {"window", "probabilities", "logits"}


def test_a_dense_model_is_off_by_no_more_than_its_roundings():
    """The bound is that of the int8 specification: half a count of the input for each weight, half a count of the
    weight for each input, half a count of the bias, and one of the output."""
    dense, windows = head(20, 24 * 6), walks()
    scaled = ((windows - np.array(CONFIG.mean)) / np.array(CONFIG.scale)).reshape(len(windows), -1)
    logits = scaled @ dense.kernel + dense.bias
    step = (max(scaled.max(), 0) - min(scaled.min(), 0)) / 255
    weight_step = np.abs(dense.kernel).max(axis=0) / 127
    out_step = (max(logits.max(), 0) - min(logits.min(), 0)) / 255
    bound = step / 2 * np.abs(dense.kernel).sum(axis=0)
    bound = bound + weight_step / 2 * (np.abs(scaled) + step / 2).sum(axis=1, keepdims=True)
    bound = bound + step * weight_step / 2 + out_step * 1.01
    _, found = answers(full_int8([Flatten(24), dense], windows, CONFIG), windows)
    off = np.abs(found - logits)
    assert (off <= bound).all()
    assert off.max() > out_step / 4, "nothing was rounded: this is the float model"


def test_the_noise_is_that_of_uniform_rounding():
    """Of windows that calibrated nothing, within the calibration's range: a value that is rounded to steps is off by
    step²/12 in the mean square (Bennett, 1948), here each input, each weight and each output. Within 2 dB: neither
    better than int8 can be nor worse than it need be."""
    dense, windows = head(20, 24 * 6), walks(300)

    def scaled(some: np.ndarray) -> np.ndarray:
        return ((some - np.array(CONFIG.mean)) / np.array(CONFIG.scale)).reshape(len(some), -1)

    low, high = scaled(windows).min(), scaled(windows).max()
    logits = scaled(windows) @ dense.kernel + dense.bias
    fresh = walks(300, seed=6)
    inputs = scaled(fresh)
    outputs = inputs @ dense.kernel + dense.bias
    inside = ((inputs > low) & (inputs < high)).all(axis=1)
    inside &= ((outputs > logits.min()) & (outputs < logits.max())).all(axis=1)
    assert inside.mean() > 0.9
    noise = ((high - low) / 255) ** 2 / 12 * (dense.kernel**2).sum(axis=0)
    noise = noise + (np.abs(dense.kernel).max(axis=0) / 127) ** 2 / 12 * (inputs[inside] ** 2).sum(axis=1).mean()
    noise = noise + ((logits.max() - logits.min()) / 255) ** 2 / 12
    _, found = answers(full_int8([Flatten(24), dense], windows, CONFIG), fresh[inside])
    measured = ((found - outputs[inside]) ** 2).mean(axis=0)
    assert np.abs(10 * np.log10(measured.sum() / noise.sum())) < 2


STACKS: dict[str, list[Layer | Node]] = {
    "convolutions": [
        Conv1d(weights(1, 3, 6, 16), weights(2, 16), "relu"),
        Conv1d(weights(3, 3, 16, 16), weights(4, 16), "relu"),
        Flatten(20),
        Dense(weights(9, 20 * 16, 16), weights(10, 16), "relu"),
        head(11, 16),
    ],
    "lstm both ways": [
        Conv1d(weights(1, 2, 6, 8), weights(2, 8), "relu"),
        Recurrent(lstm(3, 8, 6), lstm(6, 8, 6), sequences=True),
        Flatten(23),
        head(11, 23 * 12),
    ],
    "gru": [
        Recurrent(GruCell(weights(3, 6, 24), weights(4, 8, 24), weights(5, 24), weights(6, 24)), None, sequences=True),
        Flatten(24),
        head(9, 24 * 8),
    ],
}


@pytest.mark.parametrize("layers", STACKS.values(), ids=STACKS)
def test_of_what_a_model_says_to_new_windows_a_tenth_at_most_is_noise(layers):
    """In the power of its logits (10 dB); where the float model's first class leads by 0.3 it stays the first."""
    windows = walks(300, seed=6)
    (wanted, logits), (found, noisy) = (
        answers(exact(layers), windows),
        answers(full_int8(layers, walks(300), CONFIG), windows),
    )
    signal, noise = ((logits - logits.mean(axis=0)) ** 2).mean(), ((noisy - logits) ** 2).mean()
    assert 0 < noise < signal / 10
    ordered = np.sort(wanted, axis=1)
    clear = ordered[:, -1] - ordered[:, -2] > 0.3
    same = wanted.argmax(axis=1) == found.argmax(axis=1)
    assert clear.sum() > 20
    assert same[clear].mean() > 0.98


def test_what_lies_beyond_the_calibration_s_range_is_cut_off():
    """Calibrated on a fifth of the motion, convolutions answer with ten times the noise."""
    layers, windows = STACKS["convolutions"], walks(300, seed=6)
    _, wanted = answers(exact(layers), windows)
    wide, narrow = (
        ((answers(full_int8(layers, walks(300) * share, CONFIG), windows)[1] - wanted) ** 2).mean()
        for share in (np.float32(1), np.float32(0.2))
    )
    assert narrow > 10 * wide


def test_each_channel_keeps_its_own_scale_into_int8():
    """One scale over m/s² and deg/s would round the acceleration to whole m/s²: here it alone decides."""
    kernel = np.zeros((24 * 6, 4))
    kernel[0::6, 0], kernel[1::6, 1], kernel[2::6, 2] = 1, 1, 1
    windows = walks(300)
    layers = [Flatten(24), Dense(kernel / 24, np.zeros(4), "softmax")]
    _, wanted = answers(exact(layers), windows)
    _, found = answers(full_int8(layers, windows, CONFIG), windows)
    scaled = (windows - np.array(CONFIG.mean)) / np.array(CONFIG.scale)
    count = (scaled.max() - scaled.min()) / 255  # of all six channels together, in standard deviations
    assert np.abs(found - wanted).max() <= 1.5 * count


def test_the_order_of_the_calibration_s_windows_is_nothing(made, both_ways):
    """Ranges are extremes over windows, each from a fresh state; the same bytes each time, too."""
    assert full_int8(both_ways, walks()[::-1], CONFIG) == made
    assert full_int8(both_ways, walks(), CONFIG) == made


@pytest.mark.parametrize("merge", ["add", "multiply"])
def test_what_an_lstm_says_has_the_range_of_an_lstm_s_output(merge):
    """|h| < 1, and its state has the same scale: also where an operator after it may write over it."""
    from converter.layers import Merge

    forward = Recurrent(lstm(30, 6, 5), None, sequences=True)
    backward = Node(Recurrent(lstm(33, 6, 5), None, sequences=True, reverse=True), (2,))
    layers = [forward, backward, Node(Merge(merge), (1, 2)), Flatten(24), head(36, 24 * 5)]
    windows = walks()
    model = full_int8(layers, windows, CONFIG)
    cells = [(inputs, outputs) for name, inputs, outputs in operators(model) if name == LSTM]
    assert len(cells) == 2
    for inputs, (output,) in cells:
        (hidden,) = [tensor for tensor in inputs if tensor.isVariable and tensor.type == INT8]
        assert scale_of(output) <= 2 / 255 + 1e-6
        assert scale_of(hidden) == scale_of(output)


def test_a_cell_state_that_climbs_beyond_64_keeps_its_tanh():
    """Gates wide open: the state goes up by one each step, to 90; then the input gate closes, and the output is tanh of
    90, which is 1. In int8 that is 1 but for a few counts of 1/128."""
    kernel, biases = np.zeros((6, 16)), np.full(16, 8.0)
    kernel[0, :4], biases[:4] = 8.0, 0.0  # the first channel opens and closes the input gate
    open_gates = LstmCell(kernel, np.zeros((4, 16)), biases)
    layers = [Recurrent(open_gates, None, sequences=False), Dense(np.eye(4), np.zeros(4), "softmax")]
    windows = walks(5, window=100)
    windows[:, :90, 0], windows[:, 90:, 0] = 20, -20
    _, wanted = answers(exact(layers, 100), windows)
    np.testing.assert_allclose(wanted, 1, atol=2e-3)
    _, found = answers(full_int8(layers, windows, CONFIG), windows)
    np.testing.assert_allclose(found, 1, atol=5 / 128)


def test_a_state_is_reset_to_what_stands_for_zero(made):
    """Not to 0, which in int8 is another number where the zero point is not 0."""
    read = unpacked(made)
    states = {i: tensor for i, tensor in enumerate(read.subgraphs[0].tensors) if tensor.isVariable}
    zeros = {i: int(tensor.quantization.zeroPoint[0]) for i, tensor in states.items()}
    assert any(zeros.values()), "all zero points are 0: the case shows nothing"
    resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(model_content=made, experimental_op_resolver_type=resolver)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], walks(1))
    interpreter.invoke()
    assert any((interpreter.get_tensor(i) != zero).any() for i, zero in zeros.items())
    interpreter.reset_all_variables()
    for i, zero in zeros.items():
        assert (interpreter.get_tensor(i) == zero).all()


@pytest.mark.parametrize("reset_after", [True, False], ids=["recurrent bias", "one bias"])
def test_each_product_of_a_gru_has_a_bias_in_its_own_scale(reset_after):
    """The specification of int8: a bias counts in input scale times weight scale. Step by step the products share
    kernels, and each has an input of its own; the first one's is the zero state."""
    units = 5
    inner = weights(43, 3 * units) if reset_after else None
    cell = GruCell(weights(40, 6, 3 * units), weights(41, units, 3 * units), weights(42, 3 * units), inner)
    layers = [Recurrent(cell, None, sequences=False), head(44, units)]
    windows = walks()
    model = full_int8(layers, windows, CONFIG)
    read = unpacked(model)
    biased = [inputs for name, inputs, _ in operators(model) if name == "FULLY_CONNECTED" and len(inputs) == 3]
    assert len(biased) == (2 + 24 * 2 + 1 if reset_after else 3)
    for entry, kernel, bias in biased:
        assert bias.type == INT32
        assert (scale_of(entry) > 0).all()
        np.testing.assert_allclose(scale_of(bias), scale_of(entry) * scale_of(kernel), rtol=1e-5)
    if inner is not None:
        written = [np.asarray(read.buffers[b.buffer].data).view(np.int32) * scale_of(b) for _, _, b in biased]
        for gates in (inner[: 2 * units], inner[2 * units :]):
            same = [
                values
                for values in written
                if np.shape(values) == gates.shape and np.allclose(values, gates, atol=0.01)
            ]
            assert len(same) == 24
    probabilities, wanted = answers(model, windows)[0], answers(exact(layers), windows)[0]
    assert np.abs(probabilities - wanted).max(axis=1).mean() < 0.1


# Against Keras, in a bundle


@pytest.fixture
def recorded(tmp_path) -> Path:
    path = tmp_path / "windows.npy"
    np.save(path, walks(60))
    return path


def test_with_windows_to_calibrate_on_int8_is_among_the_variants(small_keras, write_config, recorded, tmp_path):
    """Measured like the others. Chance would agree on a quarter, there are four classes."""
    steps: list[str] = []
    bundle = convert(
        small_keras,
        write_config(),
        tmp_path / "bundle",
        calibrate=[recorded],
        parity_windows=300,
        progress=steps.append,
    )
    manifest = bundle.manifest
    assert list(manifest.variants) == ["float32", "mixed", "dynamic", "int8"]
    int8 = manifest.variants["int8"]
    assert (int8.parity.windows, int8.probes["extremes"].windows) == (300, 100)
    assert int8.parity.top1_agreement > 0.5
    assert int8.runtimes == ("ai-edge-litert",)
    assert manifest.self_test.tolerance["int8"] == manifest.self_test.tolerance["dynamic"]
    assert "calibrating the int8 variant on 60 windows" in steps
    without = convert(small_keras, write_config(), tmp_path / "other", parity_windows=300)
    assert list(without.manifest.variants) == ["float32", "mixed", "dynamic"]


@pytest.fixture(scope="session")
def elu_keras(save: Callable[..., Path]) -> Path:
    """TensorFlow's quantizer has no ELU."""
    from keras import layers

    return save([layers.Flatten(), layers.Dense(5, activation="elu"), layers.Dense(4, activation="softmax")])


def test_a_model_that_tensorflow_cannot_quantize_is_refused_by_name(
    elu_keras, write_config, recorded, tmp_path, capsys
):
    arguments = [str(elu_keras), "--scaler", str(write_config()), "--out", str(tmp_path / "bundle")]
    arguments += ["--parity-windows", "300", "--calibrate", str(recorded), "--variants", "float32,int8"]
    assert main(["convert", *arguments]) == 2
    out, err = capsys.readouterr()
    said = [line for line in err.splitlines() if not line.startswith("[")]
    assert said == [
        "error: int8 cannot be made of this model: TensorFlow's quantizer does not know ELU",
        "  Leave int8 out of --variants; the others do not need it.",
    ]
    assert (out, (tmp_path / "bundle").exists()) == ("", False)


def test_where_nobody_asked_for_int8_by_name_the_others_are_written(elu_keras, write_config, recorded, tmp_path):
    steps: list[str] = []
    bundle = convert(
        elu_keras, write_config(), tmp_path / "bundle", calibrate=[recorded], parity_windows=300, progress=steps.append
    )
    assert list(bundle.manifest.variants) == ["float32", "mixed", "dynamic"]
    assert "going on without the int8 variant: int8 cannot be made of this model" in " ".join(steps)


# What is calibrated on


def test_windows_are_evenly_spread_over_what_the_files_hold(tmp_path):
    first, second = walks(700), walks(500, seed=6)
    np.save(tmp_path / "a.npy", first)
    np.save(tmp_path / "b.npy", second.astype(np.float64))
    files = [tmp_path / "a.npy", tmp_path / "b.npy"]
    chosen = calibration_windows(files, window=24, config=CONFIG)
    assert (chosen.shape, chosen.dtype) == ((CALIBRATION_WINDOWS, 24, 6), np.float32)
    everything = np.concatenate([first, second])
    places = [int(np.flatnonzero((everything == window).all(axis=(1, 2)))[0]) for window in chosen]
    assert (places[0], places[-1]) == (0, 1199)
    assert set(np.diff(places)) == {2, 3}
    np.testing.assert_array_equal(calibration_windows(files[1:], window=24, config=CONFIG), second)


def test_a_recording_gives_its_windows(tmp_path):
    time_s = np.arange(200) / 50
    rows = np.column_stack([time_s, np.full(200, 9.8), np.zeros((200, 4)), np.sin(time_s)])
    header = "timestamp_s,Ax,Ay,Az,Gx,Gy,Gz"
    np.savetxt(tmp_path / "r.csv", rows, delimiter=",", header=header, comments="")
    windows = calibration_windows([tmp_path / "r.csv"], window=24, config=CONFIG)
    assert windows.shape == (15, 24, 6)
    np.testing.assert_allclose(windows[1, :, 5], np.sin(time_s[12:36]), atol=1e-3)
    with pytest.raises(InputRejected, match=r"r\.csv: no whole window of 400 samples at 50 Hz without a gap"):
        calibration_windows([tmp_path / "r.csv"], window=400, config=CONFIG)


GOOD = walks(3)
WINDOWS = [  # what it shows, the array, words of the message
    ("none", GOOD[:0], "holds no window to calibrate on"),
    ("another length", GOOD[:, :20], r"holds float32 \(3, 20, 6\), expected windows \(n, 24, 6\)"),
    ("one window alone", GOOD[0], r"expected windows \(n, 24, 6\)"),
    ("no numbers", np.full((3, 24, 6), "a"), r"expected windows \(n, 24, 6\)"),
    ("NaN", np.where(GOOD[0, 0, 0] == GOOD, np.nan, GOOD), "a value that is no finite number"),
    ("beyond float32", np.full((3, 24, 6), 1e300), "a value that is no finite number"),
]


@pytest.mark.parametrize(("shows", "array", "words"), WINDOWS, ids=[row[0] for row in WINDOWS])
@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
def test_windows_that_calibrate_nothing_are_refused(shows, array, words, tmp_path):
    np.save(tmp_path / "w.npy", array)
    with pytest.raises(CalibrationRejected, match=words) as caught:
        calibration_windows([tmp_path / "w.npy"], window=24, config=CONFIG)
    assert (caught.value.exit_code, "\n" in str(caught.value)) == (2, False)
    assert caught.value.hint.startswith("Give --calibrate a recording")


@pytest.mark.parametrize(
    ("name", "words"), [("none.npy", "No such file"), ("none.csv", "No such file"), ("w.txt", "not a recording")]
)
def test_a_file_that_is_none_is_refused(name, words, tmp_path):
    (tmp_path / "w.txt").touch()
    with pytest.raises(InputRejected, match=words) as caught:
        calibration_windows([tmp_path / name], window=24, config=CONFIG)
    assert caught.value.exit_code == 2


def test_windows_beyond_what_the_model_can_compute_are_refused():
    steep = Dense(np.full((24 * 6, 4), 1e6), np.zeros(4), "softmax")
    with pytest.raises(CalibrationRejected, match="beyond what the model can compute in float32"):
        full_int8([Flatten(24), steep], np.full((2, 24, 6), 3e38, np.float32), CONFIG)


REFUSED = [  # what it shows, arguments, words of the message, words of the hint
    (
        "nothing to calibrate on",
        {"variants": ["int8"]},
        "the variant int8 takes the ranges",
        "Give --calibrate a record",
    ),
    (
        "nothing to calibrate",
        {"variants": ["float32"], "calibrate": ["w.npy"]},
        "no variant int8 that needs them",
        "Add int8 to --variants",
    ),
]


@pytest.mark.parametrize(("shows", "arguments", "words", "hint"), REFUSED, ids=[row[0] for row in REFUSED])
def test_int8_and_windows_to_calibrate_on_need_each_other(
    shows, arguments, words, hint, small_keras, write_config, tmp_path
):
    steps: list[str] = []
    with pytest.raises(CalibrationRejected, match=words) as caught:
        convert(small_keras, write_config(), tmp_path / "bundle", progress=steps.append, **arguments)
    assert caught.value.hint.startswith(hint)
    assert (caught.value.exit_code, steps) == (2, [])


def test_a_file_that_the_runtime_does_not_run_is_refused(both_ways, monkeypatch):
    """As where TensorFlow writes an operator in a version that this LiteRT does not have."""
    from converter import full_int8 as module

    def broken(model: bytes) -> bytes:
        read = unpacked(model)
        for code in read.operatorCodes:
            code.version = 99
        return module.packed(read)

    quantized = module._quantized
    monkeypatch.setattr(module, "_quantized", lambda model: broken(quantized(model)))
    with pytest.raises(Int8Rejected, match="LiteRT does not run the result: ") as caught:
        full_int8(both_ways, walks(3), CONFIG)
    assert "\n" not in str(caught.value)


@pytest.mark.real_data
def test_the_real_model_calibrated_on_the_real_recording_still_knows_it(real_data):
    """Its wearer sat still, and the model is sure of nearly every window: where the first class leads by more than a
    half, rounding must not turn it. A number in int8 is a quarter of one in float32."""
    network = read_keras_file(real_data / "model" / "pretrained_1dcnn_bilstm.keras").network
    config = read_training_config(
        real_data / "model" / "config.json", window=network.window, channels=6, classes=network.classes
    )
    files = sorted((real_data / "recording").glob("*.xlsx"))
    windows = calibration_windows(files, window=network.window, config=config)
    assert windows.shape == (CALIBRATION_WINDOWS, 200, 6)
    model = full_int8(network.layers, windows, config)
    assert checked_operators(model)[LSTM] == 4
    float32 = lower(fold_affines([config.scaler(), *network.layers]), window=200, channels=6)
    assert len(float32) / 4 < len(model) < len(float32) / 4 * 1.1
    some = windows[::5]
    wanted, found = answers(float32, some)[0], answers(model, some)[0]
    ordered = np.sort(wanted, axis=1)
    sure = ordered[:, -1] - ordered[:, -2] > 0.5
    assert sure.mean() > 0.9
    assert (found.argmax(axis=1) == wanted.argmax(axis=1))[sure].all()
    assert np.abs(found - wanted).max(axis=1)[sure].max() < 0.25
