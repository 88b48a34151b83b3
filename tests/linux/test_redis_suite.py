"""Redis's own test suite against a server on another host: natively, in the VM, and on a pair whose primary is killed.

It needs the sources of the version that is installed: `REDIS_SOURCE=DIR`, as `apt-get source redis` unpacks them, and
tclsh. A packed program starts no other process, so that natively fork is refused as well: the same tests fail then.
"""

import os
import re
import shlex
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest

from bench.deployment import fresh_lab, running_pair
from harness.lab.waiting import wait_until
from harness.promise import Workload
from harness.vm.guests import key_value
from tests.guests.conftest import GUEST_ADDRESS, HOST_ADDRESS
from tests.guests.guest import IMAGES
from tests.linux.clients import REDIS_PORT
from tests.linux.linux_guest import FILES, Package, boot, needed, pack

UNITS = (
    "unit/dump",
    "unit/protocol",
    "unit/keyspace",
    "unit/scan",
    "unit/info-command",
    "unit/type/string",
    "unit/type/incr",
    "unit/type/list",
    "unit/type/list-3",
    "unit/type/set",
    "unit/type/zset",
    "unit/type/hash",
    "unit/type/stream",
    "unit/type/stream-cgroups",
    "unit/sort",
    "unit/expire",
    "unit/other",
    "unit/multi",
    "unit/quit",
    "unit/latency-monitor",
    "unit/pubsub",
    "unit/slowlog",
    "unit/scripting",
    "unit/functions",
    "unit/introspection",
    "unit/introspection-2",
    "unit/bitops",
    "unit/bitfield",
    "unit/hyperloglog",
    "unit/geo",
    "unit/pause",
    "unit/tracking",
    "integration/redis-cli",
)
"""Those of the suite that have tests for a server which they have not started themselves. Missing is unit/lazyfree:
natively it fails now and then, as it does not wait for what is freed in the background."""
MEASURED = "unit/latency-monitor"
"""It measures how long the server computes, which takes the exact clock."""
KILLED_UNITS = (
    "unit/type/incr",
    "unit/type/string",
    "unit/type/list",
    "unit/type/set",
    "unit/keyspace",
    "unit/tracking",
)
KILLED_AFTER_TESTS = 200
SUITE_S_MAX = 900.0
BOOT_S_MAX = 30.0
MEMORY_MIB = 1024

LINE = re.compile(r"\[(ok|err|exception|TIMEOUT)\]:? ?(.*?)(?: \(\d+ ms\))?")
END = "The End"
COLOUR = re.compile(r"\x1b\[[0-9;]*m")

WITHOUT_FORK = "#include <errno.h>\nint fork(void) { errno = ENOSYS; return -1; }\n"
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
    """What the suite said of its tests, in order."""

    passed: list[str]
    failed: list[str]

    @classmethod
    def of(cls, output: str) -> "Outcome":
        """What there is so far; the suite says at its end once more what failed."""
        passed: list[str] = []
        failed: list[str] = []
        for line in COLOUR.sub("", output).partition(END)[0].splitlines():
            if match := LINE.fullmatch(line):
                (passed if match[1] == "ok" else failed).append(match[2])
        return cls(passed, failed)


@cache
def sources() -> Path:
    """Redis's sources; without them the tests are skipped."""
    where = os.environ.get("REDIS_SOURCE")
    if not where:
        pytest.skip("needs REDIS_SOURCE=DIR: Redis's sources, as `apt-get source redis` unpacks them")
    needed("tclsh", package="tcl")
    return Path(where)


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A directory to run the suite in."""
    directory = tmp_path / "suite"
    shutil.copytree(sources() / "tests", directory / "tests")
    (directory / "src").mkdir()
    for name in ("redis-server", "redis-cli", "redis-benchmark"):
        (directory / "src" / name).symlink_to(needed(name, package="redis-server"))
    return directory


def command(address: str, *units: str) -> list[str]:
    """The suite's own: tests that last long are left out, and one that fails ends no other."""
    runner = ["tclsh", "tests/test_helper.tcl", "--host", address, "--port", str(REDIS_PORT)]
    singles = [word for unit in units for word in ("--single", unit)]
    return [*runner, "--durable", "--tags", "-slow", *singles]


