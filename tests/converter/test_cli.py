import json
import re
import shlex
import sys

import pytest

from converter.cli import command_line, main
from gateway.bundle import load_bundle

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture
def arguments(small_keras, write_config, tmp_path):
    """Of a conversion that succeeds."""
    out = tmp_path / "bundle"
    return ["convert", str(small_keras), "--scaler", str(write_config()), "--out", str(out), "--parity-windows", "300"]


def test_steps_go_to_stderr_and_the_table_to_stdout(arguments, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1767312000")
    assert main([*arguments, "--frame", "-y,x,z", "--wrist", "left", "--labels", "a, b,c,d"]) == 0
    out, err = capsys.readouterr()
    bundle = load_bundle(tmp_path / "bundle")
    steps = "reading folding making asking asking rounding searching asking asking writing done"
    assert " ".join(line.split("] ")[1].split()[0] for line in err.splitlines()) == steps
    for words in ("float32 *", "mixed", "dynamic", "100.00%", f"digest {bundle.digest}", "default float32:"):
        assert words in out
    assert bundle.manifest.labels == ("a", "b", "c", "d")
    assert (bundle.manifest.frame, bundle.manifest.wrist) == ("-y,x,z", "left")
    assert bundle.manifest.provenance.created_utc.isoformat() == "2026-01-02T00:00:00+00:00"


def test_json_is_one_object_and_force_replaces(arguments, tmp_path, capsys):
    assert main([*arguments, "--json", "--variants", "float32"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["digest"] == load_bundle(tmp_path / "bundle").digest
    assert summary["variants"]["float32"]["parity"]["top1_agreement"] == 1.0
    assert summary["variants"]["float32"]["cold_ms"] > 0
    assert main(arguments) == 2
    assert "bundle exists\n  Choose another path, or replace the bundle with --force." in capsys.readouterr().err
    card = tmp_path / "card.md"
    card.write_text("# Card\n")
    assert main([*arguments, "--force", "--model-card", str(card)]) == 0
    bundle = load_bundle(tmp_path / "bundle")
    assert list(bundle.manifest.variants) == ["float32", "mixed", "dynamic"]
    assert (bundle.path / "model_card.md").read_text() == "# Card\n"


def test_bad_input_is_one_line_a_hint_and_exit_code_2(arguments, tmp_path, capsys, monkeypatch):
    def said(words, **replaced):
        names = {"model": 1, "scaler": 3, "out": 5}
        changed = list(arguments)
        for name, value in replaced.items():
            changed[names[name]] = str(value)
        assert main(changed) == 2
        out, err = capsys.readouterr()
        error = [line for line in err.splitlines() if not line.startswith("[")]
        assert out == ""
        assert error[0].startswith("error: ")
        assert words in error[0]
        assert len(error) <= 2

    broken = tmp_path / "broken.keras"
    broken.write_bytes(b"PK\x03\x04 and no more")
    before = sorted(tmp_path.iterdir())
    said("No such file or directory", model=tmp_path / "none.keras")
    said("is no intact .keras file", model=broken)
    said("No such file or directory", scaler=tmp_path / "none.json")
    said("is no JSON", scaler=broken)
    said("exists and is no bundle", out=tmp_path)
    said("/proc/bundle cannot be written", out="/proc/bundle")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    said("SOURCE_DATE_EPOCH is 'yesterday', expected seconds since 1970")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "wrong", [["--frame", "x,y"], ["--wrist", "third"], ["--parity-windows", "many"], ["--sclaer"]]
)
def test_an_option_that_cannot_be_is_refused_by_name(wrong, arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main([*arguments, *wrong])
    assert caught.value.code == 2
    assert wrong[0] in capsys.readouterr().err


def test_without_keras_the_way_to_get_it_is_said(arguments, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", None)
    assert main(arguments) == 1
    error, way_out = capsys.readouterr().err.splitlines()[-2:]
    assert error == "error: keras is not installed"
    assert way_out == "  pip install 'fidget-gateway[converter]'"
    assert not (tmp_path / "bundle").exists()


COMMANDS = {
    "convert": (
        "--scaler",
        "--out",
        "--force",
        "--variants",
        "--labels",
        "--frame",
        "--wrist",
        "--json",
        "300 or more",
    ),
    "inspect": ("--json", ".keras, .h5", ".tflite"),
    "verify": ("--against", "--scaler", "--windows", "--seed", "--json"),
    "pack": ("--force", "OUT.zip"),
}


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_says_what_a_newcomer_needs(command, capsys, monkeypatch):
    """Every option, what the exit codes mean, and examples that are commands; in 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as caught:
        main([*command.split(), "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for words in COMMANDS.get(command, COMMANDS):
        assert words in text
    assert re.search(r"exit codes:.*\b0\b.*\b2\b.*\b130 +Ctrl-C", text, re.DOTALL)
    assert max(map(len, text.splitlines())) <= 80
    examples = re.findall(r"^  converter (.+)$", text.replace("\\\n", ""), re.MULTILINE)
    assert examples
    for example in examples:
        assert command_line().parse_args(shlex.split(example)).command == (command or example.split()[0])
