"""A Keras model loaded into Keras, in its safe mode: lambdas and other code in the file do not run."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from converter.errors import ModelRejected
from converter.keras_archive import checked_content


def load_keras(path: Path) -> Any:
    """Not compiled. Raises ModelRejected; ModuleNotFoundError without Keras."""
    checked_content(path)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with silent_stderr():
        import keras
    try:
        with silent_stderr():
            return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # whatever its layers raise; the file is a person's input
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        hint = f"Save it again with the Keras it was made with; this one is {keras.__version__}."
        raise ModelRejected(f"{path}: Keras cannot load it: {reason}", hint=hint) from None


@contextmanager
def silent_stderr() -> Iterator[None]:
    """TensorFlow's C++ logs to the descriptor before any setting of its own can stop it."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
