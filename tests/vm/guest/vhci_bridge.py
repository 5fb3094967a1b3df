"""An HCI controller behind a TCP connection becomes this machine's adapter, by the kernel's /dev/vhci; where the kernel
has none, as Debian's for arm64, by a pseudo-terminal that btattach takes for a serial controller.

    python3 vhci_bridge.py HOST PORT

Ends with code 1 when either side ends; the kernel then removes the adapter. Packets are H4 (Bluetooth Core 5.4, Vol 4,
Part A, 2); /dev/vhci gives and takes one a call (the kernel's drivers/bluetooth/hci_vhci.c).
"""

import os
import selectors
import socket
import subprocess
import sys
import tty

LENGTHS = {0x02: (3, 2), 0x03: (3, 1), 0x04: (2, 1), 0x05: (3, 2)}
"""By type of packet: where its length stands, and in how many bytes. ACL, SCO, event, ISO."""
CREATE = b"\xff\x00"


def whole_packets(stream: bytearray) -> list[bytes]:
    """Takes them off the front. Raises ValueError where none begins there."""
    packets = []
    while stream:
        if stream[0] not in LENGTHS:
            raise ValueError(f"type of packet {stream[0]:#04x}")
        at, size = LENGTHS[stream[0]]
        end = at + size + (int.from_bytes(stream[at : at + size], "little") & 0x3FFF)
        if len(stream) < at + size or len(stream) < end:
            break
        packets.append(bytes(stream[:end]))
        del stream[:end]
    return packets


def main(host: str, port: int) -> int:
    controller = socket.create_connection((host, port), 10)
    controller.settimeout(None)
    controller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return by_vhci(controller) if os.path.exists("/dev/vhci") else by_serial_line(controller)


def by_serial_line(controller: socket.socket) -> int:
    line, end = os.openpty()
    tty.setraw(end)
    attached = subprocess.Popen(["btattach", "-B", os.ttyname(end), "-P", "h4"])
    ready = selectors.DefaultSelector()
    ready.register(controller, selectors.EVENT_READ)
    ready.register(line, selectors.EVENT_READ)
    try:
        while attached.poll() is None:
            for key, _ in ready.select(1.0):
                data = controller.recv(65536) if key.fileobj is controller else os.read(line, 65536)
                if not data:
                    return 1
                if key.fileobj is line:
                    controller.sendall(data)
                    continue
                while data:
                    data = data[os.write(line, data) :]
    finally:
        attached.terminate()
        attached.wait()
    return 1


def by_vhci(controller: socket.socket) -> int:
    kernel = os.open("/dev/vhci", os.O_RDWR)
    os.write(kernel, CREATE)
    ready = selectors.DefaultSelector()
    ready.register(controller, selectors.EVENT_READ)
    ready.register(kernel, selectors.EVENT_READ)
    stream = bytearray()
    while True:
        for key, _ in ready.select():
            if key.fileobj is kernel:
                packet = os.read(kernel, 4096)
                if packet[0] == CREATE[0]:
                    print(f"hci{int.from_bytes(packet[2:4], 'little')}", flush=True)
                else:
                    controller.sendall(packet)
                continue
            received = controller.recv(65536)
            if not received:
                return 1
            stream += received
            for packet in whole_packets(stream):
                os.write(kernel, packet)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
