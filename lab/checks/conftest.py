"""One lab for all checks: they look and change nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.lab.vagrant.lab import VagrantLab


@pytest.fixture(scope="session")
def vagrant() -> Iterator[VagrantLab]:
    """The Vagrant lab, fresh."""
    lab = VagrantLab(calibrated=False)
    lab.start()
    try:
        yield lab
    finally:
        lab.stop()
