"""A failover seen by someone who counts every datagram."""

from __future__ import annotations

from fault_injectors.host import PowerOff
from harness.promise import ClientKind, Expect, OutputPolicy, Promise
from harness.scenario import scenario
from harness.vm.run import Run


@scenario(Promise(expect=Expect.FAILOVER, ticks_duplicated_max=8), faults=(PowerOff,), client=ClientKind.TICKER)
def test_no_tick_is_lost_when_the_primary_dies(run: Run) -> None:
    """Under `resend` every uncertain datagram comes again: none is lost, and only an uncertain one may come twice."""
    survivor = run.backup
    run.inject(PowerOff(run.lab, run.primary.host))
    run.expect_takeover(survivor)


@scenario(
    Promise(expect=Expect.FAILOVER, ticks_lost_max=8),
    faults=(PowerOff,),
    client=ClientKind.TICKER,
    output_policy=OutputPolicy.DROP,
)
def test_no_tick_comes_twice_when_uncertain_frames_are_dropped(run: Run) -> None:
    """Under `drop` an uncertain datagram may be lost, but none ever comes twice."""
    survivor = run.backup
    run.inject(PowerOff(run.lab, run.primary.host))
    run.expect_takeover(survivor)
