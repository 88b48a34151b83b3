"""A host dies at an exact moment of the log or of an output: what is uncertain is neither lost nor contradicted."""

from __future__ import annotations

import pytest

from fault_injectors.host import PowerOff
from fault_injectors.vmm import KillVmm
from harness.promise import ClientKind, Expect, OutputPolicy, Promise
from harness.scenario import scenario
from harness.vm.run import Run

# Who is held at the moment answers nobody, while the fault is made ready: the oracle leaves room for that.
FAILS_OVER = Promise(expect=Expect.FAILOVER)
GOES_ON_ALONE = Promise(expect=Expect.PRIMARY_ALONE)

# Half the pace of the guest under load.
SLOW_REPLAY = "entry-replayed delay:2 count=all"
# T_LAG / 4 to catch up with at most (R26), and then the client's kernel has to ask again.
SLOW_REPLAY_STALL_MS_MAX = 2000.0
SLOW_REPLAY_SECONDS = 2.0

AT_THE_PRIMARY = pytest.mark.parametrize(
    ("point", "kind"),
    [
        pytest.param("input-appended", None, id="input-appended"),
        pytest.param("entry-sent", None, id="entry-sent"),
        pytest.param("entry-acknowledged", None, id="entry-acknowledged"),
        pytest.param("output-produced", "frame", id="frame-produced"),
        pytest.param("before-second-check", "frame", id="frame-before-second-check"),
        pytest.param("after-second-check", "frame", id="frame-after-second-check"),
        pytest.param("after-second-check", "block", id="block-after-second-check", marks=pytest.mark.needs_disk),
        pytest.param("block-write-begun", None, id="block-write-begun", marks=pytest.mark.needs_disk),
        pytest.param("block-write-ended", None, id="block-write-ended", marks=pytest.mark.needs_disk),
    ],
)
AT_AN_OUTPUT = pytest.mark.parametrize(
    ("point", "kind"),
    [
        pytest.param("entry-sent", None, id="entry-sent"),
        pytest.param("output-produced", "block", id="block-produced", marks=pytest.mark.needs_disk),
        pytest.param("after-second-check", "frame", id="frame-after-second-check"),
        pytest.param("block-write-begun", None, id="block-write-begun", marks=pytest.mark.needs_disk),
        pytest.param("block-write-ended", None, id="block-write-ended", marks=pytest.mark.needs_disk),
    ],
)
AT_THE_BACKUP = pytest.mark.parametrize("point", ["entry-received", "entry-replayed"])


@scenario(FAILS_OVER, faults=(PowerOff,), failpoints=(), entries_per_message=1)
@AT_THE_PRIMARY
def test_primary_loses_power(run: Run, point: str, kind: str | None) -> None:
    """Whatever the primary has done, and has not told anybody yet, the backup does it again or goes on from it."""
    survivor, dying = run.backup, run.primary
    with run.at(point, dying, kind=kind) as moment:
        moment.wait()
        run.inject(PowerOff(run.lab, dying.host))
        run.expect_takeover(survivor)


@scenario(FAILS_OVER, faults=(KillVmm,), failpoints=(), entries_per_message=1)
@AT_AN_OUTPUT
def test_vmm_of_the_primary_is_killed(run: Run, point: str, kind: str | None) -> None:
    """The same where the host lives on: its kernel sends what the VMM had handed to it, and closes its sockets."""
    survivor, dying = run.backup, run.primary
    with run.at(point, dying, kind=kind) as moment:
        moment.wait()
        run.inject(KillVmm(run.lab, dying.host, dying.process.pid))
        run.expect_takeover(survivor)


@scenario(GOES_ON_ALONE, faults=(PowerOff,), failpoints=(), entries_per_message=1)
@AT_THE_BACKUP
def test_backup_loses_power(run: Run, point: str) -> None:
    """What the backup has not acknowledged is held back until the primary has won the next generation."""
    survivor, dying = run.primary, run.backup
    with run.at(point, dying) as moment:
        moment.wait()
        run.inject(PowerOff(run.lab, dying.host))
        run.expect_takeover(survivor)


@scenario(GOES_ON_ALONE, faults=(KillVmm,), failpoints=(), entries_per_message=1)
@AT_THE_BACKUP
def test_vmm_of_the_backup_is_killed(run: Run, point: str) -> None:
    """The same where the backup's host lives on and resets the log connection."""
    survivor, dying = run.primary, run.backup
    with run.at(point, dying) as moment:
        moment.wait()
        run.inject(KillVmm(run.lab, dying.host, dying.process.pid))
        run.expect_takeover(survivor)


@scenario(
    Promise(expect=Expect.FAILOVER, ticks_duplicated_max=8),
    faults=(PowerOff,),
    client=ClientKind.TICKER,
    failpoints=(),
)
@pytest.mark.parametrize("kind", ["frame", "console"])
def test_uncertain_output_comes_again_when_the_primary_loses_power(run: Run, kind: str) -> None:
    """A datagram or a line on the console was about to leave: under `resend` it comes, from one host or from both."""
    survivor, dying = run.backup, run.primary
    with run.at("after-second-check", dying, kind=kind) as moment:
        moment.wait()
        run.inject(PowerOff(run.lab, dying.host))
        run.expect_takeover(survivor)


@scenario(
    Promise(expect=Expect.FAILOVER, ticks_lost_max=8, holds_a_tick=True),
    faults=(PowerOff,),
    client=ClientKind.TICKER,
    output_policy=OutputPolicy.DROP,
    failpoints=(),
)
@pytest.mark.parametrize("kind", ["frame", "console"])
def test_uncertain_frame_is_dropped_when_the_primary_loses_power(run: Run, kind: str) -> None:
    """Under `drop` a datagram that was about to leave may be lost and comes never twice; the console loses nothing."""
    survivor, dying = run.backup, run.primary
    with run.at("after-second-check", dying, kind=kind) as moment:
        moment.wait()
        run.inject(PowerOff(run.lab, dying.host))
        run.expect_takeover(survivor)


@scenario(
    Promise(expect=Expect.FAILOVER, stall_ms_max=SLOW_REPLAY_STALL_MS_MAX),
    faults=(PowerOff,),
    failpoints=(SLOW_REPLAY,),
)
def test_primary_loses_power_while_replay_is_slow(run: Run) -> None:
    """The guest was slowed to the pace of its backup's replay, so that a takeover has little to catch up with."""
    survivor = run.backup
    run.client.load_for(SLOW_REPLAY_SECONDS)
    run.inject(PowerOff(run.lab, run.primary.host))
    run.expect_takeover(survivor)
