"""Stands in for the traffic of a node in the lab's tests; runs on a host with nothing but Python.

`peer.py listen ADDRESS` accepts on 7000 and echoes; `peer.py dial ADDRESS LINE_BYTES` sends numbered lines to
ADDRESS:7001 and reads the echoes; both print what came. `peer.py beat OWN PEER` sends a datagram to PEER:7002 every
20 ms.
`peer.py frame TAP SOURCE` announces SOURCE (a MAC) by gratuitous ARP on a TAP, and reads frames, until it is killed.
"""

import contextlib
import fcntl
import os
import socket
import struct
import sys
import threading
import time


def listen(address: str) -> None:
    server = socket.create_server((address, 7000))
    while True:
        connection, _ = server.accept()
        # One thread each: a connection that a proxy still holds open must not keep the next one waiting.
        threading.Thread(target=echo, args=(connection,), daemon=True).start()


def echo(connection: socket.socket) -> None:
    try:
        while data := connection.recv(65536):
            print("got", data.decode(errors="replace").split("\n")[0], flush=True)
            connection.sendall(data)
        print("closed", flush=True)
    except OSError as error:
        print("error", error.errno, flush=True)


def dial(address: str, line_bytes: int) -> None:
    number = 0
    while True:
        try:
            with socket.create_connection((address, 7001)) as connection:
                connection.settimeout(0.02)
                while True:
                    number += 1
                    connection.setblocking(True)
                    connection.sendall(f"{number:08d}".encode().ljust(line_bytes - 1, b".") + b"\n")
                    connection.settimeout(0.02)
                    try:
                        data = connection.recv(65536)
                    except TimeoutError:
                        continue
                    if not data:
                        print("closed", flush=True)
                        break
                    print("echo", data.decode(errors="replace").split("\n")[0], flush=True)
                    time.sleep(0.005)
        except OSError as error:
            print("error", error.errno, flush=True)
            time.sleep(0.05)


def beat(own: str, peer: str) -> None:
    beater = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    beater.bind((own, 7002))
    while True:
        with contextlib.suppress(OSError):
            beater.sendto(b"beat", (peer, 7002))
        time.sleep(0.02)


def frame(tap: str, source: str) -> None:
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, 0x400454CA, struct.pack("16sH22x", tap.encode(), 0x0002 | 0x1000))
    mac = bytes.fromhex(source.replace(":", ""))
    address = socket.inet_aton("10.0.0.2")
    reply = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 2) + mac + address + b"\xff" * 6 + address

    def announce() -> None:
        # A bridge port forwards only when the kernel has worked off the TAP's new carrier: one of them may be lost.
        while True:
            with contextlib.suppress(OSError):
                os.write(device, (b"\xff" * 6 + mac + b"\x08\x06" + reply).ljust(60, b"\0"))
            time.sleep(0.02)

    threading.Thread(target=announce, daemon=True).start()
    while True:
        data = os.read(device, 2048)
        if data[12:14] == b"\x08\x00":
            print("frame", data[:6].hex(":"), len(data), flush=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["listen", address]:
            listen(address)
        case ["dial", address, line_bytes]:
            dial(address, int(line_bytes))
        case ["beat", own, peer]:
            beat(own, peer)
        case ["frame", tap, source]:
            frame(tap, source)
