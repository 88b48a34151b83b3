"""What brings a mutant out, where no scenario of the suite does. Each is written as a scenario, and a healthy VMM keeps
its promise under it."""

from __future__ import annotations

import contextlib

from fault_injectors.fault import Direction
from fault_injectors.heartbeat import HeartbeatLoss
from fault_injectors.host import Freeze, PowerOff
from fault_injectors.logging_network import DOWNSTREAM, LogCorruption, LogDelay, LoggingCut, LogReset
from fault_injectors.networks import ArbiterUnreachable, HostPairCut
from fault_injectors.operator import OperatorCommand
from fault_injectors.vmm import KillVmm
from harness.promise import ClientKind, Expect, OutputPolicy, Promise
from harness.scenario import scenario
from harness.vm.client import ClientError
from harness.vm.failpoints import FailpointError, failpoint
from harness.vm.node_file import Timing
from harness.vm.pair import PairError
from harness.vm.run import Run
from scenarios.test_operator import operate
from scenarios.test_renewed_protection import lose_the_backup
from tests.mutants.forger import forge_heartbeats

FAILOVER = Promise(expect=Expect.FAILOVER)
TO_A_THIRD_HOST = Promise(expect=Expect.FAILOVER, stall_ms_max=10_000, renewals_min=1)
SLOW_FAILOVER = Promise(expect=Expect.FAILOVER, stall_ms_max=10_000)


@scenario(Promise(expect=Expect.STAYS_TOGETHER))
def nothing_happens(run: Run) -> None:
    """Load alone."""
    run.expect_service()


@scenario(Promise(expect=Expect.STAYS_TOGETHER), failpoints=("commit-received delay:1000", "entry-received delay:120"))
def answer_to_commit_is_late(run: Run) -> None:
    """The backup answers heartbeats at once, and the first entries when the guest has begun to speak."""
    run.expect_service()


@scenario(
    Promise(expect=Expect.ONE_SURVIVOR, operations_before_min=0, stall_ms_max=5000),
    faults=(LogReset,),
    failpoints=("entry-received delay:1000",),
    under_load=False,
)
def log_is_reset_right_after_commit(run: Run) -> None:
    """COMMIT has come, so the backup may win, though it has acknowledged nothing: the primary has to ask."""
    nodes = run.primary, run.backup
    run.inject(LogReset(run.lab, run.backup.host))
    run.client.start()
    run.client.load_for(3)
    run.expect_one_survivor(*nodes)


@scenario(Promise(expect=Expect.STAYS_TOGETHER), failpoints=("block-write-begun delay:20 count=all",))
def writes_are_slow(run: Run) -> None:
    """Each block write takes 20 ms more on its way to the disk."""
    run.expect_service()


@scenario(
    Promise(expect=Expect.STAYS_TOGETHER, stall_ms_max=3000),
    failpoints=("entry-half-sent delay:5 count=all",),
)
def messages_come_in_two_parts(run: Run) -> None:
    """The last bytes of each message of entries come 5 ms behind the others."""
    run.expect_together()


@scenario(Promise(expect=Expect.STAYS_TOGETHER, stall_ms_max=3000), faults=(LogDelay,), entries_per_message=1)
def acknowledgements_are_late(run: Run) -> None:
    """Each entry goes in a message of its own, and its acknowledgement takes 40 ms."""
    with run.under(LogDelay(run.lab, run.backup.host, stream=DOWNSTREAM, delay_ms=40)):
        run.expect_together()


@scenario(
    Promise(expect=Expect.STAYS_TOGETHER, stall_ms_max=3000),
    faults=(LogDelay,),
    client=ClientKind.TICKER,
    entries_per_message=1,
)
def acknowledgements_are_late_for_the_console(run: Run) -> None:
    """The same with a guest that prints a line a tick."""
    with run.under(LogDelay(run.lab, run.backup.host, stream=DOWNSTREAM, delay_ms=40)):
        run.expect_together()


