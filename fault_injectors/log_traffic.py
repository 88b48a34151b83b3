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

    What has come in and not gone out is held up, or lost, in the proxy. A connection that closes takes its bytes out of
    the account: a reading says something of an earlier one only if it `follows` it.
    """

    # The sockets on both sides of the proxy, each by its local and its peer's address.
    connections: frozenset[str]
    entries_in: int
    entries_out: int
    acknowledgements_in: int
    acknowledgements_out: int

    @classmethod
    def read(cls, host: Host) -> LogTraffic:
        """Read the account on the host where the log lands."""
        # Both sides in one listing: what passes between two of them would look as if it were held up.
        to_listener = f"dport = :{LOGGING_PORT} and dst {host.addresses[LOGGING]}"
        sockets = _sockets(host, f"sport = :{LOGGING_PROXY_PORT} or ( {to_listener} )")
        outside = {name: counts for name, counts in sockets.items() if f":{LOGGING_PROXY_PORT} " in name}
        inside = {name: counts for name, counts in sockets.items() if name not in outside}
        return cls(
            connections=frozenset(sockets),
            entries_in=sum(counts.get("bytes_received", 0) for counts in outside.values()),
            entries_out=sum(_sent(counts) for counts in inside.values()),
            acknowledgements_in=sum(counts.get("bytes_received", 0) for counts in inside.values()),
            acknowledgements_out=sum(_sent(counts) for counts in outside.values()),
        )

    def follows(self, earlier: LogTraffic) -> bool:
        """Whether it counts the same connections as an earlier reading."""
        return self.connections == earlier.connections

    def arrived(self, stream: str) -> int:
        """Bytes that reached the proxy on a Toxiproxy stream, `upstream` or `downstream`."""
        return self.entries_in if stream == "upstream" else self.acknowledgements_in

    def left(self, stream: str) -> int:
        """Bytes that left the proxy on a Toxiproxy stream."""
        return self.entries_out if stream == "upstream" else self.acknowledgements_out

    def waiting(self, stream: str) -> int:
        """Bytes that reached the proxy on a Toxiproxy stream and have not left it."""
        return self.arrived(stream) - self.left(stream)


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
