"""Cables are pulled: unlike in a cut network, the host's own kernel sees its carrier go."""

from __future__ import annotations

import pytest

from fault_injectors.cable import PulledCable
from harness.lab.topology import CLIENT, LOGGING, MANAGEMENT
from harness.vm.trial import Trial


@pytest.mark.faults("pulled-cable")
@pytest.mark.promise(expects_failover=False, stall_ms_max=3000)
def test_logging_cable_of_the_primary_is_pulled(trial: Trial) -> None:
    """Heartbeats still pass on the management network, but the log does not: the pair parts within T_ACK."""
    nodes = trial.primary, trial.backup
    with trial.under(PulledCable(trial.lab, nodes[0].host, LOGGING)):
        trial.expect_one_survivor(*nodes)


@pytest.mark.faults("pulled-cable")
@pytest.mark.promise(expects_failover=False)
def test_management_cable_of_the_backup_is_pulled(trial: Trial) -> None:
    """One network of two is enough: nobody is suspected."""
    with trial.under(PulledCable(trial.lab, trial.backup.host, MANAGEMENT)):
        trial.expect_service()
        trial.expect_protected()


@pytest.mark.faults("pulled-cable")
@pytest.mark.promise(expects_failover=False, stall_ms_max=10_000)
def test_client_cable_of_the_primary_is_pulled_for_a_while(trial: Trial) -> None:
    """The pair is well and stays together: the client waits for its network, and its connections live on."""
    with trial.under(PulledCable(trial.lab, trial.primary.host, CLIENT)):
        trial.expect_protected()
    trial.expect_service()
    trial.expect_protected()
