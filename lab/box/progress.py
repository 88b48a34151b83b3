"""Tells what the build does: a line when a step begins, one with its time when it is done."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TextIO


@dataclass
class Progress:
    """Counts the steps of one build, of which there are ``count``."""

    stream: TextIO
    count: int
    number: int = 0

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Frame one step."""
        self.number += 1
        assert self.number <= self.count
        label = f"[{self.number}/{self.count}] {title}"
        print(f"{label} ...", file=self.stream, flush=True)
        begin = time.monotonic()
        yield
        print(f"{label}: done in {time.monotonic() - begin:.0f} s", file=self.stream, flush=True)
