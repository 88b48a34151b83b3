"""What an operator does with a VM's protection: `ftvmm protect`, `migrate`, `test-failover`, `test-restart-backup`."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ftvmm import configuration, control
from ftvmm.arbiters import ArbiterUnreachableError, Record
from ftvmm.configuration import Configuration
from ftvmm.failure import Failure
from ftvmm.manager import Spare

EXIT_NOT_DONE = 1
EXIT_BAD_INPUT = 2

_LOOK_SECONDS = 0.05

Status = dict[str, Any]


def _operation(help_of_config: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """What these commands have in common: a node's configuration, and a bound on the time that they watch it."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @click.option("--config", "config_path", required=True, type=click.Path(path_type=Path), help=help_of_config)
        @click.option(
            "--timeout", "timeout_seconds", default=60.0, show_default=True, metavar="SECONDS",
            help="Report a failure where it has not come to it by then; the nodes go on trying.",
        )  # fmt: skip
        @functools.wraps(function)
        def command(config_path: Path, timeout_seconds: float, **options: Any) -> None:
            try:
                config = configuration.load(config_path)
            except configuration.ConfigurationError as error:
                raise Failure(str(error), EXIT_BAD_INPUT) from error
            function(_Operated(config, time.monotonic() + timeout_seconds), **options)

        return command

    return decorate


class _Operated:
    """A node that is told to do something, and watched.

    Args:
        config: the node's.
        until: when that is to be over, on the monotonic clock.
    """

    def __init__(self, config: Configuration, until: float) -> None:
        self.config, self._until = config, until
        self._told = ""

    def request(self, operation: str) -> Any:
        """Asks the node. Raises `Failure` where it does not answer, or refuses."""
        try:
            return control.request(self.config.control_socket, operation)
        except control.ControlError as error:
            raise Failure(str(error), EXIT_NOT_DONE) from error

    def status(self) -> Status:
        """What the node says of itself. Raises `Failure`."""
        status: Status = self.request("status")
        return status

    def tell(self, how_far: str) -> None:
        """How far it is, once each."""
        if how_far != self._told:
            click.echo(how_far, err=True)
        self._told = how_far

    def pause(self) -> None:
        """Before the next look. Raises `Failure` where the time is over."""
        if time.monotonic() >= self._until:
            raise Failure(f"not in time: {self._told}", EXIT_NOT_DONE)
        time.sleep(_LOOK_SECONDS)

    def wait_until_protected(self, name: str | None) -> str:
        """Waits until the VM, which runs alone here, has a backup, and returns its name. Raises `Failure`.

        Args:
            name: who that is to be; None: anybody.
        """
        while True:
            status = self.status()
            if status["role"] == "PROTECTED" and status["planned"] is None:
                backup: str = status["peer"]["name"]
                if name not in (None, backup):
                    raise Failure(f"the VM has a backup, {backup}", EXIT_NOT_DONE)
                return backup
            self.tell(_progress(status))
            if status["role"] not in ("ALONE", "PROTECTED"):
                raise Failure(f"the node is {status['role']} now", EXIT_NOT_DONE)
            self.pause()

    def let_backup_go(self, successor: Spare | None) -> None:
        """Has the VM run without its backup, and look for a new one: this, or on the same host. Raises `Failure`."""
        before = self.status()
        self.request(f"let-backup-go {successor.as_json()}" if successor else "let-backup-go")
        while (status := self.status())["generation"] == before["generation"]:
            if status["role"] == "HALTED":
                raise Failure(f"the backup has won the VM: {status['halt_reason']}", EXIT_NOT_DONE)
            if status["planned"] is None:
                raise Failure("the backup is still there: the arbiter did not answer", EXIT_NOT_DONE)
            self.tell(_progress(status))
            self.pause()
        if status["incarnation"] != before["incarnation"]:
            raise Failure("the node has ended, and was started again", EXIT_NOT_DONE)

    def hand_over(self) -> None:
        """Has the backup run the VM, and says who does. Raises `Failure`."""
        incarnation = self.status()["incarnation"]
        self.request("hand-over")
        while (status := control.status(self.config.control_socket)) is not None and status["role"] != "HALTED":
            if status["incarnation"] != incarnation:
                break
            if status["role"] == "ALONE":
                words = "the backup did not take the VM over: it runs on here, without a backup"
                raise Failure(words, EXIT_NOT_DONE)
            if status["planned"] is None:
                words = "the VM was not handed over, and runs on here: the trace says why (`plan-given-up`)"
                raise Failure(words, EXIT_NOT_DONE)
            self.tell(_progress(status))
            self.pause()
        # The node has ended, or does not answer; who has the VM the arbiter tells, now or when the backup has won it.
        while (record := self._owner()) is None or record.incarnation == int(incarnation, 16):
            still = "and still has the VM" if record else "nor does the arbiter"
            self.tell(f"{self.config.name} does not answer, {still}")
            self.pause()
        click.echo(f"{record.node} runs the VM in generation {record.generation}")

    def _owner(self) -> Record | None:
        try:
            return self.config.arbiter.read()
        except ArbiterUnreachableError:
            return None


