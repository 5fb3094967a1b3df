"""One window's inference beside onnxruntime and Keras: `python tests/bench/bench_inference.py`.

The same network in all of them, one thread each, batch 1, in interleaved rounds of one run: only the ratios travel to
other machines. Hot: the same call again at once. Cold: 64 MB are touched before each call, as in a daemon that infers
a few windows a second and meets caches that others have filled. Memory: what the resident set of a fresh process, which
has imported numpy, grows by for importing the runtime, loading the model and running a window.

The network is the real model where FIDGET_REAL_DATA has it, else the reference architecture with random weights. Its
conversion takes minutes: the default variant is searched for.

Exit code 1 where the default variant's cold median is more than twice onnxruntime's, or its memory more than half.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
os.environ.update(_ENVIRONMENT)  # read when the libraries load

import numpy as np  # noqa: E402

from converter.convert import convert  # noqa: E402
from converter.folding import fold_affines  # noqa: E402
from converter.keras_file import read_keras_file  # noqa: E402
from converter.layers import Conv1d, Dense, Flatten, Layer, LstmCell, Recurrent, wired  # noqa: E402
from converter.parity import random_windows  # noqa: E402
from converter.training_config import TrainingConfig, read_training_config  # noqa: E402
from gateway.bundle import load_bundle  # noqa: E402
from gateway.inference import load_predictor  # noqa: E402

COLD_BYTES = 64 << 20
PARITY_MAX = 1e-4
COLD_RATIO_MAX, MEMORY_RATIO_MAX = 2.0, 0.5
"""Of the default variant to onnxruntime."""
PARITY_WINDOWS = 1000
"""The fewest on which the gate chooses another default than float32."""
MEMORY_ROUNDS = 3
MEMORY = """
import sys
from pathlib import Path
import numpy as np
from converter.memory import resident_bytes
runtime, file, window, channels = sys.argv[1:]
zeros = np.zeros((1, int(window), int(channels)), np.float32)
before = resident_bytes()
if runtime == "onnxruntime":
    import onnxruntime
    imported = resident_bytes()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    model = onnxruntime.InferenceSession(Path(file).read_bytes(), options, providers=["CPUExecutionProvider"])
    model.run(None, {"window": zeros})
else:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType
    imported = resident_bytes()
    model = Interpreter(
        model_content=Path(file).read_bytes(),
        num_threads=1,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    model.allocate_tensors()
    model.set_tensor(model.get_input_details()[0]["index"], zeros)
    model.invoke()
print(imported - before, resident_bytes() - imported)
"""

Call = Callable[[np.ndarray], np.ndarray]


def onnx_model(layers: Sequence[Layer], window: int, channels: int) -> bytes:
    """The folded network in ONNX, opset 17; LSTM gates in ONNX' order i, o, f, c (Keras: i, f, c, o)."""
    from onnx import TensorProto, checker, helper, numpy_helper

    nodes: list[Any] = []
    constants: list[Any] = []

    def constant(values: Any) -> str:
        name = f"w{len(constants)}"
        values = np.asarray(values)
        values = values.astype(np.float32) if values.dtype.kind == "f" else values
        constants.append(numpy_helper.from_array(values, name))
        return name

    def node(operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"t{len(nodes)}"
        nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def activated(at: str, activation: str) -> str:
        return {"relu": lambda: node("Relu", at), "linear": lambda: at, "softmax": lambda: node("Softmax", at, axis=1)}[
            activation
        ]()

    def gates(values: np.ndarray) -> np.ndarray:
        i, f, c, o = np.split(values.T, 4)
        return np.concatenate([i, o, f, c])

    def lstm(at: str, layer: Recurrent) -> str:
        """(1, channels, steps) in and out, as a convolution has it."""
        cells: list[LstmCell] = [cell for cell in (layer.forward, layer.backward) if cell is not None]
        x = node("Transpose", at, perm=[2, 0, 1])
        inputs = [
            constant(np.stack([gates(cell.kernel) for cell in cells])),
            constant(np.stack([gates(cell.recurrent) for cell in cells])),
            constant(np.stack([np.concatenate([gates(cell.bias), np.zeros(len(cell.bias))]) for cell in cells])),
        ]
        direction = "bidirectional" if len(cells) == 2 else "forward"
        y = node("LSTM", x, *inputs, hidden_size=len(layer.forward.recurrent), direction=direction)
        steps = node(
            "Transpose", y, perm=[2, 1, 3, 0]
        )  # (steps, directions, 1, units) to (1, directions, units, steps)
        return node("Reshape", steps, constant(np.array([1, len(cells) * len(layer.forward.recurrent), -1])))

    at = node("Transpose", "window", perm=[0, 2, 1])
    for layer in layers:
        match layer:
            case Conv1d():
                kernel, bias = constant(layer.kernel.transpose(2, 1, 0)), constant(layer.bias)
                at = activated(node("Conv", at, kernel, bias), layer.activation)
            case Recurrent():
                at = lstm(at, layer)
            case Flatten():
                at = node("Flatten", node("Transpose", at, perm=[0, 2, 1]), axis=1)
            case Dense():
                at = activated(node("Gemm", at, constant(layer.kernel), constant(layer.bias)), layer.activation)
            case _:
                raise SystemExit(f"this benchmark writes no {type(layer).__name__} in ONNX")
    classes = layers[-1].bias.shape[0] if isinstance(layers[-1], Dense) else 0
    graph = helper.make_graph(
        nodes,
        "bench",
        [helper.make_tensor_value_info("window", TensorProto.FLOAT, [1, window, channels])],
        [helper.make_tensor_value_info(at, TensorProto.FLOAT, [1, classes])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    checker.check_model(model)
    return bytes(model.SerializeToString())


def onnxruntime_call(model: bytes) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda window: np.asarray(session.run(None, {"window": window})[0])


def keras_call(path: Path, config: TrainingConfig) -> Call:
    """As a graph: without tf.function an LSTM's steps run in Python, some 500 times as slow."""
    import keras
    import tensorflow as tf

    model = keras.saving.load_model(path, compile=False)
    mean, scale = np.array(config.mean, np.float32), np.array(config.scale, np.float32)
    graph = tf.function(lambda scaled: model(scaled, training=False))
    return lambda window: np.asarray(graph((window - mean) / scale))


def sources(folder: Path) -> tuple[Path, Path]:
    """A .keras file and its JSON: the real ones, or a random reference architecture written to the folder."""
    real = Path(os.environ.get("FIDGET_REAL_DATA", REPOSITORY.parent / "shared" / "data")) / "model"
    if (real / "config.json").is_file():
        return real / "pretrained_1dcnn_bilstm.keras", real / "config.json"
    from converter.architecture import reference_architecture

    reference_architecture(11).save(folder / "reference.keras")
    config = {
        "scaler_mean": [0.0] * 6,
        "scaler_scale": [5.0, 5.0, 5.0, 50.0, 50.0, 50.0],
        "target_hz": 50,
        "step_size": 100,
        "label_to_activity": {str(i): f"activity_{i}" for i in range(11)},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder / "reference.keras", folder / "config.json"


def measure(calls: dict[str, Call], windows: np.ndarray, *, rounds: int, cold: bool) -> dict[str, np.ndarray]:
    """Seconds of each call; the calls take turns, so that what disturbs the machine disturbs them all."""
    other = np.zeros(COLD_BYTES, np.uint8)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds):
        window = windows[number % len(windows)][np.newaxis]
        for name, call in calls.items():
            for repetition in range(2):  # the first one only makes the caches hot
                if cold:
                    other += 1
                started_s = time.perf_counter()
                call(window)
                if repetition or cold:
                    times[name].append(time.perf_counter() - started_s)
    return {name: np.array(values) for name, values in times.items()}


def memory(runtime: str, file: Path, window: int, channels: int) -> tuple[float, float]:
    """Megabytes of the runtime and of the model in it: the medians of some fresh processes."""
    command = [sys.executable, "-c", MEMORY, runtime, str(file), str(window), str(channels)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    rounds = [
        [int(text) for text in subprocess.run(command, capture_output=True, check=True, env=environment).stdout.split()]
        for _ in range(MEMORY_ROUNDS)
    ]
    of_runtime, of_model = np.median(rounds, axis=0) / 1e6
    return float(of_runtime), float(of_model)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=150, help="calls of each in each temperature (default: 150)")
    parser.add_argument("--bundle", type=Path, help="of the same network, instead of converting it")
    args = parser.parse_args()
    rounds = args.rounds
    with tempfile.TemporaryDirectory() as folder:
        keras_path, config_path = sources(Path(folder))
        network = read_keras_file(keras_path).network
        shape = {"window": network.window, "channels": network.channels}
        config = read_training_config(config_path, **shape, classes=network.classes)
        if args.bundle is not None:
            bundle = load_bundle(args.bundle)
        else:
            calibration, out = Path(folder) / "calibration.npy", Path(folder) / "bundle"
            np.save(calibration, random_windows(100, window=network.window, config=config, seed=4))
            arguments = {"parity_windows": PARITY_WINDOWS, "calibrate": [calibration], "progress": print}
            bundle = convert(keras_path, config_path, out, **arguments)
        default = bundle.manifest.default_variant
        folded = [layer for layer, _ in wired(fold_affines([config.scaler(), *network.layers]))]
        onnx = onnx_model(folded, **shape)
        calls: dict[str, Call] = {
            "onnxruntime": onnxruntime_call(onnx),
            **{name: load_predictor(bundle, name).predict for name in bundle.manifest.variants},
            "keras": keras_call(keras_path, config),
        }
        windows = random_windows(100, window=network.window, config=config, seed=3)
        answers = {name: np.concatenate([call(window[None]) for window in windows]) for name, call in calls.items()}
        print(f"{keras_path.name}, batch 1, one thread each, {rounds} interleaved calls, ms; x: ratio to onnxruntime")
        print("*: the bundle's default; dynamic: TFLite's plain dynamic range quantization")
        columns = f"{'min':>10}{'x':>6}{'median':>9}{'x':>6}"
        print(f"{'':14}{'':10}{'hot':>10}{'':21}{'cold':>10}\n{'':14}{'max |dp|':>10}{columns}{columns}")
        hot, cold = (measure(calls, windows, rounds=rounds, cold=temperature) for temperature in (False, True))
        for name in calls:
            row = f"{name + ' *' * (name == default):14}{np.abs(answers[name] - answers['keras']).max():10.1e}"
            for times in (hot, cold):
                for figure, width in ((np.min, 10), (np.median, 9)):
                    ours, theirs = figure(times[name]), figure(times["onnxruntime"])
                    row += f"{ours * 1e3:{width}.2f}{ours / theirs:6.2f}"
            print(row)
        worst = max(np.abs(answers[name] - answers["keras"]).max() for name in ("onnxruntime", "float32"))
        if worst > PARITY_MAX:
            print(f"these are not the same network: max |dp| {worst:.1e}", file=sys.stderr)
            return 1
        print(f"\nmemory of a fresh process, MB\n{'':14}{'runtime':>10}{'model':>9}{'both':>9}{'x':>6}")
        files = {"onnxruntime": Path(folder) / "model.onnx"}
        files["onnxruntime"].write_bytes(onnx)
        for name in bundle.manifest.variants:
            files[name] = Path(folder) / f"{name}.tflite"
            files[name].write_bytes(bundle.model_file(name))
        taken = {name: memory(name, file, **shape) for name, file in files.items()}
        ratios = {name: sum(parts) / sum(taken["onnxruntime"]) for name, parts in taken.items()}
        for name, (runtime, model) in taken.items():
            mark = " *" * (name == default)
            print(f"{name + mark:14}{runtime:10.1f}{model:9.1f}{runtime + model:9.1f}{ratios[name]:6.2f}")
        cold_ratio = float(np.median(cold[default]) / np.median(cold["onnxruntime"]))
        fails = 0
        for what, ratio, most in (
            ("cold median", cold_ratio, COLD_RATIO_MAX),
            ("memory", ratios[default], MEMORY_RATIO_MAX),
        ):
            fails += ratio > most
            word = "holds" if ratio <= most else "FAILS"
            print(f"{word}: {what} of {default} at most {most:g} x onnxruntime's, found {ratio:.2f}")
    return 1 if fails else 0


if __name__ == "__main__":
    sys.exit(main())
