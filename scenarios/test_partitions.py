"""The networks between the hosts, to the arbiter and to the clients are cut."""

from __future__ import annotations

import pytest

from fault_injectors.fault import Direction
from fault_injectors.host import PowerOff
from fault_injectors.networks import ArbiterUnreachable, FlappingCut, HostPairCut, NetworkCut
from harness.lab.topology import CLIENT, LOGGING, MANAGEMENT
from harness.promise import Expect, Promise, unnoticed
from harness.scenario import scenario
from harness.vm.pair import Role
from harness.vm.run import Run


@scenario(Promise(expect=Expect.ONE_SURVIVOR), faults=(HostPairCut,))
@pytest.mark.smoke
def test_both_networks_between_the_hosts_are_cut(run: Run) -> None:
    """Exactly one of the two survives, the other halts itself."""
    nodes = run.primary, run.backup
    with run.under(HostPairCut(run.lab, nodes[0].host, nodes[1].host)):
        run.expect_one_survivor(*nodes)


@scenario(Promise(expect=Expect.ONE_SURVIVOR), faults=(HostPairCut,))
@pytest.mark.parametrize("unheard", ["primary", "backup"])
def test_both_networks_carry_one_way_only(run: Run, unheard: str) -> None:
    """Who is not heard is not answered either: it counts as silence on both sides, and exactly one survives."""
    nodes = run.primary, run.backup
    direction = Direction.OUTGOING if unheard == "primary" else Direction.INCOMING
    with run.under(HostPairCut(run.lab, nodes[0].host, nodes[1].host, direction=direction)):
        run.expect_one_survivor(*nodes)


@scenario(Promise(expect=Expect.ONE_SURVIVOR, stall_ms_max=2000), faults=(HostPairCut,))
@pytest.mark.parametrize("log", ["there", "back"])
def test_each_network_carries_another_way(run: Run, log: str) -> None:
    """One network there, the other one back: whatever the two make of it, one of them goes on alone, and never both."""
    nodes = run.primary, run.backup
    hosts = nodes[0].host, nodes[1].host
    ways = (Direction.INCOMING, Direction.OUTGOING) if log == "there" else (Direction.OUTGOING, Direction.INCOMING)
    cuts = [HostPairCut(run.lab, *hosts, (name,), way) for name, way in zip((LOGGING, MANAGEMENT), ways, strict=True)]
    with run.under(*cuts):
        run.expect_one_survivor(*nodes)


@scenario(Promise(expect=Expect.STAYS_TOGETHER, stall_ms_max=1500), faults=(FlappingCut,))
def test_both_networks_flap_within_detect(run: Run) -> None:
    """They are gone for a moment again and again, never for as long as DETECT: the pair stays together."""
    with run.under(FlappingCut(run.lab, run.primary.host, run.backup.host)):
        run.expect_together()


@scenario(Promise(expect=Expect.FAILOVER, stall_ms_max=10_000, stall_ms_min=200), faults=(NetworkCut, PowerOff))
@pytest.mark.parametrize("cut_off", ["client", "survivor"])
def test_client_network_is_cut_and_the_primary_dies_at_once(run: Run, cut_off: str) -> None:
    """The announcement of the new place is lost: when the network is back the VM is found there all the same."""
    survivor = run.backup
    with run.under(NetworkCut(run.lab, run.lab.client_host if cut_off == "client" else survivor.host, CLIENT)):
        run.inject(PowerOff(run.lab, run.primary.host))
        run.pair.wait_until_alone(survivor)
    run.expect_service()


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


@scenario(Promise(expect=Expect.STAYS_TOGETHER, stall_ms_max=10_000, stall_ms_min=200), faults=(NetworkCut,))
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
