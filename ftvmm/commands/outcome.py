"""What a user hears of a VM's end, and the exit status that it leads to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ftvmm._core import CoreError

if TYPE_CHECKING:
    from ftvmm._core import Outcome
from ftvmm.failure import Failure


def finish(outcome: Outcome, *, verbose: bool) -> int:
    """Reports a VM's end on standard error, so that standard output stays the guest's own.

    Returns:
        The exit status: the guest's, 255 for a fatal trap, 130 after Ctrl-C, 0 where a log without an end record ended.
    """
    for said in (outcome["report"], outcome["remark"]):
        if said is not None:
            click.echo(f"ftvmm: {said}", err=True)
    if verbose:
        click.echo(
            f"ftvmm: {outcome['ending']} with status {outcome['exit_status']} after {outcome['position']} inputs, "
            f"fingerprint {outcome['fingerprint']}, state {outcome['state_digest']}",
            err=True,
        )
    return outcome["exit_status"]


def failure_of(error: CoreError) -> Failure:
    """The failure that an error of the core is for the user."""
    message, exit_status = error.args
    return Failure(message, exit_status)
