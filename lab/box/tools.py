"""What the build needs of the machine: programs, Vagrant's keys, Debian's mirrors; and how a missing one is told of."""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.box.commands import BoxFailed

PACKAGES = {
    "mmdebstrap": "the box's root file tree, from Debian packages",
    "e2fsprogs": "mke2fs and debugfs: the box's file system, without a loop device",
    "grub-common": "grub-mkimage: the box's boot loader",
    "grub-pc-bin": "the parts that GRUB is put together from",
    "qemu-utils": "qemu-img: the box's disk as qcow2",
    "vagrant": "Vagrant's well-known public key, which the box lets in",
}
"""Package name to what it is here for."""

PROGRAMS = {
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "debugfs": "e2fsprogs",
    "grub-mkimage": "grub-common",
    "qemu-img": "qemu-utils",
}
"""Program to the package that it comes in."""

GRUB_PARTS = Path("/usr/lib/grub/i386-pc")
KEY_PATTERNS = (
    "usr/share/rubygems-integration/all/gems/vagrant-*/keys/vagrant.pub*",
    "opt/vagrant/embedded/gems/gems/vagrant-*/keys/vagrant.pub*",
    "opt/vagrant/embedded/gems/*/gems/vagrant-*/keys/vagrant.pub*",
)
"""Where Debian's package and HashiCorp's put the public halves of the keys that Vagrant tries first."""
FORMAT = "$(REPO_URI)\t$(ORIGIN)\t$(LABEL)\t$(CODENAME)"
INDEX_TARGETS = ("apt-get", "indextargets", "--format", FORMAT, "Created-By: Packages")


def search_path(environment: Mapping[str, str] = os.environ) -> str:
    """PATH with the directories of system programs, which a root shell without login may lack."""
    path = environment.get("PATH", os.defpath).split(os.pathsep)
    return os.pathsep.join(dict.fromkeys([*path, "/usr/sbin", "/sbin", "/usr/bin", "/bin"]))


def check(*, path: str, grub_parts: Path = GRUB_PARTS, user_id: int | None = None) -> None:
    """Check what the build needs before it starts. Raises BoxFailed with all that is missing, and its packages."""
    if shutil.which("apt-get", path=path) is None:
        raise BoxFailed("apt-get is not here: the box is built from this machine's Debian mirrors, so use Debian.")
    missing = {program: package for program, package in PROGRAMS.items() if shutil.which(program, path=path) is None}
    if not (grub_parts / "boot.img").is_file():
        missing[str(grub_parts / "boot.img")] = "grub-pc-bin"
    if missing:
        packages = " ".join(sorted(set(missing.values())))
        verb = "is" if len(missing) == 1 else "are"
        raise BoxFailed(f"{', '.join(missing)} {verb} not here: apt-get install {packages}")
    if (os.geteuid() if user_id is None else user_id) != 0:
        raise BoxFailed("The box's files belong to its root, so only root can build it: use sudo.")


def vagrant_keys(*, root: Path = Path("/")) -> str:
    """The public keys of Vagrant's well-known pairs, one a line, as authorized_keys wants them."""
    for pattern in KEY_PATTERNS:
        lines = {line.strip() for path in root.glob(pattern) for line in path.read_text().splitlines()}
        if keys := sorted(lines - {""}):
            return "".join(f"{key}\n" for key in keys)
    raise BoxFailed("Vagrant's public key is not here, and `vagrant ssh` needs it in the box: apt-get install vagrant")


@dataclass(frozen=True)
class Mirrors:
    """URIs of the archive and of the security archive."""

    main: str
    security: str

    def lines(self, suite: str) -> list[str]:
        """Lines for a sources.list."""
        return [
            f"deb {self.main} {suite} main",
            f"deb {self.main} {suite}-updates main",
            f"deb {self.security} {suite}-security main",
        ]


def configured_mirrors(*, suite: str, environment: Mapping[str, str]) -> Mirrors:
    """Ask apt. Raises BoxFailed where it has no mirror of Debian."""
    answer = subprocess.run(INDEX_TARGETS, capture_output=True, text=True, check=False, env=dict(environment))
    if answer.returncode != 0:
        raise BoxFailed(f"`apt-get indextargets` failed: {answer.stderr.strip()}")
    return choose_mirrors(answer.stdout.splitlines(), suite=suite)


def choose_mirrors(lines: Sequence[str], *, suite: str) -> Mirrors:
    """Pick the mirrors for a suite; on another release of Debian its mirrors, which carry the suite as well."""
    rows = [line.split("\t") for line in lines if line.count("\t") == 3]
    main = _first(rows, label="Debian", codename=suite)
    if main is None:
        raise BoxFailed(
            f"apt knows no Debian mirror, so there is nothing to build the box from: name one for {suite} in "
            "/etc/apt/sources.list.d/ and run `apt-get update`."
        )
    security = _first(rows, label="Debian-Security", codename=f"{suite}-security")
    if security is None:
        raise BoxFailed(
            f"apt knows no mirror of Debian's security archive: name one for {suite}-security in "
            "/etc/apt/sources.list.d/ and run `apt-get update`."
        )
    return Mirrors(main=main, security=security)


def _first(rows: Sequence[Sequence[str]], *, label: str, codename: str) -> str | None:
    matching = [row for row in rows if row[1] == "Debian" and row[2] == label]
    best = [row[0] for row in matching if row[3] == codename] or [row[0] for row in matching]
    return best[0] if best else None
