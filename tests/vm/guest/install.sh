#!/bin/sh
# The README's commands, on the running guest. In /tmp: the daemon's wheel, systemd, demo.
set -eu

/opt/fidget-gateway/bin/python -m pip install -q --no-index --no-deps /tmp/fidget_gateway-*.whl
install -D -m 644 /tmp/systemd/fidget-gateway.sysusers.conf /usr/lib/sysusers.d/fidget-gateway.conf
systemd-sysusers
install -d -o fidget-gateway -g fidget-gateway -m 700 /var/lib/fidget-gateway
cp -r /tmp/demo /opt/fidget-gateway/bundle
install -m 644 /tmp/systemd/fidget-gateway.service /etc/systemd/system/
systemctl daemon-reload
rm -rf /tmp/fidget_gateway-*.whl /tmp/systemd /tmp/demo
sync
