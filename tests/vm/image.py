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
import re
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

from tests.vm.boot import initrd, modules_in
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
    *("systemd-sysv", "dbus", "udev", "kmod", "libnss-systemd", "iproute2", "openssh-server", "bluez"),
    *("python3", "libstdc++6"),
)
"""The last is what numpy's wheel is linked with; every machine that can install packages has it."""
BESIDE = ("systemd-timesyncd", "rfkill", "mosquitto", "mosquitto-clients", "sqlite3")
"""What tests use that are run on this machine's architecture alone."""
LEFT_OUT = (
    *("drivers/gpu", "drivers/media", "drivers/net/wireless", "drivers/net/ethernet", "drivers/infiniband"),
    *("drivers/staging", "drivers/scsi", "drivers/iio", "drivers/hwmon", "drivers/md", "drivers/nvme", "sound"),
    *("fs/btrfs", "fs/xfs", "fs/ocfs2", "fs/f2fs", "fs/bcachefs", "fs/nfs", "fs/nfsd", "fs/smb", "fs/ceph"),
)
"""Of the kernel's modules: 200 MB that no guest needs."""
EXCLUDED = (
    *("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*"),
    *("/usr/lib/udev/hwdb.d/*", "/usr/lib/systemd/catalog/*"),
)
"""Of Debian's packages. The last two are compiled when they are installed, slowly where that is emulated."""
COMPILES = "py_compile.py"
"""What Debian compiles Python's own library with when that is installed, slowly where that is emulated."""
COMPILES_NOTHING = "import sys\n\nif sys.argv[1:] == ['-']:\n    sys.stdin.read()\n"
"""In its place meanwhile; py3compile gives it the names of files on its standard input."""
NATIVE = "usr/local/native"
"""In the guest's files while an emulated dpkg installs them: what it need not do emulated."""
PIP = "pip>=24.2"
"""In the guest. From this version on its check finds what is of another platform."""
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
    """One of KINDS, from the cache, or built, which takes two minutes (arm64: seven), and half a minute where only
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
    return [str(pin) for pin in pinned() if canonicalize_name(pin.name) in found]


def pinned() -> list[Requirement]:
    """What constraints.txt says."""
    lines = (line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines())
    return [Requirement(line) for line in lines if line]


def _digest(names: Sequence[str], *more: str) -> str:
    """Of these files of the tree and of the guest's own; not of the versions of Debian's packages, which are renewed by
    deleting the image."""
    files = [Path(__file__), Path(__file__).with_name("boot.py"), *GUEST.iterdir()]
    for name in names:
        there = ROOT / name
        files += [path for path in there.rglob("*") if path.is_file()] if there.is_dir() else [there]
    seen = hashlib.sha256("\0".join(more).encode())
    for file in sorted(files):
        if "__pycache__" not in file.parts:
            seen.update(f"{file.relative_to(ROOT)}\0".encode() + file.read_bytes())
    return seen.hexdigest()[:12]


def _build_base(kind: Kind, needed: Sequence[str], folder: Path, step: Say) -> None:
    """needed: of Python's packages. Of another architecture than this machine's the guest's own programs run emulated,
    ten times as slowly and more: then only Debian's packages are installed by them, and all else is done outside."""
    python, root, libraries = PYTHONS[kind.release], folder / "root", folder / "libraries"
    (folder / "sources").write_text(_sources(kind.release))
    here = _run("dpkg", "--print-architecture").strip()
    foreign = kind.architecture != here

    step("the wheels that the daemon needs")
    _unpack_wheels(kind, [*needed, PIP], libraries)

    step("the kernel")
    kernel = folder / "kernel"
    _unpack_packages(kind, kind.architecture, [f"linux-image-{kind.architecture}", "busybox-static"], kernel)
    runs_here = root
    if foreign:
        step("this machine's own Python of that release")
        runs_here = folder / "native"
        _unpack_packages(kind, here, ["base-files", f"python{python}", "kmod"], runs_here)

    step("Debian's packages")
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "key")
    _bootstrap(kind, folder, foreign)

    step("what is compiled once")
    _place_wheels(libraries, root, runs_here, python)
    _place_modules(modules_in(kernel), root, runs_here)
    if foreign:
        _place_library(root, runs_here, python)

    step("the disk")
    (vmlinuz,) = (kernel / "boot").glob("vmlinuz*")
    shutil.copy(vmlinuz, folder / "vmlinuz")
    (busybox,) = [found for found in (kernel / top / "busybox" for top in ("usr/bin", "bin")) if found.is_file()]
    (folder / "initrd").write_bytes(initrd(modules_in(root), busybox))
    _run("mke2fs", "-q", "-t", "ext4", "-d", root, "-L", "root", "-O", DISK_LABEL_OPTIONS, folder / "base.img", DISK)
    for used in {root, kernel, runs_here}:
        shutil.rmtree(used)
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


def _unpack_wheels(kind: Kind, packages: Sequence[str], folder: Path) -> None:
    """Those for the guest's processor and Python, by this machine's pip, of the versions in constraints.txt."""
    python = PYTHONS[kind.release]
    platforms = [*(f"manylinux{version}_{MACHINES[kind.architecture]}" for version in MANYLINUX), "any"]
    tags = ["--implementation", "cp", "--python-version", python, "--abi", f"cp{python.replace('.', '')}"]
    tags += ["--abi", "abi3", "--abi", "none", *(word for platform in platforms for word in ("--platform", platform))]
    chosen = ["--constraint", ROOT / "constraints.txt", "--only-binary", ":all:", "--no-compile", "--target", folder]
    _run(sys.executable, "-m", "pip", "install", "--quiet", "--no-input", *chosen, *tags, *packages)


