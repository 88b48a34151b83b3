"""The part of durability that lies on the disk: what the VM wrote is there, and the guest reads back what it wrote."""

from __future__ import annotations

from collections.abc import Iterator

from harness.evidence.directory import EvidenceDirectory
from harness.evidence.disk import last_writes
from harness.evidence.verdicts import Finding, Verdict

# What the key-value guest prints when what it reads is not what it wrote (`kv/src/storage/`, `SCRUB`).
DAMAGE_MESSAGES = ("damaged", "is not the one in memory")


def judge_disk(evidence: EvidenceDirectory) -> Iterator[Finding]:
    """Two independent looks: the storage host's image, and the guest's own checksums."""
    # A VM that stops because its disk fails leaves a write undone, and its clients unanswered.
    if evidence.scenario.expects_service:
        yield from _judge_image(evidence)
    if not evidence.scenario.damage_allowed:
        yield from _judge_consoles(evidence)


def _judge_image(evidence: EvidenceDirectory) -> Iterator[Finding]:
    writes = last_writes(evidence.traces)
    if evidence.disk is None:
        yield Finding("no-disk", "nobody read the image at the end", Verdict.INSUFFICIENT)
        return
    flipped = {fault.parameters["offset_bytes"] for fault in evidence.faults if fault.fault == "bit-flip"}
    for write in writes:
        start = write.offset or 0
        if any(start <= offset < start + write.length for offset in flipped):
            continue  # changed on purpose, behind everybody's back
        found = evidence.disk.get((write.offset or 0, write.length))
        what = f"output {write.index}, a write of {write.length} bytes at byte {write.offset}"
        if found is None:
            message = f"{what}, was not looked for in the image"
            yield Finding("extent-not-read", message, Verdict.INSUFFICIENT, position=write.index)
        elif found != write.digest:
            message = f"{what}, is not in the image, which holds {found} there, not {write.digest}"
            yield Finding("block-write-lost", message, at_ns=write.monotonic_ns, position=write.index)


def _judge_consoles(evidence: EvidenceDirectory) -> Iterator[Finding]:
    for host, console in evidence.consoles.items():
        for line in console.splitlines():
            if any(message in line for message in DAMAGE_MESSAGES):
                yield Finding(
                    "damage-reported", f"nothing was to damage the disk, but the guest on {host} prints: {line}"
                )
