"""A host stands still at an exact moment, for less than DETECT, for about as long, or for longer."""

from __future__ import annotations

import pytest

from fault_injectors.host import BriefFreeze, Freeze
from harness.promise import Expect, Promise
from harness.scenario import scenario
from harness.vm.node_file import Timing
from harness.vm.run import Run

# Beside DETECT.
SHORT_MS, ABOUT_MS, LONG_MS = 40, Timing().detect_ms, 800
HELD_STALL_MS_MAX = 2000.0

# An output between its check and its send leaves when its host wakes, whoever owns the VM by then.
AT_AN_OUTPUT = pytest.mark.parametrize("point", ["before-second-check", "after-second-check"])
AT_THE_BACKUP = pytest.mark.parametrize("point", ["entry-received", "entry-replayed"])


@scenario(Promise(expect=Expect.STAYS_TOGETHER, stall_ms_max=HELD_STALL_MS_MAX), faults=(BriefFreeze,), failpoints=())
@AT_AN_OUTPUT
def test_primary_freezes_for_less_than_detect(run: Run, point: str) -> None:
    """Nobody suspects it; its lease may have ended, so the frame is looked at once more before it leaves."""
    with run.at(point, run.primary, kind="frame") as moment:
        moment.wait()
        run.inject(BriefFreeze(run.lab, run.primary.host, SHORT_MS))
    run.expect_together()


@scenario(Promise(expect=Expect.STAYS_TOGETHER, stall_ms_max=HELD_STALL_MS_MAX), faults=(BriefFreeze,), failpoints=())
@AT_THE_BACKUP
def test_backup_freezes_for_less_than_detect(run: Run, point: str) -> None:
    """It takes the log up again where it stood, and acknowledges no entry before it holds it."""
    with run.at(point, run.backup) as moment:
        moment.wait()
        run.inject(BriefFreeze(run.lab, run.backup.host, SHORT_MS))
    run.expect_together()


@scenario(
    Promise(expect=Expect.GOES_ON, stall_ms_max=HELD_STALL_MS_MAX, late_frames_max=1),
    faults=(BriefFreeze,),
    failpoints=(),
)
@AT_AN_OUTPUT
def test_primary_freezes_for_about_detect(run: Run, point: str) -> None:
    """Whether it is suspected or not, and whoever asks first then: one host goes on, with every connection."""
    with run.at(point, run.primary, kind="frame") as moment:
        moment.wait()
        run.inject(BriefFreeze(run.lab, run.primary.host, ABOUT_MS))
    run.expect_service()


@scenario(
    Promise(expect=Expect.FAILOVER, stall_ms_max=HELD_STALL_MS_MAX, late_frames_max=1),
    faults=(BriefFreeze,),
    failpoints=(),
)
@AT_AN_OUTPUT
def test_primary_freezes_for_longer_than_detect(run: Run, point: str) -> None:
    """The backup has taken over when it wakes: it halts itself, and lets go one frame at most that had its check."""
    survivor, frozen = run.backup, run.primary
    with run.at(point, frozen, kind="frame") as moment:
        moment.wait()
        run.inject(BriefFreeze(run.lab, frozen.host, LONG_MS))
    run.expect_takeover(survivor)
    run.pair.wait_until_halted(frozen)


@scenario(Promise(expect=Expect.PRIMARY_ALONE, stall_ms_max=HELD_STALL_MS_MAX), faults=(BriefFreeze,), failpoints=())
@AT_THE_BACKUP
def test_backup_freezes_for_longer_than_detect(run: Run, point: str) -> None:
    """The primary has gone on alone when it wakes: it has lost, and halts itself."""
    survivor, frozen = run.primary, run.backup
    with run.at(point, frozen) as moment:
        moment.wait()
        run.inject(BriefFreeze(run.lab, frozen.host, LONG_MS))
    run.expect_takeover(survivor)
    run.pair.wait_until_halted(frozen)


@scenario(
    Promise(expect=Expect.FAILOVER, stall_ms_max=HELD_STALL_MS_MAX, late_frames_max=1),
    faults=(Freeze,),
    failpoints=(),
)
def test_frame_between_check_and_send_when_the_host_freezes(run: Run) -> None:
    """Its thread goes on by itself the instant that the host wakes: the one late frame that R5 cannot hold back."""
    survivor, frozen = run.backup, run.primary
    with run.at("after-second-check", frozen, kind="frame", delay_ms=900) as moment:
        moment.wait()
        with run.under(Freeze(run.lab, frozen.host)):
            run.expect_takeover(survivor)
    run.pair.wait_until_halted(frozen)
