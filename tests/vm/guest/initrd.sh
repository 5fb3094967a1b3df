#!/bin/sh
# Before the kernel is installed, so that its initrd is made once, and small: on an emulated machine each takes minutes.
set -eu

mkdir -p /etc/initramfs-tools/conf.d /usr/share/initramfs-tools/modules.d
printf 'MODULES=list\nCOMPRESS=zstd\n' > /etc/initramfs-tools/conf.d/guest
printf 'virtio_pci\nvirtio_blk\next4\n' > /usr/share/initramfs-tools/modules.d/guest
