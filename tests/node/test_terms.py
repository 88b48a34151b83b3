"""What keeps a node from its pair as it starts: other terms, another arbiter, a directory no other host can see."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILE = """
[vm]
uuid = "6f1c2a4e-0000-4000-8000-000000000001"
image = "{image}"
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
kind = "file"
directory = "{arbiter}"
local = {local}
[timing]
lease_ms = {lease_ms}
[security]
key_file = "{key}"
"""


def free_ports(count: int) -> list[int]:
    with_ports = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [server.getsockname()[1] for server in with_ports]
    for server in with_ports:
        server.close()
    return ports


def start(config: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ftvmm", "node", "--config", str(config), *options]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


class Pair:
    """The files of two nodes on this machine; `primary` and `spare` are their configurations."""

    def __init__(
        self, directory: Path, *, lease_ms: tuple[int, int] = (100, 100), local: bool = True, one_arbiter: bool = True
    ) -> None:
        key, arbiter = directory / "key", directory / "arbiter"
        arbiter_of_spare = arbiter if one_arbiter else directory / "another-arbiter"
        key.write_text("5a" * 32)
        key.chmod(0o600)
        arbiter.mkdir()
        arbiter_of_spare.mkdir(exist_ok=True)
        log, peer_log, heartbeat, peer_heartbeat = free_ports(4)
        self.primary, self.spare = (directory / name / "node.toml" for name in ("primary", "spare"))
        for config, own_lease_ms, ports in (
            (self.primary, lease_ms[0], (log, peer_log, heartbeat, peer_heartbeat)),
            (self.spare, lease_ms[1], (peer_log, log, peer_heartbeat, heartbeat)),
        ):
            config.parent.mkdir()
            text = FILE.format(
                image=ROOT / "ftvmm" / "guests" / "images" / "compute.hvt",
                name=config.parent.name,
                directory=config.parent,
                log=ports[0],
                peer_log=ports[1],
                heartbeat=ports[2],
                peer_heartbeat=ports[3],
                arbiter=arbiter if config is self.primary else arbiter_of_spare,
                local=str(local).lower(),
                lease_ms=own_lease_ms,
                key=key,
            )
            config.write_text(text)


def what_the_spare_refuses_by(pair: Pair) -> str:
    """What a spare says that does not become the primary's backup, and halts."""
    with start(pair.spare) as spare, start(pair.primary, "--bootstrap") as primary:
        try:
            _, said = spare.communicate(timeout=60)
        finally:
            spare.kill()
            primary.kill()
    assert spare.returncode == 3
    return said


def test_a_spare_refuses_a_primary_of_another_lease_by_name(tmp_path: Path) -> None:
    said = what_the_spare_refuses_by(Pair(tmp_path, lease_ms=(110, 100)))
    assert "lease_ms is 110 at the peer and 100 here" in said


def test_a_spare_of_another_arbiter_refuses_the_primary_by_name(tmp_path: Path) -> None:
    said = what_the_spare_refuses_by(Pair(tmp_path, one_arbiter=False))
    assert "both nodes need one arbiter" in said
    assert "the arbiter holds no generation of this VM here" in said


def test_no_vm_is_bootstrapped_where_no_other_host_can_see_it(tmp_path: Path) -> None:
    """A share that is not mounted is a directory like any other: generation 1 there could be had on each host."""
    pair = Pair(tmp_path, local=False)
    with start(pair.primary, "--bootstrap") as primary:
        _, said = primary.communicate(timeout=60)
    assert primary.returncode == 2
    assert "is the share mounted?" in said
    assert list((tmp_path / "arbiter").iterdir()) == []
