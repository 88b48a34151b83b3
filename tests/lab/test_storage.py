"""Shared storage: one image and one arbiter's directory, the same for every host, at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from harness.lab.interface import Host, LabError
from harness.lab.netns.lab import NetnsLab
from harness.lab.topology import ARBITER_PATH, DISK_PATH
from harness.lab.vagrant.storage import NfsStorage

WRITE = "printf %s {text} | dd of={path} bs=512 seek={sector} conv=notrunc,sync oflag=sync status=none"
READ = "dd if={path} bs=512 skip={sector} count=1 status=none | tr -d '\\0'"

LINK_RACE = """
import os, sys, time
arbiter, name, rounds, start = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
won = []
own = f"{arbiter}/claim-{name}"
open(own, "w").write(name)
for number in range(rounds):
    while time.time() < start + number * 0.05:
        pass
    try:
        os.link(own, f"{arbiter}/generation-{number}")
        won.append(number)
    except OSError:
        pass
print(*won)
"""


def write(host: Host, sector: int, text: str) -> None:
    host.run(WRITE.format(text=text, path=DISK_PATH, sector=sector), check=True)


def read(host: Host, sector: int) -> str:
    return host.run(READ.format(path=DISK_PATH, sector=sector), check=True).stdout


def test_what_one_host_wrote_the_other_reads_even_if_it_had_read_before(shared_lab: NetnsLab) -> None:
    first, second = shared_lab.hosts["host-a"], shared_lab.hosts["host-b"]
    write(first, 10, "old")
    assert read(second, 10) == "old"
    write(first, 10, "new")
    assert read(second, 10) == "new"


def test_the_storage_host_tells_who_wrote(shared_lab: NetnsLab) -> None:
    log = "/var/log/block-host-c.log"
    assert "Write" not in shared_lab.storage_host.run(["cat", log]).stdout
    write(shared_lab.hosts["host-c"], 20, "mine")
    assert "Write id=" in shared_lab.storage_host.run(["cat", log]).stdout


def test_exactly_one_of_two_wins_each_link_race(shared_lab: NetnsLab) -> None:
    hosts = [shared_lab.hosts["host-a"], shared_lab.hosts["host-b"]]
    start = hosts[0].clock().realtime_ns / 1e9 + 1.0
    arguments = ["python3", "-c", LINK_RACE, ARBITER_PATH]
    with ThreadPoolExecutor(2) as executor:
        runs = [executor.submit(host.run, [*arguments, host.name, "40", str(start)], check=True) for host in hosts]
        won = [[int(number) for number in run.result().stdout.split()] for run in runs]
    assert sorted(won[0] + won[1]) == list(range(40))
    for number in range(40):
        path = f"{ARBITER_PATH}/generation-{number}"
        contents = {host.read_file(path) for host in hosts}
        assert contents == {b"host-a" if number in won[0] else b"host-b"}


def test_a_lost_arbiter_is_never_replaced_by_a_local_directory(shared_lab: NetnsLab) -> None:
    host = shared_lab.hosts["host-c"]
    create = f"touch {ARBITER_PATH}/private"
    # The boot script would mount it again at once.
    keeper = host.run("ps -o ppid= -C sshfs", check=True).stdout.strip()
    host.run(f"kill -STOP {keeper} && pkill -KILL -x sshfs", check=True)
    host.run(f"umount --lazy {ARBITER_PATH}")
    assert "Read-only file system" in host.run(create).stderr
    host.run(["kill", "-CONT", keeper], check=True)
    host.await_storage()
    assert host.run(create).succeeded
    assert shared_lab.storage_host.testinfra.file("/var/lib/ftvmm/storage/arbiter/private").exists


def test_the_other_labs_refused_disk_is_counted_operation_by_operation(shared_lab: NetnsLab) -> None:
    """What NFS is refused by is a packet filter, which works on any host."""
    host, storage = shared_lab.hosts["host-c"], NfsStorage()
    everything = ("read", "write")
    storage.fail_disk(host, everything)
    try:
        assert storage.failed_operations(host) == []
        assert not host.run(f"exec 3<>/dev/tcp/{storage.disk.address}/{storage.disk.port}").succeeded
        assert sorted(line.split()[0] for line in storage.failed_operations(host)) == sorted(everything)
        with pytest.raises(LabError, match="only for write"):
            storage.fail_disk(host, ["write"])
    finally:
        storage.restore_disk(host)
    assert storage.failed_operations(host) == []
