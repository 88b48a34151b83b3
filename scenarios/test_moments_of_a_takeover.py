"""A second fault strikes at an exact moment of a takeover: the VM goes on or stops, and never runs twice."""

from __future__ import annotations

import pytest

from fault_injectors.host import PowerOff
from fault_injectors.logging_network import LogReset
from fault_injectors.networks import ArbiterUnreachable, NetworkCut
from harness.lab.topology import CLIENT
from harness.promise import Expect, Promise
from harness.scenario import scenario
from harness.vm.run import Run

# Of this is also how long the second fault takes to be made ready, while the takeover stands still.
HELD_STALL_MS_MAX = 2000.0
LATE_MS = 700

STOPS = Promise(expect=Expect.STOPS)
FAILS_OVER = Promise(expect=Expect.FAILOVER, stall_ms_max=HELD_STALL_MS_MAX)
GOES_ON_ALONE = Promise(expect=Expect.PRIMARY_ALONE, stall_ms_max=HELD_STALL_MS_MAX)

BEFORE_THE_CLAIM = ("drained", "before-ask")
AFTER_THE_CLAIM = ("after-ask", "won", "attached", "announced", "first-output")


@scenario(STOPS, faults=(PowerOff,), failpoints=())
@pytest.mark.parametrize("point", ["suspect", "before-ask", "won", "first-output"])
def test_survivor_loses_power_too(run: Run, point: str) -> None:
    """The primary is dead and the backup dies while it takes over: what any client was told is on the disk."""
    survivor = run.backup
    with run.at(point, survivor) as moment:
        run.inject(PowerOff(run.lab, run.primary.host))
        moment.wait()
        run.inject(PowerOff(run.lab, survivor.host))


@scenario(GOES_ON_ALONE, faults=(LogReset, PowerOff), failpoints=())
@pytest.mark.parametrize("point", BEFORE_THE_CLAIM)
def test_candidate_loses_power_before_it_asks(run: Run, point: str) -> None:
    """The log is reset, both are about to ask for the next generation, one dies: the primary goes on alone."""
    primary, candidate = run.primary, run.backup
    with run.at("before-ask", primary) as asking, run.at(point, candidate) as moment:
        run.inject(LogReset(run.lab, candidate.host))
        run.await_confirmations()
        asking.wait()
        moment.wait()
        run.inject(PowerOff(run.lab, candidate.host))
        asking.release()
        run.expect_takeover(primary)


@scenario(STOPS, faults=(LogReset, PowerOff), failpoints=())
@pytest.mark.parametrize("point", AFTER_THE_CLAIM)
def test_winner_loses_power(run: Run, point: str) -> None:
    """The log is reset, the backup wins and dies: the primary, which has lost, halts itself all the same."""
    primary, winner = run.primary, run.backup
    with run.at("before-ask", primary) as asking, run.at(point, winner) as moment:
        run.inject(LogReset(run.lab, winner.host))
        run.await_confirmations()
        asking.wait()
        moment.wait()
        run.inject(PowerOff(run.lab, winner.host))
        asking.release()
        run.pair.wait_until_halted(primary)


@scenario(FAILS_OVER, faults=(LogReset, PowerOff), failpoints=())
@pytest.mark.parametrize("point", ["suspect", "before-ask"])
def test_primary_loses_power_before_it_asks(run: Run, point: str) -> None:
    """The log is reset and the primary dies before it could claim anything: the backup takes over."""
    primary, survivor = run.primary, run.backup
    with run.at(point, primary) as moment:
        run.inject(LogReset(run.lab, survivor.host))
        moment.wait()
        run.inject(PowerOff(run.lab, primary.host))
        run.expect_takeover(survivor)


