"""What a provider needs before anything is begun."""

from __future__ import annotations

import os
import shutil

from harness.lab.interface import LabError
from harness.lab.vagrant.state import VIRTUALBOX
from lab.vagrant.boxes import LOCAL_BOX


def check_provider(provider: str) -> None:
    """`LabError` says in one sentence what is missing."""
    if provider != VIRTUALBOX:
        return
    if shutil.which("VBoxManage") is None:
        raise LabError("VBoxManage is not installed: install VirtualBox, or leave out `--provider virtualbox`")
    if (os.environ.get("LAB_BOX") or LOCAL_BOX) == LOCAL_BOX:
        raise LabError(
            "VirtualBox needs a public box, as lab/box/ makes one for libvirt only: LAB_BOX=debian/bookworm64"
        )
