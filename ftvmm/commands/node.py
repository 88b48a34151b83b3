"""`ftvmm node`: one node of a fault-tolerant pair."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ftvmm import _core, configuration
from ftvmm.arbiters import NotSharedError, Record
from ftvmm.arbitration import Arbitration
from ftvmm.control import ControlError, ControlServer, RefusedError

EXIT_BAD_INPUT = 2


@click.command()
@click.option(
    "--config", "config_path", required=True, type=click.Path(path_type=Path), help="The node's TOML configuration."
)
@click.option(
    "--bootstrap",
    is_flag=True,
    help="Claim generation 1 of a VM that never ran, dial the peer, and start the VM once it holds the log. "
    "Exactly one node, exactly once: everyone else starts as a spare.",
)
def node(config_path: Path, bootstrap: bool) -> None:
    """Run one node of a fault-tolerant pair.

    Start the spare first (`ftvmm node --config b.toml`), then the primary with --bootstrap. The node runs until it is
    stopped (Ctrl-C or SIGTERM), until the guest halts, or until the protocol halts it.

    \b
    Exit status: 0 stopped, or the guest's own; 2 configuration; 3 halted by the protocol (the reason is printed);
    255 the guest was stopped by a trap, without a backup that could show whether its host was to blame.
    """
    try:
        config = configuration.load(config_path)
        if bootstrap:
            config.arbiter.require_shared()
        config.directory.mkdir(parents=True, exist_ok=True)
        core = _core.Node(config.to_json())
    except (configuration.ConfigurationError, NotSharedError, _core.NodeError, OSError) as error:
        click.echo(f"ftvmm node: {error}", err=True)
        sys.exit(EXIT_BAD_INPUT)
    sys.exit(_run(core, config, bootstrap=bootstrap))


def _run(core: _core.Node, config: configuration.Configuration, *, bootstrap: bool) -> int:
    def answer(request: int, record: Record | None) -> None:
        if record is None:
            core.arbiter_unreachable(request)
        else:
            core.arbiter_answer(request, record.generation, record.incarnation)

    arbitration = Arbitration(
        config.arbiter,
        node=config.name,
        incarnation=core.incarnation,
        timeout_seconds=config.arbiter_timeout_ms / 1000,
        answer=answer,
    )
    stop = core.stop
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, lambda *_: stop())

    def tried(operation: Callable[[], None]) -> None:
        try:
            operation()
        except (_core.NodeError, ValueError, RuntimeError) as error:
            raise RefusedError(str(error)) from error

    def tell_status(_argument: str) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(core.status())
        answer["arbiter"]["kind"] = config.arbiter.kind
        return answer

    operations: dict[str, Callable[[str], Any]] = {
        "status": tell_status,
        "stop": lambda _argument: stop(),
        "protect": lambda argument: tried(lambda: core.protect(argument)),
        "let-backup-go": lambda argument: tried(lambda: core.let_backup_go(argument or None)),
        "hand-over": lambda _argument: tried(core.hand_over),
    }
    try:
        control = ControlServer(config.control_socket, operations)
    except (ControlError, OSError) as error:
        click.echo(f"ftvmm node: {error}", err=True)
        return EXIT_BAD_INPUT
    if _core.BUILD == "lab":
        broken = ", ".join(config.document["test"]["mutants"])
        _remark("THE LAB'S BUILD, for tests only" + (f", BROKEN ON PURPOSE: {broken}" if broken else ""))
    try:
        core.start(bootstrap)
        status = _carry_out(core, arbitration)
    except (_core.NodeError, OSError) as error:
        _remark(str(error))
        status = EXIT_BAD_INPUT
    finally:
        control.close()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    # A call of an arbiter on a dead share can hang for good: no orderly exit may wait for it.
    os._exit(status)


def _remark(text: str) -> None:
    """Says something to people, if it can be written: a full file system under the node's log must not end the node."""
    with contextlib.suppress(OSError):
        click.echo(f"ftvmm node: {text}", err=True)


def _carry_out(core: _core.Node, arbitration: Arbitration) -> int:
    """Carries out what the protocol asks of Python, until the node ends. Returns the exit status."""
    while True:
        # Bounded, so that the interpreter gets to run signal handlers.
        effect = core.next_effect(100)
        if effect is None:
            continue
        kind, arguments = effect[0], effect[1:]
        if kind == "read-arbiter":
            arbitration.read(*arguments)
        elif kind == "check-arbiter":
            arbitration.check(*arguments)
        elif kind == "ask-arbiter":
            arbitration.ask(*arguments)
        elif kind == "exit":
            status, reason = arguments
            if reason:
                _remark(reason)
            return int(status)
