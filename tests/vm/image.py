"""The guest: Debian with systemd, BlueZ and mosquitto, this tree's daemon installed as the README says, booted once.

    python -m tests.vm.image [trixie | bookworm | trixie-arm64]

Built into build/vm in two steps, each again when what goes into it changes: from Debian's packages and the wheels that
the daemon needs RELEASE-DIGEST/base, booted once; from that and this tree RELEASE-DIGEST/DIGEST, with the daemon. A
test begins with a copy of the disk, resumed where that was done: seconds, where booting takes a minute without KVM.
Needs root, and the Debian packages of PACKAGES on this machine.
"""

import argparse
import fcntl
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import time
import tomllib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.vm.machine import BOARDS, BOOT_S, EQUIPMENT, Machine

ROOT = Path(__file__).parents[2]
CACHE = ROOT / "build" / "vm"
GUEST = Path(__file__).parent / "guest"
TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "ssh": "openssh-client",
}
"""On this machine, and the Debian package of each."""
PACKAGES = tuple(dict.fromkeys([*TOOLS.values(), "ipxe-qemu", "seabios", "zstd"]))
ARM_TOOLS = {
    "qemu-system-aarch64": "qemu-system-arm",
    "qemu-aarch64-static": "qemu-user-static",
    "arch-test": "arch-test",
}
"""For a guest of arm64 besides."""
ARM_PROGRAMS = Path("/proc/sys/fs/binfmt_misc/qemu-aarch64")
"""There where this machine's kernel runs programs of arm64, emulated."""
ARM_PACKAGES = (*ARM_TOOLS.values(), "binfmt-support")
PYTHONS = {"trixie": "3.13", "bookworm": "3.11"}
"""Debian's releases, and their Python."""
INCLUDED = (
    *("systemd-sysv", "systemd-timesyncd", "dbus", "udev", "kmod", "libnss-systemd", "iproute2", "openssh-server"),
    *("bluez", "rfkill", "python3-venv", "mosquitto", "mosquitto-clients", "sqlite3", "initramfs-tools", "zstd"),
)
LEFT_OUT = (
    *("drivers/gpu", "drivers/media", "drivers/net/wireless", "drivers/net/ethernet", "drivers/infiniband"),
    *("drivers/staging", "drivers/scsi", "drivers/iio", "drivers/hwmon", "drivers/md", "drivers/nvme", "sound"),
    *("fs/btrfs", "fs/xfs", "fs/ocfs2", "fs/f2fs", "fs/bcachefs", "fs/nfs", "fs/nfsd", "fs/smb", "fs/ceph"),
)
"""Of the kernel's modules: 200 MB that no guest needs."""
INSTALLED = ("gateway", "converter", "firmware_sim", "models", "systemd", "pyproject.toml", "constraints.txt")
"""Of this tree, what the guest's installation comes from."""
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
"""The architectures by Debian's names, and by those of wheels."""
MANYLINUX = ("_2_34", "_2_31", "_2_28", "_2_27", "_2_17", "2014", "1")
INSTALL_S = 600.0
"""pip, emulated: 10 s on idle cores."""
DISK = "2G"
DISK_LABEL_OPTIONS = "^metadata_csum_seed"

Say = Callable[[str], None]


class CannotBuild(Exception):
    """The message says what is missing."""


@dataclass(frozen=True, slots=True)
class Kind:
    """Of a guest."""

    release: str
    architecture: str = "amd64"


KINDS = {"trixie": Kind("trixie"), "bookworm": Kind("bookworm"), "trixie-arm64": Kind("trixie", "arm64")}


@dataclass(frozen=True, slots=True)
class Image:
    """base: a folder with vmlinuz, initrd, base.img, key. disk: over base.img, with the snapshot SNAPSHOT."""

    base: Path
    disk: Path
    architecture: str = "amd64"

    def file(self, name: str) -> Path:
        return self.base / name


