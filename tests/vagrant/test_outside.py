"""What the Vagrant lab does on this machine before and after there are machines: no machine is needed for these."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from harness.lab.interface import LabError
from harness.lab.process_identity import ProcessIdentity
from harness.lab.topology import HOSTS, OPERATOR
from harness.lab.vagrant.state import Door, LabState, lab_that_is_up, read_state
from lab.vagrant import rack
from lab.vagrant.archives import digest_of, write_archives
from lab.vagrant.up import acceleration, down, plan, up

PROJECT = Path(__file__).resolve().parents[2]
DOOR = Door("10.9.0.7", 22, "ssh-ed25519 AAAA")


def command(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lab.vagrant", "--directory", str(directory), *arguments],
        capture_output=True,
        text=True,
        cwd=PROJECT,
        check=False,
    )


@pytest.mark.parametrize(
    "arguments", [("status",), ("ssh", "host-a"), ("reset",), ("check",)], ids=lambda arguments: arguments[0]
)
def test_without_a_lab_every_command_says_what_to_do(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = command(tmp_path, *arguments)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "run `make lab-up`" in done.stderr


def test_an_unknown_host_is_named(tmp_path: Path) -> None:
    done = command(tmp_path, "ssh", "host-z")
    assert done.returncode == 2
    assert "host-z" in done.stderr


def test_going_down_without_a_lab_is_no_error(tmp_path: Path) -> None:
    done = command(tmp_path, "down")
    assert done.returncode == 0
    assert "there was no lab" in done.stderr


def test_a_state_is_read_as_it_was_written(tmp_path: Path) -> None:
    state = LabState("libvirt", "tcg", ProcessIdentity.own(), {"host-a": DOOR}, "fresh")
    state.write(tmp_path)
    assert read_state(tmp_path) == state
    assert lab_that_is_up(tmp_path) == state


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"provider": 1}', '{"doors": {"a": 1}}'])
def test_a_damaged_state_is_named_and_can_be_taken_down(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(LabError, match=r"state\.json cannot be read .*make lab-down"):
        read_state(tmp_path)
    said: list[str] = []
    down(tmp_path, progress=said.append)
    assert read_state(tmp_path) is None


def test_what_a_lab_with_a_damaged_state_left_is_ended(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "600"]) as left:
        (tmp_path / "rack.json").write_text(json.dumps(dataclasses.asdict(ProcessIdentity.of(left.pid))))
        (tmp_path / "state.json").write_text("{")
        said: list[str] = []
        down(tmp_path, progress=said.append)
        assert left.wait(10) == -signal.SIGKILL
    assert not list(tmp_path.iterdir())


def test_a_lab_from_before_this_machines_start_is_not_up(tmp_path: Path) -> None:
    own = ProcessIdentity.own()
    LabState("libvirt", "tcg", ProcessIdentity(own.pid, own.start_ticks - 1), {"host-a": DOOR}).write(tmp_path)
    with pytest.raises(LabError, match="make lab-up"):
        lab_that_is_up(tmp_path)


def test_nothing_of_a_lab_from_before_this_machines_start_is_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its disks are as a scenario left them: a run would judge the traces of another."""

    def no_box() -> dict[str, str]:
        raise LabError("no box")

    own = ProcessIdentity.own()
    LabState("libvirt", "tcg", ProcessIdentity(own.pid, own.start_ticks - 1), {"host-a": DOOR}).write(tmp_path)
    disk = tmp_path / "libvirt" / "images" / "host-a-vdb.qcow2"
    disk.parent.mkdir(parents=True)
    disk.touch()
    monkeypatch.setattr("lab.vagrant.up.box_settings", no_box)
    said: list[str] = []
    with pytest.raises(LabError, match="no box"):
        up(tmp_path, provider="libvirt", progress=said.append)
    assert "its machines are made anew" in said[0]
    assert not disk.exists()
    assert read_state(tmp_path) is None


@pytest.mark.parametrize(
    ("flags", "node", "wanted"),
    [("fpu svm", True, "kvm"), ("fpu vmx", True, "kvm"), ("fpu", True, "tcg"), ("fpu svm", False, "tcg")],
)
def test_the_processor_says_whether_machines_are_accelerated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, node: bool, wanted: str
) -> None:
    monkeypatch.delenv("LAB_ACCEL", raising=False)
    cpuinfo, device = tmp_path / "cpuinfo", tmp_path / "kvm"
    cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    if node:
        device.touch()
    assert acceleration(cpuinfo, device) == wanted
    monkeypatch.setenv("LAB_ACCEL", "tcg")
    assert acceleration(cpuinfo, device) == "tcg"
    monkeypatch.setenv("LAB_ACCEL", "fast")
    with pytest.raises(LabError, match="LAB_ACCEL is 'fast'"):
        acceleration(cpuinfo, device)


