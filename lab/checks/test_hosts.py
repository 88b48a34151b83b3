"""Services, ports, files, modules and kernels of the hosts, asserted with testinfra over their kept connections."""

from __future__ import annotations

import pytest

from harness.lab import topology
from harness.lab.topology import FAULT_TOLERANT_PLANS, HOSTS, LOGGING, OPERATOR, STORAGE, STORAGE_PLAN, HostPlan
from harness.lab.vagrant.lab import IMAGE_DIRECTORY, VagrantLab

every_host = pytest.mark.parametrize("plan", HOSTS, ids=lambda plan: plan.name)
every_ft_host = pytest.mark.parametrize("plan", FAULT_TOLERANT_PLANS, ids=lambda plan: plan.name)


@every_host
def test_it_runs_a_debian_kernel_of_its_own(vagrant: VagrantLab, plan: HostPlan) -> None:
    host = vagrant.hosts[plan.name].testinfra
    assert (host.system_info.distribution, host.system_info.codename) == ("debian", "bookworm")
    assert host.sysctl("kernel.hostname") == plan.name
    assert (host.sysctl("kernel.sysrq"), host.sysctl("kernel.panic")) == (1, 0)


@every_host
def test_its_interfaces_have_the_plans_names_and_addresses(vagrant: VagrantLab, plan: HostPlan) -> None:
    host = vagrant.hosts[plan.name].testinfra
    for network in plan.networks:
        if network == OPERATOR:
            continue
        assert host.interface(network).exists
        wanted = plan.addresses.get(network)
        assert wanted is None or wanted in host.interface(network).addresses


@every_host
def test_its_sshd_lets_keys_in_and_nothing_else(vagrant: VagrantLab, plan: HostPlan) -> None:
    host = vagrant.hosts[plan.name].testinfra
    assert host.service("ssh").is_running
    settings = host.run("sshd -T").stdout.lower().splitlines()
    assert {"passwordauthentication no", "permitrootlogin without-password"} <= set(settings)
    assert host.file("/root/.ssh/authorized_keys").mode == 0o600


@every_host
def test_its_lab_service_has_run(vagrant: VagrantLab, plan: HostPlan) -> None:
    service = vagrant.hosts[plan.name].testinfra.service("ftvmm-lab")
    assert service.is_running
    assert service.is_enabled


@every_ft_host
def test_it_has_kvm_and_the_vmm(vagrant: VagrantLab, plan: HostPlan) -> None:
    host = vagrant.hosts[plan.name]
    assert host.run("test -c /dev/kvm -a -w /dev/kvm").succeeded
    modules = host.testinfra.run("lsmod").stdout
    assert "kvm_amd" in modules or "kvm_intel" in modules
    assert host.run("test -c /dev/net/tun -a -w /dev/net/tun").succeeded
    assert host.testinfra.file(f"{IMAGE_DIRECTORY}/kv.hvt").size > 100_000
    doctor = host.run(f"{host.python} -m ftvmm doctor", timeout_seconds=vagrant.pace.stretch(30))
    assert doctor.succeeded, doctor.stdout + doctor.stderr


@every_ft_host
def test_its_storage_is_mounted_synchronous_and_uncached(vagrant: VagrantLab, plan: HostPlan) -> None:
    host = vagrant.hosts[plan.name].testinfra
    disk, arbiter = topology.DISK_PATH.rpartition("/")[0], topology.ARBITER_PATH
    for directory, server in ((disk, STORAGE_PLAN.address(STORAGE)), (arbiter, topology.ARBITER_ADDRESS)):
        # Below it lies what bars writes while nothing is mounted: the last of the two counts.
        kind, options = (
            host.check_output(f"findmnt --noheadings --output FSTYPE,OPTIONS {directory}").split("\n")[-1].split()
        )
        assert kind == "nfs4"
        assert {"sync", "noac", f"addr={server}"} <= set(options.split(","))
    assert host.file(topology.DISK_PATH).size == topology.DISK_MIB << 20


@every_ft_host
def test_toxiproxy_listens_on_the_logging_network(vagrant: VagrantLab, plan: HostPlan) -> None:
    host = vagrant.hosts[plan.name].testinfra
    assert host.service("ftvmm-toxiproxy").is_running
    assert host.socket(f"tcp://{plan.address(LOGGING)}:{topology.LOGGING_PROXY_PORT}").is_listening
    assert host.socket(f"tcp://127.0.0.1:{topology.TOXIPROXY_API_PORT}").is_listening


def test_the_storage_host_exports_a_file_system_on_a_device_of_its_own(vagrant: VagrantLab) -> None:
    host = vagrant.storage_host.testinfra
    assert host.service("nfs-server").is_running
    assert host.socket("tcp://0.0.0.0:2049").is_listening
    assert "nfsd" in host.run("lsmod").stdout
    mount = host.mount_point(topology.STORAGE_DIRECTORY)
    assert (mount.device, mount.filesystem) == (f"/dev/mapper/{topology.STORAGE_DEVICE}", "ext4")
    assert " linear " in host.run(f"dmsetup table {topology.STORAGE_DEVICE}").stdout


def test_the_client_host_has_its_tools(vagrant: VagrantLab) -> None:
    host = vagrant.client_host.testinfra
    assert host.package("redis-tools").is_installed
    assert host.interface(topology.CLIENT).addresses == [topology.VM_GATEWAY]
