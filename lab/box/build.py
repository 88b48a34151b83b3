"""Builds the box from front to back, and does nothing where the box is there and nothing that makes it has changed."""

import hashlib
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from lab.box import catalogue, contents, disk_image, root_tree, tools
from lab.box.commands import BoxFailed, Commands, Progress, build_environment, remove_work
from lab.provision.step import SKIPPED_DIRECTORIES, Stamps, fingerprint_of, one_at_a_time

SOURCES = Path(__file__).parent
CHECKOUT = SOURCES.parents[1]
OUTPUT = CHECKOUT / ".state" / "box"
DISK_GIBIBYTES = 8
LOG_TAIL_LINES = 25


@dataclass(frozen=True, kw_only=True)
class Box:
    """A box that is there. ``built`` tells whether this call made it."""

    path: Path
    catalogue: Path
    packages: Path
    name: str
    version: str
    sha256: str
    built: bool


@dataclass(frozen=True)
class Paths:
    """What a build leaves in its output directory."""

    directory: Path

    @property
    def box(self) -> Path:
        return self.directory / "ftvmm-bookworm-libvirt.box"

    @property
    def catalogue(self) -> Path:
        return self.directory / "ftvmm-bookworm-libvirt.json"

    @property
    def packages(self) -> Path:
        return self.directory / "packages.txt"

    @property
    def log(self) -> Path:
        return self.directory / "build.log"

    @property
    def work(self) -> Path:
        """Only there while a build runs, or after it was killed."""
        return self.directory / "work"


def fingerprint(*, keys: str, disk_gibibytes: int, sources: Path = SOURCES) -> str:
    """Digest of the builder's sources with the package list and the overlay, and of the build's options.

    Packages' versions are no part of it: whoever wants Debian's updates in the box asks for a build with ``force``.
    """
    paths = [path for path in sources.iterdir() if path.suffix != ".md" and path.name not in SKIPPED_DIRECTORIES]
    return fingerprint_of(root=sources, paths=paths, facts=[keys, f"{disk_gibibytes} GiB"])


def present(*, output: Path = OUTPUT) -> Box | None:
    """The box in a directory if it is whole: its content is the one that the catalogue names."""
    paths = Paths(output)
    entry = catalogue.read(paths.catalogue)
    if entry is None or entry.box != paths.box.absolute() or not paths.packages.is_file():
        return None
    if not paths.box.is_file() or _sha256(paths.box) != entry.sha256:
        return None
    return _box(paths, entry, built=False)


def build(
    *,
    output: Path = OUTPUT,
    force: bool = False,
    disk_gibibytes: int = DISK_GIBIBYTES,
    keys: str | None = None,
    progress: TextIO,
) -> Box:
    """Build the box into ``output`` unless it is there, and tell of each step on ``progress``.

    ``keys`` are the public keys that it lets in, one a line; without them, Vagrant's well-known ones.
    Raises BoxFailed with a sentence that says what to do. Whatever an interrupted build left is removed.
    """
    output = output.absolute()
    output.mkdir(parents=True, exist_ok=True)
    paths = Paths(output)
    path = tools.search_path()
    stamps = Stamps(output)
    with one_at_a_time(output / "lock", progress=progress):
        remove_work(paths.work)
        keys = tools.vagrant_keys() if keys is None else keys
        wanted = fingerprint(keys=keys, disk_gibibytes=disk_gibibytes)
        if not force and stamps.holds("box", wanted) and (box := present(output=output)):
            return box
        tools.check(path=path)
        stamps.remove("box")
        with paths.log.open("w") as log:
            commands = Commands(directory=output, log=log, environment=build_environment(path))
            try:
                entry = _build(commands, paths=paths, keys=keys, disk_bytes=disk_gibibytes << 30, progress=progress)
            except (BoxFailed, OSError) as failure:
                log.write(f"{failure}\n")
                log.flush()
                tail = paths.log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
                print("\n".join(f"    {line}" for line in tail), file=progress)
                raise BoxFailed(f"{failure} The whole log is {paths.log}.") from failure
            finally:
                remove_work(paths.work)
        stamps.put("box", wanted)
        return _box(paths, entry, built=True)


def _build(commands: Commands, *, paths: Paths, keys: str, disk_bytes: int, progress: TextIO) -> catalogue.Entry:
    step = Progress(progress, count=5).step
    apt = tools.configured_mirrors(suite=contents.SUITE, environment=commands.environment)
    paths.work.mkdir()
    root = paths.work / "root"
    with step(f"Root file tree from {len(contents.PACKAGES)} Debian packages and what they need"):
        root_tree.unpack(commands, root=root, mirrors=apt)
    with step("The lab's own files, user and units"):
        root_tree.customise(commands, root=root, keys=keys)
        root_tree.manifest(commands, root=root, into=paths.work / "packages.txt")
        root_tree.check_modules(root, wanted=contents.KERNEL_MODULES)
        root_tree.scrub(root)
    with step("Disk image"):
        image = disk_image.make(commands, root=root, work=paths.work, disk_bytes=disk_bytes)
    with step("Box archive"):
        partial = paths.work / "box.tar"
        catalogue.write_box(partial, disk=image, disk_bytes=disk_bytes)
    with step("Catalogue"):
        sha256 = _sha256(partial)
        version = catalogue.next_version(catalogue.read(paths.catalogue), sha256=sha256, now=datetime.now(UTC))
        entry = catalogue.Entry(version=version, sha256=sha256, box=paths.box)
        # The catalogue comes last: while it speaks of another content, nobody takes the box for finished.
        os.replace(paths.work / "packages.txt", paths.packages)
        os.replace(partial, paths.box)
        catalogue.write(paths.catalogue, entry)
    return entry


def _box(paths: Paths, entry: catalogue.Entry, *, built: bool) -> Box:
    return Box(
        path=paths.box,
        catalogue=paths.catalogue,
        packages=paths.packages,
        name=catalogue.NAME,
        version=entry.version,
        sha256=entry.sha256,
        built=built,
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
