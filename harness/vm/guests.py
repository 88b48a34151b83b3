"""The guests that scenarios run, ready to be started."""

from __future__ import annotations

from harness.lab import topology
from harness.vm.node_file import Guest

_NETWORK = (f"--ipv4={topology.VM_ADDRESS}/24", f"--ipv4-gateway={topology.VM_GATEWAY}")
TICKER_PORT = 9000
KEY_VALUE_PORT = 6379


def key_value() -> Guest:
    """The key-value server, its data on the disk `storage`."""
    return Guest("kv", "kv.hvt", _NETWORK, block=True)


def ticker(*, period_ms: int = 20) -> Guest:
    """Sends a numbered datagram and prints a numbered line every `period_ms` milliseconds."""
    target = f"--target={topology.VM_GATEWAY}:{TICKER_PORT}"
    return Guest("ticker", "ticker.hvt", (*_NETWORK, target, f"--period-ms={period_ms}"))


def compute(*, rounds: int) -> Guest:
    """Computes, prints a digest of its work and halts."""
    return Guest("compute", "compute.hvt", (f"--rounds={rounds}",), network=False)
