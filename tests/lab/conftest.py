"""What the lab's tests share: a lab a module, and the stand-ins for a pair of nodes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.lab.interface import Host, HostState, RemoteProcess
from harness.lab.netns.lab import NetnsLab
from harness.lab.topology import LOGGING, MANAGEMENT
from harness.lab.waiting import wait_until

PEER = "/var/lib/ftvmm/peer.py"


@pytest.fixture(scope="module")
def shared_lab() -> Iterator[NetnsLab]:
    """One lab for all tests of a module that leave it as they found it."""
    lab = NetnsLab()
    lab.start()
    try:
        yield lab
    finally:
        lab.stop()


def start_peer(host: Host, *arguments: str) -> RemoteProcess:
    """Start the stand-in on a host; its log is named after what it does."""
    if not host.run(["test", "-e", PEER]).succeeded:
        # Once: a stand-in that is just starting must not find its program half written.
        host.write_file(PEER, Path(__file__).with_name("peer.py").read_bytes())
    host.write_file(f"/var/lib/ftvmm/{arguments[0]}.log", b"")  # an earlier test's lines say nothing of this one
    return host.start(["python3", PEER, *arguments], log=f"/var/lib/ftvmm/{arguments[0]}.log")


def log_of(host: Host, what: str) -> str:
    """What a stand-in has printed so far."""
    return host.run(["cat", f"/var/lib/ftvmm/{what}.log"], check=True).stdout


class Pair:
    """host-a dials host-b through Toxiproxy; both send heartbeats on two networks."""

    def __init__(self, lab: NetnsLab, *, line_bytes: int = 64) -> None:
        self.dialler, self.listener = lab.hosts["host-a"], lab.hosts["host-b"]
        address = self.listener.addresses[LOGGING]
        self.processes = [(self.listener, start_peer(self.listener, "listen", address))]
        assert wait_until(
            lambda: self.listener.testinfra.socket(f"tcp://{address}:7000").is_listening, timeout_seconds=10
        )
        self.processes.append((self.dialler, start_peer(self.dialler, "dial", address, str(line_bytes))))
        for one, other in ((self.dialler, self.listener), (self.listener, self.dialler)):
            for network in (LOGGING, MANAGEMENT):
                process = start_peer(one, "beat", one.addresses[network], other.addresses[network])
                self.processes.append((one, process))
        flows = wait_until(lambda: "echo" in log_of(self.dialler, "dial"), timeout_seconds=10)
        said = {"dialler": log_of(self.dialler, "dial")[-400:], "listener": log_of(self.listener, "listen")[-400:]}
        assert flows, f"no line came back: {said}"

    def progress(self) -> int:
        """The number of the last line that came back to the dialler."""
        echoes = [line for line in log_of(self.dialler, "dial").splitlines() if line.startswith("echo")]
        return int(echoes[-1].split()[1][:8]) if echoes else 0

    def flows(self, timeout_seconds: float = 5.0) -> bool:
        """Whether lines come back now."""
        start = self.progress()
        return wait_until(lambda: self.progress() > start, timeout_seconds=timeout_seconds)

    def stop(self) -> None:
        """End all stand-ins on hosts that are up."""
        for host, process in self.processes:
            if host.state is not HostState.OFF and process.is_running():
                process.signal("KILL")
                process.wait(5)  # its port must be free for the next pair


@pytest.fixture
def pair(shared_lab: NetnsLab) -> Iterator[Pair]:
    """A pair with a little traffic."""
    running = Pair(shared_lab)
    yield running
    running.stop()
