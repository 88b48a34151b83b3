"""The provider VirtualBox, as far as it goes without one: what is read, what is composed, what is said.

The `VBoxManage` of these tests writes down its arguments and answers from files: no VirtualBox runs here. The machine's
process is a real one, under the command line that `VBoxManage startvm` gives it.
"""

from __future__ import annotations

import io
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from rich.console import Console

from harness.lab.interface import Capability, LabError
from harness.lab.topology import CLIENT, HOSTS, LOGGING, MANAGEMENT, OPERATOR, STORAGE
from harness.lab.vagrant.hypervisor import capabilities_of, machines_of
from harness.lab.vagrant.lab import VagrantLab
from harness.lab.vagrant.libvirt import LibvirtMachines
from harness.lab.vagrant.state import Door, LabState
from harness.lab.vagrant.virtualbox import VirtualBoxMachines, adapter_number, identifiers, machine_state
from harness.lab.waiting import wait_until
from lab.vagrant.__main__ import show_status
from lab.vagrant.up import down
from lab.vagrant.vagrant import Vagrant, addresses, fetch_box

PROJECT = Path(__file__).resolve().parents[2]
HOST_STORAGE, HOST_A, *_, HOST_CLIENT = HOSTS
UUID = "1bf3464d-57c6-4d49-92a9-a5cc3816b7e7"
OTHER_UUID = "cb568998-d8b4-40d4-a6e7-c92aea5aee3d"
LISTING = f'"ftvmm-host-a" {{{UUID}}}\n"host-a" {{{OTHER_UUID}}}\n"<inaccessible>" {{{OTHER_UUID}}}\n'
INFORMATION = """\
name="ftvmm-host-a"
description="says
VMState=\\"running\\""
UUID="1bf3464d-57c6-4d49-92a9-a5cc3816b7e7"
memory=768
VMState="{state}"
VMStateChangeTime="2026-01-02T03:04:05.000000000"
nic1="nat"
nictrace1="off"
"""
SSH_CONFIGURATION = """\
Host storage
  HostName 127.0.0.1
  User vagrant
  Port 2222
  UserKnownHostsFile /dev/null
  StrictHostKeyChecking no
  PasswordAuthentication no
  IdentityFile "/a directory/Host key"
  IdentitiesOnly yes
  LogLevel FATAL

Host host-a
  HostName 127.0.0.1
  User vagrant
  Port 2200
  LogLevel FATAL

"""


class FakeManage:
    """A program VBoxManage on PATH: its calls, and what it answers."""

    def __init__(self, directory: Path) -> None:
        files = (directory / name for name in ("calls", "information", "fails", "vms"))
        self._calls, self._information, self._failing, self._listing = files
        self._listing.write_text(LISTING)
        self._failing.write_text("")
        self.answer("running")
        program = directory / "VBoxManage"
        program.write_text(
            f"""#!/bin/sh
            cd {directory}
            echo "$*" >>calls
            [ "$*" != "$(cat fails)" ] || {{ echo "VBoxManage: error: it did not please" >&2; exit 1; }}
            case $1 in list) cat vms ;; showvminfo) cat information ;; esac
            """
        )
        program.chmod(0o755)

    def answer(self, state: str) -> None:
        self._information.write_text(INFORMATION.format(state=state))

    def know(self, machines: Mapping[str, str]) -> None:
        self._listing.write_text("".join(f'"{name}" {{{uuid}}}\n' for name, uuid in machines.items()))

    def fail(self, call: str) -> None:
        self._failing.write_text(call)

    def calls(self) -> list[str]:
        """What was called since the last look."""
        said = self._calls.read_text().splitlines() if self._calls.exists() else []
        self._calls.write_text("")
        return said


@pytest.fixture
def manage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeManage:
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    return FakeManage(directory)


def headless(uuid: str) -> subprocess.Popen[bytes]:
    """A process that waits, under the name and with the arguments of VirtualBox's."""
    arguments = ["/usr/lib/virtualbox/VBoxHeadless", "-c", "read line; exit", "--comment", "ftvmm-host-a"]
    bash = shutil.which("bash")
    return subprocess.Popen([*arguments, "--startvm", uuid, "--vrde", "config"], executable=bash, stdin=subprocess.PIPE)


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    other, machine = headless(OTHER_UUID), headless(UUID)
    try:
        yield machine
        assert other.poll() is None, "another machine's process was ended"
    finally:
        for each in (other, machine):
            each.kill()
            each.communicate()


def test_the_state_is_read_from_showvminfo() -> None:
    assert machine_state(INFORMATION.format(state="aborted-saved")) == "aborted-saved"
    with pytest.raises(LabError, match="VMState"):
        machine_state('name="ftvmm-host-a"\nVMStateChangeTime="2026"\n')


def test_a_machine_is_found_by_its_whole_name() -> None:
    assert identifiers(LISTING)["ftvmm-host-a"] == UUID
    assert "ftvmm-host" not in identifiers(LISTING)
    assert identifiers("") == {}


