"""`ftvmm manager`: keeps a VM protected, and its node running."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import click

from ftvmm import configuration, control
from ftvmm.failure import Failure
from ftvmm.manager import Manager

_LOOK_SECONDS = 0.1
# Before a node is started again; twice as long after each time that it did not become a spare.
_RESTART_SECONDS = 1.0
_RESTART_SECONDS_MAX = 60.0


@click.command()
@click.option(
    "--config", "config_path", required=True, type=click.Path(path_type=Path), help="The node's TOML configuration."
)
@click.option(
    "--run-node",
    is_flag=True,
    help="Start the node as a spare where it does not run, and again when it was killed or has halted.",
)
def manager(config_path: Path, run_node: bool) -> None:
    """Keep a VM protected.

    One on each host, beside the node and with its node.toml, whose [[spare]] tables name the other hosts. Where the
    node runs the VM alone, its manager has it take a spare for its backup, the next one where one does not answer.
    With --run-node a host that comes back is a spare by itself.

    A manager may be killed and started again at any moment, and two may run: a node and its VM do not end with it. To
    end the VM stop the managers first, then the backup, and the primary last.

    \b
    Exit status: 0 stopped; 2 configuration.
    """
    try:
        config = configuration.load(config_path)
    except configuration.ConfigurationError as error:
        raise Failure(str(error)) from error
    if not config.spares:
        raise Failure(f"{config_path}: spare: at least one [[spare]] is needed")
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    keeper = _NodeKeeper(config_path, config.directory) if run_node else None
    decides = Manager(config.spares)
    told: str | None = None
    refused: str | None = None
    while not stopped.wait(_LOOK_SECONDS):
        status = control.status(config.control_socket)
        if keeper is not None:
            keeper.look(is_there=status is not None)
        role = status["role"] if status else None
        if role != told:
            _tell(f"{config.name} is {role or 'silent'}" + (f" in generation {status['generation']}" if status else ""))
            told = role
        spare = decides.next_spare(status, time.monotonic())
        if spare is not None:
            try:
                control.request(config.control_socket, f"protect {spare.as_json()}")
                _tell(f"{config.name} runs the VM alone: {spare.name} is asked to become its backup")
                refused = None
            except control.ControlError as error:
                decides.was_refused()
                if refused != (refused := f"{spare.name} is not asked: {error}"):
                    _tell(refused)


def _tell(what: str) -> None:
    click.echo(f"{time.strftime('%H:%M:%S')} {what}", err=True)


class _NodeKeeper:
    """Starts a node where none runs. It lives on when this process ends, and is found again by its socket."""

    def __init__(self, config: Path, directory: Path) -> None:
        self._config, self._log = config, directory / "node.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._start_at = 0.0
        self._pause = _RESTART_SECONDS
        self._is_over = False
        self._told: set[str] = set()

    def look(self, *, is_there: bool) -> None:
        """Starts it, unless it is there, was just started, or has ended in order."""
        if is_there:
            self._pause, self._is_over, self._told = _RESTART_SECONDS, False, set()
        if self._process is not None and (status := self._process.poll()) is not None:
            self._process = None
            # The guest has halted, or its operator has stopped it.
            self._is_over = status == 0
            is_next = "not started again" if self._is_over else "started again"
            self._tell(f"the node ended with status {status} and is {is_next}; what it said is in {self._log}")
        if is_there or self._process is not None or self._is_over or time.monotonic() < self._start_at:
            return
        self._start_at = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, _RESTART_SECONDS_MAX)
        self._log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "ftvmm", "node", "--config", str(self._config)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._tell("the node is started as a spare")

    def _tell(self, what: str) -> None:
        """Once each, until it is there again: one that cannot start would fill the terminal."""
        if what not in self._told:
            _tell(what)
        self._told.add(what)
