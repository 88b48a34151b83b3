"""The key-value client on the client host: started, asked how far it is, stopped, and its history fetched."""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.deployment import SERVICE_PORT
from harness.clients.control import ClientControl
from harness.evidence.history import History, read_history
from harness.lab import topology
from harness.lab.interface import Host, LabError

DIRECTORY = "/var/lib/ftvmm-client"
HISTORY = f"{DIRECTORY}/history.jsonl"
LOG = f"{DIRECTORY}/client.log"
CONTROL_PORT = 7500
START_SECONDS_MAX = 20.0
RETRY_SECONDS = 0.05


@dataclass(frozen=True)
class Load:
    """A running client. ``control`` answers at once, because the client never blocks."""

    host: Host
    address: tuple[str, int]
    control: ClientControl

    def another_control(self) -> ClientControl:
        """A channel of its own, for another thread."""
        return ClientControl(self.address)

    def history(self) -> History:
        """What the client saw; complete once it was stopped."""
        with tempfile.TemporaryDirectory(prefix="ftvmm-history-") as directory:
            path = Path(directory) / "history.jsonl"
            path.write_bytes(self.host.read_file(HISTORY))
            return read_history(path)


@contextlib.contextmanager
def running_load(host: Host, *, connections: int = 8, operations_per_second: int = 300) -> Iterator[Load]:
    """Start the client on ``host`` and wait until it takes questions. It runs until it is stopped or the block ends."""
    host.run(["mkdir", "-p", DIRECTORY], check=True)
    process = host.start(
        f"{host.python} -m harness.clients.key_value --target {topology.VM_ADDRESS}:{SERVICE_PORT}"
        f" --control 127.0.0.1:{CONTROL_PORT} --connections {connections} --rate {operations_per_second}"
        f" --history {HISTORY} --connections-log {DIRECTORY}/connections.jsonl",
        log=LOG,
    )
    address = host.forward(CONTROL_PORT)
    control = _connect(host, address)
    try:
        yield Load(host, address, control)
    finally:
        control.close()
        if process.is_running():
            process.signal("KILL")


def _connect(host: Host, address: tuple[str, int]) -> ClientControl:
    # The client says where it listens as soon as its connections are open.
    said = (
        f"timeout {START_SECONDS_MAX:.0f} sh -c 'until grep -q \"control port\" {LOG}; do sleep {RETRY_SECONDS}; done'"
    )
    if not host.run(said, timeout_seconds=START_SECONDS_MAX + 5).succeeded:
        printed = host.read_file(LOG).decode(errors="replace")
        raise LabError(f"the client did not start within {START_SECONDS_MAX:.0f} s: {printed}")
    return ClientControl(address)
