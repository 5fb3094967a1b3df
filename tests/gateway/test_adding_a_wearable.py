"""docs/adding-a-wearable.md: its code is run as it stands, and carries samples."""

import os
import re
import shlex
import shutil
import struct
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import numpy as np
import pytest

from firmware_sim.scenario import parse_wearable
from gateway.config import load_config
from gateway.profiles import ENTRY_POINTS, PROFILES, profile_of
from gateway.profiles.conversation import Connected, Kind, Notified, Observe, Received, Write

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "adding-a-wearable.md").read_text()
MODULE, VECTORS, GOOD = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def acme():
    module = types.ModuleType("acme_band")
    exec(compile(MODULE, "acme_band.py", "exec"), module.__dict__)  # as an import would
    return module


def test_module_vectors_and_registry_line_are_under_60_lines():
    """Blank ones left out."""
    assert len([line for line in (MODULE + VECTORS).splitlines() if line.strip()]) + 1 < 60


def test_its_vectors_pass(acme, monkeypatch):
    monkeypatch.setitem(sys.modules, "gateway.profiles.acme", acme)
    names: dict[str, object] = {}
    exec(compile(VECTORS, "test_acme.py", "exec"), names)
    names["test_the_vendors_frame_decodes"]()


def test_it_has_all_that_a_registered_profile_has(acme):
    reference = PROFILES["movesense"]
    public = {name for name in dir(reference) if not name.startswith("_")}
    assert public <= set(dir(acme.AcmeProfile()))


def test_followed_to_the_letter_it_leaves_the_tests_of_all_families_green(tmp_path):
    """In a copy of the package and of those tests, with a process of its own."""
    for folder in ("gateway", "tests/gateway/profiles"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    profiles, tests = tmp_path / "gateway" / "profiles", tmp_path / "tests" / "gateway" / "profiles"
    (profiles / "acme.py").write_text(MODULE)
    (tests / "test_acme.py").write_text(VECTORS)
    (registered,) = re.findall(r"`(AcmeProfile\(\),)`", PAGE)
    (imported,) = re.findall(r"`(from gateway\.profiles\.acme import \w+)`", PAGE)
    put_before(profiles / "__init__.py", "from gateway.profiles.arduino", f"{imported}\n")
    put_before(profiles / "__init__.py", "        ArduinoProfile(),", f"        {registered}\n")
    put_before(tests / "test_families.py", '    "arduino-nano33-ble-sense": [', GOOD)
    files = [tests / f"test_{name}.py" for name in ("acme", "families", "registry")]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "acme" in GOOD


def put_before(file, line, text):
    content = file.read_text()
    assert content.count(line) == 1
    file.write_text(content.replace(line, text + line))


def test_a_stream_of_it_is_told_with_its_loss(acme):
    profile = acme.AcmeProfile()
    conversation, decoder = profile.conversation({}), profile.decoder()
    assert Write(acme.CONTROL, b"\1") in conversation.handle(Connected(), 0)
    pieces = []
    for i in [*range(50), *range(53, 100)]:
        payload = struct.pack("<I6h", 2**32 - 500 + 20 * i & 0xFFFFFFFF, 0, 0, 1000, i, 0, 0)
        (observed,) = conversation.handle(Notified(acme.DATA, payload), i * 20_000_000)
        assert observed == Observe(Kind.FRAME, payload)
        pieces += decoder.decode(Kind.FRAME, payload, Received(i + 1, "boot", i * 20_000_000))
        decoder = profile.decoder(decoder.state())
    lost = [(p.first, p.end) for p in pieces if not hasattr(p, "values")]
    assert lost == [(50, 53)]
    bursts = [p for p in pieces if hasattr(p, "values")]
    assert np.concatenate([b.values for b in bursts])[:, 3] == pytest.approx([0.1 * b.first for b in bursts])


def test_its_entry_point_is_of_the_group_that_is_looked_up(acme, tmp_path, monkeypatch):
    (toml,) = re.findall(r"```toml\n(\[project.*?)```", PAGE, re.DOTALL)
    ((name, value),) = tomllib.loads(toml)["project"]["entry-points"][ENTRY_POINTS].items()
    info = tmp_path / "acme_band-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-band\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{ENTRY_POINTS}]\n{name} = {value}\n")
    (tmp_path / "acme_band.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        assert profile_of("acme").service_uuid == acme.SERVICE
    finally:
        sys.modules.pop("acme_band", None)


def test_its_configuration_and_its_simulated_wearable_are_good_and_meet(tmp_path):
    """The commands themselves run until they are stopped; here is read what they are given."""
    (text,) = re.findall(r"```toml\n(\[gateway\].*?)```", PAGE, re.DOTALL)
    (tmp_path / "models").symlink_to(ROOT / "models")
    (tmp_path / "try.toml").write_text(text)
    config = load_config(tmp_path / "try.toml")
    commands = [shlex.split(line) for line in "".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)).splitlines()]
    assert [words[0] for words in commands] == ["mosquitto", "firmware-sim", "gateway", "gateway"]
    spec = parse_wearable(commands[1][commands[1].index("--wearable") + 1])
    (wearable,) = config.wearables
    assert (wearable.address, wearable.profile) == (spec.ble_address(), spec.profile)
    assert config.radio.transport == f"tcp-client:{commands[1][commands[1].index('--listen') + 1]}"
    assert str(config.sync.port) == commands[0][-1]
    assert commands[3][2] == str(spec.truth)
