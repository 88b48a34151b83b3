"""A Linux program, as Debian has it, loses its host: its clients, each by its own protocol, see a stall at most."""

from __future__ import annotations

from fault_injectors.host import Freeze, PowerOff
from fault_injectors.vmm import KillVmm
from harness.promise import Expect, Promise, Workload
from harness.scenario import scenario
from harness.vm.run import Run

PROGRAMS = (Workload.REDIS, Workload.MEMCACHED, Workload.NGINX, Workload.MOSQUITTO)
# The way in which the primary is lost makes little difference to a program: the suite has twelve minutes.
SOME = (Workload.REDIS, Workload.MEMCACHED)


@scenario(Promise(expect=Expect.FAILOVER), faults=(PowerOff,), workloads=PROGRAMS)
def test_primary_loses_power(run: Run) -> None:
    """The primary's host loses power: the program goes on where it was, in all its threads, with all its clients."""
    survivor = run.backup
    run.inject(PowerOff(run.lab, run.primary.host))
    run.expect_takeover(survivor)


@scenario(Promise(expect=Expect.FAILOVER), faults=(KillVmm,), workloads=SOME)
def test_vmm_of_the_primary_is_killed(run: Run) -> None:
    """SIGKILL hits the primary's VMM: no client's connection ends with it."""
    survivor, victim = run.backup, run.primary
    run.inject(KillVmm(run.lab, victim.host, victim.process.pid))
    run.expect_takeover(survivor)


@scenario(Promise(expect=Expect.FAILOVER), faults=(Freeze,), workloads=SOME)
def test_primary_freezes_for_longer_than_detect(run: Run) -> None:
    """The primary's host stands still and wakes when the backup has taken over: no client is answered twice."""
    survivor, frozen = run.backup, run.primary
    with run.under(Freeze(run.lab, frozen.host)):
        run.expect_takeover(survivor)
    run.pair.wait_until_halted(frozen)
    run.expect_service()