def run_suite(directory: Path, unit: str) -> Outcome:
    """Runs a unit against whoever serves at the guest's address."""
    done = subprocess.run(
        command(GUEST_ADDRESS, unit), cwd=directory, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, timeout=SUITE_S_MAX, check=False,
    )  # fmt: skip
    output = done.stdout.decode(errors="replace")
    # Equally few tests of a suite that breaks off on both sides would say nothing.
    assert END in output, output[-2000:]
    return Outcome.of(output)


def is_serving() -> bool:
    try:
        with socket.create_connection((GUEST_ADDRESS, REDIS_PORT), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16) == b"+PONG\r\n"
    except OSError:
        return False


@contextmanager
def native_server(directory: Path) -> Iterator[None]:
    """Redis on another host: one that starts no other process, as its data directory is new."""
    (directory / "data").mkdir()
    library = directory / "without_fork.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-x", "c", "-o", library, "-"], input=WITHOUT_FORK.encode(), check=True)
    server = ["env", f"LD_PRELOAD={library}", str(needed("redis-server", package="redis-server"))]
    words = [*server, str(FILES / "redis-suite.conf"), "--dir", "."]
    process = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", OTHER_HOST, "sh", f"{GUEST_ADDRESS}/24", str(directory / "data"), *words],
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
            assert wait_until(is_serving, timeout_seconds=BOOT_S_MAX, interval_seconds=0.05)
            yield
        finally:
            process.kill()
            process.wait()
            # Where the cable was never laid there is none to take away.
            subprocess.run(["ip", "link", "delete", "cable"], check=False)
            subprocess.run(["ip", "link", "set", "tap0", "up"], check=True)


def package(*, has_exact_clock: bool = False) -> Package:
    """The same server in the VM."""
    return Package(
        needed("redis-server", package="redis-server"),
        ("/etc/redis.conf", "--dir", "/tmp"),
        files={"/etc/redis.conf": FILES / "redis-suite.conf"},
        has_exact_clock=has_exact_clock,
    )


def run_native(directory: Path, unit: str) -> Outcome:
    """Runs a unit against the native server."""
    with native_server(directory):
        outcome = run_suite(directory, unit)
    shutil.rmtree(directory / "data")
    assert outcome.passed
    return outcome


@pytest.mark.parametrize("unit", UNITS)
def test_the_same_tests_fail_as_natively(
    suite: Path, service_network: tuple[str, ...], tmp_path: Path, unit: str
) -> None:
    image = pack(package(has_exact_clock=unit == MEASURED), tmp_path / "redis.hvt")
    native = run_native(suite, unit)
    with boot(image, *service_network, memory_mib=MEMORY_MIB) as guest:
        guest.expect("Ready to accept connections")
        assert run_suite(suite, unit) == native


def packed_suite(directory: Path) -> bytes:
    """The suite as an archive, for a host that does not see this one's files."""
    return subprocess.run(["tar", "-C", directory, "-c", "."], check=True, capture_output=True).stdout


def test_the_same_tests_fail_when_the_primary_is_killed(suite: Path, service_network: tuple[str, ...]) -> None:
    native = [run_native(suite, unit) for unit in KILLED_UNITS]
    expected = Outcome([name for one in native for name in one.passed], [name for one in native for name in one.failed])
    image = pack(package(), IMAGES / "redis-suite.hvt")
    guest = replace(key_value(Workload.REDIS), image=image.name, memory_mib=MEMORY_MIB, block=False)
    with fresh_lab() as lab, running_pair(lab, guest) as pair:
        client, log = lab.client_host, "/var/log/suite.log"
        client.run("mkdir /var/suite && tar -C /var/suite -x", input=packed_suite(suite), check=True)
        running = client.start(f"cd /var/suite && exec {shlex.join(command(GUEST_ADDRESS, *KILLED_UNITS))}", log=log)

        def passed() -> int:
            return len(Outcome.of(client.read_file(log).decode(errors="replace")).passed)

        survivor = pair.backup
        assert wait_until(lambda: passed() >= KILLED_AFTER_TESTS, timeout_seconds=lab.pace.stretch(SUITE_S_MAX))
        pair.primary.process.signal("KILL")
        pair.wait_until_alone(survivor)
        assert running.is_running()
        running.wait(lab.pace.stretch(SUITE_S_MAX))
        output = client.read_file(log).decode(errors="replace")
        assert END in output, output[-2000:]
        assert Outcome.of(output) == expected
