"""What commands of all packages have in common on a terminal: how they end once nobody reads, and what a word is."""

import argparse
import os
import re
import select
import sys
from collections.abc import Callable
from typing import TextIO

CLOSED_PIPE = 128 + 13
"""As a shell tells of a process that SIGPIPE has ended."""


def until_closed(command: Callable[[], int]) -> int:
    """What the command returns, or CLOSED_PIPE where the reader of its output or its errors has gone (`| head`)."""
    try:
        try:
            return command()
        finally:
            for stream in _streams():
                stream.flush()
    except BrokenPipeError:
        closed = [stream for stream in _streams() if _reader_gone(stream)]
        if not closed:  # another pipe's, such as a socket's
            raise
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in closed:  # else the interpreter writes what is left there once more at its end
            os.dup2(nowhere, stream.fileno())
        return CLOSED_PIPE


def take_axes(parser: argparse.ArgumentParser) -> None:
    """Words such as -y,x,z are values of its options and arguments, as -1.5 is, and no options."""
    parser._negative_number_matcher = re.compile(r"-(\d|\.\d|[xyz],)")


def _streams() -> list[TextIO]:
    """Each is None where it was closed before the start."""
    given: tuple[TextIO | None, ...] = (sys.stdout, sys.stderr)
    return [stream for stream in given if stream is not None]


def _reader_gone(stream: TextIO) -> bool:
    poll = select.poll()
    poll.register(stream.fileno(), 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
