"""Two nodes that are configured otherwise do not become a pair, and the one that is asked says in what they differ."""

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


def test_a_spare_refuses_a_primary_of_another_lease_by_name(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("5a" * 32)
    key.chmod(0o600)
    (tmp_path / "arbiter").mkdir()
    ports = free_ports(4)
    configs = []
    for name, lease_ms, (log, peer_log, heartbeat, peer_heartbeat) in (
        ("primary", 110, ports),
        ("spare", 100, (ports[1], ports[0], ports[3], ports[2])),
    ):
        directory = tmp_path / name
        directory.mkdir()
        config = directory / "node.toml"
        text = FILE.format(
            image=ROOT / "ftvmm" / "guests" / "images" / "compute.hvt",
            name=name,
            directory=directory,
            log=log,
            peer_log=peer_log,
            heartbeat=heartbeat,
            peer_heartbeat=peer_heartbeat,
            arbiter=tmp_path / "arbiter",
            lease_ms=lease_ms,
            key=key,
        )
        config.write_text(text)
        configs.append(config)
    with start(configs[1]) as spare, start(configs[0], "--bootstrap") as primary:
        try:
            _, said = spare.communicate(timeout=60)
        finally:
            spare.kill()
            primary.kill()
    assert spare.returncode == 3
    assert "lease_ms is 110 at the peer and 100 here" in said
