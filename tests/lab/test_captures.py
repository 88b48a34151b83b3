"""What passes the client network's port of each FT host is in that host's capture, over power cycles too."""

from __future__ import annotations

import struct
from pathlib import Path

from harness.lab.netns.lab import NetnsLab
from harness.lab.waiting import wait_until
from tests.lab.conftest import log_of, start_peer

NANOSECOND_MAGIC = 0xA1B23C4D
VM = "02:00:00:00:00:02"


def frames(path: Path) -> list[bytes]:
    content = path.read_bytes()
    (magic,) = struct.unpack_from("<I", content)
    assert magic == NANOSECOND_MAGIC
    found, at = [], 24
    while at < len(content):
        (length,) = struct.unpack_from("<I", content, at + 8)
        found.append(content[at + 16 : at + 16 + length])
        at += 16 + length
    return found


def announcements(path: Path) -> int:
    """Gratuitous ARPs of the VM."""
    return sum(
        frame[6:12] == bytes.fromhex(VM.replace(":", "")) and frame[12:14] == b"\x08\x06" for frame in frames(path)
    )


def test_captures_tell_which_host_spoke_and_the_network_follows(shared_lab: NetnsLab, tmp_path: Path) -> None:
    first, second, client = shared_lab.hosts["host-a"], shared_lab.hosts["host-b"], shared_lab.client_host
    client.run(f"ip neigh replace 10.0.0.2 lladdr {VM} dev client", check=True)
    ping = "ping -q -c 1 -W 0.2 10.0.0.2"
    for speaker in (first, second):
        vm = start_peer(speaker, "frame", "tap0", VM)
        assert wait_until(lambda s=speaker: "announced" in log_of(s, "frame"), timeout_seconds=5)  # type: ignore[misc]
        assert wait_until(lambda s=speaker: client.run(ping) and "frame" in log_of(s, "frame"), timeout_seconds=5)  # type: ignore[misc]
        if speaker is first:
            first.power_off()
            first.power_on()
        else:
            vm.signal("KILL")
    reports = {report.path.stem: report for report in shared_lab.collect_captures(tmp_path)}
    assert announcements(tmp_path / "host-a.pcap") > 0
    assert announcements(tmp_path / "host-b.pcap") > 0
    assert announcements(tmp_path / "host-c.pcap") == 0, "what it only heard it did not say"
    for name, report in reports.items():
        assert report.frames_dropped == 0
        assert report.frames_captured == len(frames(tmp_path / f"{name}.pcap"))
