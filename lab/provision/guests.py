"""The guest images that the scenarios run, built by their own Makefile."""

from lab.provision.prerequisites import program_version
from lab.provision.step import Shell, StepFailed, Tree, fingerprint_of

IMAGES = ("kv", "ticker", "compute", "linux")


class Guests:
    """Rebuilt only when a guest's source, its lock file or the compiler changes."""

    name = "guests"
    title = "Guest images"

    def fingerprint(self, tree: Tree) -> str:
        guests = tree.root / "ftvmm" / "guests"
        sources = (
            [path for path in guests.iterdir() if path.name not in ("images", "target")]
            if guests.is_dir()
            else [guests]
        )
        return fingerprint_of(
            root=tree.root, paths=sources, facts=[program_version(tree.cargo_directory / "rustc"), *IMAGES]
        )

    def is_present(self, tree: Tree) -> bool:
        return all((tree.root / "ftvmm" / "guests" / "images" / f"{name}.hvt").is_file() for name in IMAGES)

    def carry_out(self, tree: Tree, shell: Shell) -> None:
        shell.run(["make", "-C", tree.root / "ftvmm" / "guests"], failure="The guests did not build.")
        if not self.is_present(tree):
            raise StepFailed(f"The guests were built, but ftvmm/guests/images/ lacks one of {', '.join(IMAGES)}.")
