"""What a program does that is run on this host under strace(1), until it ends or is interrupted: which files it opens
or looks at, which other programs it starts."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ftvmm.failure import Failure

_OPENING = ("open", "openat", "openat2", "creat")
# A file that is only looked at is needed too: Python reads no source that it has compiled, but for a look at its age.
_LOOKING = ("access", "faccessat", "faccessat2", "lstat", "newfstatat", "stat", "statx")
_MAKING = (
    "link", "linkat", "mkdir", "mkdirat", "mknod", "mknodat", "rename", "renameat", "renameat2", "symlink", "symlinkat",
)  # fmt: skip
_STARTING = ("clone", "clone3", "fork", "vfork")
_RUNNING = ("execve", "execveat")
# With -xx every string is written in hexadecimal, and so never ends early.
_STRING = r"(?:\\x[0-9a-f]{2})*"
_CALL = re.compile(r"(?P<call>\w+)\((?P<arguments>.*)\) += (?P<result>\d+)")
_PATH = re.compile(rf'(?:(?:AT_FDCWD|\d+)<(?P<directory>{_STRING})>, )?"(?P<path>{_STRING})"')
# Kernel interfaces, which the personality has its own of, and the loader's notes of this host.
_LEFT_OUT = ("/proc", "/sys", "/dev", "/etc/ld.so.cache", "/etc/ld.so.preload")
_SECONDS_TO_END = 5


@dataclass(frozen=True)
class Trace:
    """What a program did.

    Args:
        files: absolute paths of files and directories that were opened for reading or looked at, that the program did
            not make itself, and that are there still; in order.
        processes: how many others it started, threads left aside.
        programs: the names of the other programs that it or they ran, in order.
    """

    files: tuple[str, ...]
    processes: int
    programs: tuple[str, ...]


def trace(program: str, arguments: Sequence[str], environment: Mapping[str, str]) -> Trace:
    """Runs a program and tells what it did.

    Args:
        program: the path of the program.
        arguments: its arguments, without its own name.
        environment: its environment, which has to be the one in the guest: locales, for one, hang on it.

    Raises:
        Failure: strace is not installed, or did not run the program.
    """
    strace = shutil.which("strace")
    if strace is None:
        raise Failure("--trace needs strace, which is not installed: apt-get install strace")
    with tempfile.TemporaryDirectory(prefix="ftvmm-trace-") as directory:
        prefix = Path(directory, "trace")
        calls = ",".join((*_OPENING, *_LOOKING, *_MAKING, *_STARTING, *_RUNNING))
        options = ("-ff", "-y", "-xx", "-qq", "-e", f"trace={calls}", "-e", "signal=none", "-o", str(prefix))
        process = subprocess.Popen(
            [strace, *options, "--", program, *arguments],
            # Ctrl-C is for this process, which ends the program then.
            env=environment, start_new_session=True,
        )  # fmt: skip
        try:
            process.wait()
        except KeyboardInterrupt:
            _end(process, Path(directory))
        lines = [line for file in sorted(Path(directory).iterdir()) for line in file.read_text().splitlines()]
    if not lines:
        raise Failure(f"strace did not run {program} (status {process.returncode}).")
    files = tuple(sorted(path for path in opened(lines) if os.path.isfile(path) or os.path.isdir(path)))
    processes, programs = started(lines)
    with suppress(ValueError):
        # Once strace itself has run it.
        programs.remove(os.path.basename(program))
    return Trace(files, processes, tuple(sorted(set(programs))))


def started(lines: Iterable[str]) -> tuple[int, list[str]]:
    """How many processes a trace says were started, threads left aside, and the names of the programs that were run."""
    processes = 0
    programs: list[str] = []
    for line in lines:
        call = _CALL.match(line)
        if call is None:
            continue
        if call["call"] in _STARTING:
            processes += "CLONE_THREAD" not in call["arguments"]
        elif call["call"] in _RUNNING and (path := _PATH.search(call["arguments"])):
            programs.append(os.path.basename(_decoded(path["path"])))
    return processes, programs


def opened(lines: Iterable[str]) -> set[str]:
    """What a trace says was opened for reading or looked at, and not made by the program itself, as absolute paths."""
    read: set[str] = set()
    made: set[str] = set()
    for line in lines:
        call = _CALL.match(line)
        if call is None or call["call"] in (*_STARTING, *_RUNNING):
            continue
        # Without a path it is about an open file.
        paths = [_absolute(found) for found in _PATH.finditer(call["arguments"]) if found["path"]]
        if not paths:
            continue
        flags = set(re.findall(r"O_\w+", call["arguments"]))
        if call["call"] in _MAKING or call["call"] == "creat" or "O_CREAT" in flags:
            # Of two paths the last one is new.
            made.add(paths[-1])
        elif "O_WRONLY" not in flags:
            read.add(paths[-1])
    return {path for path in read if not _is_below(path, _LEFT_OUT) and not _is_below(path, made)}


def _absolute(found: re.Match[str]) -> str:
    return os.path.join(_decoded(found["directory"] or ""), _decoded(found["path"]))


def _decoded(hexadecimal: str) -> str:
    return os.fsdecode(bytes.fromhex(hexadecimal.replace("\\x", "")))


def _is_below(path: str, roots: Iterable[str]) -> bool:
    parts = path.split("/")
    return not {"/".join(parts[:count]) for count in range(2, len(parts) + 1)}.isdisjoint(roots)


def _end(process: subprocess.Popen[bytes], directory: Path) -> None:
    """Ends the program, which may be many processes by now, in the gentlest way that works."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        for traced in _traced(process.pid, directory):
            with suppress(ProcessLookupError):
                os.kill(traced, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_SECONDS_TO_END)
            return
    process.kill()
    process.wait()


def _traced(tracer: int, directory: Path) -> Iterator[int]:
    """The processes that strace traces still: it keeps a file for each that there ever was."""
    for file in directory.iterdir():
        with suppress(OSError, ValueError):
            pid = int(file.suffix[1:])
            if f"TracerPid:\t{tracer}\n" in Path(f"/proc/{pid}/status").read_text():
                yield pid
