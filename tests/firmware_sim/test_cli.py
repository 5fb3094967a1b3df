"""The command says in a line what is wrong, with exit code 2, and its help suffices."""

import pytest

from firmware_sim.cli import main
from firmware_sim.faults import FAULTS
from firmware_sim.scenario import WearableSpec

WRONG = [
    (["run"], "no wearable to play", '--wearable "name=left"'),
    (["run", "--wearable", "name=a", "--listen", "nowhere"], "expected HOST:PORT or unix:PATH", ""),
    (["run", "--wearable", "name=a", "--time", "1:0:2"], "the speed must be above 0", ""),
    (["run", "--wearable", "name=a; sede=1"], "did you mean 'seed'?", "firmware-sim run --help"),
    (["run", "--wearable", "name=a", "--wearable", "name=a"], "two wearables have the name 'a'", ""),
    (["run", "--scenario", "/nowhere/x.toml"], "No such file or directory", ""),
    (["run", "--wearable", "name=a; recording=/nowhere/x.csv"], "No such file or directory", ""),
    (["run", "--wearable", "name=a; truth=/nowhere/x.csv"], "No such file or directory", ""),
]


@pytest.mark.parametrize(("arguments", "said", "hint"), WRONG, ids=[said for _, said, _ in WRONG])
def test_bad_input_is_told_in_a_line(
    arguments: list[str], said: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    told = capsys.readouterr()
    first, *rest = told.err.splitlines()
    assert first.startswith("error: ")
    assert said in first
    assert hint in "\n".join(rest)
    assert told.out == ""


def test_the_help_names_every_key_of_a_wearable(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", "--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert [key for key in WearableSpec.model_fields if key not in told] == []
    assert [name for name in FAULTS if f"  {name}" not in told] == []
