"""`ftvmm replay`: a recorded run again, bit for bit."""

import click

from ftvmm import _core
from ftvmm.commands.outcome import failure_of, finish


@click.command("replay")
@click.option("--image", type=click.Path(), help="The image, where it is no longer where it was recorded.")
@click.option("--outputs", type=click.Path(dir_okay=False, allow_dash=True), metavar="LINES",
              help="Write a line of JSON for each output; - is standard output, without console text.")  # fmt: skip
@click.option("--state-at", "states_at", type=click.IntRange(min=0), multiple=True, metavar="POSITION",
              help="Tell in --outputs, too, a digest of the guest's state behind this entry.")  # fmt: skip
@click.option("--verbose", is_flag=True, help="At the end, tell the fingerprint and the digest of the final state.")
@click.argument("log", type=click.Path(), metavar="FILE")
@click.pass_context
def replay(
    context: click.Context, image: str | None, outputs: str | None, states_at: tuple[int, ...], verbose: bool, log: str
) -> None:
    """Replay the run recorded in FILE by `ftvmm run --record` or by a node.

    No network, disk or clock is used: every input comes from the log, console output goes to standard output, and each
    request of the guest is compared with the recorded one. The exit status is the recorded run's; 2 for a log that is
    damaged or of another image, 3 at a divergence. A log without an end record is replayed to its last whole entry,
    and on to the next input that the guest asks for: status 0, and a word on standard error.
    """
    if states_at and outputs is None:
        raise click.UsageError("--state-at goes with --outputs")
    try:
        outcome = _core.replay(log, image, outputs, states_at)
    except _core.CoreError as error:
        raise failure_of(error) from None
    context.exit(finish(outcome, verbose=verbose))
