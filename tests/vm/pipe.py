"""Standard input and output to a local TCP port: what QEMU starts for each connection of the guest to the outside.

python pipe.py PORT
"""

import os
import selectors
import socket
import sys


def main(port: int) -> int:
    local = socket.create_connection(("127.0.0.1", port))
    local.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    ready = selectors.DefaultSelector()
    ready.register(0, selectors.EVENT_READ)
    ready.register(local, selectors.EVENT_READ)
    while True:
        for key, _ in ready.select():
            data = local.recv(65536) if key.fileobj is local else os.read(0, 65536)
            if not data:
                return 0
            if key.fileobj is not local:
                local.sendall(data)
                continue
            while data:
                data = data[os.write(1, data) :]


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
