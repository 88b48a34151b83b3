"""Every output of the VM was emitted by somebody and seen, up to the last one that completed, or has a named reason.

An output that nobody saw is lost however quietly: the client's TCP may cover a frame, and nothing covers a datagram or
a block write. So each index is asked for, and only a fault at that time and place excuses one (R13, R16, R17).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from harness.evidence.directory import EvidenceDirectory
from harness.evidence.faults import LOSING_POWER, Disturbance
from harness.evidence.replay import ReplayedOutput
from harness.evidence.scenario import Scenario
from harness.evidence.verdicts import Finding, Judgement, Verdict
from harness.evidence.wire.messages import Marked
from harness.lab.topology import CLIENT
from harness.oracles.emissions import Emission, Spoken, said_by
from harness.oracles.protection import inheritance
from harness.oracles.wording import after_start

NAME = "outputs-complete"
PROMISE = "output-rule"
# Here a host that loses its power still keeps its files, and a frame is at the switch's port when it is sent.
_SHARES_KERNEL = "netns"
_FOREVER = 1 << 63


def applies(scenario: Scenario) -> bool:
    """Always."""
    return True


@dataclass(frozen=True)
class _Seen:
    """Who emitted what; outputs that completed well only, by index."""

    by_host: Mapping[str, Spoken]
    done: Mapping[int, list[Emission]]


def judge(evidence: EvidenceDirectory) -> Judgement:
    """Judge each index up to the last that was seen, or that a released mark covers."""
    said = said_by(evidence)
    done: dict[int, list[Emission]] = {}
    for one in (emission for each in said.values() for emission in each.emissions):
        if one.output.kind == "console" or one.done_ns is not None:
            done.setdefault(one.output.index, []).append(one)
    seen = _Seen(said, done)
    marks = [one.body.released for one in evidence.wire.messages if isinstance(one.body, Marked)]
    through = max([*done, *marks], default=0)
    outputs = {one.index: one for replay in evidence.replays.values() for one in replay.outputs}
    reasons: Counter[str] = Counter()
    findings: list[Finding] = []
    for index in range(1, through + 1):
        if index in done:
            continue
        output = outputs.get(index)
        if output is None:
            findings.append(
                Finding("no-replay", f"output {index} completed and no replay comes to it", Verdict.INSUFFICIENT)
            )
            break
        reason = _reason(evidence, output, seen)
        if reason is None:
            findings.append(_missing(evidence, output, seen, max(marks, default=0)))
        else:
            reasons[reason] += 1
    if not through:
        findings.append(Finding("no-outputs", "no output of the VM was seen", Verdict.INSUFFICIENT))
    kinds = Counter(outputs[index].kind for index in done if index in outputs)
    counted = {"through": through, "seen": dict(kinds), "excused": dict(reasons)}
    return Judgement.of(NAME, findings, counted)


def _reason(evidence: EvidenceDirectory, output: ReplayedOutput, seen: _Seen) -> str | None:
    """Why an output could not be seen; None: nothing says why.

    A block write needs no reason but one: whatever keeps it from the storage keeps it from completing too.
    """
    if output.kind == "block":
        return None if evidence.storage_writes is not None else "this lab's storage protocol is not decoded"
    for host in evidence.ownership.hosts:
        since_ns, until_ns = _between(evidence, host, output.index, seen)
        if since_ns > until_ns:
            continue
        cut = evidence.disturbances.network(host, CLIENT, since_ns, until_ns)
        if output.kind == "frame" and cut is not None:
            return str(cut)
        if output.kind == "frame" and _dropped(evidence, host, output):
            return "the policy drops uncertain frames"
        lost = _lost_with_its_host(evidence, host, since_ns, until_ns)
        if lost is not None:
            return f"what a machine held as it lost its power: {lost}"
    return None


def _lost_with_its_host(evidence: EvidenceDirectory, host: str, since_ns: int, until_ns: int) -> Disturbance | None:
    """A power loss in a lab of machines: with it goes what their disks and network cards had not passed on."""
    if evidence.scenario.lab == _SHARES_KERNEL:
        return None
    return evidence.disturbances.stopped(host, since_ns, until_ns, LOSING_POWER)


def _between(evidence: EvidenceDirectory, host: str, index: int, seen: _Seen) -> tuple[int, int]:
    """When a host may have emitted an output: while it owned the VM, and between the output's neighbours in order."""
    timed = [(one.output.index, one.left_ns) for one in seen.by_host[host].emissions if one.left_ns is not None]
    before = [at_ns for other, at_ns in timed if other < index]
    after = [at_ns for other, at_ns in timed if other > index]
    owned_ns = min(claim.earliest_ns for claim in evidence.ownership.of(host))
    newest = max(claim.generation for claim in evidence.ownership.of(host))
    ended_ns = [
        claim.latest_ns for claim in evidence.ownership.claims if claim.generation > newest and claim.host != host
    ]
    return max([owned_ns, *before]), min([_FOREVER, *ended_ns, *after])


def _dropped(evidence: EvidenceDirectory, host: str, output: ReplayedOutput) -> bool:
    """Whether a survivor kept an uncertain frame back, as the policy says (R17)."""
    inherited = inheritance(evidence, host)
    replay = evidence.replays.get(host)
    if evidence.scenario.output_policy != "drop" or inherited is None or replay is None:
        return False
    taken_over_at = replay.first_recorded if replay.first_recorded is not None else replay.position + 1
    return output.index > inherited.certain and output.depends_on < taken_over_at


def _missing(evidence: EvidenceDirectory, output: ReplayedOutput, seen: _Seen, mark: int) -> Finding:
    where = []
    at_ns = None
    for each in seen.by_host.values():
        before = [one for one in each.emissions if one.output.index < output.index]
        after = [one for one in each.emissions if one.output.index > output.index]
        if after or (before and before[-1].output.index == output.index - 1):
            neighbours = [f"after {before[-1].what}"] if before else []
            if after:
                at_ns = at_ns or after[0].left_ns
                neighbours.append(f"before {after[0].what}{after_start(evidence, after[0].left_ns)}")
            where.append(" and ".join(neighbours))
    covered = f"; R = {mark} says that it completed" if mark >= output.index else ""
    message = (
        f"output {output.index} ({output.kind} {output.digest}, after entry {output.depends_on}) was emitted by "
        f"nobody: it belongs {'; '.join(where) or 'at the end'}{covered}"
    )
    return Finding(f"{output.kind}-missing", message, at_ns=evidence.to_boot_ns(at_ns), position=output.index)
