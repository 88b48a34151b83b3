"""The networks between the hosts, to the arbiter and to the clients are cut."""

from __future__ import annotations

import pytest

from fault_injectors.networks import ArbiterUnreachable, HostPairCut, NetworkCut
from harness.evidence.role import Role
from harness.lab.topology import CLIENT, MANAGEMENT
from harness.promise import Expect, Promise, unnoticed
from harness.scenario import scenario
from harness.vm.run import Run


@scenario(Promise(expect=Expect.ONE_SURVIVOR), faults=(HostPairCut,))
@pytest.mark.smoke
def test_both_networks_between_the_hosts_are_cut(run: Run) -> None:
    """Exactly one of the two survives, the other halts itself."""
    nodes = run.primary, run.backup
    with run.under(HostPairCut(run.lab, nodes[0].host, nodes[1].host)):
        run.expect_one_survivor(*nodes)


@scenario(Promise(expect=Expect.ONE_SURVIVOR, stall_ms_max=30_000), faults=(ArbiterUnreachable, HostPairCut))
def test_partition_with_the_arbiter_out_of_reach(run: Run) -> None:
    """Nobody goes live while nobody can win; when it heals the VM goes on, and nothing is lost."""
    primary, backup = run.primary, run.backup
    hosts = primary.host, backup.host
    with run.under(ArbiterUnreachable(run.lab, hosts), HostPairCut(run.lab, *hosts)):
        run.pair.wait_for_event(primary, "arbiter", outcome="unreachable")
        run.pair.wait_for_event(backup, "arbiter", outcome="unreachable")
        run.expect_roles({primary: Role.PROTECTED, backup: Role.CANDIDATE})
    run.expect_service()


@scenario(unnoticed(), faults=(NetworkCut,))
def test_management_network_is_cut_and_the_logging_network_suffices(run: Run) -> None:
    """One network of two is enough: nobody is suspected."""
    with run.under(NetworkCut(run.lab, run.backup.host, MANAGEMENT)):
        run.expect_together()


@scenario(Promise(expect=Expect.STAYS_TOGETHER, stall_ms_max=10_000), faults=(NetworkCut,))
def test_client_network_of_the_primary_is_cut_for_a_while(run: Run) -> None:
    """The pair is well and stays together: the client waits for its network, and its connections live on."""
    with run.under(NetworkCut(run.lab, run.primary.host, CLIENT)):
        run.expect_protected()
    run.expect_together()


@scenario(unnoticed(), faults=(ArbiterUnreachable,))
def test_arbiter_is_out_of_reach_and_nobody_needs_it(run: Run) -> None:
    """A healthy pair does not ask the arbiter, so it does not miss it."""
    hosts = run.primary.host, run.backup.host
    with run.under(ArbiterUnreachable(run.lab, hosts)):
        run.expect_together()
