"""The disk and the box file: laid out as a PC's firmware expects it, and the same bytes from the same tree."""

import os
import struct
import subprocess
import tarfile
from pathlib import Path

import pytest

from lab.box import catalogue, disk_image, tools
from lab.box.commands import SOURCE_DATE_EPOCH, BoxFailed, Commands, build_environment
from lab.box.disk_image import DISK_SIGNATURE, PARTITION_SECTOR, SECTOR, master_boot_record

DISK_BYTES = 64 << 20


def test_the_mbr_reads_as_one_bootable_linux_partition() -> None:
    record = master_boot_record(boot_code=b"\xeb" * 512, disk_bytes=8 << 30)
    assert len(record) == SECTOR
    assert record[:440] == b"\xeb" * 440
    assert struct.unpack_from("<I", record, 440) == (DISK_SIGNATURE,)
    status, kind, first, count = struct.unpack_from("<B3xB3xII", record, 446)
    assert (status, kind, first) == (0x80, 0x83, PARTITION_SECTOR)
    assert (first + count) * SECTOR == 8 << 30
    assert record[462:510] == bytes(48)
    assert record[510:] == b"\x55\xaa"


def test_a_disk_without_room_for_a_partition_is_a_mistake() -> None:
    with pytest.raises(AssertionError):
        master_boot_record(boot_code=b"", disk_bytes=PARTITION_SECTOR * SECTOR)


def _tree(root: Path, *, names: list[str]) -> Path:
    """A small root, its entries made in the given order."""
    for name in names:
        (root / name).mkdir(parents=True)
        (root / name / "file").write_text(name * 1000)
    os.link(root / "etc/file", root / "etc/again")
    (root / "bin").symlink_to("usr")
    for path in [root, *root.rglob("*")]:
        os.utime(path, (SOURCE_DATE_EPOCH, SOURCE_DATE_EPOCH), follow_symlinks=False)
    return root


def _box(directory: Path, *, names: list[str]) -> Path:
    path = tools.search_path()
    try:
        tools.check(path=path, user_id=0)
    except BoxFailed as failure:
        pytest.skip(f"the box cannot be built on this machine: {failure}")
    root = _tree(directory / "root", names=names)
    with (directory / "log").open("w") as log:
        commands = Commands(directory=directory, log=log, environment=build_environment(path))
        disk = disk_image.make(commands, root=root, work=directory, disk_bytes=DISK_BYTES)
    catalogue.write_box(directory / "the.box", disk=disk, disk_bytes=DISK_BYTES)
    return directory / "the.box"


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Boxes of two equal trees that were made in another order, at another time."""
    names = ["etc", "usr", "var/lib", "home"]
    first = _box(tmp_path_factory.mktemp("first"), names=names)
    second_began = (first.parent / "root").lstat().st_ctime_ns
    second = _box(tmp_path_factory.mktemp("second"), names=names[::-1])
    assert (second.parent / "root").lstat().st_ctime_ns != second_began
    return first, second


def test_the_same_tree_gives_the_same_box(boxes: tuple[Path, Path]) -> None:
    first, second = boxes
    assert first.read_bytes() == second.read_bytes()


def test_the_box_holds_what_vagrant_looks_for(boxes: tuple[Path, Path]) -> None:
    with tarfile.open(boxes[0]) as box:
        members = box.getmembers()
        metadata = box.extractfile("metadata.json")
        assert metadata is not None
        assert metadata.read() == b'{"provider": "libvirt", "format": "qcow2", "virtual_size": 1}\n'
    assert [member.name for member in members] == ["metadata.json", "Vagrantfile", "box.img"]
    assert {(member.uid, member.gid, member.mtime, member.mode) for member in members} == {
        (0, 0, SOURCE_DATE_EPOCH, 0o644)
    }


def test_the_disk_holds_mbr_boot_loader_and_tree(boxes: tuple[Path, Path], tmp_path: Path) -> None:
    raw = tmp_path / "disk.raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", boxes[0].parent / "box.img", raw], check=True)
    assert raw.stat().st_size == DISK_BYTES
    with raw.open("rb") as disk:
        assert disk.read(SECTOR)[510:] == b"\x55\xaa"
        assert disk.read(SECTOR) != bytes(SECTOR), "GRUB's core follows the MBR"
    partition = f"{raw}?offset={PARTITION_SECTOR * SECTOR}"
    environment = build_environment(tools.search_path())
    listing = ["debugfs", "-R", "cat /home/file", partition]
    assert subprocess.check_output(listing, env=environment, stderr=subprocess.DEVNULL) == b"home" * 1000
    status = subprocess.check_output(["debugfs", "-R", "stat /etc/again", partition], env=environment, text=True)
    assert "Links: 2" in status
    assert {line.split()[1] for line in status.splitlines() if "time:" in line} == {f"{SOURCE_DATE_EPOCH:#x}:00000000"}
