"""What a step of the set-up is, and how one is run: skipped if its stamp holds, else logged, timed and stamped.

A stamp remembers what a finished step was made from, by content, so that it is done again exactly when that changes.
"""

import fcntl
import hashlib
import os
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TextIO

SKIPPED_DIRECTORIES = frozenset({"target", "node_modules", "__pycache__", ".git"})
LOG_TAIL_LINES = 25
REDIRECTING = frozenset(
    (
        *("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_REQUIRE_VIRTUALENV"),
        *("CARGO_TARGET_DIR", "CARGO_BUILD_TARGET", "CARGO_ENCODED_RUSTFLAGS", "RUSTFLAGS", "GOFLAGS", "GOBIN"),
        *("MAKEFLAGS", "MAKELEVEL", "MFLAGS"),
    )
)
"""Variables that would send a build's result elsewhere, or that belong to the make that called us."""


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


class StepFailed(Exception):
    """A step could not be finished; the message is one sentence, the details are in the step's log."""


@dataclass(frozen=True)
class Tree:
    """Where things are in a checkout. ``cargo_directory`` is where the prerequisites found cargo."""

    root: Path
    cargo_directory: Path

    @property
    def tools(self) -> Path:
        return self.root / ".tools"

    @property
    def state(self) -> Path:
        return self.root / ".state"

    @property
    def python(self) -> Path:
        """The interpreter of the virtual environment."""
        return self.root / ".venv" / "bin" / "python"


@dataclass
class Shell:
    """Runs a step's commands with their output in the step's log, in an environment without surprises."""

    tree: Tree
    log: TextIO
    environment: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.environment = {name: value for name, value in os.environ.items() if name not in REDIRECTING}
        path = self.environment.get("PATH", os.defpath).split(os.pathsep)
        # Debian's sbin is where dpkg's maintainer scripts look; a non-login root shell may lack it.
        wanted = [str(self.tree.cargo_directory), *path, "/usr/sbin", "/sbin", "/usr/bin", "/bin"]
        self.environment["PATH"] = os.pathsep.join(dict.fromkeys(wanted))

    def run(
        self,
        command: Sequence[str | Path],
        *,
        failure: str,
        directory: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Run a command to its end. Raises StepFailed with the sentence ``failure`` when it does not exit with 0."""
        self.log.write(f"$ {' '.join(map(str, command))}\n")
        self.log.flush()
        try:
            status = subprocess.run(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=self.log,
                stderr=subprocess.STDOUT,
                cwd=directory or self.tree.root,
                env={**self.environment, **(environment or {})},
                check=False,
            ).returncode
        except OSError as error:
            self.log.write(f"{command[0]}: {error}\n")
            raise StepFailed(failure) from error
        if status != 0:
            raise StepFailed(failure)


class Step(Protocol):
    """One thing that the set-up makes. ``name`` is also the name of its stamp and its log."""

    @property
    def name(self) -> str: ...

    @property
    def title(self) -> str:
        """What a person reads while the step runs."""
        ...

    def fingerprint(self, tree: Tree) -> str:
        """Digest of everything that the step's result depends on."""
        ...

    def is_present(self, tree: Tree) -> bool:
        """A quick look at the result itself, for the case that somebody removed it."""
        ...

    def carry_out(self, tree: Tree, shell: Shell) -> None:
        """Make it. Raises StepFailed. Whatever an interrupted run left must be no obstacle."""
        ...


def perform(step: Step, *, number: str, tree: Tree, stamps: Stamps, progress: TextIO) -> bool:
    """Do one step unless it is done, tell of it on ``progress``, and return whether anything was done."""
    fingerprint = step.fingerprint(tree)
    if stamps.holds(step.name, fingerprint) and step.is_present(tree):
        return False
    print(f"{number} {step.title} ...", file=progress, flush=True)
    begin = time.monotonic()
    stamps.remove(step.name)
    log_path = tree.state / "logs" / f"{step.name}.log"
    log_path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with log_path.open("w") as log:
            step.carry_out(tree, Shell(tree, log))
    except StepFailed as failure:
        tail = log_path.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        print("\n".join(f"    {line}" for line in tail), file=progress)
        raise StepFailed(f"{failure} The whole log is {log_path.relative_to(tree.root)}.") from failure
    stamps.put(step.name, fingerprint)
    print(f"{number} {step.title}: done in {time.monotonic() - begin:.0f} s", file=progress, flush=True)
    return True


@contextmanager
def one_at_a_time(lock_file: Path, *, progress: TextIO) -> Iterator[None]:
    """Hold an exclusive lock; the kernel lets go of it when the holder dies, so none is ever left behind.

    While another process holds it, say so on ``progress`` and wait.
    """
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            print(
                f"Another set-up of this tree is running (process {holder}); waiting for it.", file=progress, flush=True
            )
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
