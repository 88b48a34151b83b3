"""The logging network loses, reorders or damages packets: TCP carries the log over it, and only time is lost."""

from __future__ import annotations

from fault_injectors.traffic import PacketCorruption, PacketLoss, PacketReordering
from harness.lab.topology import LOGGING
from harness.promise import Expect, Promise
from harness.scenario import scenario
from harness.vm.run import Run


@scenario(Promise(expect=Expect.STAYS_TOGETHER, stall_ms_max=3000), faults=(PacketLoss,))
def test_logging_network_loses_packets(run: Run) -> None:
    """What is lost is sent again: the client is served all the while."""
    with run.under(PacketLoss(run.lab, run.primary.host, LOGGING, percent=5)):
        run.expect_service()


@scenario(Promise(expect=Expect.STAYS_TOGETHER, stall_ms_max=1000), faults=(PacketReordering,))
def test_logging_network_reorders_packets(run: Run) -> None:
    """TCP puts the log into order again, and an old heartbeat proves nothing new."""
    with run.under(PacketReordering(run.lab, run.primary.host, LOGGING)):
        run.expect_service()


@scenario(Promise(expect=Expect.STAYS_TOGETHER, stall_ms_max=3000), faults=(PacketCorruption,))
def test_logging_network_damages_packets(run: Run) -> None:
    """What a checksum finds is sent again; what it misses, the log's own authentication finds."""
    with run.under(PacketCorruption(run.lab, run.primary.host, LOGGING, percent=5)):
        run.expect_service()
