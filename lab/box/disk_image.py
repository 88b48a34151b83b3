"""The box's disk: an MBR, GRUB in the gap behind it, one ext4 partition. No loop device, no mount, no chroot."""

import re
import struct
import subprocess
from pathlib import Path

from lab.box.commands import SOURCE_DATE_EPOCH, BoxFailed, Commands
from lab.box.tools import GRUB_PARTS

SECTOR = 512
PARTITION_SECTOR = 2048
"""The partition begins at 1 MiB; GRUB's core lies between it and the MBR."""
CODE_BYTES_MAX = 440
"""Boot code in an MBR; behind it the disk's signature and the partition table."""
DISK_SIGNATURE = 0x46545642
FILE_SYSTEM_UUID = "46545642-0000-4000-8000-000000000001"
HASH_SEED = "46545642-0000-4000-8000-000000000002"
"""Fixed, because mke2fs would draw them."""
LABEL = "ftvmm-root"
GRUB_MODULES = ("biosdisk", "part_msdos", "ext2", "normal", "linux", "echo", "test", "ls", "cat", "search")
EARLY_CONFIGURATION = """\
set root=(hd0,msdos1)
set prefix=(hd0,msdos1)/boot/grub
configfile /boot/grub/grub.cfg
"""


def master_boot_record(*, boot_code: bytes, disk_bytes: int) -> bytes:
    """The disk's first sector: boot code and one bootable Linux partition from PARTITION_SECTOR to the end."""
    sectors = disk_bytes // SECTOR - PARTITION_SECTOR
    assert 0 < sectors < 1 << 32, "an MBR counts sectors in 32 bits"
    beyond_cylinders = b"\xfe\xff\xff"
    entry = struct.pack("<B3sB3sII", 0x80, beyond_cylinders, 0x83, beyond_cylinders, PARTITION_SECTOR, sectors)
    record = boot_code[:CODE_BYTES_MAX].ljust(CODE_BYTES_MAX, b"\0") + struct.pack("<IH", DISK_SIGNATURE, 0)
    record += entry + bytes(48) + b"\x55\xaa"
    assert len(record) == SECTOR
    return record


def make(commands: Commands, *, root: Path, work: Path, disk_bytes: int) -> Path:
    """Make the disk of a root file tree and return it as qcow2."""
    raw = work / "disk.raw"
    with raw.open("wb") as disk:
        disk.truncate(disk_bytes)
    _file_system(commands, raw=raw, root=root, kibibytes=(disk_bytes - PARTITION_SECTOR * SECTOR) // 1024)
    core = _grub_core(commands, work=work)
    with raw.open("r+b") as disk:
        disk.write(master_boot_record(boot_code=(GRUB_PARTS / "boot.img").read_bytes(), disk_bytes=disk_bytes))
        disk.write(core)
    image = work / "box.img"
    commands.run(
        ["qemu-img", "convert", "-O", "qcow2", "-c", "-o", "compression_type=zstd", raw, image],
        failure="qemu-img could not write the box's disk.",
    )
    raw.unlink()
    return image


def _file_system(commands: Commands, *, raw: Path, root: Path, kibibytes: int) -> None:
    offset = PARTITION_SECTOR * SECTOR
    extended = f"offset={offset},hash_seed={HASH_SEED},lazy_itable_init=1,assume_storage_prezeroed=1"
    command = ["mke2fs", "-q", "-F", "-t", "ext4", "-L", LABEL, "-U", FILE_SYSTEM_UUID, "-m", "1", "-i", "32768"]
    command += ["-e", "remount-ro"]
    command += ["-O", "^metadata_csum_seed,^orphan_file", "-E", extended, "-d", str(root), str(raw), f"{kibibytes}k"]
    commands.run(command, failure="mke2fs could not make the box's file system: is the disk full?")
    # mke2fs copies the tree's change times, which nobody can set, and times of access, which reading it may change.
    script = raw.with_name("times.debugfs")
    count = _used_inodes(commands, raw=raw, offset=offset)
    times = (
        f"set_inode_field <{number}> {field} @{SOURCE_DATE_EPOCH}\n"
        for number in range(1, count + 1)
        for field in ("ctime", "atime")
    )
    script.write_text("".join(times))
    commands.run(
        ["sh", "-c", 'exec debugfs -w -f "$1" "$2" >/dev/null', "sh", script, f"{raw}?offset={offset}"],
        failure="debugfs could not fix the times in the box's file system.",
    )
    commands.run(
        ["e2fsck", "-f", "-n", f"{raw}?offset={offset}"], failure="The box's file system is not sound: see the log."
    )


def _used_inodes(commands: Commands, *, raw: Path, offset: int) -> int:
    """How many inodes are in use: mke2fs hands them out from 1 without a gap."""
    answer = subprocess.run(
        ["debugfs", "-R", "show_super_stats -h", f"{raw}?offset={offset}"],
        capture_output=True,
        text=True,
        check=False,
        env=dict(commands.environment),
    ).stdout
    numbers = {name: int(value) for name, value in re.findall(r"^(Inode count|Free inodes): +(\d+)$", answer, re.M)}
    if len(numbers) != 2:
        raise BoxFailed(f"debugfs does not tell how many inodes {raw.name} has: {answer[:200]!r}")
    return numbers["Inode count"] - numbers["Free inodes"]


def _grub_core(commands: Commands, *, work: Path) -> bytes:
    early, core = work / "early.cfg", work / "core.img"
    early.write_text(EARLY_CONFIGURATION)
    command = ["grub-mkimage", "-O", "i386-pc", "-d", str(GRUB_PARTS), "-o", str(core), "-c", str(early)]
    command += ["-p", "(hd0,msdos1)/boot/grub", *GRUB_MODULES, "configfile", "boot", "search_label"]
    commands.run(command, failure="grub-mkimage could not make the boot loader.")
    content = core.read_bytes()
    gap = (PARTITION_SECTOR - 1) * SECTOR
    if len(content) > gap:
        raise BoxFailed(f"GRUB's core has {len(content)} bytes, and the gap before the partition only {gap}.")
    return content
