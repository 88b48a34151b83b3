"""The same program natively and in the VM: what it writes and how it ends is the same."""

import difflib
import re
import shutil
import signal
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.guests.conftest import GUEST_ADDRESS, HOST_ADDRESS
from tests.guests.guest import REPOSITORY
from tests.linux.conftest import Builder, Packer
from tests.linux.linux_guest import PROGRAMS, SIGNAL_STATUS, Ending, Package, run_native, run_packed

TABLE = REPOSITORY / "docs" / "system-calls.md"
REAL = "real"
TRACE_S_MAX = 300.0
STRACE = ("strace", "-f", "-qq", "-s", "0", "-e", "signal=none", "-e", "verbose=none")

NETWORKED = ("tcp", "udp", "epoll", "messages", "socket_options")
"""Programs with internet sockets; the others run in an image without a network."""

STATIC = ("threads", "memory", "files", "tcp", "signals", "time", "special_files")
"""Programs that run statically linked too."""

WITH_EXACT_CLOCK = ("time",)
"""Programs that look for the time between two looks at the clock."""

ENDS = (
    "return", "exit", "_exit", "large-status", "thread", "with-threads", "first-thread-first", "abort", "blocked-abort",
    "terminated", "killed", "user-signal", "signal-in-thread", "alarm", "pipe",
)  # fmt: skip
"""The ways in which `ends` can end."""

OWN_ADDRESS = "OWN_ADDRESS"
"""Names the variable that tells a program the address of its machine."""
ENVIRONMENT = {"GREETING": "good day", "EMPTY": "", OWN_ADDRESS: GUEST_ADDRESS}


@dataclass(frozen=True)
class Case:
    """A program, and how it is run."""

    program: str
    arguments: tuple[str, ...] = ()
    is_static: bool = False

    def __str__(self) -> str:
        ways = self.arguments if self.program == "ends" else ()
        return "-".join((self.program, *ways, *(["static"] if self.is_static else [])))

    @property
    def has_network(self) -> bool:
        """Whether the program has internet sockets."""
        return self.program in NETWORKED

    def package(self, built: Builder) -> Package:
        """The program with all that it needs."""
        program = built(self.program, is_static=self.is_static)
        exact = self.program in WITH_EXACT_CLOCK
        return Package(program, self.arguments, ENVIRONMENT, has_network=self.has_network, has_exact_clock=exact)


@dataclass(frozen=True)
class Difference:
    """A check that comes out otherwise in the VM, by design.

    Attributes:
        check: the text of the check.
        in_vm: what is written in place of its line; words of the personality's own come first.
        reason: why.
    """

    check: str
    in_vm: tuple[str, ...]
    reason: str


DIFFERS = {
    "file_mappings": (
        Difference(
            "mmap(NULL, PAGE, PROT_RW, MAP_SHARED, file, 0)",
            (
                "linux: a file is to be mapped shared and writable, and would not see the changes: ENODEV",
                "mmap(NULL, PAGE, PROT_RW, MAP_SHARED, file, 0): ENODEV",
            ),
            "a mapping of a file is a copy",
        ),
    ),
    "memory": (
        Difference(
            "mremap(source, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, target)",
            ("mremap(source, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, target): EINVAL",),
            "the personality says where a mapping moves to",
        ),
    ),
    "processes": (
        Difference(
            "syscall(999)",
            ("linux: unknown system call 999: refused with ENOSYS", "syscall(999): -1 ENOSYS"),
            "a person should hear of it",
        ),
        Difference(
            "fork",
            ("linux: the program wants to start another process, which it cannot here: ENOSYS", "fork: ENOSYS"),
            "there is one address space",
        ),
        Difference("waitpid", ("waitpid: ECHILD",), "there is no child, then"),
        Difference(
            'execve("/missing", nothing, nothing)',
            ('execve("/missing", nothing, nothing): -1 ENOSYS',),
            "all code is known when the image is made",
        ),
    ),
}


