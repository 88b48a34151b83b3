"""What an operator does with a VM's protection where nothing can come of it: who refuses, in which words.

Scenarios show the rest.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.lab.waiting import wait_until
from tests.node.local_pair import LocalPair, start, status_of

SPARE = ["--name", "c", "--logging", "127.0.0.1:9", "--heartbeat", "logging=127.0.0.1:9"]


def operate(config: Path, command: str, *options: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "ftvmm", command, "--config", str(config), *options]
    return subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)


def test_where_no_node_runs(tmp_path: Path) -> None:
    done = operate(LocalPair(tmp_path).primary, "protect", *SPARE)
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
    done = operate(LocalPair(tmp_path).primary, "protect", *options)
    assert done.returncode == 2
    assert said in done.stderr


@pytest.mark.parametrize(
    ("command", "options", "said"),
    [
        ("protect", SPARE, "this node is SPARE: only one that runs the VM alone takes a new backup"),
        ("test-failover", [], "this node is SPARE: only one that runs the VM with a backup can do that"),
        ("test-restart-backup", [], "this node is SPARE: only one that runs the VM with a backup can do that"),
        ("migrate", ["--to", "c"], "the node is SPARE: only a VM that is protected moves"),
    ],
)
def test_who_may_not_be_operated_refuses(tmp_path: Path, command: str, options: list[str], said: str) -> None:
    pair = LocalPair(tmp_path)
    with start(pair.spare) as spare:
        try:
            assert wait_until(lambda: status_of(pair.spare) is not None, timeout_seconds=20, interval_seconds=0.05)
            done = operate(pair.spare, command, *options)
        finally:
            spare.kill()
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["test-failover", "test-restart-backup"])
def test_what_is_no_configuration(tmp_path: Path, command: str) -> None:
    done = operate(tmp_path / "node.toml", command)
    assert done.returncode == 2
    assert "node.toml" in done.stderr
