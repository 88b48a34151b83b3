"""A way out of the rack for the packages of a public box: a link to this machine's own network, behind its address.

What it changes on the machine is one link, one table of nftables and `ip_forward`, and all of it is taken back. A
machine that forwarded nothing before forwards for this link alone.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.lab.interface import LabError
from harness.lab.namespaces import run_inside

LINK = "ftvmm-uplink"
TABLE = "ftvmm_uplink"
_LINK_INSIDE = "uplink"
# Beside the operator's network (10.9.0.0/24), which is the machines' own.
_NETWORK, _ADDRESS, _ADDRESS_INSIDE = "10.9.255.0/30", "10.9.255.1", "10.9.255.2"
_FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
# In the lab's directory, apart from the lab's state: it is found even if that is not.
_KEPT = "forwarding-before"


def forwarding() -> str:
    """Whether this machine forwards: `0` or `1`."""
    return _FORWARDING.read_text().strip()


def lead_out(directory: Path, rack_pid: int) -> None:
    """`connect`, with what the machine's `ip_forward` was before kept in the lab's directory.

    Raises:
        LabError: a step failed.
    """
    kept = directory / _KEPT
    # A call that finds an earlier one's uplink would find the value that it has set.
    if not (kept.exists() and is_there()):
        kept.write_text(forwarding())
    connect(rack_pid, forwarding_before=kept.read_text())


def take_back(directory: Path, *, progress: Callable[[str], None]) -> None:
    """`disconnect` where a lab in this directory was led out.

    Raises:
        LabError: a step failed.
    """
    kept = directory / _KEPT
    if kept.exists():
        progress("taking away the machines' way out")
        disconnect(kept.read_text())
        kept.unlink()


def is_there() -> bool:
    """Whether something of an uplink is in force, `ip_forward` perhaps: false after a restart of the machine."""
    return _there(["nft", "list", "table", "ip", TABLE])


def connect(rack_pid: int, *, forwarding_before: str) -> None:
    """Lead the rack out; what an earlier call has left is made anew.

    Args:
        rack_pid: the init of the rack's namespaces.
        forwarding_before: `ip_forward` as it was; `0`: nothing but what the rack sends and gets is forwarded now.

    Raises:
        LabError: a step failed; `disconnect` takes away what there is.
    """
    _remove_link()
    # The table comes before ip_forward and goes after it: while it is there, ip_forward may be ours to put back.
    rule = f"ip saddr {_NETWORK} oifname != {LINK} masquerade"
    chains = f"chain postrouting {{ type nat hook postrouting priority srcnat; policy accept; {rule}; }}\n"
    if forwarding_before == "0":
        others = f"iifname != {LINK} oifname != {LINK} drop"
        chains += f"chain forward {{ type filter hook forward priority filter; policy accept; {others}; }}\n"
    _run(["nft", "-f", "-"], f"table ip {TABLE}\ndelete table ip {TABLE}\ntable ip {TABLE} {{ {chains} }}\n")
    peer = ["peer", "name", _LINK_INSIDE, "netns", str(rack_pid)]
    _run(["ip", "link", "add", "name", LINK, "type", "veth", *peer])
    _run(["ip", "address", "add", f"{_ADDRESS}/30", "dev", LINK])
    _run(["ip", "link", "set", "dev", LINK, "up"])
    for command in (
        ["ip", "address", "add", f"{_ADDRESS_INSIDE}/30", "dev", _LINK_INSIDE],
        ["ip", "link", "set", "dev", _LINK_INSIDE, "up"],
        ["ip", "route", "add", "default", "via", _ADDRESS],
    ):
        run_inside(rack_pid, ["net"], command)
    _forward("1")


def disconnect(forwarding_before: str) -> None:
    """Take it away, and put `ip_forward` back. Nothing is done where there is none, as after a restart of the machine.

    Raises:
        LabError: a step failed.
    """
    _remove_link()
    if is_there():
        _forward(forwarding_before)
        _run(["nft", "delete", "table", "ip", TABLE])


def _remove_link() -> None:
    if _there(["ip", "link", "show", "dev", LINK]):
        _run(["ip", "link", "delete", "dev", LINK])


def _forward(value: str) -> None:
    try:
        _FORWARDING.write_text(f"{value}\n")
    except OSError as error:
        raise LabError(f"{_FORWARDING} cannot be set to {value}: {error.strerror}") from error


def _there(command: Sequence[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _run(command: Sequence[str], text: str = "") -> None:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"the rack gets no way out: `{' '.join(command)}` failed: {done.stderr.strip()}")