def missing(name: str = "trixie") -> str | None:
    """What keeps this machine from building and running such guests; None where nothing does."""
    arm = KINDS[name].architecture == "arm64"
    tools, packages = (TOOLS | ARM_TOOLS, PACKAGES + ARM_PACKAGES) if arm else (TOOLS, PACKAGES)
    if any(shutil.which(tool, path=_path()) is None for tool in tools):
        return f"apt-get install --no-install-recommends {' '.join(packages)}"
    if arm and not ARM_PROGRAMS.exists():
        return "mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc; update-binfmts --enable qemu-aarch64"
    return None if os.geteuid() == 0 else "building a guest needs root"


def image(name: str = "trixie", say: Say = lambda _: None) -> Image:
    """One of KINDS, from the cache, or built, which takes three minutes (arm64: twenty), and half a minute where only
    the daemon has changed.

    Raises CannotBuild.
    """
    lacking = missing(name)
    if lacking:
        raise CannotBuild(lacking)
    kind = KINDS[name]
    began = time.monotonic()

    def step(what: str) -> None:
        say(f"{time.monotonic() - began:4.0f} s  {name}: {what}")

    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    board = BOARDS[kind.architecture]
    # a snapshot is one board's, and one version's of QEMU
    digest = _digest([], *needed, *_pins(needed), *board, *EQUIPMENT, _run(board[0], "--version"))
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        family = CACHE / f"{name}-{digest}"
        _made(
            family / "base",
            f"{name}-{'?' * len(digest)}",
            CACHE,
            lambda folder: _build_base(kind, needed, folder, step),
        )
        base = Image(family / "base", family / "base" / "disk.qcow2", kind.architecture)
        with_daemon = family / _digest(INSTALLED)
        _made(with_daemon, "*", family, lambda folder: _install(base, folder, step))
    return Image(base.base, with_daemon / "disk.qcow2", kind.architecture)


def _made(folder: Path, siblings: str, where: Path, make: Callable[[Path], None]) -> None:
    """Makes it if it is not there; the older ones go."""
    if folder.is_dir():
        return
    for old in where.glob(siblings):
        if old != folder.parent and old.name != "base":
            shutil.rmtree(old)
    making = folder.with_suffix(".making")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    make(making)
    making.rename(folder)


