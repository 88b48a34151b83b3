"""`clocks.json` as a run goes on: samples of all hosts around each step that may stop one or make its clock jump."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from harness.evidence.clocks import ClockRecord, Pause
from harness.lab.clock_probe import ClockProbe, machine_clocks, standing_still
from harness.lab.interface import Capability, HostState, Lab


class ClockLog:
    """Does nothing in a lab whose hosts share this machine's clocks.

    Args:
        lab: whose hosts.
        path: the file; on disk after every step, so that a run that breaks off leaves it too.
    """

    def __init__(self, lab: Lab, path: Path) -> None:
        self._lab, self._path = lab, path
        self._is_needed = Capability.CLOCK in lab.capabilities
        self._record = ClockRecord()
        self._probe = ClockProbe(timeout_seconds=lab.pace.stretch(0.5))

    def sample(self) -> None:
        """Samples every host that can answer."""
        if self._is_needed:
            self._record.machine.append(machine_clocks())
            self._record.samples += self._probe.probe_all(self._lab)
            self._record.machine.append(machine_clocks())
            self._record.write(self._path)

    @contextlib.contextmanager
    def around(self) -> Iterator[None]:
        """Samples before and after a step, and notes which hosts it stopped or let run on, and when."""
        if not self._is_needed:
            yield
            return
        # The sample before a step is the last of a host that loses its power, and bounds where a clock stopped.
        self.sample()
        stood = standing_still(self._lab.hosts.values())
        begun_ns = machine_clocks().monotonic_ns
        try:
            yield
        finally:
            self._note_pauses(stood, begun_ns, machine_clocks().monotonic_ns)
            self.sample()

    def _note_pauses(self, stood: set[str], begun_ns: int, ended_ns: int) -> None:
        hosts = self._lab.hosts.values()
        stand = standing_still(hosts)
        # A host that lost its power while it stood still never ran on in that boot.
        resumed = stood - stand - {host.name for host in hosts if host.state is HostState.OFF}
        self._record.pauses = [
            replace(pause, resume_after_ns=begun_ns, resume_before_ns=ended_ns)
            if pause.resume_after_ns is None and pause.host in resumed
            else pause
            for pause in self._record.pauses
        ]
        self._record.pauses += [Pause(host, begun_ns, ended_ns) for host in sorted(stand - stood)]
