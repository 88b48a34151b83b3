"""`node.toml`: what is wrong is said in one sentence that names the file, the key and the reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ftvmm import configuration
from ftvmm.configuration import ConfigurationError
from tests.arbiters.target import MISSING

GOOD = """
[vm]
uuid = "6f1c2a4e-0000-4000-8000-000000000001"
image = "{directory}/kv.hvt"
memory_mib = 64
arguments = ["--ipv4=10.0.0.2/24"]
[[vm.network]]
name = "service"
tap = "tap0"
mac = "02:00:00:00:00:02"
[[vm.block]]
name = "storage"
path = "/srv/disk.img"
[node]
name = "host-a"
directory = "{directory}/state"
[logging]
listen = "127.0.0.1:7000"
peer = "127.0.0.1:7001"
[[heartbeat]]
network = "logging"
listen = "127.0.0.1:7002"
peer = "127.0.0.2:7002"
[arbiter]
kind = "file"
directory = "{directory}/arbiter"
[timing]
lease_ms = 100
[security]
key_file = "{directory}/key"
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    (tmp_path / "kv.hvt").write_bytes(b"")
    key = tmp_path / "key"
    key.write_text("ab" * 32)
    key.chmod(0o600)

    def write(text: str) -> Path:
        path = tmp_path / "node.toml"
        path.write_text(text.replace("{directory}", str(tmp_path)))
        return path

    return write


def test_a_good_file_is_taken_with_its_defaults(write: Callable[[str], Path]) -> None:
    config = configuration.load(write(GOOD))
    assert config.vm == "6f1c2a4e000040008000000000000001"
    assert config.document["timing"] == {
        "heartbeat_ms": 50,
        "lease_ms": 100,
        "detect_ms": 150,
        "acknowledge_ms": 1000,
        "lag_ms": 2000,
        "write_bound_ms": 50,
    }
    assert config.document["output"] == {"policy": "resend"}
    assert config.document["logging"]["entries_per_message"] is None
    assert (config.document["node"]["trace_mib_max"], config.document["node"]["console_mib_max"]) == (256, 256)
    assert config.document["record"] is None
    assert config.document["vm"]["network"] == [
        {"name": "service", "tap": "tap0", "mac": [2, 0, 0, 0, 0, 2], "address": None}
    ]
    assert config.document["vm"]["mixed_hosts"] is False
    assert config.document["vm"]["block"][0]["sector_bytes"] == 512


def test_what_is_absent_by_default_can_be_set(write: Callable[[str], Path], tmp_path: Path) -> None:
    text = GOOD.replace('peer = "127.0.0.1:7001"', 'peer = "127.0.0.1:7001"\nentries_per_message = 1')
    text = text.replace("[[vm.block]]", 'address = "10.0.0.2"\n[[vm.block]]')
    text = text.replace("[logging]", "console_mib_max = 8\n[logging]")
    text = text.replace("memory_mib = 64", "memory_mib = 64\nmixed_hosts = true")
    text = text.replace('/srv/disk.img"', '/srv/disk.img"\nsector_bytes = 4096')
    config = configuration.load(write(text + "[record]\n"))
    assert config.document["vm"]["network"][0]["address"] == "10.0.0.2"
    assert config.document["vm"]["mixed_hosts"] is True
    assert config.document["vm"]["block"][0]["sector_bytes"] == 4096
    assert config.document["logging"]["entries_per_message"] == 1
    assert (config.document["node"]["trace_mib_max"], config.document["node"]["console_mib_max"]) == (256, 8)
    assert config.document["record"] == {"directory": str(tmp_path / "state"), "size_mib_max": 256}
    config = configuration.load(write(text + '[record]\ndirectory = "/srv/evidence"\nsize_mib_max = 8\n'))
    assert config.document["record"] == {"directory": "/srv/evidence", "size_mib_max": 8}


FILE_ARBITER = 'kind = "file"\ndirectory = "{directory}/arbiter"'
ETCD_ARBITER = 'kind = "etcd"\nmembers = ["http://10.0.0.1:2379", "https://[fd00::1]:2379"]'

SCSI_ARBITER = 'kind = "scsi-pr"\nurl = "iscsi://10.0.0.1:3260/iqn.2026-01.org.example:vm/1"'


@pytest.mark.skipif(MISSING is not None, reason=MISSING or "")
def test_the_arbiter_is_a_logical_unit(write: Callable[[str], Path]) -> None:
    config = configuration.load(write(GOOD.replace(FILE_ARBITER, SCSI_ARBITER)))
    assert config.arbiter.kind == "scsi-pr"
    assert config.arbiter.place == "iscsi://10.0.0.1:3260/iqn.2026-01.org.example:vm/1"
    on_ipv6 = SCSI_ARBITER.replace("10.0.0.1", "[fd00::1]") + '\ninitiator = "iqn.2026-01.org.example:host-a"'
    config = configuration.load(write(GOOD.replace(FILE_ARBITER, on_ipv6)))
    assert config.arbiter.place.startswith("iscsi://[fd00::1]:3260/")


