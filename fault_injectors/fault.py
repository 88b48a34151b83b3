"""What every fault is, how its injection is judged, and the record that it leaves in `faults.jsonl`."""

from __future__ import annotations

import contextlib
import enum
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from harness.lab.interface import Lab, LabError


class Verdict(enum.StrEnum):
    """What the evidence says of an injection."""

    CONFIRMED = "confirmed"
    MISMATCH = "mismatch"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Confirmation:
    """A verdict and what it rests on, in words a reader of the report understands."""

    verdict: Verdict
    evidence: tuple[str, ...]

    @classmethod
    def of(cls, bit: bool | None, *evidence: str) -> Confirmation:
        """Confirmed when the fault bit, mismatch when it did not, inconclusive when nothing could be seen (None)."""
        verdicts = {True: Verdict.CONFIRMED, False: Verdict.MISMATCH, None: Verdict.INCONCLUSIVE}
        return cls(verdicts[bit], evidence)


class Fault(Protocol):
    """One fault at one target. Used once: prepare, inject, confirm, and heal or end, in this order."""

    @property
    def name(self) -> str:
        """The fault's name in reports and in the registry."""

    @property
    def target(self) -> str:
        """What it strikes: a host, or two."""

    @property
    def parameters(self) -> Mapping[str, Any]:
        """What else describes it; times in the units that the keys end in."""

    @staticmethod
    def available(lab: Lab) -> bool:
        """Whether this lab can do it."""

    def prepare(self) -> None:
        """Look at the state before, so that `confirm` can tell a difference. Changes nothing that anybody notices."""

    def inject(self) -> None:
        """Strike, with as little as possible before the blow: the injection's time is taken right before this call."""

    def confirm(self, timeout_seconds: float) -> Confirmation:
        """Judge from evidence outside of the injector whether the fault took effect."""

    def heal(self) -> None:
        """Undo what can be undone."""

    def end(self) -> None:
        """The run is over: heal no more than what keeps the evidence from being read."""


@dataclass
class FaultRecord:
    """One injection, as a line of `faults.jsonl`; times are CLOCK_REALTIME nanoseconds."""

    fault: str
    target: str
    parameters: dict[str, Any]
    injected_ns: int | None = None
    confirmed_ns: int | None = None
    healed_ns: int | None = None
    verdict: Verdict = Verdict.INCONCLUSIVE
    evidence: list[str] = field(default_factory=list)

    @property
    def is_confirmed(self) -> bool:
        """Whether the fault was seen to bite."""
        return self.verdict is Verdict.CONFIRMED


class FaultLog:
    """Injects faults and keeps their records, on disk after every step: a run that breaks off leaves them too."""

    def __init__(self, lab: Lab, path: Path | None = None) -> None:
        """Records go to `path`; nowhere without one."""
        self.records: list[FaultRecord] = []
        self._lab = lab
        self._path = path
        self._open: list[tuple[Fault, FaultRecord]] = []

    def inject(self, fault: Fault, *, confirm_timeout_seconds: float = 5.0) -> FaultRecord:
        """Inject and confirm; the verdict is in the record.

        Args:
            fault: what is injected.
            confirm_timeout_seconds: how long to look for evidence, as for this machine; stretched by the lab's pace.

        Raises:
            LabError: this lab cannot do it, or could not; what it tried is in the record.
        """
        if not fault.available(self._lab):
            raise LabError(f"the lab {self._lab.name} cannot inject {fault.name}")
        record = FaultRecord(fault.name, fault.target, dict(fault.parameters))
        self.records.append(record)
        self._open.append((fault, record))
        try:
            fault.prepare()
            record.injected_ns = time.time_ns()
            fault.inject()
            self._write()
            confirmation = fault.confirm(self._lab.pace.stretch(confirm_timeout_seconds))
        except Exception as error:
            # Whoever asks why the run broke off finds it where the faults are.
            record.evidence.append(f"broke off: {error}")
            self._write()
            raise
        record.verdict = confirmation.verdict
        record.evidence += confirmation.evidence
        if record.is_confirmed:
            record.confirmed_ns = time.time_ns()
        self._write()
        return record

    def heal(self, record: FaultRecord) -> None:
        """Heal one injection; nothing happens when it is healed already."""
        for entry in self._open:
            if entry[1] is record:
                self._open.remove(entry)
                entry[0].heal()
                record.healed_ns = time.time_ns()
                self._write()
                return

    def end_all(self) -> None:
        """The run is over: end whatever is open, the newest first. Nothing of it counts as healed."""
        while self._open:
            fault, _ = self._open.pop()
            fault.end()

    @contextlib.contextmanager
    def injected(self, fault: Fault, *, confirm_timeout_seconds: float = 5.0) -> Iterator[FaultRecord]:
        """Inject for the length of a `with` block."""
        record = self.inject(fault, confirm_timeout_seconds=confirm_timeout_seconds)
        try:
            yield record
        finally:
            self.heal(record)

    def _write(self) -> None:
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text("".join(json.dumps(asdict(each)) + "\n" for each in self.records))
