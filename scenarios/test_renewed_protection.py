"""A VM that has lost a host gets a backup again, on a spare host, whatever happens on the way there."""

from __future__ import annotations

import pytest

from fault_injectors.host import Freeze, PowerOff
from fault_injectors.logging_network import LogReset
from fault_injectors.networks import ArbiterUnreachable
from fault_injectors.vmm import KillVmm
from harness.promise import Expect, Promise, Workload
from harness.scenario import scenario
from harness.vm.pair import Node
from harness.vm.run import Run

# In a row, in one run.
LOSSES = 20
# TCP asks a second later whoever it asked for a connection in vain, and only three seconds later a third time: between
# two losses everybody gets in who came during the first.
SECONDS_BETWEEN_LOSSES = 1.5
# A guest that has stopped for its joiner goes on a second later, come what may. A connection asks again 1.4 or 3 s
# after it asked in vain; what was lost in the middle of a long value comes a second later. 3,402 ms were seen.
HELD_UP_MS_MAX = 5000.0
STAYS = Promise(expect=Expect.PRIMARY_ALONE, stall_ms_max=HELD_UP_MS_MAX)
IS_PROTECTED_AGAIN = Promise(expect=Expect.PRIMARY_ALONE, stall_ms_max=HELD_UP_MS_MAX, renewals_min=1)
FAILS_OVER = Promise(expect=Expect.FAILOVER, stall_ms_max=HELD_UP_MS_MAX, renewals_min=1)


def lose_the_backup(run: Run) -> tuple[Node, Node]:
    """The VM has lost its backup. Returns who runs it alone, and a spare."""
    spare = run.pair.start_spare()
    owner, victim = run.primary, run.backup
    run.inject(KillVmm(run.lab, victim.host, victim.process.pid))
    run.pair.wait_until_alone(owner)
    return owner, spare


@scenario(Promise(expect=Expect.FAILOVER, renewals_min=1), faults=(KillVmm,), workloads=(Workload.KV, Workload.REDIS))
def test_vm_survives_a_second_host(run: Run) -> None:
    """The primary dies, the survivor gets a new backup while it serves, and dies as well: the third host goes on."""
    spare = run.pair.start_spare()
    survivor, victim = run.backup, run.primary
    run.inject(KillVmm(run.lab, victim.host, victim.process.pid))
    run.expect_takeover(survivor)
    run.pair.protect(survivor, spare)
    run.expect_service()
    run.inject(KillVmm(run.lab, survivor.host, survivor.process.pid))
    run.expect_takeover(spare)


@scenario(Promise(expect=Expect.FAILOVER, renewals_min=LOSSES - 1), faults=(KillVmm,), seconds_max=480)
def test_vm_survives_one_host_after_the_other(run: Run) -> None:
    """Whoever runs the VM dies, and comes back as a spare; the VM has a backup before the next one dies."""
    spare, owner, backup = run.pair.start_spare(), run.primary, run.backup
    for _ in range(LOSSES - 1):
        run.inject(KillVmm(run.lab, owner.host, owner.process.pid))
        run.expect_takeover(backup)
        run.pair.protect(backup, spare)
        run.await_confirmations()
        run.client.load_for(SECONDS_BETWEEN_LOSSES)
        run.pair.start_again(owner)
        run.pair.wait_until_spare(owner)
        owner, backup, spare = backup, spare, owner
    run.inject(KillVmm(run.lab, owner.host, owner.process.pid))
    run.expect_takeover(backup)


@scenario(Promise(expect=Expect.FAILOVER, renewals_min=2), faults=(KillVmm,))
def test_managers_keep_the_vm_protected(run: Run) -> None:
    """One on each host, and nobody else does anything: each loss is made up for, by the host that was lost before."""
    third, first, second = run.pair.start_spare(), run.primary, run.backup
    run.pair.start_managers()
    run.inject(KillVmm(run.lab, first.host, first.process.pid))
    run.pair.wait_until_protected(second, third)
    run.pair.wait_until_spare(first)
    run.expect_service()
    run.await_confirmations()
    run.inject(KillVmm(run.lab, second.host, second.process.pid))
    run.pair.wait_until_protected(third, first)
    run.expect_service()


