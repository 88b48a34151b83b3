"""Measures hosts' clocks against this machine's, as bounds: a host reads its clocks between two stamps of ours."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from harness.evidence.clocks import ClockPair, ClockSample
from harness.lab.interface import Host, HostState, Lab, LabError
from harness.lab.ssh import KeptConversation

EXCHANGES = 20
KEPT = 3
# Long enough for a slow host to start Python; a host that hangs costs its sample and this time, once a sampling.
TIMEOUT_SECONDS = 10.0

# Answers each line with CLOCK_BOOTTIME, CLOCK_REALTIME and the boot's name.
_RESPONDER = """
import sys, time
boot = open("/proc/sys/kernel/random/boot_id").read().strip()
for line in sys.stdin:
    print(time.clock_gettime_ns(time.CLOCK_BOOTTIME), time.clock_gettime_ns(time.CLOCK_REALTIME), boot, flush=True)
"""


def machine_clocks() -> ClockPair:
    """This machine's own clocks, read together."""
    before_ns = _now_ns()
    wall_ns = time.time_ns()
    return ClockPair((before_ns + _now_ns()) // 2, wall_ns)


class ClockProbe:
    """Probes hosts again and again; a host's side of it stays there in between."""

    def __init__(self, *, exchanges: int = EXCHANGES, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        """`timeout_seconds` is for a host's first answer; one that its program is running on has a fifth of it."""
        self._exchanges, self._start_seconds, self._answer_seconds = exchanges, timeout_seconds, timeout_seconds / 5
        self._conversations: dict[str, KeptConversation] = {}

    def probe(self, host: Host) -> list[ClockSample]:
        """The tightest of many readings of one host's clocks. Raises `HostUnreachableError`."""
        conversation = self._conversations.setdefault(host.name, KeptConversation(host, _RESPONDER))
        samples = []
        for _ in range(self._exchanges):
            before_ns = _now_ns()
            answer = conversation.ask("clocks", timeout_seconds=self._answer_seconds, start_seconds=self._start_seconds)
            after_ns = _now_ns()
            boottime_ns, realtime_ns, boot_id = answer.split()
            samples.append(ClockSample(host.name, boot_id, before_ns, after_ns, int(boottime_ns), int(realtime_ns)))
        return sorted(samples, key=lambda sample: sample.width_ns)[:KEPT]

    def probe_all(self, lab: Lab) -> list[ClockSample]:
        """Samples of all hosts that can answer, in parallel; one that does not answer has none."""
        hosts = [host for host in lab.hosts.values() if host.state is HostState.RUNNING]
        with ThreadPoolExecutor(max(1, len(hosts))) as executor:
            return [sample for samples in executor.map(self._probe_if_possible, hosts) for sample in samples]

    def _probe_if_possible(self, host: Host) -> list[ClockSample]:
        kept = host.name in self._conversations and self._conversations[host.name].is_open
        begun_ns = _now_ns()
        with contextlib.suppress(LabError):
            return self.probe(host)
        # What stayed on a host that was started again meanwhile is gone, which is found at once. A host that hangs is
        # not asked twice.
        if kept and _now_ns() - begun_ns < self._answer_seconds * 1e9:
            with contextlib.suppress(LabError):
                return self.probe(host)
        # It hangs, or dies under our hands: that is what trials are for, and other samples bound its clock.
        return []


def stands_still(host: Host) -> bool:
    """Whether none of the host's programs runs, and its clock may have stopped with them."""
    return host.state in (HostState.FROZEN, HostState.ASLEEP)


def standing_still(hosts: Iterable[Host]) -> set[str]:
    """The names of the hosts of which none of their programs runs."""
    return {host.name for host in hosts if stands_still(host)}


def _now_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
