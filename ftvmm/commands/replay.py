"""`ftvmm replay`: a recorded run again, bit for bit."""

import click

from ftvmm import _core
from ftvmm.commands.outcome import failure_of, finish


@click.command("replay")
@click.option("--image", type=click.Path(), help="The image, where it is no longer where it was recorded.")
@click.option("--verbose", is_flag=True, help="At the end, tell the fingerprint and the digest of the final state.")
@click.argument("log", type=click.Path(), metavar="FILE")
@click.pass_context
def replay(context: click.Context, image: str | None, verbose: bool, log: str) -> None:
    """Replay the run recorded in FILE by `ftvmm run --record`.

    No network, disk or clock is used: every input comes from the log, console output goes to standard output, and each
    request of the guest is compared with the recorded one. The exit status is the recorded run's; 2 for a log that is
    truncated, damaged or of another image, 3 at a divergence.
    """
    try:
        outcome = _core.replay(log, image)
    except _core.CoreError as error:
        raise failure_of(error) from None
    context.exit(finish(outcome, verbose=verbose))
