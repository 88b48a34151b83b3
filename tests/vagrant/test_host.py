"""What a host does to its machine from outside, tried on one that is made up."""

from __future__ import annotations

from typing import cast

import pytest

from harness.lab.capture import Captures
from harness.lab.interface import HostState, LabError
from harness.lab.ssh import SshKey
from harness.lab.topology import HOSTS, HostPlan
from harness.lab.vagrant.host import VagrantHost
from harness.lab.vagrant.machines import Machines
from harness.lab.vagrant.state import Door

_, HOST_A, *_ = HOSTS


class OneMachine:
    """A machine that has power and stands still when it is told to."""

    def __init__(self) -> None:
        self.running, self.frozen = True, False

    def is_running(self, plan: HostPlan) -> bool:
        return self.running

    def cut_power(self, plan: HostPlan) -> None:
        self.running = False

    def freeze(self, plan: HostPlan) -> None:
        self.frozen = True

    def is_frozen(self, plan: HostPlan) -> bool:
        return self.frozen


class EndedCaptures:
    """Captures whose process has ended."""

    def detach(self, plan: HostPlan) -> None:
        raise LabError("the captures have ended")


def test_the_power_is_cut_even_when_the_captures_do_not_end_well() -> None:
    machine, key = OneMachine(), SshKey.generate()
    host = VagrantHost(
        HOST_A,
        machines=cast(Machines, machine),
        door=Door("127.0.0.1", 22, key.public),
        key=key.as_paramiko(),
        captures=cast(Captures, EndedCaptures()),
        stretch=lambda seconds: seconds,
    )
    with pytest.raises(LabError, match="captures have ended"):
        host.power_off()
    assert host.state is HostState.OFF
