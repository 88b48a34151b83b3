"""The box file as Vagrant wants it, and the catalogue by which Vagrant tells one build from the next.

The box is a tar archive with the disk, its metadata and a Vagrantfile. Without the catalogue, a JSON file, each build
is version 0, and neither Vagrant nor a storage pool would notice a new one.
"""

import io
import json
import os
import tarfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

from lab.box.commands import SOURCE_DATE_EPOCH

NAME = "ftvmm/bookworm"
PROVIDER = "libvirt"
VAGRANTFILE = """\
Vagrant.configure("2") do |config|
  config.vm.guest = :debian
  config.vm.synced_folder ".", "/vagrant", disabled: true
end
"""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One version of the box. ``sha256`` is the box file's."""

    version: str
    sha256: str
    box: Path


def read(path: Path) -> Entry | None:
    """What a catalogue says; None where there is none that can be read."""
    try:
        version = json.loads(path.read_text())["versions"][0]
        provider = version["providers"][0]
        box = Path(unquote(urlsplit(str(provider["url"])).path))
        return Entry(version=str(version["version"]), sha256=str(provider["checksum"]), box=box)
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return None


def write(path: Path, entry: Entry) -> None:
    """Write a catalogue with this one version, atomically."""
    provider = {"name": PROVIDER, "url": entry.box.absolute().as_uri()}
    provider |= {"checksum_type": "sha256", "checksum": entry.sha256}
    description = "A host of the ftvmm lab, built from Debian packages"
    version = {"version": entry.version, "providers": [provider]}
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(
        json.dumps({"name": NAME, "description": description, "versions": [version]}, indent=2, sort_keys=True) + "\n"
    )
    os.replace(partial, path)


def next_version(previous: Entry | None, *, sha256: str, now: datetime) -> str:
    """The version of a box with this content: unchanged content keeps its version, other content gets a higher one.

    It is ``0.YYYYMMDD.HHMMSS`` of the moment (UTC), so that it is higher than that of any box built before, also by
    another checkout or before this one was cleaned. A clock that went back does not lower it.
    """
    if previous is not None and previous.sha256 == sha256:
        return previous.version
    day, second = int(now.strftime("%Y%m%d")), int(now.strftime("%H%M%S"))
    if previous is not None:
        try:
            before = tuple(int(part) for part in previous.version.split(".")[1:3])
        except ValueError:
            before = (0, 0)
        if (day, second) <= before:
            day, second = before[0], before[1] + 1
    return f"0.{day}.{second}"


def write_box(path: Path, *, disk: Path, disk_bytes: int) -> None:
    """Write the archive. It is not compressed: the disk in it is, and Vagrant takes either."""
    metadata = {"provider": "libvirt", "format": "qcow2", "virtual_size": -(-disk_bytes // 2**30)}
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, text in (("metadata.json", json.dumps(metadata) + "\n"), ("Vagrantfile", VAGRANTFILE)):
            content = text.encode()
            archive.addfile(_member(name, len(content)), io.BytesIO(content))
        with disk.open("rb") as content_of_disk:
            archive.addfile(_member("box.img", disk.stat().st_size), content_of_disk)


def _member(name: str, size: int) -> tarfile.TarInfo:
    """An entry that tells nothing of who made it and when."""
    member = tarfile.TarInfo(name)
    member.size = size
    member.mode = 0o644
    member.mtime = SOURCE_DATE_EPOCH
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member
