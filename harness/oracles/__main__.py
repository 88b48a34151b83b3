"""`python -m harness.oracles judge DIRECTORY...`: judge stored evidence again."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from harness.evidence.directory import EvidenceDirectory
from harness.evidence.verdicts import Judgement, Verdict
from harness.oracles.registry import all_passed, judge

_STYLES = {Verdict.PASSED: "green", Verdict.FAILED: "bold red", Verdict.INSUFFICIENT: "yellow"}
FINDINGS_SHOWN_MAX = 8


def verdict_table(title: str, judgements: list[Judgement]) -> Table:
    """The judgements as a table for a terminal."""
    table = Table(title=title, title_justify="left")
    for column in ("oracle", "verdict", "findings", "counted"):
        table.add_column(column, overflow="fold")
    for judgement in judgements:
        shown = [f"{finding.code}: {finding.message}" for finding in judgement.findings[:FINDINGS_SHOWN_MAX]]
        if len(judgement.findings) > FINDINGS_SHOWN_MAX:
            shown.append(f"... {len(judgement.findings) - FINDINGS_SHOWN_MAX} more")
        counted = ", ".join(f"{name} {value}" for name, value in judgement.counted.items())
        style = _STYLES[judgement.verdict]
        table.add_row(judgement.oracle, f"[{style}]{judgement.verdict}[/{style}]", "\n".join(shown), counted)
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 when everything passed, 1 when not, 2 when there is no such directory."""
    parser = argparse.ArgumentParser(prog="python -m harness.oracles", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    judging = commands.add_parser("judge", help="judge evidence directories and rewrite their verdicts.json")
    judging.add_argument("directories", type=Path, nargs="+", metavar="DIRECTORY")
    options = parser.parse_args(arguments)
    console = Console()
    passed = True
    for directory in options.directories:
        if not directory.is_dir():
            print(f"{directory} is no directory", file=sys.stderr)
            return 2
        judgements = judge(EvidenceDirectory(directory))
        console.print(verdict_table(str(directory), judgements))
        passed = passed and all_passed(judgements)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