def _cases() -> list[Case]:
    programs = sorted(path.stem for path in PROGRAMS.glob("*.c"))
    started_with: dict[str, list[tuple[str, ...]]] = {
        "ends": [(way,) for way in ENDS],
        "arguments": [("first", "two words", "", "--last=x")],
    }
    cases = [Case(program, arguments) for program in programs for arguments in started_with.get(program, [()])]
    return [*cases, *(Case(program, is_static=True) for program in STATIC)]


CASES = _cases()


def natively(package: Package) -> Package:
    """The program on the tests' own machine, whose address is another one."""
    return replace(package, environment=ENVIRONMENT | {OWN_ADDRESS: HOST_ADDRESS})


def wanted(case: Case, native: Ending) -> list[str]:
    """What the program shall write in the VM: what it writes natively, but for what differs by design."""
    *lines, status = native.text
    for difference in DIFFERS.get(case.program, ()):
        places = [index for index, line in enumerate(lines) if line.startswith(f"{difference.check}: ")]
        assert len(places) == 1, f"{case.program} has the check {difference.check!r} {len(places)} times"
        lines[places[0] : places[0] + 1] = difference.in_vm
    if native.status is not None and native.status > SIGNAL_STATUS:
        # As a shell does.
        lines.append(f"linux: ended by signal {signal.Signals(native.status - SIGNAL_STATUS).name}")
    return [*lines, status]


@pytest.fixture
def devices(case: Case, request: pytest.FixtureRequest) -> tuple[str, ...]:
    """The device options that a program needs; one with a network is in a network namespace natively too."""
    options: tuple[str, ...] = request.getfixturevalue("service_network") if case.has_network else ()
    return options


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_program_does_the_same_as_natively(
    case: Case, devices: tuple[str, ...], built: Builder, packed: Packer
) -> None:
    package = case.package(built)
    native = run_native(natively(package))
    assert native.status is not None, f"natively it does not end: {native.lines}"
    in_vm = run_packed(packed(package), devices=devices)
    difference = list(difflib.unified_diff(wanted(case, native), in_vm.text, "native", "in the VM", lineterm="", n=5))
    assert not difference, "\n".join(["", *difference])


def real_calls() -> set[str]:
    """The names of the system calls that the personality's table calls real."""
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in TABLE.read_text().splitlines()]
    table = [row for row in rows if len(row) >= 3 and row[0].isdigit()]
    assert table, f"{TABLE} has no table of number, name and state"
    return {row[1].strip("`") for row in table if row[2].strip("`").lower() == REAL}


def made_calls(package: Package) -> set[str]:
    """The names of the system calls that a program makes natively."""
    # The program's directory is /mnt.
    run_native(natively(package), under=(*STRACE, "-o", "/mnt/trace"), seconds_max=TRACE_S_MAX)
    trace = package.program.with_name("trace").read_text(errors="replace")
    return set(re.findall(r"^(?:\d+\s+)?(\w+)\(", trace, re.MULTILINE))


@pytest.mark.skipif(not TABLE.exists(), reason="docs/system-calls.md, the personality's table, is not there")
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs Debian's strace")
@pytest.mark.usefixtures("service_network")
def test_every_system_call_that_is_real_is_made_by_a_program(built: Builder) -> None:
    made = set().union(*(made_calls(case.package(built)) for case in CASES if not case.is_static))
    missing = sorted(real_calls() - made)
    assert not missing, f"no program in {PROGRAMS} makes these system calls: {', '.join(missing)}"


def test_the_table_of_system_calls_is_that_of_the_code() -> None:
    """`docs/system-calls.md` is made from the code, and made anew when that changes."""
    cargo = shutil.which("cargo") or str(Path.home() / ".cargo" / "bin" / "cargo")
    command = [cargo, "run", "--quiet", "--locked", "--package=linux", "--example=system_calls"]
    done = subprocess.run(command, cwd=REPOSITORY / "ftvmm" / "guests", capture_output=True, text=True, check=True)
    told = "make it anew: cargo run --package=linux --example=system_calls >../../docs/system-calls.md"
    assert TABLE.read_text() == done.stdout, told
