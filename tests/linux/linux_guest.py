"""A Linux program in two worlds: built for both, run natively, and packed and run in the VM."""

import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.guests.conftest import GUEST_ADDRESS
from tests.guests.guest import REPOSITORY, Guest

PROGRAMS = Path(__file__).with_name("programs")
FILES = Path(__file__).with_name("files")
FTVMM = (sys.executable, "-c", "from ftvmm.cli import main; main()")
BUILD_S_MAX = 300.0
PACK_S_MAX = 120.0
RUN_S_MAX = 60.0
MEMORY_MIB = 512
SIGNAL_STATUS = 128
"""The exit status of a program that a signal ended, without the signal's number."""
NETWORK_ARGUMENT = f"--ipv4={GUEST_ADDRESS}/24"

NATIVE = """
set -e
mount --bind "$1" /mnt
mount -t tmpfs tmpfs /srv
cp -R "$2/." /srv
mount -t tmpfs tmpfs /tmp
cd /
ulimit -c 0
shift 2
exec "$@"
"""
"""In a mount namespace of its own: the program's directory is /mnt, its files are in /srv, and /tmp is empty."""
SERVED = Path("/srv")

C_OPTIONS = ("-std=gnu11", "-D_GNU_SOURCE", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread")
# The C library loads it when a thread ends early, and finds it where it is loaded already.
UNWINDER = ("-Wl,--no-as-needed", "-lgcc_s")


@dataclass(frozen=True)
class Ending:
    """What a program left behind: the lines that it wrote, and its exit status (128 and the signal's number where it
    was a signal); None when it did not end in time."""

    lines: list[str]
    status: int | None

    @classmethod
    def of(cls, output: bytes | None, status: int | None) -> "Ending":
        """The ending of a process whose standard output and exit status, as `subprocess` has it, are given."""
        if status is not None and status < 0:
            status = SIGNAL_STATUS - status
        return cls((output or b"").decode(errors="replace").splitlines(), status)

    @property
    def text(self) -> list[str]:
        """All of it, line by line."""
        return [*self.lines, f"exit status: {'none, it did not end' if self.status is None else self.status}"]


@dataclass(frozen=True)
class Package:
    """What `ftvmm pack` is asked to put into an image.

    Attributes:
        program: the ELF file.
        arguments: the program's, without its own name.
        environment: what is in its environment beside what every program finds there.
        files: further files by their path in the guest.
        trees: further directories by their path in the guest.
        has_network: whether the image declares the network device.
        has_disk: whether it declares the block device.
        has_exact_clock: whether each look at the clock is a real one.
        is_traced: whether the program is run first, and what it opens or looks at goes with it.
    """

    program: Path
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    trees: Mapping[str, Path] = field(default_factory=dict)
    has_network: bool = True
    has_disk: bool = False
    has_exact_clock: bool = False
    is_traced: bool = False

    def command(self, image: Path) -> list[str]:
        """The command that writes the image."""
        command = [*FTVMM, "pack", str(self.program), "-o", str(image)]
        for argument in self.arguments:
            command.append(f"--arg={argument}")
        for name, value in self.environment.items():
            command.append(f"--env={name}={value}")
        for where, path in self.files.items():
            command.append(f"--file={where}={path}")
        for where, path in self.trees.items():
            command.append(f"--add-tree={where}={path}")
        if self.has_disk:
            command.append("--disk")
        if self.has_exact_clock:
            command.append("--exact-clock")
        if self.is_traced:
            command.append("--trace")
        return command if self.has_network else [*command, "--no-network"]


def needed(program: str, *, package: str) -> Path:
    """A program of a Debian package; without it the test is skipped."""
    path = shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin")
    if path is None:
        pytest.skip(f"needs Debian's {package}")
    return Path(path)


def build(name: str, target: Path, *, is_static: bool = False, options: Sequence[str] = ()) -> None:
    """Compiles `programs/<name>.c` to `target`, with further options of gcc."""
    linking = ("-static",) if is_static else UNWINDER
    command = ["gcc", *C_OPTIONS, *options, "-o", str(target), str(PROGRAMS / f"{name}.c"), *linking]
    done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_S_MAX, check=False)
    assert done.returncode == 0, done.stderr


def run_native(package: Package, *, under: Sequence[str] = (), seconds_max: float = RUN_S_MAX) -> Ending:
    """Runs a program natively, in a clean environment and file system, standard error and standard output in one.

    Args:
        package: the program and what goes with it; its files are in /srv.
        under: a command that the program is run by, in the same world.
        seconds_max: how long it may run.
    """
    assert not package.trees
    variables = [f"{name}={value}" for name, value in package.environment.items()]
    with TemporaryDirectory() as served:
        for where, path in package.files.items():
            shutil.copy(path, Path(served) / Path(where).relative_to(SERVED))
        command = ["unshare", "--mount", "sh", "-c", NATIVE, "sh", str(package.program.parent), served]
        command += ["env", "-i", *variables, *under, f"/mnt/{package.program.name}", *package.arguments]
        return _run(command, stderr=subprocess.STDOUT, seconds_max=seconds_max)


def pack(package: Package, image: Path) -> Path:
    """Packs a program; returns the image."""
    done = subprocess.run(
        package.command(image), cwd=REPOSITORY, capture_output=True, text=True, timeout=PACK_S_MAX, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return image


def run_packed(image: Path, *options: str, devices: Sequence[str] = (), memory_mib: int = MEMORY_MIB) -> Ending:
    """Runs an image to its end, with options of `ftvmm run`; with devices it has a network. What the VMM itself says
    is no line of the guest."""
    guest_arguments = ["--", NETWORK_ARGUMENT] if devices else []
    command = [*FTVMM, "run", f"--mem={memory_mib}", *options, *devices, str(image), *guest_arguments]
    return _run(command, stderr=None, seconds_max=RUN_S_MAX)


def boot(image: Path, *options: str, memory_mib: int = MEMORY_MIB) -> Guest:
    """Boots an image that has a network; the options are those of `ftvmm run`."""
    # A path that is absolute is beneath no other directory.
    return Guest(str(image.with_suffix("")), NETWORK_ARGUMENT, devices=options, memory_mib=memory_mib)


def _run(command: list[str], *, stderr: int | None, seconds_max: float) -> Ending:
    try:
        done = subprocess.run(
            command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr,
            timeout=seconds_max, umask=0o022, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as late:
        return Ending.of(late.stdout, None)
    return Ending.of(done.stdout, done.returncode)
