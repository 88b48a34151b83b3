"""``ftvmm._core``, the Rust crate, built by maturin into the tree and its virtual environment."""

from lab.provision.stamps import fingerprint_of
from lab.provision.step import Shell, Tree
from lab.provision.versions import program_version


class RustCore:
    """Rebuilt only when a Rust source, its lock file or the compiler changes."""

    name = "rust-core"
    title = "Rust core (the first build takes a few minutes)"

    def fingerprint(self, tree: Tree) -> str:
        core = tree.root / "ftvmm" / "core"
        sources = [core / name for name in ("Cargo.toml", "Cargo.lock", "build.rs", "src")]
        paths = [*sources, tree.root / "pyproject.toml"]
        facts = [program_version(tree.cargo_directory / "rustc"), str(tree.root), tree.python.resolve().as_posix()]
        return fingerprint_of(root=tree.root, paths=paths, facts=facts)

    def is_present(self, tree: Tree) -> bool:
        built = next((tree.root / "ftvmm").glob("_core*.so"), None)
        return built is not None and (tree.root / ".venv" / "bin" / "ftvmm").exists()

    def carry_out(self, tree: Tree, shell: Shell) -> None:
        locked = ["--locked"] if (tree.root / "ftvmm" / "core" / "Cargo.lock").is_file() else []
        shell.run(
            [tree.python, "-m", "maturin", "develop", "--release", *locked],
            failure="The Rust core did not build.",
            environment={"VIRTUAL_ENV": str(tree.root / ".venv")},
        )
