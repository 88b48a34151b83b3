"""Entering the namespaces of a run: commands by nsenter(1), sockets by setns(2) in a thread of their own."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

from harness.lab.interface import LabError

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def connect_inside(pid: int, address: str, port: int, timeout_seconds: float = 5.0) -> socket.socket:
    """A TCP connection made inside the network namespace of a process.

    A socket belongs to the namespace that it was made in, and setns(2) changes the calling thread alone, so a short
    thread does it and the rest of this process stays where it is.
    """
    result: list[socket.socket | OSError] = []

    def connect() -> None:
        try:
            descriptor = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
            try:
                if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
                    error = ctypes.get_errno()
                    raise OSError(error, os.strerror(error))
            finally:
                os.close(descriptor)
            connection = socket.create_connection((address, port), timeout_seconds)
            # SSH sends many small messages: each would wait 40 ms for the other side's delayed acknowledgement.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            result.append(connection)
        except OSError as error:
            result.append(error)

    thread = threading.Thread(target=connect, name="connect-inside")
    thread.start()
    thread.join()
    if isinstance(result[0], OSError):
        raise result[0]
    return result[0]


def run_inside(
    pid: int, kinds: Sequence[str], command: Sequence[str], *, input: str = "", timeout_seconds: float = 30
) -> str:
    """Run a command of this machine inside namespaces (`net`, `mount`, ...) of a process; its output.

    For the lab's own plumbing; what a scenario does on a host goes over SSH.
    """
    enter = ["nsenter", "--target", str(pid), *(f"--{kind}" for kind in kinds), "--", *command]
    try:
        done = subprocess.run(enter, input=input, capture_output=True, text=True, timeout=timeout_seconds, check=False)
    except subprocess.TimeoutExpired as error:
        raise LabError(f"`{' '.join(command)}` in the namespaces of {pid} did not end in time") from error
    if done.returncode != 0:
        raise LabError(f"`{' '.join(command)}` in the namespaces of {pid} failed: {done.stderr.strip()}")
    return done.stdout


def only_child(pid: int) -> int | None:
    """The one child of a single-threaded process, None while it has none."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return None
    return int(children[0]) if children else None
