"""What commands write: a file as a whole, and how far they are on a terminal."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Self

from gateway.errors import InputRejected

_BAR = 30


def write_whole(file: Path, content: bytes, *, named: str, like: os.stat_result | None = None) -> None:
    """The file has all of the content or stays as it was; nothing else is left.

    named: what the file is to whoever gave it. like: of the file that is replaced, whose mode the new one has, and its
    owner and group where this user may give them. Raises InputRejected.
    """
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        with part.open("xb") as stream:
            if like is not None:
                _liken(stream, like)
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, file)
    except OSError as error:
        raise InputRejected(f"{named} {file}: {error.strerror or error}") from None
    finally:
        part.unlink(missing_ok=True)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _liken(stream: IO[bytes], like: os.stat_result) -> None:
    try:
        os.fchown(stream.fileno(), like.st_uid, like.st_gid)
    except PermissionError:
        pass  # then it is this user's, as with any editor
    os.fchmod(stream.fileno(), like.st_mode & 0o7777)


class Progress:
    """One line on a terminal, rewritten, and gone at the end; nothing elsewhere."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._width = 0
        self.on_terminal = stream.isatty()
        self.bell = "\a" if self.on_terminal else ""
        """For whoever cannot look at the terminal."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._clear()

    def line(self, text: str) -> None:
        """Stays, and goes to any stream."""
        self._clear()
        self._stream.write(text + "\n")
        self._stream.flush()

    def _clear(self) -> None:
        if self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._stream.flush()
        self._width = 0

    def say(self, text: str) -> None:
        if self.on_terminal:
            self._stream.write("\r" + text.ljust(self._width))
            self._stream.flush()
            self._width = max(self._width, len(text))

    def show(self, done: float, of: float, what: str) -> None:
        """what: stands beside the bar."""
        full = int(_BAR * done / of)
        self.say(f"[{'#' * full}{'-' * (_BAR - full)}] {what}")
