"""`python every_order.py FOLDER`: what each .tflite file of the folder answers to the folder's windows.npy, in every
order and from several threads, into answers.npz; prints which runtime this Python has, and what it does not load.

A script, since the predecessor of the runtime needs a Python of its own.
"""

import json
import sys
import threading
from pathlib import Path

import numpy as np

from gateway.inference import Predictor
from gateway.inference.interpreter import RUNTIMES, LiteRtInterpreter


def fresh(model: bytes, windows: np.ndarray) -> Predictor:
    interpreter = LiteRtInterpreter(model)
    names = tuple(f"{number}" for number in range(max(interpreter.classes, windows.shape[2])))
    _, window, channels = windows.shape
    return Predictor(interpreter, window=window, channels=names[:channels], labels=names[: interpreter.classes])


def of_two_threads(predictors: tuple[Predictor, Predictor], windows: np.ndarray) -> np.ndarray:
    """(2, n, classes): one thread forwards, the other backwards, both at once, each window by itself."""
    orders = (np.arange(len(windows)), np.arange(len(windows))[::-1])
    answers = np.empty((2, len(windows), len(predictors[0].labels)), np.float32)
    start = threading.Barrier(2)

    def ask(number: int) -> None:
        start.wait()
        for _ in range(5):
            for at in orders[number]:
                answers[number, at] = predictors[number].predict(windows[at : at + 1])[0]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def in_every_order(model: bytes, windows: np.ndarray) -> dict[str, np.ndarray]:
    """Each (n, classes), in the windows' own order; `alone` is each from a runtime that has seen no other."""
    shared = fresh(model, windows)
    answers = {"alone": np.concatenate([fresh(model, windows).predict(window[np.newaxis]) for window in windows])}
    rng = np.random.default_rng(1)
    orders = {"forward": np.arange(len(windows)), "backward": np.arange(len(windows))[::-1]}
    orders |= {f"shuffled {number}": rng.permutation(len(windows)) for number in range(3)}
    for name, order in orders.items():
        answers[name] = np.empty_like(answers["alone"])
        answers[name][order] = shared.predict(windows[order])
    for name, pair in {"one": (shared, shared), "two": (fresh(model, windows), fresh(model, windows))}.items():
        for number, answered in enumerate(of_two_threads(pair, windows)):
            answers[f"{name} in thread {number}"] = answered
    return answers


def main(folder: Path) -> None:
    windows = np.load(folder / "windows.npy")
    answers, refused = {}, {}
    for file in sorted(folder.glob("*.tflite")):
        try:
            LiteRtInterpreter(file.read_bytes())
        except (ValueError, RuntimeError) as error:
            refused[file.stem] = str(error)
            continue
        for order, answered in in_every_order(file.read_bytes(), windows).items():
            answers[f"{file.stem}: {order}"] = answered
    np.savez(folder / "answers.npz", **answers)
    runtime = next(name for name in RUNTIMES if f"{name}.interpreter" in sys.modules)
    print(json.dumps({"runtime": runtime, "numpy": np.__version__, "refused": refused}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
