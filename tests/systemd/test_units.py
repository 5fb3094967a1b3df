"""The unit and the example configuration that ship."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.config import load_config

SYSTEMD = Path(__file__).resolve().parents[2] / "systemd"
UNIT = SYSTEMD / "fidget-gateway.service"

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze (systemd)")


def test_the_example_configuration_is_valid():
    config = load_config(SYSTEMD / "gateway.example.toml")
    assert [wearable.id for wearable in config.wearables] == ["left", "right"]
    assert config.store.path.is_relative_to("/var/lib/fidget-gateway")


@needs_systemd
def test_systemd_accepts_the_unit(tmp_path):
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/fidget-gateway/bin/gateway", sys.executable))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_systemd
def test_the_unit_is_confined(tmp_path):
    """systemd's own score, 0 (confined) to 10 (exposed); what is left are network, D-Bus and /proc/cpuinfo."""
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=15", "--no-pager", UNIT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze cannot judge a unit that is not installed")
    exposure = re.search(r"exposure level for [\w.-]+: ([\d.]+)", done.stdout)
    assert exposure is not None, done.stderr
    assert float(exposure[1]) <= 1.2


def test_the_service_user_is_the_one_that_is_made():
    users = re.findall(r"^u (\S+)", (SYSTEMD / "fidget-gateway.sysusers.conf").read_text(), re.MULTILINE)
    assert users == re.findall(r"^User=(\S+)", UNIT.read_text(), re.MULTILINE)