@scenario(Promise(expect=Expect.STAYS_TOGETHER, stall_ms_max=10_000), faults=(LogDelay, HeartbeatLoss))
def answers_as_old_as_the_lease(run: Run) -> None:
    """No heartbeats, and each answer on the log comes 2 to 4 ms after the lease of what it echoes is over."""
    backup = run.backup.host
    heartbeats = HeartbeatLoss(run.lab, backup, direction=Direction.INCOMING)
    faults = run.under(LogDelay(run.lab, backup, delay_ms=Timing().lease_ms + 2), heartbeats)
    with faults, contextlib.suppress(ClientError):
        run.client.wait_for_answers(40, timeout_seconds=3)
    run.expect_service()


@scenario(Promise(expect=Expect.STAYS_TOGETHER, stall_ms_max=2000), faults=(LogDelay,))
def disk_is_read_while_writes_are_held(run: Run) -> None:
    """The guest reads its whole disk while its last writes wait for their acknowledgements."""
    with run.under(LogDelay(run.lab, run.backup.host)):
        run.key_value.command("SCRUB")
        run.expect_service()


@scenario(FAILOVER, faults=(PowerOff,))
def disk_is_read_after_a_failover(run: Run) -> None:
    """The survivor's guest reads its whole disk."""
    survivor = run.backup
    run.inject(PowerOff(run.lab, run.primary.host))
    run.expect_takeover(survivor)
    run.key_value.command("SCRUB")


@scenario(FAILOVER, faults=(PowerOff,))
def time_is_asked_over_a_failover(run: Run) -> None:
    """The guest looks at the wall clock, which it seldom does, before the failover and after it."""
    survivor = run.backup
    run.key_value.command("INFO")
    run.inject(PowerOff(run.lab, run.primary.host))
    run.expect_takeover(survivor)
    run.key_value.command("INFO")


def dies_at(run: Run, point: str, kind: str) -> None:
    """The primary's host loses its power while an output of this kind is at this point."""
    survivor, victim = run.backup, run.primary
    with run.at(point, victim, kind=kind, after=30) as moment:
        moment.wait()
        run.inject(PowerOff(run.lab, victim.host))
        run.expect_takeover(survivor)


@scenario(FAILOVER, faults=(PowerOff,), failpoints=())
def primary_dies_with_a_frame_uncertain(run: Run) -> None:
    """The frame may leave, and the host dies before it does: the survivor emits it."""
    dies_at(run, "after-second-check", "frame")


@scenario(FAILOVER, faults=(PowerOff,), failpoints=(), output_policy=OutputPolicy.DROP)
def primary_dies_with_a_write_uncertain(run: Run) -> None:
    """Under the policy `drop` too an uncertain write is emitted again."""
    dies_at(run, "block-write-begun", "block")


@scenario(
    Promise(expect=Expect.FAILOVER, operations_before_min=0, stall_ms_max=10_000),
    faults=(PowerOff,),
    failpoints=(),
    under_load=False,
)
def disk_is_read_while_a_write_is_uncertain(run: Run) -> None:
    """The survivor's guest reads its whole disk as the first thing, while the uncertain write takes long.

    Nobody else writes: what is written behind it would be waited for.
    """
    survivor, victim = run.backup, run.primary
    survivor.failpoints.arm(failpoint("block-write-begun", "delay:2000", kind="block"))
    run.pair.wait_for_console([victim], "serving")
    connections = run.key_value.converse(), run.key_value.converse()
    uncertain = run.at("block-write-begun", victim, kind="block")
    with connections[0] as writer, connections[1] as reader, uncertain as moment:
        writer.tell("SET word uncertain")
        moment.wait()
        run.inject(PowerOff(run.lab, victim.host))
        run.pair.wait_until_alone(survivor)
        reader.tell("SCRUB")
        run.client.start()
        run.expect_takeover(survivor)


