"""What is installed on each host, as one archive a host: wheels, Toxiproxy, images, scripts, configuration."""

from __future__ import annotations

import hashlib
import io
import shlex
import tarfile
from pathlib import Path

from harness.lab import topology
from harness.lab.host_files import hosts_file, network_batch, toxiproxy_configuration
from harness.lab.interface import Host, HostRole
from harness.lab.topology import HOSTS, NETWORKS, STORAGE, STORAGE_PLAN, HostPlan
from harness.lab.vagrant.lab import IMAGE_DIRECTORY
from harness.lab.vagrant.state import PROJECT
from lab.vagrant.wheelhouse import HOSTS_PYTHON

_SCRIPTS = PROJECT / "lab" / "host"
_LIBRARY = "usr/local/lib/ftvmm-lab"
_CONFIGURATION = "etc/ftvmm-lab"
_ENVIRONMENT = "opt/ftvmm"
# What nothing uses until a scenario starts it: it can be replaced on a host that runs.
STARTED_BY_SCENARIOS = (f"{_ENVIRONMENT}/", f"{IMAGE_DIRECTORY.lstrip('/')}/")
STORAGE_MIB = 256
# Megabytes over SSH to an emulated machine.
_INSTALL_SECONDS = 900.0


def write_archives(directory: Path, *, packages: Path, toxiproxy: Path, operator_key: str, disk_mib: int) -> None:
    """Write `<host>.tar` for every host: not compressed, as an emulated machine would take long to unpack it.

    Args:
        directory: where they go.
        packages: directory of installed Python packages, the project's own among them.
        toxiproxy: the server's binary.
        operator_key: who may log in as root, an authorized_keys line.
        disk_mib: size of the VM's disk image.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for plan in HOSTS:
        path = directory / f"{plan.name}.tar"
        # In another's place, not over it: a machine that runs may have the old one as its disc.
        temporary = path.with_suffix(".new")
        with tarfile.open(temporary, "w") as archive:
            for name, content in _configuration(plan, operator_key, disk_mib).items():
                _add(archive, f"{_CONFIGURATION}/{name}", content.encode())
            for script in sorted(_SCRIPTS.glob("*.sh")):
                _add(archive, f"{_LIBRARY}/{script.name}", script.read_bytes(), mode=0o755)
            _add_environment(archive, packages)
            if plan.role is HostRole.FAULT_TOLERANT:
                _add(archive, "usr/local/bin/ftvmm-toxiproxy", toxiproxy.read_bytes(), mode=0o755)
                for image in sorted((PROJECT / "ftvmm" / "guests" / "images").glob("*.hvt")):
                    _add(archive, f"{IMAGE_DIRECTORY.lstrip('/')}/{image.name}", image.read_bytes())
        temporary.replace(path)


def digest_of(directory: Path, *, leave_out: tuple[str, ...] = ()) -> str:
    """One digest of all archives: the same as long as the hosts would have the same installed.

    Left out is what has other bytes each time that it is made: compiled Python, and wheels' records of themselves; and
    what is below the paths of `leave_out`.
    """
    digest = hashlib.sha256()
    for path in sorted(directory.glob("*.tar")):
        digest.update(f"{path.name}\0".encode())
        with tarfile.open(path) as archive:
            for entry in archive:
                varies = entry.name.endswith(".pyc") or ".dist-info/" in entry.name
                if not varies and not entry.name.startswith(leave_out):
                    content = archive.extractfile(entry) if entry.isfile() else None
                    digest.update(f"{entry.name}\0{entry.mode}\0{entry.linkname}\0{entry.size}\0".encode())
                    digest.update(content.read() if content else b"")
    return digest.hexdigest()


def install_anew(host: Host, directory: Path) -> None:
    """Give a host that is up its archive and install it, as its provisioning did when it was made.

    Raises:
        LabError: the host could not be given it.
    """
    archive = (directory / f"{host.name}.tar").read_bytes()
    packages = f"/{_ENVIRONMENT}/lib"
    unpack = f"rm -rf {packages} && tar -C / --no-same-owner -xf - && /{_LIBRARY}/install.sh"
    host.run(unpack, input=archive, timeout_seconds=_INSTALL_SECONDS, check=True)


def _add(archive: tarfile.TarFile, name: str, content: bytes, *, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))


def _add_environment(archive: tarfile.TarFile, packages: Path) -> None:
    """A virtual environment on the host's own Python (PEP 405: a link and a file make one)."""
    _add(archive, f"{_ENVIRONMENT}/pyvenv.cfg", b"home = /usr/bin\ninclude-system-site-packages = false\n")
    link = tarfile.TarInfo(f"{_ENVIRONMENT}/bin/python")
    link.type, link.linkname = tarfile.SYMTYPE, "/usr/bin/python3"
    archive.addfile(link)
    library = f"{_ENVIRONMENT}/lib/python{HOSTS_PYTHON[0]}.{HOSTS_PYTHON[1]}/site-packages"
    for path in sorted(packages.rglob("*")):
        if path.is_file():
            _add(archive, f"{library}/{path.relative_to(packages)}", path.read_bytes())


def _configuration(plan: HostPlan, operator_key: str, disk_mib: int) -> dict[str, str]:
    more = {STORAGE: topology.ARBITER_ADDRESS} if plan.role is HostRole.STORAGE else {}
    # The operator's interface is Vagrant's: named and addressed by the box.
    lines = network_batch(plan, more).splitlines()
    batch = "\n".join(line for line in lines if topology.OPERATOR not in line.split()) + "\n"
    links = [f"{plan.hardware_address(network)} {network}" for network in plan.networks if network != topology.OPERATOR]
    files = {
        "host.conf": _variables(plan, disk_mib),
        "network.batch": batch,
        "links": "\n".join(links) + "\n",
        "hosts": hosts_file(plan),
        "authorized_keys": operator_key + "\n",
    }
    if plan.role is HostRole.FAULT_TOLERANT:
        files["toxiproxy.json"] = toxiproxy_configuration(plan)
    return files


def _variables(plan: HostPlan, disk_mib: int) -> str:
    values = {
        "HOST": plan.name,
        "ROLE": plan.role.value,
        "TOXIPROXY_API_PORT": topology.TOXIPROXY_API_PORT,
        "DISK_DIRECTORY": str(Path(topology.DISK_PATH).parent),
        "ARBITER_PATH": topology.ARBITER_PATH,
        "DISK_ADDRESS": STORAGE_PLAN.address(STORAGE),
        "ARBITER_ADDRESS": topology.ARBITER_ADDRESS,
        "DISK_TIMEOUT_DECISECONDS": 50,
        "STORAGE_NETWORK": NETWORKS[STORAGE].prefix,
        "STORAGE_DEVICE": topology.STORAGE_DEVICE,
        "STORAGE_DIRECTORY": topology.STORAGE_DIRECTORY,
        "STORAGE_IMAGE": topology.STORAGE_IMAGE,
        "STORAGE_ARBITER": topology.STORAGE_ARBITER,
        "STORAGE_FAULTS": topology.STORAGE_FAULTS,
        "STORAGE_MIB": STORAGE_MIB,
        "DISK_MIB": disk_mib,
    }
    return "".join(f"{name}={shlex.quote(str(value))}\n" for name, value in values.items())
