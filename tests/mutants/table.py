"""Which promise each mutant breaks, under what, and which oracle has to catch it by which findings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from harness.vm.run import Run
from scenarios import (
    test_datagrams,
    test_disk_faults,
    test_host_faults,
    test_logging_network,
    test_moments_of_a_takeover,
    test_moments_of_the_log,
    test_partitions,
    test_renewed_protection,
)
from tests.mutants import arrangements

Scenario = Callable[[Run], None]

POWER_OFF = test_host_faults.test_primary_loses_power_under_load
KILLED = test_host_faults.test_primary_vmm_is_killed
UNATTACHABLE = test_host_faults.test_primary_dies_while_the_interface_of_the_backup_is_down
BACKUP_OFF = test_host_faults.test_backup_loses_power_under_load
FROZEN = test_host_faults.test_frozen_primary_wakes_after_the_failover_and_does_not_speak
TICKS = test_datagrams.test_no_tick_is_lost_when_the_primary_dies
RENEWED = test_renewed_protection.test_vm_survives_a_second_host
PARTITION = test_partitions.test_both_networks_between_the_hosts_are_cut


@dataclass(frozen=True)
class Mutant:
    """A broken VMM, and what is known of it.

    Attributes:
        names: its name in the lab's build; further ones are needed to bring it out.
        breaks: what it does that no VMM may do.
        under: the scenario, of the suite or of `arrangements`.
        oracle: who has to catch it.
        codes: one of these findings has to be among the oracle's.
        also: further oracles that have to catch it, each by its finding.
    """

    names: tuple[str, ...]
    breaks: str
    under: Scenario
    oracle: str
    codes: tuple[str, ...]
    also: tuple[tuple[str, str], ...] = ()

    @property
    def oracles(self) -> set[str]:
        """All that have to catch it."""
        return {self.oracle, *(oracle for oracle, _ in self.also)}

    @property
    def name(self) -> str:
        """Its own name."""
        return self.names[0]


def _mutant(
    name: str, breaks: str, under: Scenario, oracle: str, *codes: str, also: tuple[tuple[str, str], ...] = ()
) -> Mutant:
    return Mutant(tuple(name.split("+")), breaks, under, oracle, codes, also)


LATE_ACKNOWLEDGEMENTS = arrangements.acknowledgements_are_late

TABLE: tuple[Mutant, ...] = (
    # The output rule.
    _mutant(
        "depends-on-one-too-few",
        "an output leaves when all but the last entry before it is held",
        LATE_ACKNOWLEDGEMENTS,
        "output-rule",
        "frame-before-acknowledgement",
    ),
    _mutant(
        "unacknowledged-frames",
        "one frame in fifty leaves before its entries are held",
        LATE_ACKNOWLEDGEMENTS,
        "output-rule",
        "frame-before-acknowledgement",
    ),
    _mutant(
        "unacknowledged-writes",
        "block writes leave before their entries are held",
        LATE_ACKNOWLEDGEMENTS,
        "output-rule",
        "block-before-acknowledgement",
    ),
    _mutant(
        "unacknowledged-console",
        "console text leaves before its entries are held",
        arrangements.acknowledgements_are_late_for_the_console,
        "output-rule",
        "console-before-acknowledgement",
    ),
    _mutant(
        "unleased-writes",
        "a block write is done without a lease",
        arrangements.primary_freezes_with_a_write_between_its_looks,
        "output-rule",
        "block-after-lease",
    ),
    _mutant(
        "long-lease",
        "outputs leave up to 5 ms after the lease",
        arrangements.answers_as_old_as_the_lease,
        "output-rule",
        "frame-after-lease",
        "block-after-lease",
    ),
    _mutant("ignore-lease", "a primary that wakes speaks", FROZEN, "single-speaker", "two-speakers"),
    _mutant(
        "skip-second-check",
        "an output that was checked before the host froze leaves when it wakes",
        arrangements.primary_freezes_with_a_frame_between_its_looks,
        "output-rule",
        "frame-after-lease",
    ),
    _mutant(
        "echo-too-new",
        "the backup echoes what it never heard, and lengthens the lease",
        POWER_OFF,
        "output-rule",
        "frame-after-lease",
        "block-after-lease",
    ),
    _mutant(
        "acknowledge-one-too-many",
        "the backup acknowledges what it does not hold",
        POWER_OFF,
        "output-rule",
        "acknowledged-unheld",
    ),
    _mutant(
        "released-one-too-far",
        "R says that an output completed which has not",
        POWER_OFF,
        "output-rule",
        "released-mark-ahead",
    ),
    _mutant(
        "completed-at-submission",
        "R says that a block write completed which is under way",
        arrangements.writes_are_slow,
        "output-rule",
        "released-mark-ahead",
    ),
    # What leaves.
    _mutant("duplicate-frames", "a frame leaves twice", POWER_OFF, "output-rule", "frame-repeated"),
    _mutant("shorten-frames", "a frame lacks its last byte", POWER_OFF, "outputs-complete", "frame-missing"),
    _mutant("delay-frames", "a frame waits 200 ms for nothing", POWER_OFF, "stall-bounded", "stall-afterwards"),
    _mutant("second-mac", "a frame leaves from another MAC too", POWER_OFF, "single-speaker", "foreign-frame"),
    _mutant("lose-frames-in", "a frame that came in is lost", POWER_OFF, "stall-bounded", "stall-afterwards"),
    _mutant(
        "garble-requests",
        "a client's request reaches the guest as another one",
        POWER_OFF,
        "answers-clean",
        "error-answered",
    ),
    _mutant("lose-console", "a line is missing", TICKS, "outputs-complete", "console-missing"),
    _mutant("repeat-console", "a line stands twice", TICKS, "console", "console-repeated"),
    # The disk.
    _mutant(
        "lose-writes", "block writes are forgotten", arrangements.nothing_happens, "outputs-complete", "block-missing"
    ),
    _mutant("lose-a-write", "a block write is forgotten", POWER_OFF, "outputs-complete", "block-missing"),
    _mutant("tear-a-write", "half a block write is done", POWER_OFF, "output-rule", "two-contents"),
    _mutant("misplace-a-write", "a block write lands elsewhere", POWER_OFF, "output-rule", "two-contents"),
    _mutant(
        "swap-writes",
        "a block write overtakes the one before",
        POWER_OFF,
        "output-rule",
        "block-repeated",
        "block-not-replayed",
        "two-contents",
        "output-before-write-completed",
    ),
    _mutant(
        "serve-stale",
        "a read misses the writes that are held",
        arrangements.disk_is_read_while_writes_are_held,
        "durable",
        "damage-reported",
    ),
    _mutant(
        "flip-a-read",
        "a read has a flipped bit",
        arrangements.disk_is_read_after_a_failover,
        "durable",
        "damage-reported",
    ),
    # The log and its replay.
    _mutant(
        "lose-last-entry",
        "the survivor leaves the log an entry early",
        POWER_OFF,
        "output-rule",
        "acknowledged-log-lost",
    ),
    _mutant(
        "lose-log-tail",
        "the survivor leaves the log 40 entries early",
        POWER_OFF,
        "output-rule",
        "acknowledged-log-lost",
        also=(("linearizable", "not-linearizable"),),
    ),
    _mutant(
        "replay-a-frame-wrong+rule:R7-diverged",
        "the survivor's guest was told something else than the primary's",
        POWER_OFF,
        "output-rule",
        "replay-diverged",
        "two-contents",
        "frame-not-replayed",
    ),
    # Re-issue.
    _mutant(
        "reissue-one-too-few",
        "an uncertain frame is lost",
        arrangements.primary_dies_with_a_frame_uncertain,
        "outputs-complete",
        "frame-missing",
    ),
    _mutant("repeat-a-frame", "a completed frame leaves again", TICKS, "output-rule", "completed-output-repeated"),
    _mutant(
        "repeat-outputs",
        "completed frames leave again",
        TICKS,
        "output-rule",
        "completed-output-repeated",
        also=(("ticks-complete", "tick-repeated"),),
    ),
    _mutant("alter-reissue", "frames leave again with other bytes", POWER_OFF, "output-rule", "two-contents"),
    _mutant(
        "alter-a-frame",
        "an uncertain frame is emitted with another byte",
        arrangements.primary_dies_with_a_frame_uncertain,
        "output-rule",
        "two-contents",
    ),
    _mutant(
        "drop-writes",
        "an uncertain block write is lost",
        arrangements.primary_dies_with_a_write_uncertain,
        "outputs-complete",
        "block-missing",
    ),
    # Arbitration and the takeover.
    _mutant("skip-arbiter", "goes live without asking", PARTITION, "single-speaker", "two-speakers", "two-owners"),
    _mutant("go-on-unasked", "goes on alone without asking", BACKUP_OFF, "single-speaker", "alone-without-asking"),
    _mutant(
        "ignore-lost",
        "takes a loss for a win",
        test_moments_of_a_takeover.test_primary_asks_too_late,
        "single-speaker",
        "two-speakers",
    ),
    _mutant("halt-late", "speaks on for 50 ms after it lost", FROZEN, "single-speaker", "two-speakers"),
    _mutant("ask-early", "asks while the lease it gave is good", KILLED, "single-speaker", "asked-within-lease"),
    _mutant(
        "write-early",
        "emits 20 ms before the old primary's last write is sure to have landed",
        KILLED,
        "single-speaker",
        "spoke-within-write-bound",
    ),
    _mutant(
        "ask-once",
        "asks a dead arbiter once and never again",
        test_partitions.test_partition_with_the_arbiter_out_of_reach,
        "stall-bounded",
        "unanswered",
        "stall-too-long",
    ),
    _mutant("suspect-late", "sees a dead primary 1 s too late", POWER_OFF, "stall-bounded", "stall-too-long"),
    _mutant(
        "deaf-to-management",
        "needs the logging network for its acknowledgements",
        test_logging_network.test_acknowledgements_do_not_reach_the_primary,
        "outcome",
        "pair-parted",
    ),
    _mutant(
        "never-slowed",
        "lets its guest run away from a replay that is slow",
        test_moments_of_the_log.test_primary_loses_power_while_replay_is_slow,
        "stall-bounded",
        "stall-too-long",
    ),
    _mutant("slow-go-live", "waits 1 s before it goes live", POWER_OFF, "stall-bounded", "stall-too-long"),
    _mutant("announce-nothing", "no switch is told", POWER_OFF, "single-speaker", "not-announced"),
    _mutant(
        "announce-early",
        "speaks for the VM before it has won",
        POWER_OFF,
        "single-speaker",
        "spoke-without-claim",
    ),
    _mutant("reset-on-go-live", "the guest starts afresh", POWER_OFF, "connections-kept", "segment-rst"),
    _mutant("die-after-go-live", "dies 2 s after its go-live", POWER_OFF, "stall-bounded", "unanswered"),
    # The guest's time.
    _mutant(
        "wall-back",
        "the wall clock steps back 1 ms",
        arrangements.time_is_asked_over_a_failover,
        "guest-time",
        "guest-time-back",
    ),
    _mutant("counter-back", "the counter steps back 1 us", POWER_OFF, "guest-time", "guest-time-back"),
    _mutant("counter-leap", "the counter leaps 2 s", POWER_OFF, "guest-time", "guest-time-leaps", "guest-time-fast"),
    # The protocol's rules, each switched off.
    _mutant(
        "rule:R1",
        "a process believes what an earlier one was, and runs the guest beside the survivor's",
        arrangements.killed_primary_is_started_again,
        "console",
        "console-not-replayed",
    ),
    _mutant(
        "rule:R2",
        "a VM is bootstrapped twice",
        arrangements.killed_primary_is_bootstrapped_again,
        "single-speaker",
        "led-without-claim",
        "two-owners",
    ),
    _mutant(
        "rule:R3",
        "a stranger's heartbeats pass for the primary's",
        arrangements.primary_dies_and_a_stranger_sends_heartbeats,
        "stall-bounded",
        "unanswered",
        "stall-too-long",
    ),
    _mutant(
        "rule:R5-acknowledgement",
        "outputs leave before their entries are held",
        LATE_ACKNOWLEDGEMENTS,
        "output-rule",
        "frame-before-acknowledgement",
    ),
    _mutant(
        "rule:R5-lease",
        "outputs leave without a lease",
        arrangements.primary_freezes_with_a_frame_between_its_looks,
        "output-rule",
        "frame-after-lease",
    ),
    _mutant(
        "rule:R5-completion",
        "goes on over a block write that failed",
        test_disk_faults.test_disk_of_the_primary_fails,
        "output-rule",
        "output-before-write-completed",
        "released-mark-ahead",
    ),
    _mutant(
        "rule:R5-order",
        "outputs overtake one another",
        arrangements.nothing_happens,
        "output-rule",
        "frame-out-of-order",
        "frame-repeated",
        "frame-not-replayed",
        "two-contents",
        "output-before-write-completed",
    ),
    _mutant(
        "rule:R6",
        "entries are acknowledged before they are there",
        arrangements.messages_come_in_two_parts,
        "output-rule",
        "acknowledged-unheld",
    ),
    _mutant(
        "rule:R7-two-way",
        "a backup that is not heard does nothing",
        arrangements.primary_hears_nothing_and_cannot_ask,
        "stall-bounded",
        "unanswered",
        "stall-too-long",
    ),
    _mutant(
        "rule:R7-acknowledge",
        "a backup that gets no entries is kept",
        test_logging_network.test_log_does_not_reach_the_backup,
        "stall-bounded",
        "unanswered",
        "stall-too-long",
    ),
    _mutant(
        "rule:R7-lag",
        "a backup that does not replay is kept",
        arrangements.replay_stands_still,
        "outcome",
        "nobody-went-on",
    ),
    _mutant(
        "rule:R7-paused",
        "a node that stood still suspects its peer for it",
        arrangements.both_hosts_stand_still_for_a_while,
        "outcome",
        "pair-parted",
    ),
    _mutant(
        "rule:R7-diverged+replay-a-frame-wrong",
        "a replica that went another way goes live",
        POWER_OFF,
        "output-rule",
        "replay-diverged",
        "two-contents",
        "frame-not-replayed",
    ),
    _mutant(
        "rule:R8",
        "asks for the generation after another's",
        PARTITION,
        "single-speaker",
        "generation-skipped",
        "two-speakers",
    ),
    _mutant(
        "rule:R9",
        "a candidate answers, and so keeps the lease alive",
        arrangements.backup_ends_the_session_and_the_primary_does_not_hear_of_it,
        "single-speaker",
        "two-speakers",
        "asked-within-lease",
    ),
    _mutant(
        "rule:R9-drain",
        "goes live before it has replayed its log",
        arrangements.primary_dies_while_replay_is_behind,
        "output-rule",
        "acknowledged-log-lost",
    ),
    _mutant("rule:R10", "asks while the lease it gave is good", KILLED, "single-speaker", "asked-within-lease"),
    _mutant(
        "rule:R11",
        "takes an answer that was lost for a loss",
        arrangements.answer_of_the_arbiter_is_lost,
        "stall-bounded",
        "unanswered",
    ),
    _mutant(
        "rule:R12",
        "two healthy nodes wait for an arbiter that is away",
        arrangements.log_is_reset_while_the_arbiter_is_out_of_reach,
        "stall-bounded",
        "unanswered",
        "stall-too-long",
    ),
    _mutant(
        "rule:R14",
        "outputs leave unprotected until COMMIT is answered",
        arrangements.answer_to_commit_is_late,
        "output-rule",
        "block-before-acknowledgement",
        "block-after-lease",
        "console-before-acknowledgement",
        "frame-before-acknowledgement",
        "frame-after-lease",
    ),
    _mutant(
        "rule:R15",
        "is alone without having won, although it has committed",
        arrangements.log_is_reset_right_after_commit,
        "single-speaker",
        "two-speakers",
        "spoke-without-claim",
        "alone-without-asking",
    ),
    _mutant(
        "rule:R16-reissue",
        "uncertain outputs are lost",
        arrangements.primary_dies_with_a_frame_uncertain,
        "outputs-complete",
        "frame-missing",
    ),
    _mutant("rule:R16-loser", "a primary that lost goes on", FROZEN, "single-speaker", "two-speakers"),
    _mutant(
        "rule:R17",
        "a read misses a write that is being re-issued",
        arrangements.disk_is_read_while_a_write_is_uncertain,
        "durable",
        "damage-reported",
    ),
    _mutant(
        "rule:R17-read",
        "the guest is told that its disk does not read, though the backup's does",
        test_disk_faults.test_reads_of_the_primary_fail_and_writes_do_not,
        "durable",
        "damage-reported",
    ),
    _mutant(
        "rule:R17-trap",
        "a trap that one host alone came to ends the VM",
        test_host_faults.test_memory_of_the_primary_is_damaged,
        "stall-bounded",
        "unanswered",
        "stall-too-long",
    ),
    _mutant(
        "rule:R19",
        "emits before the old primary's last write is sure to have landed",
        KILLED,
        "single-speaker",
        "spoke-within-write-bound",
    ),
    _mutant(
        "rule:R21-completion",
        "hands the VM over while a write is under way",
        arrangements.vm_is_handed_over_while_its_disk_is_slow,
        "single-speaker",
        "spoke-after-hand-over",
    ),
    _mutant(
        "rule:R21-silent",
        "announces the VM 5 ms after it has handed it over",
        arrangements.vm_is_handed_over,
        "single-speaker",
        "spoke-after-hand-over",
    ),
    _mutant("rule:R24", "wins what it cannot attach", UNATTACHABLE, "stall-bounded", "unanswered", "stall-too-long"),
    # Getting a new backup.
    _mutant(
        "miss-a-page",
        "the page at the end of its memory is not among those that go to the joiner",
        RENEWED,
        "carried-state",
        "state-differs",
    ),
    _mutant(
        "rule:R14-state",
        "a joiner is committed to that lacks what the guest wrote last",
        RENEWED,
        "carried-state",
        "state-differs",
    ),
    _mutant(
        "resume-early",
        "a guest whose state goes over takes in what its backup never hears of",
        RENEWED,
        "stall-bounded",
        "stall-too-long",
    ),
    _mutant(
        "forget-time",
        "a guest that was carried to another host begins its time anew there",
        arrangements.primary_dies_having_committed,
        "guest-time",
        "guest-time-back",
    ),
    _mutant(
        "rule:R13",
        "COMMIT does not wait for what the guest has written before",
        arrangements.primary_dies_having_committed_while_its_disk_is_slow,
        "stall-bounded",
        "unanswered",
    ),
)
