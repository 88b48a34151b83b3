"""Cables are pulled: unlike in a cut network, the host's own kernel sees its carrier go."""

from __future__ import annotations

from fault_injectors.cable import PulledCable
from harness.lab.topology import CLIENT, LOGGING, MANAGEMENT
from harness.promise import Expect, Promise, unnoticed
from harness.scenario import scenario
from harness.vm.run import Run


@scenario(Promise(expect=Expect.ONE_SURVIVOR, stall_ms_max=2000), faults=(PulledCable,))
def test_logging_cable_of_the_primary_is_pulled(run: Run) -> None:
    """Heartbeats still pass on the management network, but the log does not: the pair parts within T_ACK."""
    nodes = run.primary, run.backup
    with run.under(PulledCable(run.lab, nodes[0].host, LOGGING)):
        run.expect_one_survivor(*nodes)


@scenario(unnoticed(), faults=(PulledCable,))
def test_management_cable_of_the_backup_is_pulled(run: Run) -> None:
    """One network of two is enough: nobody is suspected."""
    with run.under(PulledCable(run.lab, run.backup.host, MANAGEMENT)):
        run.expect_together()


@scenario(Promise(expect=Expect.STAYS_TOGETHER, stall_ms_max=10_000, stall_ms_min=200), faults=(PulledCable,))
def test_client_cable_of_the_primary_is_pulled_for_a_while(run: Run) -> None:
    """The pair is well and stays together: the client waits for its network, and its connections live on."""
    with run.under(PulledCable(run.lab, run.primary.host, CLIENT)):
        run.expect_protected()
    run.expect_together()