def test_the_plan_has_every_interface_but_the_operators() -> None:
    hosts = {host["name"]: host for host in plan()["hosts"]}
    assert list(hosts) == [host.name for host in HOSTS]
    for host in HOSTS:
        named = [interface["network"] for interface in hosts[host.name]["interfaces"]]
        assert named == [network for network in host.networks if network != OPERATOR]
    ports = [interface["port"] for host in hosts.values() for interface in host["interfaces"]]
    assert len(set(ports)) == len(ports)
    assert max(map(len, ports)) <= 15  # IFNAMSIZ, with its zero
    assert json.loads(json.dumps(plan())) == plan()


def fill(directory: Path, packages: Mapping[str, str], operator_key: str = "ssh-ed25519 A") -> Path:
    """Write archives with these files as the packages; where they are."""
    shutil.rmtree(directory, ignore_errors=True)
    for name, content in packages.items():
        (directory / "packages" / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / "packages" / name).write_text(content)
    (directory / "toxiproxy").write_bytes(b"ELF")
    archives, toxiproxy = directory / "hosts", directory / "toxiproxy"
    write_archives(
        archives, packages=directory / "packages", toxiproxy=toxiproxy, operator_key=operator_key, disk_mib=16
    )
    return archives


def test_the_digest_tells_whether_the_hosts_have_something_else_installed(tmp_path: Path) -> None:
    files = {"ftvmm/node.py": "one", "ftvmm/__pycache__/node.pyc": "one", "ftvmm-0.1.dist-info/RECORD": "one"}
    digest = digest_of(fill(tmp_path / "a", files))
    same = {**files, "ftvmm/__pycache__/node.pyc": "other bytes", "ftvmm-0.1.dist-info/RECORD": "another serial"}
    assert digest_of(fill(tmp_path / "b", same)) == digest
    assert digest_of(fill(tmp_path / "b", {**files, "ftvmm/node.py": "two"})) != digest
    assert digest_of(fill(tmp_path / "b", {**files, "ftvmm/more.py": ""})) != digest
    assert digest_of(fill(tmp_path / "b", files, operator_key="ssh-ed25519 B")) != digest


def test_every_host_gets_what_it_needs_and_no_more(tmp_path: Path) -> None:
    hosts = fill(tmp_path, {"ftvmm/__init__.py": ""})
    contents = {}
    for host in HOSTS:
        with tarfile.open(hosts / f"{host.name}.tar") as archive:
            contents[host.name] = {entry.name: entry for entry in archive.getmembers()}
            batch = archive.extractfile("etc/ftvmm-lab/network.batch")
            assert batch is not None
            assert OPERATOR.encode() not in batch.read()
    for names in contents.values():
        assert "opt/ftvmm/lib/python3.11/site-packages/ftvmm/__init__.py" in names
        assert names["usr/local/lib/ftvmm-lab/install.sh"].mode == 0o755
    assert "usr/local/bin/ftvmm-toxiproxy" in contents["host-a"]
    assert "usr/local/bin/ftvmm-toxiproxy" not in contents["storage"]
    assert "usr/local/share/ftvmm/kv.hvt" in contents["host-b"]
    assert "usr/local/share/ftvmm/kv.hvt" not in contents["client"]


@pytest.mark.skipif(shutil.which("libvirtd") is None, reason="libvirt is not installed: `make lab-setup` installs it")
def test_a_rack_has_a_libvirt_and_leaves_nothing_behind(tmp_path: Path) -> None:
    def outside() -> tuple[str, ...]:
        links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
        rules = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
        groups = sorted(str(path) for path in Path("/sys/fs/cgroup").rglob("*qemu*"))
        return (
            links,
            rules,
            Path("/proc/sys/net/ipv4/ip_forward").read_text(),
            *groups,
            *map(str, Path("/run").iterdir()),
        )

    before = outside(), Path("/proc/self/mounts").read_text()
    process = rack.start(tmp_path)
    LabState("libvirt", "tcg", process).write(tmp_path)
    virsh = ["virsh", "--connect", "qemu:///system"]
    inside = subprocess.run(
        rack.enter(process, [*virsh, "list", "--all", "--name"]), capture_output=True, text=True, check=True
    )
    assert inside.stdout.strip() == ""
    pids = subprocess.run(rack.enter(process, ["pgrep", "libvirtd"]), capture_output=True, text=True, check=True)
    assert pids.stdout.strip()
    assert outside() == before[0]
    said: list[str] = []
    assert down(tmp_path, progress=said.append)
    assert not process.is_alive()
    assert (outside(), Path("/proc/self/mounts").read_text()) == before
    assert read_state(tmp_path) is None
