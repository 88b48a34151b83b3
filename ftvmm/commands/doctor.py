"""`ftvmm doctor`: what this host can do, whether a node's configuration is usable from here, and what is missing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from ftvmm import configuration
from ftvmm.examination import Ability, Finding, can, examine_host, examine_node
from ftvmm.failure import Failure

_EXIT_MISSING = 2


@click.command("doctor")
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    help="A node's configuration: are its image, disks, TAP interfaces, arbiter and addresses usable from here?",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
def doctor(config_path: Path | None, as_json: bool) -> int:
    """Try out whether this host can run, record, replay and protect VMs.

    Nothing is guessed: a tiny guest is run, and of a configuration the disks are read, the TAP interfaces attached to
    for a moment, the arbiter asked as for a claim. What is missing is named, and how to get it.

    \b
    Example: ftvmm doctor --config /etc/ftvmm/node.toml
    Exit status: 0 nothing is missing; 2 something is, or the configuration cannot be used.
    """
    config = None
    if config_path is not None:
        try:
            config = configuration.load(config_path)
        except configuration.ConfigurationError as error:
            raise Failure(str(error)) from None
    report, findings = examine_host()
    if config is not None:
        findings += examine_node(config, report)
    able = {ability: can(findings, ability) for ability in Ability}
    if as_json:
        click.echo(json.dumps({"can": able, "host": report, "findings": [_as_json(finding) for finding in findings]}))
    else:
        if report is not None:
            _print_host(report)
        for finding in findings:
            _print_finding(finding)
        click.echo(_verdict(able))
    return 0 if all(able.values()) else _EXIT_MISSING


def _as_json(finding: Finding) -> dict[str, Any]:
    return {**asdict(finding), "needed_for": sorted(finding.needed_for)}


def _print_host(report: Mapping[str, Any]) -> None:
    for name, is_there in report["capabilities"].items():
        _line(name, "yes" if is_there else "no")
    own = [name for name, is_there in report["features"] if is_there]
    _line("processor", report["processor"])
    _line("kind of KVM", report["kvm"])
    _line("traps by itself", f"an out, which is how a guest calls; {_few(report['trapping'])}")
    _line("traps by rewriting", ", ".join(report["rewritten"]))
    _line(
        "CPUID, not rewritten", "the guest's own table" if report["guest_cpuid"] else "the host's: all that KVM can do"
    )
    _line("CR4.UMIP", "set: SGDT, SIDT, SLDT, STR and SMSW trap" if report["umip"] else "not set")
    _line("TSS type for CPL-3 I/O", str(report["task_type"]))
    _line("RIP after an out", "past it" if report["rip_past_out"] else "at it")
    _line("features for guests", ", ".join(own) or "none")


def _few(names: list[str]) -> str:
    shown = [name for name in names if name in ("cli", "hlt", "in", "rdmsr", "wrmsr")]
    return f"privileged instructions ({', '.join(shown)} and {len(names) - len(shown)} more)"


def _line(name: str, value: str) -> None:
    click.echo(f"{name + ':':<28}{value}")


def _print_finding(finding: Finding) -> None:
    sign = "ok" if finding.is_well else "MISSING" if finding.needed_for else "better"
    click.echo(f"{sign:<9}{finding.what}: {finding.found}")
    if finding.remedy:
        click.echo(f"{'':<9}  {finding.remedy}")


def _verdict(able: Mapping[Ability, bool]) -> str:
    """The last line: a sentence."""
    return " ".join(
        f"This host {word} {_in_words(abilities)} VMs."
        for word, wanted in (("can", True), ("cannot", False))
        if (abilities := [ability for ability, is_able in able.items() if is_able is wanted])
    )


def _in_words(abilities: list[Ability]) -> str:
    *first, last = abilities
    return f"{', '.join(first)} and {last}" if first else str(last)
