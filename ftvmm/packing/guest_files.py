"""The file system that a packed program finds in the VM."""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ftvmm import _core
from ftvmm.failure import Failure

_ELF_MAGIC = b"\x7fELF"
# As many as the kernel follows (path_resolution(7)).
_LINKS_MAX = 40
# Links to directories of the same names in /usr, on most hosts.
_MERGED = ("/bin", "/lib", "/lib64", "/sbin")
# What most programs look for. None of it is this host's own: an image must not depend on who packs it.
_DIRECTORIES = {"/root": 0o700, "/run": 0o755, "/tmp": 0o1777, "/var/tmp": 0o1777}
_TEXTS = {
    "/etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "/etc/hosts": "127.0.0.1\tlocalhost\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "/etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "/etc/resolv.conf": "# no name server\n",
}
# The time zone, which is what the user of a host expects to see.
_OF_THE_HOST = "/etc/localtime"


@dataclass(frozen=True)
class Directory:
    """A directory.

    Args:
        permissions: the permission bits of its mode.
    """

    permissions: int = 0o755


@dataclass(frozen=True)
class Link:
    """A symbolic link.

    Args:
        target: where it leads.
    """

    target: str


@dataclass(frozen=True)
class Text:
    """A regular file whose content is made up here.

    Args:
        text: all that is in it.
        permissions: the permission bits of its mode.
    """

    text: str
    permissions: int = 0o644


@dataclass(frozen=True)
class HostFile:
    """A regular file of this host.

    Args:
        host: its path on the host.
        permissions: the permission bits of its mode.
        modified_s: when its content changed last, in whole seconds since 1970, which is what archives keep: the image
            depends on it as on the content.
    """

    host: str
    permissions: int
    modified_s: int

    @classmethod
    def at(cls, path: str) -> HostFile:
        """The file at a path of the host, with what it says of itself.

        Raises:
            Failure: there is none.
        """
        status = _status(path)
        # No clock in the guest knows a time before 1970.
        return cls(_text(path), stat.S_IMODE(status.st_mode), max(0, int(status.st_mtime)))


Entry = Directory | Link | Text | HostFile


