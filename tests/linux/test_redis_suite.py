"""Redis's own test suite against a server on another host: natively, and in the VM.

It needs the sources of the version that is installed: `REDIS_SOURCE=DIR`, as `apt-get source redis` unpacks them, and
tclsh. A packed program starts no other process, so that natively fork is refused as well: the same tests fail then.
"""

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from harness.lab.waiting import wait_until
from tests.guests.conftest import GUEST_ADDRESS, HOST_ADDRESS
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
SUITE_S_MAX = 900.0
BOOT_S_MAX = 30.0
MEMORY_MIB = 1024

LINE = re.compile(r"\[(ok|err|exception|TIMEOUT)\]:? ?(.*?)(?: \(\d+ ms\))?")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")

WITHOUT_FORK = "#include <errno.h>\nint fork(void) { errno = ENOSYS; return -1; }\n"
OTHER_HOST = """
echo up
read -r _
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
        passed: list[str] = []
        failed: list[str] = []
        for line in COLOUR.sub("", output).partition("The End")[0].splitlines():
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
    return Outcome.of(done.stdout.decode(errors="replace"))


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
        try:
            assert wait_until(is_serving, timeout_seconds=BOOT_S_MAX, interval_seconds=0.05)
            yield
        finally:
            process.kill()
            process.wait()
            for line in ("link delete cable", "link set tap0 up"):
                subprocess.run(["ip", *line.split()], check=True)


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
