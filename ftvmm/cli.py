"""`ftvmm`: the command line."""

from __future__ import annotations

import click

from ftvmm.commands.node import node
from ftvmm.commands.status import status


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ftvmm")
def main() -> None:
    """A fault-tolerant virtual machine monitor: one VM on two hosts, in lockstep."""


main.add_command(node)
main.add_command(status)
