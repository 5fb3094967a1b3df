"""The daemon as systemd sees it: a real process and a real notification socket, no radio, no broker."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

DEMO_BUNDLE = Path(__file__).resolve().parents[3] / "models" / "demo"
WAIT_S = 30


@pytest.fixture
def configuration(tmp_path):
    """Names a radio and a broker that nobody answers for."""
    shutil.copytree(DEMO_BUNDLE, tmp_path / "bundle")
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        port = deaf.getsockname()[1]
        file = tmp_path / "gateway.toml"
        file.write_text(
            f'[gateway]\nid = "g"\nstate_dir = "state"\n[bundle]\npath = "bundle"\n'
            f'[radio]\nbackend = "bumble"\ntransport = "tcp-client:127.0.0.1:{port}"\n'
            f'[sync]\nhost = "127.0.0.1"\nport = {port}\n[[wearable]]\nid = "w"\naddress = "C0:FF:EE:00:00:01"\n'
        )
        yield file


def test_ready_watched_and_stopped_though_radio_and_broker_are_away(configuration, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(WAIT_S)
        environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1000000"}
        environment.pop("WATCHDOG_PID", None)
        command = [sys.executable, "-m", "gateway", "run", "--config", str(configuration)]
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as daemon:
            try:
                said: list[str] = []

                def until(text):
                    while not (said and text in said[-1]):
                        said.append(manager.recv(4096).decode())

                until("READY=1")
                until("broker: ")
                assert "STATUS=failed: 0 of 1 wearables streaming; radio: " in said[-1]
                until("WATCHDOG=1")
                until("STATUS=")
                until("WATCHDOG=1")
                daemon.send_signal(signal.SIGTERM)
                until("STOPPING=1")
                assert daemon.wait(WAIT_S) == 0
            finally:
                daemon.kill()
            assert "Traceback" not in daemon.stderr.read()
