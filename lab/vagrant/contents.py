"""What the hosts are to have installed, made from the project as it is now; whether it is what they have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.lab.interface import LabError
from harness.lab.keys import SshKey
from harness.lab.toxiproxy_server import toxiproxy_server
from harness.lab.vagrant.state import lab_that_is_up
from lab.vagrant import wheelhouse
from lab.vagrant.archives import STARTED_BY_SCENARIOS, digest_of, write_archives
from lab.vagrant.vagrant import archives_of

DISK_MIB = 16


@dataclass(frozen=True)
class Contents:
    """Digests of what the hosts are given.

    Attributes:
        installed: of all of it.
        running: of what is in use from a host's start on, and is taken in by another start only: scripts that have run,
            programs that run, their configuration.
    """

    installed: str
    running: str


def write_contents(directory: Path) -> Contents:
    """Build the project's wheel and write every host's archive.

    Args:
        directory: the lab's.

    Raises:
        LabError: the wheel cannot be built, or another's cannot be had.
    """
    wheelhouse.build(directory / "wheelhouse")
    wheelhouse.install(directory / "wheelhouse", directory / "packages")
    archives = archives_of(directory)
    write_archives(
        archives,
        packages=directory / "packages",
        toxiproxy=toxiproxy_server(),
        operator_key=operator_key(directory).public,
        disk_mib=DISK_MIB,
    )
    return Contents(digest_of(archives), digest_of(archives, leave_out=STARTED_BY_SCENARIOS))


def operator_key(directory: Path) -> SshKey:
    """The lab's own key, which opens its hosts; made when there is none yet."""
    private, public = directory / "operator_key", directory / "operator_key.pub"
    if private.exists() and public.exists():
        return SshKey(private.read_bytes(), public.read_text().strip())
    key = SshKey.generate()
    private.touch(mode=0o600)
    private.write_bytes(key.private)
    public.write_text(key.public + "\n")
    return key


def require_current(directory: Path) -> None:
    """See that the lab is up and has the project as it is now: scenarios on another would judge what nobody looks at.

    Raises:
        LabError: it is not, or it has not.
    """
    state = lab_that_is_up(directory)
    if write_contents(directory).installed != state.installed:
        raise LabError(
            "the project has changed since the Vagrant lab got it: run `make lab-up`, which installs it anew"
        )
