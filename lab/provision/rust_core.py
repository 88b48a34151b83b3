"""``ftvmm._core``, the Rust crate: the shipped build, into the tree and its virtual environment, and the lab's."""

import shutil
from pathlib import Path

from lab.provision.prerequisites import program_version
from lab.provision.step import Shell, Tree, fingerprint_of


class RustCore:
    """Rebuilt only when a Rust source, its lock file or the compiler changes."""

    name = "rust-core"
    title = "Rust core (the first build takes a few minutes)"

    def fingerprint(self, tree: Tree) -> str:
        return _fingerprint(tree)

    def is_present(self, tree: Tree) -> bool:
        built = tree.root / "ftvmm" / "_core.abi3.so"
        return built.exists() and (tree.root / ".venv" / "bin" / "ftvmm").exists()

    def carry_out(self, tree: Tree, shell: Shell) -> None:
        shell.run(
            [tree.python, "-m", "maturin", "develop", "--release", *_locked(tree)],
            failure="The Rust core did not build.",
            environment={"VIRTUAL_ENV": str(tree.root / ".venv")},
        )


class LabCore:
    """The same with the feature `lab`: what can be broken on purpose, and stopped at exact moments.

    After `RustCore`, whose compiled dependencies it shares. No wheel has it.
    """

    name = "lab-core"
    title = "Rust core as the lab breaks it"

    def fingerprint(self, tree: Tree) -> str:
        return _fingerprint(tree)

    def is_present(self, tree: Tree) -> bool:
        return _lab_core(tree).exists()

    def carry_out(self, tree: Tree, shell: Shell) -> None:
        core = tree.root / "ftvmm" / "core"
        cargo: list[str | Path] = [
            tree.cargo_directory / "cargo",
            "build",
            "--release",
            "--manifest-path",
            core / "Cargo.toml",
        ]
        shell.run(
            [*cargo, *_locked(tree), "--features", "extension-module,lab"],
            failure="The Rust core did not build with the feature `lab`.",
            environment={"PYO3_PYTHON": str(tree.python)},
        )
        # A process that has the old file mapped keeps it.
        _lab_core(tree).unlink(missing_ok=True)
        shutil.copyfile(core / "target" / "release" / "lib_core.so", _lab_core(tree))


def _lab_core(tree: Tree) -> Path:
    return tree.root / "ftvmm" / "_core_lab.abi3.so"


def _locked(tree: Tree) -> list[str]:
    return ["--locked"] if (tree.root / "ftvmm" / "core" / "Cargo.lock").is_file() else []


def _fingerprint(tree: Tree) -> str:
    core = tree.root / "ftvmm" / "core"
    sources = [core / name for name in ("Cargo.toml", "Cargo.lock", "build.rs", "src")]
    # The core and the personality share the description of a packed program.
    shared = [tree.root / "ftvmm" / "guests" / name for name in ("Cargo.toml", "package")]
    paths = [*sources, *shared, tree.root / "pyproject.toml"]
    facts = [program_version(tree.cargo_directory / "rustc"), str(tree.root), tree.python.resolve().as_posix()]
    return fingerprint_of(root=tree.root, paths=paths, facts=facts)
