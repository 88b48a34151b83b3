"""`scenario.json`: what ran, and what was promised."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from harness.evidence.json_lines import decode, read_object


@dataclass(frozen=True)
class Scenario:
    """A scenario and its bounds. Times are CLOCK_REALTIME nanoseconds."""

    name: str
    lab: str
    seed: int
    start_ns: int
    end_ns: int
    mac: str
    addresses: list[str]
    # Which of the promises the oracles judge here; a scenario without clients cannot promise a history.
    promises: list[str] = field(default_factory=lambda: ["transparent-failover", "output-rule", "no-split-brain"])
    # `key-value`, `ticker` or `none`: which client's evidence is to be there.
    client: str = "key-value"
    # A failover, or a planned switch-over, is to be seen (a `live` by another node than the bootstrapped one).
    expects_failover: bool = True
    # The VM is to answer again at the end. False where safety demands that it stops.
    expects_service: bool = True
    expects_faults: bool = True
    # Longest time that any of the client's connections may wait for an answer, or to be connected.
    stall_ms_max: float = 2000.0
    # "Nobody notices": by how much a wait may be longer than the longest before the first fault; None: by any.
    latency_over_before_ms_max: float | None = None
    # How errors may begin that the server answers, or with which it refuses a connection, such as `IOERR`.
    errors_allowed: list[str] = field(default_factory=list)
    # A fault damages the disk on purpose: damage may be reported, and no damaged value may be served even so.
    damage_allowed: bool = False
    # Answered operations wanted before the first fault, and after the last one.
    operations_before_min: int = 50
    operations_after_min: int = 50
    # Datagrams of the ticker that may be lost: 0 under `resend`.
    ticks_lost_max: int = 0
    # Datagrams that may come twice: 0 under `drop`, the uncertain ones under `resend`.
    ticks_duplicated_max: int = 0
    ticks_min: int = 50
    # An output that the primary had completed this long before the survivor last heard it is not uncertain any more.
    uncertain_ms_max: float = 500.0
    title: str = ""
    # What both nodes were configured with: the VM's key (hexadecimal), intervals, the fate of uncertain outputs.
    key: str = ""
    lease_ms: int = 100
    detect_ms: int = 150
    # W of R19, which no configuration changes.
    write_bound_ms: int = 50
    output_policy: str = "resend"

    def write(self, path: Path) -> None:
        """Write the file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")


def read_scenario(path: Path) -> Scenario:
    """Read the file. Raises `EvidenceError`."""
    return decode(Scenario, read_object(path))
