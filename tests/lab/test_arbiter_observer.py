"""The arbiter's observer stamps each change after it happened, and before anybody could have been told of it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


class Observer:
    """The observer's process, and the lines that it has written."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        command = [sys.executable, "-m", "harness.lab.arbiter_observer", str(directory), "--events", "/dev/stdout"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.next() == {"event": "watching"}

    def next(self) -> dict[str, object]:
        """The next line, waited for."""
        assert self._process.stdout is not None
        line: dict[str, object] = json.loads(self._process.stdout.readline())
        return line

    def end(self) -> None:
        """End the process."""
        assert self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()


@pytest.fixture
def observer(tmp_path: Path) -> Iterator[Observer]:
    observer = Observer(tmp_path / "vm")
    yield observer
    observer.end()


def test_each_change_is_stamped_when_it_happens(observer: Observer) -> None:
    before_ns = time.time_ns()
    claim = observer.directory / "claim-1"
    claim.write_text("me")
    changes = [observer.next(), observer.next()]
    assert [(change["event"], change["name"]) for change in changes] == [("created", "claim-1"), ("changed", "claim-1")]
    (observer.directory / "generation-1").hardlink_to(claim)
    claim.unlink()
    changes += [observer.next(), observer.next()]
    assert [(change["event"], change["name"]) for change in changes[2:]] == [
        ("created", "generation-1"),
        ("deleted", "claim-1"),
    ]
    stamps = [int(str(change["seen_ns"])) for change in changes]
    assert before_ns <= stamps[0]
    assert stamps == sorted(stamps)
    assert stamps[-1] <= time.time_ns()
