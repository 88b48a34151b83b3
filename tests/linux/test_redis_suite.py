"""Redis's own test suite against a server on another host: natively, in the VM, and on a pair whose primary is killed.

It needs the sources of the version that is installed: `REDIS_SOURCE=DIR`, as `apt-get source redis` unpacks them, and
tclsh. A packed program starts no other process, so that natively fork is refused as well: the same tests fail then.
"""

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from harness.promise import Workload
from harness.vm.guests import key_value
from tests.guests.conftest import GUEST_ADDRESS
from tests.guests.guest import IMAGES
from tests.linux.clients import REDIS_PORT
from tests.linux.linux_guest import FILES, Package, boot, needed, pack
from tests.linux.other_host import Outcome, native_server, run_suite, run_while_the_primary_is_killed, sources

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
MEMORY_MIB = 1024

LINE = re.compile(r"\[(ok|err|exception|TIMEOUT)\]:? ?(.*?)(?: \(\d+ ms\))?")
END = "The End"
COLOUR = re.compile(r"\x1b\[[0-9;]*m")

WITHOUT_FORK = "#include <errno.h>\nint fork(void) { errno = ENOSYS; return -1; }\n"


def read(output: str) -> Outcome:
    """The outcome so far; the suite says at its end once more what failed."""
    passed: list[str] = []
    failed: list[str] = []
    for line in COLOUR.sub("", output).partition(END)[0].splitlines():
        if match := LINE.fullmatch(line):
            (passed if match[1] == "ok" else failed).append(match[2])
    return Outcome(passed, failed, END in output)


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A directory to run the suite in."""
    directory = tmp_path / "suite"
    shutil.copytree(sources("redis") / "tests", directory / "tests")
    needed("tclsh", package="tcl")
    (directory / "src").mkdir()
    for name in ("redis-server", "redis-cli", "redis-benchmark"):
        (directory / "src" / name).symlink_to(needed(name, package="redis-server"))
    return directory


def command(address: str, *units: str) -> list[str]:
    """The suite's own: tests that last long are left out, and one that fails ends no other."""
    runner = ["tclsh", "tests/test_helper.tcl", "--host", address, "--port", str(REDIS_PORT)]
    singles = [word for unit in units for word in ("--single", unit)]
    return [*runner, "--durable", "--tags", "-slow", *singles]


def package(*, has_exact_clock: bool = False) -> Package:
    """The same server in the VM."""
    return Package(
        needed("redis-server", package="redis-server"),
        ("/etc/redis.conf", "--dir", "/tmp"),
        files={"/etc/redis.conf": FILES / "redis-suite.conf"},
        has_exact_clock=has_exact_clock,
    )


def run_native(directory: Path, unit: str) -> Outcome:
    """Runs a unit against a native server: one that starts no other process, as its data directory is new."""
    data, library = directory / "data", directory / "without_fork.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-x", "c", "-o", library, "-"], input=WITHOUT_FORK.encode(), check=True)
    server = ["env", f"LD_PRELOAD={library}", str(needed("redis-server", package="redis-server"))]
    data.mkdir()
    with native_server([*server, str(FILES / "redis-suite.conf"), "--dir", "."], REDIS_PORT, data):
        outcome = run_suite(command(GUEST_ADDRESS, unit), directory, read)
    shutil.rmtree(data)
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
        assert run_suite(command(GUEST_ADDRESS, unit), suite, read) == native


def test_the_same_tests_fail_when_the_primary_is_killed(suite: Path, service_network: tuple[str, ...]) -> None:
    native = [run_native(suite, unit) for unit in KILLED_UNITS]
    expected = Outcome(
        [name for one in native for name in one.passed],
        [name for one in native for name in one.failed],
        has_ended=True,
    )
    image = pack(package(), IMAGES / "redis-suite.hvt")
    guest = replace(key_value(Workload.REDIS), image=image.name, memory_mib=MEMORY_MIB, block=False)
    outcome = run_while_the_primary_is_killed(
        guest, REDIS_PORT, command(GUEST_ADDRESS, *KILLED_UNITS), suite, read, after=KILLED_AFTER_TESTS
    )
    assert outcome == expected
