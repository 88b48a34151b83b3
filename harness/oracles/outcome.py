"""The pair comes out of it as the scenario promises: who owns the VM at the end, by the arbiter's records.

What a node says of its role is no proof: one that parted from its backup and claimed a generation of its own has lost
its protection, however well it serves the client (rules R7, R8 of docs/protocol.md). Claims that followed a standstill
of the machine, and that no fault asked for, are no outcome of the scenario's.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness.evidence.directory import EvidenceDirectory
from harness.evidence.ownership import Claim
from harness.evidence.scenario import Scenario
from harness.evidence.verdicts import Finding, Judgement
from harness.oracles import standstill
from harness.oracles.wording import after_start, records_missing
from harness.promise import Expect

NAME = "outcome"
PROMISE = "transparent-failover"


def applies(scenario: Scenario) -> bool:
    """Where the scenario says who owns the VM at the end."""
    return scenario.expect not in (Expect.GOES_ON, Expect.STOPS)


def judge(evidence: EvidenceDirectory) -> Judgement:
    """Compare the claims that the arbiter recorded with the promise."""
    # One node is stopped before the other: what the other claims then is no end of the scenario's.
    claims = evidence.ownership.until(evidence.scenario.end_ns)
    if claims:
        found = _judge_claims(evidence, claims)
        findings = [standstill.unless_behind_claims(evidence, one, claims[1:]) for one in found]
        findings += _judge_renewals(evidence)
    else:
        findings = [records_missing()]
    counted = {"expect": str(evidence.scenario.expect), "owners": [claim.host or claim.node for claim in claims]}
    return Judgement.of(NAME, findings, counted)


def _judge_renewals(evidence: EvidenceDirectory) -> Iterator[Finding]:
    """A VM that has lost a host gets another backup, while its guest runs."""
    wanted = evidence.scenario.renewals_min
    renewed = len(evidence.wire.states_carried) if wanted else 0
    if renewed < wanted:
        yield Finding("not-renewed", f"the VM got a new backup {renewed} times, {wanted} wanted")


def _judge_claims(evidence: EvidenceDirectory, claims: list[Claim]) -> Iterator[Finding]:
    expect = evidence.scenario.expect
    first, last = claims[0], claims[-1]
    at_ns = evidence.to_boot_ns(last.latest_ns)
    when = after_start(evidence, last.latest_ns)
    if expect is Expect.STAYS_TOGETHER:
        if last is not first:
            message = f"the pair was to stay together, and {last} was claimed{when}"
            yield Finding("pair-parted", message, at_ns=at_ns)
    elif last is first:
        yield Finding("nobody-went-on", f"nobody claimed another generation than {first}, but {expect} was promised")
    elif expect is Expect.FAILOVER and last.host == first.host:
        yield Finding("no-failover", f"the VM was to change hosts, and {last} was claimed{when}", at_ns=at_ns)
    elif expect is Expect.PRIMARY_ALONE and any(claim.host != first.host for claim in claims):
        yield Finding("changed-hosts", f"the VM was to stay on {first.host}, and {last} was claimed{when}", at_ns=at_ns)
