"""The wheelhouse: the project's own wheel and those that the hosts need of others, for machines without a network."""

from __future__ import annotations

import compileall
import py_compile
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from harness.lab.interface import LabError
from harness.lab.vagrant.state import PROJECT

# The hosts' Python is Debian 12's, whichever runs this.
HOSTS_PYTHON = (3, 11)
LAB_CORE = "_core_lab.abi3.so"
_TARGET = (
    f"--python-version={HOSTS_PYTHON[0]}.{HOSTS_PYTHON[1]}",
    "--implementation=cp",
    "--abi=cp311",
    "--abi=abi3",
    "--abi=none",
)
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


def install(wheelhouse: Path, directory: Path) -> None:
    """Install the project and what its hosts need into a directory of packages, from the wheelhouse alone.

    Done once here for all hosts: pip takes minutes on an emulated machine.
    """
    shutil.rmtree(directory, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "--no-index"]
    pip += [
        "--root-user-action=ignore",
        "--only-binary=:all:",
        *_TARGET,
        *(f"--platform={name}" for name in _PLATFORMS),
    ]
    pip += ["--find-links", str(wheelhouse), "--target", str(directory), "--no-compile", "ftvmm[hosts]"]
    _run(pip, "the wheels cannot be installed for the hosts")
    # No wheel has the lab's build of the core, and nobody else needs it.
    shutil.copy(PROJECT / "ftvmm" / LAB_CORE, directory / "ftvmm" / LAB_CORE)
    if sys.version_info[:2] == HOSTS_PYTHON:
        compileall.compile_dir(
            directory, quiet=1, stripdir=str(directory), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
        )


def _run(command: list[str], failure: str) -> None:
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"{failure}: {(done.stderr or done.stdout).strip()[-2000:]}")
