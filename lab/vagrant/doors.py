"""Learns how each host's sshd is reached and which key it shows, once, right after the machines were made.

The machines are new and the network is the lab's own, so the key that is seen first is the host's; from then on no
other is accepted.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from socket import socket

import paramiko

from harness.lab.interface import LabError
from harness.lab.vagrant.state import Door


def learn_door(name: str, address: str, port: int, connect: Callable[[str, int], socket]) -> Door:
    """The door of one host.

    Raises:
        LabError: its sshd does not answer.
    """
    try:
        with contextlib.closing(paramiko.Transport(connect(address, port))) as transport:
            transport.start_client(timeout=60)
            key = transport.get_remote_server_key()
    except (OSError, EOFError, paramiko.SSHException) as error:
        raise LabError(f"{name} does not answer over SSH at {address} port {port}: {error}") from error
    return Door(address, port, f"{key.get_name()} {key.get_base64()}")


def addresses(configuration: str) -> dict[str, tuple[str, int]]:
    """Address and port of each host's sshd, of what `vagrant ssh-config` prints (ssh_config(5)).

    Raises:
        LabError: a host has none there.
    """
    found = {}
    for part in re.split(r"^Host ", configuration, flags=re.MULTILINE)[1:]:
        name = part.split()[0]
        address = re.search(r"^\s+HostName (\S+)$", part, re.MULTILINE)
        port = re.search(r"^\s+Port (\d+)$", part, re.MULTILINE)
        if address is None or port is None:
            raise LabError(f"`vagrant ssh-config` does not tell how {name} is reached")
        found[name] = address[1], int(port[1])
    return found
