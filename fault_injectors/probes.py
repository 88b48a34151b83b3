"""Small questions asked from a host: does somebody answer there? The waits are stretched by the lab's pace."""

from __future__ import annotations

from harness.lab.interface import Host, HostState, Lab

_PING_SECONDS = 0.3
_CONNECT_SECONDS = 0.5
_SSH_SECONDS = 2.0
# What the command itself needs beside the wait that it is there for.
_COMMAND_SECONDS = 5.0
# A soft NFS mount whose server refuses answers a read when it has tried twice: 30 to 32 s were seen.
_READ_SECONDS = 120.0


def answers_ping(lab: Lab, host: Host, address: str) -> bool:
    """Whether at least one of three echo requests that `host` sends is answered, each within 300 ms."""
    wait = lab.pace.stretch(_PING_SECONDS)
    limit = wait + lab.pace.stretch(_COMMAND_SECONDS)
    command = f"ping -q -n -c 3 -i 0.05 -W {wait:g} {address} >/dev/null 2>&1"
    return host.run(command, timeout_seconds=limit).succeeded


def accepts_tcp(lab: Lab, host: Host, address: str, port: int) -> bool:
    """Whether `host` can open a TCP connection within half a second."""
    wait = lab.pace.stretch(_CONNECT_SECONDS)
    limit = wait + lab.pace.stretch(_COMMAND_SECONDS)
    command = ["timeout", f"{wait:g}", "bash", "-c", f"exec 3<>/dev/tcp/{address}/{port}"]
    return host.run(command, timeout_seconds=limit).succeeded


def answers_ssh(lab: Lab, host: Host, *, timeout_seconds: float | None = None) -> bool:
    """Whether a host that has power answers over SSH: within two seconds, or a timeout that is stretched already."""
    if host.state is HostState.OFF:
        return False
    return host.is_alive(timeout_seconds=lab.pace.stretch(_SSH_SECONDS) if timeout_seconds is None else timeout_seconds)


def read_error(host: Host, path: str) -> str:
    """What a read of the first 4 KiB of a file or device says; O_DIRECT, so that no cached page answers."""
    read = ["dd", f"if={path}", "of=/dev/null", "bs=4096", "count=1", "iflag=direct", "status=none"]
    result = host.run(["env", "LC_ALL=C", *read], timeout_seconds=_READ_SECONDS)
    return "" if result.succeeded else result.stderr.strip()


def witness(lab: Lab, besides: Host) -> Host | None:
    """Another host that is up and can look for `besides` on the management network."""
    candidates = (lab.client_host, lab.storage_host, *lab.fault_tolerant_hosts)
    others = (candidate for candidate in candidates if candidate.name != besides.name)
    return next((other for other in others if answers_ssh(lab, other)), None)


def witness_on(lab: Lab, besides: Host, network: str) -> Host | None:
    """Another host with power and an address on this network, if `besides` has one there too."""
    if network not in besides.addresses:
        return None
    others = (host for host in lab.hosts.values() if host.name != besides.name)
    return next((host for host in others if network in host.addresses and host.state is not HostState.OFF), None)


def process_command(host: Host, pid: int) -> str:
    """The command line of a process that is there and no zombie; empty otherwise."""
    found = [process for process in host.testinfra.process.filter(pid=pid) if "<defunct>" not in process.comm]
    return str(found[0].args) if found else ""


# A TCP segment that nobody asked for: source port, destination port and both addresses are its arguments.
_SEGMENT = """
import socket, struct, sys
ports, (source, target) = map(int, sys.argv[1:3]), map(socket.inet_aton, sys.argv[3:5])
segment = struct.pack("!HHIIBBHHH", *ports, 1, 1, 0x50, 0x10, 512, 0, 0)
words = struct.unpack("!16H", source + target + struct.pack("!HH", 6, len(segment)) + segment)
total = sum(words)
total = (total & 0xFFFF) + (total >> 16)
total = ~(total + (total >> 16)) & 0xFFFF
with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as raw:
    raw.bind((sys.argv[3], 0))
    raw.sendto(segment[:16] + struct.pack("!H", total) + segment[18:], (sys.argv[4], 0))
"""


def send_segment(host: Host, source: str, port: int, target: str) -> None:
    """Let `host` send one TCP segment from this address and port of its own, which belongs to no connection."""
    host.run([*host.python.split(), "-c", _SEGMENT, str(port), "9", source, target], check=True)
