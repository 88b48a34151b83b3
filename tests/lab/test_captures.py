"""What passes the switch's ports is captured, each way apart, whole, over power cycles too."""

from __future__ import annotations

from pathlib import Path

from harness.evidence.capture import Direction, Frame, capture_name, read_frames
from harness.lab.netns.lab import NetnsLab
from harness.lab.topology import CLIENT, HOSTS, LOGGING, MANAGEMENT, OPERATOR, VM_MAC
from harness.lab.waiting import wait_until
from tests.lab.conftest import log_of, start_peer

VM = bytes.fromhex(VM_MAC.replace(":", ""))


def frames(directory: Path, network: str, host: str, direction: Direction) -> list[Frame]:
    path = directory / capture_name(network, host, direction)
    return read_frames(path, network, host, direction) if path.exists() else []


def announcements(directory: Path, host: str, direction: Direction) -> int:
    """Gratuitous ARPs of the VM."""
    return sum(one.source == VM and one.is_announcement for one in frames(directory, CLIENT, host, direction))


def test_captures_tell_which_host_spoke_and_the_network_follows(shared_lab: NetnsLab, tmp_path: Path) -> None:
    first, second, client = shared_lab.hosts["host-a"], shared_lab.hosts["host-b"], shared_lab.client_host
    client.run(f"ip neigh replace 10.0.0.2 lladdr {VM_MAC} dev client", check=True)
    ping = "ping -q -c 1 -W 0.2 10.0.0.2"
    for speaker in (first, second):
        vm = start_peer(speaker, "frame", "tap0", VM_MAC)
        assert wait_until(lambda s=speaker: client.run(ping) and "frame" in log_of(s, "frame"), timeout_seconds=5)  # type: ignore[misc]
        # A host whose power is going has no cable any more: what it says then nobody else hears.
        vm.signal("KILL")
        vm.wait(5)
        if speaker is first:
            first.power_off()
            first.power_on()
    counts = shared_lab.collect_captures(tmp_path)
    said = {host: announcements(tmp_path, host, Direction.SENT) for host in ("host-a", "host-b", "host-c")}
    assert said["host-a"] > 0
    assert said["host-b"] > 0
    assert said["host-c"] == 0
    # The switch floods what one says to everybody who is there.
    assert announcements(tmp_path, "host-c", Direction.RECEIVED) == said["host-a"] + said["host-b"]
    assert set(counts) == {
        f"{network}.{plan.name}" for plan in HOSTS for network in plan.networks if network != OPERATOR
    }
    for port, count in counts.items():
        network, _, host = port.partition(".")
        assert count.dropped == 0
        assert count.captured == sum(len(frames(tmp_path, network, host, direction)) for direction in Direction)


def test_nothing_is_missing_at_the_moment_of_the_question(shared_lab: NetnsLab, tmp_path: Path) -> None:
    """Each echo that was answered is there twice, out of one host and then into the other, and so is its answer."""
    sender, answerer = shared_lab.hosts["host-a"], shared_lab.hosts["host-b"]
    size = 1234
    flood = f"ping -q -f -c 3000 -s {size} {answerer.addresses[MANAGEMENT]}"
    assert " 0% packet loss" in sender.run(flood, check=True, timeout_seconds=60).stdout
    counts = shared_lab.collect_captures(tmp_path)
    assert counts["management.host-a"].dropped == counts["management.host-b"].dropped == 0
    # Behind Ethernet's and IP's header: the type (8 asks, 0 answers), and the number of the echo.
    seen: dict[tuple[int, bytes], list[tuple[int, str]]] = {}
    for host in (sender.name, answerer.name):
        for direction in Direction:
            for frame in frames(tmp_path, MANAGEMENT, host, direction):
                if len(frame.content) == 14 + 20 + 8 + size:
                    key = frame.content[34], frame.content[40:42]
                    seen.setdefault(key, []).append((frame.wall_ns, f"{direction} {host}"))
    assert len(seen) == 6000
    for (kind, _), passes in seen.items():
        out, into = (sender, answerer) if kind == 8 else (answerer, sender)
        assert [where for _, where in sorted(passes)] == [f"sent {out.name}", f"received {into.name}"]


def test_a_silent_network_has_a_count_all_the_same(shared_lab: NetnsLab, tmp_path: Path) -> None:
    counts = shared_lab.collect_captures(tmp_path)
    spare = counts[f"{LOGGING}.host-c"]
    assert spare.dropped == 0
    assert spare.captured == sum(len(frames(tmp_path, LOGGING, "host-c", direction)) for direction in Direction)
