"""One process that captures on all ports of a lab's switch: `python -m harness.lab.sniffer DIRECTORY`.

It is started inside the switch's network namespace, reads one command a line and answers each with one line of JSON:

    attach <name>=<port> ...    capture on these ports from now on; answers the names whose port there is
    detach <name> ...           take what has passed and let go of the ports
    count                       everything that has passed is in the files; answers captured and dropped frames by name

It ends with its standard input. Frames go to `<name>.sent.pcap` (came from the host into the switch) and
`<name>.received.pcap`, made with the first frame. The kernel stamps each frame when it passes the port and keeps it in
the socket's buffer, so nothing hurries: the buffers are emptied every 50 ms, many frames with one system call.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import select
import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import BinaryIO

from dpkt.pcap import Writer

_PAUSE_SECONDS = 0.05
# Room for some 30,000 small frames: what passes a port while this process does not get a CPU. Used only when needed.
_BUFFER_BYTES = 64 << 20
_SNAP_BYTES = 1 << 18
# Not in Python's socket module: linux/socket.h, asm-generic/socket.h, linux/if_packet.h, linux/if_ether.h.
_SOL_PACKET, _PACKET_STATISTICS, _SO_TIMESTAMPNS, _SO_RCVBUFFORCE, _ETH_P_ALL = 263, 6, 35, 33, 0x0003
_MSG_DONTWAIT = socket.MSG_DONTWAIT

# One call takes so many frames; none is longer, segments that a network card would still have to cut included.
_BATCH = 32
_FRAME_BYTES = 66 << 10
_NAME_BYTES, _CONTROL_BYTES, _HEADER_BYTES = 32, 64, 64
# struct sockaddr_ll: where pkttype is. The only control message: its header, then a struct timespec.
_PACKET_TYPE_AT, _STAMP_AT = 10, 16
_LENGTH_AT = 56

_libc = ctypes.CDLL(None, use_errno=True)


class _Batch:
    """The buffers that recvmmsg(2) fills, made once and used for every port."""

    def __init__(self) -> None:
        self._contents = bytearray(_BATCH * _FRAME_BYTES)
        self._names = bytearray(_BATCH * _NAME_BYTES)
        self._controls = bytearray(_BATCH * _CONTROL_BYTES)
        self._vectors = bytearray(
            b"".join(
                struct.pack("PN", _address(self._contents) + at * _FRAME_BYTES, _FRAME_BYTES) for at in range(_BATCH)
            )
        )
        # struct mmsghdr: name and its length, vector and their number, control and its length, flags, bytes received.
        self._empty = b"".join(
            struct.pack(
                "PI4xPNPNi4xI4x",
                _address(self._names) + at * _NAME_BYTES,
                _NAME_BYTES,
                _address(self._vectors) + at * 16,
                1,
                _address(self._controls) + at * _CONTROL_BYTES,
                _CONTROL_BYTES,
                0,
                0,
            )
            for at in range(_BATCH)
        )
        self._headers = bytearray(self._empty)
        self._headers_at = _address(self._headers)
        self._view = memoryview(self._contents)

    def receive(self, descriptor: int) -> list[tuple[bool, Decimal, bytes]] | None:
        """Up to `_BATCH` frames: whether the switch sent it, the stamp in seconds, the bytes. None: no more."""
        self._headers[:] = self._empty
        count = _libc.recvmmsg(descriptor, ctypes.c_void_p(self._headers_at), _BATCH, _MSG_DONTWAIT, None)
        if count < 0:
            error = ctypes.get_errno()
            if error in (errno.EAGAIN, errno.EINTR):
                return None
            if error in (errno.ENETDOWN, errno.ENODEV):
                return []  # said once when the port goes down; what passed before is still to be had
            raise OSError(error, os.strerror(error))
        frames = []
        for at in range(count):
            (length,) = struct.unpack_from("I", self._headers, at * _HEADER_BYTES + _LENGTH_AT)
            seconds, nanoseconds = struct.unpack_from("qq", self._controls, at * _CONTROL_BYTES + _STAMP_AT)
            outgoing = self._names[at * _NAME_BYTES + _PACKET_TYPE_AT] == socket.PACKET_OUTGOING
            start = at * _FRAME_BYTES
            stamp = Decimal(seconds * 1_000_000_000 + nanoseconds).scaleb(-9)
            frames.append((outgoing, stamp, bytes(self._view[start : start + length])))
        return frames


def _address(buffer: bytearray) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def _timestamping_socket() -> socket.socket:
    # Of no protocol until it is bound: a frame that came before the options would have no stamp of its own.
    sniffing = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sniffing.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    sniffing.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
    return sniffing


class _PortCapture:
    """The capture on one port, over every plugging in of its host."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory, self._name = directory, name
        self._socket: socket.socket | None = None
        self._files: dict[bool, tuple[BinaryIO, Writer]] = {}
        self._captured = self._dropped = 0

    def attach(self, port: str, batch: _Batch) -> bool:
        """Capture on this port of the switch; False when there is none of this name."""
        self.detach(batch)
        sniffing = _timestamping_socket()
        try:
            sniffing.bind((port, _ETH_P_ALL))
        except OSError as error:
            sniffing.close()
            if error.errno == errno.ENODEV:
                return False
            raise
        self._socket = sniffing
        return True

    def detach(self, batch: _Batch) -> None:
        """Take what has passed, and let go of the port."""
        if self._socket is not None:
            self.drain(batch)
            self._count()
            self._socket.close()
            self._socket = None

    def drain(self, batch: _Batch) -> None:
        """Take everything that has passed."""
        while self._socket is not None and (frames := batch.receive(self._socket.fileno())) is not None:
            self._captured += len(frames)
            for outgoing in (False, True):
                if chosen := [(stamp, content) for way, stamp, content in frames if way is outgoing]:
                    self._writer(outgoing).writepkts(chosen)
            if len(frames) < _BATCH:
                return

    def _writer(self, outgoing: bool) -> Writer:
        if outgoing not in self._files:
            # Out of the switch is what the host received.
            direction = "received" if outgoing else "sent"
            file = (self._directory / f"{self._name}.{direction}.pcap").open("wb")
            self._files[outgoing] = file, Writer(file, snaplen=_SNAP_BYTES, nano=True)
        return self._files[outgoing][1]

    def _count(self) -> None:
        assert self._socket is not None
        # Asking sets the kernel's counters back to zero.
        _, dropped = struct.unpack("II", self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        self._dropped += dropped

    def counts(self, batch: _Batch) -> dict[str, object]:
        """Frames in the files, and frames that are not; how long the files are with those."""
        if self._socket is not None:
            self._count()
            self.drain(batch)
        lengths = {}
        for file, _ in self._files.values():
            file.flush()
            lengths[Path(file.name).name] = file.tell()
        return {"captured": self._captured, "dropped": self._dropped, "lengths": lengths}


class Sniffer:
    """All captures of a lab."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ports: dict[str, _PortCapture] = {}
        self._batch = _Batch()
        # The kernel begins to stamp a moment after the first socket has asked for it: before any port is there.
        self._first = _timestamping_socket()

    def drain(self) -> None:
        """Empty all buffers."""
        for port in self._ports.values():
            port.drain(self._batch)

    def answer(self, command: str, words: Iterable[str]) -> object:
        """Carry a command out."""
        if command == "attach":
            return list(self._attach(words))
        if command == "detach":
            for name in words:
                if name in self._ports:
                    self._ports[name].detach(self._batch)
            return []
        if command == "count":
            return {name: port.counts(self._batch) for name, port in self._ports.items()}
        raise ValueError(f"there is no command {command!r}")

    def _attach(self, words: Iterable[str]) -> Iterator[str]:
        for word in words:
            name, _, port = word.partition("=")
            capture = self._ports.get(name) or _PortCapture(self._directory, name)
            if capture.attach(port, self._batch):
                self._ports[name] = capture
                yield name


def main(directory: str) -> None:
    """Capture until standard input ends."""
    sniffer = Sniffer(Path(directory))
    commands = os.fdopen(sys.stdin.fileno(), "rb", buffering=0)
    rest = b""
    while True:
        ready, _, _ = select.select([commands], [], [], _PAUSE_SECONDS)
        if ready:
            part = commands.read(65536)
            if not part:
                return
            *lines, rest = (rest + part).split(b"\n")
            for line in lines:
                command, *words = line.decode().split()
                print(json.dumps(sniffer.answer(command, words)), flush=True)
        sniffer.drain()


if __name__ == "__main__":
    main(sys.argv[1])
