"""A command whose reader has gone (`| head`) ends without a traceback and with the exit code of a closed pipe."""

import io
import os
import subprocess
import sys

import pytest

from gateway.console import until_closed

COMMANDS = [
    ("firmware_sim", ["check", "--list"], ""),
    ("firmware_sim", ["check", "--list"], "1"),
    ("firmware_sim", ["run", "--help"], ""),
    ("gateway", ["--help"], ""),
    ("gateway", ["--version"], ""),
]


@pytest.mark.parametrize(("module", "arguments", "unbuffered"), COMMANDS)
def test_a_closed_pipe_ends_a_command_in_silence(module: str, arguments: list[str], unbuffered: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            stdout=closed,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            check=False,
        )
    assert (done.returncode, done.stderr) == (141, b"")


def test_an_error_that_nobody_reads_ends_a_command_in_silence() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "firmware_sim", "run"], stdout=subprocess.PIPE, stderr=closed, check=False
        )
    assert (done.returncode, done.stdout) == (141, b"")


def test_a_broken_pipe_of_something_else_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def command() -> int:
        raise BrokenPipeError("a broker's socket")

    with open(os.devnull, "w") as out, open(os.devnull, "w") as errors:
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", errors)
        with pytest.raises(BrokenPipeError, match="a broker's socket"):
            until_closed(command)


def test_a_command_without_streams_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert until_closed(lambda: 3) == 3
