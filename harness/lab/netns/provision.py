"""What is on a host's disk before its first boot: sshd's configuration, keys, the network's set-up, the services."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from harness.lab import topology
from harness.lab.host_files import hosts_file, network_batch, toxiproxy_configuration
from harness.lab.interface import HostRole
from harness.lab.ssh import SshKey
from harness.lab.topology import HOSTS, STORAGE_PLAN, HostPlan

CONFIGURATION = "/etc/ftvmm-lab"

_SSHD = f"""\
ListenAddress 0.0.0.0
HostKey {CONFIGURATION}/host_key
AuthorizedKeysFile {CONFIGURATION}/authorized_keys
PubkeyAuthentication yes
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UsePAM no
UseDNS no
PidFile none
MaxSessions 1000
MaxStartups 100:30:200
Subsystem sftp internal-sftp
LogLevel ERROR
SetEnv PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
"""

# sshfs asks the storage host each time (no cache of names, attributes or data) and writes through, so that what one
# host linked or wrote is what the other sees. It never gives up on a silent server: a cut shows as a hang.
_SSHFS_OPTIONS = (
    "direct_io,dir_cache=no,sshfs_sync,attr_timeout=0,entry_timeout=0,negative_timeout=0,"
    f"IdentityFile={CONFIGURATION}/storage_key,UserKnownHostsFile={CONFIGURATION}/known_hosts,"
    "StrictHostKeyChecking=yes,BatchMode=yes,Ciphers=aes128-gcm@openssh.com"
)


@dataclass(frozen=True)
class RunKeys:
    """All keys of a run."""

    operator: SshKey
    storage: SshKey
    hosts: dict[str, SshKey]

    @classmethod
    def generate(cls) -> RunKeys:
        """Draw them all."""
        return cls(SshKey.generate(), SshKey.generate(), {plan.name: SshKey.generate() for plan in HOSTS})


@dataclass(frozen=True)
class Disk:
    """What a host keeps over a power cycle: upper layers over this machine's /etc and /var."""

    path: Path

    def create(self) -> None:
        """Make an empty disk."""
        for directory in ("etc", "var"):
            for layer in ("upper", "work"):
                (self.path / directory / layer).mkdir(parents=True)

    def _place(self, path: str) -> Path:
        """Where a file is that the host has at `path` (below /etc or /var)."""
        _, top, rest = path.split("/", 2)
        return self.path / top / "upper" / rest

    def read(self, path: str) -> bytes:
        """A file that was written since the disk was made. Only while the host is off."""
        return self._place(path).read_bytes()

    def size(self, path: str) -> int:
        """How long such a file is, at any time; 0 where there is none."""
        try:
            return self._place(path).stat().st_size
        except FileNotFoundError:
            return 0

    def write(self, path: str, content: bytes | str, mode: int = 0o644) -> None:
        """Put a file where the host will see it at `path`. Only while the host is off."""
        target = self._place(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.encode() if isinstance(content, str) else content)
        target.chmod(mode)


def block_pause(host: str) -> str:
    """The socket on the storage host by which the disk's server for an FT host is paused."""
    return f"/run/block-{host}.pause"


