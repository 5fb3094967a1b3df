"""The unit and the example configuration that ship."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.config import load_config

SYSTEMD = Path(__file__).resolve().parents[2] / "systemd"
UNIT = SYSTEMD / "fidget-gateway.service"
PARAMETERS = SYSTEMD / "fidget-gateway-connparams.service"

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze (systemd)")


def test_the_example_configuration_is_valid():
    config = load_config(SYSTEMD / "gateway.example.toml")
    assert [wearable.id for wearable in config.wearables] == ["left", "right"]
    assert config.store.path.is_relative_to("/var/lib/fidget-gateway")


@needs_systemd
@pytest.mark.parametrize("file", [UNIT, PARAMETERS], ids=lambda file: file.name)
def test_systemd_accepts_the_unit(file, tmp_path):
    unit = tmp_path / file.name
    unit.write_text(file.read_text().replace("/opt/fidget-gateway/bin/gateway", sys.executable))
    for other in re.findall(r"^Requires=(\S+)", unit.read_text(), re.MULTILINE):  # it need not be installed here
        (tmp_path / other).write_text("[Service]\nExecStart=/bin/true\n")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit],
        capture_output=True,
        text=True,
        timeout=60,
        env={"SYSTEMD_UNIT_PATH": f"{tmp_path}:", "PATH": os.environ["PATH"]},
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_systemd
@pytest.mark.parametrize(
    ("file", "most"), [(UNIT, 1.2), (PARAMETERS, 1.8)], ids=lambda given: getattr(given, "name", str(given))
)
def test_the_unit_is_confined(file, most, tmp_path):
    """systemd's own score, 0 (confined) to 10 (exposed). What is left are network, D-Bus and /proc/cpuinfo; of the one
    for connection parameters its capability, and the machine's own users and network, in which alone that counts."""
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", file]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze cannot judge a unit that is not installed")
    exposure = re.search(r"exposure level for [\w.-]+: ([\d.]+)", done.stdout)
    assert exposure is not None, done.stderr
    assert float(exposure[1]) <= most


def test_the_unit_for_connection_parameters_has_one_capability_and_no_network():
    text = PARAMETERS.read_text()
    for setting in ("CapabilityBoundingSet=CAP_NET_ADMIN", "AmbientCapabilities=CAP_NET_ADMIN", "NoNewPrivileges=yes"):
        assert re.search(f"^{setting}$", text, re.MULTILINE)
    assert re.findall(r"^RestrictAddressFamilies=(.*)$", text, re.MULTILINE) == ["AF_BLUETOOTH"]


def test_the_service_user_is_the_one_that_is_made():
    users = re.findall(r"^u (\S+)", (SYSTEMD / "fidget-gateway.sysusers.conf").read_text(), re.MULTILINE)
    for unit in (UNIT, PARAMETERS):
        assert users == re.findall(r"^User=(\S+)", unit.read_text(), re.MULTILINE)
