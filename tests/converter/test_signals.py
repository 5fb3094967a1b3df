"""Ctrl-C, SIGTERM and readers that go away: real processes, real signals, at moments that they tell themselves."""

import os
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from gateway.bundle import load_bundle

REPOSITORY = Path(__file__).resolve().parents[2]
DEMO = REPOSITORY / "models" / "demo"
PROMPT_S = 10
"""A busy machine's; a free one needs hundredths of a second."""

NOTHING = "stopped; nothing was written; the same command starts again from the beginning"
STEP = re.compile(r"\[ *\d+\.\d s\] |reading |checking |loading ")


class Running:
    """A `converter` process in a folder of its own, temporary files included."""

    def __init__(self, folder: Path, *words: str | Path, **streams: int) -> None:
        self.folder = folder
        (folder / "tmp").mkdir(exist_ok=True)
        self.before = self.files()
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "TMPDIR": str(folder / "tmp")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "converter", *map(str, words)],
            **{"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE} | streams,
            text=True,
            env=environment,
            cwd=folder,
        )

    def files(self) -> set[Path]:
        return set(self.folder.rglob("*"))

    def left(self) -> set[str]:
        return {str(path.relative_to(self.folder)) for path in self.files() - self.before}

    def until_it_says(self, words: str) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if words in line:
                return
        raise AssertionError(f"it never said {words!r}")

    def until(self, true: Callable[[], bool]) -> None:
        while self.process.poll() is None and not true():
            pass

    def about(self, file: str) -> str:
        """/proc/PID/FILE; nothing once it has ended."""
        try:
            return Path(f"/proc/{self.process.pid}/{file}").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return ""

    def until_it_watches(self) -> None:
        """It blocks SIGINT before it imports anything that takes time."""
        blocked = re.compile(r"^SigBlk:\s*[0-9a-f]*[2367abef]$", re.MULTILINE)
        self.until(lambda: blocked.search(self.about("status")) is not None)

    def cpu_s(self) -> float:
        fields = self.about("stat").rpartition(") ")[2].split()
        return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK") if fields else float("inf")

    def ended_by(self, number: signal.Signals) -> list[str]:
        """What it says after this signal, without steps."""
        self.process.send_signal(number)
        assert self.process.stderr is not None
        self.process.wait(timeout=PROMPT_S)
        said = self.process.stderr.read().splitlines()
        return [line for line in said if not STEP.match(line)]


@pytest.fixture
def start(tmp_path) -> Iterator[Callable[..., Running]]:
    """start(words...): a converter at work; ended where a test leaves it."""
    started: list[Running] = []
    folder = tmp_path / "work"
    folder.mkdir()

    def starts(*words: str | Path, **streams: int) -> Running:
        started.append(Running(folder, *words, **streams))
        return started[-1]

    yield starts
    for running in started:
        running.process.kill()
        running.process.wait()
        for stream in (running.process.stdout, running.process.stderr):
            if stream is not None:
                stream.close()


@pytest.fixture
def conversion(small_keras, write_config) -> list[str | Path]:
    words = ["convert", small_keras, "--scaler", write_config(), "--out", "bundle", "--parity-windows", "300"]
    return [*words, "--report", "report.html"]


def test_ctrl_c_while_the_command_is_imported(start, conversion):
    running = start(*conversion)
    running.until_it_watches()
    assert running.ended_by(signal.SIGINT) == [NOTHING]
    assert (running.process.returncode, running.left()) == (130, set())


STEPS = [  # what it says as the moment comes
    "reading",
    "folding",
    "making the windows",
    "asking the Keras model",
    "asking the float32 variant",
    "rounding",
    "searching",
    "asking the mixed variant",
    "asking the dynamic variant",
    "writing bundle",
]
OFTEN = {"asking the Keras model", "searching"}


@pytest.mark.parametrize(
    "step", [step if step in OFTEN else pytest.param(step, marks=pytest.mark.soak) for step in STEPS]
)
def test_ctrl_c_at_a_step_of_a_conversion_leaves_nothing(step, start, conversion):
    running = start(*conversion)
    running.until_it_says(step)
    said = running.ended_by(signal.SIGINT)
    if running.left() == {"bundle", *(f"bundle/{file.name}" for file in (running.folder / "bundle").glob("*"))}:
        assert (step, said) == ("writing bundle", ["stopped; complete: bundle; nothing else was written"])
        load_bundle(running.folder / "bundle")
    else:
        assert (said, running.left()) == ([NOTHING], set())
    assert running.process.returncode == 130


@pytest.mark.parametrize("library", ["numpy", "libtensorflow_framework", "h5py"])
def test_ctrl_c_while_a_library_is_loaded(library, start, small_keras):
    """TensorFlow and the import system turn exceptions into others: what said so once is a process that goes on."""
    running = start("inspect", small_keras)
    running.until(lambda: library in running.about("maps"))
    assert running.ended_by(signal.SIGINT) == [NOTHING]
    assert (running.process.returncode, running.left()) == (130, set())


def test_ctrl_c_while_files_take_their_place_leaves_all_or_nothing(start, conversion):
    """The bundle is being written as its folder appears."""
    running = start(*conversion)
    running.until_it_says("writing bundle")
    running.until(lambda: len(os.listdir(running.folder)) > 1)
    said = running.ended_by(signal.SIGINT)
    assert said == ["stopped; complete: bundle; nothing else was written"]
    assert [name for name in running.left() if "/" not in name] == ["bundle"]
    assert load_bundle(running.folder / "bundle").manifest.labels[0] == "activity_0"
    assert running.process.returncode == 130


