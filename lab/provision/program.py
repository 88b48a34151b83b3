"""The set-up from front to back: prerequisites, then the steps in order."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from lab.box.tools import PACKAGES as BOX_PACKAGES
from lab.provision import prerequisites
from lab.provision.debian import LAB_PACKAGES, DebianPackages
from lab.provision.guests import Guests
from lab.provision.programs import Programs
from lab.provision.python_environment import PythonEnvironment
from lab.provision.rust_core import LabCore, RustCore
from lab.provision.step import Stamps, Step, StepFailed, Tree, one_at_a_time, perform
from lab.provision.tools import GoTools, ReportTools

STEPS: tuple[Step, ...] = (
    DebianPackages(),
    PythonEnvironment(),
    RustCore(),
    LabCore(),
    Guests(),
    Programs(),
    GoTools(),
    ReportTools(),
)
# What the Vagrant lab needs beside them: vagrant, libvirt, QEMU.
LAB_STEPS: tuple[Step, ...] = (
    DebianPackages("lab-packages", "Debian packages of the Vagrant lab", {**LAB_PACKAGES, **BOX_PACKAGES}),
)
EXIT_STEP_FAILED = 1
EXIT_MISSING = 2


def main(arguments: Sequence[str]) -> int:
    """Set this tree up. Returns 0, 1 when a step failed, 2 when a prerequisite is missing and nothing was changed."""
    parser = argparse.ArgumentParser(prog="python3 -m lab.provision", description=sys.modules["lab.provision"].__doc__)
    parser.add_argument("--check", action="store_true", help="check the prerequisites only")
    parser.add_argument(
        "--only", choices=[step.name for step in (*STEPS, *LAB_STEPS)], action="append", help="do only this step"
    )
    parser.add_argument("--vagrant", action="store_true", help="set up for the Vagrant lab too")
    options = parser.parse_args(arguments)
    machine = prerequisites.Machine()
    try:
        prerequisites.check(machine)
    except prerequisites.Missing as missing:
        print(f"ftvmm cannot be set up here. {missing}", file=sys.stderr)
        return EXIT_MISSING
    if options.check:
        print("Every prerequisite is met.")
        return 0
    cargo = machine.program("cargo")
    assert cargo is not None, "the check above found it"
    tree = Tree(root=Path(__file__).resolve().parents[2], cargo_directory=cargo.parent)
    wanted = (*STEPS, *LAB_STEPS) if options.vagrant or options.only else STEPS
    steps = [step for step in wanted if options.only is None or step.name in options.only]
    return _set_up(tree, steps)


def _set_up(tree: Tree, steps: Sequence[Step]) -> int:
    begin = time.monotonic()
    stamps = Stamps(tree.state)
    done = 0
    try:
        with one_at_a_time(tree.state / "lock", progress=sys.stderr):
            for index, step in enumerate(steps, start=1):
                number = f"[{index}/{len(steps)}]"
                done += perform(step, number=number, tree=tree, stamps=stamps, progress=sys.stderr)
    except StepFailed as failure:
        print(f"The set-up stopped. {failure} Run the same command again to go on from here.", file=sys.stderr)
        return EXIT_STEP_FAILED
    except KeyboardInterrupt:
        print("The set-up was interrupted; the same command goes on from here.", file=sys.stderr)
        return 130
    if done:
        print(f"Set up in {time.monotonic() - begin:.0f} s ({done} of {len(steps)} steps had work).", file=sys.stderr)
    return 0
