"""Every lab that scenarios can run in, by the name that `--lab` knows it by."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from harness.lab.interface import Lab
from harness.lab.netns.lab import NetnsLab
from harness.lab.vagrant.lab import VagrantLab

LABS: Mapping[str, Callable[[], Lab]] = {"netns": NetnsLab, "vagrant": VagrantLab}
