"""Truth files: a session's samples as the device quantized them, so that an oracle needs no gateway.

Columns timestamp_s, Ax, Ay, Az, Gx, Gy, Gz, or of them those of one sensor; the time is the device's own, since the
session's first sample. Each value is the shortest text that gives the same float32 again.
"""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

import numpy as np

from firmware_sim.protocol import Taken
from gateway.errors import InputRejected

CHANNELS = ("Ax", "Ay", "Az", "Gx", "Gy", "Gz")
SENSOR_OF = {(0, 6): "", (0, 3): "acc", (3, 6): "gyro"}
TEXTS_MAX = 1 << 18
"""A device of 16 bits has 65,536 values a scale."""


class TruthRejected(InputRejected):
    pass


class TruthFile:
    """There only once it has a sample; one of an earlier run is gone from the beginning.

    Raises TruthRejected where the file cannot be written, which is found out before there is a sample.
    """

    def __init__(self, path: Path, columns: slice = slice(0, 6)) -> None:
        self._texts = _Texts()
        self._path, self._columns = path, columns
        self._file: TextIO | None = None
        self._open().close()
        if path.is_file():
            path.unlink()

    def _open(self) -> TextIO:
        try:
            return self._path.open("w", encoding="ascii")
        except OSError as error:
            raise TruthRejected(f"truth {self._path}: {error.strerror or error}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add(self, taken: Taken) -> None:
        """The session's next samples."""
        if self._file is None:
            if not len(taken.values):
                return
            self._file = self._open()
            self._file.write(",".join(("timestamp_s", *CHANNELS[self._columns])) + "\n")
        for at_ns, row in zip(taken.taken_ns.tolist(), taken.values.tolist(), strict=True):
            self._file.write(f"{at_ns / 1e9!r},{','.join([self._texts[value] for value in row])}\n")

    def flush(self) -> None:
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class _Texts(dict[float, str]):
    """The text of each value, made once."""

    def __missing__(self, value: float) -> str:
        text = str(np.float32(value))
        if len(self) < TEXTS_MAX:
            self[value] = text
        return text


class Truth:
    """The truth of a session: one file, or FILE-acc and FILE-gyro for a device that sends its sensors apart.

    Raises TruthRejected where a file cannot be written.
    """

    def __init__(self, path: Path, sensors: Sequence[slice]) -> None:
        self._files = {_key(sensor): TruthFile(truth_path(path, sensor), sensor) for sensor in sensors}

    def add(self, taken: Taken) -> None:
        self._files[_key(taken.columns)].add(taken)

    def flush(self) -> None:
        for file in self._files.values():
            file.flush()

    def close(self) -> None:
        for file in self._files.values():
            file.close()


def truth_path(path: Path, sensor: slice) -> Path:
    """Where the truth of this sensor lies."""
    name = SENSOR_OF[_key(sensor)]
    return path.with_stem(f"{path.stem}-{name}") if name else path


def _key(sensor: slice) -> tuple[int, int]:
    return sensor.start, sensor.stop
