"""What the storage host of the Vagrant lab serves: NFSv4, the disk and the arbiter on an address each."""

from __future__ import annotations

from collections.abc import Sequence

from harness.lab.interface import Endpoint, Host, HostUnreachableError, LabError, TearResult
from harness.lab.topology import ARBITER_ADDRESS, DISK_PATH, STORAGE, STORAGE_PLAN

_NFS_PORT = 2049
_TABLE = "ftvmm_disk"
_REFUSAL = """\
table inet {table} {{
    chain output {{
        type filter hook output priority 0; policy accept;
        ip daddr {disk.address} tcp dport {disk.port} counter reject with tcp reset
    }}
}}
"""
# Longer than systemd gives a service to start or end.
_SERVICE_SECONDS = 120.0
_FORGET_SECONDS = 30.0


class NfsStorage:
    """See `harness.lab.interface.Storage`."""

    disk = Endpoint(STORAGE_PLAN.address(STORAGE), _NFS_PORT)
    arbiter = Endpoint(ARBITER_ADDRESS, _NFS_PORT)

    def fail_disk(self, host: Host, operations: Sequence[str]) -> None:
        """The server refuses this host's connections: its soft mount answers every operation with EIO after a while."""
        if set(operations) != {"read", "write"}:
            raise LabError(f"an NFS mount fails whole, not only for {', '.join(operations)}")
        rules = _REFUSAL.format(table=_TABLE, disk=self.disk)
        host.run(["nft", "-f", "-"], input=rules.encode(), check=True)

    def slow_disk(self, host: Host, *, pause_ms: float, serve_ms: float) -> None:
        raise LabError(f"the server of {host.name}'s disk serves the other hosts as well")

    def tear_write(self, host: Host) -> TearResult | None:
        raise LabError(f"the disk of {host.name} is a file of an NFS server: its writes cannot be held one by one")

    def restore_disk(self, host: Host) -> None:
        host.run(["nft", "delete", "table", "inet", _TABLE])

    def failed_operations(self, host: Host) -> Sequence[str]:
        listing = host.run(["nft", "list", "table", "inet", _TABLE]).stdout
        refused = [line.strip() for line in listing.splitlines() if "reject" in line and "packets 0 " not in line]
        # What they were for the filter cannot tell: to the host every operation has failed.
        return [
            f"{operation} and all else of {host.name}: {line}" for line in refused for operation in ("write", "read")
        ]

    def stop_server(self, storage_host: Host) -> None:
        storage_host.run("systemctl stop nfs-server", timeout_seconds=_SERVICE_SECONDS, check=True)

    def start_server(self, storage_host: Host) -> None:
        storage_host.run("systemctl start nfs-server", timeout_seconds=_SERVICE_SECONDS, check=True)

    def forget_cached(self, host: Host) -> None:
        """Drop the pages that the kernel keeps of it (POSIX_FADV_DONTNEED, which is what dd's `nocache` asks for).

        To open it (close-to-open) is not enough: a client that writes itself takes the server's change for its own.
        """
        try:
            host.run(f"dd if={DISK_PATH} iflag=nocache count=0 status=none", timeout_seconds=_FORGET_SECONDS)
        except HostUnreachableError:
            return  # it cannot read either
