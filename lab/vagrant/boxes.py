"""Which box the machines boot: LAB_BOX names a public one, without it the box that lab/box/ builds."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping

from harness.lab.interface import LabError
from lab.box.build import build
from lab.box.failure import BoxFailed
from lab.vagrant.vagrant import Vagrant

LOCAL_BOX = "ftvmm/bookworm"


def box_settings() -> dict[str, str]:
    """The box for lab/Vagrantfile; the local one is built when it is not there or what makes it has changed.

    Raises:
        LabError: it cannot be built.
    """
    name = os.environ.get("LAB_BOX") or LOCAL_BOX
    if name != LOCAL_BOX:
        # Its packages are its publisher's: what is missing comes over the operator's network.
        return {"LAB_BOX": name, "LAB_UPLINK": "1"}
    try:
        box = build(progress=sys.stderr)
    except BoxFailed as failure:
        raise LabError(f"the box cannot be built: {failure}") from failure
    return {"LAB_BOX": box.name, "LAB_BOX_VERSION": box.version, "LAB_BOX_URL": str(box.catalogue)}


def is_public(settings: Mapping[str, str]) -> bool:
    """Whether `box_settings` chose a box of another publisher, whose packages come over the operator's network."""
    return "LAB_BOX_URL" not in settings


def fetch_box(vagrant: Vagrant, name: str, *, progress: Callable[[str], None]) -> None:
    """Have Vagrant download a public box, if it has it not: by the machine's own network, where its resolver answers.

    Raises:
        LabError: it cannot be had.
    """
    there = vagrant.run(["box", "list"], progress=lambda _: None, inside=False)
    if re.search(rf"^{re.escape(name)}\s+\({vagrant.provider}\b", there, re.MULTILINE) is None:
        vagrant.run(["box", "add", "--provider", vagrant.provider, name], progress=progress, inside=False)
