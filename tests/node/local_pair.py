"""Two nodes on this machine, without a lab: their files, and how they are started."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ftvmm import control
from tests.arbiters.cluster import free_ports

ROOT = Path(__file__).parents[2]
VM = "6f1c2a4e000040008000000000000001"
FILE = """
[vm]
uuid = "{vm}"
image = "{image}"
arguments = {arguments}
[node]
name = "{name}"
directory = "{directory}"
[logging]
listen = "127.0.0.1:{log}"
peer = "127.0.0.1:{peer_log}"
[[heartbeat]]
network = "logging"
listen = "127.0.0.1:{heartbeat}"
peer = "127.0.0.1:{peer_heartbeat}"
[arbiter]
{arbiter}
[timing]
lease_ms = {lease_ms}
[security]
key_file = "{key}"
"""


def file_arbiter(directory: Path, *, local: bool = True) -> str:
    """The table of a `file` arbiter, whose directory is made."""
    directory.mkdir(exist_ok=True)
    return f'kind = "file"\ndirectory = "{directory}"\nlocal = {str(local).lower()}'


def start(config: Path, *options: str) -> subprocess.Popen[str]:
    """Starts a node; what it says is on its standard error."""
    command = [sys.executable, "-m", "ftvmm", "node", "--config", str(config), *options]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


class LocalPair:
    """The files of two nodes on this machine; `primary` and `spare` are their configurations.

    Args:
        directory: where they go.
        lease_ms: of the primary, and of the spare.
        arbiters: the table of each, without its head; one directory for both where None.
        arguments: the guest's; it computes.
    """

    def __init__(
        self,
        directory: Path,
        *,
        lease_ms: tuple[int, int] = (100, 100),
        arbiters: tuple[str, str] | None = None,
        arguments: Sequence[str] = (),
    ) -> None:
        key = directory / "key"
        key.write_text("5a" * 32)
        key.chmod(0o600)
        of_primary, of_spare = arbiters or (file_arbiter(directory / "arbiter"),) * 2
        log, peer_log, heartbeat, peer_heartbeat = free_ports(4)
        self.primary, self.spare = (directory / name / "node.toml" for name in ("primary", "spare"))
        for config, arbiter, own_lease_ms, ports in (
            (self.primary, of_primary, lease_ms[0], (log, peer_log, heartbeat, peer_heartbeat)),
            (self.spare, of_spare, lease_ms[1], (peer_log, log, peer_heartbeat, heartbeat)),
        ):
            config.parent.mkdir()
            text = FILE.format(
                vm=VM,
                image=ROOT / "ftvmm" / "guests" / "images" / "compute.hvt",
                arguments=json.dumps(list(arguments)),
                name=config.parent.name,
                directory=config.parent,
                log=ports[0],
                peer_log=ports[1],
                heartbeat=ports[2],
                peer_heartbeat=ports[3],
                arbiter=arbiter,
                lease_ms=own_lease_ms,
                key=key,
            )
            config.write_text(text)


def status_of(config: Path) -> dict[str, Any] | None:
    """What a node says of itself; None where it says nothing."""
    return control.status(config.parent / "control.sock")
