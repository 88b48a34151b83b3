"""Hosts: commands and files over SSH, state by testinfra, power, freezing."""

from __future__ import annotations

import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness.lab.interface import CommandFailedError, Host, HostState, HostUnreachableError, LabError
from harness.lab.netns.lab import NetnsLab
from harness.lab.topology import LOGGING, LOGGING_PROXY_PORT, TAP
from harness.lab.waiting import wait_until
from tests.lab.conftest import Pair, start_peer


def test_hosts_fulfil_the_interface(shared_lab: NetnsLab) -> None:
    assert all(isinstance(host, Host) for host in shared_lab.hosts.values())


def test_commands_give_status_output_and_errors(shared_lab: NetnsLab) -> None:
    host = shared_lab.hosts["host-a"]
    result = host.run("hostname; echo problem >&2; exit 3")
    assert (result.exit_status, result.stdout, result.stderr) == (3, "host-a\n", "problem\n")
    assert host.run(["echo", "two  words; $HOME"]).stdout == "two  words; $HOME\n"
    assert host.run("cat", input=b"x" * 1_000_000).stdout == "x" * 1_000_000
    with pytest.raises(CommandFailedError, match="exit status 1"):
        host.run("false", check=True)
    with pytest.raises(HostUnreachableError):
        host.run("sleep 60", timeout_seconds=0.2)


def test_a_started_process_outlives_the_call_and_tells_its_end(shared_lab: NetnsLab) -> None:
    host = shared_lab.hosts["host-a"]
    host.run("mkfifo /var/lib/ftvmm/gate", check=True)
    process = host.start("echo begun; read -r line </var/lib/ftvmm/gate; exit 7", log="/var/lib/ftvmm/started.log")
    with pytest.raises(LabError, match="still runs"):
        process.wait(0.1)
    assert process.exit_status is None
    host.run("echo go >/var/lib/ftvmm/gate", check=True)
    assert process.wait(5) == 7
    assert host.read_file("/var/lib/ftvmm/started.log") == b"begun\n"
    sleeper = host.start(["sleep", "1000"])
    assert host.testinfra.process.get(pid=sleeper.pid).args == "sleep 1000"
    sleeper.signal("KILL")
    assert sleeper.wait(5) == -1
    assert not sleeper.is_running()


def test_files(shared_lab: NetnsLab) -> None:
    host = shared_lab.hosts["host-b"]
    host.write_file("/etc/ftvmm/deep/key", b"\x00secret\xff", mode=0o600)
    assert host.read_file("/etc/ftvmm/deep/key") == b"\x00secret\xff"
    assert host.testinfra.file("/etc/ftvmm/deep/key").mode == 0o600
    with pytest.raises(FileNotFoundError):
        host.read_file("/etc/ftvmm/none")


def test_testinfra_sees_the_services(shared_lab: NetnsLab) -> None:
    for host in shared_lab.fault_tolerant_hosts:
        address = host.addresses[LOGGING]
        assert host.testinfra.socket(f"tcp://{address}:{LOGGING_PROXY_PORT}").is_listening
        assert host.testinfra.process.get(comm="sshfs").ppid > 1
        assert host.testinfra.interface(TAP).exists
        assert host.testinfra.file(f"/sys/class/net/{TAP}/carrier").content_string.strip() == "0"


def test_a_power_cycle_keeps_the_disk_and_loses_the_rest(shared_lab: NetnsLab) -> None:
    host = shared_lab.hosts["host-c"]
    host.write_file("/var/lib/ftvmm/kept", b"disk")
    host.write_file("/run/lost", b"memory")
    process = host.start(["sleep", "1000"])
    host.run("nft add table inet lost", check=True)
    host.power_off()
    assert host.state is HostState.OFF
    assert not host.is_alive()
    assert process.exit_status in (None, -1)
    with pytest.raises(LabError, match="off already"):
        host.power_off()
    assert host.read_file("/var/lib/ftvmm/kept") == b"disk", "the disk can be read without the host"
    with pytest.raises(FileNotFoundError):
        host.read_file("/var/lib/ftvmm/never-written")
    host.power_on()
    assert host.is_alive()
    assert host.read_file("/var/lib/ftvmm/kept") == b"disk"
    assert not host.testinfra.file("/run/lost").exists
    assert host.run("nft list tables").stdout == ""
    assert host.run("pgrep -x sleep").stdout == ""
    assert host.read_file("/mnt/storage/arbiter/.keep") == b""


