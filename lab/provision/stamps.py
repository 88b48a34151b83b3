"""Remembers what each finished step was made from, by content, so that it is done again exactly when that changes."""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

SKIPPED_DIRECTORIES = frozenset({"target", "node_modules", "__pycache__", ".git"})


@dataclass(frozen=True)
class Stamps:
    """One small file a step under ``directory``, written only after the step has succeeded."""

    directory: Path

    def holds(self, step: str, fingerprint: str) -> bool:
        """Tell whether the step's last success was made from exactly this."""
        try:
            return (self.directory / f"{step}.stamp").read_text() == fingerprint
        except FileNotFoundError:
            return False

    def put(self, step: str, fingerprint: str) -> None:
        """Record a success, atomically: a stamp cut short by a crash must not be taken for one."""
        self.directory.mkdir(parents=True, exist_ok=True)
        partial = self.directory / f"{step}.stamp.partial"
        partial.write_text(fingerprint)
        os.replace(partial, self.directory / f"{step}.stamp")

    def remove(self, step: str) -> None:
        """Forget the step, before it starts to change what an older stamp speaks for."""
        (self.directory / f"{step}.stamp").unlink(missing_ok=True)


def fingerprint_of(*, root: Path, paths: Iterable[Path], facts: Iterable[str] = ()) -> str:
    """Digest of facts (versions, options) and of the names and contents of files; directories are walked.

    Build output inside a source tree (``target``, ``node_modules``) does not count. A missing path counts as missing.
    """
    digest = hashlib.blake2b(digest_size=16)
    for fact in facts:
        digest.update(f"fact {len(fact)} {fact}\n".encode())
    for file in sorted(_files(paths)):
        content = file.read_bytes() if file.is_file() else None
        digest.update(f"file {file.relative_to(root)} {'missing' if content is None else len(content)}\n".encode())
        digest.update(content or b"")
    return digest.hexdigest()


def _files(paths: Iterable[Path]) -> set[Path]:
    found: set[Path] = set()
    for path in paths:
        if not path.is_dir():
            found.add(path)
            continue
        for directory, subdirectories, names in os.walk(path):
            subdirectories[:] = [name for name in subdirectories if name not in SKIPPED_DIRECTORIES]
            found.update(Path(directory, name) for name in names)
    return found
