"""One virtual machine: QEMU's process, its disk, its monitor, and a shell in it over ssh."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.vm.image import Image

SNAPSHOT = "running"
MEMORY_MB = 1024
BOOT_S = 900.0
"""Without KVM: 18 s (arm64: 30 s) on cores that are idle; where six others want them, six times that and more."""
ANSWER_S = 60.0
"""Until sshd has answered: its keys take an emulated core a second, where seven others want it too ten."""
COMMAND_S = 120.0
OUTSIDE = "10.0.2.100"
"""The address at which the guest finds what runs outside."""
PIPE = Path(__file__).parent / "pipe.py"
BOARDS = {
    "amd64": ("qemu-system-x86_64", "-M", "q35", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max"),
    # a Raspberry Pi 4's cores
    "arm64": ("qemu-system-aarch64", "-M", "virt,gic-version=3", "-accel", "tcg,thread=multi", "-cpu", "cortex-a72"),
}
"""By Debian's name of the architecture: QEMU's command and the board; a snapshot fits no other."""
EQUIPMENT = (
    *("-smp", "2", "-m", str(MEMORY_MB), "-nodefaults", "-display", "none", "-no-reboot"),
    *("-device", "pcie-root-port,id=spare,chassis=1,slot=1"),
)
"""Of every board. spare: where a disk can be plugged in."""
CONSOLES = {"amd64": "ttyS0", "arm64": "ttyAMA0"}


class GuestFailed(Exception):
    """A command in the guest; the message has what it said."""


class Machine:
    """folder: for the disk, the monitor and the console's log. outside: ports of OUTSIDE, and the local ones behind."""

    def __init__(self, image: "Image", folder: Path, outside: Mapping[int, int] | None = None) -> None:
        self._image, self._folder = image, folder
        self._outside = dict(outside or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._ssh_port = 0
        self.disk = folder / "disk.qcow2"

    # Its life.

    def boot(self, kernel_words: str = "", clock: str | None = None) -> None:
        """From its disk. clock: of the board, as `-rtc base=` takes it."""
        self._start([] if clock is None else ["-rtc", f"base={clock}"], kernel_words)

    def resume(self) -> None:
        """Where the image was booted, with a fresh copy of its disk; the guest's clock is set."""
        if self.disk != self._image.disk:
            shutil.copy(self._image.disk, self.disk)
        # where the image was made its folder had another name
        base = str(self._image.file("base.img"))
        subprocess.run(["qemu-img", "rebase", "-q", "-u", "-F", "raw", "-b", base, str(self.disk)], check=True)
        self._start(["-loadvm", SNAPSHOT])
        self.wait_up()
        self.command(f"date -s @{time.time():.3f}")

    def _start(self, more: list[str], kernel_words: str = "") -> None:
        self._ssh_port = _free_port()
        ways = "".join(
            f",guestfwd=tcp:{OUTSIDE}:{port}-cmd:{sys.executable} {PIPE} {local}"
            for port, local in self._outside.items()
        )
        console = CONSOLES[self._image.architecture]
        words = f"root=/dev/vda rw console={console} quiet mitigations=off net.ifnames=0 {kernel_words}"
        argv = [
            *(*BOARDS[self._image.architecture], *EQUIPMENT),
            *("-kernel", str(self._image.file("vmlinuz")), "-initrd", str(self._image.file("initrd"))),
            *("-append", words, "-drive", f"file={self.disk},if=none,id=d0", "-device", "virtio-blk-pci,drive=d0"),
            *("-netdev", f"user,id=n0,restrict=on,hostfwd=tcp:127.0.0.1:{self._ssh_port}-:22{ways}"),
            *("-device", "virtio-net-pci,netdev=n0", "-device", "virtio-rng-pci"),
            *("-serial", f"file:{self._folder / 'console'}", "-qmp", f"unix:{self._monitor},server,nowait"),
            *more,
        ]
        with (self._folder / "qemu.log").open("ab") as log:
            self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    @property
    def _monitor(self) -> Path:
        return self._folder / "monitor"

    def wait_up(self, within_s: float = BOOT_S) -> None:
        """Until its shell answers. Raises GuestFailed."""
        limit = time.monotonic() + within_s
        while True:
            try:
                self.command("true", within_s=ANSWER_S)
            except (GuestFailed, subprocess.TimeoutExpired) as error:
                if self._process is None or self._process.poll() is not None:
                    said = (self._folder / "qemu.log").read_text(errors="replace")
                    raise GuestFailed(f"QEMU has ended: {said[-2000:]}") from None
                if time.monotonic() > limit:
                    raise GuestFailed(f"no shell within {within_s:g} s: {error}; {self.console()[-2000:]}") from None
                time.sleep(0.3)
            else:
                return

    def cut_power(self) -> None:
        """At once, as a plug that is pulled. What the guest has not flushed is gone."""
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
            process.wait(10)

    def keep(self) -> None:
        """A snapshot of the running machine in its disk, from which it can be resumed."""
        answer = self.monitor("human-monitor-command", **{"command-line": f"savevm {SNAPSHOT}"})
        if answer:
            raise GuestFailed(f"savevm: {answer}")

    def console(self) -> str:
        with suppress(FileNotFoundError):
            return (self._folder / "console").read_text(errors="replace")
        return ""

    # In it.

    def command(self, words: str, *, within_s: float = COMMAND_S, given: bytes = b"") -> str:
        """What a root's shell says on standard output. Raises GuestFailed."""
        done = subprocess.run([*self._ssh(), words], input=given, capture_output=True, timeout=within_s)
        if done.returncode:
            said = (done.stdout + done.stderr).decode(errors="replace")
            raise GuestFailed(f"{words!r}: exit code {done.returncode}: {said[-3000:]}")
        return done.stdout.decode(errors="replace")

    def write(self, path: str, content: str | bytes, *, owner: str = "root", mode: str = "644") -> None:
        """On its disk when this returns."""
        given = content.encode() if isinstance(content, str) else content
        made = (
            f"mkdir -p {os.path.dirname(path)} && cat > {path} && chown {owner} {path} && chmod {mode} {path} && sync"
        )
        self.command(made, given=given)

    def _ssh(self) -> list[str]:
        options = {
            "IdentityFile": self._image.file("key"),
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": "/dev/null",
            "LogLevel": "ERROR",
            "ConnectTimeout": f"{ANSWER_S:g}",
            # one connection for all commands: without KVM its keys alone take the guest most of a second
            "ControlMaster": "auto",
            "ControlPath": self._folder / "ssh-%p",
            "ControlPersist": "600",
        }
        said = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        return ["ssh", *said, "-p", str(self._ssh_port), "root@127.0.0.1"]

    # Its board.

    def reach(self, port: int) -> int:
        """The local port behind which a TCP port of the guest answers from now on."""
        local = _free_port()
        words = f"hostfwd_add n0 tcp:127.0.0.1:{local}-:{port}"
        if answer := self.monitor("human-monitor-command", **{"command-line": words}):
            raise GuestFailed(f"{words}: {answer}")
        return local

    def plug_in_disk(self, socket_: Path) -> None:
        """What an NBD server on that socket serves; the guest sees it as /dev/vdb."""
        server = {"type": "unix", "path": str(socket_)}
        self.monitor("blockdev-add", **{"driver": "nbd", "node-name": "plugged", "server": server})
        self.monitor("device_add", driver="virtio-blk-pci", drive="plugged", bus="spare")

    def monitor(self, execute: str, **arguments: Any) -> Any:
        """One command of QEMU's QMP, and its answer."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(COMMAND_S)
            connection.connect(str(self._monitor))
            lines = connection.makefile("rw")
            lines.readline()
            for message in ({"execute": "qmp_capabilities"}, {"execute": execute, "arguments": arguments}):
                lines.write(json.dumps(message) + "\n")
                lines.flush()
                answer = json.loads(lines.readline())
                while "event" in answer:
                    answer = json.loads(lines.readline())
            if "error" in answer:
                raise GuestFailed(f"{execute}: {answer['error']['desc']}")
            return answer["return"]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
