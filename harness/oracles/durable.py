"""Transparent failover: what was acknowledged can be read at the end, by the client and from the disk.

Independent of the linearizability checker and much simpler: it looks only at keys whose last write stands alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from harness.evidence.directory import EvidenceDirectory
from harness.evidence.history import Operation
from harness.evidence.scenario import Scenario
from harness.evidence.verdicts import Finding, Judgement, Verdict
from harness.oracles.disk_contents import judge_disk

NAME = "durable"
PROMISE = "transparent-failover"


def applies(scenario: Scenario) -> bool:
    """Where somebody answers the last reads."""
    return scenario.client == "key-value" and scenario.expects_service


def judge(evidence: EvidenceDirectory) -> Judgement:
    """Judge every key that was written."""
    writes: dict[str, list[Operation]] = defaultdict(list)
    final_reads: dict[str, Operation] = {}
    for operation in evidence.history.operations:
        if operation.operation != "GET":
            writes[operation.key].append(operation)
        elif operation.phase == "final" and operation.is_answered and operation.error is None:
            final_reads[operation.key] = operation
    findings = []
    compared = 0
    for key, operations in writes.items():
        read = final_reads.get(key)
        if read is None:
            findings.append(Finding("no-final-read", f"key {key} was not read at the end", Verdict.INSUFFICIENT))
            continue
        last = _last_alone(operations)
        if last is None:
            continue
        compared += 1
        if not _explains(last, read.result):
            wrote = f"{last.operation} {last.value or ''}".strip()
            message = f"key {key}: after the acknowledged `{wrote}` -> {last.result!r} it reads {read.result!r}"
            findings.append(Finding("write-lost", message, at_ns=read.call_ns))
    if not compared:
        findings.append(Finding("nothing-compared", "no key has a last write that stands alone", Verdict.INSUFFICIENT))
    findings += judge_disk(evidence)
    extents = len(evidence.disk or {})
    counted = {"keys_written": len(writes), "keys_compared": compared, "extents_read": extents}
    return Judgement.of(NAME, findings, counted)


def _last_alone(writes: Sequence[Operation]) -> Operation | None:
    """The last acknowledged write, if every other write had certainly ended before it was called."""
    if any(write.return_ns is None or write.error is not None for write in writes):
        return None
    last = max(writes, key=lambda write: write.call_ns)
    others = (write.return_ns or 0 for write in writes if write is not last)
    return last if max(others, default=0) < last.call_ns else None


def _explains(write: Operation, read: str | int | None) -> bool:
    if write.operation == "DEL":
        return read is None
    if write.operation == "SET":
        return read == write.value
    if write.operation == "INCR":
        return read == str(write.result)
    return isinstance(read, str) and read.endswith(write.value or "") and len(read) == write.result
