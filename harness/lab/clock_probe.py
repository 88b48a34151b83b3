"""Measures hosts' clocks against this machine's, as bounds: a host reads its clocks between two stamps of ours."""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from harness.evidence.clock_samples import ClockPair, ClockSample
from harness.lab.interface import Host, Lab, LabError

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


def probe(host: Host, *, exchanges: int = EXCHANGES, timeout_seconds: float = TIMEOUT_SECONDS) -> list[ClockSample]:
    """The tightest of many readings of one host's clocks. Raises `HostUnreachableError`."""
    command = ["sh", "-c", f'exec {host.python} -c "$0"', _RESPONDER]
    samples = []
    with host.converse(command, timeout_seconds=timeout_seconds) as conversation:
        for _ in range(exchanges):
            before_ns = _now_ns()
            answer = conversation.ask("clocks")
            after_ns = _now_ns()
            boottime_ns, realtime_ns, boot_id = answer.split()
            samples.append(ClockSample(host.name, boot_id, before_ns, after_ns, int(boottime_ns), int(realtime_ns)))
    return sorted(samples, key=lambda sample: sample.width_ns)[:KEPT]


def probe_all(lab: Lab) -> list[ClockSample]:
    """Samples of all hosts that can answer, in parallel; one that does not answer has none."""
    hosts = [host for host in lab.hosts.values() if host.is_powered and not stands_still(host)]
    with ThreadPoolExecutor(max(1, len(hosts))) as executor:
        return [sample for samples in executor.map(_probe_if_possible, hosts) for sample in samples]


def stands_still(host: Host) -> bool:
    """Whether none of the host's programs runs, and its clock may have stopped with them."""
    return host.is_powered and (host.is_frozen or host.is_asleep)


def standing_still(hosts: Iterable[Host]) -> set[str]:
    """The names of the hosts of which none of their programs runs."""
    return {host.name for host in hosts if stands_still(host)}


def _probe_if_possible(host: Host) -> list[ClockSample]:
    try:
        return probe(host)
    except LabError:
        # It hangs, or dies under our hands: that is what trials are for, and other samples bound its clock.
        return []


def _now_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
