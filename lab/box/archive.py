"""The box file as Vagrant wants it: a tar archive with the disk, its metadata and a Vagrantfile."""

import io
import json
import tarfile
from pathlib import Path

from lab.box.commands import SOURCE_DATE_EPOCH

VAGRANTFILE = """\
Vagrant.configure("2") do |config|
  config.vm.guest = :debian
  config.vm.synced_folder ".", "/vagrant", disabled: true
end
"""


def write(path: Path, *, disk: Path, disk_bytes: int) -> None:
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
