"""A pulled cable: the host sees that its carrier is gone."""

from __future__ import annotations

from dataclasses import dataclass

from fault_injectors.base import HostFault
from fault_injectors.fault import Confirmation
from fault_injectors.probes import answers_ping, witness_on
from harness.lab.interface import Capability
from harness.lab.topology import LOGGING
from harness.lab.waiting import wait_until


@dataclass
class PulledCable(HostFault):
    """The cable between a host and one network is out: unlike in a cut network, the host's kernel knows it."""

    network: str = LOGGING
    requires = frozenset({Capability.LINK})
    name = "pulled-cable"
    _carrier_before: str = ""

    def _carrier(self) -> str:
        """`1` with a carrier, `0` without, as the host's kernel has it."""
        return self.host.run(["cat", f"/sys/class/net/{self.host.interfaces[self.network]}/carrier"]).stdout.strip()

    def prepare(self) -> None:
        super().prepare()
        self._carrier_before = self._carrier()

    def inject(self) -> None:
        self.host.set_cable(self.network, plugged=False)

    def confirm(self, timeout_seconds: float) -> Confirmation:
        """The host's kernel lost its carrier, and pings from that network, where the host has an address, are lost."""
        wait_until(lambda: self._carrier() == "0", timeout_seconds=timeout_seconds)
        carrier = self._carrier()
        evidence = [f"carrier of {self.host.name} on the {self.network} network: {self._carrier_before}, now {carrier}"]
        pings = False
        onlooker = witness_on(self.lab, self.host, self.network)
        if onlooker is not None:
            address = self.host.addresses[self.network]
            pings = answers_ping(self.lab, onlooker, address)
            evidence.append(f"{address} {'still answers' if pings else 'does not answer'} the pings of {onlooker.name}")
        return Confirmation.of((self._carrier_before, carrier) == ("1", "0") and not pings, *evidence)

    def heal(self) -> None:
        self.host.set_cable(self.network, plugged=True)
