"""The wheelhouse: the project's own wheel and those that the hosts need of others, for machines without a network."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

from harness.lab.interface import LabError
from harness.lab.vagrant.state import PROJECT

# The hosts' Python is Debian 12's, whichever runs this.
_TARGET = ("--python-version=3.11", "--implementation=cp", "--abi=cp311", "--abi=abi3", "--abi=none")
_PLATFORMS = ("manylinux_2_36_x86_64", "manylinux_2_34_x86_64", "manylinux_2_28_x86_64", "manylinux2014_x86_64")


def build(directory: Path) -> None:
    """Fill the directory anew.

    Raises:
        LabError: the wheel cannot be built or another's cannot be had; the message has the end of what was said.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.glob("ftvmm-*.whl"):
        old.unlink()
    maturin = [sys.executable, "-m", "maturin", "build", "--release", "--quiet", "--interpreter", sys.executable]
    _run([*maturin, "--out", str(directory)], "the project's wheel cannot be built")
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["hosts"]]
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    download += ["--only-binary=:all:", *_TARGET, *(f"--platform={platform}" for platform in _PLATFORMS)]
    download += ["--constraint", str(PROJECT / "lab/provision/constraints.txt"), "--find-links", str(directory)]
    _run([*download, "--dest", str(directory), *wanted], "the wheels that the hosts need cannot be had")


def _run(command: list[str], failure: str) -> None:
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"{failure}: {(done.stderr or done.stdout).strip()[-2000:]}")