def test_adapters_follow_vagrants_own_in_the_order_of_the_plan() -> None:
    assert [adapter_number(HOST_A, name) for name in (MANAGEMENT, LOGGING, STORAGE, CLIENT)] == [2, 3, 4, 5]
    assert [adapter_number(HOST_STORAGE, name) for name in (MANAGEMENT, STORAGE)] == [2, 3]
    assert adapter_number(HOST_CLIENT, CLIENT) == 3
    with pytest.raises(LabError, match="host-a has no adapter"):
        adapter_number(HOST_A, OPERATOR)


def test_addresses_are_read_from_ssh_config() -> None:
    assert addresses(SSH_CONFIGURATION) == {"storage": ("127.0.0.1", 2222), "host-a": ("127.0.0.1", 2200)}
    with pytest.raises(LabError, match="how host-a is reached"):
        addresses("Host host-a\n  HostName 127.0.0.1\n")


def test_a_power_cut_ends_the_process_and_the_power_comes_back_when_virtualbox_knows(
    manage: FakeManage, process: subprocess.Popen[bytes]
) -> None:
    machines = VirtualBoxMachines()
    assert machines.is_running(HOST_A)
    machines.cut_power(HOST_A)
    assert process.wait(10) == -9
    assert manage.calls() == ["list vms"]
    manage.answer("aborted")
    assert not machines.is_running(HOST_A)
    with pytest.raises(LabError, match="host-a has no power already"):
        machines.cut_power(HOST_A)
    manage.calls()
    machines.power_on(HOST_A)
    assert manage.calls() == ["showvminfo ftvmm-host-a --machinereadable", "startvm ftvmm-host-a --type headless"]
    manage.answer("saved")
    with pytest.raises(LabError, match="it is saved"):
        machines.power_on(HOST_A)


def test_a_machine_whose_process_cannot_be_seen_is_powered_off(manage: FakeManage) -> None:
    VirtualBoxMachines().cut_power(HOST_A)
    assert manage.calls()[-1] == "controlvm ftvmm-host-a poweroff"


def test_a_frozen_machine_is_not_asked(manage: FakeManage, process: subprocess.Popen[bytes]) -> None:
    machines = VirtualBoxMachines()
    assert not machines.is_frozen(HOST_A)
    machines.freeze(HOST_A)
    assert wait_until(lambda: machines.is_frozen(HOST_A), timeout_seconds=5)
    assert machines.is_running(HOST_A)
    assert not machines.is_asleep(HOST_A)
    machines.thaw(HOST_A)
    assert wait_until(lambda: not machines.is_frozen(HOST_A), timeout_seconds=5)
    assert process.poll() is None
    assert manage.calls() == ["list vms"]


def test_a_snapshot_is_restored_whatever_the_machine_is(manage: FakeManage, process: subprocess.Popen[bytes]) -> None:
    machines = VirtualBoxMachines()
    machines.take_snapshot(HOST_A, "fresh")
    assert manage.calls() == ["snapshot ftvmm-host-a delete fresh", "snapshot ftvmm-host-a take fresh --live"]
    machines.freeze(HOST_A)
    manage.answer("aborted")
    machines.restore_snapshot(HOST_A, "fresh")
    assert process.wait(10) == -9
    restored = ["snapshot ftvmm-host-a restore fresh", "startvm ftvmm-host-a --type headless"]
    assert manage.calls() == ["list vms", "showvminfo ftvmm-host-a --machinereadable", *restored]
    manage.answer("saved")
    machines.restore_snapshot(HOST_A, "fresh")
    assert manage.calls()[-2:] == restored


def test_a_cable_is_the_link_state_of_its_adapter(manage: FakeManage) -> None:
    machines = VirtualBoxMachines()
    machines.set_cable(HOST_A, CLIENT, plugged=False)
    machines.set_cable(HOST_A, MANAGEMENT, plugged=True)
    assert manage.calls() == ["controlvm ftvmm-host-a setlinkstate5 off", "controlvm ftvmm-host-a setlinkstate2 on"]


def test_errors_have_virtualboxs_words(manage: FakeManage, monkeypatch: pytest.MonkeyPatch) -> None:
    machines = VirtualBoxMachines()
    manage.fail("controlvm ftvmm-host-a setlinkstate5 off")
    with pytest.raises(LabError, match=r"setlinkstate5 off` failed: VBoxManage: error: it did not please"):
        machines.set_cable(HOST_A, CLIENT, plugged=False)
    with pytest.raises(LabError, match="host-a has no process"):
        machines.freeze(HOST_A)
    with pytest.raises(LabError, match="VirtualBox knows no machine ftvmm-storage"):
        machines.is_running(HOST_STORAGE)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(LabError, match="VBoxManage is not installed"):
        machines.set_cable(HOST_A, CLIENT, plugged=False)