def test_the_arbiter_is_a_directory_or_a_cluster(write: Callable[[str], Path], tmp_path: Path) -> None:
    config = configuration.load(write(GOOD))
    assert (config.arbiter.kind, config.arbiter.place) == ("file", f"{tmp_path}/arbiter")
    config = configuration.load(write(GOOD.replace(FILE_ARBITER, ETCD_ARBITER + "\ntimeout_ms = 900")))
    assert (config.arbiter.kind, config.arbiter.place) == ("etcd", "http://10.0.0.1:2379, https://[fd00::1]:2379")
    assert config.arbiter_timeout_ms == 900


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('kind = "zookeeper"', r"arbiter\.kind: must be 'file', 'etcd' or 'scsi-pr', found 'zookeeper'"),
        ('kind = "file"', r"arbiter\.directory: missing"),
        ('kind = "etcd"', r"arbiter\.members: must name at least one member"),
        ('kind = "etcd"\nmembers = []', r"arbiter\.members: must name at least one member"),
        (
            'kind = "etcd"\nmembers = ["10.0.0.1:2379"]',
            r"arbiter\.members: must be http://ADDRESS:PORT .*'10\.0\.0\.1:",
        ),
        ('kind = "etcd"\nmembers = ["http://10.0.0.1"]', r"arbiter\.members: must be http://ADDRESS:PORT"),
        ('kind = "etcd"\nmembers = ["http://10.0.0.1:port"]', r"arbiter\.members: must be http://ADDRESS:PORT"),
        ('kind = "etcd"\nmembers = ["http://user@10.0.0.1:2379"]', r"arbiter\.members: must be http://ADDRESS:PORT"),
        ('kind = "etcd"\nmembers = ["http://[fd00::1:2379"]', r"arbiter\.members: must be http://ADDRESS:PORT"),
        ('kind = "etcd"\nmembers = ["HTTPS://10.0.0.1:2379"]', r"arbiter\.members: must be http://ADDRESS:PORT"),
        ('kind = "etcd"\nmembers = ["http://0.0.0.0:2379"]', r"arbiter\.members: must be http://ADDRESS:PORT"),
        ('kind = "etcd"\nmembers = ["http://etcd:2379"]', r"arbiter\.members: must be .* with a numeric address"),
        ('kind = "etcd"\nmembers = ["http://10.0.0.1:1"]\nca_file = "/ca.pem"', r"arbiter\.members: certificates are"),
        (ETCD_ARBITER + '\ndirectory = "/srv"', r"arbiter\.directory: unknown key \(known here: ca_file, "),
        (ETCD_ARBITER + '\nca_file = "/nothing.pem"', r"arbiter\.ca_file: /nothing\.pem: No such file"),
        (ETCD_ARBITER + '\nca_file = "{directory}/kv.hvt"', r"arbiter\.ca_file: .*/kv\.hvt: "),
        (
            ETCD_ARBITER + '\ncertificate_file = "/own.pem"',
            r"arbiter\.certificate_file: goes with certificate_key_file",
        ),
        ('kind = "scsi-pr"', r"arbiter\.url: missing"),
        (SCSI_ARBITER.replace("iscsi:", "http:"), r"arbiter\.url: must be iscsi://ADDRESS:PORT/TARGET/LUN"),
        (SCSI_ARBITER.replace(":3260", ""), r"arbiter\.url: must be iscsi://ADDRESS:PORT/TARGET/LUN"),
        (SCSI_ARBITER.replace(":3260", ":port"), r"arbiter\.url: must be iscsi://ADDRESS:PORT/TARGET/LUN"),
        (SCSI_ARBITER.replace("10.0.0.1", "storage"), r"arbiter\.url: must have a numeric address, found 'storage'"),
        (SCSI_ARBITER.replace("10.0.0.1", "0.0.0.0"), r"arbiter\.url: 0\.0\.0\.0 is no target's address"),
        (
            SCSI_ARBITER.replace("//10", "//user%secret@10"),
            r"arbiter\.url: names and passwords \(CHAP\) are not spoken",
        ),
        (SCSI_ARBITER.replace("iqn.2026-01.org.example:vm/", ""), r"arbiter\.url: must name a target"),
        (SCSI_ARBITER.replace("iqn.2026-01.org.example:vm", "vm"), r"arbiter\.url: must name a target"),
        (SCSI_ARBITER.replace("vm/1", "vm/x"), r"arbiter\.url: must end in a LUN from 0 to 16383, found 'x'"),
        (SCSI_ARBITER.replace("vm/1", "vm/16384"), r"arbiter\.url: must end in a LUN"),
        (SCSI_ARBITER + '\ninitiator = "host-a"', r"arbiter\.initiator: must be an iSCSI name"),
        (SCSI_ARBITER + "\nmembers = []", r"arbiter\.members: unknown key \(known here: initiator, kind, "),
    ],
)
def test_what_is_wrong_with_an_arbiter_is_said(write: Callable[[str], Path], change: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        configuration.load(write(GOOD.replace(FILE_ARBITER, change)))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('uuid = "6f1c', 'uuid = "xyz', r"vm\.uuid: must be a UUID"),
        ("memory_mib = 64", "memory_mib = 1", r"vm\.memory_mib: must be from 2 to 4096, found 1"),
        (
            "memory_mib = 64",
            'memory_mib = 64\nfeatures = ["aes", "avx"]',
            r"vm\.features: must be of aes, .*, found 'avx'",
        ),
        ("memory_mib = 64", "memory_mib = true", r"vm\.memory_mib: must be of type int"),
        ("memory_mib = 64", "memory_mib = 64\nmixed_hosts = 1", r"vm\.mixed_hosts: must be of type bool"),
        ("memory_mib", "memory_mb", r"vm\.memory_mb: unknown key \(known here: .*memory_mib"),
        ('mac = "02:', 'mac = "03:', r"vm\.network\[0\]\.mac: must not be a multicast"),
        (
            "[[vm.block]]",
            'address = "10.0.0.2/24"\n[[vm.block]]',
            r"vm\.network\[0\]\.address: must be the guest's IPv4 address on device 'service', .* '10\.0\.0\.2/24'",
        ),
        ("[[vm.block]]", 'address = "fd00::2"\n[[vm.block]]', r"vm\.network\[0\]\.address: must be .* 'fd00::2'"),
        ("[[vm.block]]", 'address = "224.0.0.1"\n[[vm.block]]', r"vm\.network\[0\]\.address: must be .* found '224"),
        ("[[vm.block]]", "address = 10\n[[vm.block]]", r"vm\.network\[0\]\.address: must be of type str, found 10"),
        (
            'name = "storage"',
            'name = "storage"\nsector_bytes = 521',
            r"vm\.block\[0\]\.sector_bytes: must be a power of two from 512 to 32768, found 521",
        ),
        ('name = "storage"', 'name = "storage"\nsector_bytes = 65536', r"sector_bytes: must be .*, found 65536"),
        ('listen = "127.0.0.1:7000"', 'listen = "localhost:7000"', r"logging\.listen: must be ADDRESS:PORT"),
        ("[logging]", "trace_mib_max = 0\n[logging]", r"node\.trace_mib_max: must be from 1 to .*, found 0"),
        ("[arbiter]", "[record]\nsize_mib_max = 0\n[arbiter]", r"record\.size_mib_max: must be from 1 to"),
        (
            "[arbiter]",
            "[record]\npath = 1\n[arbiter]",
            r"record\.path: unknown key \(known here: directory, size_mib_max",
        ),
        (":7001", ':7001"\nentries_per_message = 0 #', r"logging\.entries_per_message: must be from 1 to .*, found 0"),
        ("lease_ms = 100", "lease_ms = 150", r"timing: lease_ms, .*, must be below detect_ms \(rule R20\)"),
        ("lease_ms = 100", "write_bound_ms = 0", r"timing\.write_bound_ms: must be from 1 to .*, found 0"),
        ("lease_ms = 100", "write_bound_ms = 49", r"timing: write_bound_ms must not be below heartbeat_ms;.*=49"),
        ("lease_ms = 100", "heartbeat_ms = 100", r"timing: heartbeat_ms must be below lease_ms"),
        ("lease_ms = 100", "lag_ms = 999", r"timing: lag_ms must not be below 20 times heartbeat_ms .*=999"),
        ("[vm]", "[test]\nmutants = []\n[vm]", r"node\.toml: test: only the lab's build takes this table"),
        ("[security]", "[sekurity]", r"security: missing"),
        ("kv.hvt", "gone.hvt", r"vm\.image: .*gone\.hvt is not a file"),
        ("[[heartbeat]]", "[[hartbeat]]", r"hartbeat: unknown key"),
        ("[vm]", "[vm", r"node\.toml: "),
    ],
)
def test_what_is_wrong_is_named(write: Callable[[str], Path], old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigurationError, match=message):
        configuration.load(write(GOOD.replace(old, new, 1)))


def test_a_key_that_others_can_read_is_refused(write: Callable[[str], Path], tmp_path: Path) -> None:
    path = write(GOOD)
    (tmp_path / "key").chmod(0o644)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        configuration.load(path)


def test_a_short_key_is_refused(write: Callable[[str], Path], tmp_path: Path) -> None:
    path = write(GOOD)
    (tmp_path / "key").write_text("abcd")
    with pytest.raises(ConfigurationError, match="64 hexadecimal digits"):
        configuration.load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nothing\.toml: No such file"):
        configuration.load(tmp_path / "nothing.toml")