@click.command()
@click.option("--name", required=True, help="The spare host's name, for people.")
@click.option("--logging", required=True, metavar="ADDRESS:PORT", help="The spare's logging.listen.")
@click.option(
    "--heartbeat", "heartbeats", multiple=True, required=True, metavar="NETWORK=ADDRESS:PORT",
    help="The spare's heartbeat socket on a network; once for each network of the node.",
)  # fmt: skip
@_operation("The node that runs the VM.")
def protect(node: _Operated, name: str, logging: str, heartbeats: tuple[str, ...]) -> None:
    """Give a VM that runs alone a backup again.

    Run it on the host that runs the VM. The spare is a node that was started without --bootstrap, with the same image
    and key (`ftvmm node --config c.toml`). The VM runs on while its memory goes over, stops for some milliseconds, and
    is protected then. Nothing is lost where that fails: the VM runs on alone.

    \b
    Exit status: 0 protected; 1 refused, or not protected in time; 2 configuration, or an address.
    """
    try:
        addresses = dict(_heartbeat(text) for text in heartbeats)
        spare = Spare(name, configuration.address(logging, "--logging"), addresses)
    except ValueError as error:
        raise Failure(str(error), EXIT_BAD_INPUT) from error
    node.request(f"protect {spare.as_json()}")
    click.echo(f"protected: {node.wait_until_protected(name)} is the backup")


@click.command()
@click.option(
    "--to", "name", required=True, metavar="NAME",
    help="The host: a [[spare]] of the node's configuration, or with --primary the backup's.",
)  # fmt: skip
@click.option("--primary/--backup", "moves_primary", default=False, help="Which side moves.  [default: backup]")
@_operation("The node that runs the VM.")
def migrate(node: _Operated, name: str, moves_primary: bool) -> None:
    """Move a VM's primary or its backup to another host, while it serves.

    Run it on the host that runs the VM. There a spare has to run (`ftvmm node`, or `ftvmm manager --run-node`). The
    backup is let go first, and the VM runs alone while its memory goes over to the new one: some hundred milliseconds.
    A primary moves by being handed over to a backup that is there. The node that is left ends with status 3, and is a
    spare when it is started again, as `ftvmm manager --run-node` does.

    \b
    Exit status: 0 moved; 1 refused, or not in time: the VM runs on; 2 configuration, or no such host.
    """
    status = node.status()
    if status["role"] != "PROTECTED":
        raise Failure(f"the node is {status['role']}: only a VM that is protected moves", EXIT_NOT_DONE)
    if status["planned"] is not None:
        raise Failure(f"the node is busy with it: {status['planned']}", EXIT_NOT_DONE)
    if name == node.config.name:
        raise Failure(f"--to: {name} is the host that runs the VM", EXIT_BAD_INPUT)
    if status["peer"]["name"] != name:
        spare = next((one for one in node.config.spares if one.name == name), None)
        if spare is None:
            known = ", ".join(one.name for one in node.config.spares) or "none"
            raise Failure(f"--to: no [[spare]] is called {name!r}; there are: {known}", EXIT_BAD_INPUT)
        node.let_backup_go(spare)
        node.wait_until_protected(name)
    click.echo(f"protected: {name} is the backup")
    if moves_primary:
        node.hand_over()


@click.command("test-failover")
@_operation("The node that runs the VM.")
def test_failover(node: _Operated) -> None:
    """Hand a VM over to its backup, as a failover would, and without one's losses.

    Run it on the host that runs the VM. The guest waits until all that it has said has left and its backup has replayed
    everything; the backup then takes over at once: nobody waits for a lease, and no output is uncertain. This node
    ends with status 3, and the VM runs without a backup until its manager, or `ftvmm protect`, gives it one.

    \b
    Exit status: 0 the backup runs the VM; 1 refused, or it came to nothing: the VM runs on here; 2 configuration.
    """
    node.hand_over()


@click.command("test-restart-backup")
@_operation("The node that runs the VM.")
def test_restart_backup(node: _Operated) -> None:
    """Let a VM's backup go, and wait until it has one again.

    Run it on the host that runs the VM. The backup's node ends with status 3; started again, as `ftvmm manager
    --run-node` does, it becomes the backup again, unless a manager has found another spare before.

    \b
    Exit status: 0 protected again; 1 refused, or not in time: the VM runs on, alone; 2 configuration.
    """
    node.let_backup_go(None)
    click.echo(f"protected: {node.wait_until_protected(None)} is the backup")


def _heartbeat(text: str) -> tuple[str, str]:
    network, equals, address = text.partition("=")
    if not equals:
        raise ValueError(f"--heartbeat: must be NETWORK=ADDRESS:PORT, found {text!r}")
    return network, configuration.address(address, "--heartbeat")


def _progress(status: Status) -> str:
    """How far the node is with what was wanted of it."""
    backup, joining = status["peer"]["name"], status["joining"]
    if status["planned"] is not None:
        return f"{status['planned'].replace('-', ' ')}: the backup is {backup}"
    if joining is None:
        return f"{backup} does not answer"
    if joining["stage"] == "dialling":
        return f"dialling {backup}"
    if joining["stage"] == "greeting":
        return f"{backup} answers"
    return f"copying to {backup}: round {joining['round']}, {joining['copied_bytes'] >> 20} MiB so far"
