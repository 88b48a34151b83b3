"""The guests that scenarios run, ready to be started."""

from __future__ import annotations

from pathlib import Path

from harness.lab import topology
from harness.vm.node_file import Guest

# The hosts of a lab see the project under the path that it has here.
IMAGES = Path(__file__).resolve().parents[2] / "ftvmm" / "guests" / "images"

_NETWORK = (f"--ipv4={topology.VM_ADDRESS}/24", f"--ipv4-gateway={topology.VM_GATEWAY}")
TICKER_PORT = 9000
KEY_VALUE_PORT = 6379


def key_value() -> Guest:
    """The key-value server, its data on the disk `storage`."""
    return Guest("kv", str(IMAGES / "kv.hvt"), _NETWORK, block=True)


def ticker(*, period_ms: int = 20) -> Guest:
    """Sends a numbered datagram and prints a numbered line every `period_ms` milliseconds."""
    target = f"--target={topology.VM_GATEWAY}:{TICKER_PORT}"
    return Guest("ticker", str(IMAGES / "ticker.hvt"), (*_NETWORK, target, f"--period-ms={period_ms}"))


def compute(*, rounds: int) -> Guest:
    """Computes, prints a digest of its work and halts."""
    return Guest("compute", str(IMAGES / "compute.hvt"), (f"--rounds={rounds}",), network=False)
