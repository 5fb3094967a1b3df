#!/bin/sh
# Runs once in the guest's files, before they become its disk. In /tmp: key.pub.
set -eu

echo guest > /etc/hostname
echo '127.0.0.1 localhost guest' > /etc/hosts
home=$(getent passwd root | cut -d: -f6)
mkdir -p "$home/.ssh"
install -m 600 /tmp/key.pub "$home/.ssh/authorized_keys"
# Where the machine is slow, tries that were given up must not shut out the next one; OpenSSH knows that from 9.8 on.
if [ "$(. /etc/os-release && echo "$VERSION_ID")" -ge 13 ]; then
  printf 'PerSourcePenalties no\nUseDNS no\nLoginGraceTime 0\n' > /etc/ssh/sshd_config.d/guest.conf
fi
printf '[Match]\nName=eth0\n[Network]\nAddress=10.0.2.15/24\n' > /etc/systemd/network/eth0.network
case $(dpkg --print-architecture) in
  arm64) adapter=hci_uart ;; # Debian's kernel has no hci_vhci there
  *) adapter=hci_vhci ;;
esac
echo $adapter > /etc/modules-load.d/bluetooth.conf
echo '/dev/vda / ext4 rw,noatime 0 1' > /etc/fstab

cat > /etc/systemd/system/virtual-adapter.service <<'UNIT'
# hci0: the virtual radio outside, by way of /dev/vhci or btattach.
[Service]
ExecStart=/usr/bin/python3 /usr/local/sbin/vhci_bridge.py 10.0.2.100 9000
Restart=always
RestartSec=1
UNIT
systemctl enable -q systemd-networkd ssh
if [ -e /usr/lib/systemd/system/mosquitto.service ]; then systemctl disable -q mosquitto; fi
systemctl mask -q systemd-networkd-wait-online.service systemd-timesyncd.service apt-daily.timer apt-daily-upgrade.timer \
  fstrim.timer e2scrub_all.timer e2scrub_reap.service dpkg-db-backup.timer

# What the daemon needs is unpacked into it outside, with pip; itself it comes later (install.sh).
python3 -m venv --without-pip /opt/fidget-gateway
rm /tmp/key.pub
