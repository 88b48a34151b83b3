"""The virtual environment ``.venv``, with exactly the versions of ``constraints.txt``."""

import shutil
import sys
import tomllib
from pathlib import Path

from lab.provision.step import Shell, Tree, fingerprint_of

CONSTRAINTS = Path("lab/provision/constraints.txt")
PIP_INSTALL = ("-m", "pip", "install", "--disable-pip-version-check", "--no-input")


class PythonEnvironment:
    """Made anew when the interpreter changes; brought up to date when pyproject.toml or the constraints do."""

    name = "python-environment"
    title = "Python environment"

    def fingerprint(self, tree: Tree) -> str:
        facts = [self._interpreter(), *requirements(tree)]
        return fingerprint_of(root=tree.root, paths=[tree.root / CONSTRAINTS], facts=facts)

    def is_present(self, tree: Tree) -> bool:
        return tree.python.exists() and (tree.root / ".venv" / "bin" / "pytest").exists()

    def carry_out(self, tree: Tree, shell: Shell) -> None:
        made_by = tree.root / ".venv" / "made-by"
        if not (tree.python.exists() and made_by.is_file() and made_by.read_text() == self._interpreter()):
            # With .venv active, sys.executable is the very thing that is about to be removed.
            base: str = getattr(sys, "_base_executable", None) or sys.executable
            shutil.rmtree(tree.root / ".venv", ignore_errors=True)
            shell.run(
                [base, "-m", "venv", tree.root / ".venv"],
                failure=f"{base} cannot make a virtual environment: on Debian, install python3-venv.",
            )
            made_by.write_text(self._interpreter())
        shell.run(
            [tree.python, *PIP_INSTALL, "--constraint", tree.root / CONSTRAINTS, *requirements(tree)],
            failure="pip could not install the Python packages.",
        )

    def _interpreter(self) -> str:
        return f"{sys.base_prefix} {sys.version}"


def requirements(tree: Tree) -> list[str]:
    """What pyproject.toml asks for: the package's own dependencies and those of ``harness`` and ``develop``."""
    project = tomllib.loads((tree.root / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    return [*project["dependencies"], *extras["harness"], *extras["develop"]]
