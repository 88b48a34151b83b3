"""`ftvmm simulate`: the protocol's state machine under random fault schedules."""

from __future__ import annotations

import re
import secrets
import time

import click

from ftvmm import _core
from ftvmm.failure import Failure

#: Schedules between two looks at the clock: about half a second's work.
BATCH = 500
#: How often a search says how far it is.
TOLD_EVERY_SECONDS = 60.0


def _seconds(context: click.Context, parameter: click.Parameter, text: str | None) -> int | None:
    """A duration such as `90s`, `2m` or `1h`."""
    if text is None:
        return None
    match = re.fullmatch(r"([1-9]\d*)([smh])", text)
    if match is None:
        raise click.BadParameter("it is a number and s, m or h, such as 2m", context, parameter)
    return int(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


@click.command()
@click.option("--seeds", default=20_000, show_default=True, type=click.IntRange(min=1), help="How many schedules.")
@click.option("--seed", "first", default=0, show_default=True, type=click.IntRange(min=0), help="The first one's seed.")
@click.option(
    "--for", "seconds", metavar="DURATION", callback=_seconds, help="For so long, such as 1h, fresh seeds instead."
)
@click.option(
    "--rules-off", default="", help="Rules to switch off, such as R5-lease,R9; for most of them it then fails."
)
def simulate(seeds: int, first: int, seconds: int | None, rules_off: str) -> int:
    """Drive the protocol's state machine, the very code that a node runs, through random fault schedules.

    After each step the promises are checked. A schedule that breaks one is shrunk to its least faults and told as a
    story; the same seed gives the same story again: `ftvmm simulate --seed 4711 --seeds 1`.

    \b
    Exit status: 0 every promise held; 1 one was broken; 2 bad input.
    """
    try:
        if seconds is not None:
            return _search(seconds, rules_off)
        report, broken = _core.simulate(first, seeds, rules_off)
    except ValueError as error:
        raise Failure(f"--rules-off: {error}") from error
    click.echo(report)
    return 0 if broken is None else 1


def _search(seconds: int, rules_off: str) -> int:
    """Runs schedules that nobody has run yet until the time is over or a promise is broken; returns the exit status."""
    first = secrets.randbits(62)
    click.echo(f"fresh seeds from {first} on, for {seconds} s")
    begun = told = time.monotonic()
    done = 0
    while time.monotonic() - begun < seconds:
        report, broken = _core.simulate(first + done, BATCH, rules_off)
        if broken is not None:
            again = f"ftvmm simulate --seed {broken} --seeds 1" + (f" --rules-off {rules_off}" if rules_off else "")
            click.echo(f"{report}after {done} schedules that broke none; the same again: {again}")
            return 1
        done += BATCH
        if time.monotonic() - told >= TOLD_EVERY_SECONDS:
            told = time.monotonic()
            click.echo(f"{done} schedules in {told - begun:.0f} s")
    click.echo(f"{done} schedules, every promise held")
    return 0
