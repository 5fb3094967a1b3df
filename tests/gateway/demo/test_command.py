"""What `gateway demo` refuses, before it starts anything: one clear line, exit code 2, nothing left behind."""

import importlib.util
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from gateway.cli import main


@pytest.fixture(autouse=True)
def nothing_is_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("asyncio.create_subprocess_exec", lambda *a, **k: pytest.fail("a process was started"))


REFUSED = [
    (["--wearables", "9"], "error: --wearables 9: expected 1 to 8"),
    (["--speed", "0.5"], "error: --speed 0.5: expected 1 to 50"),
    (["--speed", "nan"], "error: --speed nan: expected 1 to 50"),
    (["--duration", "3"], "error: --duration 3: expected at least 10"),
    (["--duration", "nan"], "error: --duration nan: expected at least 10"),
    (["--faults", "range,reboot"], "error: --faults: 'reboot'; expected all, none, or some of range, broker, kill"),
    (["--broker", "localhost"], "error: --broker localhost: expected HOST:PORT"),
    (["--broker", "localhost:70000"], "error: --broker localhost:70000: expected HOST:PORT"),
    (["--recording", "a", "b", "c"], "error: --recording: 3 files; expected an Excel pair or one CSV"),
    (["--recording", "absent.csv"], "error: --recording absent.csv: no such file, or not readable"),
]


@pytest.fixture
def bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.cli.demo.demo_bundle", lambda: Path("bundle"))
    monkeypatch.setattr("gateway.bundle.load_bundle", lambda path: None)


@pytest.mark.usefixtures("bundle")
@pytest.mark.parametrize(("words", "told"), REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
def test_an_option_that_cannot_be_is_refused(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", *words]) == 2
    assert capsys.readouterr().err.splitlines()[0] == told


@pytest.mark.usefixtures("bundle")
def test_a_directory_with_something_in_it_is_not_written_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").touch()
    assert main(["demo", "--keep", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: --keep {tmp_path}: exists and is not an empty directory\n"
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]


@pytest.mark.usefixtures("bundle")
def test_a_password_file_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    absent = tmp_path / "absent"
    assert main(["demo", "--password-file", str(absent)]) == 2
    assert capsys.readouterr().err.startswith(f"error: --password-file {absent}: ")


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--bundle", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: bundle ")


@pytest.mark.parametrize("absent", ["bumble", "amqtt", "rich"])
def test_a_missing_extra_is_named_with_the_command_that_brings_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], absent: str
) -> None:
    find_spec = importlib.util.find_spec

    def without(name: str) -> ModuleSpec | None:
        return None if name == absent else find_spec(name)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    assert main(["demo"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"error: the demo needs packages that are not installed: {absent}",
        "  pip install 'fidget-gateway[demo]'",
    ]


def test_help_names_every_knob(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["demo", "--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    for knob in ("wearables", "duration", "speed", "faults", "recording", "bundle", "broker", "keep", "plain"):
        assert f"--{knob}" in told
    assert "None" not in told
