"""An iSCSI target on this machine (Debian's tgt), which can be killed, frozen and started again."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ftvmm.arbiters.iscsi import LibraryMissingError, load
from harness.lab.waiting import wait_until
from tests.arbiters.cluster import free_ports

LUN_BLOCKS = 4096


def _missing() -> str | None:
    if shutil.which("tgtd") is None:
        return "needs Debian's tgt"
    try:
        load()
    except LibraryMissingError as error:
        return str(error)
    return None


MISSING = _missing()
"""What keeps a target from being tried here, in words; None: nothing does."""


class Target:
    """A tgtd of its own; each VM has a target and a logical unit there, made when it is first asked for.

    Attributes:
        portal: where it listens, as ADDRESS:PORT.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.portal = f"127.0.0.1:{free_ports(1)[0]}"
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def places(self) -> list[str]:
        """What `url_of` needs to know, for another process."""
        return [self.portal, str(self._directory)]

    def start(self) -> None:
        """Starts it, or starts it again: it keeps what its logical units hold, and no reservation."""
        with (self._directory / "tgtd.log").open("ab") as log:
            command = ["tgtd", "-f", "-C", "0", "--iscsi", f"portal={self.portal}"]
            environment = {**os.environ, **_environment(self._directory)}
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)

        def answers() -> bool:
            return _administer(self._directory, "--op", "show", "--mode", "target").returncode == 0

        assert wait_until(answers, timeout_seconds=30), (self._directory / "tgtd.log").read_text()[-2000:]
        for unit in self._directory.glob("*.unit"):
            _serve(self._directory, unit.stem)

    def url(self, vm: str) -> str:
        """The address of a VM's logical unit."""
        return url_of(self.places, vm)

    def unit(self, vm: str) -> Path:
        """The file that is behind a VM's logical unit."""
        return self._directory / f"{vm}.unit"

    def signal(self, number: signal.Signals) -> None:
        """KILL, STOP or CONT."""
        assert self._process is not None
        self._process.send_signal(number)
        if number is signal.SIGKILL:
            self._process.wait()

    def restart(self) -> None:
        """As after a loss of power: what it had in memory is gone."""
        self.signal(signal.SIGKILL)
        self.start()

    def stop(self) -> None:
        """Ends it, if it is frozen too."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait()


def url_of(places: Sequence[str], vm: str, *, block_bytes: int = 512) -> str:
    """The address of a VM's logical unit, which is made if it is not there yet."""
    portal, directory = places[0], Path(places[1])
    unit = directory / f"{vm}.unit"
    if not unit.exists():
        with unit.open("xb") as file:
            file.truncate(LUN_BLOCKS * block_bytes)
        _serve(directory, vm)
    return f"iscsi://{portal}/{_name(vm)}/1"


def _name(vm: str) -> str:
    return f"iqn.2026-11.invalid.ftvmm.test:{vm}"


def _serve(directory: Path, vm: str) -> None:
    number = str(_number(directory, vm))
    unit = directory / f"{vm}.unit"
    block_bytes = str(unit.stat().st_size // LUN_BLOCKS)
    for words in (
        ("--op", "new", "--mode", "target", "--tid", number, "-T", _name(vm)),
        (
            *("--op", "new", "--mode", "logicalunit", "--tid", number, "--lun", "1"),
            *("-b", str(unit), "--blocksize", block_bytes),
        ),
        ("--op", "bind", "--mode", "target", "--tid", number, "-I", "ALL"),
    ):
        answer = _administer(directory, *words)
        assert answer.returncode == 0, answer.stderr


def _number(directory: Path, vm: str) -> int:
    """The target's, of those in this directory: by the place of the VM in a list that only grows."""
    known = directory / "numbers"
    with known.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        names = file.read().split()
        if vm not in names:
            file.write(f"{vm}\n")
            names.append(vm)
    return 1 + names.index(vm)


def _environment(directory: Path) -> Mapping[str, str]:
    return {"TGT_IPC_SOCKET": str(directory / "control")}


def _administer(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["tgtadm", "-C", "0", "--lld", "iscsi", *words],
        env={**os.environ, **_environment(directory)},
        capture_output=True,
        text=True,
        check=False,
    )
