"""`ftvmm doctor`: whether this host can run VMs, and what it found out."""

import os
import platform
from pathlib import Path

import click

from ftvmm import _core
from ftvmm.failure import Failure


def _access(path: str) -> str:
    if not Path(path).exists():
        return "missing"
    return "readable and writable" if os.access(path, os.R_OK | os.W_OK) else "there, but this user has no right to it"


def _line(name: str, value: str) -> None:
    click.echo(f"{name + ':':<28}{value}")


@click.command("doctor")
def doctor() -> None:
    """Try out whether this host can run VMs, and print what was found.

    The exit status is 0 where it can, 2 where something is missing; the last line then says what.
    """
    _line("kernel", f"{platform.system()} {platform.release()} {platform.machine()}")
    _line("/dev/kvm", _access("/dev/kvm"))
    _line("/dev/net/tun", f"{_access('/dev/net/tun')} (needed for networks only)")
    try:
        host = _core.examine_host()
    except _core.CoreError as error:
        message, exit_status = error.args
        raise Failure(message, exit_status) from None
    for name, is_there in host["capabilities"].items():
        _line(name, "yes" if is_there else "no")
    _line("processor", host["processor"])
    _line("KVM", host["kvm"])
    _line("TSS type for CPL-3 I/O", str(host["task_type"]))
    _line("CPUID told to KVM", "the guest's own" if host["guest_cpuid"] else "all that KVM can do")
    _line("CR4.UMIP", "set" if host["umip"] else "not set")
    _line("RIP after an out", "past it" if host["rip_past_out"] else "at it")
    own = [name for name, is_there in host["features"] if is_there]
    _line("features for guests", ", ".join(own) or "none")
    click.echo("This host can run VMs.")