def _pins(needed: Sequence[str]) -> list[str]:
    """What constraints.txt says of these packages and of what they need: a pin of development makes no new guest."""
    found: set[str] = set()
    wanted = [Requirement(one) for one in needed]
    while wanted:
        one = wanted.pop()
        name = canonicalize_name(one.name)
        if name not in found and (one.marker is None or one.marker.evaluate({"extra": ""})):
            found.add(name)
            with suppress(PackageNotFoundError):  # of another platform
                wanted += [Requirement(text) for text in requires(name) or []]
    pins = [line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    return [pin for pin in pins if pin and canonicalize_name(Requirement(pin).name) in found]


def _digest(names: Sequence[str], *more: str) -> str:
    """Of these files of the tree and of the guest's own; not of the versions of Debian's packages, which are renewed by
    deleting the image."""
    files = [Path(__file__), *GUEST.iterdir()]
    for name in names:
        there = ROOT / name
        files += [path for path in there.rglob("*") if path.is_file()] if there.is_dir() else [there]
    seen = hashlib.sha256("\0".join(more).encode())
    for file in sorted(files):
        if "__pycache__" not in file.parts:
            seen.update(f"{file.relative_to(ROOT)}\0".encode() + file.read_bytes())
    return seen.hexdigest()[:12]


def _build_base(kind: Kind, needed: Sequence[str], folder: Path, step: Say) -> None:
    """needed: of Python's packages."""
    step("the wheels that the daemon needs")
    libraries = folder / "libraries"
    python = PYTHONS[kind.release]
    platforms = [*(f"manylinux{version}_{MACHINES[kind.architecture]}" for version in MANYLINUX), "any"]
    tags = ["--implementation", "cp", "--python-version", python, "--abi", f"cp{python.replace('.', '')}"]
    tags += ["--abi", "abi3", "--abi", "none", *(word for platform in platforms for word in ("--platform", platform))]
    chosen = ["--constraint", ROOT / "constraints.txt", "--only-binary", ":all:", "--no-compile", "--target", libraries]
    _run(sys.executable, "-m", "pip", "install", "--quiet", "--no-input", *chosen, *tags, *needed)
    with suppress(
        CannotBuild, FileNotFoundError
    ):  # without such a Python here the guest does it, slowly where emulated
        _run(f"python{python}", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", libraries)

    step("Debian's packages")
    root = folder / "root"
    sources = folder / "sources"
    sources.write_text(_sources(kind.release))
    left_out = [f"/usr/lib/modules/*/kernel/{part}/*" for part in LEFT_OUT]
    left_out += ["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*"]
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "key")
    guest = " ".join(str(path) for path in sorted(GUEST.iterdir()))
    hooks = [f"copy-in {folder / 'key.pub'} {libraries} /tmp", f"copy-in {guest} /usr/local/sbin"]
    _run(
        *("mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", "--aptopt=APT::Install-Recommends false"),
        "--dpkgopt=force-unsafe-io",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in left_out),
        f"--architecture={kind.architecture}",
        f"--include={','.join([*INCLUDED, f'linux-image-{kind.architecture}'])}",
        f"--essential-hook=copy-in {GUEST / 'initrd.sh'} /tmp",
        '--essential-hook=chroot "$1" sh /tmp/initrd.sh',
        *(f"--customize-hook={hook}" for hook in hooks),
        '--customize-hook=chroot "$1" sh /usr/local/sbin/set_up.sh',
        *(kind.release, str(root), str(sources)),
    )

    step("the disk")
    for name in ("vmlinuz", "initrd"):
        (boot,) = (root / "boot").glob(f"{name}*")
        shutil.copy(boot, folder / name)
    _run("mke2fs", "-q", "-t", "ext4", "-d", root, "-L", "root", "-O", DISK_LABEL_OPTIONS, folder / "base.img", DISK)
    shutil.rmtree(root)
    shutil.rmtree(libraries)
    disk = folder / "disk.qcow2"
    _run("qemu-img", "create", "-q", "-f", "qcow2", "-b", folder / "base.img", "-F", "raw", disk)

    step("booting it once")
    machine = Machine(Image(folder, disk, kind.architecture), folder)
    machine.boot()
    try:
        machine.wait_up()
        machine.command("systemctl is-system-running --wait", within_s=BOOT_S)
        machine.keep()
    finally:
        machine.cut_power()


def _install(base: Image, folder: Path, step: Say) -> None:
    """The README's commands."""
    step("the daemon in it")
    wheel = _wheel(folder)
    machine = Machine(base, folder)
    machine.resume()
    try:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for path in (wheel, ROOT / "systemd", ROOT / "models" / "demo"):
                archive.add(path, path.name)
        machine.command("tar x -C /tmp", given=packed.getvalue(), within_s=INSTALL_S)
        machine.command("sh -e /usr/local/sbin/install.sh", within_s=INSTALL_S)
        machine.keep()
    finally:
        machine.cut_power()
    wheel.unlink()
    step("done")


def _wheel(folder: Path) -> Path:
    _run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT)
    (wheel,) = folder.glob("fidget_gateway-*.whl")
    return wheel


def _sources(release: str) -> str:
    """This machine's own sources of Debian, for that release."""
    lines = []
    for file in [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("debian.sources"))]:
        if file.is_file():
            lines += file.read_text().splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    for known in PYTHONS:
        text = text.replace(known, release)
    if not text.strip():
        raise CannotBuild("no Debian sources in /etc/apt/sources.list or /etc/apt/sources.list.d/debian.sources")
    return text + "\n"


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def _run(*words: str | Path) -> str:
    """Its output. Raises CannotBuild with the end of what it said."""
    argv: Sequence[str] = [str(word) for word in words]
    env = {**os.environ, "PATH": _path(), "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=env)
    if done.returncode:
        raise CannotBuild(f"{' '.join(argv[:4])} ...: exit code {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=KINDS, default="trixie", nargs="?")
    args = parser.parse_args()
    try:
        made = image(args.name, lambda line: print(line, file=sys.stderr, flush=True))
    except CannotBuild as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(made.disk)
    return 0


if __name__ == "__main__":
    sys.exit(main())
