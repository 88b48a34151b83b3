"""Memcached's own test suite against a server on another host: natively, in the VM, and on a pair whose primary is
killed.

It needs the sources of the version that is installed: `MEMCACHED_SOURCE=DIR`, as `apt-get source memcached` unpacks
them, and perl. The suite itself takes a server that runs already (`T_MEMD_USE_DAEMON`). It does not start it then, so
that here the server is started with the options which the file asks for.
"""

import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from harness.promise import Workload
from harness.vm.guests import key_value
from tests.guests.conftest import GUEST_ADDRESS
from tests.guests.guest import IMAGES
from tests.linux.clients import MEMCACHED_PORT
from tests.linux.linux_guest import Package, boot, needed, pack
from tests.linux.other_host import (
    Outcome,
    native_server,
    run_suite,
    run_while_the_primary_is_killed,
    sources,
    wait_until_serving,
)

TESTS = (
    "binary",
    "binary-get",
    "bogus-commands",
    "cas",
    "chunked-items",
    "conn-limits",
    "dash-M",
    "dyn-maxbytes",
    "evictions",
    "expirations",
    "flags",
    "flush-all",
    "getandtouch",
    "getset",
    "idle-timeout",
    "incrdecr",
    "issue_104",
    "issue_108",
    "issue_14",
    "issue_152",
    "issue_163",
    "issue_183",
    "issue_192",
    "issue_22",
    "issue_29",
    "issue_3",
    "issue_41",
    "issue_42",
    "issue_50",
    "issue_61",
    "issue_68",
    "issue_70",
    "lru",
    "malicious-commands",
    "metaget",
    "multiversioning",
    "noreply",
    "quit",
    "slabs-reassign-chunked",
    "slabs-reassign2",
    "slabs_reassign",
    "stats",
    "stats-detail",
    "strtol-testing",
    "touch",
    "watcher_connid",
)
"""Those whose tests mean something against one server on another host that is not started again. What `flush-all`
asks of servers with other options fails in both, and so does what `expirations` asks of a build for debugging.
Missing are those that look at the server's process, its files or its Unix socket, or ask it at an address of their
own (00-startup, ascii-auth, daemonize, issue_67, restart, stats-conns, udp, unixsocket), that end it (item_size_max,
lru-crawler, maxconns, shutdown), that tell nothing without its other options or its environment (64bit,
lru-maintainer), that are about what Debian's build lacks or what no such server has (binary-sasl, misbehave, proxy,
those of extstore and of TLS), that depend by their own word on the size of buffers (watcher), that skip themselves
(issue_140, issue_260, refhang, slabhang) or ask no server (line-lengths, whitespace)."""
KILLED_TESTS = ("cas", "incrdecr", "issue_41", "issue_68", "getset", "multiversioning")
KILLED_OPTIONS_OF = "getset"
KILLED_AFTER_TESTS = 2000
"""Of the tests before `getset` 1,753 pass: it is then writing values of up to a megabyte."""

MEMORY_MIB = 1024
"""The stacks of the 32 threads that `conn-limits` asks for do not fit into less."""

STARTS = re.compile(r"""new_memcached\((?:(["'])(.*?)\1)?\)""")
ADDRESS = re.compile(r"-l \S+")
RUN = 'for name; do perl "t/$name.t"; done'
PLAN = re.compile(r"1\.\.(\d+)")
POINT = re.compile(r"(not )?ok (\d+)(.*)")
NUMBER = re.compile(r"\d+")
"""In a description: what was counted, or how long something has still to live. It is no part of its name."""


def read(output: str) -> Outcome:
    """The test points so far, by number and description."""
    passed: list[str] = []
    failed: list[str] = []
    planned = 0
    for line in output.splitlines():
        if match := POINT.fullmatch(line):
            (failed if match[1] else passed).append(match[2] + NUMBER.sub("N", match[3]))
        elif match := PLAN.fullmatch(line):
            planned += int(match[1])
    return Outcome(passed, failed, has_ended=len(passed) + len(failed) == planned > 0)


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A directory to run the suite in."""
    directory = tmp_path / "suite"
    shutil.copytree(sources("memcached") / "t", directory / "t")
    # It comes with perl's test library.
    needed("prove", package="perl")
    # The suite asks its own server what it can do. It is told nothing: neither a Unix socket nor a file of a server on
    # another host is within reach of a test.
    (directory / "memcached-debug").symlink_to(needed("true", package="coreutils"))
    return directory


def command(*names: str) -> list[str]:
    """The suite's own, for these files."""
    return ["env", f"T_MEMD_USE_DAEMON={GUEST_ADDRESS}:{MEMCACHED_PORT}", "sh", "-c", RUN, "sh", *names]


def package(directory: Path, name: str) -> Package:
    """The server with the options that a file asks for, where it first starts one."""
    start = STARTS.search((directory / "t" / f"{name}.t").read_text())
    assert start is not None
    options = shlex.split(ADDRESS.sub("", start[2] or ""))
    return Package(needed("memcached", package="memcached"), ("-u", "root", "-l", "0.0.0.0", "-t", "4", *options))


def run_native(server: Package, directory: Path, *names: str) -> Outcome:
    """Runs files of the suite against a native server."""
    with native_server([str(server.program), *server.arguments], MEMCACHED_PORT, directory):
        outcome = run_suite(command(*names), directory, read)
    assert outcome.passed
    return outcome


@pytest.mark.parametrize("name", TESTS)
def test_the_same_tests_fail_as_natively(
    suite: Path, service_network: tuple[str, ...], tmp_path: Path, name: str
) -> None:
    server = package(suite, name)
    image = pack(server, tmp_path / "memcached.hvt")
    native = run_native(server, suite, name)
    with boot(image, *service_network, memory_mib=MEMORY_MIB):
        wait_until_serving(MEMCACHED_PORT)
        assert run_suite(command(name), suite, read) == native


def test_the_same_tests_fail_when_the_primary_is_killed(suite: Path, service_network: tuple[str, ...]) -> None:
    server = package(suite, KILLED_OPTIONS_OF)
    native = run_native(server, suite, *KILLED_TESTS)
    image = pack(server, IMAGES / "memcached-suite.hvt")
    guest = replace(key_value(Workload.MEMCACHED), image=image.name, memory_mib=MEMORY_MIB)
    outcome = run_while_the_primary_is_killed(
        guest, MEMCACHED_PORT, command(*KILLED_TESTS), suite, read, after=KILLED_AFTER_TESTS
    )
    assert outcome == native
