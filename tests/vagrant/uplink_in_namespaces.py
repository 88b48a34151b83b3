"""Leads a rack out and back again, and prints what was seen. Run by test_uplink.py in namespaces made for it.

This process's own network namespace is the machine; two more are the rack and a host that the machine alone can reach.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from harness.lab.namespaces import run_inside
from harness.lab.waiting import wait_until
from lab.vagrant import uplink

_MACHINE, _OUTSIDE = "192.0.2.1", "192.0.2.2"


def _namespace() -> subprocess.Popen[bytes]:
    """A process with a network namespace of its own."""
    process = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
    own = Path("/proc/self/ns/net").readlink()
    if not wait_until(lambda: Path(f"/proc/{process.pid}/ns/net").readlink() != own, timeout_seconds=10):
        raise RuntimeError("unshare made no network namespace")
    return process


def _machine(line: str) -> str:
    return subprocess.run(line.split(), capture_output=True, text=True, check=True).stdout


def _seen() -> dict[str, str]:
    links = [link.split(": ")[1] for link in _machine("ip -o link").splitlines()]
    return {
        "links": " ".join(links),
        "addresses": _machine("ip -brief -4 address"),
        "rules": _machine("nft list ruleset"),
        "forwarding": uplink.forwarding(),
        "is there": str(uplink.is_there()),
    }


def _reaches(rack: int) -> bool:
    line = ["nsenter", "--target", str(rack), "--net", "ping", "-q", "-n", "-c", "1", "-W", "2", _OUTSIDE]
    return subprocess.run(line, capture_output=True, check=False).returncode == 0


def main() -> None:
    """Print the observations as JSON. The argument is `ip_forward` of the machine before the uplink."""
    rack, outside = _namespace(), _namespace()
    try:
        _machine("ip link set lo up")
        _machine(f"ip link add name wan type veth peer name wan netns {outside.pid}")
        _machine(f"ip address add {_MACHINE}/24 dev wan")
        _machine("ip link set wan up")
        # No route back to the rack: only what comes under the machine's own address is answered.
        for line in (f"ip address add {_OUTSIDE}/24 dev wan", "ip link set wan up"):
            run_inside(outside.pid, ["net"], line.split())
        uplink._FORWARDING.write_text(sys.argv[1])
        _machine("nft add table ip of_somebody_else")
        observed = {"before": _seen(), "reached_before": _reaches(rack.pid)}
        forwarding = uplink.forwarding()
        uplink.connect(rack.pid, forwarding_before=forwarding)
        observed |= {"reached": _reaches(rack.pid), "during": _seen()}
        uplink.connect(rack.pid, forwarding_before=forwarding)
        observed |= {"reached_again": _reaches(rack.pid), "again": _seen()}
        uplink.disconnect(forwarding)
        observed |= {"reached_after": _reaches(rack.pid), "after": _seen()}
        # Where there is none, as after a restart, what the machine is set to now is not the lab's to change.
        uplink.disconnect("0" if forwarding == "1" else "1")
        observed |= {"after_nothing": _seen()}
        print(json.dumps(observed))
    finally:
        for process in (rack, outside):
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
