"""The container of a Keras file: its bytes, once it is known that nothing in it claims to be what no model is.

Keras itself unpacks whatever a file claims to hold, gigabytes too, so this comes before it.
"""

import io
import lzma
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any

from converter.errors import ModelRejected
from gateway.bundle.reading import MANIFEST_FILE

HDF5 = b"\x89HDF\r\n\x1a\n"
_TFLITE = b"TFL3"
WEIGHTS_FILE = "model.weights.h5"
CORRUPT_ZIP = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError),  # damaged
    RuntimeError,  # encrypted, an unknown compression, or JSON nested without end
    *(KeyError, ValueError),  # a member is missing, or no JSON
)
SAVE_AGAIN = "Save the model again with Keras 3: model.save('name.keras')."

_GIVE = "Give a model saved as .keras or .h5 by Keras 3."

_FILE_BYTES_MAX = 1 << 30
_WEIGHTS_BYTES_MAX = 512 << 20
"""A hundred times the reference model's, with its optimizer's; a zip may unpack to far more than it weighs."""
_OTHER_BYTES_MAX = 32 << 20
_NUMBERS_MAX = _WEIGHTS_BYTES_MAX // 4


def checked_content(path: Path) -> bytes:
    """Of a .keras or .h5 file.

    Raises ModelRejected: no file, unreadable, neither zip nor HDF5, a member outside of the archive, one that unpacks
    to more than a model has, arrays of more numbers than a model has; a bundle or .tflite file; weights alone.
    """
    if (path / MANIFEST_FILE).is_file():
        raise _converted(path, "bundle")
    if path.exists() and not path.is_file():
        found = "a folder" if path.is_dir() else "no file"
        raise ModelRejected(f"{path} is {found}", hint=_GIVE)
    try:
        with path.open("rb") as file:
            content = file.read(_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ModelRejected(f"{path}: {error.strerror}", hint=_GIVE) from None
    if len(content) > _FILE_BYTES_MAX:
        raise no_intact(path, f"it has more than {_FILE_BYTES_MAX} bytes")
    try:
        if content.startswith(HDF5):
            whole = _check_arrays(content)
        elif zipfile.is_zipfile(io.BytesIO(content)) and _is_bundle(content):
            raise _converted(path, "bundle")
        elif content[4:8] == _TFLITE:
            raise _converted(path, "TFLite file")
        else:
            _check_zip(content)
            whole = True
    except ModelRejected:
        raise
    except Exception as error:  # damaged bytes make HDF5's reader raise anything
        raise no_intact(path, str(error.args[0]) if error.args else type(error).__name__) from None
    if not whole:
        hint = "Build the model in Python, load the weights into it, and save it whole: model.save('name.keras')."
        raise ModelRejected(f"{path} holds weights without the architecture", hint=hint)
    return content


def _converted(path: Path, kind: str) -> ModelRejected:
    hint = "Give the Keras model (.keras, .h5) that it was made from; converter inspect shows what is in this one."
    return ModelRejected(f"{path} is already a {kind}", hint=hint)


def _is_bundle(content: bytes) -> bool:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return MANIFEST_FILE in archive.namelist()


def no_intact(path: Path, reason: str) -> ModelRejected:
    (line, *_) = reason.splitlines() or [""]
    kind = ".h5" if path.suffix.lower() in (".h5", ".hdf5") else ".keras"
    return ModelRejected(f"{path} is no intact {kind} file: {line}", hint=SAVE_AGAIN)


def _check_zip(content: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for entry in archive.infolist():
            name = PurePosixPath(entry.orig_filename)
            if name.is_absolute() or ".." in name.parts or {"\\", "\0", ":"} & set(entry.orig_filename):
                raise ValueError(f"its member {entry.orig_filename[:100]!r} lies outside of it")
            limit = _WEIGHTS_BYTES_MAX if entry.filename == WEIGHTS_FILE else _OTHER_BYTES_MAX
            if entry.file_size > limit:
                raise ValueError(f"{entry.filename} unpacks to more than {limit} bytes")
        archive.getinfo("config.json")
        if WEIGHTS_FILE in archive.namelist():
            _check_arrays(archive.read(WEIGHTS_FILE))


def _check_arrays(content: bytes) -> bool:
    """An array may claim any shape: what was never written to takes no room in the file. Returns whether the file has
    the model's architecture too."""
    import h5py

    counted = 0

    def add(_name: str, entry: Any) -> None:
        nonlocal counted
        if isinstance(entry, h5py.Dataset):
            counted += entry.size or 0

    with h5py.File(io.BytesIO(content), "r") as file:
        file.visititems(add)
        whole = "model_config" in file.attrs
    if counted > _NUMBERS_MAX:
        raise ValueError(f"its arrays have {counted} numbers, expected at most {_NUMBERS_MAX}")
    return whole
