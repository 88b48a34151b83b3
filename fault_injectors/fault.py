"""What every fault is, how its injection is judged, and the record that it leaves in `faults.jsonl`."""

from __future__ import annotations

import contextlib
import enum
import json
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from harness.lab.interface import Lab, LabError


class Direction(enum.StrEnum):
    """Seen from the first host of a pair, or from the one host that a fault has."""

    BOTH = "both"
    OUTGOING = "outgoing"
    INCOMING = "incoming"


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
    """One fault at one target. Used once: prepare, inject, confirm, and heal or end, in this order.

    `confirm` runs in a thread of its own, beside the scenario's next steps.
    """

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
    # Since when a node had been held at a moment for it.
    held_ns: int | None = None
    injected_ns: int | None = None
    confirmed_ns: int | None = None
    healed_ns: int | None = None
    verdict: Verdict = Verdict.INCONCLUSIVE
    evidence: list[str] = field(default_factory=list)


@dataclass
class _Injection:
    """An injection that is not healed yet, and the thread that looks whether it took effect."""

    fault: Fault
    record: FaultRecord
    confirmation: threading.Thread | None = None


class FaultLog:
    """Injects faults and keeps their records, on disk after every step: a run that breaks off leaves them too.

    Args:
        lab: where.
        path: where records go; nowhere without one.
    """

    def __init__(self, lab: Lab, path: Path | None = None) -> None:
        self.records: list[FaultRecord] = []
        self._lab = lab
        self._path = path
        self._open: list[_Injection] = []
        self._writing = threading.Lock()

    def inject(self, fault: Fault, *, held_ns: int | None = None, confirm_timeout_seconds: float = 5.0) -> FaultRecord:
        """Inject and come back at once; a thread of its own looks whether it took effect, and writes that down.

        Args:
            fault: what is injected.
            held_ns: since when (CLOCK_REALTIME) a node has been held for it; None: none is.
            confirm_timeout_seconds: how long to look for evidence, as for this machine; stretched by the lab's pace.

        Raises:
            LabError: this lab cannot do it, or could not; what it tried is in the record.
        """
        if not fault.available(self._lab):
            raise LabError(f"the lab {self._lab.name} cannot inject {fault.name}")
        record = FaultRecord(fault.name, fault.target, dict(fault.parameters), held_ns)
        self.records.append(record)
        injection = _Injection(fault, record)
        self._open.append(injection)
        try:
            fault.prepare()
            record.injected_ns = time.time_ns()
            fault.inject()
        except Exception as error:
            # Whoever asks why the run broke off finds it where the faults are.
            record.evidence.append(f"broke off: {error}")
            raise
        finally:
            self._write()
        timeout_seconds = self._lab.pace.stretch(confirm_timeout_seconds)
        injection.confirmation = threading.Thread(
            target=self._confirm, args=(fault, record, timeout_seconds), name=f"confirm-{fault.name}", daemon=True
        )
        injection.confirmation.start()
        return record

    def _confirm(self, fault: Fault, record: FaultRecord, timeout_seconds: float) -> None:
        try:
            confirmation = fault.confirm(timeout_seconds)
        except Exception as error:
            # Nobody is there to catch it: the fault stays unconfirmed, and its record says why.
            record.evidence.append(f"the confirmation broke off: {type(error).__name__}: {error}")
        else:
            record.evidence += confirmation.evidence
            if confirmation.verdict is Verdict.CONFIRMED:
                record.confirmed_ns = time.time_ns()
            record.verdict = confirmation.verdict
        self._write()

    def await_confirmation(self, record: FaultRecord) -> FaultRecord:
        """Wait until it is known whether an injection took effect; the verdict is in the record."""
        for injection in self._open:
            if injection.record is record and injection.confirmation is not None:
                injection.confirmation.join()
        return record

    def heal(self, record: FaultRecord) -> None:
        """Heal one injection, having seen whether it took effect; nothing happens when it is healed already."""
        self.await_confirmation(record)
        for injection in self._open:
            if injection.record is record:
                self._open.remove(injection)
                try:
                    injection.fault.heal()
                except Exception as error:
                    record.evidence.append(f"healing broke off: {error}")
                    raise
                else:
                    record.healed_ns = time.time_ns()
                finally:
                    self._write()
                return

    def end_all(self) -> None:
        """The run is over: end whatever is open, the newest first. Nothing of it counts as healed.

        What cannot be ended is written down, and the others are ended all the same.
        """
        for injection in self._open:
            self.await_confirmation(injection.record)
        while self._open:
            injection = self._open.pop()
            try:
                injection.fault.end()
            except Exception as error:
                injection.record.evidence.append(f"ending broke off: {error}")
                injection.record.verdict = Verdict.INCONCLUSIVE
        self._write()

    @contextlib.contextmanager
    def injected(self, fault: Fault, *, confirm_timeout_seconds: float = 5.0) -> Iterator[FaultRecord]:
        """Inject for the length of a `with` block that begins when it is known whether the fault took effect."""
        record = self.inject(fault, confirm_timeout_seconds=confirm_timeout_seconds)
        try:
            yield self.await_confirmation(record)
        finally:
            self.heal(record)

    def _write(self) -> None:
        if self._path is not None:
            with self._writing:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._path.write_text("".join(json.dumps(asdict(each)) + "\n" for each in self.records))
