"""The files that most programs look for. None of them is this host's own: an image must not depend on who packs it."""

from __future__ import annotations

import os

from ftvmm.packing.guest_files import Directory, GuestFiles, Text

ENVIRONMENT = {"HOME": "/root", "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
"""What a program finds in its environment unless it is told otherwise."""

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


def add_default_files(files: GuestFiles) -> None:
    """Puts in those that are not there."""
    for path, permissions in _DIRECTORIES.items():
        files.put(path, Directory(permissions), replace=False)
    for path, text in _TEXTS.items():
        files.put(path, Text(text), replace=False)
    if os.path.isfile(_OF_THE_HOST):
        files.add_host(_OF_THE_HOST)
