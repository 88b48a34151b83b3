"""Running Vagrant for this lab: its environment, its output line by line, inside the rack where there is one."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.lab.interface import LabError
from harness.lab.namespaces import only_child
from harness.lab.process_identity import ProcessIdentity
from harness.lab.vagrant.state import PROJECT
from lab.vagrant import rack as racks

_ARCHIVES_INSIDE = Path("/var/lib/libvirt/images/hosts")
_END_SECONDS = 60.0
# vagrant colours and redraws; what is kept of a line is its words.
_CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|\r")


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