def test_what_virtualbox_cannot_do_is_refused_and_not_promised(tmp_path: Path) -> None:
    machines = VirtualBoxMachines()
    with pytest.raises(LabError, match="cannot sleep"):
        machines.wake(HOST_A, slept_seconds=0)
    assert capabilities_of("libvirt") - capabilities_of("virtualbox") == {Capability.SLEEP, Capability.CAPTURE}
    assert VagrantLab(tmp_path).capabilities == capabilities_of("libvirt")
    state = LabState("virtualbox", "hardware", doors={"host-a": Door("127.0.0.1", 2200, "ssh-ed25519 AAAA")})
    state.write(tmp_path)
    lab = VagrantLab(tmp_path)
    assert lab.capabilities == capabilities_of("virtualbox")
    assert lab.collect_captures(tmp_path / "captures") == {}
    assert isinstance(machines_of(state), VirtualBoxMachines)
    with pytest.raises(LabError, match="no provider 'xen'"):
        capabilities_of("xen")
    with pytest.raises(LabError, match="make lab-up"):
        machines_of(LabState("libvirt", "tcg"))
    assert not isinstance(machines_of(state), LibvirtMachines)


def test_status_shows_machines_that_are_off(tmp_path: Path, manage: FakeManage) -> None:
    manage.answer("poweroff")
    manage.know({f"ftvmm-{host.name}": OTHER_UUID for host in HOSTS})
    doors = {host.name: Door("127.0.0.1", 2200, "ssh-ed25519 AAAA") for host in HOSTS}
    LabState("virtualbox", "hardware", doors=doors, snapshot="fresh").write(tmp_path)
    console = Console(record=True, width=160, file=io.StringIO())
    show_status(tmp_path, console)
    said = console.export_text()
    assert "the Vagrant lab (virtualbox, hardware)" in said
    assert [line.split()[5] for line in said.splitlines() if "10." in line] == ["off"] * len(HOSTS)


def fake_vagrant(directory: Path, monkeypatch: pytest.MonkeyPatch, listed: str) -> None:
    """A program `vagrant` on PATH that writes its calls to `calls` and lists one box."""
    program = directory / "vagrant"
    program.write_text(f"#!/bin/sh\n[ $2 != list ] || echo '{listed}'\necho $* >>{directory}/calls\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")


def test_going_down_has_vagrant_destroy_the_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "lab"
    (directory / "machines").mkdir(parents=True)
    LabState("virtualbox", "hardware").write(directory)
    fake_vagrant(tmp_path, monkeypatch, "")
    assert down(directory, progress=lambda _: None)
    assert (tmp_path / "calls").read_text() == "destroy --force\n"
    assert list(directory.iterdir()) == []


def test_ssh_goes_to_the_forwarded_port() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        VirtualBoxMachines().connect(*server.getsockname()) as connection,
    ):
        assert connection.getpeername() == server.getsockname()


def up(directory: Path, *, box: str | None, provider: str = "virtualbox") -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "LAB_BOX"}
    if box is not None:
        environment["LAB_BOX"] = box
    line = [sys.executable, "-m", "lab.vagrant", "--directory", str(directory), "up", "--provider", provider]
    return subprocess.run(line, capture_output=True, text=True, cwd=PROJECT, env=environment, check=False)


@pytest.mark.skipif(shutil.which("VBoxManage") is not None, reason="this machine has VirtualBox")
def test_without_virtualbox_nothing_is_begun(tmp_path: Path) -> None:
    done = up(tmp_path / "lab", box="debian/bookworm64")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("VBoxManage is not installed")
    assert not (tmp_path / "lab").exists()


@pytest.mark.parametrize("box", [None, "ftvmm/bookworm"])
def test_virtualbox_asks_for_a_public_box(tmp_path: Path, manage: FakeManage, box: str | None) -> None:
    done = up(tmp_path / "lab", box=box)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "LAB_BOX=debian/bookworm64" in done.stderr
    assert not (tmp_path / "lab").exists()
    assert manage.calls() == []


def test_a_lab_of_another_provider_is_taken_down_first(tmp_path: Path, manage: FakeManage) -> None:
    LabState("libvirt", "tcg").write(tmp_path)
    done = up(tmp_path, box="debian/bookworm64")
    assert (done.returncode, done.stderr) == (2, "there is a lab of libvirt's machines: run `make lab-down` first\n")


@pytest.mark.parametrize("there", [True, False])
def test_a_public_box_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    listed = "debian/bookworm64 (libvirt, 12.20250126.1)" if there else "debian/bookworm64 (virtualbox, 12.20250126.1)"
    fake_vagrant(tmp_path, monkeypatch, listed)
    fetch_box(Vagrant(tmp_path, "libvirt", None, {}), "debian/bookworm64", progress=lambda _: None)
    fetched = [] if there else ["box add --provider libvirt debian/bookworm64"]
    assert (tmp_path / "calls").read_text().splitlines() == ["box list", *fetched]
