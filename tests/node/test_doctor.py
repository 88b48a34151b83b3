"""`ftvmm doctor`: what a host can do, and whether a node's configuration is usable from there, tried out in a lab."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fault_injectors.disk import DiskError
from fault_injectors.fault import FaultLog
from fault_injectors.networks import ArbiterUnreachable
from harness.lab import topology
from harness.lab.interface import Host, Lab
from harness.vm import guests
from harness.vm.node_file import CONFIG_PATH
from harness.vm.pair import Pair
from tests.command_line.command import COMMAND, ftvmm
from tests.guests.guest import REPOSITORY


def report_of(host: Host, *, status: int) -> tuple[dict[str, bool], dict[str, dict[str, Any]]]:
    """What it says in JSON of a node's configuration: what the host can do, and what is not well, by name."""
    done = host.run(f"{host.python} -m ftvmm doctor --config {CONFIG_PATH} --json", timeout_seconds=60)
    assert done.exit_status == status, done.stdout + done.stderr
    report = json.loads(done.stdout)
    return report["can"], {finding["what"]: finding for finding in report["findings"] if not finding["is_well"]}


@pytest.fixture
def pair(lab: Lab) -> Iterator[Pair]:
    """A pair that runs protected."""
    pair = Pair(lab, guests.key_value())
    pair.start()
    yield pair
    pair.stop()


def test_what_a_configuration_names_is_tried_out(pair: Pair, tmp_path: Path) -> None:
    host = pair.primary.host
    everything = dict.fromkeys(("run", "record", "replay", "protect"), True)
    assert report_of(host, status=0) == (everything, {})
    said = host.run(f"{host.python} -m ftvmm doctor --config {CONFIG_PATH}", check=True).stdout
    assert "node: runs here, as PROTECTED" in said
    assert f"the node that runs here has {topology.TAP}" in said
    pair.stop()
    assert report_of(host, status=0) == (everything, {})
    unprotected = everything | {"protect": False}

    host.run(f"ip link set {topology.TAP} down", check=True)
    can, missing = report_of(host, status=2)
    assert can == unprotected
    assert [*missing] == ["network service"]
    assert topology.TAP in missing["network service"]["found"]
    assert "ip tuntap add" in missing["network service"]["remedy"]
    host.run(f"ip link set {topology.TAP} up", check=True)

    faults = FaultLog(pair.lab, tmp_path / "faults.jsonl")
    for fault, what in (
        (DiskError(pair.lab, host), "disk storage"),
        (ArbiterUnreachable(pair.lab, [host]), f"arbiter file {topology.ARBITER_PATH}"),
    ):
        record = faults.inject(fault)
        can, missing = report_of(host, status=2)
        assert can == unprotected
        assert [*missing] == [what]
        assert fault.name != ArbiterUnreachable.name or "gave no answer in" in missing[what]["found"], "it hangs"
        faults.heal(record)
    assert report_of(host, status=0) == (everything, {})
    left = host.run(["find", topology.ARBITER_PATH, "-name", "trial-*"], check=True).stdout
    assert left == "", "what it tries out it removes"


def test_an_address_of_another_host_is_named(pair: Pair) -> None:
    pair.stop()
    host, other = pair.lab.fault_tolerant_hosts[:2]
    text = other.read_file(CONFIG_PATH)
    host.write_file(CONFIG_PATH, text)
    can, missing = report_of(host, status=2)
    assert not can["protect"]
    assert "logging" in missing
    assert "ip address" in missing["logging"]["remedy"]


@pytest.mark.parametrize(
    ("hide", "said"),
    [
        ("mount -t tmpfs none /dev", "MISSING  /dev/kvm: missing\n           `modprobe kvm_"),
        ("mount --bind /dev/null /dev/kvm", "MISSING  KVM: "),
    ],
)
def test_a_host_without_kvm_is_told_what_it_lacks(hide: str, said: str) -> None:
    command = f"{hide} && exec {shlex.join((*COMMAND, 'doctor'))}"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", command], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert said in done.stdout
    assert done.stdout.endswith("\nThis host cannot run, record, replay and protect VMs.\n")


def test_a_host_that_can_do_everything_says_so_in_words() -> None:
    done = ftvmm("doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "TSS type for CPL-3 I/O" in done.stdout
    assert "traps by rewriting:         cpuid, rdpid, rdpmc" in done.stdout
    assert done.stdout.endswith("This host can run, record, replay and protect VMs.\n")


def test_a_configuration_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    done = ftvmm("doctor", "--config", str(tmp_path / "none.toml"))
    assert done.returncode == 2
    assert done.stderr == f"ftvmm: {tmp_path}/none.toml: No such file or directory\n"