class GuestFiles:
    """What is at which path in the guest. A path is put in with the directories above it."""

    def __init__(self) -> None:
        # Known from the start, so that nothing is put beside what they lead to.
        self._entries: dict[str, Entry] = {path: Link(os.readlink(path)) for path in _MERGED if os.path.islink(path)}
        self.skipped: list[str] = []
        """Paths on the host that hold neither a file nor a directory nor a link, and so were left out of a tree."""

    def put(self, path: str, entry: Entry, *, replace: bool = True) -> str:
        """Puts something at a path; links on the way to it are followed, and one at the path itself is not.

        Args:
            path: an absolute path in the guest.
            entry: what to put there.
            replace: whether it takes the place of what is there already.

        Returns:
            The path without links.

        Raises:
            Failure: the path is not absolute, no text, or leads through something that is no directory.
        """
        *parents, name = _parts(path) or [""]
        if not name:
            raise Failure(f"{path!r} is no path of a file in the guest.")
        guest, pending, links = "", parents, 0
        while pending:
            first, pending = pending[0], pending[1:]
            if first == "..":
                guest = os.path.dirname(guest).rstrip("/")
                continue
            known = self._entries.get(f"{guest}/{first}")
            if isinstance(known, Link):
                links = _one_more(links, path)
                pending = [*_relative_parts(known.target), *pending]
                guest = "" if known.target.startswith("/") else guest
                continue
            guest = f"{guest}/{first}"
            self._make_directory(guest, 0o755)
        place = f"{guest}/{name}"
        if place not in self._entries:
            self._entries[place] = entry
        elif replace:
            is_directory = isinstance(entry, Directory)
            if not is_directory and any(one.startswith(f"{place}/") for one in self._entries):
                raise Failure(f"{place} is a directory in the image, with something in it.")
            self._entries[place] = entry
        return place

    def add_host(self, path: str) -> str:
        """Puts in what the host has at a path, under the same path: links on the way become links in the guest too.

        Args:
            path: an absolute path of a regular file or a directory; of a directory nothing is put in but itself.

        Returns:
            The path in the guest without links.

        Raises:
            Failure: there is no such file, or something else than a file or directory.
        """
        guest, host, pending, links = "", "/", _parts(path), 0
        while pending:
            name, pending = pending[0], pending[1:]
            if name == "..":
                guest = os.path.dirname(guest).rstrip("/")
                host = os.path.dirname(host)
                continue
            guest_path, host_path = f"{guest}/{name}", os.path.join(host, name)
            known = self._entries.get(guest_path)
            if known is None and os.path.islink(host_path):
                known = self._entries[guest_path] = Link(_text(os.readlink(host_path)))
            if isinstance(known, Link):
                links = _one_more(links, path)
                pending = [*_relative_parts(known.target), *pending]
                if known.target.startswith("/"):
                    guest, host = "", "/"
                continue
            # The guest has a directory where the host may have a link.
            guest, host = guest_path, os.path.realpath(host_path)
            if pending:
                self._make_directory(guest, _permissions(host))
        self._add_file(guest, host)
        return guest

    def add_tree(self, host: str, guest: str | None = None) -> None:
        """Puts in a directory of the host and all that is in it; links stay links.

        What was at the same paths before is replaced. A link out of the tree brings the file that it leads to along,
        where that keeps its path.

        Args:
            host: the directory on the host.
            guest: where it goes; under its own path without it.

        Raises:
            Failure: it is no directory, or something in it cannot be read.
        """
        if not os.path.isdir(host):
            raise Failure(f"{host} is no directory.")
        host = os.path.abspath(host)
        base = self.add_host(host) if guest is None else self.put(guest, Directory(_permissions(host)), replace=False)
        for directory, names, files in os.walk(host, onerror=_fail):
            names.sort()
            relative = os.path.relpath(directory, host)
            at = base if relative == "." else f"{base}/{_text(relative)}"
            for name in sorted([*names, *files]):
                path, place = os.path.join(directory, name), f"{at}/{_text(name)}"
                if os.path.islink(path):
                    target = _text(os.readlink(path))
                    self.put(place, Link(target))
                    leads_to = os.path.normpath(os.path.join(directory, target))
                    if (guest is None or os.path.isabs(target)) and os.path.isfile(leads_to):
                        self.add_host(leads_to)
                elif os.path.isdir(path):
                    self.put(place, Directory(_permissions(path)))
                elif os.path.isfile(path):
                    self.put(place, HostFile.at(path))
                else:
                    self.skipped.append(path)

    def libraries(self) -> list[tuple[str, HostFile]]:
        """The shared libraries among the files: path in the guest, and file."""
        files = ((path, entry) for path, entry in self._sorted() if isinstance(entry, HostFile))
        return [(path, file) for path, file in files if _is_library(file.host)]

    def document(self, objects: set[str]) -> list[dict[str, Any]]:
        """All files as the core wants them (`packing::RequestedFile`).

        Args:
            objects: the paths in the guest of those that are to be laid out.
        """

        def content(path: str, entry: Entry) -> Any:
            match entry:
                case Directory():
                    return "directory"
                case Link(target):
                    return {"link": target}
                case Text(text):
                    return {"text": text}
                case HostFile(host):
                    return {"object" if path in objects else "host": host}

        return [
            {
                "path": path,
                "permissions": 0o777 if isinstance(entry, Link) else entry.permissions,
                "modified_s": entry.modified_s if isinstance(entry, HostFile) else None,
                "content": content(path, entry),
            }
            for path, entry in self._sorted()
        ]

    def _sorted(self) -> Iterator[tuple[str, Entry]]:
        return iter(sorted(self._entries.items()))

    def _add_file(self, guest: str, host: str) -> None:
        kind = stat.S_IFMT(_status(host).st_mode)
        if kind == stat.S_IFDIR:
            if guest:
                self._make_directory(guest, _permissions(host))
        elif kind != stat.S_IFREG:
            raise Failure(f"{host} is neither a regular file nor a directory.")
        else:
            self._entries.setdefault(guest, HostFile.at(host))

    def _make_directory(self, guest: str, permissions: int) -> None:
        if not isinstance(self._entries.setdefault(guest, Directory(permissions)), Directory):
            raise Failure(f"{guest} is no directory in the image, and something is to be put into it.")


def _text(path: str) -> str:
    """The path, which has to be text for the guest."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise Failure(f"{os.fsencode(path)!r}: a name in the guest has to be UTF-8.") from None
    return path


def _parts(path: str) -> list[str]:
    if not path.startswith("/"):
        raise Failure(f"{path!r}: a path in the guest has to begin with a slash.")
    return _relative_parts(_text(path))


def _relative_parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _one_more(links: int, path: str) -> int:
    if links == _LINKS_MAX:
        raise Failure(f"{path}: more than {_LINKS_MAX} links lead to one another.")
    return links + 1


def _status(host: str) -> os.stat_result:
    try:
        return os.stat(host)
    except OSError as error:
        raise Failure(f"{host}: {error.strerror}.") from None


def _permissions(host: str) -> int:
    return stat.S_IMODE(_status(host).st_mode)


@functools.cache
def _is_library(host: str) -> bool:
    try:
        with open(host, "rb") as file:
            is_elf = file.read(len(_ELF_MAGIC)) == _ELF_MAGIC
    except OSError as error:
        raise Failure(f"{host}: {error.strerror}.") from None
    return is_elf and _core.is_library(host)


def _fail(error: OSError) -> None:
    raise Failure(f"{error.filename}: {error.strerror}.")


def add_default_files(files: GuestFiles) -> None:
    """Puts in what most programs look for, where it is not there."""
    for path, permissions in _DIRECTORIES.items():
        files.put(path, Directory(permissions), replace=False)
    for path, text in _TEXTS.items():
        files.put(path, Text(text), replace=False)
    if os.path.isfile(_OF_THE_HOST):
        files.add_host(_OF_THE_HOST)
