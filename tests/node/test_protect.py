"""`ftvmm protect` where nothing can come of it: who refuses, in which words. Scenarios show the rest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.lab.waiting import wait_until
from tests.node.local_pair import LocalPair, start, status_of

SPARE = ["--name", "c", "--logging", "127.0.0.1:9", "--heartbeat", "logging=127.0.0.1:9"]


def protect(config: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ftvmm", "protect", "--config", str(config), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_where_no_node_runs(tmp_path: Path) -> None:
    done = protect(LocalPair(tmp_path).primary, *SPARE)
    assert done.returncode == 1
    assert "no node answers" in done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--name", "c", "--logging", "here", "--heartbeat", "logging=127.0.0.1:9"], "--logging: must be ADDRESS:PORT"),
        (["--name", "c", "--logging", "127.0.0.1:9", "--heartbeat", "127.0.0.1:9"], "must be NETWORK=ADDRESS:PORT"),
        (["--name", "c", "--logging", "127.0.0.1:9", "--heartbeat", "logging=host-c:9"], "with a numeric address"),
    ],
)
def test_what_is_no_address(tmp_path: Path, options: list[str], said: str) -> None:
    done = protect(LocalPair(tmp_path).primary, *options)
    assert done.returncode == 2
    assert said in done.stderr


def test_a_node_that_does_not_run_the_vm_alone_refuses(tmp_path: Path) -> None:
    pair = LocalPair(tmp_path)
    with start(pair.spare) as spare:
        try:
            assert wait_until(lambda: status_of(pair.spare) is not None, timeout_seconds=20, interval_seconds=0.05)
            done = protect(pair.spare, *SPARE)
        finally:
            spare.kill()
    assert done.returncode == 1
    assert "this node is SPARE: only one that runs the VM alone takes a new backup" in done.stderr
