"""Transparent failover: what was acknowledged can be read at the end, by the client, and by a fresh VM from the disk.

Every key that was written is compared: what is read has to be what some order of its writes, true to their times, ends
with. A write that failed, or was never answered, may or may not be there; that excuses it, and not its key.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from harness.evidence.client import Operation
from harness.evidence.directory import EvidenceDirectory
from harness.evidence.read_back import ReadBack
from harness.evidence.scenario import Scenario
from harness.evidence.verdicts import Finding, Judgement, Verdict
from harness.oracles.disk_contents import DAMAGE_MESSAGES, judge_disk
from harness.oracles.last_values import LastValues, as_write

NAME = "durable"
PROMISE = "transparent-failover"


def applies(scenario: Scenario) -> bool:
    """Where a key-value client wrote."""
    return scenario.client == "key-value"


def judge(evidence: EvidenceDirectory) -> Judgement:
    """Judge every key that was written."""
    keys: dict[str, list[Operation]] = defaultdict(list)
    for operation in evidence.history.operations:
        keys[operation.key].append(operation)
    findings = []
    final_reads = 0
    for key, operations in keys.items():
        reads = [one for one in operations if one.phase == "final" and one.is_answered and one.error is None]
        final_reads += len(reads)
        findings += [_lost(read, operations) for read in reads if not _explains(read, operations)]
        if evidence.scenario.expects_service and not reads:
            findings.append(Finding("no-final-read", f"key {key} was not read at the end", Verdict.INSUFFICIENT))
    if not keys:
        findings.append(Finding("nothing-compared", "no key was ever used", Verdict.INSUFFICIENT))
    # A server that keeps its data in memory owes the disk nothing.
    if evidence.scenario.has_disk:
        findings += _judge_read_back(evidence, keys)
        findings += judge_disk(evidence)
    read_back = evidence.read_back
    counted = {
        "keys": len(keys),
        "keys_read_at_the_end": final_reads,
        "keys_read_from_the_disk": len(read_back.values) if read_back else 0,
        "extents_read": len(evidence.disk or {}),
    }
    return Judgement.of(NAME, findings, counted)


def _explains(read: Operation, operations: list[Operation]) -> bool:
    writes = [as_write(one) for one in operations if one is not read]
    value = None if read.result is None else str(read.result)
    return LastValues(filter(None, writes)).explain(value, as_write(read))


def _lost(read: Operation, operations: list[Operation]) -> Finding:
    writes = LastValues(filter(None, (as_write(one) for one in operations if one is not read)))
    message = f"key {read.key}: it reads {read.result!r} at the end, {_spell_last(writes)}"
    return Finding("write-lost", message, at_ns=read.call_ns)


def _spell_last(writes: LastValues) -> str:
    last = writes.last_certain()
    if last is None:
        return "and nothing is known to have been written"
    said = f" -> {last.result!r}" if last.result is not None else ""
    return f"after the acknowledged `{last.operation} {last.value or ''}".rstrip() + f"`{said}"


def _judge_read_back(evidence: EvidenceDirectory, keys: dict[str, list[Operation]]) -> Iterator[Finding]:
    """What a fresh VM serves from a copy of the disk, when all is over."""
    read_back = evidence.read_back
    damage_allowed = evidence.scenario.damage_allowed
    if read_back is None:
        yield Finding("no-read-back", "no fresh VM read the disk at the end", Verdict.INSUFFICIENT)
        return
    if read_back.failure is not None:
        if read_back.refused_by_guest:
            message = f"a fresh VM on {read_back.host} does not serve the disk: {read_back.console[-300:]}"
            yield Finding("disk-not-served", message)
        else:
            message = f"no fresh VM could read the disk: {read_back.failure}"
            yield Finding("no-read-back", message, Verdict.INSUFFICIENT)
        return
    for key, operations in keys.items():
        if (error := read_back.errors.get(key)) is not None:
            if not damage_allowed:
                yield Finding("read-back-error", f"key {key}: a fresh VM answers `{error}`")
        elif key not in read_back.values:
            yield Finding("key-not-read-back", f"key {key}: no fresh VM read it", Verdict.INSUFFICIENT)
        else:
            writes = LastValues(filter(None, map(as_write, operations)))
            if not writes.explain(read_back.values[key]):
                message = f"key {key}: a fresh VM reads {read_back.values[key]!r} from the disk, {_spell_last(writes)}"
                yield Finding("write-not-on-disk", message)
    if not damage_allowed:
        yield from _judge_damage(read_back)


def _judge_damage(read_back: ReadBack) -> Iterator[Finding]:
    for damage in read_back.damages:
        yield Finding("damage-on-disk", f"nothing was to damage the disk, but a fresh VM finds: {damage}")
    for line in read_back.console.splitlines():
        if any(message in line for message in DAMAGE_MESSAGES):
            yield Finding("damage-on-disk", f"nothing was to damage the disk, but a fresh VM prints: {line}")
