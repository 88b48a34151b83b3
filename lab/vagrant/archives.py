"""What is installed on each host, as one archive a host, made from the project as it is now.

It is wheels, Toxiproxy, images, scripts and configuration. The wheels are collected and installed here, as the
machines have no network.
"""

from __future__ import annotations

import compileall
import hashlib
import io
import py_compile
import shlex
import shutil
import subprocess
import sys
import tarfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

from harness.lab import topology
from harness.lab.host_files import hosts_file, network_batch, toxiproxy_configuration, toxiproxy_server
from harness.lab.interface import Host, HostRole, LabError
from harness.lab.ssh import SshKey
from harness.lab.topology import DISK_MIB, HOSTS, NETWORKS, STORAGE, STORAGE_PLAN, HostPlan
from harness.lab.vagrant.lab import IMAGE_DIRECTORY
from harness.lab.vagrant.state import PROJECT, lab_that_is_up
from lab.vagrant.vagrant import archives_of

_SCRIPTS = PROJECT / "lab" / "host"
_LIBRARY = "usr/local/lib/ftvmm-lab"
_CONFIGURATION = "etc/ftvmm-lab"
_ENVIRONMENT = "opt/ftvmm"
# What nothing uses until a scenario starts it: it can be replaced on a host that runs.
STARTED_BY_SCENARIOS = (f"{_ENVIRONMENT}/", f"{IMAGE_DIRECTORY.lstrip('/')}/")
STORAGE_MIB = 256
# Megabytes over SSH to an emulated machine.
_INSTALL_SECONDS = 900.0
# The hosts' Python is Debian 12's, whichever runs this.
HOSTS_PYTHON = (3, 11)
LAB_CORE = "_core_lab.abi3.so"
_TARGET = (
    f"--python-version={HOSTS_PYTHON[0]}.{HOSTS_PYTHON[1]}",
    "--implementation=cp",
    "--abi=cp311",
    "--abi=abi3",
    "--abi=none",
)
_PLATFORMS = ("manylinux_2_36_x86_64", "manylinux_2_34_x86_64", "manylinux_2_28_x86_64", "manylinux2014_x86_64")


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


def build_wheelhouse(directory: Path) -> None:
    """Fill the directory anew.

    Raises:
        LabError: the wheel cannot be built or another's cannot be had; the message has the end of what was said.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.glob("ftvmm-*.whl"):
        old.unlink()
    maturin = [sys.executable, "-m", "maturin", "build", "--release", "--quiet", "--interpreter", sys.executable]
    _run_pip([*maturin, "--out", str(directory)], "the project's wheel cannot be built")
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["hosts"]]
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    download += ["--only-binary=:all:", *_TARGET, *(f"--platform={platform}" for platform in _PLATFORMS)]
    download += ["--constraint", str(PROJECT / "lab/provision/constraints.txt"), "--find-links", str(directory)]
    _run_pip([*download, "--dest", str(directory), *wanted], "the wheels that the hosts need cannot be had")


def install_wheels(wheelhouse: Path, directory: Path) -> None:
    """Install the project and what its hosts need into a directory of packages, from the wheelhouse alone.

    Done once here for all hosts: pip takes minutes on an emulated machine.
    """
    shutil.rmtree(directory, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "--no-index"]
    pip += [
        "--root-user-action=ignore",
        "--only-binary=:all:",
        *_TARGET,
        *(f"--platform={name}" for name in _PLATFORMS),
    ]
    pip += ["--find-links", str(wheelhouse), "--target", str(directory), "--no-compile", "ftvmm[hosts]"]
    _run_pip(pip, "the wheels cannot be installed for the hosts")
    # No wheel has the lab's build_wheelhouse of the core, and nobody else needs it.
    shutil.copy(PROJECT / "ftvmm" / LAB_CORE, directory / "ftvmm" / LAB_CORE)
    if sys.version_info[:2] == HOSTS_PYTHON:
        compileall.compile_dir(
            directory, quiet=1, stripdir=str(directory), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
        )


def _run_pip(command: list[str], failure: str) -> None:
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"{failure}: {(done.stderr or done.stdout).strip()[-2000:]}")


@dataclass(frozen=True)
class Contents:
    """Digests of what the hosts are given.

    Attributes:
        installed: of all of it.
        running: of what is in use from a host's start on, and is taken in by another start only: scripts that have run,
            programs that run, their configuration.
    """

    installed: str
    running: str


def write_contents(directory: Path) -> Contents:
    """Build the project's wheel and write every host's archive.

    Args:
        directory: the lab's.

    Raises:
        LabError: the wheel cannot be built, or another's cannot be had.
    """
    build_wheelhouse(directory / "wheelhouse")
    install_wheels(directory / "wheelhouse", directory / "packages")
    archives = archives_of(directory)
    write_archives(
        archives,
        packages=directory / "packages",
        toxiproxy=toxiproxy_server(),
        operator_key=operator_key(directory).public,
        disk_mib=DISK_MIB,
    )
    return Contents(digest_of(archives), digest_of(archives, leave_out=STARTED_BY_SCENARIOS))


def operator_key(directory: Path) -> SshKey:
    """The lab's own key, which opens its hosts; made when there is none yet."""
    private, public = directory / "operator_key", directory / "operator_key.pub"
    if private.exists() and public.exists():
        return SshKey(private.read_bytes(), public.read_text().strip())
    key = SshKey.generate()
    private.touch(mode=0o600)
    private.write_bytes(key.private)
    public.write_text(key.public + "\n")
    return key


def require_current(directory: Path) -> None:
    """See that the lab is up and has the project as it is now: scenarios on another would judge what nobody looks at.

    Raises:
        LabError: it is not, or it has not.
    """
    state = lab_that_is_up(directory)
    if write_contents(directory).installed != state.installed:
        raise LabError(
            "the project has changed since the Vagrant lab got it: run `make lab-up`, which installs it anew"
        )
