"""What the kernel counts of the log channel where it lands: bytes into and out of the proxy, connections."""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.lab.interface import Host
from harness.lab.topology import LOGGING, LOGGING_PORT, LOGGING_PROXY_PORT

_FIELD = re.compile(r"\b(bytes_sent|bytes_received|bytes_retrans):(\d+)")


@dataclass(frozen=True)
class LogTraffic:
    """Bytes of the proxy's open connections by the kernel's account (tcp_info): entries, and acknowledgements.

    What has come in and not gone out is held up, or lost, in the proxy.
    """

    connections: frozenset[str]
    entries_in: int
    entries_out: int
    acknowledgements_in: int
    acknowledgements_out: int

    @classmethod
    def read(cls, host: Host) -> LogTraffic:
        """Read the account on the host where the log lands."""
        outside = _sockets(host, f"sport = :{LOGGING_PROXY_PORT}")
        inside = _sockets(host, f"dport = :{LOGGING_PORT} and dst {host.addresses[LOGGING]}")
        return cls(
            connections=frozenset(outside),
            entries_in=sum(counts.get("bytes_received", 0) for counts in outside.values()),
            entries_out=sum(_sent(counts) for counts in inside.values()),
            acknowledgements_in=sum(counts.get("bytes_received", 0) for counts in inside.values()),
            acknowledgements_out=sum(_sent(counts) for counts in outside.values()),
        )

    def arrived(self, stream: str) -> int:
        """Bytes that reached the proxy on a Toxiproxy stream, `upstream` or `downstream`."""
        return self.entries_in if stream == "upstream" else self.acknowledgements_in

    def left(self, stream: str) -> int:
        """Bytes that left the proxy on a Toxiproxy stream."""
        return self.entries_out if stream == "upstream" else self.acknowledgements_out


def _sent(counts: dict[str, int]) -> int:
    return counts.get("bytes_sent", 0) - counts.get("bytes_retrans", 0)


def _sockets(host: Host, condition: str) -> dict[str, dict[str, int]]:
    """Counters of the established sockets that match, by local and peer address."""
    listing = host.run(["ss", "-tinHO", "state", "established", f"( {condition} )"], check=True).stdout
    sockets = {}
    for line in listing.splitlines():
        _, _, local, peer, *_ = line.split()
        sockets[f"{local} {peer}"] = {name: int(value) for name, value in _FIELD.findall(line)}
    return sockets
