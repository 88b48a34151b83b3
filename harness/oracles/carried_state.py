"""A joiner becomes the backup with the very state of the guest, and with no other.

What the two nodes say of the state to each other is no proof that it is the guest's: both may have it from the same
faulty copy. The guest is replayed from its first instruction up to where it stopped, and its state is that.

Source: protocol rules R13, R14.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness.evidence.directory import EvidenceDirectory
from harness.evidence.scenario import Scenario
from harness.evidence.verdicts import Finding, Judgement
from harness.evidence.wire.messages import Commit, Restored
from harness.evidence.wire.wire import Said
from harness.oracles.wording import after_start

NAME = "carried-state"
PROMISE = "output-rule"


def applies(scenario: Scenario) -> bool:
    """Always: whoever is committed to has a state."""
    return True


def judge(evidence: EvidenceDirectory) -> Judgement:
    """Judge each COMMIT that gives a joiner the state of a guest that ran."""
    told: dict[tuple[str, str, int, int], tuple[Said, Restored]] = {
        (said.receiver, said.sender, said.generation, said.session): (said, body)
        for said, body in evidence.wire.of(Restored)
    }
    findings: list[Finding] = []
    commits = [(said, body) for said, body in evidence.wire.of(Commit) if body.position]
    for said, body in commits:
        restored = told.get((said.sender, said.receiver, said.generation, said.session))
        findings += _judge_commit(evidence, said, body, restored)
    return Judgement.of(NAME, findings, {"carried": len(commits)})


def _judge_commit(
    evidence: EvidenceDirectory, said: Said, body: Commit, restored: tuple[Said, Restored] | None
) -> Iterator[Finding]:
    at_ns = evidence.to_boot_ns(said.left_ns)
    when = after_start(evidence, said.left_ns)
    what = f"{said.sender} committed to the state at entry {body.position} on {said.receiver}{when}"
    # A capture saw it come to the primary, and then the COMMIT leave; else it is a COMMIT that nobody asked for.
    arrived_ns = restored and restored[0].arrived_ns
    if restored is None or arrived_ns is None or arrived_ns > said.seen_ns:
        message = f"{what}, which had not said that it has any"
        yield Finding("committed-unasked", message, at_ns=at_ns, position=body.position)
        return
    own = evidence.carried_states[said.incarnation, body.position]
    if (restored[1].position, restored[1].digest) != (body.position, own):
        message = (
            f"{what}, which has {restored[1].digest} at entry {restored[1].position}; "
            f"replayed from its beginning the guest is {own} there"
        )
        yield Finding("state-differs", message, at_ns=at_ns, position=body.position)
