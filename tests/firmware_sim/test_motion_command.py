"""`firmware-sim motion` draws and writes what the generator makes and what a recording holds."""

import csv
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from firmware_sim.cli import main
from firmware_sim.motion_command import _write_csv
from firmware_sim.synthesis import Person, synthesize
from gateway.recording import read_recording


def colours(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)


def test_the_csv_is_the_generators_motion_to_the_bit_and_can_be_played_again(tmp_path: Path) -> None:
    out = tmp_path / "m.csv"
    drawn = ["--schedule", "smoking:6,rest:2", "--wearer", "4", "--seed", "2"]
    worn = ["--wrist", "right", "--mounting=-x,-y,z", "--tempo", "1.2"]
    assert main(["motion", *drawn, *worn, "--csv", str(out)]) == 0
    person = Person(wrist="right", mounting="-x,-y,z", tempo=1.2)
    made = synthesize([("smoking", 6), ("rest", 2)], wearer=4, seed=2, person=person)
    assert read_recording([out]).on_grid(50.0).values.tobytes() == made.tobytes()
    rows = list(csv.reader(out.open()))
    assert rows[0] == ["timestamp_s", "Ax", "Ay", "Az", "Gx", "Gy", "Gz"]
    assert float(rows[-1][0]) == 7.98


@pytest.mark.parametrize("written", [["--mounting", "-x,-y,z"], ["--mounting=-x,-y,z"]], ids=" ".join)
def test_a_mounting_may_begin_with_a_minus(written: list[str], tmp_path: Path) -> None:
    out = tmp_path / "m.csv"
    assert main(["motion", "--schedule", "sitting:1", *written, "--csv", str(out)]) == 0
    made = synthesize([("sitting", 1)], wearer=0, seed=0, person=Person(mounting="-x,-y,z"))
    assert read_recording([out]).on_grid(50.0).values.tobytes() == made.tobytes()


def test_a_plot_shows_all_three_axes_and_a_recording_plots_as_well(tmp_path: Path) -> None:
    made, played, table = tmp_path / "made.png", tmp_path / "played.png", tmp_path / "m.csv"
    assert main(["motion", "--seconds", "5", "--plot", str(made), "--csv", str(table)]) == 0
    assert main(["motion", "--recording", str(table), "--plot", str(played)]) == 0
    for path in (made, played):
        seen = colours(path)
        for colour in ((200, 69, 47), (42, 138, 74), (47, 95, 200)):
            assert (np.abs(seen.astype(int) - colour).sum(axis=1) < 12).sum() > 200, (path.name, colour)


def test_a_gap_of_a_recording_is_shaded(tmp_path: Path) -> None:
    whole, broken, out = tmp_path / "a.csv", tmp_path / "b.csv", tmp_path / "b.png"
    assert main(["motion", "--schedule", "sitting:30", "--csv", str(whole)]) == 0
    lines = whole.read_text().splitlines()
    broken.write_text("\n".join(lines[:500] + lines[1000:]))
    assert main(["motion", "--recording", str(broken), "--plot", str(out)]) == 0
    assert (colours(out) == (0xF0, 0xD0, 0xD0)).all(axis=1).sum() > 5000


WRONG = [
    ([], "nowhere to put the motion"),
    (["--plot", "x.bmp"], "not a picture that can be written"),
    (["--plot", "x.png", "--rate", "0"], "rate 0 Hz"),
    (
        ["--plot", "x.png", "--schedule", "sitting"],
        "schedule: expected NAME:SECONDS, as in nail_biting:30,sitting:20, found 'sitting'",
    ),
    (["--plot", "x.png", "--schedule", ""], "schedule: it is empty"),
    (["--plot", "x.png", "--schedule", " ", "--seconds", "3"], "schedule: it is empty"),
    (["--plot", "x.png", "--schedule", "siting:3"], "did you mean sitting?"),
    (["--plot", "x.png", "--schedule", "sitting:nan"], "expected a positive number of seconds"),
    (["--plot", "x.png", "--seconds", "1e9"], "more than 86400 s"),
    (["--plot", "x.png", "--seed", "-1"], "wearer and seed are numbers from 0 on"),
    (["--plot", "x.png", "--person", "drawn", "--tempo", "2"], "--tempo and --person drawn: one of them"),
    (["--plot", "x.png", "--mounting", "x,x,z"], "three different axes"),
    (["--plot", "x.png", "--rest", "-1"], "rest of -1 s"),
    (["--plot", "x.png", "--recording", "/nowhere/x.csv"], "No such file"),
    (["--plot", "x.png", "--recording", "/nowhere/x.csv", "--seed", "1"], "--seed is for synthetic motion"),
    (["--plot", "x.png", "--acc-unit", "mg"], "units are for a recording"),
    (["--plot", "x.png", "--schedule", "sitting:9", "--seconds", "3"], "--seconds is for the default schedule"),
]


@pytest.mark.parametrize(("arguments", "said"), WRONG, ids=[" ".join(arguments) or "nothing" for arguments, _ in WRONG])
def test_what_cannot_be_shown_is_told_in_a_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["motion", *arguments]) == 2
    told = capsys.readouterr()
    assert told.err.startswith("error: ")
    assert said in told.err
    assert told.out == ""


class StoppedAfter:
    """Rows of which the third is never reached."""

    def __iter__(self) -> Iterator[np.ndarray]:
        yield from np.zeros((2, 6), np.float32)
        raise KeyboardInterrupt


@pytest.mark.parametrize("before", [None, "as it was\n"], ids=["new", "written over"])
def test_a_csv_that_is_stopped_leaves_no_half_file(tmp_path: Path, before: str | None) -> None:
    out = tmp_path / "m.csv"
    if before is not None:
        out.write_text(before)
    with pytest.raises(KeyboardInterrupt):
        _write_csv(out, StoppedAfter(), 50.0)  # type: ignore[arg-type]
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == ({"m.csv": before} if before else {})


def test_a_link_stays_one_and_what_it_leads_to_is_written(tmp_path: Path) -> None:
    target, link = tmp_path / "target.csv", tmp_path / "link.csv"
    target.write_text("as it was\n")
    link.symlink_to(target)
    assert main(["motion", "--schedule", "sitting:1", "--csv", str(link)]) == 0
    assert link.is_symlink()
    assert target.read_text().count("\n") == 1 + 50
    assert {path.name for path in tmp_path.iterdir()} == {"target.csv", "link.csv"}


def test_a_pipe_stays_one_and_is_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    assert main(["motion", "--schedule", "sitting:1", "--csv", str(pipe)]) == 0
    assert os.read(reader, 1 << 16).count(b"\n") == 1 + 50
    os.close(reader)
    assert pipe.is_fifo()


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = tmp_path / "no" / "x"
    for option, suffix in (("--csv", ".csv"), ("--plot", ".png")):
        path = nowhere.with_suffix(suffix)
        assert main(["motion", "--seconds", "1", option, str(path)]) == 1
        assert f"{path}: No such file or directory" in capsys.readouterr().err
