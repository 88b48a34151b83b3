"""The console, judged like the rest: what the hosts' files hold together is what the replay printed, in order.

Each chunk stands once, or once more where the survivor could not know that it had been printed.
"""

from __future__ import annotations

from harness.evidence.directory import EvidenceDirectory
from harness.evidence.scenario import Scenario
from harness.evidence.verdicts import Finding, Judgement, Verdict
from harness.oracles.emissions import Oddity, said_by

NAME = "console"
PROMISE = "output-rule"

_WORDS = {
    Oddity.REPEATED: ("console-repeated", "stands there again"),
    Oddity.COMPLETED: ("completed-output-repeated", "was known to be printed and stands there again"),
    Oddity.ALTERED: ("two-contents", "stands there in other words"),
    Oddity.UNKNOWN: ("console-not-replayed", "is due, if any, and this was never printed"),
}


def applies(scenario: Scenario) -> bool:
    """Always: every guest says something when it starts."""
    return True


def judge(evidence: EvidenceDirectory) -> Judgement:
    """Judge each host's file against the replay of its log, chunk by chunk."""
    findings: list[Finding] = []
    printed: dict[str, list[int]] = {}
    for host, said in said_by(evidence).items():
        printed[host] = [one.output.index for one in said.of("console")]
        for odd in said.odd:
            if odd.kind != "console":
                continue
            code, words = _WORDS[odd.oddity]
            index = odd.output.index if odd.output else None
            message = f"{odd.what} (digest {odd.digest}): output {index} {words}"
            findings.append(Finding(code, message, position=index))
        if host not in evidence.replays and evidence.console_bytes.get(host):
            message = f"{host} printed something, and its log could not be replayed"
            findings.append(Finding("no-replay", message, Verdict.INSUFFICIENT))
    findings += _judge_gaps(evidence, printed)
    chunks = {host: len(indices) for host, indices in printed.items()}
    if not sum(chunks.values()):
        findings.append(Finding("no-console", "nothing that the VM printed was found", Verdict.INSUFFICIENT))
    return Judgement.of(NAME, findings, {"chunks": chunks})


def _judge_gaps(evidence: EvidenceDirectory, printed: dict[str, list[int]]) -> list[Finding]:
    """Between the first chunk and the last of a file none is missing that no other file has."""
    everywhere = {index for indices in printed.values() for index in indices}
    findings = []
    for host, indices in printed.items():
        replay = evidence.replays.get(host)
        if replay is None or not indices:
            continue
        for output in replay.outputs:
            if output.kind == "console" and indices[0] < output.index < indices[-1] and output.index not in everywhere:
                message = (
                    f"output {output.index} (console {output.digest}, {output.length} bytes) is missing from "
                    f"{host}'s console.log, which goes on to output {indices[-1]}"
                )
                findings.append(Finding("console-missing", message, position=output.index))
    return findings
