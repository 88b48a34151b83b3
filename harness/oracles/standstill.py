"""What a machine that stood still explains, and nothing beside it: an unasked-for takeover, a wait, a silence.

Where it did for longer than the pair's failure detector tolerates, a takeover is what the rules demand (R7), and who
waits for an answer waits for the machine. Such a finding is `insufficient` under the name `machine-stood-still`. That
never makes a verdict better than that, and it is asked for by those oracles only whose findings it can explain, each
time with the time that it has to explain: one that says that two hosts spoke, that an output left too early or a write
is lost does not ask.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from harness.evidence.directory import EvidenceDirectory
from harness.evidence.ownership import Claim
from harness.evidence.standstills import Standstill
from harness.evidence.verdicts import Finding, Judgement, Verdict
from harness.promise import FAILOVER_MS_MAX, Expect

CODE = "machine-stood-still"
# When the machine runs on, the silence has lasted for DETECT already, or has a HEARTBEAT to go. Lease, drain and the
# arbiter's answers take 70 ms more in the median of all kills, and several times that on a machine that limps.
CLAIMED_MS_MAX = 400.0


@lru_cache(maxsize=16)
def standstills(evidence: EvidenceDirectory) -> list[Standstill]:
    """Those that the pair's failure detector does not tolerate."""
    scenario = evidence.scenario
    if not evidence.standstills.spans:
        return []
    tolerated_ns, within_ns = scenario.standstill_ms_max * 1_000_000, scenario.detect_ms * 1_000_000
    return evidence.standstills.longer_than(tolerated_ns, within_ns=within_ns)


def behind_claim(evidence: EvidenceDirectory, claim: Claim) -> Standstill | None:
    """The standstill that a claim followed, which nobody had asked for and which the rules demanded."""
    first = evidence.ownership.claims[0]
    at_ns = evidence.to_boot_ns(claim.latest_ns)
    if claim == first or at_ns is None or _asked_for(evidence, claim):
        return None
    tolerated_ns = evidence.scenario.standstill_ms_max * 1_000_000
    last_ns = int(CLAIMED_MS_MAX * evidence.scenario.time_scale * 1e6)
    for one in standstills(evidence):
        # A suspicion is younger than the silence that it takes, and a pair that was ill before is ill by itself.
        if one.start_ns + tolerated_ns <= at_ns <= one.end_ns + last_ns and _was_well(evidence, one.start_ns):
            return one
    return None


def _asked_for(evidence: EvidenceDirectory, claim: Claim) -> bool:
    """Whether a fault may have brought a claim about; none may where the pair is to stay together through them all."""
    if evidence.scenario.expect is Expect.STAYS_TOGETHER:
        return False
    return any(one.injected_ns is not None and one.injected_ns <= claim.latest_ns for one in evidence.faults)


def _was_well(evidence: EvidenceDirectory, at_ns: int) -> bool:
    """Whether each of the two nodes had just heard the other."""
    clocks = evidence.clocks
    if clocks is None:
        return False
    until_ns = clocks.to_wall_ns(at_ns)
    since_ns = until_ns - evidence.scenario.standstill_ms_max * 1_000_000
    arrived = ((one.receiver, one.arrived_ns) for one in evidence.wire.messages if one.arrived_ns is not None)
    return len({host for host, arrived_ns in arrived if since_ns <= arrived_ns <= until_ns}) >= 2


def unless_behind_claims(evidence: EvidenceDirectory, finding: Finding, claims: Iterable[Claim]) -> Finding:
    """A finding that rests on claims, under the standstill's name where each of them followed one."""
    behind = [behind_claim(evidence, claim) for claim in claims]
    first = next(iter(behind), None)
    return finding if first is None or None in behind else named(evidence, finding, first)


def unless_behind_wait(
    evidence: EvidenceDirectory, finding: Finding, span_ns: tuple[int, int], *, length_ms: float, bound_ms: float
) -> Finding:
    """A finding that a wait was too long, under the standstill's name where it is not without that.

    Args:
        evidence: the run's.
        finding: what is said of the wait.
        span_ns: from when to when it lasted (CLOCK_BOOTTIME).
        length_ms: what is compared with the bound.
        bound_ms: how long it may be.
    """
    start_ns, end_ns = span_ns
    found = standstills(evidence)
    for one in found:
        stood_ms = evidence.standstills.stood_ns(max(start_ns, one.start_ns), min(end_ns, one.end_ns)) / 1e6
        if stood_ms > 0 and length_ms - stood_ms <= bound_ms:
            return named(evidence, finding, one)
    # Where it led to a takeover, that may take as long as any other.
    failover_ms = FAILOVER_MS_MAX * evidence.scenario.time_scale
    for claim in evidence.ownership.claims[1:] if found else ():
        behind = behind_claim(evidence, claim)
        claimed_ns = evidence.to_boot_ns(claim.latest_ns)
        if behind is None or claimed_ns is None or end_ns <= behind.start_ns or claimed_ns <= start_ns:
            continue
        stood_ms = evidence.standstills.stood_ns(start_ns, end_ns) / 1e6
        if length_ms - stood_ms <= max(bound_ms, failover_ms):
            return named(evidence, finding, behind)
    return finding


def named(evidence: EvidenceDirectory, finding: Finding, standstill: Standstill) -> Finding:
    """The finding under the standstill's name."""
    start_ns = evidence.clocks.to_monotonic_ns(evidence.scenario.start_ns) if evidence.clocks else 0
    scenario = evidence.scenario
    message = (
        f"the machine stood still for {standstill.length_in_words} at {(standstill.start_ns - start_ns) / 1e9:.3f} s; "
        f"the pair tolerates {scenario.standstill_ms_max} ms (DETECT {scenario.detect_ms} ms less HEARTBEAT "
        f"{scenario.heartbeat_ms} ms). What follows is no word on the VMM: {finding.code}: {finding.message}"
    )
    return Finding(CODE, message, Verdict.INSUFFICIENT, standstill.start_ns)


def reason_to_begin_anew(judgements: Iterable[Judgement]) -> str | None:
    """That the machine stood still, where it kept a run from being judged and nothing was found against the VMM."""
    judgements = list(judgements)
    if any(judgement.verdict is Verdict.FAILED for judgement in judgements):
        return None
    findings = (finding for judgement in judgements for finding in judgement.findings)
    return next((finding.message for finding in findings if finding.code == CODE), None)
