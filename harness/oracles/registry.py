"""All oracles, and judging a directory by every one that applies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

from harness.evidence.directory import EvidenceDirectory
from harness.evidence.json_lines import EvidenceError
from harness.evidence.scenario import Scenario
from harness.evidence.verdicts import Finding, Judgement, Verdict, write_verdicts
from harness.oracles import (
    answers_clean,
    carried_state,
    connections_kept,
    console,
    durable,
    evidence_sufficient,
    faults_confirmed,
    guest_time,
    linearizable,
    outcome,
    output_rule,
    outputs_complete,
    single_speaker,
    stall_bounded,
    ticks_complete,
)

# A judgement that hangs on more doubt than this is none: half of the default lease, so that two speakers of whom one
# ignores its lease can always be told apart (docs/protocol.md, R10).
UNCERTAINTY_NS_MAX = 50_000_000


@dataclass(frozen=True)
class Oracle:
    """One oracle: the promise it guards, when it applies, and how it judges."""

    name: str
    promise: str
    applies: Callable[[Scenario], bool]
    judge: Callable[[EvidenceDirectory], Judgement]


def _oracle(module: ModuleType) -> Oracle:
    return Oracle(module.NAME, module.PROMISE, module.applies, module.judge)


ORACLES: tuple[Oracle, ...] = tuple(
    map(
        _oracle,
        (
            faults_confirmed,
            evidence_sufficient,
            outcome,
            linearizable,
            durable,
            connections_kept,
            answers_clean,
            stall_bounded,
            ticks_complete,
            output_rule,
            outputs_complete,
            carried_state,
            console,
            single_speaker,
            guest_time,
        ),
    )
)


def judge(evidence: EvidenceDirectory) -> list[Judgement]:
    """Judge by every oracle that applies and write `verdicts.json`. Missing or malformed evidence is insufficient."""
    try:
        scenario = evidence.scenario
    except EvidenceError as error:
        finding = Finding("evidence-unreadable", str(error), Verdict.INSUFFICIENT)
        return [Judgement.of(evidence_sufficient.NAME, [finding], {})]
    judgements = []
    for oracle in ORACLES:
        # What guards the evidence itself always applies; a promise can be left out by a scenario that says so.
        promised = oracle.promise == "evidence" or oracle.promise in scenario.promises
        if not (promised and oracle.applies(scenario)):
            continue
        try:
            judgements.append(_judge_within_doubt(oracle, evidence))
        except EvidenceError as error:
            finding = Finding("evidence-unreadable", str(error), Verdict.INSUFFICIENT)
            judgements.append(Judgement.of(oracle.name, [finding], {}))
    write_verdicts(evidence.path / "verdicts.json", judgements)
    return judgements


def _judge_within_doubt(oracle: Oracle, evidence: EvidenceDirectory) -> Judgement:
    """Judge, and say `insufficient` where only a doubt of more than `UNCERTAINTY_NS_MAX` keeps from an accusation."""
    judgement = oracle.judge(evidence)
    if judgement.verdict is Verdict.FAILED or evidence.uncertainty_ns <= UNCERTAINTY_NS_MAX:
        return judgement
    strict = oracle.judge(evidence.strictly(UNCERTAINTY_NS_MAX))
    accusations = [finding for finding in strict.findings if finding.verdict is Verdict.FAILED]
    if not accusations:
        return judgement
    message = (
        f"some clock is known to {evidence.uncertainty_ns / 1e6:.0f} ms only, and with a doubt of "
        f"{UNCERTAINTY_NS_MAX / 1e6:.0f} ms there are {len(accusations)} findings such as: {accusations[0].message}"
    )
    doubt = Finding("clock-uncertain", message, Verdict.INSUFFICIENT, accusations[0].at_ns)
    return Judgement.of(oracle.name, [*judgement.findings, doubt], judgement.counted)


def all_passed(judgements: list[Judgement]) -> bool:
    """Whether there is a judgement and every one passed: insufficient evidence is a failure."""
    return bool(judgements) and all(judgement.verdict is Verdict.PASSED for judgement in judgements)
