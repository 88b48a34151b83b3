"""The `file` arbiter: link(2) on a directory that both hosts share.

One file a generation, made whole under a name of its own and then linked to the generation's name: link(2) either
makes the name or fails because it exists, atomically, on every POSIX file system and over NFS and SFTP. A link whose
answer was lost is settled by reading the file: its content says who won. Generation files are never deleted (R11).
What the storage could still forget is no answer: the directory is flushed before its newest record counts.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
from dataclasses import asdict
from pathlib import Path

from ftvmm.arbiters.interface import ArbiterUnreachableError, NotSharedError, Record, record_from

_GENERATION = re.compile(r"generation-(\d{8})\Z")
_RECORD_BYTES_MAX = 4096
# A directory cannot be flushed by itself where one of these is the answer: what is linked there is as safe as it gets.
_CANNOT_FLUSH = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)
# Kinds of file systems that belong to one host alone, as /proc/self/mountinfo calls them.
_OF_ONE_HOST = frozenset(
    {
        *("bcachefs", "btrfs", "erofs", "exfat", "ext2", "ext3", "ext4", "f2fs", "jfs", "nilfs2", "ntfs3", "overlay"),
        *("ramfs", "reiserfs", "rootfs", "squashfs", "tmpfs", "vfat", "xfs", "zfs"),
    }
)


class FileArbiter:
    """Generations of one VM as files in a shared directory.

    Args:
        directory: shared by both hosts; the VM's generations live in a directory of their own below it.
        vm: the VM's UUID, 32 hexadecimal digits.
        is_local: whether both nodes run on this machine, so that the directory need not be a share.
    """

    kind = "file"

    def __init__(self, directory: Path, vm: str, *, is_local: bool = False) -> None:
        self.place = str(directory)
        self._share = directory
        self._directory = directory / vm
        self._is_local = is_local

    def require_shared(self) -> None:
        """See `Arbiter.require_shared`: a share that is not mounted is a directory of this host's."""
        if self._is_local:
            return
        try:
            kind = file_system_of(self._share.resolve(strict=True), Path("/proc/self/mountinfo").read_text())
        except OSError as error:
            raise NotSharedError(f"{self._share}: {error.strerror}") from error
        if kind in _OF_ONE_HOST:
            raise NotSharedError(
                f"{self._share} lies on {kind}, which no other host can see: is the share mounted? "
                "(`local = true` in [arbiter], where both nodes run on this machine)"
            )

    def try_out(self) -> list[str]:
        """See `Arbiter.try_out`."""
        place = self._directory if self._directory.exists() else self._share
        trial = place / f"trial-{secrets.token_hex(8)}"
        linked = trial.with_suffix(".linked")
        try:
            try:
                trial.write_text("ftvmm doctor", encoding="ascii")
                os.link(trial, linked)
            finally:
                for path in (trial, linked):
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise ArbiterUnreachableError(f"{trial}: {error.strerror}") from error
        return []

    def read(self) -> Record:
        """See `Arbiter.read`."""
        try:
            # A share that is not mounted looks like an empty directory: that must not read as "never bootstrapped".
            if not self._share.is_dir():
                raise ArbiterUnreachableError(f"{self._share} is not there: is the share mounted?")
            names = os.listdir(self._directory)
        except FileNotFoundError:
            return Record(0, 0, "")
        except OSError as error:
            raise ArbiterUnreachableError(f"{self._directory}: {error.strerror}") from error
        generations = [int(match[1]) for name in names if (match := _GENERATION.match(name))]
        if not generations:
            return Record(0, 0, "")
        return self._record(max(generations))

    def ask(self, *, generation: int, incarnation: int, node: str) -> Record:
        """See `Arbiter.ask`."""
        wanted = Record(generation, incarnation, node)
        # A name of its own for each call: an earlier claim of this process may still hang, and may already be linked.
        # To open that one again would empty the generation's own file.
        claim = self._directory / f"claim-{generation:08d}-{incarnation:016x}-{secrets.token_hex(8)}"
        try:
            if generation == 1:
                self._directory.mkdir(exist_ok=True)
            with claim.open("x", encoding="ascii") as file:
                json.dump(asdict(wanted), file)
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(claim, self._path(generation))
            except FileExistsError:
                pass
            except OSError as error:
                # SFTP reports every refusal as EPERM or EIO: only the file's content tells what happened.
                if error.errno not in (errno.EPERM, errno.EIO):
                    raise
        except OSError as error:
            raise ArbiterUnreachableError(f"{claim}: {error.strerror}") from error
        finally:
            with contextlib.suppress(OSError):
                claim.unlink()
        return self._record(generation)

    def _flush_directory(self) -> None:
        """Let the records outlive a power loss of the storage, where its file system can be told to."""
        try:
            directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as error:
            if error.errno not in _CANNOT_FLUSH:
                raise ArbiterUnreachableError(f"{self._directory} cannot be flushed: {error.strerror}") from error

    def _path(self, generation: int) -> Path:
        return self._directory / f"generation-{generation:08d}"

    def _record(self, generation: int) -> Record:
        path = self._path(generation)
        self._flush_directory()
        try:
            with path.open("rb") as file:
                text = file.read(_RECORD_BYTES_MAX)
        except OSError as error:
            raise ArbiterUnreachableError(f"{path}: {error.strerror}") from error
        return record_from(text, generation=generation, where=str(path))


def file_system_of(directory: Path, mountinfo: str) -> str:
    """The kind of the file system that holds a directory, by the lines of /proc/PID/mountinfo (proc(5))."""
    kind, depth = "", -1
    for line in mountinfo.splitlines():
        fields, _, source = line.partition(" - ")
        mounted = Path(fields.split()[4].encode().decode("unicode_escape"))
        # Of several on one place the last one hides the others.
        if directory.is_relative_to(mounted) and len(mounted.parts) >= depth:
            kind, depth = source.split()[0], len(mounted.parts)
    return kind
