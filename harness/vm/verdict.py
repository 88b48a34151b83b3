"""What the oracles say of a run that has ended, and how a scenario fails by it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.evidence import allure_report
from harness.evidence.directory import EvidenceDirectory
from harness.evidence.verdicts import Judgement
from harness.oracles import registry

_NICER = 10


def judge(directory: Path) -> list[Judgement]:
    """Lets every oracle that applies judge the evidence, and shows all of it in the report."""
    evidence = EvidenceDirectory(directory)
    with _without_haste():
        judgements = registry.judge(evidence)
        allure_report.report(evidence, judgements)
    return judgements


@contextlib.contextmanager
def _without_haste() -> Iterator[None]:
    """Lets the labs that run beside this process have the processor first: their bounds on time are tight."""
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, 0, usual + _NICER)
    try:
        yield
    finally:
        # Only root may hurry again; labs need root as well.
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, usual)


def raise_if_broken(judgements: Sequence[Judgement], broke_off: BaseException | None) -> None:
    """Fails the scenario unless every oracle passed and its own lines went through; the oracles' words come first.

    Raises:
        PromiseBrokenError: an oracle failed.
        EvidenceInsufficientError: none failed, and one had too little evidence.
        BaseException: `broke_off`, when all oracles passed.
    """
    try:
        allure_report.raise_if_broken(judgements)
    except (allure_report.PromiseBrokenError, allure_report.EvidenceInsufficientError) as broken:
        if broke_off is None:
            raise
        told = f"{broken}\n\nand the scenario itself broke off: {type(broke_off).__name__}: {broke_off}"
        raise type(broken)(told) from broke_off
    if broke_off is not None:
        raise broke_off