def test_no_goodbye_leaves_a_host_that_loses_its_power(shared_lab: NetnsLab, pair: Pair) -> None:
    chain = "type filter hook input priority 0; tcp dport 7001 tcp flags & (fin | rst) != 0 counter;"
    table = f"table inet goodbye {{ chain input {{ {chain} tcp dport 7001 counter; }}; }}"
    pair.listener.run(["nft", table], check=True)

    def counters() -> list[int]:
        listed = pair.listener.run("nft list table inet goodbye", check=True).stdout
        return [int(count) for count in re.findall(r"counter packets (\d+)", listed)]

    try:
        assert wait_until(lambda: counters()[1] > 0, timeout_seconds=5), "the counters see the dialler's packets"
        pair.dialler.power_off()
        connections = pair.listener.run("ss -tnHO state established '( sport = :7001 )'").stdout
        assert len(connections.splitlines()) == 1, "the listener must not have noticed"
        assert counters()[0] == 0
    finally:
        pair.listener.run("nft delete table inet goodbye")
        if pair.dialler.state is HostState.OFF:
            pair.dialler.power_on()


def test_a_frozen_host_stands_still_and_wakes_as_it_was(shared_lab: NetnsLab) -> None:
    host = shared_lab.hosts["host-a"]
    counter = start_peer(host, "beat", host.addresses[LOGGING], "10.1.0.12")
    host.freeze()
    assert host.state is HostState.FROZEN
    assert not host.is_alive(timeout_seconds=0.3)
    before = shared_lab.hosts["host-b"].run("cat /sys/class/net/logging/statistics/rx_packets").stdout
    assert before == shared_lab.hosts["host-b"].run("cat /sys/class/net/logging/statistics/rx_packets").stdout
    host.thaw()
    assert wait_until(host.is_alive, timeout_seconds=5)
    assert counter.is_running()
    counter.signal("KILL")


def test_clocks_run_together(shared_lab: NetnsLab) -> None:
    first = shared_lab.hosts["host-a"].clock()
    second = shared_lab.hosts["host-b"].clock()
    assert 0 < second.boottime_ns - first.boottime_ns < 10_000_000_000
    assert 0 < second.realtime_ns - first.realtime_ns < 10_000_000_000


def test_many_commands_at_once_that_end_at_once(shared_lab: NetnsLab) -> None:
    """A command may be over before it has been asked for its input: the connection that all share must not end for it.

    Threads are made to change as often as they can, or it would happen once in thousands of commands.
    """
    host = shared_lab.hosts["host-a"]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.00005)
    try:
        with ThreadPoolExecutor(6) as threads:
            results = list(threads.map(lambda _: host.run("true"), range(600)))
    finally:
        sys.setswitchinterval(interval)
    assert all(result.succeeded for result in results)


def test_waits_for_a_processor_are_counted_by_the_kernel(shared_lab: NetnsLab) -> None:
    host = shared_lab.hosts["host-a"]
    before = shared_lab.looks()[-1].waited_us["host-a"]
    busy = [host.start("while :; do :; done") for _ in range(2 * (os.cpu_count() or 1))]
    try:
        # Twice as many as there are processors: one waits at any time.
        assert wait_until(lambda: shared_lab.looks()[-1].waited_us["host-a"] - before > 100_000, timeout_seconds=10)
    finally:
        for process in busy:
            process.signal("KILL")