def freezes_between_its_looks(run: Run, kind: str) -> None:
    """The primary's host freezes when an output passed the first look and not the second, and wakes much later."""
    survivor, frozen = run.backup, run.primary
    # Long enough to be frozen meanwhile, and over before the host wakes.
    armed = frozen.failpoints.arm(failpoint("before-second-check", "delay:150", kind=kind, after=30))
    frozen.failpoints.wait(armed, timeout_seconds=10)
    with run.under(Freeze(run.lab, frozen.host)):
        run.expect_takeover(survivor)
    run.pair.wait_until_halted(frozen)
    run.expect_service()


@scenario(FAILOVER, faults=(Freeze,), failpoints=())
def primary_freezes_with_a_frame_between_its_looks(run: Run) -> None:
    """The frame does not leave when the host wakes."""
    freezes_between_its_looks(run, "frame")


@scenario(FAILOVER, faults=(Freeze,), failpoints=())
def primary_freezes_with_a_write_between_its_looks(run: Run) -> None:
    """The block write is not done when the host wakes."""
    freezes_between_its_looks(run, "block")


@scenario(SLOW_FAILOVER, faults=(PowerOff,), failpoints=())
def primary_dies_while_replay_is_behind(run: Run) -> None:
    """The survivor replays to the end of its log, however long that takes, before it asks."""
    survivor = run.backup

    def is_behind() -> bool:
        status = survivor.status()
        return status is not None and status["position"]["stored"] >= status["position"]["replayed"] + 40

    with run.at("entry-replayed", survivor) as moment, run.at("before-ask", survivor) as ask:
        moment.wait()
        # Enough for requests to have been answered; before long the guest is stalled (R26).
        run.pair.wait_until(is_behind, what="the survivor holds what it has not replayed")
        run.inject(PowerOff(run.lab, run.primary.host))
        with contextlib.suppress(FailpointError):
            ask.wait(timeout_seconds=1)
        ask.release()
        with contextlib.suppress(PairError):
            run.pair.wait_for_event(survivor, "live", timeout_seconds=1)
    run.expect_takeover(survivor)


@scenario(Promise(expect=Expect.ONE_SURVIVOR, stall_ms_max=5000), faults=(LoggingCut, LogCorruption))
def backup_ends_the_session_and_the_primary_does_not_hear_of_it(run: Run) -> None:
    """Heartbeats still pass on the management network: a candidate answers none of them."""
    primary, backup = run.primary, run.backup
    with run.under(LoggingCut(run.lab, primary.host, backup.host, direction=Direction.INCOMING)):
        run.inject(LogCorruption(run.lab, backup.host))
        run.expect_one_survivor(primary, backup)


@scenario(SLOW_FAILOVER, faults=(PowerOff, ArbiterUnreachable), failpoints=())
def answer_of_the_arbiter_is_lost(run: Run) -> None:
    """The survivor asks, hears nothing, and settles by reading what came of it."""
    survivor = run.backup
    with run.at("before-ask", survivor) as ask:
        run.inject(PowerOff(run.lab, run.primary.host))
        ask.wait()
        with run.under(ArbiterUnreachable(run.lab, [survivor.host])):
            ask.release()
            run.pair.wait_for_event(survivor, "arbiter", operation="ask", outcome="unreachable")
    run.expect_takeover(survivor)


@scenario(Promise(expect=Expect.STAYS_TOGETHER, stall_ms_max=5000), faults=(ArbiterUnreachable, LogReset))
def log_is_reset_while_the_arbiter_is_out_of_reach(run: Run) -> None:
    """Nobody can win, and the two find each other again."""
    backup = run.backup
    hosts = [run.primary.host, backup.host]
    with run.under(ArbiterUnreachable(run.lab, hosts)):
        run.inject(LogReset(run.lab, backup.host))
        run.expect_service()


@scenario(Promise(expect=Expect.FAILOVER, stall_ms_max=5000), faults=(HostPairCut,), failpoints=())
def primary_hears_nothing_and_cannot_ask(run: Run) -> None:
    """The backup hears the primary well, and hears from it that it is not heard itself."""
    primary, survivor = run.primary, run.backup
    with run.at("suspect", primary):
        cut = HostPairCut(run.lab, primary.host, survivor.host, direction=Direction.INCOMING)
        with run.under(cut):
            run.expect_takeover(survivor)
    run.pair.wait_until_halted(primary)