@scenario(STOPS, faults=(LogReset, PowerOff), failpoints=())
@pytest.mark.parametrize("point", ["after-ask", "won"])
def test_primary_loses_power_when_it_has_won(run: Run, point: str) -> None:
    """The log is reset, the primary wins and dies: the backup has lost, however well it could go on."""
    primary, loser = run.primary, run.backup
    with run.at(point, primary) as moment:
        run.inject(LogReset(run.lab, loser.host))
        moment.wait()
        run.inject(PowerOff(run.lab, primary.host))
        run.pair.wait_until_halted(loser)


@scenario(FAILS_OVER, faults=(LogReset,), failpoints=())
def test_primary_asks_too_late(run: Run) -> None:
    """The log is reset and the primary is slow to ask: its backup has won, and the primary halts itself."""
    primary, survivor = run.primary, run.backup
    with run.at("before-ask", primary) as moment:
        run.inject(LogReset(run.lab, survivor.host))
        moment.wait()
        run.expect_takeover(survivor)
    run.pair.wait_until_halted(primary)


@scenario(GOES_ON_ALONE, faults=(LogReset,), failpoints=())
def test_candidate_asks_too_late(run: Run) -> None:
    """The log is reset, and both have read the same record: the primary is first, the candidate halts itself."""
    survivor, candidate = run.primary, run.backup
    with run.at("before-ask", survivor) as first, run.at("before-ask", candidate) as second:
        run.inject(LogReset(run.lab, candidate.host))
        first.wait()
        second.wait()
        first.release()
        run.expect_takeover(survivor)
    run.pair.wait_until_halted(candidate)


@scenario(FAILS_OVER, faults=(PowerOff,), failpoints=())
def test_arbiter_answers_the_candidate_late(run: Run) -> None:
    """The backup owns the VM and does not know it yet: it says nothing before it has heard, and goes on then."""
    survivor = run.backup
    with run.at("after-ask", survivor, delay_ms=LATE_MS) as moment:
        run.inject(PowerOff(run.lab, run.primary.host))
        moment.wait()
        run.expect_takeover(survivor)


@scenario(GOES_ON_ALONE, faults=(LogReset,), failpoints=())
def test_arbiter_answers_the_primary_late(run: Run) -> None:
    """The log is reset, and the primary has won without knowing: the backup halts itself, and the primary goes on."""
    survivor, loser = run.primary, run.backup
    with run.at("after-ask", survivor, delay_ms=LATE_MS) as moment:
        run.inject(LogReset(run.lab, loser.host))
        moment.wait()
        run.pair.wait_until_halted(loser)
        run.expect_takeover(survivor)


@scenario(Promise(expect=Expect.FAILOVER, stall_ms_max=30_000), faults=(PowerOff, ArbiterUnreachable), failpoints=())
def test_arbiter_goes_away_as_it_is_asked(run: Run) -> None:
    """The backup has read the record and cannot claim the next one: it asks again until it can, and goes on then."""
    survivor = run.backup
    with run.at("before-ask", survivor) as moment:
        run.inject(PowerOff(run.lab, run.primary.host))
        moment.wait()
        with run.under(ArbiterUnreachable(run.lab, (survivor.host,))):
            moment.release()
            run.pair.wait_for_event(survivor, "arbiter", operation="ask", outcome="unreachable")
    run.expect_takeover(survivor)


@scenario(Promise(expect=Expect.FAILOVER, stall_ms_max=10_000), faults=(PowerOff, NetworkCut), failpoints=())
@pytest.mark.parametrize("point", ["before-ask", "announced"])
def test_client_network_of_the_survivor_is_cut(run: Run, point: str) -> None:
    """The backup takes over and no client can hear it for a while: its announcements go on, and connections live on."""
    survivor = run.backup
    with run.at(point, survivor) as moment:
        run.inject(PowerOff(run.lab, run.primary.host))
        moment.wait()
        with run.under(NetworkCut(run.lab, survivor.host, CLIENT)):
            moment.release()
            run.pair.wait_until_alone(survivor)
    run.expect_takeover(survivor)
