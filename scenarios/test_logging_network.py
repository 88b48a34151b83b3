"""The logging channel is reset, corrupted, delayed, throttled or cut while both hosts live."""

from __future__ import annotations

import pytest

from fault_injectors.direction import Direction
from fault_injectors.heartbeat import HeartbeatLoss
from fault_injectors.logging_network import LogCorruption, LogDelay, LoggingCut, LogReset, LogThrottle
from harness.vm.trial import Trial


@pytest.mark.promise(expects_failover=False)
def test_log_connection_is_reset_while_both_hosts_live(trial: Trial) -> None:
    """One of the two wins the next generation, never both; the other halts itself."""
    nodes = trial.primary, trial.backup
    trial.inject(LogReset(trial.lab, trial.backup.host))
    trial.expect_one_survivor(*nodes)


@pytest.mark.smoke
@pytest.mark.promise(expects_failover=False)
def test_a_byte_of_the_log_is_corrupted(trial: Trial) -> None:
    """The backup sees it and takes nothing of it: the connection ends, and one of the two goes on."""
    nodes = trial.primary, trial.backup
    trial.inject(LogCorruption(trial.lab, trial.backup.host))
    trial.expect_one_survivor(*nodes)


@pytest.mark.promise(expects_failover=False)
def test_an_acknowledgement_is_corrupted(trial: Trial) -> None:
    """The primary takes nothing of a damaged acknowledgement, least of all for one."""
    nodes = trial.primary, trial.backup
    trial.inject(LogCorruption(trial.lab, trial.backup.host, stream="downstream"))
    trial.expect_one_survivor(*nodes)


@pytest.mark.promise(expects_failover=False, stall_ms_max=3000)
def test_logging_network_is_cut_both_ways(trial: Trial) -> None:
    """Heartbeats still pass on the management network, but the log does not: the pair parts within T_ACK."""
    nodes = trial.primary, trial.backup
    with trial.under(LoggingCut(trial.lab, nodes[0].host, nodes[1].host)):
        trial.expect_one_survivor(*nodes)


@pytest.mark.promise(expects_failover=False, stall_ms_max=3000)
def test_log_does_not_reach_the_backup(trial: Trial) -> None:
    """Only what the primary says on the logging network is lost."""
    nodes = trial.primary, trial.backup
    with trial.under(LoggingCut(trial.lab, nodes[0].host, nodes[1].host, direction=Direction.OUTGOING)):
        trial.expect_one_survivor(*nodes)


@pytest.mark.promise(expects_failover=False, stall_ms_max=3000)
def test_acknowledgements_do_not_reach_the_primary(trial: Trial) -> None:
    """Every sign of life carries them: they come over the management network, and the pair stays together."""
    nodes = trial.primary, trial.backup
    with trial.under(LoggingCut(trial.lab, nodes[0].host, nodes[1].host, direction=Direction.INCOMING)):
        trial.expect_service()
        trial.expect_protected()


@pytest.mark.promise(expects_failover=False, stall_ms_max=3000)
def test_log_is_delayed_and_the_pair_stays_together(trial: Trial) -> None:
    """Every output waits for its acknowledgement: the client sees latency and nothing else."""
    with trial.under(LogDelay(trial.lab, trial.backup.host)):
        trial.expect_service()
        trial.expect_protected()


@pytest.mark.promise(expects_failover=False, stall_ms_max=4000)
def test_log_is_throttled_below_what_the_guest_needs(trial: Trial) -> None:
    """A backup that cannot be kept up to date is given up, and the VM goes on without it."""
    survivor = trial.primary
    with trial.under(LogThrottle(trial.lab, trial.backup.host, rate_kib_per_second=4)):
        trial.expect_takeover(survivor)


@pytest.mark.promise(expects_failover=False)
def test_all_heartbeats_are_lost_and_the_log_suffices(trial: Trial) -> None:
    """The log connection carries signs of life too: nobody is suspected."""
    with trial.under(HeartbeatLoss(trial.lab, trial.backup.host, direction=Direction.INCOMING)):
        trial.expect_service()
        trial.expect_protected()
