"""The command line: `ftvmm COMMAND ...`, one file a command in `ftvmm/commands/`."""

import sys

import click

from ftvmm.commands.doctor import doctor
from ftvmm.commands.node import node
from ftvmm.commands.pack import pack
from ftvmm.commands.replay import replay
from ftvmm.commands.run import run
from ftvmm.commands.simulate import simulate
from ftvmm.commands.status import status
from ftvmm.commands.verify import verify

STATUS_INTERRUPTED = 130


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ftvmm")
def cli() -> None:
    """A compact fault-tolerant VMM on KVM.

    It runs Solo5 hvt images (MirageOS and other unikernels) unmodified: alone, recorded and replayed, or in virtual
    lockstep on two hosts, where the survivor goes on when a host dies.
    """


cli.add_command(run)
cli.add_command(replay)
cli.add_command(node)
cli.add_command(status)
cli.add_command(simulate)
cli.add_command(doctor)
cli.add_command(verify)
cli.add_command(pack)


def main() -> None:
    """Runs the command line, and leaves with its exit status; no error ends in a traceback."""
    try:
        outcome = cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(STATUS_INTERRUPTED)
    sys.exit(outcome if isinstance(outcome, int) else 0)
