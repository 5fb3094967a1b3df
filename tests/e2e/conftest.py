"""Fixtures that start the path, and a broker that is no process of ours."""

import getpass
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gateway.cli.demo import demo_bundle
from gateway.demo.arrange import Files
from gateway.demo.processes import Children
from tests.e2e.path import POLL_S, Path_


@pytest.fixture(scope="session")
def bundle() -> Path:
    """The demo's own."""
    return demo_bundle()


class Mosquitto:
    """A mosquitto that keeps its sessions over a restart on the same port."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, more: str = "allow_anonymous true\n") -> None:
        file = self._folder / "mosquitto.conf"
        file.write_text(
            f"listener {self.port} 127.0.0.1\n{more}persistence true\npersistence_location {self._folder}/\n"
            f"max_queued_messages 0\nuser {getpass.getuser()}\n"  # else root's mosquitto drops to a user of its own
        )
        binary = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
        with (self._folder / "mosquitto.log").open("ab") as log:
            self._process = subprocess.Popen([binary, "-c", str(file)], stdout=log, stderr=log)
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
            except OSError:
                time.sleep(POLL_S)
            else:
                return
        pytest.fail(f"mosquitto does not listen: {(self._folder / 'mosquitto.log').read_text()}")

    def kill(self) -> None:
        """kill -9: what it has not saved is gone."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)
        self._process = None

    def terminate(self) -> None:
        """SIGTERM, and waits; its sessions are on disk then."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None
            assert (self._folder / "mosquitto.db").is_file()


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    if not (shutil.which("mosquitto") or Path("/usr/sbin/mosquitto").is_file()):
        pytest.skip("mosquitto is not installed: apt-get install mosquitto")
    folder = tmp_path / "mosquitto"
    folder.mkdir()
    broker = Mosquitto(folder)
    yield broker
    broker.terminate()


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[Path_]:
    async with Children(tmp_path) as children:
        under_test = Path_(Files(tmp_path), children)
        try:
            yield under_test
        finally:
            if under_test.control is not None:
                await under_test.control.__aexit__(None, None, None)
