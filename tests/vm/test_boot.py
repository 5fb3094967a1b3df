"""What the guests are made of outside, where no guest is needed to see it."""

import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from tests.vm.boot import archive, load_order
from tests.vm.image import standalone

DEPENDENCIES = """\
kernel/fs/mbcache.ko.xz:
kernel/fs/jbd2/jbd2.ko.xz: kernel/lib/crc16.ko.xz
kernel/fs/ext4/ext4.ko.xz: kernel/fs/mbcache.ko.xz kernel/fs/jbd2/jbd2.ko.xz kernel/lib/crc16.ko.xz
kernel/lib/crc16.ko.xz:
kernel/drivers/virtio/virtio-pci.ko.xz: kernel/drivers/virtio/virtio_ring.ko.xz kernel/drivers/virtio/virtio.ko.xz
"""
"""As depmod writes them (modules.dep(5)): what is needed first stands last."""


def test_a_module_is_loaded_after_what_it_needs_and_only_once() -> None:
    files = load_order(DEPENDENCIES, ["virtio_pci", "built_into_the_kernel", "jbd2", "ext4"])
    names = [file.rpartition("/")[2].removesuffix(".ko.xz") for file in files]
    assert names == ["virtio", "virtio_ring", "virtio-pci", "crc16", "jbd2", "mbcache", "ext4"]


def test_an_initrd_is_laid_out_as_the_kernel_reads_it() -> None:
    """Headers of 110 bytes, all numbers eight hexadecimal digits, name and content each to a multiple of four."""
    made = archive({"dev": (stat.S_IFDIR | 0o755, b""), "init": (stat.S_IFREG | 0o755, b"#!x\n!")})
    zeros = "00000000"
    one, five = "00000001", "00000005"
    folder = "070701" + one + "000041ED" + zeros * 2 + one + zeros * 6 + "00000004" + zeros
    file = "070701" + "00000002" + "000081ED" + zeros * 2 + one + zeros + five + zeros * 4 + five + zeros
    assert made[:116] == folder.encode() + b"dev\0\0\0"
    assert made[116:240] == file.encode() + b"init\0\0" + b"#!x\n!\0\0\0"
    assert made[240:246] == b"070701"
    assert made[350:] == b"TRAILER!!!\0" + bytes(3)


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="not a Debian")
def test_a_program_that_is_taken_along_runs_with_what_was_taken(tmp_path: Path) -> None:
    folder = standalone("dpkg-deb", tmp_path / "along", str(tmp_path / "along"))
    said = subprocess.run([folder / "run", "--version"], capture_output=True, text=True, env={})
    assert (said.returncode, "Debian 'dpkg-deb'" in said.stdout) == (0, True), said
