"""Which box the machines boot: LAB_BOX names a public one, without it the box that lab/box/ builds."""

from __future__ import annotations

import os
from collections.abc import Callable

LOCAL_BOX = "ftvmm/bookworm"


def box_settings(progress: Callable[[str], None]) -> dict[str, str]:
    """LAB_BOX and LAB_BOX_URL for lab/Vagrantfile; the local box is built when it is not there or not up to date."""
    box = os.environ.get("LAB_BOX", LOCAL_BOX)
    if box != LOCAL_BOX:
        return {"LAB_BOX": box, "LAB_UPLINK": "1"}
    return {"LAB_BOX": box, "LAB_BOX_URL": os.environ["LAB_BOX_URL"]}
