"""`ftvmm manager` decides by what its node says, and by nothing that it could forget."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ftvmm import configuration
from ftvmm.manager import PATIENCE_SECONDS, Manager, Spare
from harness.lab.waiting import wait_until
from tests.node.local_pair import LocalPair, status_of

SPARES = [Spare(name, f"127.0.0.1:{port}", {"logging": f"127.0.0.1:{port}"}) for name, port in (("b", 1), ("c", 2))]
TABLE = '[[spare]]\nname = "c"\nlogging = "127.0.0.1:9"\nheartbeat = {{ {network} = "127.0.0.1:9" }}\n'


def status(role: str, stage: str | None = None) -> dict[str, Any]:
    return {"role": role, "joining": stage and {"stage": stage}}


@pytest.mark.parametrize("role", ["SPARE", "JOINING", "BACKUP", "CANDIDATE", "WON", "PROTECTED", "HALTED"])
def test_only_a_vm_that_runs_alone_gets_a_backup(role: str) -> None:
    assert Manager(SPARES).next_spare(status(role), 0) is None
    assert Manager(SPARES).next_spare(None, 0) is None
    assert Manager([]).next_spare(status("ALONE"), 0) is None


def test_a_spare_that_does_not_answer_is_passed_over_and_tried_again() -> None:
    manager = Manager(SPARES)
    asked = [manager.next_spare(status("ALONE"), 0)]
    for look in range(1, 40):
        asked.append(manager.next_spare(status("ALONE", "dialling"), look * PATIENCE_SECONDS / 10))
    assert [spare.name for spare in asked if spare] == ["b", "c", "b", "c"]


def test_a_state_that_is_on_its_way_is_waited_for() -> None:
    manager = Manager(SPARES)
    assert manager.next_spare(status("ALONE"), 0)
    for stage in ("copying", "stopped"):
        assert manager.next_spare(status("ALONE", stage), 1000) is None
    # It was given up, and the node dials again.
    assert manager.next_spare(status("ALONE", "dialling"), 1001) == SPARES[1]


def test_a_manager_that_is_started_again_asks_again() -> None:
    for stage in (None, "dialling", "greeting"):
        assert Manager(SPARES).next_spare(status("ALONE", stage), 7) == SPARES[0]
    assert Manager(SPARES).next_spare(status("ALONE", "copying"), 7) is None


def test_spares_are_part_of_the_nodes_configuration(tmp_path: Path) -> None:
    config = LocalPair(tmp_path).primary
    plain = config.read_text()
    config.write_text(plain + TABLE.format(network="logging"))
    [spare] = configuration.load(config).spares
    assert spare == Spare("c", "127.0.0.1:9", {"logging": "127.0.0.1:9"})
    for network, said in (("management", "heartbeat.logging: missing"), ("other = 1, logging", "unknown key")):
        config.write_text(plain + TABLE.format(network=network))
        with pytest.raises(configuration.ConfigurationError, match=said):
            configuration.load(config)


def start_manager(config: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ftvmm", "manager", "--config", str(config), *options]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def test_without_a_spare_it_says_so(tmp_path: Path) -> None:
    with start_manager(LocalPair(tmp_path).primary) as manager:
        _, said = manager.communicate(timeout=60)
    assert manager.returncode == 2
    assert "at least one [[spare]] is needed" in said


def node_of(config: Path) -> tuple[str, int] | None:
    """Incarnation and process of a spare that answers."""
    said = status_of(config)
    if said is None or said["role"] != "SPARE":
        return None
    started = [json.loads(line) for line in (config.parent / "trace.jsonl").read_text().splitlines()]
    [pid] = [
        one["pid"] for one in started if one["event"] == "node-started" and one["incarnation"] == said["incarnation"]
    ]
    return said["incarnation"], pid


def wait_for_another(config: Path, than: tuple[str, int] | None) -> tuple[str, int]:
    found: list[tuple[str, int]] = []

    def is_there() -> bool:
        found.extend(one for one in [node_of(config)] if one not in (None, than))  # type: ignore[misc]
        return bool(found)

    assert wait_until(is_there, timeout_seconds=30, interval_seconds=0.1)
    return found[0]


def test_a_node_that_was_killed_is_a_spare_again_and_does_not_end_with_its_manager(tmp_path: Path) -> None:
    config = LocalPair(tmp_path).primary
    config.write_text(config.read_text() + TABLE.format(network="logging"))
    node = None
    try:
        with start_manager(config, "--run-node") as manager:
            try:
                node = wait_for_another(config, None)
                os.kill(node[1], signal.SIGKILL)
                node = wait_for_another(config, node)
            finally:
                manager.send_signal(signal.SIGTERM)
            assert manager.wait(timeout=20) == 0
        with start_manager(config, "--run-node") as again:
            assert again.stderr is not None
            try:
                # What it says first is what it found.
                assert "is SPARE" in again.stderr.readline()
            finally:
                again.send_signal(signal.SIGTERM)
            assert "is started" not in again.stderr.read()
        assert node_of(config) == node
    finally:
        if node is not None:
            os.kill(node[1], signal.SIGTERM)