@pytest.mark.parametrize("point", ["transfer-begun", "guest-stopped", "state-restored"])
@scenario(STAYS, faults=(KillVmm, PowerOff), failpoints=())
def test_joiner_loses_power_before_commit(run: Run, point: str) -> None:
    """Nobody depends on it: the VM goes on alone, whether its memory is copied, it waits, or the joiner has all."""
    owner, spare = lose_the_backup(run)
    with run.at(point, spare if point == "state-restored" else owner) as moment:
        run.pair.begin_protecting(owner, spare)
        moment.wait()
        run.inject(PowerOff(run.lab, spare.host))
        run.pair.wait_for_event(owner, "transfer", state="given-up")
    run.expect_takeover(owner)


@pytest.mark.parametrize("point", ["commit-sent", "commit-received"])
@scenario(STAYS, faults=(KillVmm, PowerOff), failpoints=())
def test_joiner_loses_power_having_been_committed_to(run: Run, point: str) -> None:
    """It may own the next generation: its primary asks for that, and goes on alone again."""
    owner, spare = lose_the_backup(run)
    with run.at(point, owner if point == "commit-sent" else spare) as moment:
        run.pair.begin_protecting(owner, spare)
        moment.wait()
        run.inject(PowerOff(run.lab, spare.host))
    run.pair.wait_for_event(owner, "role", generation=3, to="ALONE")
    run.expect_takeover(owner)


@pytest.mark.parametrize("point", ["commit-sent", "commit-received"])
@scenario(FAILS_OVER, faults=(KillVmm, PowerOff), failpoints=())
def test_primary_loses_power_having_committed_to_a_joiner(run: Run, point: str) -> None:
    """The joiner has the guest as it stopped, and all that it had said has left: it goes live from there."""
    owner, spare = lose_the_backup(run)
    with run.at(point, owner if point == "commit-sent" else spare) as moment:
        run.pair.begin_protecting(owner, spare)
        moment.wait()
        run.inject(PowerOff(run.lab, owner.host))
    run.expect_takeover(spare)


@pytest.mark.parametrize("point", ["guest-stopped", "state-restored"])
@scenario(
    Promise(expect=Expect.PRIMARY_ALONE, stall_ms_max=8000, renewals_min=1), faults=(KillVmm, Freeze), failpoints=()
)
def test_primary_freezes_before_commit(run: Run, point: str) -> None:
    """A joiner that has everything but COMMIT takes nothing over. The primary wakes, and gets it for its backup."""
    owner, spare = lose_the_backup(run)
    with run.at(point, owner if point == "guest-stopped" else spare) as moment:
        run.pair.begin_protecting(owner, spare)
        moment.wait()
        with run.under(Freeze(run.lab, owner.host)):
            run.pair.wait_for_event(spare, "role", to="SPARE")
    run.pair.wait_until_protected(owner, spare)
    run.expect_service()


@scenario(IS_PROTECTED_AGAIN, faults=(KillVmm, ArbiterUnreachable), failpoints=())
def test_arbiter_is_out_of_reach_while_the_guest_waits(run: Run) -> None:
    """No COMMIT without the arbiter: the guest goes on at once, and has its backup when the arbiter is back."""
    owner, spare = lose_the_backup(run)
    with run.at("guest-stopped", owner) as moment:
        run.pair.begin_protecting(owner, spare)
        moment.wait()
        with run.under(ArbiterUnreachable(run.lab, [owner.host])):
            moment.release()
            run.pair.wait_for_event(owner, "transfer", state="given-up")
            run.expect_service()
    run.pair.wait_until_protected(owner, spare)
    run.expect_service()


@pytest.mark.parametrize("point", ["transfer-begun", "state-restored"])
@scenario(IS_PROTECTED_AGAIN, faults=(KillVmm, LogReset), failpoints=())
def test_log_is_reset_before_commit(run: Run, point: str) -> None:
    """The copy is given up and begun anew: what the joiner has of the first one it throws away."""
    owner, spare = lose_the_backup(run)
    with run.at(point, owner if point == "transfer-begun" else spare) as moment:
        run.pair.begin_protecting(owner, spare)
        moment.wait()
        run.inject(LogReset(run.lab, spare.host))
        run.pair.wait_for_event(owner, "transfer", state="given-up")
    run.pair.wait_until_protected(owner, spare)
    run.expect_service()