def test_ctrl_c_during_the_report_says_that_the_bundle_stands(start, conversion):
    running = start(*conversion)
    running.until_it_says("writing report.html")
    assert running.ended_by(signal.SIGINT) == ["stopped; complete: bundle; nothing else was written"]
    assert [name for name in running.left() if "/" not in name] == ["bundle"]
    assert running.process.returncode == 130


@pytest.mark.parametrize("words", ["reading", "checking float32", "checking dynamic"])
def test_ctrl_c_during_verify(words, start):
    running = start("verify", DEMO)
    running.until_it_says(words)
    assert running.ended_by(signal.SIGINT) == [NOTHING]
    assert (running.process.returncode, running.left()) == (130, set())


def test_ctrl_c_during_pack_leaves_a_whole_zip_or_none(start):
    running = start("pack", DEMO, "demo.zip")
    running.until_it_watches()
    assert running.ended_by(signal.SIGINT) == [NOTHING]
    assert (running.process.returncode, running.left()) == (130, set())
    running = start("pack", DEMO, "demo.zip")
    running.until(lambda: len(os.listdir(running.folder)) > 1)  # the file beside its place
    assert running.ended_by(signal.SIGINT) in (["stopped; complete: demo.zip; nothing else was written"], [])
    assert running.left() == {"demo.zip"}
    assert load_bundle(running.folder / "demo.zip").digest == load_bundle(DEMO).digest


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_other_ends_are_named(number, code, start, conversion):
    running = start(*conversion)
    running.until_it_says("making the windows")
    assert running.ended_by(number) == [NOTHING.replace("stopped", f"stopped by {number.name}")]
    assert (running.process.returncode, running.left()) == (code, set())


def test_a_second_ctrl_c_changes_nothing(start, conversion):
    running = start(*conversion)
    running.until_it_says("making the windows")
    for _ in range(5):
        running.process.send_signal(signal.SIGINT)
    assert running.ended_by(signal.SIGINT) == [NOTHING]
    assert (running.process.returncode, running.left()) == (130, set())


def test_a_signal_that_the_parent_ignores_stays_ignored(start, tmp_path):
    """A background job of a script, and nohup."""
    kept = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        running = start("verify", DEMO, "--json", stdout=subprocess.PIPE)
    finally:
        signal.signal(signal.SIGINT, kept)
    running.until_it_says("checking float32")
    running.process.send_signal(signal.SIGINT)
    out, _ = running.process.communicate()
    assert running.process.returncode == 0
    assert '"passed": true' in out


@pytest.mark.parametrize("words", [["inspect", DEMO], ["inspect", DEMO, "--json"], ["verify", DEMO], ["--help"]])
def test_a_reader_that_goes_away_ends_it_as_other_commands(words, start):
    """`converter inspect X | head -1`: SIGPIPE, without a word."""
    reader, writer = os.pipe()
    running = start(*words, stdout=writer)
    os.close(writer)
    os.close(reader)
    assert running.process.stderr is not None
    assert [line for line in running.process.stderr.read().splitlines() if not STEP.match(line)] == []
    assert running.process.wait(timeout=60) == -signal.SIGPIPE


def test_an_output_that_takes_nothing_is_said_in_a_line(start):
    with open("/dev/full", "w") as full:
        running = start("inspect", DEMO, "--json", stdout=full.fileno())
    assert running.process.stderr is not None
    first, *hint = running.process.stderr.read().splitlines()
    assert first == "error: standard output: No space left on device"
    assert len(hint) == 1
    assert running.process.wait(timeout=60) == 1


def test_the_installed_command_is_the_one_that_is_tested_here():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert project["scripts"]["converter"] == "converter.__main__:run"


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_ctrl_c_at_any_moment_of_a_conversion(start, conversion):
    """Moments by the work done: shares of the processor time that the whole takes."""
    before = os.times()
    whole = start(*conversion)
    assert whole.process.wait() == 0
    after = os.times()
    total_s = after.children_user + after.children_system - before.children_user - before.children_system
    for path in sorted(whole.left(), reverse=True):
        file = whole.folder / path
        file.rmdir() if file.is_dir() else file.unlink()
    for share in np.random.default_rng(4).uniform(0.02, 1, 60):
        running = start(*conversion)
        running.until_it_watches()
        running.until(lambda running=running, until_s=share * total_s: running.cpu_s() >= until_s)
        running.process.send_signal(signal.SIGINT)
        assert running.process.stderr is not None
        last = running.process.stderr.read().splitlines()[-1]
        code = running.process.wait(timeout=PROMPT_S)
        top = sorted(name for name in running.left() if "/" not in name)
        if last == NOTHING:
            assert (code, running.left()) == (130, set()), share
        elif code == 130:
            assert last == f"stopped; complete: {', '.join(top)}; nothing else was written", share
        else:
            assert (code, top) == (0, ["bundle", "report.html"]), share
        for path in sorted(running.left(), reverse=True):
            file = running.folder / path
            file.rmdir() if file.is_dir() else file.unlink()
