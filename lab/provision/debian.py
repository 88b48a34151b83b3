"""The Debian packages that the lab and the build use: only those that are missing are installed."""

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lab.provision.step import Shell, StepFailed, Tree, fingerprint_of

PACKAGES = {
    "iproute2": "hosts' namespaces, links and bridges",
    "nftables": "cuts of networks",
    "iputils-ping": "reachability as a person asks for it",
    "ethtool": "whole checksums and real segment sizes on the lab's cables",
    "openssh-server": "each host's own sshd",
    "openssh-client": "keys, and the client that people use",
    "nbdkit": "disks that fail",
    "libnbd-bin": "nbdfuse, which shows such a disk as a file",
    "sshfs": "the shared directory, from the storage host",
    "fuse3": "the mounts of both",
    "util-linux": "unshare, nsenter, setpriv",
    "procps": "processes by host",
    "redis-tools": "redis-cli and redis-benchmark against the kv guest",
    "redis-server": "the server that scenarios protect as a packed Linux program",
    "memcached": "another one, with threads",
    "nginx-light": "another one, driven by edges of epoll",
    "mosquitto": "another one, whose clients keep sessions",
    "sqlite3": "a packed program on a file system",
    "openssl": "a packed program that computes",
    "etcd-server": "the arbiter `etcd`, whose members tests and scenarios kill",
    "tgt": "the iSCSI target of the arbiter `scsi-pr`, which its tests kill and freeze",
    "libiscsi7": "what the arbiter `scsi-pr` speaks to a target with",
    "strace": "which files a program opens, for `ftvmm pack --trace`",
    "gcc": "the linker that Rust and the guests use",
    "libc6-dev": "what the linker links with",
    "make": "the guests' build",
    "git": "versions in reports",
}
"""Package name to what it is here for."""

LAB_PACKAGES = {
    "vagrant": "brings the machines up as lab/Vagrantfile says",
    "vagrant-libvirt": "its provider for libvirt",
    "libvirt-daemon-system": "libvirtd, which keeps the machines",
    "libvirt-clients": "virsh",
    "qemu-system-x86": "the machines themselves",
    "qemu-utils": "their disks, and the box's",
    "e2fsprogs": "what the disk of a host without power holds",
    "dnsmasq-base": "their addresses on the operator's network",
}
"""The same for what the Vagrant lab needs beside them."""

SERVICES = {
    "openssh-server": ("ssh",),
    "redis-server": ("redis-server",),
    "memcached": ("memcached",),
    "nginx-light": ("nginx",),
    "mosquitto": ("mosquitto",),
    "etcd-server": ("etcd",),
    "tgt": ("tgt",),
    "libvirt-daemon-system": ("libvirtd", "virtlogd", "libvirt-guests"),
}
"""Package name to the services that it would have started at the machine's next boot."""

INIT_SCRIPTS = Path("/etc/init.d")
POLICY_FILE = Path("/usr/sbin/policy-rc.d")
POLICY_MARK = "ftvmm set-up: services stay stopped while packages are being installed"
POLICY = f"#!/bin/sh\n# {POLICY_MARK}\nexit 101\n"
"""invoke-rc.d asks this file before it starts anything; 101 means 'forbidden' (Debian's policy-rc.d specification)."""


@dataclass(frozen=True)
class DebianPackages:
    """Installs what is missing, and starts no service: each host of the lab runs its own sshd, each lab its libvirt.

    Attributes:
        name: of the step.
        title: what a person reads.
        packages: package name to what it is here for.
    """

    name: str = "debian-packages"
    title: str = "Debian packages"
    packages: Mapping[str, str] = field(default_factory=lambda: PACKAGES)

    def fingerprint(self, tree: Tree) -> str:
        return fingerprint_of(root=tree.root, paths=[], facts=sorted(self._wanted()))

    def is_present(self, tree: Tree) -> bool:
        return not _missing(self._wanted())

    def carry_out(self, tree: Tree, shell: Shell) -> None:
        missing = _missing(self._wanted())
        if not missing:
            return
        environment = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8", "NEEDRESTART_MODE": "l"}
        install = ["apt-get", "-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Use-Pty=0"]
        install += ["install", "--yes", "--no-install-recommends", *missing]
        _forget_policy_left_behind()
        shell.run(
            ["dpkg", "--configure", "-a"],
            failure="An earlier package installation was interrupted and `dpkg --configure -a` cannot finish it.",
            environment=environment,
        )
        with_policy = not POLICY_FILE.exists()
        if with_policy:
            POLICY_FILE.write_text(POLICY)
            POLICY_FILE.chmod(0o755)
        try:
            try:
                # The lists that are here often do; asking every mirror takes longer than the rest of this step.
                shell.run(install, failure="first try", environment=environment)
            except StepFailed:
                shell.run(
                    ["apt-get", "-o", "DPkg::Lock::Timeout=300", "update"],
                    failure="`apt-get update` failed: check this machine's Debian mirrors (/etc/apt/sources.list).",
                    environment=environment,
                )
                sentence = f"apt-get could not install {' '.join(missing)}: see what it says above."
                shell.run(install, failure=sentence, environment=environment)
        finally:
            if with_policy:
                POLICY_FILE.unlink(missing_ok=True)
        # These turn themselves on for the next boot, which would open a machine that had no sshd before, or put a
        # libvirt with bridges and filter rules on it. The labs start their own.
        for service in _services_to_disable(missing):
            shell.run(["update-rc.d", service, "disable"], failure=f"{service}, just installed, could not be disabled.")

    def _wanted(self) -> list[str]:
        wanted = list(self.packages)
        if Path(sys.executable).resolve().is_relative_to("/usr/bin"):
            wanted.append("python3-venv")  # Debian splits ensurepip off its own Python
        return wanted


def _missing(packages: list[str]) -> list[str]:
    answer = subprocess.run(
        ["dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\n", *packages],
        capture_output=True,
        text=True,
        check=False,  # it exits with 1 when it does not know one of them
    )
    installed = {line.split()[0] for line in answer.stdout.splitlines() if line.endswith(" installed")}
    return [package for package in packages if package not in installed]


def _services_to_disable(installed: list[str]) -> list[str]:
    """A service without an init script has nothing to disable, and update-rc.d calls that an error."""
    services = [service for package in installed for service in SERVICES.get(package, ())]
    return [service for service in services if (INIT_SCRIPTS / service).exists()]


def _forget_policy_left_behind() -> None:
    if POLICY_FILE.is_file() and POLICY_MARK in POLICY_FILE.read_text(errors="replace"):
        POLICY_FILE.unlink()
