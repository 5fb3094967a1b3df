"""What is remembered of pairings, over restarts and damage."""

import json
import stat
from pathlib import Path

import pytest

from gateway.ble.bonds import Records
from gateway.ble.private_file import FileDamaged
from gateway.errors import InputRejected
from gateway.link.bonds import Remembered

LEFT, OTHER = "C0:00:00:00:00:01", "C0:00:00:00:00:02"


def test_what_is_remembered_survives_a_restart_and_is_for_one_address(tmp_path: Path) -> None:
    file = tmp_path / "state" / "bonds.json"
    records = Records(file)
    assert records.of("left", LEFT) is None
    assert not file.exists(), "nothing is written before there is anything to remember"
    records.remember("left", LEFT.lower(), Remembered.NUMBER)
    records.remember("right", OTHER, Remembered.FORGOTTEN)
    again = Records(file)
    assert (again.of("left", LEFT), again.of("right", OTHER)) == (Remembered.NUMBER, Remembered.FORGOTTEN)
    assert again.of("left", OTHER) is None, "another wearable has come in its place"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [entry.name for entry in file.parent.iterdir()] == ["bonds.json"]


GOOD = {"version": 1, "wearables": {"left": {"address": LEFT, "pairing": "number"}}}


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 100_000,
        json.dumps(GOOD | {"version": 2}).encode(),
        json.dumps(GOOD | {"wearables": []}).encode(),
        json.dumps(GOOD | {"wearables": {"left": {"address": LEFT, "pairing": "perhaps"}}}).encode(),
        json.dumps(GOOD | {"wearables": {"left": {"address": 5, "pairing": "number"}}}).encode(),
    ],
)
def test_a_damaged_file_is_told_and_left_as_it_is(tmp_path: Path, damaged: bytes) -> None:
    """Taken for empty it would let everybody in whom it refuses."""
    file = tmp_path / "bonds.json"
    file.write_bytes(damaged)
    with pytest.raises(FileDamaged, match=r"bonds\.json: not what the gateway wrote there") as told:
        Records(file)
    assert told.value.hint.startswith("Move it away: what is paired now is then taken for granted")
    assert file.read_bytes() == damaged


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("in the way")
    with pytest.raises(InputRejected, match=r"bonds\.json: (File exists|Not a directory)"):
        Records(tmp_path / "state" / "bonds.json").remember("left", LEFT, Remembered.NUMBER)
