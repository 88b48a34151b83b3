"""Heartbeats that a stranger with the VM's key sends: authentic, and of no process of the pair."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from harness.lab import topology
from harness.vm.pair import Node
from harness.vm.run import Run

# docs/wire.md, "Messages" and "Datagrams". Sequence and stamp grow, far beyond those of any real message; R is 0.
_PROGRAM = """
import socket, struct, sys, time
import blake3
key, vm, address, port, generation = sys.argv[1:]
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sequence = 1 << 40
while True:
    sequence += 1
    stamp = (1 << 55) + time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    head = struct.pack("<QQQQQQQ", int(generation), 0x5742A9, 1, sequence, stamp, stamp, 0)
    message = bytes([4]) + bytes.fromhex(vm) + head + bytes(16)
    tag = blake3.blake3(b"\\x02" + message, key=bytes.fromhex(key)).digest()[:16]
    out.sendto(message + tag, (address, int(port)))
    time.sleep(0.02)
"""


@contextlib.contextmanager
def forge_heartbeats(run: Run, *, of: Node, to: Node) -> Iterator[None]:
    """Sends them from the client's host, for the length of the block: as if from the primary `of`, to the node `to`."""
    status = of.status()
    generation = status["generation"] if status else 1
    host = run.lab.client_host
    address = to.host.addresses[topology.MANAGEMENT]
    words = [run.pair.key, run.pair.vm.replace("-", ""), address, str(topology.HEARTBEAT_PORT), str(generation)]
    process = host.start(["sh", "-c", f'exec {host.python} -c "$0" "$@"', _PROGRAM, *words])
    try:
        yield
    finally:
        process.signal("KILL")
