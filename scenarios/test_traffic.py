"""The logging network loses, reorders or damages packets: TCP carries the log over it, and only time is lost."""

from __future__ import annotations

import pytest

from fault_injectors.traffic import PacketCorruption, PacketLoss, PacketReordering
from harness.lab.topology import LOGGING
from harness.vm.trial import Trial


@pytest.mark.faults("packet-loss")
@pytest.mark.promise(expects_failover=False, stall_ms_max=3000)
def test_logging_network_loses_packets(trial: Trial) -> None:
    """What is lost is sent again: the client is served all the while."""
    with trial.under(PacketLoss(trial.lab, trial.primary.host, LOGGING, percent=5)):
        trial.expect_service()


@pytest.mark.faults("packet-reordering")
@pytest.mark.promise(expects_failover=False, stall_ms_max=3000)
def test_logging_network_reorders_packets(trial: Trial) -> None:
    """TCP puts the log into order again, and an old heartbeat proves nothing new."""
    with trial.under(PacketReordering(trial.lab, trial.primary.host, LOGGING)):
        trial.expect_service()


@pytest.mark.faults("packet-corruption")
@pytest.mark.promise(expects_failover=False, stall_ms_max=3000)
def test_logging_network_damages_packets(trial: Trial) -> None:
    """What a checksum finds is sent again; what it misses, the log's own authentication finds."""
    with trial.under(PacketCorruption(trial.lab, trial.primary.host, LOGGING, percent=5)):
        trial.expect_service()