def _unpack_packages(kind: Kind, architecture: str, packages: Sequence[str], folder: Path) -> None:
    """Debian's, with what they need, but not installed: none of their programs runs."""
    words = ("mmdebstrap", "--quiet", "--mode=root", "--variant=extract", "--aptopt=APT::Install-Recommends false")
    wanted = (f"--architecture={architecture}", f"--include={','.join(packages)}")
    _run(*words, *wanted, kind.release, folder, folder.parent / "sources")


def _bootstrap(kind: Kind, folder: Path, foreign: bool) -> None:
    """The guest's files in folder / "root", but for kernel and wheels."""
    python, included = PYTHONS[kind.release], [*INCLUDED, *(() if foreign else BESIDE)]
    guest = " ".join(str(path) for path in sorted(GUEST.iterdir()))
    excluded, hooks = [*EXCLUDED], ['--essential-hook=mkdir -p "$1/etc/ssh" && ssh-keygen -q -A -f "$1"']
    if foreign:
        library = f"usr/lib/python{python}"
        excluded.append(f"/{library}/{COMPILES}")
        native = standalone("dpkg-deb", folder / "standalone", f"/{NATIVE}")
        stub = folder / COMPILES
        stub.write_text(COMPILES_NOTHING)
        found_first = '"$1/usr/local/sbin/dpkg-deb"'
        hooks += [
            '--extract-hook=mkdir -p "$1/usr/local/sbin"',
            f'--extract-hook=cp -r {native} "$1/{NATIVE}" && ln -s /{NATIVE}/run {found_first}',
            f'--essential-hook=mkdir -p "$1/{library}" && cp {stub} "$1/{library}/"',
            f'--customize-hook=rm -r "$1/{NATIVE}" {found_first}',
        ]
    hooks += [
        f"--customize-hook=copy-in {folder / 'key.pub'} /tmp",
        f"--customize-hook=copy-in {guest} /usr/local/sbin",
    ]
    _run(
        *("mmdebstrap", "--quiet", "--mode=root", "--variant=essential", "--aptopt=APT::Install-Recommends false"),
        "--dpkgopt=force-unsafe-io",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in excluded),
        *(f"--architecture={kind.architecture}", f"--include={','.join(included)}", *hooks),
        '--customize-hook=chroot "$1" sh /usr/local/sbin/set_up.sh',
        *(kind.release, folder / "root", folder / "sources"),
    )


# runs_here: files like the guest's whose programs this machine runs, or the guest's own; by it things are compiled.


def _place_wheels(libraries: Path, root: Path, runs_here: Path, python: str) -> None:
    """Into the environment that set_up.sh has made."""
    shutil.rmtree(libraries / "bin")
    site = root / "opt" / "fidget-gateway" / "lib" / f"python{python}" / "site-packages"
    staged = libraries.rename(runs_here / libraries.name)
    _compile(runs_here, python, "-s", f"/{staged.name}", "-p", f"/{site.relative_to(root)}", f"/{staged.name}")
    shutil.copytree(staged, site, dirs_exist_ok=True)
    shutil.rmtree(staged)


def _place_modules(modules: Path, root: Path, runs_here: Path) -> None:
    """The kernel's, with their index."""
    for part in LEFT_OUT:
        shutil.rmtree(modules / "kernel" / part, ignore_errors=True)
    there = Path("usr", "lib", "modules", modules.name)
    shutil.copytree(modules, runs_here / there, symlinks=True)
    _run("chroot", runs_here, "depmod", modules.name)
    if runs_here != root:
        shutil.copytree(runs_here / there, root / there, symlinks=True)


def _place_library(root: Path, runs_here: Path, python: str) -> None:
    """Python's own, as far as Debian would have compiled it in the guest."""
    library = runs_here / "usr" / "lib" / f"python{python}"
    _compile(runs_here, python, f"/{library.relative_to(runs_here)}")
    shutil.copy(library / COMPILES, root / library.relative_to(runs_here))
    for made in library.rglob("*.pyc"):
        to = root / made.relative_to(runs_here)
        if to.parent.parent.is_dir():
            to.parent.mkdir(exist_ok=True)
            shutil.copy(made, to)


def _compile(runs_here: Path, python: str, *where: str) -> None:
    """For ever: the guest's clock may be at any time."""
    _run(
        "chroot",
        runs_here,
        f"python{python}",
        "-m",
        "compileall",
        "-q",
        "--invalidation-mode",
        "unchecked-hash",
        *where,
    )


def standalone(program: str, folder: Path, at: str) -> Path:
    """A folder with one of this machine's programs and what it is linked with; once that is copied to `at`, its `run`
    runs it whatever is installed there."""
    found = shutil.which(program, path=_path())
    assert found is not None  # mmdebstrap needs it
    folder.mkdir()
    linked = re.findall(r"(/\S+) \(0x", _run("ldd", found))
    for file in [found, *linked]:
        shutil.copy(file, folder)
    (loader,) = (Path(file).name for file in linked if Path(file).name.startswith("ld-"))
    words = f"{at}/{loader} --argv0 {program} --library-path {at} {at}/{program}"
    (folder / "run").write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    (folder / "run").chmod(0o755)
    return folder


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