@scenario(Promise(expect=Expect.PRIMARY_ALONE, stall_ms_max=5000), failpoints=())
def replay_stands_still(run: Run) -> None:
    """A backup that does not replay any more is given up."""
    primary = run.primary
    with run.at("entry-replayed", run.backup) as moment:
        moment.wait()
        run.pair.wait_until_alone(primary, timeout_seconds=6)


@scenario(Promise(expect=Expect.STAYS_TOGETHER, stall_ms_max=10_000), faults=(Freeze,))
def both_hosts_stand_still_for_a_while(run: Run) -> None:
    """Nobody can say that the other was silent when he was himself stopped."""
    primary, backup = run.primary, run.backup
    with run.under(Freeze(run.lab, primary.host), Freeze(run.lab, backup.host)):
        pass
    run.expect_service()


@scenario(FAILOVER, faults=(KillVmm,))
def killed_primary_is_started_again(run: Run) -> None:
    """What it was before gives it no role."""
    survivor, victim = run.backup, run.primary
    run.inject(KillVmm(run.lab, victim.host, victim.process.pid))
    run.expect_takeover(survivor)
    run.pair.start_again(victim)
    run.client.load_for(2)


@scenario(FAILOVER, faults=(KillVmm,))
def killed_primary_is_bootstrapped_again(run: Run) -> None:
    """The VM exists: the bootstrap is refused."""
    survivor, victim = run.backup, run.primary
    run.inject(KillVmm(run.lab, victim.host, victim.process.pid))
    run.expect_takeover(survivor)
    run.pair.start_again(victim, bootstrap=True)
    run.client.load_for(2)


@scenario(FAILOVER, faults=(PowerOff,))
def primary_dies_and_a_stranger_sends_heartbeats(run: Run) -> None:
    """They hold the key and are of another process: nobody takes them for the primary's."""
    survivor, victim = run.backup, run.primary
    with forge_heartbeats(run, of=victim, to=survivor):
        run.inject(PowerOff(run.lab, victim.host))
        run.expect_takeover(survivor)


@scenario(Promise(expect=Expect.FAILOVER, stall_ms_max=5000), faults=(OperatorCommand,))
def vm_is_handed_over(run: Run) -> None:
    """Its primary says nothing more."""
    survivor = run.backup
    operate(run, run.primary, run.primary, "test-failover")
    run.expect_takeover(survivor)


@scenario(Promise(expect=Expect.FAILOVER, stall_ms_max=5000), faults=(OperatorCommand,), failpoints=())
def vm_is_handed_over_while_its_disk_is_slow(run: Run) -> None:
    """The hand-over waits for the write that is under way."""
    survivor, owner = run.backup, run.primary
    owner.failpoints.arm(failpoint("block-write-begun", "delay:100", count=None))
    operate(run, owner, owner, "test-failover")
    run.expect_takeover(survivor)


def dies_having_committed(run: Run, *, writes_are_slow: bool = False) -> None:
    """The primary's host loses its power when COMMIT is on its way to a joiner, which gets nothing more."""
    owner, spare = lose_the_backup(run)
    if writes_are_slow:
        owner.failpoints.arm(failpoint("block-write-begun", "delay:100", count=None))
    with run.at("commit-sent", owner) as moment:
        run.pair.begin_protecting(owner, spare)
        moment.wait()
        run.inject(PowerOff(run.lab, owner.host))
        run.expect_takeover(spare)


@scenario(TO_A_THIRD_HOST, faults=(KillVmm, PowerOff), failpoints=())
def primary_dies_having_committed(run: Run) -> None:
    """The joiner goes on from the very state that it was given."""
    dies_having_committed(run)


@scenario(TO_A_THIRD_HOST, faults=(KillVmm, PowerOff), failpoints=())
def primary_dies_having_committed_while_its_disk_is_slow(run: Run) -> None:
    """Each block write takes 100 ms more on its way to the disk: COMMIT waits for all of them."""
    dies_having_committed(run, writes_are_slow=True)
