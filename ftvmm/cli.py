"""The command line: `ftvmm COMMAND ...`, each in a file of `ftvmm/commands/`."""

import importlib
import sys

import click

# In which file each is, where that is not called after it.
_FILES = dict.fromkeys(("migrate", "protect", "test-failover", "test-restart-backup"), "protection")
_OWN_FILES = ("doctor", "manager", "node", "pack", "replay", "run", "simulate", "status", "verify")
COMMANDS = tuple(sorted((*_OWN_FILES, *_FILES)))
STATUS_INTERRUPTED = 130


class _Commands(click.Group):
    """Imports a command's file when it is asked for: a node must not wait for what packs images."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"ftvmm.commands.{_FILES.get(cmd_name, cmd_name)}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ftvmm")
def cli() -> None:
    """A compact fault-tolerant VMM on KVM.

    It runs Solo5 hvt images (MirageOS and other unikernels) unmodified: alone, recorded and replayed, or in virtual
    lockstep on two hosts, where the survivor goes on when a host dies.
    """


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
