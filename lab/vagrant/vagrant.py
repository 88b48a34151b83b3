"""Vagrant as this lab runs it: settings, box, output line by line, and how the machines are reached."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from socket import socket

import paramiko

from harness.lab.interface import LabError
from harness.lab.namespaces import only_child
from harness.lab.process_identity import ProcessIdentity
from harness.lab.vagrant.state import PROJECT, Door
from lab.box.build import build
from lab.box.commands import BoxFailed
from lab.vagrant import rack as racks

_ARCHIVES_INSIDE = Path("/var/lib/libvirt/images/hosts")
_END_SECONDS = 60.0
# vagrant colours and redraws; what is kept of a line is its words.
_CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|\r")
LOCAL_BOX = "ftvmm/bookworm"


def archives_of(directory: Path) -> Path:
    """Where a lab's hosts' archives are put: in the rack that is among libvirt's images, which QEMU's user may read."""
    return directory / "libvirt" / "images" / "hosts"


@dataclass(frozen=True)
class Vagrant:
    """Vagrant with this lab's settings.

    Attributes:
        directory: the lab's directory, which keeps Vagrant's home and machines too.
        rack: the namespaces to run in; None where the provider is not libvirt.
        settings: variables of lab/Vagrantfile.
    """

    directory: Path
    provider: str
    rack: ProcessIdentity | None
    settings: Mapping[str, str]

    @property
    def environment(self) -> dict[str, str]:
        """What Vagrant and the Vagrantfile read."""
        return {
            **os.environ,
            "VAGRANT_CWD": str(PROJECT / "lab"),
            "VAGRANT_DOTFILE_PATH": str(self.directory / "machines"),
            "VAGRANT_HOME": str(self.directory / "vagrant"),
            "VAGRANT_DEFAULT_PROVIDER": self.provider,
            "VAGRANT_CHECKPOINT_DISABLE": "1",
            "VAGRANT_NO_COLOR": "1",
            "LIBVIRT_DEFAULT_URI": "qemu:///system",
            "LAB_PLAN": str(self.directory / "plan.json"),
            "LAB_HOSTS": str(archives_of(self.directory) if self.rack is None else _ARCHIVES_INSIDE),
            **self.settings,
        }

    def run(self, arguments: Sequence[str], *, progress: Callable[[str], None], inside: bool = True) -> str:
        """Run one command of Vagrant's; its output goes to `vagrant.log` and, by line, to `progress`.

        Args:
            arguments: such as `up --parallel`.
            progress: told of each line.
            inside: in the rack's namespaces; what needs the machine's own network (fetching a box) runs outside.

        Raises:
            LabError: it failed; the message has the end of its output.
        """
        command = ["vagrant", *arguments]
        rack = self.rack if inside else None
        if rack is not None:
            command = racks.enter(rack, command)
        said: list[str] = []
        with (self.directory / "vagrant.log").open("a") as log:
            log.write(f"$ vagrant {' '.join(arguments)}\n")
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=self.environment,
                cwd=PROJECT,
            )
            assert process.stdout is not None
            pid = process.pid if rack is None else None
            try:
                for line in process.stdout:
                    pid = pid or only_child(process.pid)
                    words = _CONTROL.sub("", line).rstrip()
                    said.append(words)
                    log.write(f"{time.strftime('%H:%M:%S')} {words}\n")
                    log.flush()
                    progress(words)
                status = process.wait()
            except BaseException:
                progress("waiting for Vagrant to let go of the machines")
                _end(process, pid)
                raise
            finally:
                process.stdout.close()
        if status != 0:
            end = "\n".join(f"    {line}" for line in said[-25:])
            raise LabError(
                f"`vagrant {' '.join(arguments)}` failed; the whole log is {log.name}. It ended with:\n{end}"
            )
        return "\n".join(said)


def _end(process: subprocess.Popen[str], pid: int | None) -> None:
    """Wait until Vagrant, which Ctrl-C has reached too, has put its machines in order; in the end, kill it.

    Args:
        process: what was started; in the rack that is nsenter, whose end is not Vagrant's.
        pid: Vagrant's own, where it is known.
    """

    def kill() -> None:
        for number in (pid, process.pid):
            with contextlib.suppress(ProcessLookupError):
                if number is not None:
                    os.kill(number, signal.SIGKILL)

    assert process.stdout is not None
    killer = threading.Timer(_END_SECONDS, kill)
    killer.start()
    try:
        for _ in process.stdout:  # to its end, which is Vagrant's
            pass
    except BaseException:
        kill()
        raise
    finally:
        killer.cancel()
        process.wait()


def box_settings() -> dict[str, str]:
    """The box for lab/Vagrantfile; the local one is built when it is not there or what makes it has changed.

    Raises:
        LabError: it cannot be built.
    """
    name = os.environ.get("LAB_BOX") or LOCAL_BOX
    if name != LOCAL_BOX:
        # Its packages are its publisher's: what is missing comes over the operator's network.
        return {"LAB_BOX": name, "LAB_UPLINK": "1"}
    try:
        box = build(progress=sys.stderr)
    except BoxFailed as failure:
        raise LabError(f"the box cannot be built: {failure}") from failure
    return {"LAB_BOX": box.name, "LAB_BOX_VERSION": box.version, "LAB_BOX_URL": str(box.catalogue)}


def is_public(settings: Mapping[str, str]) -> bool:
    """Whether `box_settings` chose a box of another publisher, whose packages come over the operator's network."""
    return "LAB_BOX_URL" not in settings


def fetch_box(vagrant: Vagrant, name: str, *, progress: Callable[[str], None]) -> None:
    """Have Vagrant download a public box, if it has it not: by the machine's own network, where its resolver answers.

    Raises:
        LabError: it cannot be had.
    """
    there = vagrant.run(["box", "list"], progress=lambda _: None, inside=False)
    if re.search(rf"^{re.escape(name)}\s+\({vagrant.provider}\b", there, re.MULTILINE) is None:
        vagrant.run(["box", "add", "--provider", vagrant.provider, name], progress=progress, inside=False)


def learn_door(name: str, address: str, port: int, connect: Callable[[str, int], socket]) -> Door:
    """The door of one host.

    Raises:
        LabError: its sshd does not answer.
    """
    try:
        with contextlib.closing(paramiko.Transport(connect(address, port))) as transport:
            transport.start_client(timeout=60)
            key = transport.get_remote_server_key()
    except (OSError, EOFError, paramiko.SSHException) as error:
        raise LabError(f"{name} does not answer over SSH at {address} port {port}: {error}") from error
    return Door(address, port, f"{key.get_name()} {key.get_base64()}")


def addresses(configuration: str) -> dict[str, tuple[str, int]]:
    """Address and port of each host's sshd, of what `vagrant ssh-config` prints (ssh_config(5)).

    Raises:
        LabError: a host has none there.
    """
    found = {}
    for part in re.split(r"^Host ", configuration, flags=re.MULTILINE)[1:]:
        name = part.split()[0]
        address = re.search(r"^\s+HostName (\S+)$", part, re.MULTILINE)
        port = re.search(r"^\s+Port (\d+)$", part, re.MULTILINE)
        if address is None or port is None:
            raise LabError(f"`vagrant ssh-config` does not tell how {name} is reached")
        found[name] = address[1], int(port[1])
    return found
