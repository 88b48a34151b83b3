"""A server's own test suite against that server on another host: one that runs natively, or the VM of a pair."""

import os
import shlex
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.deployment import fresh_lab, running_pair
from harness.lab.interface import Host
from harness.lab.waiting import wait_until
from harness.vm.node_file import Guest
from tests.guests.conftest import GUEST_ADDRESS, HOST_ADDRESS

SUITE_S_MAX = 900.0
BOOT_S_MAX = 30.0

OTHER_HOST = """
set -e
echo up
read -r _ || exit
ip link set lo up
ip address add "$1" dev service
ip link set service up
shift
cd "$1"
shift
exec "$@"
"""
"""In a network namespace of its own: tells that it is there, and serves once the cable is in."""


@dataclass(frozen=True)
class Outcome:
    """What a suite said of its tests, in order, and whether it has come to its end."""

    passed: list[str]
    failed: list[str]
    has_ended: bool


Reader = Callable[[str], Outcome]
"""Makes an outcome of what a suite has printed so far."""


def sources(package: str) -> Path:
    """The sources of a Debian package; where no variable names them the test is skipped."""
    variable = f"{package.upper()}_SOURCE"
    where = os.environ.get(variable)
    if not where:
        pytest.skip(f"needs {variable}=DIR: the sources, as `apt-get source {package}` unpacks them")
    return Path(where)


def run_suite(command: Sequence[str], directory: Path, read: Reader) -> Outcome:
    """Runs a suite in its directory to its end, against whoever serves at the guest's address."""
    done = subprocess.run(
        command, cwd=directory, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        timeout=SUITE_S_MAX, check=False,
    )  # fmt: skip
    return _whole(done.stdout, read)


def _whole(output: bytes, read: Reader) -> Outcome:
    """The outcome of a suite that has come to its end."""
    text = output.decode(errors="replace")
    outcome = read(text)
    # Equally few tests of a suite that breaks off on both sides would say nothing.
    assert outcome.has_ended, text[-2000:]
    return outcome


def is_serving(port: int) -> bool:
    """Whether the other host takes connections. It is asked nothing: some of the tests count what it was asked."""
    try:
        socket.create_connection((GUEST_ADDRESS, port), timeout=1).close()
    except OSError:
        return False
    return True


def wait_until_serving(port: int) -> None:
    """Waits until the other host takes connections."""
    assert wait_until(lambda: is_serving(port), timeout_seconds=BOOT_S_MAX, interval_seconds=0.05)


@contextmanager
def native_server(command: Sequence[str], port: int, directory: Path) -> Iterator[None]:
    """A server that runs natively on another host, in this directory and at the guest's address."""
    process = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", OTHER_HOST, "sh", f"{GUEST_ADDRESS}/24", str(directory), *command],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    # The same address on both cables: one at a time.
    subprocess.run(["ip", "link", "set", "tap0", "down"], check=True)
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"up\n"
            for line in (
                f"link add cable type veth peer name service netns {process.pid}",
                f"address add {HOST_ADDRESS}/24 dev cable",
                "link set cable up",
                "link set lo up",
            ):
                subprocess.run(["ip", *line.split()], check=True)
            process.stdin.write(b"\n")
            process.stdin.close()
            wait_until_serving(port)
            yield
        finally:
            process.kill()
            process.wait()
            # Where the cable was never laid there is none to take away.
            subprocess.run(["ip", "link", "delete", "cable"], check=False)
            subprocess.run(["ip", "link", "set", "tap0", "up"], check=True)


def _archive(directory: Path) -> bytes:
    """A directory for a host that does not see this one's files."""
    return subprocess.run(["tar", "-C", directory, "-c", "."], check=True, capture_output=True).stdout


def _reaches(host: Host, port: int) -> bool:
    """Whether a host of the lab gets a connection to the VM."""
    return host.run(["bash", "-c", f": </dev/tcp/{GUEST_ADDRESS}/{port}"]).succeeded


def run_while_the_primary_is_killed(
    guest: Guest, port: int, command: Sequence[str], directory: Path, read: Reader, *, after: int
) -> Outcome:
    """Runs a suite from the lab's client host against the VM of a pair, and kills the primary's VMM meanwhile.

    Args:
        guest: what the VM runs.
        port: where it serves.
        command: the suite's own, to be run in its directory.
        directory: the suite's.
        read: the suite's reader.
        after: how many tests have passed when the primary's VMM is killed.
    """
    with fresh_lab() as lab, running_pair(lab, guest) as pair:
        client, log = lab.client_host, "/var/log/suite.log"
        client.run("mkdir /var/suite && tar -C /var/suite -x", input=_archive(directory), check=True)
        assert wait_until(lambda: _reaches(client, port), timeout_seconds=lab.pace.stretch(BOOT_S_MAX))
        running = client.start(f"cd /var/suite && exec {shlex.join(command)}", log=log)

        def passed() -> int:
            return len(read(client.read_file(log).decode(errors="replace")).passed)

        assert wait_until(lambda: passed() >= after, timeout_seconds=lab.pace.stretch(SUITE_S_MAX))
        # Asked only now: the tests so far are much work for the hosts, and the pair may have broken under it.
        survivor = pair.backup
        pair.primary.process.signal("KILL")
        pair.wait_until_alone(survivor)
        assert running.is_running()
        running.wait(lab.pace.stretch(SUITE_S_MAX))
        return _whole(client.read_file(log), read)
