"""`ftvmm verify`: what the determinism pass finds in an image, before anybody runs it."""

from __future__ import annotations

import json
from collections.abc import Sequence

import click

from ftvmm import _core
from ftvmm.commands.outcome import failure_of

_STATUS_REFUSED = 2


def _line(one: _core.FoundInstruction, what: str) -> None:
    click.echo(f"  {one['address']:#012x}  {one['instruction']:<24} {one['place'] or ''}{what}")


def _tell(what: str, found: Sequence[_core.FoundInstruction]) -> None:
    click.echo(f"{what}: {len(found) or 'none'}")
    for one in found:
        _line(one, f": {one['reason']}" if one["reason"] else "")


def _tell_dependences(found: Sequence[_core.HostDependence]) -> None:
    click.echo(f"results that depend on the host: {sum(one['count'] for one in found) or 'none'}")
    for one in found:
        _line(one, f", the first of {one['count']}: {one['reason']}")


@click.command("verify")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead, addresses as numbers.")
@click.argument("image", type=click.Path(), metavar="IMAGE")
def verify(as_json: bool, image: str) -> int:
    """Tell which instructions of IMAGE are rewritten, which make it unusable, and where each of them lies.

    An instruction whose result depends on the host or on the moment is rewritten, so that the VMM answers it and logs
    the answer. What cannot be answered so is refused, and so is what is not known to be deterministic. Bytes inside of
    other instructions that could be read as such an instruction are only listed: a replica that jumps there diverges
    and is stopped. Without symbols, all that is executable counts as code: what is rewritten outside of every function
    whose length a symbol tells is listed once more, as it may be a table, which is then another one.

    Some instructions give the same result only on hosts that are alike in something: for each such thing, how many
    there are and the first. A host without RDFSBASE and WRFSBASE refuses an image that uses them. Instructions of
    features that not every processor has are for programs that ask CPUID, which has one answer on all hosts.

    \b
    Exit status: 0 the image can be run; 2 it cannot, or is no image.
    """
    try:
        report = _core.examine_image(image)
    except _core.CoreError as error:
        raise failure_of(error) from None
    if as_json:
        click.echo(json.dumps(report))
    else:
        click.echo(f"{image}: {report['code_bytes']} bytes of code")
        _tell("rewritten", report["rewritten"])
        _tell("rewritten, but may be data: in no function of known length", report["doubtful"])
        _tell("refused", report["refused"])
        _tell("inside of other instructions", report["hidden"])
        _tell_dependences(report["depends"])
        click.echo(f"features, where CPUID shows them: {', '.join(report['features']) or 'none'}")
        click.echo("It cannot be run." if report["refused"] else "It can be run.")
    return _STATUS_REFUSED if report["refused"] else 0
