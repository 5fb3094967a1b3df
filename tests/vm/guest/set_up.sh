#!/bin/sh
# Runs once in the guest's files, before they become its disk. In /tmp: key.pub, wheels.
set -eu

echo guest > /etc/hostname
echo '127.0.0.1 localhost guest' > /etc/hosts
home=$(getent passwd root | cut -d: -f6)
mkdir -p "$home/.ssh"
install -m 600 /tmp/key.pub "$home/.ssh/authorized_keys"
printf '[Match]\nName=eth0\n[Network]\nAddress=10.0.2.15/24\n' > /etc/systemd/network/eth0.network
case $(dpkg --print-architecture) in
  arm64) adapter=hci_uart ;; # Debian's kernel has no hci_vhci there
  *) adapter=hci_vhci ;;
esac
echo $adapter > /etc/modules-load.d/bluetooth.conf
echo '/dev/vda / ext4 rw,noatime 0 1' > /etc/fstab
mkdir -p /etc/initramfs-tools/conf.d
printf 'MODULES=list\nCOMPRESS=zstd\n' > /etc/initramfs-tools/conf.d/guest
printf 'virtio_pci\nvirtio_blk\next4\n' >> /etc/initramfs-tools/modules
update-initramfs -u > /dev/null

cat > /etc/systemd/system/virtual-adapter.service <<'UNIT'
# hci0: the virtual radio outside, by way of /dev/vhci or btattach.
[Service]
ExecStart=/usr/bin/python3 /usr/local/sbin/vhci_bridge.py 10.0.2.100 9000
Restart=always
RestartSec=1
UNIT
systemctl enable -q systemd-networkd ssh
systemctl disable -q mosquitto
systemctl mask -q systemd-networkd-wait-online.service systemd-timesyncd.service apt-daily.timer apt-daily-upgrade.timer \
  fstrim.timer e2scrub_all.timer e2scrub_reap.service dpkg-db-backup.timer

# What the daemon needs; itself it comes later (install.sh).
python3 -m venv /opt/fidget-gateway
/opt/fidget-gateway/bin/pip install -q --no-index --find-links /tmp/wheels fidget-gateway
/opt/fidget-gateway/bin/pip uninstall -q -y fidget-gateway
rm -rf /tmp/key.pub /tmp/wheels
