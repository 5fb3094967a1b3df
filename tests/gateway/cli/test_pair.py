"""`gateway pair`, `forget` and `wearables`, beside a stand-in for bluetoothd on a real D-Bus."""

import asyncio
import json
from pathlib import Path

import pytest

from gateway.cli import main
from tests.gateway.bluez import OURS, Adapter1, Bluez, Device1


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "gateway.toml"
    file.write_text(
        '[gateway]\nid = "home-1"\nstate_dir = "state"\n[bundle]\npath = "bundle"\n[sync]\nhost = "broker.example"\n'
        f'[[wearable]]\nid = "left"\naddress = "{OURS}"\n[[wearable]]\nid = "right"\naddress = "C0:00:00:00:00:09"\n'
    )
    return file


def add(config: Path, text: str, behind: str = "") -> None:
    whole = config.read_text()
    config.write_text(whole.replace(behind, behind + text) if behind else whole + text)


async def said(capsys: pytest.CaptureFixture[str], config: Path, *words: str) -> tuple[int, str, str]:
    code = await asyncio.to_thread(main, [*words, "--config", str(config)])
    return code, *capsys.readouterr()


async def test_a_passkey_pairs_and_the_list_shows_it_until_it_is_forgotten(
    bluez: Bluez, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter, ours = Adapter1(), Device1(OURS)
    await bluez.appears(adapter, ours)
    assert (await said(capsys, config, "pair", "left", "--passkey", "123456"))[:2] == (0, "left: paired\n")
    again = "left: is paired already; `gateway forget left` ends that\n"
    assert (await said(capsys, config, "pair", "left"))[:2] == (0, again)
    code, out, _ = await said(capsys, config, "wearables", "--json")
    assert code == 0
    assert [(row["id"], row["paired"], row["connected"]) for row in json.loads(out)] == [
        ("left", True, False),
        ("right", False, False),
    ]
    _, table, _ = await said(capsys, config, "wearables")
    assert [line.split() for line in table.splitlines()] == [
        ["id", "address", "profile", "paired", "connected"],
        ["left", OURS, "reference", "yes", "no"],
        ["right", "C0:00:00:00:00:09", "reference", "no", "no"],
    ]
    assert await said(capsys, config, "forget", "left") == (0, "left: forgotten\n", "")
    assert adapter.removed == [ours.path]
    assert await said(capsys, config, "forget", "right") == (0, "right: was not known\n", "")


async def test_a_wrong_passkey_is_told(bluez: Bluez, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    await bluez.appears(Adapter1(), Device1(OURS))
    code, out, err = await said(capsys, config, "pair", "left", "--passkey", "000000")
    assert (code, out) == (1, "")
    assert f"error: {OURS}: pairing failed: another passkey, or a number that was not confirmed\n  Try again" in err


async def test_who_pairs_without_digits_is_forgotten_again_unless_that_is_allowed(
    bluez: Bluez, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter, ours = Adapter1(), Device1(OURS)
    ours.asks = ""
    await bluez.appears(adapter, ours)
    code, out, err = await said(capsys, config, "pair", "left")
    assert (code, out, adapter.removed) == (1, "", [ours.path])
    assert f"{OURS}: it pairs without digits" in err
    assert "allow_just_works = true" in err
    ours.paired = False
    add(config, "\nallow_just_works = true", behind='id = "left"')
    assert (await said(capsys, config, "pair", "left"))[:2] == (0, "left: paired, without digits\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("pair", "left", "--passkey", "12345"), "--passkey '12345': expected six digits"),
        (("pair", "left", "--heard-as", "5A:0"), "--heard-as '5A:0': expected an address such as 5A:FF:EE:00:00:01"),
        (("pair", "lef"), "no wearable 'lef' in it\n  Did you mean left?"),
        (("forget", "nobody"), "no wearable 'nobody' in it\n  There are: left, right."),
    ],
)
async def test_what_cannot_be_meant_is_refused(
    config: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    code, out, err = await said(capsys, config, *words)
    assert (code, out) == (2, "")
    assert message in err


@pytest.mark.usefixtures("system_bus")
async def test_without_bluetoothd_it_is_asked_for(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = await said(capsys, config, "wearables")
    assert (code, out) == (1, "")
    assert "Is bluetoothd running?" in err
