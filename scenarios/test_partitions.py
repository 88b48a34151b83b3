"""The networks between the hosts, to the arbiter and to the clients are cut."""

from __future__ import annotations

import pytest

from fault_injectors.networks import ArbiterUnreachable, HostPairCut, NetworkCut
from harness.lab.topology import CLIENT, MANAGEMENT
from harness.vm.trial import Trial


@pytest.mark.smoke
@pytest.mark.promise(expects_failover=False)
def test_both_networks_between_the_hosts_are_cut(trial: Trial) -> None:
    """Exactly one of the two survives, the other halts itself."""
    nodes = trial.primary, trial.backup
    with trial.under(HostPairCut(trial.lab, nodes[0].host, nodes[1].host)):
        trial.expect_one_survivor(*nodes)


@pytest.mark.promise(expects_failover=False, stall_ms_max=30_000)
def test_partition_with_the_arbiter_out_of_reach(trial: Trial) -> None:
    """Nobody goes live while nobody can win; when it heals the VM goes on, and nothing is lost."""
    primary, backup = trial.primary, trial.backup
    hosts = primary.host, backup.host
    with trial.under(ArbiterUnreachable(trial.lab, hosts), HostPairCut(trial.lab, *hosts)):
        trial.pair.wait_for_event(primary, "arbiter", outcome="unreachable")
        trial.pair.wait_for_event(backup, "arbiter", outcome="unreachable")
        trial.expect_roles({primary: "PROTECTED", backup: "CANDIDATE"})
    trial.expect_service()


@pytest.mark.promise(expects_failover=False)
def test_management_network_is_cut_and_the_logging_network_suffices(trial: Trial) -> None:
    """One network of two is enough: nobody is suspected."""
    with trial.under(NetworkCut(trial.lab, trial.backup.host, MANAGEMENT)):
        trial.expect_service()
        trial.expect_protected()


@pytest.mark.promise(expects_failover=False, stall_ms_max=10_000)
def test_client_network_of_the_primary_is_cut_for_a_while(trial: Trial) -> None:
    """The pair is well and stays together: the client waits for its network, and its connections live on."""
    with trial.under(NetworkCut(trial.lab, trial.primary.host, CLIENT)):
        trial.expect_protected()
    trial.expect_service()
    trial.expect_protected()


@pytest.mark.promise(expects_failover=False, stall_ms_max=30_000)
def test_arbiter_is_out_of_reach_and_nobody_needs_it(trial: Trial) -> None:
    """A healthy pair does not ask the arbiter, so it does not miss it."""
    hosts = trial.primary.host, trial.backup.host
    with trial.under(ArbiterUnreachable(trial.lab, hosts)):
        trial.expect_service()
        trial.expect_protected()
