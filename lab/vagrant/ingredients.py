"""What the machines are made of: what changes only when they are made anew, and how to tell that it has changed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping

from harness.lab.vagrant.state import PROJECT
from lab.vagrant.contents import Contents
from lab.vagrant.plan import plan

_MEMORY = "LAB_MEMORY"
_MEMORY_MIB = "768"
SWITCHES = ("LAB_ACCEL", _MEMORY)
"""Variables of lab/Vagrantfile that a user may set, or leave as the machines have it."""


def ingredients(settings: Mapping[str, str], contents: Contents, before: Mapping[str, str]) -> dict[str, str]:
    """Name to value or digest of each thing.

    Args:
        settings: the box, as `lab.vagrant.boxes.box_settings` gives it, and `LAB_ACCEL`.
        contents: what the hosts are given.
        before: what machines that are there were made of; a variable that is not set keeps what they have.
    """
    found = {
        "the box": f"{settings['LAB_BOX']} {settings.get('LAB_BOX_VERSION', '')}".strip(),
        "LAB_ACCEL": settings.get("LAB_ACCEL", ""),
        _MEMORY: os.environ.get(_MEMORY, _MEMORY_MIB),
        "lab/Vagrantfile": hashlib.sha256((PROJECT / "lab" / "Vagrantfile").read_bytes()).hexdigest(),
        "hosts and networks": hashlib.sha256(json.dumps(plan(), sort_keys=True).encode()).hexdigest(),
        "what runs on the hosts from their start on": contents.running,
    }
    kept = {name: before[name] for name in SWITCHES if name in before and name not in os.environ}
    return {**found, **kept}


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The names of what is not as it was."""
    return [name for name, value in now.items() if before.get(name) != value]
