"""What a guest boots from, made of Debian's packages without running a program of theirs: where the guest's processor
is emulated, unpacking a kernel and making its initrd in it would take longer than all the rest.

The initrd loads what the root's disk needs and goes on there. Its format: the kernel's
Documentation/driver-api/early-userspace/buffer-format.rst ("newc").
"""

import lzma
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

LOADED = ("virtio_pci", "virtio_blk", "crc32c_generic", "ext4")
"""In this order, each after what it needs. ext4 asks for a checksum by its name, which modules.dep does not tell."""
INIT = """#!/bin/busybox sh
for module in /modules/*; do /bin/busybox insmod $module; done
/bin/busybox mount -t devtmpfs none /dev
until [ -b /dev/vda ]; do /bin/busybox sleep 0.1; done
/bin/busybox mount -t ext4 -o rw /dev/vda /root
exec /bin/busybox switch_root /root /sbin/init
"""
_TRAILER = "TRAILER!!!"


def modules_in(root: Path) -> Path:
    """The folder of its kernel's modules, of which there is one."""
    (found,) = {folder.resolve() for top in ("usr/lib", "lib") for folder in root.glob(f"{top}/modules/*")}
    return found


def initrd(modules: Path, busybox: Path) -> bytes:
    """modules: a kernel's, with modules.dep. busybox: of the guest's architecture, statically linked."""
    entries = dict.fromkeys(("bin", "dev", "modules", "root"), (stat.S_IFDIR | 0o755, b""))
    entries["bin/busybox"] = stat.S_IFREG | 0o755, busybox.read_bytes()
    entries["init"] = stat.S_IFREG | 0o755, INIT.encode()
    for number, name in enumerate(load_order((modules / "modules.dep").read_text(), LOADED)):
        packed = (modules / name).read_bytes()
        module = lzma.decompress(packed) if name.endswith(".xz") else packed
        entries[f"modules/{number:02}.ko"] = stat.S_IFREG | 0o644, module
    return archive(entries)


def load_order(dependencies: str, wanted: Iterable[str]) -> list[str]:
    """Files of modules, each after those that it needs. dependencies: a modules.dep, which names what is needed first
    last. What is not in it is built into the kernel, or not there."""
    files: dict[str, list[str]] = {}
    for line in dependencies.splitlines():
        file, _, needed = line.partition(":")
        files[Path(file).name.partition(".ko")[0].replace("-", "_")] = [*reversed(needed.split()), file]
    return list(dict.fromkeys(file for name in wanted for file in files.get(name, [])))


def archive(entries: Mapping[str, tuple[int, bytes]]) -> bytes:
    """entries: by path, a folder before what is in it, the mode and the content."""
    return b"".join(_packed([*entries.items(), (_TRAILER, (0, b""))]))


def _packed(entries: Iterable[tuple[str, tuple[int, bytes]]]) -> Iterator[bytes]:
    for inode, (path, (mode, content)) in enumerate(entries, 1):
        name = path.encode() + b"\0"
        numbers = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name), 0)
        head = b"070701" + b"".join(b"%08X" % number for number in numbers) + name
        yield head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4)
