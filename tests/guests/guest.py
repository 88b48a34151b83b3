"""A guest that runs under `ftvmm run`, with its console."""

import re
import subprocess
import sys
import threading
from pathlib import Path
from queue import Empty, Queue
from types import TracebackType
from typing import Self

REPOSITORY = Path(__file__).resolve().parents[2]
IMAGES = REPOSITORY / "ftvmm" / "guests" / "images"
BOOT_S_MAX = 30.0


class Guest:
    """A running guest. Its end is waited for when the `with` block is left; a guest that still runs is killed."""

    def __init__(self, image: str, *arguments: str, devices: tuple[str, ...] = (), memory_mib: int = 64) -> None:
        """Boots `images/<image>.hvt` with these arguments, device options as `ftvmm run` has them, in the caller's
        network namespace."""
        path = IMAGES / f"{image}.hvt"
        assert path.exists(), f"{path} is missing: `make -C ftvmm/guests` builds it"
        command = [sys.executable, "-c", "from ftvmm.cli import main; main()", "run", f"--mem={memory_mib}", *devices]
        self._process = subprocess.Popen(
            [*command, str(path), "--", *arguments], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self.console: list[str] = []
        self._lines: Queue[str | None] = Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.decode(errors="replace").rstrip("\n"))
        self._lines.put(None)

    def expect(self, pattern: str, *, seconds_max: float = BOOT_S_MAX) -> re.Match[str]:
        """Waits for a console line that matches, and returns the match; fails when the guest ends before."""
        while True:
            try:
                line = self._lines.get(timeout=seconds_max)
            except Empty:
                raise AssertionError(f"no line matches {pattern!r} in {self.console}") from None
            assert line is not None, f"the guest ended, and no line matches {pattern!r} in {self.console}"
            self.console.append(line)
            if match := re.search(pattern, line):
                return match

    def wait(self, *, seconds_max: float = BOOT_S_MAX) -> int:
        """Waits for the end; returns the exit status. All console lines are in `console` then."""
        status = self._process.wait(timeout=seconds_max)
        while (line := self._lines.get(timeout=seconds_max)) is not None:
            self.console.append(line)
        return status

    def kill(self) -> None:
        """Kills the VMM at once, as a power failure would."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self.kill()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()
