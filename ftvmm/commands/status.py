"""`ftvmm status`: what a node is and how it does."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ftvmm import configuration, control


@click.command()
@click.option(
    "--config", "config_path", required=True, type=click.Path(path_type=Path), help="The node's configuration."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
def status(config_path: Path, as_json: bool) -> None:
    """Show a node's role, generation, log positions, lag and peer health.

    \b
    Exit status: 0 the node answered; 1 no node answers; 2 configuration.
    """
    try:
        config = configuration.load(config_path)
    except configuration.ConfigurationError as error:
        click.echo(f"ftvmm status: {error}", err=True)
        sys.exit(2)
    try:
        answer = control.request(config.control_socket, "status")
    except control.ControlError as error:
        click.echo(f"ftvmm status: {error}", err=True)
        sys.exit(1)
    if as_json:
        click.echo(json.dumps(answer))
    else:
        Console().print(_table(answer))


_COLOURS = {"PROTECTED": "green", "BACKUP": "green", "ALONE": "yellow", "HALTED": "red"}


def _table(answer: dict[str, Any]) -> Table:
    table = Table(title=f"node {answer['node']}", show_header=False, title_justify="left")
    role = answer["role"]
    position, output, peer = answer["position"], answer["output"], answer["peer"]
    heard = ", ".join(
        f"{network} {'never' if age_ms is None else f'{age_ms:.0f} ms ago'}"
        for network, age_ms in peer["heard_ms"].items()
    )
    rows = {
        "role": f"[{_COLOURS.get(role, 'cyan')}]{role}[/]",
        "generation": answer["generation"],
        "log": ", ".join(f"{name} {value}" for name, value in position.items()),
        "outputs": f"produced {output['produced']}, released {output['released']}",
        "lag": f"{answer['lag_ms']:.1f} ms, {answer['lag_bytes']} bytes",
        "peer": f"{peer['name']}: {heard}; session {peer['session'] or 'none'}",
        "arbiter": f"{answer['arbiter']['kind']}: {answer['arbiter']['last'] or 'not asked yet'}",
    }
    if answer["stalled"]:
        rows["guest"] = "[red]stalled until the backup has caught up[/]"
    elif answer["guest_share"] < 1:
        rows["guest"] = f"[yellow]slowed to {answer['guest_share']:.0%} of its time: the backup lags[/]"
    if joining := answer["joining"]:
        rows["new backup"] = f"{joining['stage']}, round {joining['round']}, {joining['copied_bytes'] >> 20} MiB copied"
    if answer["needs_backup"]:
        rows["no backup"] = f"[yellow]{answer['needs_backup'].replace('-', ' ')}[/]"
    if answer["planned"]:
        rows["planned"] = answer["planned"].replace("-", " ")
    if answer["not_protected"]:
        rows["not protected"] = f"[red]{escape(answer['not_protected'])}[/]"
    if answer["halt_reason"]:
        rows["halted"] = f"[red]{answer['halt_reason']}[/]"
    if answer["build"] != "shipped":
        rows["build"] = f"[red]{answer['build']}, for tests only[/]"
    if answer["mutants"]:
        rows["BROKEN ON PURPOSE"] = f"[red]{', '.join(answer['mutants'])}[/]"
    for name, value in rows.items():
        table.add_row(name, str(value))
    return table
