"""`scenario.json`: what ran, and what was promised."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.evidence.json_lines import decode, read_object
from harness.promise import ArbiterKind, ClientKind, OutputPolicy, Promise, Workload

# A lab that is more than this many times slower than this machine has bounds that say nothing any more.
TIME_SCALE_MAX = 60.0


@dataclass(frozen=True, kw_only=True)
class Scenario(Promise):
    """A scenario's promise, its bounds as long as the lab needs them, and how it ran. Times are CLOCK_REALTIME ns."""

    name: str
    lab: str
    seed: int
    start_ns: int
    # When the load had ended; what follows is the run's own taking down.
    end_ns: int
    mac: str
    addresses: tuple[str, ...]
    client: ClientKind = ClientKind.KEY_VALUE
    workload: Workload = Workload.KV
    # Whether the VM keeps its data on the disk `storage`.
    has_disk: bool = True
    # The names of the faults that were to be injected.
    faults: tuple[str, ...] = ()
    # What the bounds on time were multiplied by, having measured the lab.
    time_scale: float = 1.0
    title: str = ""
    # What both nodes were configured with: the VM's key (hexadecimal), intervals, the fate of uncertain outputs.
    key: str = ""
    lease_ms: int
    detect_ms: int
    heartbeat_ms: int
    write_bound_ms: int
    output_policy: OutputPolicy = OutputPolicy.RESEND
    arbiter: ArbiterKind = ArbiterKind.FILE

    @property
    def expects_faults(self) -> bool:
        """Whether something is to be broken."""
        return bool(self.faults)

    @property
    def standstill_ms_max(self) -> int:
        """How long the machine may stand still, whenever it does, before the nodes rightly suspect each other.

        They have heard nothing since the last heartbeat by then, and that may have been due.
        """
        return self.detect_ms - self.heartbeat_ms

    def write(self, path: Path) -> None:
        """Write the file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")


def read_scenario(path: Path) -> Scenario:
    """Read the file. Raises `EvidenceError`."""
    return decode(Scenario, read_object(path))
