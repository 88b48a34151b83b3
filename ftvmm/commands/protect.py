"""`ftvmm protect`: a VM that runs alone gets a backup again, on a spare host."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import click

from ftvmm import configuration, control

EXIT_NOT_PROTECTED = 1
EXIT_BAD_INPUT = 2

_LOOK_SECONDS = 0.05


@click.command()
@click.option(
    "--config", "config_path", required=True, type=click.Path(path_type=Path), help="The node that runs the VM."
)
@click.option("--name", required=True, help="The spare host's name, for people.")
@click.option("--logging", required=True, metavar="ADDRESS:PORT", help="The spare's logging.listen.")
@click.option(
    "--heartbeat", "heartbeats", multiple=True, required=True, metavar="NETWORK=ADDRESS:PORT",
    help="The spare's heartbeat socket on a network; once for each network of the node.",
)  # fmt: skip
@click.option(
    "--timeout", "timeout_seconds", default=60.0, show_default=True, metavar="SECONDS",
    help="Report a failure where the VM is not protected by then; the node goes on trying.",
)  # fmt: skip
def protect(config_path: Path, name: str, logging: str, heartbeats: tuple[str, ...], timeout_seconds: float) -> None:
    """Give a VM that runs alone a backup again.

    Run it on the host that runs the VM. The spare is a node that was started without --bootstrap, with the same image
    and key (`ftvmm node --config c.toml`). The VM runs on while its memory goes over, stops for some milliseconds, and
    is protected then. Nothing is lost where that fails: the VM runs on alone.

    \b
    Exit status: 0 protected; 1 refused, or not protected in time; 2 configuration, or an address.
    """
    try:
        config = configuration.load(config_path)
        peer = {
            "name": name,
            "logging": configuration.address(logging, "--logging"),
            "heartbeat": dict(_heartbeat(text) for text in heartbeats),
        }
    except (configuration.ConfigurationError, ValueError) as error:
        click.echo(f"ftvmm protect: {error}", err=True)
        sys.exit(EXIT_BAD_INPUT)
    try:
        control.request(config.control_socket, f"protect {json.dumps(peer)}")
        problem = _wait(config.control_socket, name, timeout_seconds)
    except control.ControlError as error:
        problem = str(error)
    if problem:
        click.echo(f"ftvmm protect: {problem}", err=True)
        sys.exit(EXIT_NOT_PROTECTED)
    click.echo(f"protected: {name} is the backup")


def _heartbeat(text: str) -> tuple[str, str]:
    network, equals, address = text.partition("=")
    if not equals:
        raise ValueError(f"--heartbeat: must be NETWORK=ADDRESS:PORT, found {text!r}")
    return network, configuration.address(address, "--heartbeat")


def _wait(socket: Path, name: str, timeout_seconds: float) -> str | None:
    """Tells how far it is until the VM is protected; what keeps it from that where it is not in time."""
    until = time.monotonic() + timeout_seconds
    told = ""
    while True:
        status: dict[str, Any] = control.request(socket, "status")
        if status["role"] == "PROTECTED":
            backup = status["peer"]["name"]
            return None if backup == name else f"the VM has a backup, {backup}"
        progress = _progress(status, name)
        if progress != told:
            click.echo(progress, err=True)
            told = progress
        if status["role"] != "ALONE":
            return f"the node is {status['role']} now"
        if time.monotonic() >= until:
            return f"not within {timeout_seconds:g} s: {progress}"
        time.sleep(_LOOK_SECONDS)


def _progress(status: dict[str, Any], name: str) -> str:
    joining = status["joining"]
    if joining is None:
        return f"{name} does not answer"
    if joining["stage"] == "dialling":
        return f"dialling {name}"
    if joining["stage"] == "greeting":
        return f"{name} answers"
    return f"copying to {name}: round {joining['round']}, {joining['copied_bytes'] >> 20} MiB so far"
