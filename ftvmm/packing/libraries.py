"""Which libraries a program or library needs, and where they are: its own dynamic loader is asked."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from ftvmm.failure import Failure

# What a guest's processor is, so that no library for a newer one is chosen (ld.so(8), "Hardware capabilities").
_CAPABILITIES = "x86-64-v2"
_GNU_LOADER = "ld-linux-x86-64.so.2"
_FOUND = re.compile(r"\t(?P<name>\S+) => (?P<path>/.*) \(0x[0-9a-f]+\)")
_NOT_FOUND = re.compile(r"\t(?P<name>\S+) => not found")
_MISSING = re.compile(r"error while loading shared libraries: (?P<name>[^:]+): cannot open shared object file")
# Where Debian's loader looks without being told to; there is no cache in the guest that would name other places.
SEARCHED = ("/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib", "/usr/lib")
_SECONDS_MAX = 60


@dataclass(frozen=True)
class Library:
    """A library that something needs.

    Args:
        name: what it is asked for by.
        path: where the loader finds it.
    """

    name: str
    path: str


class MissingLibrary(Failure):
    """A library that something needs is not installed."""


class Loader:
    """A program's dynamic loader, which tells what it would load, and runs nothing.

    Args:
        path: the loader's path on the host.
        environment: what the program will have in the guest; the loader looks where `LD_LIBRARY_PATH` says.
    """

    def __init__(self, path: str, environment: Mapping[str, str]) -> None:
        self._options = ["--glibc-hwcaps-mask", _CAPABILITIES] if os.path.basename(path) == _GNU_LOADER else []
        self._path = path
        self._environment = {"LC_ALL": "C"} | {
            name: value for name, value in environment.items() if name == "LD_LIBRARY_PATH"
        }

    def libraries(self, program: str, loaded: str | None = None) -> list[Library]:
        """What a program needs, directly or not, without the loader.

        Args:
            program: its path on the host.
            loaded: a library that the program may load while it runs: what it needs is counted too. It finds libraries
                that the program has loaded already, wherever they lie.

        Raises:
            MissingLibrary: one of them is not installed.
            Failure: the loader does not understand the file.
        """
        asked, what = [*self._options, "--list", program], program
        if loaded is not None:
            what = loaded
            # The loader's list cannot hold a path with what separates its members.
            has_separator = not {" ", ":"}.isdisjoint(loaded)
            asked = [
                *self._options,
                *(["--list", loaded] if has_separator else ["--preload", loaded, "--list", program]),
            ]
        told = subprocess.run(
            [self._path, *asked],
            env=self._environment, capture_output=True, text=True, errors="surrogateescape", timeout=_SECONDS_MAX,
            check=False,
        )  # fmt: skip
        missing = _NOT_FOUND.search(told.stdout) or _MISSING.search(told.stderr)
        if missing is not None:
            raise MissingLibrary(
                f"{what} needs the library {missing['name']}, which is not installed where {self._path} looks for it."
            )
        if told.returncode != 0:
            said = (told.stderr.strip() or f"it ended with status {told.returncode}").splitlines()[0]
            raise Failure(f"{self._path} was asked which libraries {what} needs: {said}")
        return [Library(found["name"], found["path"]) for found in _FOUND.finditer(told.stdout)]
