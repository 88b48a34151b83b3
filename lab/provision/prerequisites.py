"""What a machine must bring itself: checked before anything is changed, each miss answered with one sentence."""

import errno
import fcntl
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

KVM_GET_API_VERSION = 0xAE00
"""ioctl number from <linux/kvm.h>."""
KVM_API_VERSION = 12
"""The only KVM API version that current kernels have; Documentation/virt/kvm/api.rst says to refuse any other."""
PYTHON_MINIMUM = (3, 11)
RUST_MINIMUM = (1, 91)
"""What the guests' TCP/IP stack (smoltcp) asks for."""
_RUST_OR_NEWER = f"Rust {RUST_MINIMUM[0]}.{RUST_MINIMUM[1]} or newer"


def program_version(program: Path, *arguments: str) -> str:
    """First line that ``program --version`` (or the given arguments) prints; empty when it does not run."""
    try:
        answer = subprocess.run(
            [program, *(arguments or ("--version",))], capture_output=True, text=True, check=False, cwd="/"
        )
    except OSError:
        return ""
    return answer.stdout.partition("\n")[0] if answer.returncode == 0 else ""


def version_number(text: str) -> tuple[int, int]:
    """The first ``MAJOR.MINOR`` in a text, or (0, 0)."""
    match = re.search(r"(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else (0, 0)


class Missing(Exception):
    """A prerequisite is missing; the message is one sentence that says what to do about it."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where the checks look. The defaults are this machine; tests point single fields elsewhere."""

    user_id: int = field(default_factory=os.geteuid)
    system: str = field(default_factory=platform.system)
    architecture: str = field(default_factory=platform.machine)
    kvm_device: Path = Path("/dev/kvm")
    tun_device: Path = Path("/dev/net/tun")
    fuse_device: Path = Path("/dev/fuse")
    python_version: tuple[int, int] = field(default_factory=lambda: (sys.version_info[0], sys.version_info[1]))
    search_path: str = field(default_factory=lambda: os.environ.get("PATH", os.defpath))
    home: Path = field(default_factory=lambda: Path(os.path.expanduser("~")))
    kvm_api_version: Callable[[int], int] = field(default=lambda device: fcntl.ioctl(device, KVM_GET_API_VERSION, 0))

    def program(self, name: str) -> Path | None:
        """Find a program on the search path, or where rustup puts it when no login shell has set the path up."""
        path = os.pathsep.join([self.search_path, str(self.home / ".cargo" / "bin")])
        found = shutil.which(name, path=path)
        return Path(found) if found else None


def check(machine: Machine) -> None:
    """Check all prerequisites, in the order in which a person would want to hear of them.

    Raises Missing with one sentence for the first that is not met. Changes nothing.
    """
    _check_platform(machine)
    _check_python(machine)
    _check_root(machine)
    _check_rust(machine)
    _check_kvm(machine)
    _check_tun(machine)
    _check_fuse(machine)
    if machine.program("apt-get") is None or machine.program("dpkg-query") is None:
        raise Missing("apt-get is not here: ftvmm installs what it needs on Debian 12 or newer, so use such a machine.")


def _check_platform(machine: Machine) -> None:
    if (machine.system, machine.architecture) != ("Linux", "x86_64"):
        raise Missing(
            f"This machine is {machine.system} on {machine.architecture}: ftvmm runs x86_64 guests on KVM, "
            "so use an x86_64 Linux machine."
        )


def _check_python(machine: Machine) -> None:
    if machine.python_version < PYTHON_MINIMUM:
        raise Missing(
            f"Python {machine.python_version[0]}.{machine.python_version[1]} is too old: install Python 3.11 or newer, "
            "or name one with `make PYTHON=python3.11`."
        )


def _check_root(machine: Machine) -> None:
    if machine.user_id != 0:
        raise Missing(
            "You are not root: run this as root (for example `sudo make setup`), because the lab creates network "
            "namespaces and the set-up installs Debian packages."
        )


def _check_rust(machine: Machine) -> None:
    for name in ("cargo", "rustc"):
        program = machine.program(name)
        if program is None:
            raise Missing(
                f"Rust is not installed ({name} is neither on PATH nor in ~/.cargo/bin): install {_RUST_OR_NEWER} "
                "with rustup (https://rustup.rs) and run this again."
            )
        environment = {**os.environ, "PATH": machine.search_path, "HOME": str(machine.home)}
        try:
            answer = subprocess.run(
                [program, "--version"], capture_output=True, text=True, check=False, env=environment, cwd="/"
            )
        except OSError as error:
            raise Missing(f"{program} does not start ({error.strerror}): install {_RUST_OR_NEWER} again.") from None
        match = re.match(rf"{name} (\d+)\.(\d+)", answer.stdout)
        if answer.returncode != 0 or match is None:
            raise Missing(f"`{program} --version` fails: run `rustup default stable` and then this again.")
        if (int(match[1]), int(match[2])) < RUST_MINIMUM:
            raise Missing(
                f"{program} is Rust {match[1]}.{match[2]}, which is too old: install {_RUST_OR_NEWER} with rustup "
                "(`rustup update stable`) and put it first on PATH."
            )


def _check_kvm(machine: Machine) -> None:
    device = machine.kvm_device
    advice = (
        "load the module (`modprobe kvm_intel` or `kvm_amd`), and turn virtualisation on in the firmware or, inside a "
    )
    advice += "virtual machine, in its host"
    try:
        descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            raise Missing(
                f"{device} is there but may not be opened: give this container or sandbox the device, read and write."
            ) from None
        raise Missing(f"{device} is not usable ({error.strerror}): {advice}.") from None
    try:
        version = machine.kvm_api_version(descriptor)
    except OSError as error:
        raise Missing(f"{device} is not KVM's device ({error.strerror}): {advice}.") from None
    finally:
        os.close(descriptor)
    if version != KVM_API_VERSION:
        raise Missing(f"{device} speaks KVM API version {version}, not 12: boot a Linux kernel of this decade.")


def _check_tun(machine: Machine) -> None:
    try:
        os.close(os.open(machine.tun_device, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        raise Missing(
            f"{machine.tun_device} is not usable ({error.strerror}): load the module with `modprobe tun`, or give this "
            "container the device, because the guests' network cards are TAP devices."
        ) from None


def _check_fuse(machine: Machine) -> None:
    try:
        os.close(os.open(machine.fuse_device, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        raise Missing(
            f"{machine.fuse_device} is not usable ({error.strerror}): load the module with `modprobe fuse`, or give "
            "this container the device, because the hosts' shared storage is mounted through it."
        ) from None
