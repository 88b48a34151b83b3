"""Lets one set-up at a time work on a tree: parallel ``make`` runs wait for each other."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


@contextmanager
def one_at_a_time(lock_file: Path, *, progress: TextIO) -> Iterator[None]:
    """Hold an exclusive lock; the kernel lets go of it when the holder dies, so none is ever left behind.

    While another process holds it, say so on ``progress`` and wait.
    """
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            print(
                f"Another set-up of this tree is running (process {holder}); waiting for it.", file=progress, flush=True
            )
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
