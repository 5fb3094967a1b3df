"""The truth file: a session's samples as the device quantized them, so that an oracle needs no gateway.

Columns timestamp_s, Ax, Ay, Az, Gx, Gy, Gz; time is index / rate in the device's own time. Each number is the shortest
that gives the same float32 again.
"""

from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from firmware_sim.encoding import Config, Counts
from gateway.errors import InputRejected

COLUMNS = ("timestamp_s", "Ax", "Ay", "Az", "Gx", "Gy", "Gz")


class TruthRejected(InputRejected):
    pass


class TruthFile:
    """Raises TruthRejected where the file cannot be written."""

    def __init__(self, path: Path, config: Config) -> None:
        self._rate_hz = config.rate_hz
        self._rows = 0
        acc, gyro = config.scales()[[0, 3]]
        self._texts = tuple(_Texts(scale) for scale in (acc, acc, acc, gyro, gyro, gyro))
        try:
            self._file = path.open("w", encoding="ascii")
        except OSError as error:
            raise TruthRejected(f"truth {path}: {error.strerror or error}") from None
        self._file.write(",".join(COLUMNS) + "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add(self, counts: Counts) -> None:
        """counts: (n, 6), the session's next samples."""
        for row in counts.tolist():
            values = ",".join([texts[count] for texts, count in zip(self._texts, row, strict=True)])
            self._file.write(f"{self._rows / self._rate_hz!r},{values}\n")
            self._rows += 1

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class _Texts(dict[int, str]):
    """The text of each count, made once: 65,536 at most."""

    def __init__(self, scale: np.float32) -> None:
        super().__init__()
        self._scale = scale

    def __missing__(self, count: int) -> str:
        self[count] = text = str(np.float32(count) * self._scale)
        return text
