"""Whether the machines are accelerated: by what the processor says, never by the node /dev/kvm alone."""

from __future__ import annotations

import os
from pathlib import Path

from harness.lab.interface import LabError


def acceleration(cpuinfo: Path = Path("/proc/cpuinfo"), device: Path = Path("/dev/kvm")) -> str:
    """`kvm` where the processor has svm or vmx and the device can be opened, else `tcg`; LAB_ACCEL overrides.

    There are machines with the node and without virtualisation that a stock kernel could use: KVM-PVM is one.
    """
    wanted = os.environ.get("LAB_ACCEL")
    if wanted is not None:
        if wanted not in {"kvm", "tcg"}:
            raise LabError(f"LAB_ACCEL is {wanted!r}: it must be kvm or tcg")
        return wanted
    flags = next((line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")), "").split()
    usable = os.access(device, os.R_OK | os.W_OK)
    return "kvm" if usable and {"svm", "vmx"} & set(flags) else "tcg"
