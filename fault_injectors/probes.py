"""Small questions asked from a host: does somebody answer there?"""

from __future__ import annotations

from harness.lab.interface import Host


def answers_ping(host: Host, address: str, *, interface: str | None = None) -> bool:
    """Whether at least one of three echo requests is answered within 300 ms."""
    source = f"-I {interface} " if interface else ""
    return host.run(f"ping -q -n -c 3 -i 0.05 -W 0.3 {source}{address} >/dev/null 2>&1").succeeded


def accepts_tcp(host: Host, address: str, port: int) -> bool:
    """Whether a TCP connection can be opened within half a second."""
    return host.run(["timeout", "0.5", "bash", "-c", f"exec 3<>/dev/tcp/{address}/{port}"]).succeeded
