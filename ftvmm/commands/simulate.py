"""`ftvmm simulate`: the protocol's state machine under random fault schedules."""

from __future__ import annotations

import click

from ftvmm import _core
from ftvmm.failure import Failure


@click.command()
@click.option("--seeds", default=20_000, show_default=True, type=click.IntRange(min=1), help="How many schedules.")
@click.option("--seed", "first", default=0, show_default=True, type=click.IntRange(min=0), help="The first one's seed.")
@click.option(
    "--rules-off", default="", help="Rules to switch off, such as R5-lease,R9; for most of them it then fails."
)
def simulate(seeds: int, first: int, rules_off: str) -> int:
    """Drive the protocol's state machine, the very code that a node runs, through random fault schedules.

    After each step the promises are checked. A schedule that breaks one is shrunk to its least faults and told as a
    story; the same seed gives the same story again: `ftvmm simulate --seed 4711 --seeds 1`.

    \b
    Exit status: 0 every promise held; 1 one was broken; 2 bad input.
    """
    try:
        report, held = _core.simulate(first, seeds, rules_off)
    except ValueError as error:
        raise Failure(f"--rules-off: {error}") from error
    click.echo(report)
    return 0 if held else 1