def provision(disk: Disk, plan: HostPlan, keys: RunKeys, toxiproxy: Path, disk_bytes: int) -> None:
    """Fill the disk of a new host."""
    disk.create()
    authorized = keys.operator.public + "\n"
    if plan.role is HostRole.STORAGE:
        authorized += keys.storage.public + "\n"
    disk.write(f"{CONFIGURATION}/sshd_config", _SSHD)
    disk.write(f"{CONFIGURATION}/host_key", keys.hosts[plan.name].private, 0o600)
    disk.write(f"{CONFIGURATION}/authorized_keys", authorized, 0o600)
    disk.write(f"{CONFIGURATION}/network.batch", network_batch(plan))
    disk.write("/etc/hosts", hosts_file(plan))
    disk.write("/etc/hostname", plan.name + "\n")
    if plan.role is HostRole.STORAGE:
        disk.write(f"{CONFIGURATION}/services.sh", _storage_services())
        disk.write(f"{topology.STORAGE_ARBITER}/.keep", b"")
        disk.write(f"{topology.STORAGE_FAULTS}/.keep", b"")
        disk.write(topology.STORAGE_IMAGE, b"")
        with (disk.path / "var/upper" / topology.STORAGE_IMAGE.removeprefix("/var/")).open("r+b") as image:
            image.truncate(disk_bytes)
    if plan.role is HostRole.FAULT_TOLERANT:
        storage = STORAGE_PLAN.address(topology.STORAGE)
        disk.write(f"{CONFIGURATION}/storage_key", keys.storage.private, 0o600)
        disk.write(f"{CONFIGURATION}/known_hosts", f"{storage} {keys.hosts[STORAGE_PLAN.name].public}\n")
        disk.write(f"{CONFIGURATION}/toxiproxy.json", toxiproxy_configuration(plan))
        disk.write(f"{CONFIGURATION}/services.sh", _fault_tolerant_services(plan, toxiproxy))


# A disk is read past the page cache. Its server is another machine's, and its client a kernel's: neither may wait for
# this machine's guests. Below the VMM's own real-time threads.
_AHEAD = "chrt --rr 5"


def _storage_services() -> str:
    address = STORAGE_PLAN.address(topology.STORAGE)
    # A server that may write no further (`NetnsStorage.tear_write`) is to say so, and not to be killed for it.
    lines = ["trap '' XFSZ"]
    for plan in topology.FAULT_TOLERANT_PLANS:
        # One server a host over one image: a host's disk can fail alone, and its log tells who wrote what and when.
        lines.append(
            f"{_AHEAD} nbdkit --foreground --ipaddr {address} --port {topology.block_port(plan)}"
            " --filter=log --filter=error --filter=pause"
            f" file {topology.STORAGE_IMAGE} logfile=/var/log/block-{plan.name}.log"
            f" pause-control={block_pause(plan.name)}"
            f" error-pread-rate=100% error-pread-file={topology.STORAGE_FAULTS}/{plan.name}.read"
            f" error-pwrite-rate=100% error-pwrite-file={topology.STORAGE_FAULTS}/{plan.name}.write"
            f" </dev/null >>/var/log/nbdkit-{plan.name}.log 2>&1 9>&- &"
        )
    return "\n".join(lines) + "\n"


def _fault_tolerant_services(plan: HostPlan, toxiproxy: Path) -> str:
    storage = STORAGE_PLAN.address(topology.STORAGE)
    directory, _, file = topology.DISK_PATH.rpartition("/")
    return f"""\
{shlex.quote(str(toxiproxy))} -host 127.0.0.1 -port {topology.TOXIPROXY_API_PORT} \\
    -config {CONFIGURATION}/toxiproxy.json </dev/null >>/var/log/toxiproxy.log 2>&1 9>&- &
# In a cgroup of their own: were they frozen first, a VMM that waits for its disk could never be frozen itself.
# They are tried again until the storage host is up, as its own boot may still be under way.
(
    echo 0 >&9
    exec 9>&- </dev/null >>/var/log/storage.log 2>&1
    until sshfs -f root@{storage}:{topology.STORAGE_ARBITER} {topology.ARBITER_PATH} -o {_SSHFS_OPTIONS}; do
        ! grep -q ' {topology.ARBITER_PATH} fuse' /proc/mounts || umount --lazy {topology.ARBITER_PATH}
        sleep 0.1
    done
) &
(
    echo 0 >&9
    exec 9>&- </dev/null >>/var/log/storage.log 2>&1
    until {_AHEAD} nbdfuse {directory}/{file} nbd://{storage}:{topology.block_port(plan)}; do
        ! grep -q ' {directory} fuse' /proc/mounts || umount --lazy {directory}
        sleep 0.1
    done
) &
"""
